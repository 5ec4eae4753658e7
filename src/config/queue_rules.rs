//! What the domain finds in the keys of a queue, told with path and origin. Knows no rule itself but one: that
//! `x-dead-letter-exchange` is a key under the broker's name.

use super::problem::{Fault, Problems, Warning};
use super::values::Section;
use crate::domain::message::Headers;
use crate::domain::name::ExchangeName;
use crate::domain::queue_keys::{Finding, Place, Weight};

/// Tells what was found; keys are taken below `entry`.
pub(super) fn tell(entry: &Section<'_>, findings: Vec<Finding>, problems: &mut Problems, warnings: &mut Vec<Warning>) {
    for Finding { weight, place, what, hint } in findings {
        let (key, said) = match place {
            Place::Key(key) => (key, what),
            Place::Argument(name) => ("arguments", format!("{name}: {what}")),
        };
        match weight {
            Weight::Problem => {
                let fault = Fault { why: said, hint: (!hint.is_empty()).then_some(hint) };
                problems.push(entry.problem(key, fault));
            }
            Weight::Warning => warnings.push(Warning::new(entry.path(key), entry.origin(key), said)),
        }
    }
}

/// The dead-letter exchange of a queue: its key, or `x-dead-letter-exchange`, which is the same under the broker's name.
pub(super) fn dead_letter_exchange(
    entry: &Section<'_>,
    arguments: &Headers,
    problems: &mut Problems,
) -> Option<ExchangeName> {
    let typed: Option<ExchangeName> = entry.optional("dead_letter.exchange");
    let Some(argument) = arguments.get("x-dead-letter-exchange") else { return typed };
    if typed.is_some() {
        let fault = Fault::new("is also in arguments as x-dead-letter-exchange").hint("keep one of the two");
        problems.push(entry.problem("dead_letter.exchange", fault));
        return typed;
    }
    match argument.as_text().map(ExchangeName::parse) {
        Some(Ok(name)) => Some(name),
        Some(Err(error)) => {
            problems.push(entry.problem("arguments", Fault::new(format!("x-dead-letter-exchange {error}"))));
            None
        }
        None => {
            problems.push(entry.problem("arguments", Fault::new("x-dead-letter-exchange must be text")));
            None
        }
    }
}
