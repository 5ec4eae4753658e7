//! How much all handlers together may have: effective windows, and what waits beyond them.

use super::stream::Stream;
use super::{Ledger, StreamId};
use crate::domain::window::Window;

/// Share of a new body in the observed mean: about the last hundred bodies count.
const NEWEST: f64 = 1.0 / 64.0;

/// The mean size of the bodies that came lately.
#[derive(Debug, Default)]
pub(super) struct MeanBody(Option<f64>);

impl MeanBody {
    #[expect(clippy::cast_precision_loss, reason = "bodies are far below 2^52 bytes")]
    pub(super) fn observe(&mut self, bytes: u64) {
        let bytes = bytes as f64;
        self.0 = Some(self.0.map_or(bytes, |mean| mean + (bytes - mean) * NEWEST));
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of sizes is neither")]
    fn bytes(&self) -> u64 {
        self.0.unwrap_or_default() as u64
    }
}

impl<L> Ledger<L> {
    /// What a stream may have in messages: its window, what its pace allows, and what its window in bytes holds of bodies
    /// of the size that comes. 0 = nothing: it is paused, leaves, or is not there.
    pub fn effective_window(&self, stream: StreamId) -> u32 {
        self.streams.get(&stream).map_or(0, |stream| self.effective(stream))
    }

    fn effective(&self, stream: &Stream) -> u32 {
        if stream.leaving { 0 } else { stream.in_pace().min(stream.window.fitting(self.mean_body.bytes())) }
    }

    /// See [`Self::effective_window`], of all streams.
    pub fn effective_windows(&self) -> impl Iterator<Item = u32> {
        self.streams.values().map(|stream| self.effective(stream))
    }

    /// Takes out what waits beyond the room that all windows have, the newest first: it was sent ahead for windows that
    /// have shrunk, or counted against a consumer that is no more.
    pub fn shed(&mut self) -> Vec<L> {
        let room = |stream: &Stream| self.effective(stream).saturating_sub(stream.window.messages());
        let room: u64 = self.streams.values().map(|stream| u64::from(room(stream))).sum();
        let kept = usize::try_from(room).unwrap_or(usize::MAX).min(self.waiting.len());
        self.waiting.drain(kept..).rev().map(|item| item.load).collect()
    }

    /// The window of a stream.
    pub fn window(&self, stream: StreamId) -> Option<&Window> {
        self.streams.get(&stream).map(|stream| &stream.window)
    }

    /// Waiting deliveries whose frame no connected stream may receive.
    pub fn held_count(&self) -> usize {
        let largest = self.streams.values().map(|stream| stream.terms.frame_bytes_max).max();
        let Some(largest) = largest else { return 0 };
        self.waiting.iter().filter(|item| item.size.encoded > largest).count()
    }

    /// True if any stream could take another delivery.
    pub fn has_room(&self) -> bool {
        self.streams.values().any(Stream::has_room)
    }
}
