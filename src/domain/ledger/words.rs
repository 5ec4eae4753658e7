//! The words that go into the ledger and come out of it.

/// One connected handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One handing-out of a message: rising, below 2^53, never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub i64);

/// What became of a verdict or an extension; the words of the wire contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Acked on a live channel.
    Acked,
    /// The retry copy is confirmed and the original acked.
    RetryScheduled,
    /// The dead letter is confirmed and the original acked.
    DeadLettered,
    /// Given back.
    Released,
    /// The clock was set.
    Extended,
    /// The deadline had passed.
    LeaseExpired,
    /// The session was lost meanwhile.
    LeaseLost,
    /// This stream never held that id, or it is forgotten.
    UnknownDelivery,
    /// No verdict, or a bad one; the lease stays.
    Invalid,
    /// Another verdict came first.
    AlreadySettled,
}

impl Outcome {
    /// True if it took effect.
    pub fn took_effect(self) -> bool {
        match self {
            Self::Acked | Self::RetryScheduled | Self::DeadLettered | Self::Released | Self::Extended => true,
            Self::LeaseExpired | Self::LeaseLost | Self::UnknownDelivery | Self::Invalid | Self::AlreadySettled => {
                false
            }
        }
    }
}

/// The ledger's word on a verdict.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<L> {
    /// Carry it out, then tell the ledger with `settled`.
    Act(L),
    /// Nothing to do; this is the result.
    Result(Outcome),
    /// Another verdict came first; this is what it did, if that is known yet.
    Already(Option<Outcome>),
    /// The same verdict again, and the first is still being carried out: harmless, its result will come.
    Pending,
}

/// A lease that has run out.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<L> {
    /// Who held it and under which id; `None` = it was still waiting for a handler.
    pub holder: Option<(StreamId, DeliveryId)>,
    /// What comes out.
    pub load: L,
    /// Which of the two clocks.
    pub clock: Clock,
}

/// The two clocks of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It was the oldest unsettled one of its stream for the whole settle timeout: a failed attempt.
    SettleTimeout,
    /// Near the longest lease, and it has not been the oldest for a whole settle timeout: given back, not counted.
    LeaseLimit,
    /// Near the longest lease, and only extensions have kept it so long: a failed attempt.
    LeaseUsedUp,
}

/// Whether a delivery may take its handler down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// Nothing speaks against it.
    None,
    /// A handler was lost that held it, among others perhaps, or nobody here knows why it comes again.
    Suspect,
    /// A handler was lost that held nothing else.
    Charged,
}

/// What was lost with its session or channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost<L> {
    /// It waited for a handler.
    pub waiting: Vec<L>,
    /// What each stream was working on.
    pub revoked: Vec<(StreamId, Vec<(DeliveryId, L)>)>,
}

/// What one delivery weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of the body.
    pub body: u64,
    /// Bytes of the whole encoded frame that carries it alone.
    pub encoded: u64,
}
