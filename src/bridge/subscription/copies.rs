//! Retry copies and dead letters on their way: published, confirmed, and only then is the original acked.
//!
//! A copy is tried again for as long as its session and its lease live; the original stays unacked meanwhile, so nothing
//! is lost. Then, or when it can never be sent, the original goes back instead: the broker would close the channel for
//! it in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::lane::LaneHandle;
use super::super::link::LinkWatch;
use super::settling::Note;
use crate::broker::{BrokerError, Confirm, Proof, Publication, Receipt, Routing};
use crate::domain::giving_up::DeadLetterCause;
use crate::domain::message::Message;
use crate::domain::topology::Plan;

/// Waits between two tries of one copy.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Before an original goes back whose copy can never be sent, so that the two do not chase each other.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(5);

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Another attempt after this one.
    Retry { attempt: u32 },
    /// The end.
    DeadLetter(DeadLetterCause),
    /// A give-back that the queue does not count.
    Guard,
}

/// A copy to be stored before its original is acked.
#[derive(Debug)]
pub(super) struct Copy {
    pub message: Message,
    pub purpose: Purpose,
    /// What makes the place where the copy goes, when it is missing.
    pub repair: Arc<Plan>,
    pub receipt: Receipt,
    /// What the ack of the original must prove.
    pub proof: Proof,
    /// Until then the copy is tried; then the original goes back, or the broker would close the channel for it.
    pub until: Instant,
    pub note: Note,
}

/// How a copy ended.
#[derive(Debug)]
pub(super) struct CopyEnd {
    pub copy: Copy,
    pub fate: Fate,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Confirmed and routed.
    Stored,
    /// The session is over; the broker hands the original out again.
    SessionOver,
    /// It cannot be sent, now or later: its headers do not fit into a frame.
    Impossible,
    /// The lease of the original has ended meanwhile.
    TooLate,
}

/// Publishes until the copy is confirmed and routed, or the original's session is over.
pub(super) async fn store(copy: Copy, lane: LaneHandle, mut link: LinkWatch) -> CopyEnd {
    let session = copy.receipt.session();
    let mut wait = WAIT_MIN;
    let mut is_repaired = false;
    loop {
        if !link.is_live(session) {
            return CopyEnd { copy, fate: Fate::SessionOver };
        }
        if Instant::now() >= copy.until {
            return CopyEnd { copy, fate: Fate::TooLate };
        }
        // The lane's own deadline bounds this wait.
        let publication = Publication { message: copy.message.clone(), routing: Routing::Required };
        let problem = match lane.publish(publication).await {
            Confirm::Stored => return CopyEnd { copy, fate: Fate::Stored },
            Confirm::ExchangeMissing(_) | Confirm::Unroutable if !is_repaired => {
                is_repaired = true;
                match repair(&copy, &link).await {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                }
            }
            Confirm::ExchangeMissing(exchange) => format!("exchange {exchange} does not exist"),
            Confirm::Unroutable => "no queue takes it: the binding is missing".to_owned(),
            Confirm::Refused => "the broker refused it: the queue is full or has no quorum".to_owned(),
            Confirm::Lost => "the channel was lost before the confirm".to_owned(),
            Confirm::TimedOut => "no confirm in time".to_owned(),
            Confirm::NotSent(error @ BrokerError::Unsupported { .. }) => return impossible(copy, &error, link).await,
            Confirm::NotSent(error) => error.to_string(),
        };
        warn!(
            exchange = %copy.message.exchange, queue = %copy.message.routing_key, purpose = ?copy.purpose, %problem,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "copy not stored; the original stays unacked and the copy is tried again"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = link.lost(session) => {}
        }
        wait = (wait * 2).min(WAIT_MAX);
        is_repaired = false;
    }
}

async fn impossible(copy: Copy, error: &BrokerError, mut link: LinkWatch) -> CopyEnd {
    warn!(
        queue = %copy.message.routing_key, purpose = ?copy.purpose, %error,
        "copy can never be sent; the original goes back to its queue, uncounted"
    );
    tokio::select! {
        () = tokio::time::sleep(GIVE_BACK_AFTER) => CopyEnd { copy, fate: Fate::Impossible },
        () = link.lost(copy.receipt.session()) => CopyEnd { copy, fate: Fate::SessionOver },
    }
}

async fn repair(copy: &Copy, link: &LinkWatch) -> Result<(), BrokerError> {
    let Some(live) = link.live() else { return Err(link.now().why_down()) };
    let findings = live.session.apply(Arc::clone(&copy.repair)).await?;
    debug!(topology = %findings, "made the place for a copy");
    Ok(())
}
