//! How much all handlers together may have: effective windows, and what waits beyond them.

use super::stream::Stream;
use super::{Ledger, Size, StreamId};
use crate::domain::window::Window;

/// Share of a larger body in the observed size, and of a smaller one. It rises fast, for the sake of memory, and falls
/// slowly: where sizes are mixed it stays near the large ones and does not swing, which would be another consumer each time.
const LARGER: f64 = 1.0 / 16.0;
const SMALLER: f64 = 1.0 / 256.0;
/// So many times what has come may be sent ahead, for the size of what has come tells little of what follows. Few steps lead
/// to the whole: each is another consumer that operators see.
const TRUST: u64 = 16;

/// The size of the bodies that came lately, and how many have come at all.
#[derive(Debug, Default)]
pub(super) struct MeanBody {
    mean: Option<f64>,
    seen: u64,
}

impl MeanBody {
    #[expect(clippy::cast_precision_loss, reason = "bodies are far below 2^52 bytes, and so is their count")]
    pub(super) fn observe(&mut self, bytes: u64) {
        let bytes = bytes as f64;
        self.seen = self.seen.saturating_add(1);
        // A first small one says nothing of the others.
        let larger = LARGER.max(1.0 / self.seen as f64);
        let share = |mean: f64| if bytes > mean { larger } else { SMALLER };
        self.mean = Some(self.mean.map_or(bytes, |mean| mean + (bytes - mean) * share(mean)));
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of sizes is neither")]
    fn bytes(&self) -> u64 {
        self.mean.unwrap_or_default() as u64
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

    /// What may be sent ahead as long as little is known of the bodies: as many of the largest size as the windows in bytes
    /// hold, or sixteen times as many as have come.
    pub fn trusted(&self, body_max: u64) -> u64 {
        let fitting = |stream: &Stream| if stream.leaving { 0 } else { stream.window.fitting(body_max) };
        let careful: u64 = self.streams.values().map(|stream| u64::from(fitting(stream))).sum();
        match self.mean_body.seen {
            // The first one may have come alone, and says little where several of the largest have room.
            1 if careful > 1 => careful,
            seen => careful.max(seen.saturating_mul(TRUST)),
        }
    }

    /// So much of a window in messages as the largest window in bytes of a stream holds of bodies of the size that comes.
    pub fn fitting(&self, messages: u32) -> u32 {
        let bytes = self.streams.values().map(|stream| stream.window.bytes_max()).max().unwrap_or_default();
        Window::new(messages, bytes).fitting(self.mean_body.bytes())
    }

    /// Takes out what waits beyond the room that all windows have, the newest first: it was sent ahead for windows that
    /// have shrunk, or counted against a consumer that is no more.
    pub fn shed(&mut self) -> Vec<L> {
        let room = |stream: &Stream| self.effective(stream).saturating_sub(stream.window.messages());
        let room: u64 = self.streams.values().map(|stream| u64::from(room(stream))).sum();
        // What nobody may receive is in nobody's way.
        let held = self.waiting.iter().filter(|item| !self.is_receivable(item.size)).count();
        let room = usize::try_from(room).unwrap_or(usize::MAX).saturating_add(held);
        let kept = room.min(self.waiting.len());
        self.waiting.drain(kept..).rev().map(|item| item.load).collect()
    }

    /// True if some stream may receive this, as far as its frames go; also where there is none.
    pub(super) fn is_receivable(&self, size: Size) -> bool {
        self.streams.is_empty() || self.streams.values().any(|stream| size.encoded <= stream.terms.frame_bytes_max)
    }

    /// The window of a stream.
    pub fn window(&self, stream: StreamId) -> Option<&Window> {
        self.streams.get(&stream).map(|stream| &stream.window)
    }

    /// Waiting deliveries whose frame no connected stream may receive.
    pub fn held_count(&self) -> usize {
        let largest = self.streams.values().map(|stream| stream.terms.frame_bytes_max).max();
        let Some(largest) = largest else { return 0 };
        self.suspects.iter().chain(&self.waiting).filter(|item| item.size.encoded > largest).count()
    }

    /// True if any stream could take another delivery.
    pub fn has_room(&self) -> bool {
        self.streams.values().any(Stream::has_room)
    }
}
