//! The handlers of a subscription: they come, leave, hang up or are lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use super::super::outbox::{Outbox, StreamEnd};
use super::pump::Pump;
use super::settling::Source;
use super::{AttachError, AttachRequest, Attached, Hangup, Kept, Opened, Results, Voice};
use crate::domain::ledger::{Answer, StreamId, Terms};
use crate::domain::verdict::VerdictKind;
use crate::domain::window::Window;
use crate::runtime::Phase;
use crate::telemetry::metrics;

/// One connected handler.
#[derive(Debug)]
pub(super) struct Peer {
    pub outbox: Arc<Outbox>,
    pub label: String,
    pub results: Results,
    /// Clock of its oldest delivery.
    pub settle_timeout: Duration,
    /// The effective window in messages, as it was told last.
    pub told_window: u32,
    /// Unknown ids since this moment, to end a stream that only talks nonsense.
    pub nonsense: (Instant, u32),
}

impl Pump {
    pub(super) fn attach(&mut self, request: AttachRequest) -> Result<Attached, AttachError> {
        let delivery = &self.subscription.delivery;
        if self.phase.now() >= Phase::Intake {
            return Err(AttachError::Draining);
        }
        if self.peers.len() >= usize::from(delivery.max_handlers) {
            return Err(AttachError::HandlerLimit { handlers_max: delivery.max_handlers });
        }
        // Somebody holds the way that this command came by, unless the registry is gone with the process.
        let Some(commands) = self.sender.upgrade() else { return Err(AttachError::Draining) };
        self.was_used = true;
        let stream = StreamId(self.context.streams.fetch_add(1, Ordering::Relaxed));
        let messages_max = request.messages_max.unwrap_or_else(|| u32::from(delivery.prefetch_count));
        let messages_max = messages_max.min(u32::from(delivery.prefetch_max));
        let settle_timeout = request.settle_timeout.unwrap_or(delivery.settle_timeout).min(delivery.max_lease);
        let terms = Terms { settle_timeout, frame_bytes_max: request.frame_bytes_max };
        self.ledger.attach(stream, Window::new(messages_max, request.bytes_max), terms);

        if self.kept == Kept::WhileUsed && self.ledger.effective_windows().all(|window| window == 0) {
            // Nothing is consumed yet, and its queue is to be there all the same.
            self.context.objects.look_at_everything();
        }

        // With somebody to serve the status may be another: nothing is consumed yet, say.
        self.is_status_due = true;
        self.tell_status();
        let outbox = Arc::new(Outbox::default());
        outbox.tell(self.status.clone());
        info!(subscription = %self.subscription.name, stream = stream.0, handler = %request.handler, "handler joined");
        let nonsense = (Instant::now(), 0);
        let (label, results) = (request.handler, request.results);
        let told_window = self.ledger.effective_window(stream);
        let peer = Peer { outbox: Arc::clone(&outbox), label, results, settle_timeout, told_window, nonsense };
        self.peers.insert(stream, peer);
        self.count_handlers();
        self.charge(true);
        Ok(Attached {
            stream,
            outbox,
            voice: Voice { stream, commands },
            terms: Opened {
                subscription: self.subscription.name.as_str().to_owned(),
                messages_max: told_window,
                bytes_max: request.bytes_max,
                settle_timeout,
                max_lease: self.subscription.delivery.max_lease,
            },
        })
    }

    pub(super) fn leave(&mut self, stream: StreamId) {
        let Some(peer) = self.peers.get(&stream) else { return };
        self.ledger.leave(stream);
        // What was never written was never at the handler: others may have it.
        let unwritten = peer.outbox.take_unwritten(usize::MAX);
        self.ledger.take_back(Instant::now().into_std(), &unwritten);
    }

    pub(super) fn hung_up(&mut self, stream: StreamId, hangup: Hangup) {
        match hangup {
            Hangup::HalfClosed => {
                self.leave(stream);
                let now = Instant::now().into_std();
                for id in self.ledger.working(stream) {
                    // At once: it is not a handler that asks again and again.
                    if let Answer::Act(load) = self.ledger.verdict(now, stream, id, VerdictKind::Release) {
                        self.give_back(load, Some(id), Source::Handler);
                    }
                }
            }
            Hangup::Lost => self.lose(stream),
            Hangup::Protocol(problem) => self.end(stream, StreamEnd::Protocol(problem)),
            Hangup::Bug => self.end(stream, StreamEnd::Bug(stream)),
        }
    }

    /// The connection is gone without a word: what the handler held is suspect, unless it was about to leave.
    pub(super) fn lose(&mut self, stream: StreamId) {
        let Some(peer) = self.peers.remove(&stream) else { return };
        // What was never written was never at the handler.
        let unwritten = peer.outbox.take_unwritten(usize::MAX);
        self.ledger.take_back(Instant::now().into_std(), &unwritten);
        let held = if self.is_stopping() || self.ledger.is_leaving(stream) {
            self.give_back_all(stream)
        } else {
            let is_certain = !self.ledger.has_adrift(stream);
            let held = self.ledger.detach(stream);
            let count = held.len();
            self.crashed(held, &peer.label, is_certain);
            count
        };
        info!(subscription = %self.subscription.name, stream = stream.0, handler = %peer.label, held, "handler lost");
        metrics::stream_ended("lost");
        self.count_handlers();
    }

