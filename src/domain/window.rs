//! How much one handler holds unsettled, and how much it accepts. The only flow-control arithmetic; a level, not permits.

/// Unsettled messages and bytes of one handler against what it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    messages_max: u32,
    bytes_max: u64,
    messages: u32,
    bytes: u64,
}

impl Window {
    /// An empty window. 0 of either = paused.
    pub fn new(messages_max: u32, bytes_max: u64) -> Self {
        Self { messages_max, bytes_max, messages: 0, bytes: 0 }
    }

    /// Replaces the level; what is in flight stays, so shrinking never revokes.
    pub fn resize(&mut self, messages_max: u32, bytes_max: u64) {
        self.messages_max = messages_max;
        self.bytes_max = bytes_max;
    }

    /// True if a delivery of this size may be handed out now. With nothing in flight one of any size passes.
    pub fn accepts(&self, bytes: u64) -> bool {
        if self.is_paused() || self.messages >= self.messages_max {
            return false;
        }
        self.messages == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max
    }

    /// True if nothing is accepted whatever is settled.
    pub fn is_paused(&self) -> bool {
        self.messages_max == 0 || self.bytes_max == 0
    }

    /// A delivery was handed out.
    pub fn take(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A delivery was settled, or lost.
    pub fn free(&mut self, bytes: u64) {
        debug_assert!(self.messages > 0, "freed more than was taken");
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Unsettled messages.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Sum of unsettled bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The level in messages.
    pub fn messages_max(&self) -> u32 {
        self.messages_max
    }

    /// The level in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The level in messages for bodies of this size; 0 = paused, else at least 1.
    pub fn fitting(&self, body_bytes: u64) -> u32 {
        if self.is_paused() {
            return 0;
        }
        let fits = self.bytes_max.checked_div(body_bytes).unwrap_or(u64::MAX);
        u32::try_from(fits).unwrap_or(u32::MAX).clamp(1, self.messages_max)
    }

    /// The free part of the window, in thousandths, for choosing the idlest handler.
    pub fn free_share(&self) -> u32 {
        if self.is_paused() {
            return 0;
        }
        let free = u64::from(self.messages_max.saturating_sub(self.messages));
        u32::try_from(free * 1_000 / u64::from(self.messages_max)).unwrap_or(1_000)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_message_of_any_size_passes_when_nothing_is_in_flight() {
        let mut window = Window::new(10, 100);
        assert!(window.accepts(1_000_000));
        window.take(1_000_000);
        assert!(!window.accepts(1));
    }

    #[test]
    fn zero_pauses_whichever_it_is() {
        assert!(!Window::new(0, 100).accepts(1));
        assert!(!Window::new(10, 0).accepts(1));
    }

    #[test]
    fn shrinking_stops_grants_until_enough_is_settled() {
        let mut window = Window::new(10, 100);
        window.take(1);
        window.take(1);
        window.resize(2, 100);
        assert!(!window.accepts(1));
        window.free(1);
        assert!(window.accepts(1));
    }

    #[test]
    fn of_large_bodies_fewer_fit_and_one_always_does() {
        let window = Window::new(100, 1_000);
        assert_eq!([0, 1, 10, 11, 400, 5_000].map(|body| window.fitting(body)), [100, 100, 100, 90, 2, 1]);
        assert_eq!((Window::new(0, 9).fitting(1), Window::new(9, 0).fitting(1)), (0, 0));
    }

    /// What can happen to a window.
    #[derive(Debug, Clone)]
    enum Event {
        /// A delivery of this size waits, and goes out if it is accepted.
        Offer(u64),
        /// One of those that are out is settled, whichever.
        Settle(prop::sample::Index),
        Resize(u32, u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (0_u64..50).prop_map(Event::Offer),
            2 => any::<prop::sample::Index>().prop_map(Event::Settle),
            1 => (0_u32..20, 0_u64..100).prop_map(|(messages, bytes)| Event::Resize(messages, bytes)),
        ];
        prop::collection::vec(event, 1..200)
    }

    proptest! {
        /// Against a plain list of what is out: whatever happened before, what is accepted depends on that list and on the
        /// present level alone, so nothing drifts.
        #[test]
        fn what_is_granted_is_the_level_less_what_is_out((messages, bytes) in (0_u32..20, 0_u64..100), events in events()) {
            let (mut window, mut level, mut out) = (Window::new(messages, bytes), (messages, bytes), Vec::new());
            for event in events {
                match event {
                    Event::Offer(size) => {
                        let (count, sum) = (u32::try_from(out.len()).unwrap(), out.iter().sum::<u64>());
                        let is_open = level.0 > 0 && level.1 > 0;
                        let fits = count < level.0 && (count == 0 || sum + size <= level.1);
                        prop_assert_eq!(window.accepts(size), is_open && fits);
                        if is_open && fits {
                            window.take(size);
                            out.push(size);
                        }
                    }
                    Event::Settle(which) => {
                        if !out.is_empty() {
                            window.free(out.swap_remove(which.index(out.len())));
                        }
                    }
                    Event::Resize(messages, bytes) => {
                        level = (messages, bytes);
                        window.resize(messages, bytes);
                    }
                }
                prop_assert_eq!(usize::try_from(window.messages()).unwrap(), out.len());
                prop_assert_eq!(window.bytes(), out.iter().sum::<u64>());
                prop_assert_eq!((window.messages_max(), window.bytes_max()), level);
                let free = level.0.saturating_sub(window.messages());
                prop_assert_eq!(window.free_share() == 0, window.is_paused() || free == 0);
                prop_assert!(window.free_share() <= 1_000);
            }
        }
    }
}
