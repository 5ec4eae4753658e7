//! Which exchanges exist, as far as this session has looked. Knows no message.
//!
//! Publishing to a missing exchange closes the channel and takes the whole batch with it, so each exchange is looked up
//! on a channel of its own before its first use.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::scratch::Scratch;
use crate::broker::BrokerError;
use crate::domain::name::ExchangeName;

/// The exchanges that were seen.
#[derive(Debug)]
pub(super) struct Exchanges {
    scratch: Scratch,
    known: Mutex<HashSet<ExchangeName>>,
}

impl Exchanges {
    pub(super) fn new(scratch: Scratch) -> Self {
        Self { scratch, known: Mutex::new(HashSet::new()) }
    }

    /// Looks once per session; a known one costs no call.
    ///
    /// # Errors
    /// `Missing`, or why nobody could look.
    pub(super) async fn check(&self, exchange: &ExchangeName) -> Result<(), BrokerError> {
        if exchange.is_nameless() || self.lock().contains(exchange) {
            return Ok(());
        }
        self.scratch.look_for_exchange(exchange).await?;
        self.note(exchange);
        Ok(())
    }

    /// It was declared or seen elsewhere.
    pub(super) fn note(&self, exchange: &ExchangeName) {
        self.lock().insert(exchange.clone());
    }

    /// Looks again before the next use.
    pub(super) fn forget<'a>(&self, exchanges: impl Iterator<Item = &'a ExchangeName>) {
        let mut known = self.lock();
        for exchange in exchanges {
            known.remove(exchange);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ExchangeName>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
