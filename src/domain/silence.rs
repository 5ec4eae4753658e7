//! Where messages went that the broker did not confirm for long. Knows no broker and no clock.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

/// How long a destination counts as silent, unless a message to it is stored.
const LASTS: Duration = Duration::from_hours(1);

/// Destinations that are known at once; of more the newest are not.
const KNOWN_MAX: usize = 1_024;

/// Where a message goes: an exchange, and a routing key without the words that have digits, which may be new with each
/// message. Two that stand for one would only share a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination(u64);

impl Destination {
    /// An exchange and a routing key.
    pub fn of(exchange: &str, routing_key: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        exchange.hash(&mut hasher);
        for word in routing_key.split('.') {
            let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
            // The names of queues are no such words.
            let known = if has_digit && !exchange.is_empty() { "" } else { word };
            known.hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// Silent destinations, each until some time.
#[derive(Debug, Default)]
pub struct Silence(HashMap<Destination, Instant>);

impl Silence {
    /// A message that went there was not confirmed for long.
    pub fn note(&mut self, destination: Destination, now: Instant) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() < KNOWN_MAX || self.0.contains_key(&destination) {
            self.0.insert(destination, now + LASTS);
        }
    }

    /// A message that went there was stored.
    pub fn forget(&mut self, destination: Destination) {
        self.0.remove(&destination);
    }

    /// True if none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True while that is silent.
    pub fn has(&self, destination: Destination, now: Instant) -> bool {
        self.0.get(&destination).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_destination_is_silent_for_an_hour_or_until_a_message_there_is_stored() {
        let (mut silence, now) = (Silence::default(), start());
        let (mute, other) = (Destination::of("events", "mute"), Destination::of("events", "other"));
        let after = |minutes| now + Duration::from_mins(minutes);
        silence.note(mute, now);
        assert!(silence.has(mute, after(59)) && !silence.has(other, now));
        assert!(!silence.has(Destination::of("", "mute"), now) && !silence.has(mute, after(60)));
        silence.note(mute, after(59));
        assert!(silence.has(mute, after(118)));
        silence.forget(mute);
        assert!(!silence.has(mute, after(100)) && silence.is_empty(), "it was heard of");
        silence.note(mute, after(100));
        silence.note(other, after(200));
        assert_eq!(silence.0.len(), 1, "nothing is kept for ever");
    }

    #[test]
    fn words_with_digits_make_no_difference_but_in_names_of_queues() {
        let of = Destination::of;
        assert_eq!(of("events", "order.17.placed"), of("events", "order.b2f.placed"));
        assert_ne!(of("events", "order.17.placed"), of("events", "order.17.paid"));
        assert_ne!(of("events", "order.17"), of("events", "order.17.paid"));
        assert_ne!(of("events", "order"), of("else", "order"));
        assert_ne!(of("", "queue-1"), of("", "queue-2"));
    }

    #[test]
    fn of_very_many_destinations_the_newest_are_not_known() {
        let (mut silence, now) = (Silence::default(), start());
        for key in 0..2 * KNOWN_MAX {
            silence.note(Destination::of("", &key.to_string()), now);
        }
        assert_eq!(silence.0.len(), KNOWN_MAX);
        let later = now + Duration::from_secs(1);
        silence.note(Destination::of("", "0"), later);
        assert!(silence.has(Destination::of("", "0"), now + LASTS), "those that are known go on");
    }
}
