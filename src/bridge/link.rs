//! The link to the broker as the rest of the bridge sees it: live or down, blocked or not. Knows no backend.

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::{BrokerError, Session, SessionId};
use crate::domain::readiness::Connected;

/// The link now.
#[derive(Debug, Clone, Default)]
pub struct LinkState {
    /// The session, while one is live.
    pub live: Option<Live>,
    /// Why there is none; `None` before the first try and while all is well.
    pub error: Option<BrokerError>,
    /// Why the broker takes no publishes, in its words.
    pub blocked: Option<String>,
    /// Sessions so far.
    pub sessions: u64,
}

/// A live session and its number.
#[derive(Debug, Clone)]
pub struct Live {
    /// Rises with every session.
    pub id: SessionId,
    /// The session.
    pub session: Arc<dyn Session>,
}

impl LinkState {
    /// For readiness.
    pub fn connected(&self) -> Connected {
        match (&self.live, self.sessions) {
            (Some(_), _) => Connected::Now,
            (None, 0) => Connected::Never,
            (None, _) => Connected::Before,
        }
    }

    /// Why nothing can be sent now.
    pub fn why_down(&self) -> BrokerError {
        let not_yet = || BrokerError::SessionLost { reason: "no session to the broker yet".to_owned() };
        self.error.clone().unwrap_or_else(not_yet)
    }
}

/// Sees the link. Clones are cheap.
#[derive(Debug, Clone)]
pub struct LinkWatch(watch::Receiver<LinkState>);

/// Tells the link. One owner: the keeper.
#[derive(Debug)]
pub(super) struct LinkTell(watch::Sender<LinkState>);

/// A link that is down, and its watcher.
pub(super) fn link() -> (LinkTell, LinkWatch) {
    let (tell, watch) = watch::channel(LinkState::default());
    (LinkTell(tell), LinkWatch(watch))
}

impl LinkTell {
    pub(super) fn change(&self, change: impl FnOnce(&mut LinkState)) {
        self.0.send_modify(change);
    }
}

impl LinkWatch {
    /// The link now.
    pub fn now(&self) -> LinkState {
        self.0.borrow().clone()
    }

    /// The live session, if there is one.
    pub fn live(&self) -> Option<Live> {
        self.0.borrow().live.clone()
    }

    /// Why the broker takes no publishes now, in its words.
    pub fn blocked(&self) -> Option<String> {
        self.0.borrow().blocked.clone()
    }

    /// True if this session is the live one.
    pub fn is_live(&self, id: SessionId) -> bool {
        self.0.borrow().live.as_ref().is_some_and(|live| live.id == id)
    }

    /// Waits for a change since the last call here. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The keeper is gone, so the process is ending: nothing will change any more.
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update();
    }

    /// Waits until this session is no longer the live one. Cancel-safe.
    pub async fn lost(&mut self, id: SessionId) {
        let is_other = |state: &LinkState| state.live.as_ref().is_none_or(|live| live.id != id);
        if self.0.wait_for(is_other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
