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
    &["bus.amqp.management.username", "bus.amqp.management.username_file"],
    &["bus.amqp.management.password", "bus.amqp.management.password_file"],
    &["admin.token", "admin.token_file"],
];

/// A key that a higher layer has replaced by another of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) key: KeyPath,
    pub(super) origin: String,
    /// The key that has won.
    pub(super) winner: KeyPath,
}

/// Takes the keys out that a higher layer has replaced by another of their group. The layers come lowest first.
pub(super) fn settle(layers: &mut [(LayerKind, Value)], problems: &mut Problems) -> Vec<Dropped> {
    let mut dropped = Vec::new();
    for group in GROUPS {
        let group: Vec<KeyPath> = group.iter().map(|key| KeyPath::of(key)).collect();
        let mut winner: Option<KeyPath> = None;
        for (_, layer) in layers.iter_mut().rev() {
            let present: Vec<&KeyPath> = group.iter().filter(|key| tree::get(layer, key).is_some()).collect();
            let Some(winner) = &winner else {
                winner = present.first().map(|key| (*key).clone());
                tell_clashes(layer, &present, problems);
                continue;
            };
            for key in present {
                let Some(value) = tree::remove(layer, key.words()) else { continue };
                if key != winner {
                    dropped.push(Dropped { key: key.clone(), origin: tree::origin(&value), winner: winner.clone() });
                }
            }
        }
    }
    dropped
}

fn tell_clashes(layer: &Value, present: &[&KeyPath], problems: &mut Problems) {
    let origin = |key: &KeyPath| tree::get(layer, key).map(tree::origin).unwrap_or_default();
    let Some((first, others)) = present.split_first() else { return };
    for other in others {
        let fault = Fault::new(format!("excludes {first} ({})", origin(first)));
        problems.push(Problem::new(*other, origin(other), fault.hint("keep one of the two")));
    }
}
