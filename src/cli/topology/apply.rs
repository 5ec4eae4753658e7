//! `sidebus topology apply`: makes what is missing, step by step, and tells of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Ended, Live, LiveArgs, Output, connect, json, print, release, status_of, wanted, words};
use crate::broker::{Adopted, BrokerError};
use crate::cli::console::Console;
use crate::cli::exit::ExitStatus;
use crate::config::Command;
use crate::domain::desired::{Desired, Owner};
use crate::domain::topology::{Plan, Step, TopologyMode};

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// Made now.
    Created,
    /// There, and as wanted as far as could be seen.
    Found,
    /// There, and used as it is.
    Adopted(Adopted),
    /// The binding is there now.
    Bound,
    /// The binding is not there now.
    Unbound,
    /// Left to whoever consumes: an exclusive queue exists for one connection only.
    Left,
    /// Not tried, because of what it builds on.
    Skipped(String),
    /// Not done.
    Failed(BrokerError),
}

/// A step and its end.
struct Done<'a> {
    owner: &'a Owner,
    step: &'a Step,
    outcome: Outcome,
}

/// Makes what is missing.
pub(super) async fn run(args: &LiveArgs, console: &mut Console<'_>) -> Ended {
    let (settings, desired) = wanted(Command::Broker, &args.selection, console)?;
    let live = connect(&settings, console).await?;
    let done = apply(&live, &desired).await;
    let of_release = release::findings(&live, &desired);
    live.close().await;
    let text = match args.output {
        Output::Text => text(&done),
        Output::Json => json_text(&done, &live, &release::json(&of_release)),
    };
    print(&text, console)?;
    for line in release::lines(&of_release) {
        console.say(line);
    }
    console.say(format_args!("{}: {}", live.describe(), summary(&done)));
    for hint in hints(&done) {
        console.say(hint);
    }
    Ok(status(&desired, &done))
}

/// One step after the other. One that fails stops what builds on its object, and a lost session stops all.
async fn apply<'a>(live: &Live, desired: &'a Desired) -> Vec<Done<'a>> {
    let mut done: Vec<Done<'a>> = Vec::new();
    let mut failed = BTreeSet::new();
    let mut lost = None;
    for (owner, step) in desired.steps() {
        let outcome = match (&lost, obstacle(step, &failed)) {
            _ if is_exclusive(step) => Outcome::Left,
            (Some(reason), _) => Outcome::Skipped(format!("after: {reason}")),
            (None, Some(reason)) => Outcome::Skipped(reason),
            (None, None) => carry_out(live, step).await,
        };
        if let Outcome::Failed(error) = &outcome {
            if status_of(error) == ExitStatus::Unreachable {
                lost = Some(error.to_string());
            }
            failed.insert(object(step));
        }
        done.push(Done { owner, step, outcome });
    }
    done
}

/// The exchange or queue of a step, in the words of findings; a binding's queue and exchange come from elsewhere.
fn object(step: &Step) -> String {
    let (kind, name) = match step {
        Step::Exchange(exchange) => ("exchange", exchange.name.as_str()),
        Step::Queue(queue) => ("queue", queue.name.as_str()),
        Step::Bind { .. } | Step::Unbind { .. } => ("binding", ""),
    };
    format!("{kind} {name}")
}

fn is_exclusive(step: &Step) -> bool {
    match step {
        Step::Exchange(_) => false,
        Step::Queue(queue) => queue.exclusive,
        Step::Bind { exclusive, .. } | Step::Unbind { exclusive, .. } => *exclusive,
    }
}

/// What a step builds on and is not usable.
fn obstacle(step: &Step, failed: &BTreeSet<String>) -> Option<String> {
    match step {
        Step::Exchange(_) | Step::Queue(_) => None,
        Step::Bind { queue, binding, .. } | Step::Unbind { queue, binding, .. } => {
            let ends = [format!("queue {queue}"), format!("exchange {}", binding.exchange)];
            ends.into_iter().find(|end| failed.contains(end)).map(|end| format!("{end} is not usable"))
        }
    }
}

