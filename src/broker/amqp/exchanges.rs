//! Which exchanges take publishes, as far as this session knows. Knows no message.
//!
//! Publishing to an exchange that is missing (404), internal or without the right to write (403) closes the channel and
//! takes the whole batch with it. So each exchange is looked up on a channel of its own before its first use, and one
//! that has cost a channel costs no other in this session.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::Instant;

use super::scratch::Scratch;
use crate::broker::{BrokerError, Confirm};
use crate::domain::difference::Difference;
use crate::domain::name::ExchangeName;
use crate::domain::topology::Exchange;

/// Names that are remembered, whoever brought them; then all are forgotten, which costs some calls.
const REMEMBERED_MAX: usize = 10_000;

/// Looks of one batch that are on their way together.
const LOOKS_AT_ONCE: usize = 8;

/// One that was missing is not looked for again for so long: whoever publishes to it without end would cost the neighbours a
/// look with each batch.
const MISSING_FOR: Duration = Duration::from_secs(1);

/// What a configured or compared one is.
const INTERNAL: &str = "it is internal";

/// What is known of an exchange.
#[derive(Debug)]
enum Standing {
    /// It was there.
    There,
    /// It takes no publishes from us, and why.
    Refused(BrokerError),
    /// It was not there, which is believed until then.
    Missing(BrokerError, Instant),
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

    /// The exchanges of a batch that cannot be published to, and why. Looks once per session, for several at once, and all
    /// together no longer than so long; a known one costs no call.
    pub(super) async fn unfit(
        &self,
        batch: impl Iterator<Item = &ExchangeName>,
        within: Duration,
    ) -> HashMap<ExchangeName, Confirm> {
        let (mut unfit, mut unknown) = (HashMap::new(), HashSet::new());
        let mut seen: Option<&ExchangeName> = None;
        for exchange in batch {
            // Batches mostly go to one exchange; a name that comes back later costs a look into the sets.
            if seen == Some(exchange) || unfit.contains_key(exchange) || unknown.contains(exchange) {
                continue;
            }
            seen = Some(exchange);
            match self.known(exchange) {
                Some(Ok(())) => {}
                Some(Err(error)) => drop(unfit.insert(exchange.clone(), told(exchange, error))),
                None => drop(unknown.insert(exchange.clone())),
            }
        }
        if unknown.is_empty() {
            return unfit;
        }
        let deadline = Instant::now() + within;
        let look = |exchange: ExchangeName| async move {
            let looked = tokio::time::timeout_at(deadline, self.look(&exchange)).await;
            let late = |_| Err(BrokerError::TimedOut { operation: format!("exchange {exchange}"), within });
            looked.unwrap_or_else(late).err().map(|error| (exchange.clone(), told(&exchange, error)))
        };
        let looks = stream::iter(unknown).map(look).buffer_unordered(LOOKS_AT_ONCE);
        unfit.extend(looks.filter_map(std::future::ready).collect::<Vec<_>>().await);
        unfit
    }

    fn known(&self, exchange: &ExchangeName) -> Option<Result<(), BrokerError>> {
        match self.lock().get(exchange) {
            Some(Standing::There) => Some(Ok(())),
            Some(Standing::Refused(error)) => Some(Err(error.clone())),
            Some(Standing::Missing(error, until)) if Instant::now() < *until => Some(Err(error.clone())),
            None if exchange.is_nameless() => Some(Ok(())),
            Some(Standing::Missing(..)) | None => None,
        }
    }

    async fn look(&self, exchange: &ExchangeName) -> Result<(), BrokerError> {
        match self.scratch.look_for_exchange(exchange).await {
            // From 4.3 on a look wants a right on the exchange (measured on 4.3.6): the publish itself tells.
            Ok(()) | Err(BrokerError::AccessRefused { .. }) => self.learn(exchange, Standing::There),
            Err(error) => {
                if let BrokerError::Missing { .. } = error {
                    self.learn(exchange, Standing::Missing(error.clone(), Instant::now() + MISSING_FOR));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes what a look has found, unless more was learned while it was under way.
    fn learn(&self, exchange: &ExchangeName, standing: Standing) {
        if matches!(self.lock().get(exchange), None | Some(Standing::Missing(..))) {
            self.note(exchange, standing);
        }
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
        } else if !matches!(self.lock().get(&wanted.name), Some(Standing::Refused(_))) {
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
            // Whatever names somebody invents, what has refused us stays as long as there is room.
            known.retain(|_, standing| !matches!(standing, Standing::Missing(..)));
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(exchange.clone(), standing);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExchangeName, Standing>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a publish to it is answered.
fn told(exchange: &ExchangeName, error: BrokerError) -> Confirm {
    if let BrokerError::Missing { .. } = error {
        return Confirm::ExchangeMissing(exchange.clone());
    }
    Confirm::NotSent(error)
}
