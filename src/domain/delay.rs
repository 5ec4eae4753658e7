//! The delay slots that all queues of a virtual host share: a delay → a slot. Knows no policy and no clock.

use std::time::Duration;

use super::message::{Headers, Value};
use super::name::{ExchangeName, QueueName};
use super::subscription::Binding;
use super::topology::{Exchange, ExchangeKind, Named, Plan, Queue, Step, TopologyMode};

/// Arguments of a slot's queue that must be ours, or not be there.
const DECISIVE: [&str; 6] = [
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
];

/// Slots of the ladder: 0.1 s to 29.1 h, four to each doubling, so a delay is rounded up by at most 19 %.
const SLOTS: u32 = 81;
/// Life time of the shortest slot in milliseconds.
const SHORTEST_MS: f64 = 100.0;

/// One slot: a fanout exchange and the queue bound to it, whose messages go home when their time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    ttl_ms: u64,
}

impl Slot {
    /// The shortest slot that is not shorter than the delay; `None` beyond the longest one (29.1 hours).
    pub fn at_least(delay: Duration) -> Option<Self> {
        // Rounded up to whole milliseconds: a delay of 100.4 ms must not be served by a slot of 100.
        let wanted_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).ok()?;
        Self::all().find(|slot| slot.ttl_ms >= wanted_ms)
    }

    /// The longest slot that is not longer than the delay; the shortest one for less than that.
    pub fn at_most(delay: Duration) -> Self {
        Self::all().take_while(|slot| slot.ttl() <= delay).last().unwrap_or_else(Self::shortest)
    }

    /// Every slot, the shortest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self::number)
    }

    /// One of the two slots around a delay, the nearer one the likelier: with `pick` drawn evenly from 0..1 the mean is
    /// the delay. Beyond an end of the ladder it is that end.
    pub fn around(delay: Duration, pick: f64) -> Self {
        let Some(above) = (0..SLOTS).find(|k| Self::number(*k).ttl() >= delay) else { return Self::longest() };
        let Some(below) = above.checked_sub(1).map(Self::number) else { return Self::number(above) };
        let above = Self::number(above);
        let span = above.ttl().saturating_sub(below.ttl()).as_secs_f64();
        let share = delay.saturating_sub(below.ttl()).as_secs_f64() / span;
        if pick < share { above } else { below }
    }

    /// The shortest slot there is.
    pub fn shortest() -> Self {
        Self::number(0)
    }

    /// The longest slot there is.
    pub fn longest() -> Self {
        Self::number(SLOTS - 1)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the ladder ends at 104,857,600 ms")]
    fn number(k: u32) -> Self {
        Self { ttl_ms: (SHORTEST_MS * (f64::from(k) / 4.0).exp2()).round() as u64 }
    }

    /// How long a message waits in it.
    pub fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// Name of its exchange and of its queue: the same word for both.
    pub fn exchange(self, namespace: &str) -> ExchangeName {
        ExchangeName::from_broker(&self.name(namespace))
    }

    fn name(self, namespace: &str) -> String {
        format!("{namespace}.delay.{:09}", self.ttl_ms)
    }

    /// The steps that make the slot; repeated for nothing when it is there.
    ///
    /// Quorum with at-least-once: a classic slot loses everything when the way home is full or missing (measured). No
    /// `x-expires`: it deletes a queue with its messages. No dead-letter routing key: the key that a copy carries is
    /// the name of the queue it came from, and brings it home through the nameless exchange.
    ///
    /// # Errors
    /// The namespace is too long for a queue's name.
    pub fn plan(self, namespace: &str) -> Result<Plan, super::name::NameError> {
        let exchange = self.exchange(namespace);
        let queue = QueueName::parse(exchange.as_str())?;
        let arguments = Headers::from([
            ("x-queue-type".to_owned(), Value::text("quorum")),
            ("x-message-ttl".to_owned(), Value::Int64(i64::try_from(self.ttl_ms).unwrap_or(i64::MAX))),
            ("x-dead-letter-exchange".to_owned(), Value::text("")),
            ("x-dead-letter-strategy".to_owned(), Value::text("at-least-once")),
            ("x-overflow".to_owned(), Value::text("reject-publish")),
        ]);
        Ok(Plan {
            mode: TopologyMode::Create,
            steps: vec![
                Step::Exchange(Exchange::durable(exchange.clone(), ExchangeKind::Fanout)),
                Step::Queue(Queue {
                    name: queue.clone(),
                    durable: true,
                    auto_delete: false,
                    exclusive: false,
                    arguments,
                    // One that waits for another time, does not send home, or drops, is no slot: what it holds would be lost.
                    named: Named::from(DECISIVE.map(str::to_owned)),
                }),
                Step::Bind {
                    queue,
                    exclusive: false,
                    binding: Binding { exchange, routing_key: String::new(), arguments: Headers::new() },
                },
            ],
        })
    }
}

