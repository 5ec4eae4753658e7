//! `sidebus topology diff`: the settings beside the broker, which is not touched.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Ended, LiveArgs, Output, connect, failed, json, print, release, wanted, words};
use crate::cli::console::Console;
use crate::cli::exit::ExitStatus;
use crate::config::{Backend, Command, Settings};
use crate::domain::desired::Desired;
use crate::domain::difference::{self, Examined, ObjectState};
use crate::domain::topology::{Plan, Step, TopologyMode};

/// Compares.
pub(super) async fn run(args: &LiveArgs, console: &mut Console<'_>) -> Ended {
    let (settings, desired) = wanted(Command::Broker, &args.selection, console)?;
    let live = connect(&settings, console).await?;
    let plan = Arc::new(plan(&desired));
    let examined = live.session.examine(Arc::clone(&plan)).await;
    let (broker, of_release) = (live.describe(), release::findings(&live, &desired));
    live.close().await;
    let examined = examined.map_err(|error| failed(&error, console))?;
    let text = match args.output {
        Output::Text => text(&examined),
        Output::Json => json_text(&examined, &broker, &release::json(&of_release)),
    };
    print(&text, console)?;
    for line in release::lines(&of_release) {
        console.say(line);
    }
    console.say(format_args!("{broker}: {}", summary(&examined)));
    for hint in hints(&examined, &settings) {
        console.say(format_args!("hint: {hint}"));
    }
    Ok(if differs(&plan, &examined) {
        ExitStatus::Mismatch
    } else if has_management(&settings) && examined.iter().any(|it| matches!(it.state, ObjectState::Unknown(_))) {
        // Whoever has configured it counts on it: a pipeline must not pass where nothing was compared.
        ExitStatus::Partial
    } else {
        ExitStatus::Ok
    })
}

fn has_management(settings: &Settings) -> bool {
    matches!(&settings.backend, Backend::Amqp(amqp) if amqp.management.is_some())
}

/// Whether something is not as wanted. A binding that nobody asked for is no difference, since others may bind a shared
/// queue; one of an `unbind` list is.
fn differs(plan: &Plan, examined: &[Examined]) -> bool {
    let is_left_over =
        |(step, it): (&Step, &Examined)| matches!(step, Step::Unbind { .. }) && it.state == ObjectState::Extra;
    examined.iter().any(|it| matches!(it.state, ObjectState::Missing | ObjectState::Different(_)))
        || plan.steps.iter().zip(examined).any(is_left_over)
}

/// Everything that lasts: an exclusive queue exists for the connection of its sidecar alone, and nobody else sees it.
fn plan(desired: &Desired) -> Plan {
    let lasts = |step: &&Step| match step {
        Step::Exchange(_) => true,
        Step::Queue(queue) => !queue.exclusive,
        Step::Bind { exclusive, .. } | Step::Unbind { exclusive, .. } => !exclusive,
    };
    let steps = desired.steps().into_iter().map(|(_, step)| step).filter(lasts).cloned().collect();
    Plan { mode: TopologyMode::Verify, steps }
}

fn word(state: &ObjectState) -> &'static str {
    match state {
        ObjectState::Same => "same",
        ObjectState::Missing => "missing",
        ObjectState::Different(_) => "different",
        ObjectState::Adopted(_) => "adopted",
        ObjectState::Unknown(_) => "unknown",
        ObjectState::Extra => "extra",
    }
}

fn text(examined: &[Examined]) -> String {
    let details = |state: &ObjectState| match state {
        ObjectState::Same | ObjectState::Missing | ObjectState::Extra => String::new(),
        ObjectState::Different(differences) | ObjectState::Adopted(differences) => words::listed(differences),
        ObjectState::Unknown(reason) => words::printable(reason),
    };
    let row = |it: &Examined| {
        let (kind, name) = (it.kind.as_str().to_owned(), words::printable(&it.name));
        vec![word(&it.state).to_owned(), kind, name, details(&it.state)]
    };
    words::columns(&examined.iter().map(row).collect::<Vec<_>>())
}

fn json_text(examined: &[Examined], broker: &str, release: &Json) -> String {
    let object = |it: &Examined| {
        let mut entry = json!({"kind": it.kind.as_str(), "name": it.name, "state": word(&it.state)});
        match &it.state {
            ObjectState::Same | ObjectState::Missing | ObjectState::Extra => {}
            ObjectState::Different(differences) | ObjectState::Adopted(differences) => {
                entry["differences"] = json::differences(differences);
            }
            ObjectState::Unknown(reason) => entry["reason"] = json!(reason),
        }
        entry
    };
    let objects: Vec<Json> = examined.iter().map(object).collect();
    format!("{:#}", json!({"broker": broker, "release": release, "objects": objects}))
}

fn summary(examined: &[Examined]) -> String {
    let words = ["same", "adopted", "different", "missing", "extra", "unknown"];
    let count = |word_: &str| examined.iter().filter(|it| word(&it.state) == word_).count();
    let counted = words.into_iter().map(|word| (count(word), word)).filter(|(count, _)| *count > 0);
    counted.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

/// What would make more known, or mend what differs.
fn hints(examined: &[Examined], settings: &Settings) -> BTreeSet<&'static str> {
    let of_difference = |it: &Examined| match &it.state {
        ObjectState::Different(differences) => Some(difference::hint(it.kind, differences)),
        ObjectState::Same
        | ObjectState::Missing
        | ObjectState::Adopted(_)
        | ObjectState::Unknown(_)
        | ObjectState::Extra => None,
    };
    let hints: BTreeSet<&str> = examined.iter().filter_map(of_difference).collect();
    if !hints.is_empty() {
        return hints;
    }
    let has = |wanted: &str| examined.iter().any(|it| word(&it.state) == wanted);
    let hint = if has("missing") {
        Some("`sidebus topology apply` makes what is missing")
    } else if has("unknown") && has_management(settings) {
        Some("what is unknown was not compared: see that the management API answers, with these rights")
    } else if has("unknown") {
        Some("arguments, bindings and policies can be seen with bus.amqp.management.url")
    } else {
        None
    };
    hint.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::difference::ObjectKind;
    use crate::domain::message::Headers;
    use crate::domain::name::{ExchangeName, QueueName};
    use crate::domain::subscription::Binding;

    #[test]
    fn only_a_listed_binding_is_a_difference_when_it_is_there() {
        let queue = QueueName::parse("q").unwrap();
        let exchange = ExchangeName::parse("x").unwrap();
        let binding = Binding { exchange, routing_key: "a".to_owned(), arguments: Headers::new() };
        let unbind = Step::Unbind { queue, exclusive: false, binding };
        let plan = |steps| Plan { mode: TopologyMode::Verify, steps };
        let extra = Examined { kind: ObjectKind::Binding, name: "x -> q a".to_owned(), state: ObjectState::Extra };
        assert!(differs(&plan(vec![unbind]), std::slice::from_ref(&extra)));
        assert!(!differs(&plan(Vec::new()), &[extra]));
    }
}
