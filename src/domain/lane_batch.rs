//! What of the waiting publishes goes out together, and what has to wait for an answer first. Knows no broker.
//!
//! A returned message is recognised by its id alone, so two equal ids must not be unanswered at the same time.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The batches of one lane that are not answered yet, oldest first.
#[derive(Debug, Default)]
pub struct Unanswered {
    batches: VecDeque<Vec<Key>>,
    keys: HashSet<Key>,
}

/// Stands for a message id. Two ids with one key would only wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

fn key(id: &str) -> Key {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    Key(hasher.finish())
}

impl Unanswered {
    /// Takes the next batch from the front of what waits: at most `batch_max` items (at least 1), none with the id of
    /// another that is unanswered. The order is kept: nothing behind an item that has to wait goes first. Empty when
    /// nothing may go now.
    pub fn take<T>(&mut self, waiting: &mut VecDeque<T>, batch_max: usize, id: impl Fn(&T) -> &str) -> Vec<T> {
        let mut keys = Vec::new();
        for item in waiting.iter().take(batch_max.max(1)) {
            let key = key(id(item));
            if !self.keys.insert(key) {
                break;
            }
            keys.push(key);
        }
        let batch = waiting.drain(..keys.len()).collect();
        if !keys.is_empty() {
            self.batches.push_back(keys);
        }
        batch
    }

    /// True if an item with this id would have to wait.
    pub fn has(&self, id: &str) -> bool {
        self.keys.contains(&key(id))
    }

    /// The oldest batch has its answers, but for the items in these places: their ids stay out until each is
    /// [over](Self::over).
    pub fn answered(&mut self, is_left: impl Fn(usize) -> bool) -> Vec<Key> {
        let mut left = Vec::new();
        for (place, key) in self.batches.pop_front().unwrap_or_default().into_iter().enumerate() {
            if is_left(place) {
                left.push(key);
            } else {
                self.keys.remove(&key);
            }
        }
        left
    }

    /// An item that was left out has its answer.
    pub fn over(&mut self, left: Key) {
        self.keys.remove(&left);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list of what is out: nothing is lost, the order is kept, and no id is out twice.
        #[test]
        fn no_id_is_unanswered_twice_and_the_order_is_kept(
            ids in prop::collection::vec("[a-e]", 0..80),
            batch_max in 0_usize..10,
            answers in prop::collection::vec(any::<(bool, bool)>(), 0..400),
        ) {
            let mut waiting: VecDeque<String> = ids.clone().into();
            let (mut unanswered, mut out, mut sent) = (Unanswered::default(), VecDeque::new(), Vec::new());
            let (mut answers, mut left) = (answers.into_iter(), VecDeque::new());
            while !waiting.is_empty() {
                let batch = unanswered.take(&mut waiting, batch_max, |id| id);
                prop_assert!(batch.len() <= batch_max.max(1));
                prop_assert!(!batch.is_empty() || !out.is_empty() || !left.is_empty(), "with nothing out, something goes");
                let must_answer = batch.is_empty();
                if !batch.is_empty() {
                    sent.extend(batch.iter().cloned());
                    out.push_back(batch);
                }
                let ids_out: Vec<&String> = out.iter().flatten().chain(left.iter().map(|(id, _)| id)).collect();
                prop_assert_eq!(ids_out.iter().collect::<HashSet<_>>().len(), ids_out.len());
                prop_assert_eq!(unanswered.batches.len(), out.len());
                let (is_answered, is_left) = answers.next().unwrap_or((true, false));
                if (must_answer || is_answered) && let Some(batch) = out.pop_front() {
                    // Every other one.
                    let keys = unanswered.answered(|place| is_left && place % 2 == 0);
                    left.extend(batch.into_iter().step_by(2).zip(keys));
                } else if must_answer && let Some((_, key)) = left.pop_front() {
                    unanswered.over(key);
                }
            }
            prop_assert_eq!(sent, ids);
        }
    }
}
