//! The kill switch of a subscription: while most attempts fail, nothing is handed out but a probe now and then. Knows no
//! handler and no clock.
//!
//! A downstream that is away fails every attempt: without a switch a backlog would go through all its attempts at full speed
//! and end in the dead letters.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ledger::DeliveryId;

/// When a kill switch opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KillSwitchSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// It opens when more than this share of `sample` attempts failed, 0 to 1.
    pub share: f64,
    /// Attempts that are looked at, the newest ones; as long as there were fewer, those that are missing count as not failed.
    pub sample: u32,
    /// The first pause; each probe that fails doubles it.
    pub min_pause: Duration,
    /// No pause is longer.
    pub max_pause: Duration,
}

impl Default for KillSwitchSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            share: 0.5,
            sample: 200,
            min_pause: Duration::from_secs(10),
            max_pause: Duration::from_mins(1),
        }
    }
}

/// How an attempt ended, as far as the switch is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The handler has done it.
    Succeeded,
    /// It asked for another attempt, its time ran out, or it was killed.
    Failed,
    /// Nothing that speaks for or against what the handler needs: a message that it refused is bad itself, wherever it is
    /// tried, and one that it gave back was not tried.
    Neither,
}

/// What has become of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing is handed out for so long, then one probe.
    Opened(Duration),
    /// All is handed out again.
    Closed,
}

/// Where the switch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// All is handed out.
    Closed,
    /// Nothing is, before then.
    Open(Instant),
    /// One delivery at a time, until one has succeeded or failed.
    HalfOpen,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant, pause: Duration },
    HalfOpen { probe: Option<DeliveryId>, pause: Duration },
}

/// See the module. Begins closed.
#[derive(Debug)]
pub struct KillSwitch {
    settings: KillSwitchSettings,
    state: State,
    /// The newest attempts since it closed, at most `sample`; true = failed.
    attempts: VecDeque<bool>,
    failed: u32,
    /// The probe that closed it: what was handed out before was tried before, too.
    closed_by: Option<DeliveryId>,
}

impl KillSwitch {
    /// A closed switch; `None` if there is to be none.
    pub fn new(settings: KillSwitchSettings) -> Option<Self> {
        let state = State::Closed;
        let switch = Self { settings, state, attempts: VecDeque::new(), failed: 0, closed_by: None };
        settings.enabled.then_some(switch)
    }

    /// How many deliveries may be handed out now; `None` = any number. `is_out`: whether a handler still has this one. A
    /// probe that nobody has and that has not ended was lost or given back: another one may be tried.
    pub fn allowance(&mut self, now: Instant, is_out: impl Fn(DeliveryId) -> bool) -> Option<usize> {
        if let State::Open { until, pause } = self.state
            && now >= until
        {
            self.state = State::HalfOpen { probe: None, pause };
        }
        match &mut self.state {
            State::Closed => None,
            State::Open { .. } => Some(0),
            State::HalfOpen { probe, .. } => {
                probe.take_if(|probe| !is_out(*probe));
                Some(usize::from(probe.is_none()))
            }
        }
    }

    /// This was handed out.
    pub fn handed(&mut self, id: DeliveryId) {
        if let State::HalfOpen { probe, .. } = &mut self.state {
            probe.get_or_insert(id);
        }
    }

    /// An attempt has ended. Ids rise.
    pub fn ended(&mut self, now: Instant, id: DeliveryId, attempt: Attempt) -> Option<Change> {
        match self.state {
            State::Closed if self.closed_by.is_none_or(|probe| id > probe) => {
                let has_failed = match attempt {
                    Attempt::Succeeded => false,
                    Attempt::Failed => true,
                    Attempt::Neither => return None,
                };
                self.count(has_failed);
                self.is_too_much().then(|| self.open(now, self.settings.min_pause))
            }
            // Handed out before it opened, or beside a probe: tried while it was bad, so it says nothing about now.
            State::Closed | State::Open { .. } => None,
            State::HalfOpen { probe, .. } if probe != Some(id) => None,
            State::HalfOpen { pause, .. } => match attempt {
                Attempt::Succeeded => {
                    (self.state, self.closed_by) = (State::Closed, Some(id));
                    Some(Change::Closed)
                }
                Attempt::Failed => Some(self.open(now, pause.saturating_mul(2).min(self.settings.max_pause))),
                Attempt::Neither => {
                    self.state = State::HalfOpen { probe: None, pause };
                    None
                }
            },
        }
    }

    fn count(&mut self, has_failed: bool) {
        self.attempts.push_back(has_failed);
        self.failed += u32::from(has_failed);
        while self.attempts.len() > usize::try_from(self.settings.sample).unwrap_or(usize::MAX) {
            let oldest = self.attempts.pop_front().unwrap_or_default();
            self.failed -= u32::from(oldest);
        }
    }

    fn is_too_much(&self) -> bool {
        // Of a share of 1 there is no more.
        let most = self.settings.share * f64::from(self.settings.sample);
        f64::from(self.failed) > most || self.failed >= self.settings.sample
    }

    fn open(&mut self, now: Instant, pause: Duration) -> Change {
        self.state = State::Open { until: now + pause, pause };
        self.attempts.clear();
        self.failed = 0;
        Change::Opened(pause)
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        match self.state {
            State::Closed => Position::Closed,
            State::Open { until, .. } => Position::Open(until),
            State::HalfOpen { .. } => Position::HalfOpen,
        }
    }

    /// What it was told.
    pub fn settings(&self) -> &KillSwitchSettings {
        &self.settings
    }
}

#[cfg(test)]
mod tests;
