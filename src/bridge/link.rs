//! The link to the broker as the rest of the bridge sees it: live or down, blocked or not. Knows no backend.

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::{BrokerError, Session, SessionId};
use crate::domain::readiness::Connected;
use crate::telemetry::metrics;

/// The link now.
#[derive(Debug, Clone, Default)]
pub struct LinkState {
    /// The session, while one is live.
    pub live: Option<Live>,
    /// The session that it has replaced, for as long as receipts of that one are good.
    pub leaving: Option<SessionId>,
    /// That one is not closed yet, so its exclusive queues cannot be had here.
    pub is_closing_former: bool,
    /// Why there is none; `None` before the first try and while all is well.
    pub error: Option<BrokerError>,
    /// The newest session that was lost to a message that cannot be read.
    pub unparsable: Option<SessionId>,
    /// Why the broker takes no publishes, in its words.
    pub blocked: Option<String>,
    /// Sessions so far.
    pub sessions: u64,
    /// Times that publishing was possible and then was not: the session went, or an alarm came. A first connect that fails
    /// is one too.
    pub outages: u64,
}

/// A live session and its number. Whoever has one uses the session: when it is replaced, it is closed after that.
#[derive(Debug, Clone)]
pub struct Live {
    /// Rises with every session.
    pub id: SessionId,
    /// The session.
    pub session: Arc<dyn Session>,
    /// See [`Hold`].
    pub(super) hold: Hold,
}

impl Live {
    /// Its number and itself, for whoever needs no hold.
    pub(super) fn parts(&self) -> (SessionId, &dyn Session) {
        (self.id, self.session.as_ref())
    }
}

/// While one exists, a session that was replaced is not closed yet, within the bound that the keeper sets.
#[derive(Debug, Clone)]
pub(super) struct Hold(#[expect(dead_code, reason = "only its end is noticed")] watch::Receiver<()>);

/// A session in the hand of the keeper, who closes it.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) id: SessionId,
    pub(super) session: Arc<dyn Session>,
    users: watch::Sender<()>,
}

impl Owned {
    pub(super) fn new(id: SessionId, session: Arc<dyn Session>) -> Self {
        Self { id, session, users: watch::Sender::new(()) }
    }

    /// For those who use it.
    pub(super) fn live(&self) -> Live {
        Live { id: self.id, session: Arc::clone(&self.session), hold: Hold(self.users.subscribe()) }
    }

    /// Waits until nobody uses it. Cancel-safe.
    pub(super) async fn unused(&self) {
        self.users.closed().await;
    }
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

    /// True while publishes can be sent.
    fn takes_publishes(&self) -> bool {
        self.live.is_some() && self.blocked.is_none()
    }

    /// True while receipts of this session are good: it is live, or was replaced and is not closed yet.
    pub fn settles(&self, id: SessionId) -> bool {
        self.leaving == Some(id) || self.live.as_ref().is_some_and(|live| live.id == id)
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
        let mut after = false;
        self.0.send_modify(|link| {
            let before = link.takes_publishes();
            change(link);
            after = link.takes_publishes();
            let never_began = link.outages == 0 && link.sessions == 0 && link.error.is_some();
            if !after && (before || never_began) {
                link.outages += 1;
            }
        });
        metrics::publish_breaker(!after);
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

    /// True while exclusive queues belong to the session that was replaced.
    pub fn is_closing_former(&self) -> bool {
        self.0.borrow().is_closing_former
    }

    /// Why the broker takes no publishes now, in its words.
    pub fn blocked(&self) -> Option<String> {
        self.0.borrow().blocked.clone()
    }

    /// True while the broker takes no publishes for an alarm.
    pub fn is_blocked(&self) -> bool {
        self.0.borrow().blocked.is_some()
    }

    /// See [`LinkState::outages`].
    pub fn outages(&self) -> u64 {
        self.0.borrow().outages
    }

    /// See [`LinkState::settles`].
    pub fn settles(&self, id: SessionId) -> bool {
        self.0.borrow().settles(id)
    }

    /// Waits for a change since the last call here. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The keeper is gone, so the process is ending: nothing will change any more.
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update();
    }

    /// Waits until the broker takes publishes, as far as alarms go. Cancel-safe.
    pub async fn unblocked(&mut self) {
        if self.0.wait_for(|state| state.blocked.is_none()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until receipts of this session are good for nothing. Cancel-safe.
    pub async fn lost(&mut self, id: SessionId) {
        if self.0.wait_for(|state| !state.settles(id)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
