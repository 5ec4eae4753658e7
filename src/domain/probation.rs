//! What becomes of a queue whose messages end connections: a message that cannot be read comes again, and ends the next one.
//!
//! Nobody can see which queue such a message came from while several share a connection. So each of them goes on over a
//! connection of its own: the one that loses that too is the culprit, and the others are back together soon. Knows no
//! broker and no clock.
//!
//! What proves a queue to be well is a settled delivery that nobody had before: a broker hands out first what came back, so
//! whatever was in flight when a connection was lost has been read by then. A queue that hands out nothing is empty.

use std::time::{Duration, Instant};

use super::difference::Difference;
use super::subscription::QueueType;

/// A consumer that was sent nothing for so long, with nothing unsettled, has an empty queue.
const QUIET: Duration = Duration::from_secs(5);

/// Losses after which a queue that does not get rid of the message by itself is left alone.
const STALL_AFTER: u32 = 3;

/// A culprit keeps a connection of its own for so long after its last loss: who sends one such message may send another, and
/// that is to cost others nothing.
const APART: Duration = Duration::from_mins(10);

/// When a stalled queue is tried again, where trying costs one connection and nothing else: somebody may have taken the
/// message away, and nobody tells us.
const TRY_STALLED_AGAIN: Duration = Duration::from_mins(10);

/// A limit of deliveries above this is none that is worth waiting for.
const LIMIT_MAX: i64 = 100;

/// What the broker does with a message that comes back again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// It counts, and moves it to the dead letters.
    Moved,
    /// It hands it out again, for ever.
    Kept,
    /// It drops it sooner or later, or nobody can see what it does.
    #[default]
    Risked,
}

impl Fate {
    /// Of a queue of this type as it is wanted, with what it was found to lack and the limit that it was found to have.
    pub fn of(wanted: QueueType, lacks: &[Difference], limit: Limit) -> Self {
        let found = |key: &str| lacks.iter().find(|lack| lack.key == key).map(|lack| lack.found.as_str());
        let is_quorum = match found("x-queue-type") {
            Some(found) => found == "\"quorum\"",
            None => wanted == QueueType::Quorum,
        };
        if !is_quorum {
            return Self::Kept;
        }
        let has_target = found("x-dead-letter-exchange") != Some("");
        let has_limit = match (found("x-delivery-limit"), limit) {
            // By default from some release on.
            (Some(""), Limit { found: None, is_default, .. }) => is_default,
            (_, Limit { found: None, wanted, .. }) => wanted.is_some_and(|limit| (0..=LIMIT_MAX).contains(&limit)),
            (_, Limit { found: Some(limit), .. }) => (0..=LIMIT_MAX).contains(&limit),
        };
        if has_target && has_limit { Self::Moved } else { Self::Risked }
    }
}

/// What is known of the deliveries that a queue allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What it is asked to have.
    pub wanted: Option<i64>,
    /// What it was found to have.
    pub found: Option<i64>,
    /// The broker takes one by itself where none is named.
    pub is_default: bool,
}

/// The probation of one queue. Begins with none.
#[derive(Debug, Default)]
pub struct Probation {
    stage: Stage,
    /// Losses of a connection of its own, since it was last known to be well.
    losses: u32,
    /// It has lost a connection of its own: until then it shares none.
    apart_until: Option<Instant>,
    /// The last sign of life of the present consumer.
    since: Option<Instant>,
    /// A delivery has come that nobody had before.
    has_fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// It shares a connection.
    #[default]
    Together,
    /// Over a connection of its own, one message at a time: only that one is charged when it is lost.
    OneByOne,
    /// Over a connection of its own.
    Apart,
    /// Not consumed; `None` = as long as this process lives.
    Stalled(Option<Instant>),
}

impl Probation {
    /// True if it is consumed over a connection of its own.
    pub fn is_alone(&self) -> bool {
        self.stage != Stage::Together
    }

    /// True if it is sent one message at a time.
    pub fn is_one_by_one(&self) -> bool {
        self.stage == Stage::OneByOne
    }

    /// True while it is not consumed.
    pub fn is_stalled(&self) -> bool {
        matches!(self.stage, Stage::Stalled(_))
    }

    /// True if it is tried again by itself while it is stalled.
    pub fn is_tried_again(&self) -> bool {
        matches!(self.stage, Stage::Stalled(Some(_)))
    }

    /// Losses of its own since it was last known to be well.
    pub fn losses(&self) -> u32 {
        self.losses
    }

    /// The connection that it shared was lost to a message that cannot be read, which may be one of its own.
    pub fn lost_together(&mut self) {
        if self.stage == Stage::Together {
            self.stage = Stage::OneByOne;
        }
    }