/// One wait: in this slot, and again where that is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Where the copy waits now.
    pub slot: Slot,
    /// The message is handed to nobody before this, in milliseconds since 1970; `None` = the slot is enough.
    pub not_before_ms: Option<u64>,
}

impl Wait {
    /// In one slot.
    pub fn once(slot: Slot) -> Self {
        Self { slot, not_before_ms: None }
    }

    /// Never shorter than this: what is longer than the longest slot takes several, one after the other.
    pub fn at_least(delay: Duration, now_ms: u64) -> Self {
        if let Some(slot) = Slot::at_least(delay) {
            return Self::once(slot);
        }
        let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self { slot: Slot::at_most(delay), not_before_ms: Some(now_ms.saturating_add(delay_ms)) }
    }

    /// The next wait of a message that came home before its time; `None` = the time has come.
    pub fn rest(not_before_ms: u64, now_ms: u64) -> Option<Self> {
        let rest = not_before_ms.checked_sub(now_ms).filter(|rest| *rest > 0)?;
        let slot = Slot::at_least(Duration::from_millis(rest)).unwrap_or_else(Slot::longest);
        // Kept also for the last wait: the clocks of the broker and of this machine need not agree.
        Some(Self { slot, not_before_ms: Some(not_before_ms) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_waits_in_the_slot_of_1131_ms() {
        let slot = Slot::at_least(Duration::from_secs(1)).unwrap();
        assert_eq!(slot.ttl(), Duration::from_millis(1_131));
        assert_eq!(slot.exchange("sidebus").as_str(), "sidebus.delay.000001131");
    }

    #[test]
    fn nothing_is_shorter_than_the_shortest_slot_and_nothing_longer_than_the_longest() {
        assert_eq!(Slot::at_least(Duration::ZERO).unwrap().ttl(), Duration::from_millis(100));
        assert_eq!(Slot::at_least(Slot::longest().ttl()), Some(Slot::longest()));
        assert_eq!(Slot::at_least(Slot::longest().ttl() + Duration::from_nanos(1)), None);
    }

    #[test]
    fn a_month_is_waited_for_in_many_slots_and_never_cut_short() {
        let month = Duration::from_hours(30 * 24);
        let (mut now_ms, mut hops) = (1_000, 1);
        let first = Wait::at_least(month, now_ms);
        assert_eq!(first.slot, Slot::longest());
        let not_before_ms = first.not_before_ms.unwrap();
        now_ms += u64::try_from(first.slot.ttl().as_millis()).unwrap();
        while let Some(wait) = Wait::rest(not_before_ms, now_ms) {
            now_ms += u64::try_from(wait.slot.ttl().as_millis()).unwrap();
            hops += 1;
        }
        let waited = Duration::from_millis(now_ms - 1_000);
        assert!(waited >= month && waited < month + Duration::from_hours(6), "{waited:?}");
        assert!(hops <= 26, "{hops} hops");
        assert_eq!(Wait::rest(5, 5), None);
    }

    proptest! {
        #[test]
        fn a_delay_is_never_early_and_at_most_a_fifth_late(ms in 100_u64..104_857_600, ns in 0_u32..1_000_000) {
            let delay = Duration::from_millis(ms) + Duration::from_nanos(u64::from(ns));
            if let Some(slot) = Slot::at_least(delay) {
                prop_assert!(slot.ttl() >= delay);
                prop_assert!(slot.ttl().as_secs_f64() <= delay.as_secs_f64() * 1.2 + 0.001);
            }
        }
    }
}
