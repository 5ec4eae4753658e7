//! A session on the embedded broker. Knows the state's operations and none of its rules.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

use super::super::{
    BrokerError, Capabilities, ConsumeOptions, Consumer, Findings, Lane, LaneRole, Session, SessionEvent, SessionId,
};
use super::Shared;
use super::consumer;
use super::lane::MemoryLane;
use super::state::{Link, SessionKey};
use crate::domain::difference::Examined;
use crate::domain::name::QueueName;
use crate::domain::topology::Plan;

/// One life of a connection to the embedded broker.
pub(super) struct MemorySession {
    capabilities: Capabilities,
    guard: Arc<SessionGuard>,
    link: watch::Receiver<Link>,
    /// What it was opened with.
    secret: u64,
}

/// Held by the session and all its parts: the session ends with the last of them, as a connection ends with its process.
pub(super) struct SessionGuard {
    pub(super) shared: Arc<Shared>,
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let (mut state, now) = self.shared.now();
        state.end_session(self.key, &BrokerError::SessionLost { reason: "dropped by its owner".to_owned() }, now);
    }
}

impl MemorySession {
    pub(super) fn new(shared: Arc<Shared>, id: SessionId, key: SessionKey, link: watch::Receiver<Link>) -> Self {
        let capabilities =
            Capabilities { product: "Sidebus memory".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let secret = *shared.secret.borrow();
        Self { capabilities, secret, guard: Arc::new(SessionGuard { shared, id, key }), link }
    }
}

impl fmt::Debug for MemorySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySession").field("id", &self.guard.id).finish_non_exhaustive()
    }
}

impl Session for MemorySession {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn events(&self) -> BoxStream<'static, SessionEvent> {
        stream::unfold((self.link.clone(), Told::Open), |(link, told)| tell(link, told)).boxed()
    }

    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Findings, BrokerError>> {
        Box::pin(async move { self.guard.shared.now().0.apply(self.guard.key, &plan) })
    }

    fn examine(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Vec<Examined>, BrokerError>> {
        Box::pin(async move { self.guard.shared.now().0.examine(self.guard.key, &plan) })
    }

    fn consume(&self, queue: QueueName, options: ConsumeOptions) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            // An exclusive queue knows its session already; all links of a session are one here.
            let ConsumeOptions { prefetch, exclusive: _, own_connection } = options;
            let (mut state, now) = self.guard.shared.now();
            let (channel, wake) = state.consume(self.guard.key, &queue, prefetch, now)?;
            drop(state);
            Ok(consumer::halves(Arc::clone(&self.guard), channel, (wake, own_connection)))
        })
    }

    fn lane(&self, _role: LaneRole) -> BoxFuture<'_, Result<Box<dyn Lane>, BrokerError>> {
        Box::pin(async move {
            self.guard.shared.now().0.check_session(self.guard.key)?;
            let lane: Box<dyn Lane> = Box::new(MemoryLane::new(Arc::clone(&self.guard), self.link.clone()));
            Ok(lane)
        })
    }

    fn outdated(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async move {
            let mut now = self.guard.shared.secret.subscribe();
            // The sender lives in what this session holds.
            let _ = now.wait_for(|secret| *secret != self.secret).await;
            vec!["the secret of the embedded broker".to_owned()]
        })
    }

    fn close(&self, _within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (mut state, now) = self.guard.shared.now();
            let error = BrokerError::SessionLost { reason: "closed by this side".to_owned() };
            state.end_session(self.guard.key, &error, now);
        })
    }
}

/// What a stream of events has said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Open,
    Blocked,
    Closed,
}

async fn tell(mut link: watch::Receiver<Link>, told: Told) -> Option<(SessionEvent, (watch::Receiver<Link>, Told))> {
    loop {
        let current = link.borrow_and_update().clone();
        match (told, current) {
            (Told::Closed, _) => return None,
            (Told::Open | Told::Blocked, Link::Closed(error)) => {
                return Some((SessionEvent::Closed(error), (link, Told::Closed)));
            }
            (Told::Open, Link::Blocked(reason)) => return Some((SessionEvent::Blocked(reason), (link, Told::Blocked))),
            (Told::Blocked, Link::Open) => return Some((SessionEvent::Unblocked, (link, Told::Open))),
            // The sender goes only after `Closed`, so an error here means that the end was already told.
            (Told::Open, Link::Open) | (Told::Blocked, Link::Blocked(_)) => link.changed().await.ok()?,
        }
    }
}
