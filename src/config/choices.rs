//! Keys that exclude each other: the address in its forms, and each secret with its file.

use config::Value;

use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems};
use super::shape::LayerKind;
use super::tree;

/// Of each group at most one key may be in a layer, and the highest layer that has one decides.
const GROUPS: &[&[&str]] = &[
    &["bus.amqp.url", "bus.amqp.url_file", "bus.amqp.urls", "bus.amqp.host"],
    &["bus.amqp.username", "bus.amqp.username_file"],
    &["bus.amqp.password", "bus.amqp.password_file"],
    &["bus.amqp.management.url", "bus.amqp.management.url_file"],
    &["bus.amqp.management.password", "bus.amqp.management.password_file"],
    &["admin.token", "admin.token_file"],
];

/// Takes the keys out that a higher layer has replaced by another of their group. The layers come lowest first.
pub(super) fn settle(layers: &mut [(LayerKind, Value)], problems: &mut Problems) {
    for group in GROUPS {
        let group: Vec<KeyPath> = group.iter().map(|key| KeyPath::of(key)).collect();
        let mut is_decided = false;
        for (_, layer) in layers.iter_mut().rev() {
            let present: Vec<&KeyPath> = group.iter().filter(|key| tree::get(layer, key).is_some()).collect();
            if is_decided {
                for key in present {
                    tree::remove(layer, key.words());
                }
                continue;
            }
            is_decided = !present.is_empty();
            tell_clashes(layer, &present, problems);
        }
    }
}

fn tell_clashes(layer: &Value, present: &[&KeyPath], problems: &mut Problems) {
    let origin = |key: &KeyPath| tree::get(layer, key).map(tree::origin).unwrap_or_default();
    let Some((first, others)) = present.split_first() else { return };
    for other in others {
        let fault = Fault::new(format!("excludes {first} ({})", origin(first)));
        problems.push(Problem::new(*other, origin(other), fault.hint("keep one of the two")));
    }
}
