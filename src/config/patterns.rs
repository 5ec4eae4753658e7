//! Binding patterns that are taken by the broker and hardly mean what they say. Knows no source.

use super::problem::Warning;
use super::settings::Settings;
use super::values::Values;
use crate::domain::name::ExchangeName;
use crate::domain::topology::ExchangeKind;

/// The broker's own exchanges that take no patterns.
const WITHOUT_PATTERNS: [&str; 4] = ["amq.direct", "amq.fanout", "amq.headers", "amq.match"];

/// Warns about every binding of a topic exchange with a `#` or `*` that is only a part of its word. Not about those of
/// `unbind`: that list is where such a binding is taken away again.
pub(super) fn warn(settings: &Settings, values: &Values, warnings: &mut Vec<Warning>) {
    for subscription in &settings.subscriptions {
        let entry = values.section("queues").below(subscription.name.as_str());
        let patterns = subscription.bindings.iter().filter(|binding| takes_patterns(settings, &binding.exchange));
        for pattern in patterns.map(|binding| &binding.routing_key).filter(|pattern| has_broken_wildcard(pattern)) {
            let what =
                format!("{pattern:?}: # and * count only as whole words between dots, here they are plain letters");
            warnings.push(Warning::new(entry.path("bindings"), entry.origin("bindings"), what));
        }
    }
}

/// True for a topic exchange, and for one that the settings do not describe: most are.
fn takes_patterns(settings: &Settings, name: &ExchangeName) -> bool {
    let described = std::iter::once(&settings.exchange).chain(&settings.exchanges).find(|one| one.name == *name);
    described.map_or_else(|| !WITHOUT_PATTERNS.contains(&name.as_str()), |one| one.kind == ExchangeKind::Topic)
}

fn has_broken_wildcard(pattern: &str) -> bool {
    pattern.split('.').any(|word| word.len() > 1 && word.contains(['#', '*']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_counts_only_as_a_whole_word() {
        for (pattern, is_broken) in [
            ("b.##", true),
            ("c.*d", true),
            ("player#", true),
            ("a.**.b", true),
            ("#", false),
            ("*.#", false),
            ("a.*.b.#", false),
            ("a..b", false),
            ("", false),
        ] {
            assert_eq!(has_broken_wildcard(pattern), is_broken, "{pattern}");
        }
    }
}
