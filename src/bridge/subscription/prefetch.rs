//! What the broker may send ahead: what the windows take, and less where little is known of what comes.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::pump::Pump;
use crate::broker::Prefetch;
use crate::domain::giving_up::GUARD_MARGIN;
use crate::domain::prefetch;
use crate::domain::subscription::QueueType;
use crate::domain::topology;

/// What the broker may send ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub prefetch: Prefetch,
    /// Less than the windows take, because little is known of what comes.
    pub is_careful: bool,
}

/// How a consumer whose prefetch is smaller than the windows comes to the whole.
#[derive(Debug, Default)]
pub(super) struct Care {
    is_careful: bool,
    /// The change on its way makes it larger for this alone.
    steps_up: bool,
    danger: Danger,
}

/// Whether the next message may be one that ends this process.
#[derive(Debug, Default, PartialEq, Eq)]
enum Danger {
    /// Nothing has arrived yet that this process has outlived.
    #[default]
    Unknown,
    /// Something has come back so often that its queue will soon give it up; the last time at this moment.
    NearLimit(Instant),
    None,
}

/// After the last message near the limit the queue is consumed one by one for so long: others like it may follow, and each change
/// of the prefetch costs those that are on their way a return.
const NEAR_LIMIT_LASTS: Duration = Duration::from_secs(10);

impl Care {
    /// Its prefetch is less than the windows take.
    pub(super) fn is_careful(&self) -> bool {
        self.is_careful
    }

    /// A change is on its way.
    pub(super) fn changes(&mut self, is_careful: bool, steps_up: bool) {
        (self.is_careful, self.steps_up) = (is_careful, steps_up);
    }

    /// True once after a change that was only a step to the whole.
    pub(super) fn has_stepped_up(&mut self) -> bool {
        std::mem::take(&mut self.steps_up)
    }
}

impl Pump {
    /// Deliveries that no handler may receive, and releases that are held, count against a prefetch and take no room in a
    /// window: they must not keep everything else away. The first bodies come few at a time, until their size is known; not
    /// where a consumer cannot be changed later. `None` = nothing is consumed.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        if self.pauses_for_alarm() || self.pauses_for_letters() || self.trial.rules.is_stalled() {
            return None;
        }
        let delivery = &self.subscription.delivery;
        let cap = delivery.prefetch_max;
        prefetch::prefetch(self.ledger.effective_windows(), cap)?;
        let idle = [self.ledger.held_count(), self.releases.count()];
        let idle = idle.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        if self.trial.rules.is_one_by_one() {
            let prefetch = Prefetch::new(prefetch::prefetch(idle.into_iter().chain([1]), cap)?);
            return Some(Wanted { prefetch, is_careful: false });
        }
        let full = prefetch::prefetch(self.ledger.effective_windows().chain(idle), cap)?;
        let trusted = if self.may_be_deadly() { 1 } else { self.ledger.trusted(delivery.message_bytes_max) };
        let trusted = trusted.saturating_add(idle.map(u64::from).iter().sum());
        let trusted = u16::try_from(trusted).unwrap_or(u16::MAX);
        let is_careful = trusted < full && !self.subscription.queue.is_single_active();
        Some(Wanted { prefetch: Prefetch::new(if is_careful { trusted } else { full }), is_careful })
    }

    /// The next message may end this process. With the process everything that was sent ahead comes back, and a
    /// queue that counts would give up all of it together with the culprit: so that comes alone.
    fn may_be_deadly(&self) -> bool {
        topology::queue_type(&self.subscription.queue) == QueueType::Quorum && self.care.danger != Danger::None
    }

    /// Messages have arrived; one of them has come back so often.
    pub(super) fn note_returns(&mut self, returns: u32) {
        let limit = self.delivery_limit();
        let is_near = returns > 0 && limit > 0 && returns.saturating_add(GUARD_MARGIN) >= limit;
        let was_near = matches!(self.care.danger, Danger::NearLimit(_));
        let is_over = match self.care.danger {
            Danger::NearLimit(at) => at.elapsed() >= NEAR_LIMIT_LASTS,
            Danger::Unknown | Danger::None => true,
        };
        if is_near {
            self.care.danger = Danger::NearLimit(Instant::now());
        } else if is_over {
            self.care.danger = Danger::None;
        }
        let (subscription, queue) = (&self.subscription.name, &self.subscription.queue.name);
        if is_near && !was_near {
            warn!(
                %subscription, %queue, returns, limit,
                "a message has come back so often that its queue will soon give it up; until it is settled, and ten seconds \
                 longer, the queue is consumed one by one, in case it is what ends Sidebus each time"
            );
        } else if was_near && !is_near && is_over {
            info!(%subscription, %queue, "nothing that comes is near the limit of the queue: it is consumed as before");
        }
    }
}
