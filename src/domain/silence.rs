//! Where messages went that the broker did not confirm for long. Knows no broker and no clock.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

/// How long a destination counts as silent, unless a message to it is stored.
const LASTS: Duration = Duration::from_hours(1);

/// Destinations that are known at once; of more the newest are not.
const KNOWN_MAX: usize = 1_024;

/// A message with another key of the place is evidence of sound only after this long without one of silence.
const QUIET: Duration = Duration::from_secs(30);

/// Where a message goes: an exchange and a routing key. Keys that differ only in words with digits are one place: those may
/// be new with each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    place: u64,
    key: u64,
}

impl Destination {
    /// An exchange and a routing key.
    pub fn of(exchange: &str, routing_key: &str) -> Self {
        let (mut place, mut key) = (DefaultHasher::new(), DefaultHasher::new());
        exchange.hash(&mut place);
        routing_key.hash(&mut key);
        for word in routing_key.split('.') {
            let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
            // The names of queues are no such words.
            let known = if has_digit && !exchange.is_empty() { "" } else { word };
            known.hash(&mut place);
        }
        Self { place: place.finish(), key: key.finish() }
    }
}

/// Places that are silent.
#[derive(Debug, Default)]
pub struct Silence(HashMap<u64, Noted>);

/// When a place was silent last, and under which key.
#[derive(Debug)]
struct Noted {
    at: Instant,
    key: u64,
}

impl Silence {
    /// A message that went there was not confirmed for long.
    pub fn note(&mut self, Destination { place, key }: Destination, now: Instant) {
        self.expire(now);
        if self.0.len() < KNOWN_MAX || self.0.contains_key(&place) {
            self.0.insert(place, Noted { at: now, key });
        }
    }

    /// A message that went there was stored.
    pub fn forget(&mut self, Destination { place, key }: Destination, now: Instant) {
        // Of two queues behind one place one may be well.
        let is_over = |noted: &Noted| noted.key == key || now >= noted.at + QUIET;
        if self.0.get(&place).is_some_and(is_over) {
            self.0.remove(&place);
        }
    }

    /// True while that is silent.
    pub fn has(&self, destination: Destination, now: Instant) -> bool {
        self.0.get(&destination.place).is_some_and(|noted| now < noted.at + LASTS)
    }

    /// Forgets what was long ago; true if nothing is left.
    pub fn expire(&mut self, now: Instant) -> bool {
        self.0.retain(|_, noted| now < noted.at + LASTS);
        self.0.is_empty()
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
        silence.forget(mute, after(59));
        assert!(!silence.has(mute, after(100)) && silence.expire(after(100)), "it was heard of");
        silence.note(mute, after(100));
        silence.note(other, after(200));
        assert_eq!(silence.0.len(), 1, "nothing is kept for ever");
    }

    #[test]
    fn a_place_with_a_silent_and_a_sound_queue_is_silent_until_half_a_minute_after_the_last_word_of_it() {
        let (mut silence, now) = (Silence::default(), start());
        let (mute, sound) = (Destination::of("events", "tenant.17"), Destination::of("events", "tenant.18"));
        silence.note(mute, now);
        silence.forget(sound, now + QUIET / 2);
        assert!(silence.has(sound, now + QUIET));
        silence.forget(sound, now + QUIET);
        assert!(!silence.has(mute, now + QUIET));
    }

    #[test]
    fn words_with_digits_make_no_difference_but_in_names_of_queues() {
        let of = |exchange, key| Destination::of(exchange, key).place;
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
