//! How long deliveries have been unsettled, counted from the broker's delivery.

use std::time::Instant;

use super::{Ledger, State, StreamId, Waiting};

impl<L> Ledger<L> {
    /// When the oldest delivery came that is not settled yet.
    pub fn oldest_arrival(&self) -> Option<Instant> {
        let open = self.open.values().map(|open| open.arrived);
        self.all_waiting().map(|item| item.arrived).chain(open).min()
    }

    /// What came after the one moment and until the other, and has no verdict yet: with the stream that it is at, if any.
    pub fn unsettled(&self, after: Option<Instant>, until: Instant) -> impl Iterator<Item = (Option<StreamId>, &L)> {
        let is_meant = move |arrived: Instant| arrived <= until && after.is_none_or(|after| arrived > after);
        let waiting = self.all_waiting().filter(move |item| is_meant(item.arrived)).map(|item| (None, &item.load));
        let open = self.open.values().filter_map(move |open| match &open.state {
            State::Working(load) if is_meant(open.arrived) => Some((Some(open.stream), load)),
            State::Working(_) | State::Settling(_) | State::Revoked => None,
        });
        waiting.chain(open)
    }

    fn all_waiting(&self) -> impl Iterator<Item = &Waiting<L>> {
        self.waiting.iter().chain(&self.suspects)
    }
}
