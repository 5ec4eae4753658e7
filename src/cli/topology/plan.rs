//! `sidebus topology plan`: the ordered steps, from the settings alone.

use serde_json::json;

use super::{Ended, Output, PlanArgs, json, print, wanted, words};
use crate::cli::console::Console;
use crate::cli::exit::ExitStatus;
use crate::config::Command;
use crate::domain::delay::Slot;
use crate::domain::desired::Desired;
use crate::domain::topology::TopologyMode;

/// Prints the plan.
pub(super) fn run(args: &PlanArgs, console: &mut Console<'_>) -> Ended {
    let (settings, desired) = wanted(Command::Show, &args.selection, console)?;
    let scene =
        Scene { mode: settings.topology, namespace: settings.namespace, delay_slots: args.selection.delay_slots };
    let text = match args.output {
        Output::Text => text(&desired, &scene),
        Output::Json => json_text(&desired, &scene),
    };
    print(&text, console)?;
    if args.output == Output::Text {
        console.say(legend(settings.topology));
    }
    Ok(ExitStatus::Ok)
}

/// What a plan depends on besides its steps.
struct Scene {
    mode: TopologyMode,
    namespace: String,
    delay_slots: bool,
}

fn legend(mode: TopologyMode) -> String {
    let mode = match mode {
        TopologyMode::Create => "looked for, and made when it is missing",
        TopologyMode::Verify => "looked for only: bus.amqp.topology = \"verify\"; `sidebus topology apply` makes it",
        TopologyMode::Off => "not even looked for: bus.amqp.topology = \"off\"; `sidebus topology apply` makes it",
    };
    format!(
        "each object is {mode}; * is named in the settings, so an existing object must have it, and all else is for what is made anew"
    )
}

fn text(desired: &Desired, scene: &Scene) -> String {
    let mut rows = Vec::new();
    let mut last = None;
    for (number, (owner, step)) in (1..).zip(desired.steps()) {
        if last != Some(owner) {
            rows.push(Row::Title(owner.to_string()));
            last = Some(owner);
        }
        let (kind, name) = words::subject(step);
        rows.push(Row::Cells(vec![format!("{number:>4}"), kind.to_owned(), name, words::details(step)]));
    }
    if let Some(slots) = slots_on_need(scene) {
        rows.push(Row::Title(slots));
    }
    laid_out(&rows)
}

enum Row {
    Title(String),
    Cells(Vec<String>),
}

/// Columns are as wide as they must be over the whole plan.
fn laid_out(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().filter_map(|row| if let Row::Cells(cells) = row { Some(cells.clone()) } else { None }).collect();
    let columns = words::columns(&cells);
    let mut lines = columns.lines();
    let mut text = String::new();
    for row in rows {
        let line = match row {
            Row::Title(title) => title.as_str(),
            Row::Cells(_) => lines.next().unwrap_or_default(),
        };
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn slots_on_need(scene: &Scene) -> Option<String> {
    let (first, last) = (Slot::all().next()?, Slot::longest());
    let (first, last) = (first.exchange(&scene.namespace), last.exchange(&scene.namespace));
    (!scene.delay_slots).then(|| {
        format!(
            "on first need\n      delay slots {} to {}: an exchange and a queue each, at most {} of them",
            words::printable(first.as_str()),
            words::printable(last.as_str()),
            Slot::all().count()
        )
    })
}

fn json_text(desired: &Desired, scene: &Scene) -> String {
    let step = |(owner, step): (&_, &_)| {
        let mut entry = json::step(step);
        entry["part"] = json!(format!("{owner}"));
        entry
    };
    let steps: Vec<_> = desired.steps().into_iter().map(step).collect();
    let slots: Vec<String> = if scene.delay_slots {
        Vec::new()
    } else {
        Slot::all().map(|slot| slot.exchange(&scene.namespace).to_string()).collect()
    };
    let plan = json!({"mode": scene.mode.as_str(), "steps": steps, "on_first_need": slots});
    format!("{plan:#}")
}