    /// Streams whose other side is gone without a word: a call that was cancelled before it began to read, say.
    pub(super) fn lose_abandoned(&mut self) {
        let is_alone = |peer: &Peer| Arc::strong_count(&peer.outbox) == 1;
        let abandoned: Vec<StreamId> =
            self.peers.iter().filter(|(_, peer)| is_alone(peer)).map(|(id, _)| *id).collect();
        for stream in abandoned {
            self.lose(stream);
        }
    }

    /// Ends a stream with a word; what the handler held goes back.
    pub(super) fn end(&mut self, stream: StreamId, end: StreamEnd) {
        let Some(peer) = self.peers.remove(&stream) else { return };
        let reason = match &end {
            StreamEnd::Done => "left",
            StreamEnd::Draining => "draining",
            StreamEnd::SlowReader => "slow_reader",
            StreamEnd::Protocol(_) => "protocol",
            StreamEnd::Mismatch(_) => "mismatch",
            StreamEnd::Bug(_) => "bug",
        };
        let problem = match &end {
            StreamEnd::Protocol(problem) => Some(problem.clone()),
            StreamEnd::Mismatch(error) => Some(error.to_string()),
            StreamEnd::Done | StreamEnd::Draining | StreamEnd::SlowReader | StreamEnd::Bug(_) => None,
        };
        // Ended first: nothing may be written any more when what it held goes back.
        peer.outbox.end(end);
        let held = self.give_back_all(stream);
        metrics::stream_ended(reason);
        info!(
            subscription = %self.subscription.name, stream = stream.0, handler = %peer.label, reason, problem, held,
            "stream ended"
        );
        self.count_handlers();
    }

    pub(super) fn end_all(&mut self, end: &StreamEnd) {
        let streams: Vec<StreamId> = self.peers.keys().copied().collect();
        for stream in streams {
            self.end(stream, end.clone());
        }
    }

    /// Ends the streams that have left and hold nothing any more.
    pub(super) fn end_idle_streams(&mut self) {
        let idle = |stream: &StreamId| self.ledger.is_leaving(*stream) && self.ledger.in_flight(*stream) == Some(0);
        let done: Vec<StreamId> = self.peers.keys().copied().filter(idle).collect();
        for stream in done {
            self.end(stream, StreamEnd::Done);
        }
    }

    fn give_back_all(&mut self, stream: StreamId) -> usize {
        let held = self.ledger.detach(stream);
        let count = held.len();
        for (id, load) in held {
            debug!(subscription = %self.subscription.name, delivery = id.0, "given back");
            self.give_back(load, None, Source::Sidecar);
        }
        count
    }

    fn count_handlers(&self) {
        self.told.handlers.store(self.peers.len(), Ordering::Relaxed);
        self.metrics.handlers.set(f64::from(u32::try_from(self.peers.len()).unwrap_or(u32::MAX)));
        self.share_refill();
    }

    /// What a frame is worth waiting for: a quarter of the window, or of the handler's share where the broker sends less
    /// ahead than all windows would take.
    pub(super) fn share_refill(&self) {
        let handlers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX).max(1);
        let share = u32::from(self.subscription.delivery.prefetch_max).div_ceil(handlers);
        for (stream, peer) in &self.peers {
            peer.outbox.refill(self.ledger.effective_window(*stream).min(share));
        }
    }

    /// For handlers whose effective window has become another, by a quarter at least: bodies are larger than they were,
    /// say, or it works more slowly.
    pub(super) fn apply_windows(&mut self) {
        let is_other = |stream: StreamId, told: u32| {
            let now = self.ledger.effective_window(stream);
            now > 0 && now.abs_diff(told) >= (told / 4).max(1)
        };
        let others: Vec<StreamId> =
            self.peers.iter().filter(|(id, peer)| is_other(**id, peer.told_window)).map(|(id, _)| *id).collect();
        for stream in &others {
            self.apply_window(*stream);
        }
        if !others.is_empty() {
            self.share_refill();
        }
    }

    /// Tells a handler its effective window, and takes back what lies here for it beyond that.
    pub(super) fn apply_window(&mut self, stream: StreamId) {
        let effective = self.ledger.effective_window(stream);
        let (Some(window), Some(peer)) = (self.ledger.window(stream), self.peers.get_mut(&stream)) else { return };
        peer.told_window = effective;
        peer.outbox.tell_window(effective, window.bytes_max(), self.status.clone());
        // The handler keeps what it has; others may have what lies here for it.
        let beyond = usize::try_from(window.messages().saturating_sub(effective)).unwrap_or(usize::MAX);
        let unwritten = peer.outbox.take_unwritten(beyond);
        self.ledger.take_back(Instant::now().into_std(), &unwritten);
    }
}
