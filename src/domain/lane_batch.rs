//! What of the waiting publishes goes out together. Knows no broker.

use std::collections::{HashSet, VecDeque};

/// Takes the next batch from the front of what waits: at most `batch_max` items, never two with the same key (the
/// message id). The order is kept: nothing behind an item that has to wait goes first.
///
/// Two equal ids must not be unanswered together, because a returned message is recognised by its id alone.
pub fn next_batch<T>(waiting: &mut VecDeque<T>, batch_max: usize, key: impl Fn(&T) -> &str) -> Vec<T> {
    let mut keys = HashSet::new();
    let fitting = waiting.iter().take(batch_max.max(1)).take_while(|item| keys.insert(key(item))).count();
    waiting.drain(..fitting).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_keep_the_order_and_hold_no_id_twice(ids in prop::collection::vec("[a-c]", 0..60), batch_max in 0_usize..10) {
            let mut waiting: VecDeque<String> = ids.clone().into();
            let mut sent = Vec::new();
            while !waiting.is_empty() {
                let batch = next_batch(&mut waiting, batch_max, |id| id);
                prop_assert!(!batch.is_empty() && batch.len() <= batch_max.max(1));
                let distinct: HashSet<&String> = batch.iter().collect();
                prop_assert_eq!(distinct.len(), batch.len());
                sent.extend(batch);
            }
            prop_assert_eq!(sent, ids);
        }
    }
}
