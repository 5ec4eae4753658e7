//! Gathers what happens to the connections of one session and tells everybody who listens. Runs no task: whoever polls
//! a stream of events moves it on, and everybody is woken.
//!
//! lapin's listeners share one queue, so a second listener would take events away from the first. Hence one listener per
//! connection, here, and states instead of a log: a slow reader sees the newest state and the memory is bounded.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt};
use lapin::{Connection, ConnectionStatus, Event};

use super::error;
use super::link::{Cutter, Link};
use crate::broker::{BrokerError, SessionEvent};

/// What a lost connection means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It ends the session.
    EndsSession,
    /// Only its own channels are gone; the pool makes a new one.
    Alone,
}

struct Source {
    events: BoxStream<'static, Event>,
    status: ConnectionStatus,
    loss: Loss,
    blocked: Option<String>,
}

#[derive(Default)]
struct State {
    sources: Vec<Source>,
    cutters: Vec<Cutter>,
    closed: Option<BrokerError>,
}

/// The events of one session.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    wakers: Arc<Wakers>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Watches a connection whose loss ends the session; the others of this kind are cut then.
    pub(super) fn watch_own(&self, link: &Link) {
        self.lock().cutters.push(link.cutter.clone());
        self.watch(&link.connection, Loss::EndsSession);
    }

    /// Watches a pooled connection: its alarms count, its loss is its own.
    pub(super) fn watch_pooled(&self, connection: &Connection) {
        self.watch(connection, Loss::Alone);
    }

    fn watch(&self, connection: &Connection, loss: Loss) {
        let events = connection.events_listener().boxed();
        let status = connection.status().clone();
        let blocked = status.blocked().then(|| "the connection is blocked".to_owned());
        self.lock().sources.push(Source { events, status, loss, blocked });
        // Listeners must poll the newcomer once, or its events would wake nobody.
        self.wakers.wake_by_ref();
    }

    /// Ends the session, if it is not over already: the first reason stands.
    pub(super) fn close(&self, reason: BrokerError) {
        let mut state = self.lock();
        state.closed.get_or_insert(reason);
        for cutter in &state.cutters {
            cutter.cut();
        }
        drop(state);
        self.wakers.wake_by_ref();
    }

    /// A stream of its own: what is the case now, then every change, and `Closed` last.
    pub(super) fn events(self: &Arc<Self>) -> BoxStream<'static, SessionEvent> {
        let seat = self.wakers.seat();
        Listener { hub: Arc::clone(self), seat, blocked: None, ended: false }.boxed()
    }

    /// Whether the session is still there, as of this moment.
    ///
    /// # Errors
    /// Why it is over. Pooled connections could go on without it, but everything of a session ends with it.
    pub(super) fn ensure_open(&self) -> Result<(), BrokerError> {
        self.pump().closed.clone().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what lapin has told since the last time.
    fn pump(&self) -> MutexGuard<'_, State> {
        let waker = Waker::from(Arc::clone(&self.wakers));
        let mut context = Context::from_waker(&waker);
        let mut state = self.lock();
        let State { sources, cutters, closed } = &mut *state;
        sources.retain_mut(|source| {
            let Some(reason) = source.advance(&mut context) else { return true };
            if source.loss == Loss::EndsSession && closed.is_none() {
                *closed = Some(reason);
                cutters.iter().for_each(Cutter::cut);
                waker.wake_by_ref();
            }
            false
        });
        state
    }
}

impl Source {
    /// Reads all that is there; answers why the connection is over, if it is.
    fn advance(&mut self, context: &mut Context<'_>) -> Option<BrokerError> {
        while let Poll::Ready(event) = self.events.poll_next_unpin(context) {
            match event {
                Some(Event::ConnectionBlocked(reason)) => self.blocked = Some(reason),
                Some(Event::ConnectionUnblocked) => self.blocked = None,
                // lapin reports the errors of channels here too; those leave the connection as it is.
                Some(Event::Error(error)) if error.is_amqp_soft_error() && self.status.connected() => {}
                Some(Event::Error(error)) => return Some(as_loss(error::ended(&error))),
                Some(_) => {}
                None => return Some(BrokerError::SessionLost { reason: "the connection was dropped".to_owned() }),
            }
        }
        None
    }
}

/// Of a connection even a soft code is the end of everything on it.
fn as_loss(error: BrokerError) -> BrokerError {
    if let BrokerError::ChannelClosed { reason } = error { BrokerError::SessionLost { reason } } else { error }
}

struct Listener {
    hub: Arc<Hub>,
    seat: u64,
    blocked: Option<String>,
    ended: bool,
}

impl Stream for Listener {
    type Item = SessionEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Seated before looking, so that what happens in between wakes this task.
        self.hub.wakers.sit(self.seat, context.waker());
        let state = self.hub.pump();
        let closed = state.closed.clone();
        let blocked = state.sources.iter().find_map(|source| source.blocked.clone());
        drop(state);
        if let Some(reason) = closed {
            self.ended = true;
            return Poll::Ready(Some(SessionEvent::Closed(reason)));
        }
        if blocked == self.blocked {
            return Poll::Pending;
        }
        self.blocked.clone_from(&blocked);
        Poll::Ready(Some(blocked.map_or(SessionEvent::Unblocked, SessionEvent::Blocked)))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.wakers.lock().seats.remove(&self.seat);
    }
}

/// Everybody who waits for events. One waker for all: lapin's listener remembers the last one that polled it only.
#[derive(Debug, Default)]
struct Wakers(Mutex<Seats>);

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    seats: BTreeMap<u64, Option<Waker>>,
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self) -> u64 {
        let mut seats = self.lock();
        seats.next += 1;
        seats.next
    }

    fn sit(&self, seat: u64, waker: &Waker) {
        self.lock().seats.insert(seat, Some(waker.clone()));
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Woken outside of the lock: a waker may run code that comes back here.
        let waiting: Vec<Waker> = self.lock().seats.values_mut().filter_map(Option::take).collect();
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> BrokerError {
        BrokerError::SessionLost { reason: "cut".to_owned() }
    }

    #[tokio::test]
    async fn every_listener_hears_the_end_and_latecomers_at_once() {
        let hub = Arc::new(Hub::default());
        let (mut first, mut second) = (hub.events(), hub.events());
        let both = async { tokio::join!(first.next(), second.next()) };
        let closing = async { hub.close(lost()) };
        let ((one, two), ()) = tokio::join!(both, closing);
        assert_eq!((one, two), (Some(SessionEvent::Closed(lost())), Some(SessionEvent::Closed(lost()))));
        assert_eq!(first.next().await, None);
        assert_eq!(hub.events().next().await, Some(SessionEvent::Closed(lost())));
    }

    #[tokio::test]
    async fn the_first_reason_stands() {
        let hub = Arc::new(Hub::default());
        hub.close(lost());
        hub.close(BrokerError::SessionLost { reason: "later".to_owned() });
        assert_eq!(hub.events().next().await, Some(SessionEvent::Closed(lost())));
    }

    #[test]
    fn a_listener_that_left_is_forgotten() {
        let hub = Arc::new(Hub::default());
        let mut listener = hub.events();
        assert!(listener.poll_next_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(hub.wakers.lock().seats.len(), 1);
        drop(listener);
        assert_eq!(hub.wakers.lock().seats.len(), 0);
    }
}
