//! What was settled for good and could not be told to the broker any more: when it comes again, nobody need handle it twice.
//! Knows no broker and no clock.
//!
//! A redelivery is recognised only where everything matches: message id, attempt, and a hash over body, exchange and routing
//! key. Two messages with one id are told apart by the rest; a message without an id is never recognised.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::ledger::DeliveryId;
use super::message::Message;

/// Entries that are remembered of each kind; beyond it the oldest goes.
const ENTRIES_MAX: usize = 10_000;
/// How long one is remembered: as long as RabbitMQ lets a delivery be unsettled.
const REMEMBERED: Duration = Duration::from_mins(30);

/// What a message is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Print {
    message_id: String,
    attempt: u32,
    hash: u64,
}

impl Print {
    /// Of a message as its first attempt showed it, and of the attempt that it is; `None` without a message id.
    pub fn of(message: &Message, attempt: u32) -> Option<Self> {
        let print = Self::loose(message, attempt);
        (!print.message_id.is_empty()).then_some(print)
    }

    /// As `of`, also without a message id: two that look alike in everything are taken for each other.
    pub fn loose(message: &Message, attempt: u32) -> Self {
        let message_id = message.properties.message_id.clone().unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        (&message.body[..], message.exchange.as_str(), message.routing_key.as_str()).hash(&mut hasher);
        Self { message_id, attempt, hash: hasher.finish() }
    }
}

/// Prints of messages that are to be recognised, each as often as it was added; the oldest go first.
#[derive(Debug, Default)]
pub struct Prints {
    counts: HashMap<Print, u32>,
    order: VecDeque<(Instant, Print)>,
}

impl Prints {
    /// Adds one.
    pub fn add(&mut self, now: Instant, print: Print) {
        self.forget_old(now);
        *self.counts.entry(print.clone()).or_default() += 1;
        self.order.push_back((now, print));
    }

    /// True while nothing can be recognised, which is nearly always.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often this was added.
    pub fn count(&mut self, now: Instant, print: &Print) -> u32 {
        self.forget_old(now);
        self.counts.get(print).copied().unwrap_or_default()
    }

    /// True once for each time that this was added.
    pub fn take(&mut self, now: Instant, print: &Print) -> bool {
        self.forget_old(now);
        self.remove(print)
    }

    fn remove(&mut self, print: &Print) -> bool {
        let Some(count) = self.counts.get_mut(print) else { return false };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(print);
        }
        true
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front() {
            if self.order.len() < ENTRIES_MAX && !is_old(now, *at) {
                break;
            }
            // One that was recognised meanwhile has gone already; an equal one may go a little early.
            if let Some((_, print)) = self.order.pop_front() {
                self.remove(&print);
            }
        }
    }
}

fn is_old(now: Instant, at: Instant) -> bool {
    now.saturating_duration_since(at) >= REMEMBERED
}

/// See the module.
#[derive(Debug, Default)]
pub struct LateAcks {
    /// At handlers when their session was lost: a verdict may still come.
    lost: HashMap<DeliveryId, Print>,
    lost_order: VecDeque<(Instant, DeliveryId)>,
    /// Done, and how often: equal messages are each done for themselves.
    done: Prints,
}

impl LateAcks {
    /// A delivery is still at its handler, and its receipt is worth nothing any more.
    pub fn lost(&mut self, now: Instant, id: DeliveryId, print: Print) {
        self.forget_old(now);
        self.lost.insert(id, print);
        self.lost_order.push_back((now, id));
    }

    /// The handler has acked what it held then; false = nothing is known of it.
    pub fn acked(&mut self, now: Instant, id: DeliveryId) -> bool {
        let Some(print) = self.lost.remove(&id) else { return false };
        self.done(now, print);
        true
    }

    /// This is done, and the broker has not heard of it.
    pub fn done(&mut self, now: Instant, print: Print) {
        self.done.add(now, print);
    }

    /// False while no redelivery can be recognised, which is nearly always.
    pub fn knows_any(&self) -> bool {
        !self.done.is_empty()
    }

