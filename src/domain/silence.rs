//! Where messages went that the broker did not confirm for long. Knows no broker and no clock.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

/// How long a destination counts as silent, unless a message to it is stored.
const LASTS: Duration = Duration::from_hours(1);

/// Destinations that are known at once; of more the newest are not.
const KNOWN_MAX: usize = 1_024;

/// Keys of one place that are known, of either kind.
const KEYS_MAX: usize = 64;

/// A place with so many silent keys is silent as a whole.
const SEVERAL: usize = 2;

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

/// What is known of a place.
#[derive(Debug)]
struct Noted {
    /// When it was silent last.
    at: Instant,
    /// Keys of messages that were not confirmed.
    silent: HashSet<u64>,
    /// Keys of messages that were stored since then.
    well: HashSet<u64>,
}

impl Silence {
    /// A message that went there was not confirmed for long.
    pub fn note(&mut self, Destination { place, key }: Destination, now: Instant) {
        self.expire(now);
        if self.0.len() >= KNOWN_MAX && !self.0.contains_key(&place) {
            return;
        }
        let fresh = || Noted { at: now, silent: HashSet::new(), well: HashSet::new() };
        let noted = self.0.entry(place).or_insert_with(fresh);
        noted.at = now;
        noted.well.remove(&key);
        add(&mut noted.silent, key);
    }

    /// A message that went there was stored.
    pub fn forget(&mut self, Destination { place, key }: Destination, now: Instant) {
        let Some(noted) = self.0.get_mut(&place) else { return };
        noted.silent.remove(&key);
        add(&mut noted.well, key);
        // Of two queues behind one place one may be well.
        if noted.silent.is_empty() || now >= noted.at + QUIET {
            self.0.remove(&place);
        }
    }

    /// True while that is silent: the key itself, or several of its place and it is not known to be well.
    pub fn has(&self, Destination { place, key }: Destination, now: Instant) -> bool {
        let is_silent = |noted: &Noted| {
            let is_place = noted.silent.len() >= SEVERAL && !noted.well.contains(&key);
            now < noted.at + LASTS && (noted.silent.contains(&key) || is_place)
        };
        self.0.get(&place).is_some_and(is_silent)
    }

    /// Forgets what was long ago; true if nothing is left.
    pub fn expire(&mut self, now: Instant) -> bool {
        self.0.retain(|_, noted| now < noted.at + LASTS);
        self.0.is_empty()
    }
}

fn add(keys: &mut HashSet<u64>, key: u64) {
    if keys.len() < KEYS_MAX {
        keys.insert(key);
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
    fn of_a_place_with_several_silent_keys_only_those_are_not_that_are_known_to_be_well() {
        let (mut silence, now) = (Silence::default(), start());
        let tenant = |number: u64| Destination::of("events", &format!("tenant.{number}"));
        silence.note(tenant(17), now);
        assert!(silence.has(tenant(17), now) && !silence.has(tenant(18), now), "one is no sign of the others");
        silence.note(tenant(19), now);
        assert!(silence.has(tenant(18), now) && silence.has(tenant(20), now));
        for second in 0..60 {
            let now = now + Duration::from_secs(second);
            silence.note(tenant(17), now);
            silence.forget(tenant(18), now);
            assert!(silence.has(tenant(17), now) && !silence.has(tenant(18), now) && silence.has(tenant(20), now));
        }
        silence.note(tenant(18), now);
        assert!(silence.has(tenant(18), now), "no longer");
    }

    #[test]
    fn a_place_whose_keys_are_new_each_time_is_well_again_half_a_minute_after_the_last_word_of_its_silence() {
        let (mut silence, now) = (Silence::default(), start());
        let order = |number: u64| Destination::of("events", &format!("order.{number}"));
        silence.note(order(1), now);
        silence.note(order(2), now);
        silence.forget(order(3), now + QUIET / 2);
        assert!(silence.has(order(4), now + QUIET));
        silence.forget(order(4), now + QUIET);
        assert!(!silence.has(order(1), now + QUIET));
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
