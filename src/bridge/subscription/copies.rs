//! Retry copies and dead letters on their way: published, confirmed, and only then is the original acked.
//!
//! A copy is tried again for as long as its session and its lease live; the original stays unacked meanwhile, so nothing
//! is lost. Then, or when it can never be sent, the original goes back instead: the broker would close the channel for
//! it in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::super::lane::LaneHandle;
use super::super::link::LinkWatch;
use super::super::objects::{Objects, PlanOf};
use super::super::wish::Wish;
use super::pump::Load;
use super::settling::Note;
use super::throttle::Throttle;
use crate::broker::{BrokerError, Confirm, Proof, Publication, Routing, SessionId};
use crate::domain::giving_up::DeadLetterCause;
use crate::domain::message::Message;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::Plan;
use crate::runtime::{Phase, PhaseWatch};

/// Waits between two tries of one copy.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// While an alarm keeps copies waiting for longer, nothing is consumed: every window would fill with what cannot be settled.
pub(super) const ALARM_PATIENCE: Duration = Duration::from_secs(5);

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Another attempt after this one.
    Retry { attempt: u32 },
    /// Its time has not come.
    Wait,
    /// The end.
    DeadLetter(DeadLetterCause),
    /// A give-back that the queue does not count.
    Guard,
}

impl Purpose {
    /// The word of the metric label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Wait => "wait",
            Self::DeadLetter(_) => "dead_letter",
            Self::Guard => "release",
        }
    }
}

/// A copy to be stored before its original is acked.
#[derive(Debug)]
pub(super) struct Copy {
    pub message: Message,
    pub purpose: Purpose,
    /// Where a letter goes instead when its queue is full: an archive. `None` = it waits for room.
    pub when_full: Option<QueueName>,
    /// What makes the place where the copy goes, when it is missing.
    pub repair: Repair,
    /// The original.
    pub load: Load,
    /// What the ack of the original must prove.
    pub proof: Proof,
    /// Until then the copy is tried; then the original goes back, or the broker would close the channel for it.
    pub until: Instant,
    pub note: Note,
    /// How often it was not stored.
    pub tries: u32,
}

impl Copy {
    /// For the log.
    pub(super) fn message_id(&self) -> &str {
        self.message.properties.message_id.as_deref().unwrap_or_default()
    }
}

/// What makes the place where a copy goes.
#[derive(Debug)]
pub(super) enum Repair {
    /// The plan of a delay slot.
    Slot(Arc<Plan>),
    /// What the subscription wants at that moment: an administrator may change it while the copy waits.
    Own(PlanOf, Wish),
}

/// What a copy needs on its way.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub lane: LaneHandle,
    pub link: LinkWatch,
    pub objects: Objects,
    /// What retries pass one by one.
    pub throttle: Arc<Throttle>,
    /// A copy that waits is not waited for when we stop: its original goes back.
    pub phase: PhaseWatch,
}

/// What came of a try.
#[derive(Debug)]
pub(super) enum Tried {
    /// It was the last one.
    Ended(CopyEnd),
    /// Not stored, for this reason: it is to be tried again.
    NotYet(Copy, String),
}

/// How a copy ended.
#[derive(Debug)]
pub(super) struct CopyEnd {
    pub copy: Copy,
    pub fate: Fate,
}

/// What became of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Confirmed and routed.
    Stored,
    /// The session is over; the broker hands the original out again.
    SessionOver,
    /// It cannot be sent, now or later, for this reason: its headers do not fit into a frame.
    Impossible(String),
    /// The lease of the original has ended meanwhile.
    TooLate,
}

/// Between a failed try and the next one.
pub(super) fn wait_after(tries: u32) -> Duration {
    WAIT_MIN.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(WAIT_MAX)
}