    /// A connection of its own was lost to such a message.
    pub fn lost_alone(&mut self, fate: Fate, now: Instant) {
        self.losses = self.losses.saturating_add(1);
        self.apart_until = Some(now + APART);
        let stalled = match fate {
            Fate::Moved => None,
            Fate::Kept => Some(Stage::Stalled(Some(now + TRY_STALLED_AGAIN))),
            Fate::Risked => Some(Stage::Stalled(None)),
        };
        self.stage = stalled.filter(|_| self.losses >= STALL_AFTER).unwrap_or(Stage::OneByOne);
    }

    /// A consumer has begun.
    pub fn started(&mut self, now: Instant) {
        (self.since, self.has_fresh) = (Some(now), false);
    }

    /// A delivery has come; fresh = nobody had it before.
    pub fn arrived(&mut self, is_fresh: bool, now: Instant) {
        self.since = Some(now);
        self.has_fresh |= is_fresh;
    }

    /// A delivery was settled.
    pub fn settled(&mut self, now: Instant) {
        self.since = Some(now);
        let is_culprit = self.apart_until.is_some();
        match self.stage {
            // What came back may be a neighbour of the message that is to blame.
            Stage::OneByOne if is_culprit && !self.has_fresh => {}
            Stage::OneByOne => self.well(Stage::Apart),
            Stage::Apart if self.has_fresh && !is_culprit => self.well(Stage::Together),
            Stage::Apart | Stage::Together | Stage::Stalled(_) => {}
        }
    }

    /// Time has passed. Idle = it is consumed, and nothing of it is unsettled.
    pub fn pass(&mut self, is_idle: bool, now: Instant) {
        let is_quiet = is_idle && self.quiet_at().is_some_and(|at| at <= now);
        let is_over = self.apart_until.is_none_or(|until| until <= now);
        match self.stage {
            Stage::OneByOne | Stage::Apart if is_quiet && is_over => self.well(Stage::Together),
            Stage::OneByOne if is_quiet => self.well(Stage::Apart),
            Stage::Apart if is_over && self.apart_until.is_some() => self.well(Stage::Together),
            Stage::Stalled(Some(until)) if until <= now => self.try_stalled(),
            Stage::OneByOne | Stage::Apart | Stage::Together | Stage::Stalled(_) => {}
        }
    }

    /// There is a new session: where trying costs nothing, that is a reason to try.
    pub fn session_began(&mut self) {
        if self.is_tried_again() {
            self.try_stalled();
        }
    }