async fn carry_out(live: &Live, step: &Step) -> Outcome {
    let plan = Plan { mode: TopologyMode::Create, steps: vec![step.clone()] };
    let mut findings = match live.session.apply(Arc::new(plan)).await {
        Ok(findings) => findings,
        Err(error) => return Outcome::Failed(error),
    };
    match (step, findings.adopted.pop()) {
        (Step::Bind { .. }, _) => Outcome::Bound,
        (Step::Unbind { .. }, _) => Outcome::Unbound,
        (_, None) => Outcome::Created,
        (_, Some(adopted)) if adopted.lacks.is_empty() && adopted.unknown.is_none() => Outcome::Found,
        (_, Some(adopted)) => Outcome::Adopted(adopted),
    }
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Found => "found",
            Self::Adopted(_) => "adopted",
            Self::Bound => "bound",
            Self::Unbound => "unbound",
            Self::Left => "left",
            Self::Skipped(_) => "skipped",
            Self::Failed(error) if status_of(error) == ExitStatus::Mismatch => "mismatch",
            Self::Failed(error) if status_of(error) == ExitStatus::Refused => "refused",
            Self::Failed(_) => "failed",
        }
    }

    fn details(&self) -> String {
        match self {
            Self::Created | Self::Found | Self::Bound | Self::Unbound => String::new(),
            Self::Adopted(adopted) => {
                let unknown = adopted.unknown.as_deref().map(|why| format!("unknown: {}", words::printable(why)));
                let lacks = Some(words::listed(&adopted.lacks)).filter(|text| !text.is_empty());
                lacks.into_iter().chain(unknown).collect::<Vec<_>>().join("; ")
            }
            Self::Left => "exclusive: whoever consumes it makes it".to_owned(),
            Self::Skipped(reason) => words::printable(reason),
            Self::Failed(BrokerError::Mismatch { differences, .. }) if !differences.is_empty() => {
                words::listed(differences)
            }
            Self::Failed(error) => words::printable(&error.to_string()),
        }
    }
}

fn text(done: &[Done<'_>]) -> String {
    let row = |it: &Done<'_>| {
        let (kind, name) = words::subject(it.step);
        vec![it.outcome.word().to_owned(), kind.to_owned(), name, it.outcome.details()]
    };
    words::columns(&done.iter().map(row).collect::<Vec<_>>())
}

fn json_text(done: &[Done<'_>], live: &Live, release: &Json) -> String {
    let steps: Vec<Json> = done.iter().map(json_of).collect();
    let found = live.session.capabilities();
    let broker = json!({"product": found.product, "version": found.version, "endpoint": live.broker.endpoint()});
    format!("{:#}", json!({"broker": broker, "release": release, "steps": steps}))
}

fn json_of(it: &Done<'_>) -> Json {
    let mut entry = json::step(it.step);
    entry["part"] = json!(it.owner.to_string());
    entry["outcome"] = json!(it.outcome.word());
    match &it.outcome {
        Outcome::Created | Outcome::Found | Outcome::Bound | Outcome::Unbound | Outcome::Left => {}
        Outcome::Adopted(adopted) => {
            entry["lacks"] = json::differences(&adopted.lacks);
            entry["unknown"] = json!(adopted.unknown);
        }
        Outcome::Skipped(reason) => entry["reason"] = json!(reason),
        Outcome::Failed(error) => {
            if let BrokerError::Mismatch { differences, .. } = error {
                entry["differences"] = json::differences(differences);
            }
            entry["reason"] = json!(error.to_string());
            entry["hint"] = json!(error.hint());
        }
    }
    entry
}

/// How many of each, in the order of the words.
fn summary(done: &[Done<'_>]) -> String {
    let words = ["created", "found", "adopted", "bound", "unbound", "mismatch", "refused", "failed", "skipped", "left"];
    let count = |word: &str| done.iter().filter(|it| it.outcome.word() == word).count();
    let counted = words.into_iter().map(|word| (count(word), word)).filter(|(count, _)| *count > 0);
    counted.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

/// What to try, each once.
fn hints(done: &[Done<'_>]) -> BTreeSet<String> {
    let hint = |it: &Done<'_>| match &it.outcome {
        Outcome::Failed(error) => Some(format!("hint: {}", error.hint())),
        Outcome::Created
        | Outcome::Found
        | Outcome::Adopted(_)
        | Outcome::Bound
        | Outcome::Unbound
        | Outcome::Left
        | Outcome::Skipped(_) => None,
    };
    done.iter().filter_map(hint).collect()
}

/// Ok when no part failed, partial when some did, and the reason where all did.
fn status(desired: &Desired, done: &[Done<'_>]) -> ExitStatus {
    let stopped = |step: &Step| {
        let is_stopped = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Skipped(_));
        done.iter().any(|it| it.step == step && is_stopped(&it.outcome))
    };
    let is_whole = |steps: &[Step]| !steps.iter().any(stopped);
    let whole = desired.parts.iter().filter(|part| is_whole(&part.steps)).count();
    if whole == desired.parts.len() {
        return ExitStatus::Ok;
    }
    if whole > 0 {
        return ExitStatus::Partial;
    }
    let first = done.iter().find_map(|it| if let Outcome::Failed(error) = &it.outcome { Some(error) } else { None });
    first.map_or(ExitStatus::Failed, status_of)
}