/// Publishes until the copy is confirmed and routed, or a try fails, or the original's session is over. One that has failed
/// before waits first.
pub(super) async fn store(mut copy: Copy, mut means: Means) -> Tried {
    let session = copy.load.receipt.session();
    if copy.tries > 0 && stops_within(wait_after(copy.tries), session, (&mut means.link, &mut means.phase)).await {
        return ended(copy, Fate::TooLate);
    }
    let mut is_repaired = false;
    let mut may_go = !matches!(copy.purpose, Purpose::Retry { .. });
    loop {
        if !means.link.settles(session) {
            return ended(copy, Fate::SessionOver);
        }
        if Instant::now() >= copy.until {
            return ended(copy, Fate::TooLate);
        }
        match before_it_goes(&copy, &mut means, &mut may_go).await {
            Turn::Go => {}
            Turn::Again => continue,
            Turn::Stop => return ended(copy, Fate::TooLate),
            Turn::NotYet(problem) => return not_yet(copy, problem),
        }
        // The lane's own deadline bounds this wait.
        let publication = Publication { message: copy.message.clone(), routing: Routing::Required };
        let problem = match means.lane.publish(publication).await {
            Confirm::Stored => return ended(copy, Fate::Stored),
            Confirm::ExchangeMissing(_) | Confirm::Unroutable if !is_repaired => {
                is_repaired = true;
                match repair(&copy, &means.link, &means.objects).await {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                }
            }
            Confirm::Refused if copy.when_full.is_some() => {
                send_to_archive(&mut copy);
                continue;
            }
            Confirm::NotSent(error @ BrokerError::Unsupported { .. }) => {
                return ended(copy, Fate::Impossible(error.to_string()));
            }
            failed @ (Confirm::ExchangeMissing(_)
            | Confirm::Unroutable
            | Confirm::Refused
            | Confirm::Lost
            | Confirm::TimedOut
            | Confirm::NotSent(_)) => problem_of(failed),
        };
        return not_yet(copy, problem);
    }
}

/// What comes before a copy is published.
enum Turn {
    /// Nothing more.
    Go,
    /// Something was waited for: all is to be looked at again.
    Again,
    /// We stop.
    Stop,
    /// It has no place to go to.
    NotYet(String),
}

/// Waits for what a copy needs before it is published, but for nothing longer than its session, its lease or our own life: while
/// handlers finish what they hold, a verdict of theirs counts as ever. Nobody knows how long an alarm lasts, so a drain waits for
/// none.
async fn before_it_goes(copy: &Copy, means: &mut Means, may_go: &mut bool) -> Turn {
    let Means { link, objects, throttle, phase, .. } = means;
    let session = copy.load.receipt.session();
    if link.is_blocked() {
        // Written now it would wait in the socket until it is called late, and then be stored twice. The end of the session is
        // the end of its alarm, too.
        return tokio::select! {
            () = link.unblocked() => Turn::Again,
            () = tokio::time::sleep_until(copy.until) => Turn::Again,
            () = phase.reached(Phase::Drain) => Turn::Stop,
        };
    }
    if is_slot_unknown(copy, link, objects) {
        let now = link.clone();
        return tokio::select! {
            looked = look_at_slot(copy, &now, objects) => looked.map_or_else(|error| Turn::NotYet(error.to_string()), |()| Turn::Again),
            () = link.lost(session) => Turn::Again,
            () = tokio::time::sleep_until(copy.until) => Turn::Again,
            () = phase.reached(Phase::GiveBack) => Turn::Stop,
        };
    }
    if *may_go {
        return Turn::Go;
    }
    tokio::select! {
        () = throttle.pass() => {
            // Not for the time after an alarm that has come meanwhile: all would go at once then.
            *may_go = !link.is_blocked();
            Turn::Again
        }
        () = link.lost(session) => Turn::Again,
        () = tokio::time::sleep_until(copy.until) => Turn::Again,
        () = phase.reached(Phase::GiveBack) => Turn::Stop,
    }
}

/// Waits so long, or for the end of the session. True = we stop.
async fn stops_within(wait: Duration, session: SessionId, (link, phase): (&mut LinkWatch, &mut PhaseWatch)) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => false,
        () = link.lost(session) => false,
        () = phase.reached(Phase::Drain) => true,
    }
}

