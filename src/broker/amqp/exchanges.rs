//! Which exchanges take publishes, as far as this session knows. Knows no message.
//!
//! Publishing to an exchange that is missing (404), internal or without the right to write (403) closes the channel and
//! takes the whole batch with it. So each exchange is looked up on a channel of its own before its first use, and one
//! that has cost a channel costs no other in this session.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::scratch::Scratch;
use crate::broker::BrokerError;
use crate::domain::difference::Difference;
use crate::domain::name::ExchangeName;
use crate::domain::topology::Exchange;

/// Names that are remembered, whoever brought them; then all are forgotten, which costs some calls.
const REMEMBERED_MAX: usize = 10_000;

/// What a configured or compared one is.
const INTERNAL: &str = "it is internal";

/// What is known of an exchange.
#[derive(Debug)]
enum Standing {
    /// It was there.
    There,
    /// It takes no publishes from us, and why.
    Refused(BrokerError),
}

/// The exchanges that were seen.
#[derive(Debug)]
pub(super) struct Exchanges {
    scratch: Scratch,
    known: Mutex<HashMap<ExchangeName, Standing>>,
}

impl Exchanges {
    pub(super) fn new(scratch: Scratch) -> Self {
        Self { scratch, known: Mutex::new(HashMap::new()) }
    }

    /// Looks once per session; a known one costs no call.
    ///
    /// # Errors
    /// `Missing`, `AccessRefused` for one that takes no publishes, or why nobody could look.
    pub(super) async fn check(&self, exchange: &ExchangeName) -> Result<(), BrokerError> {
        match self.lock().get(exchange) {
            Some(Standing::There) => return Ok(()),
            Some(Standing::Refused(error)) => return Err(error.clone()),
            None if exchange.is_nameless() => return Ok(()),
            None => {}
        }
        match self.scratch.look_for_exchange(exchange).await {
            // From 4.3 on a look wants a right on the exchange (measured on 4.3.6): the publish itself tells.
            Ok(()) | Err(BrokerError::AccessRefused { .. }) => {}
            Err(error) => return Err(error),
        }
        self.note(exchange, Standing::There);
        Ok(())
    }

    /// It was made as it was wanted.
    pub(super) fn created(&self, wanted: &Exchange) {
        self.note(&wanted.name, Standing::There);
        self.compared(wanted, &[]);
    }

    /// It exists, and differs so from what is wanted, as far as anybody could see.
    pub(super) fn compared(&self, wanted: &Exchange, differences: &[Difference]) {
        let differs = differences.iter().any(|difference| difference.key == "internal");
        if wanted.internal != differs {
            self.refuse(&wanted.name, INTERNAL);
        } else if !self.lock().contains_key(&wanted.name) {
            self.note(&wanted.name, Standing::There);
        }
    }

    /// It takes no publishes from us as long as this session lives.
    pub(super) fn refuse(&self, exchange: &ExchangeName, reason: &str) -> BrokerError {
        let action = match exchange.as_str() {
            "" => "publishing to queues by their names".to_owned(),
            name => format!("publishing to exchange {name}"),
        };
        let error = BrokerError::AccessRefused { action, reason: reason.to_owned() };
        self.note(exchange, Standing::Refused(error.clone()));
        error
    }

    /// Looks again before the next use; what has refused us is not forgotten.
    pub(super) fn forget<'a>(&self, exchanges: impl Iterator<Item = &'a ExchangeName>) {
        let mut known = self.lock();
        for exchange in exchanges {
            if let Some(Standing::There) = known.get(exchange) {
                known.remove(exchange);
            }
        }
    }

    fn note(&self, exchange: &ExchangeName, standing: Standing) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(exchange.clone(), standing);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExchangeName, Standing>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
