//! Declarations for which the broker closes the whole connection: found out without hurting anybody else, and not repeated.
//!
//! Knows no plan: `topology` decides what is declared. RabbitMQ answers so to features that its settings or its release deny
//! (541, measured on 4.0.5 and 4.3.6). Everything that waits on that connection gets the same error, so only a connection of
//! one declaration alone tells whose fault it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::denial;
use super::pool::{self, Pool};
use super::scratch::Scratch;
use super::shape::{Shape, Wanted};
use crate::broker::BrokerError;

/// Objects that are remembered; of further ones each try costs a connection.
const REMEMBERED_MAX: usize = 4_096;

/// What was denied in one session. The broker's settings change with its restart, which ends the session.
#[derive(Debug, Default)]
pub(super) struct Denied(Mutex<BTreeMap<String, (Shape, String)>>);

impl Denied {
    fn known(&self, object: &str, shape: &Shape) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(object).filter(|(denied, _)| denied == shape).map(|(_, reason)| reason.clone())
    }

    fn remember(&self, object: String, shape: Shape, reason: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED_MAX || known.contains_key(&object) {
            known.insert(object, (shape, reason));
        }
    }
}

/// Exclusive queues whose declaration may have ended a session. Clones share it, and it outlives sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Suspects(Arc<Mutex<BTreeSet<String>>>);

impl Suspects {
    fn has(&self, object: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(object)
    }

    fn add(&self, object: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED_MAX {
            known.insert(object);
        }
    }

    fn clear(&self, object: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// Declares, and bears a closed connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declaring<'a> {
    pub(super) denied: &'a Denied,
    pub(super) suspects: &'a Suspects,
    /// Where connections of one declaration alone come from.
    pub(super) pool: &'a Pool,
}

impl Declaring<'_> {
    /// Declares what everybody shares.
    ///
    /// # Errors
    /// `Mismatch` with the broker's words where it denies this; else as of the declaration.
    pub(super) async fn shared(self, wanted: Wanted<'_>, admin: &Scratch) -> Result<(), BrokerError> {
        let (object, shape) = (wanted.object(), wanted.shape());
        if let Some(reason) = self.denied.known(&object, &shape) {
            return Err(refusal(object, reason));
        }
        match admin.declare(wanted, &shape).await {
            // A neighbour on that connection may be the one.
            Err(error) if denial(&error).is_some() => self.alone(wanted, shape).await,
            done => done,
        }
    }

    /// Declares an exclusive queue on the connection that consumes, which must not die of it twice: it takes the session with it.
    ///
    /// # Errors
    /// As of [`Declaring::shared`]; the session is lost at the first time.
    pub(super) async fn exclusive(self, wanted: Wanted<'_>, consume: &Scratch) -> Result<(), BrokerError> {
        let (object, shape) = (wanted.object(), wanted.shape());
        if let Some(reason) = self.denied.known(&object, &shape) {
            return Err(refusal(object, reason));
        }
        if self.suspects.has(&object) {
            // It goes with that connection, so this is a rehearsal.
            self.alone(wanted, shape.clone()).await?;
            self.suspects.clear(&object);
        }
        let done = consume.declare(wanted, &shape).await;
        if done.as_ref().is_err_and(|error| denial(error).is_some()) {
            self.suspects.add(object);
        }
        done
    }

    async fn alone(self, wanted: Wanted<'_>, shape: Shape) -> Result<(), BrokerError> {
        let lone = pool::lone(self.pool).await?;
        let done = lone.declare(wanted, &shape).await;
        let Some(reason) = done.as_ref().err().and_then(denial) else {
            lone.end().await;
            return done;
        };
        let object = wanted.object();
        self.denied.remember(object.clone(), shape, reason.clone());
        Err(refusal(object, reason))
    }
}

fn refusal(object: String, reason: String) -> BrokerError {
    BrokerError::Mismatch { object, differences: Vec::new(), reason }
}