    /// True once for each time that this was done: the redelivery is to be acked.
    pub fn recognises(&mut self, now: Instant, print: &Print) -> bool {
        self.done.take(now, print)
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, id)) = self.lost_order.front().copied() {
            if self.lost_order.len() < ENTRIES_MAX && !is_old(now, at) {
                break;
            }
            self.lost_order.pop_front();
            self.lost.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Properties;
    use crate::domain::name::ExchangeName;

    fn message(id: &str, body: &str) -> Message {
        Message {
            exchange: ExchangeName::parse("events").unwrap(),
            routing_key: "a.b".to_owned(),
            properties: Properties { message_id: Some(id.to_owned()), ..Properties::default() },
            body: body.to_owned().into(),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn begin() -> Instant {
        Instant::now()
    }

    fn print(id: &str, body: &str, attempt: u32) -> Print {
        Print::of(&message(id, body), attempt).unwrap()
    }

    #[test]
    fn a_redelivery_is_recognised_only_where_everything_matches() {
        let now = begin();
        let mut memory = LateAcks::default();
        memory.done(now, print("1", "a", 0));
        assert!(memory.knows_any());
        for other in [print("2", "a", 0), print("1", "b", 0), print("1", "a", 1)] {
            assert!(!memory.recognises(now, &other), "{other:?}");
        }
        let keyed = Message { routing_key: "a.c".to_owned(), ..message("1", "a") };
        let elsewhere = Message { exchange: ExchangeName::parse("others").unwrap(), ..message("1", "a") };
        for other in [keyed, elsewhere] {
            assert!(!memory.recognises(now, &Print::of(&other, 0).unwrap()), "{other:?}");
        }
        assert!(memory.recognises(now, &print("1", "a", 0)));
        assert!(!memory.recognises(now, &print("1", "a", 0)), "once for each time that it was done");
        assert!(!memory.knows_any());
        for nameless in [None, Some(String::new())] {
            let properties = Properties { message_id: nameless, ..Properties::default() };
            assert_eq!(Print::of(&Message { properties, ..message("1", "a") }, 0), None);
        }
    }

    #[test]
    fn a_late_ack_counts_for_what_was_lost_and_for_nothing_else() {
        let now = begin();
        let mut memory = LateAcks::default();
        memory.lost(now, DeliveryId(1), print("1", "a", 0));
        memory.lost(now, DeliveryId(2), print("1", "a", 0));
        assert!(!memory.recognises(now, &print("1", "a", 0)), "nobody has acked it");
        assert!(!memory.acked(now, DeliveryId(3)));
        assert!(memory.acked(now, DeliveryId(1)));
        assert!(!memory.acked(now, DeliveryId(1)), "once");
        assert!(memory.recognises(now, &print("1", "a", 0)));
        assert!(!memory.recognises(now, &print("1", "a", 0)), "the other one is still at its handler");
    }

    #[test]
    fn memory_has_an_end_in_time_and_in_number() {
        let begun = begin();
        let mut memory = LateAcks::default();
        memory.done(begun, print("1", "a", 0));
        memory.lost(begun, DeliveryId(1), print("2", "a", 0));
        let later = begun + REMEMBERED;
        assert!(!memory.recognises(later, &print("1", "a", 0)));
        memory.lost(later, DeliveryId(2), print("3", "a", 0));
        assert!(!memory.acked(later, DeliveryId(1)));
        for number in 0..ENTRIES_MAX + 5 {
            memory.done(later, print(&number.to_string(), "a", 0));
            memory.lost(later, DeliveryId(i64::try_from(number).unwrap() + 10), print("x", "a", 0));
        }
        assert!(memory.done.counts.len() <= ENTRIES_MAX && memory.done.order.len() <= ENTRIES_MAX);
        assert!(memory.lost.len() <= ENTRIES_MAX && memory.lost_order.len() <= ENTRIES_MAX);
        assert!(!memory.recognises(later, &print("0", "a", 0)), "the oldest goes first");
        assert!(memory.recognises(later, &print("100", "a", 0)));
    }
}