fn problem_of(confirm: Confirm) -> String {
    match confirm {
        Confirm::ExchangeMissing(exchange) => format!("exchange {exchange} does not exist"),
        Confirm::Unroutable => "no queue takes it: the binding is missing".to_owned(),
        Confirm::Refused => "the broker refused it: the queue is full or has no quorum".to_owned(),
        Confirm::Lost => "the channel was lost before the confirm".to_owned(),
        Confirm::TimedOut => "no confirm in time".to_owned(),
        Confirm::NotSent(error) => error.to_string(),
        Confirm::Stored => "it was stored".to_owned(),
    }
}

/// A full queue that refuses moves nothing by itself (measured), so the letter is sent on: its origin is in its headers.
fn send_to_archive(copy: &mut Copy) {
    let Some(archive) = copy.when_full.take() else { return };
    debug!(queue = %copy.message.routing_key, %archive, "the dead-letter queue is full, the letter goes to the archive");
    copy.message.exchange = ExchangeName::nameless();
    archive.as_str().clone_into(&mut copy.message.routing_key);
}

fn not_yet(mut copy: Copy, problem: String) -> Tried {
    copy.tries = copy.tries.saturating_add(1);
    Tried::NotYet(copy, problem)
}

fn ended(copy: Copy, fate: Fate) -> Tried {
    Tried::Ended(CopyEnd { copy, fate })
}

/// True if the slot of a copy was not looked at in this session.
fn is_slot_unknown(copy: &Copy, link: &LinkWatch, objects: &Objects) -> bool {
    let Repair::Slot(plan) = &copy.repair else { return false };
    link.live().is_some_and(|live| !objects.slots().knows(&PlanOf::shared(plan), live.id))
}

/// Before its first use in a session a delay slot is compared with what it must be: one that somebody else has made otherwise
/// would take the copy, and perhaps never send it home. Where that cannot be seen the copy goes on its way, as slots are made for
/// whoever may not make them; and its confirm tells what else is wrong.
async fn look_at_slot(copy: &Copy, link: &LinkWatch, objects: &Objects) -> Result<(), BrokerError> {
    let _alone = objects.mending().await;
    let (Repair::Slot(plan), Some(live)) = (&copy.repair, link.live()) else { return Ok(()) };
    let slot = PlanOf::shared(plan);
    if objects.slots().knows(&slot, live.id) {
        return Ok(());
    }
    if let Err(error @ BrokerError::Mismatch { .. }) = make_place(copy, link, objects).await {
        return Err(error);
    }
    objects.slots().note(slot, live.id);
    Ok(())
}

async fn repair(copy: &Copy, link: &LinkWatch, objects: &Objects) -> Result<(), BrokerError> {
    // One at a time: the second finds what the first has made, and does not take it for lost.
    let _alone = objects.mending().await;
    make_place(copy, link, objects).await
}

async fn make_place(copy: &Copy, link: &LinkWatch, objects: &Objects) -> Result<(), BrokerError> {
    let Some(live) = link.live() else { return Err(link.now().why_down()) };
    let findings = match &copy.repair {
        Repair::Slot(plan) => {
            let slot = PlanOf::shared(plan);
            let is_stubborn = copy.tries > 0 && objects.slots().bind_anew(&slot);
            let wanted = if is_stubborn { Arc::new(plan.bound_anew()) } else { Arc::clone(plan) };
            let findings = live.session.apply(wanted).await?;
            // A slot that does not fit is told with the copy that waits for it: nobody else looks at it again.
            objects.made(&slot, live.id, plan, &findings);
            findings
        }
        Repair::Own(owner, wish) => {
            let held = wish.hold().await;
            objects.apply(owner, live.parts(), &held.plan).await?
        }
    };
    debug!(topology = %findings, "made the place for a copy");
    Ok(())
}
