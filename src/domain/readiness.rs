//! Whether this process is ready, from what is known. Knows no probe and no clock.

/// What readiness means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not ready before the first session, then ready until we stop.
    ConnectedOnce,
    /// Follows the link to the broker.
    Broker,
    /// Ready while the process runs.
    Process,
}

/// The link to the broker, as far as readiness is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connected {
    /// There was no session yet.
    Never,
    /// There was one, not now.
    Before,
    /// A session is live.
    Now,
}

/// The readiness answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Send work.
    Ready,
    /// Do not: no session to the broker yet, or not now.
    NotConnected,
    /// Do not: stopping.
    Stopping,
}

/// The rule.
pub fn readiness(mode: Mode, connected: Connected, is_stopping: bool) -> Readiness {
    if is_stopping {
        return Readiness::Stopping;
    }
    match (mode, connected) {
        (Mode::Process, _) | (_, Connected::Now) | (Mode::ConnectedOnce, Connected::Before) => Readiness::Ready,
        (Mode::Broker, Connected::Never | Connected::Before) | (Mode::ConnectedOnce, Connected::Never) => {
            Readiness::NotConnected
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_answers_each_state_of_the_link() {
        use Connected::{Before, Never, Now};
        for (mode, connected, expected) in [
            (Mode::ConnectedOnce, Never, Readiness::NotConnected),
            (Mode::ConnectedOnce, Now, Readiness::Ready),
            (Mode::ConnectedOnce, Before, Readiness::Ready),
            (Mode::Broker, Never, Readiness::NotConnected),
            (Mode::Broker, Now, Readiness::Ready),
            (Mode::Broker, Before, Readiness::NotConnected),
            (Mode::Process, Never, Readiness::Ready),
            (Mode::Process, Before, Readiness::Ready),
        ] {
            assert_eq!(readiness(mode, connected, false), expected, "{mode:?} {connected:?}");
            assert_eq!(readiness(mode, connected, true), Readiness::Stopping);
        }
    }
}