    /// When `pass` is worth asking again.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let at = match self.stage {
            Stage::Together => [None, None],
            Stage::OneByOne | Stage::Apart => [self.quiet_at(), self.apart_until],
            Stage::Stalled(until) => [until, None],
        };
        at.into_iter().flatten().filter(|at| *at > now).min()
    }

    fn quiet_at(&self) -> Option<Instant> {
        self.since.map(|since| since + QUIET)
    }

    /// One more loss and it is stalled again.
    fn try_stalled(&mut self) {
        (self.stage, self.losses) = (Stage::OneByOne, STALL_AFTER - 1);
    }

    fn well(&mut self, stage: Stage) {
        (self.stage, self.losses) = (stage, 0);
        if stage == Stage::Together {
            self.apart_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Moments that can be compared, whenever they are asked for.
    fn at(seconds: u64) -> Instant {
        thread_local!(static START: Instant = start());
        START.with(|start| *start) + Duration::from_secs(seconds)
    }

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn start() -> Instant {
        Instant::now()
    }

    /// One that has lost the shared connection and consumes again.
    fn begun() -> Probation {
        let mut probation = Probation::default();
        probation.lost_together();
        probation.started(at(0));
        probation
    }

    fn lose(probation: &mut Probation, fate: Fate, seconds: u64) {
        probation.lost_alone(fate, at(seconds));
        probation.started(at(seconds));
    }

    #[test]
    fn an_innocent_queue_is_back_after_what_came_back_and_one_that_nobody_had_before() {
        let mut probation = begun();
        assert!(probation.is_alone() && probation.is_one_by_one());
        probation.arrived(false, at(1));
        probation.settled(at(1));
        assert!(probation.is_alone() && !probation.is_one_by_one(), "it goes on at full speed");
        probation.arrived(true, at(2));
        assert!(probation.is_alone());
        probation.settled(at(2));
        assert!(!probation.is_alone());
    }

    #[test]
    fn an_empty_queue_is_back_after_a_while_and_one_whose_handler_works_is_not_empty() {
        let mut probation = begun();
        probation.pass(true, at(4));
        assert!(probation.is_alone());
        assert_eq!(probation.wake_at(at(4)), Some(at(5)));
        probation.pass(false, at(60));
        assert!(probation.is_alone());
        assert_eq!(probation.wake_at(at(60)), None, "its next event wakes it");
        probation.pass(true, at(60));
        assert!(!probation.is_alone());
    }

    #[test]
    fn a_culprit_that_the_broker_moves_is_never_stalled_and_stays_apart_for_a_while() {
        let mut probation = begun();
        for loss in 1..=25 {
            lose(&mut probation, Fate::Moved, loss);
            assert!(probation.is_one_by_one(), "{loss}");
        }
        probation.arrived(false, at(30));
        probation.settled(at(30));
        assert!(probation.is_one_by_one(), "its neighbours came back too, and the message may be behind them");
        probation.arrived(true, at(31));
        probation.settled(at(31));
        assert!(!probation.is_one_by_one() && probation.is_alone());
        probation.pass(true, at(100));
        assert!(probation.is_alone());
        probation.pass(false, at(25 + 600));
        assert!(!probation.is_alone());
    }

    #[test]
    fn a_culprit_that_stays_is_stalled_after_three_losses_and_tried_once_every_ten_minutes() {
        let mut probation = begun();
        lose(&mut probation, Fate::Kept, 1);
        lose(&mut probation, Fate::Kept, 2);
        assert!(!probation.is_stalled());
        lose(&mut probation, Fate::Kept, 3);
        assert!(probation.is_stalled() && probation.is_tried_again());
        assert_eq!(probation.wake_at(at(3)), Some(at(603)));
        for due in [603, 1_204] {
            probation.pass(false, at(due));
            assert!(probation.is_one_by_one());
            lose(&mut probation, Fate::Kept, due + 1);
            assert!(probation.is_stalled(), "one loss is enough");
        }
        probation.session_began();
        assert!(probation.is_one_by_one());
        probation.started(at(1_300));
        probation.pass(true, at(1_305));
        assert!(!probation.is_one_by_one() && probation.is_alone(), "somebody took the message away");
    }

    #[test]
    fn a_culprit_that_the_broker_would_drop_is_not_tried_again() {
        let mut probation = begun();
        for loss in 1..=3 {
            lose(&mut probation, Fate::Risked, loss);
        }
        probation.session_began();
        probation.pass(false, at(1_000_000));
        assert!(probation.is_stalled() && !probation.is_tried_again());
        assert_eq!(probation.wake_at(at(4)), None);
    }

    #[test]
    fn what_the_broker_does_with_a_message_follows_from_what_its_queue_is() {
        let lack = |key: &str, found: &str| {
            let (key, found) = (key.to_owned(), found.to_owned());
            Difference { key, wanted: String::new(), found }
        };
        let (quorum, classic) = (QueueType::Quorum, QueueType::Classic);
        let ours = Limit { wanted: Some(20), found: None, is_default: false };
        let found = |limit| Limit { found: Some(limit), ..ours };
        let newer = Limit { is_default: true, ..ours };
        let (no_limit, no_target) = (lack("x-delivery-limit", ""), lack("x-dead-letter-exchange", ""));
        for (wanted, lacks, limit, fate) in [
            (quorum, vec![], ours, Fate::Moved),
            (classic, vec![], ours, Fate::Kept),
            (quorum, vec![lack("x-queue-type", "\"classic\"")], ours, Fate::Kept),
            (quorum, vec![lack("x-queue-type", "")], ours, Fate::Kept),
            (classic, vec![lack("x-queue-type", "\"quorum\"")], ours, Fate::Moved),
            (quorum, vec![no_target.clone()], ours, Fate::Risked),
            (quorum, vec![lack("x-dead-letter-exchange", "\"other\"")], ours, Fate::Moved),
            (quorum, vec![no_limit.clone()], ours, Fate::Risked),
            (quorum, vec![no_limit.clone()], newer, Fate::Moved),
            (quorum, vec![no_limit, no_target], newer, Fate::Risked),
            (quorum, vec![lack("x-delivery-limit", "5")], found(5), Fate::Moved),
            (quorum, vec![lack("x-delivery-limit", "2000000000")], found(2_000_000_000), Fate::Risked),
            (quorum, vec![lack("x-delivery-limit", "-1")], found(-1), Fate::Risked),
            (quorum, vec![], Limit { wanted: Some(1_000), ..ours }, Fate::Risked),
        ] {
            assert_eq!(Fate::of(wanted, &lacks, limit), fate, "{wanted:?} {lacks:?} {limit:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_it_ends_well_once_nothing_is_lost_any_more(
            events in prop::collection::vec((0_u8..6, any::<bool>()), 0..60),
        ) {
            let (mut probation, mut now) = (Probation::default(), 0);
            for (event, flag) in events {
                now += 1;
                match event {
                    0 => probation.lost_together(),
                    1 if probation.is_alone() && !probation.is_stalled() => probation.lost_alone(Fate::Kept, at(now)),
                    2 => probation.started(at(now)),
                    3 => probation.arrived(flag, at(now)),
                    4 => probation.settled(at(now)),
                    _ => probation.pass(flag, at(now)),
                }
                prop_assert!(!probation.is_one_by_one() || probation.is_alone());
                prop_assert!(probation.losses() < STALL_AFTER || probation.is_stalled());
            }
            // Bounded: stalled, tried again, found empty, apart no more.
            for _ in 0..4 {
                probation.started(at(now));
                now += 601;
                probation.pass(true, at(now));
            }
            prop_assert!(!probation.is_alone());
        }
    }
}
