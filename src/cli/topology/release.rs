//! What the broker's release makes of the wanted queues, for `apply` and `diff`. Knows no step.

use serde_json::{Value as Json, json};

use super::{Live, words};
use crate::domain::desired::Desired;
use crate::domain::queue_keys::{Finding, Weight};
use crate::domain::queue_rules::on_release;

/// Queue and finding, in the order of the queues; none where the broker does not tell its release.
pub(super) fn findings(live: &Live, desired: &Desired) -> Vec<(String, Finding)> {
    let Some(release) = live.session.capabilities().release() else { return Vec::new() };
    let queues = desired.objects().queues.into_iter();
    queues
        .flat_map(|queue| {
            let name = queue.name.to_string();
            on_release(&queue.as_settings(), release).into_iter().map(move |finding| (name.clone(), finding))
        })
        .collect()
}

/// For people, one a line: what is refused concerns a queue that would be made, and none that exists.
pub(super) fn lines(findings: &[(String, Finding)]) -> Vec<String> {
    let line = |(queue, finding): &(String, Finding)| {
        format!(
            "{}: queue {}: {}",
            word(finding.weight),
            words::printable(queue),
            words::printable(&finding.to_string())
        )
    };
    findings.iter().map(line).collect()
}

pub(super) fn json(findings: &[(String, Finding)]) -> Json {
    let one = |(queue, finding): &(String, Finding)| {
        let Finding { weight, place, what, hint } = finding;
        json!({"queue": queue, "weight": word(*weight), "key": place.to_string(), "what": what, "hint": hint})
    };
    findings.iter().map(one).collect()
}

fn word(weight: Weight) -> &'static str {
    match weight {
        Weight::Problem => "refused by this release",
        Weight::Warning => "warning",
    }
}
