//! A comparison by declarations: what is sent next follows from what the broker has refused. Knows no channel.

use super::inequivalent::{self, Current, Inequivalent};
use super::shape::{Guard, Shape};
use crate::domain::message::Value;

/// Why a comparison ends early: each declaration more could make a queue that was deleted a moment ago.
const UNGUARDED: &str = "the broker compares every argument that keeps a declaration from making the queue again";

const QUEUE_TYPE: &str = "x-queue-type";
/// The types of queues. The last is tried first: a stream never has what the other two have, so that a declaration of one
/// has a guard whichever the queue is, and the broker tells the true type.
const TYPES: [&str; 3] = ["quorum", "classic", "stream"];

/// One object that is being found out.
#[derive(Debug)]
pub(super) struct Probe {
    object: String,
    shape: Shape,
    /// Keys that the broker has told, in order.
    told: Vec<String>,
    /// Types that were not tried yet.
    types: Vec<&'static str>,
    /// Whether the first declaration may make what it says.
    may_make: bool,
}

/// What a refusal leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It was taken over: declare again.
    Again,
    /// The object is not there any more.
    Vanished,
    /// All is told.
    Known,
    /// Nothing further can be found out, and why.
    Unknown(String),
}

impl Probe {
    /// For an object such as `queue player-projector`, beginning with what it most likely is.
    pub(super) fn new(object: String, shape: Shape) -> Self {
        Self { object, shape, told: Vec::new(), types: TYPES.to_vec(), may_make: false }
    }

    /// Begins without a guard: nobody minds if an exchange that was deleted a moment ago is made so. The broker accepts
    /// such a declaration, where it writes one with a guard into its log.
    pub(super) fn may_make(self) -> Self {
        Self { may_make: true, ..self }
    }

    /// What is known so far.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What is declared next: what is known, and the guard.
    pub(super) fn declared(&self) -> Shape {
        match self.guard() {
            Some(Guard::With(key, value)) => self.shape.clone().with(key, value),
            Some(Guard::Spent) | None => self.shape.clone(),
        }
    }

    /// Takes in why the broker refused the last declaration.
    pub(super) fn heed(&mut self, reason: String) -> Next {
        if let Some(Guard::With(key, _)) = self.guard()
            && is_refused_guard(&reason, key)
        {
            return Next::Vanished;
        }
        let sent = self.declared();
        let found = inequivalent::parse(&reason, &self.object, |key| sent.value(key));
        let Some(Inequivalent { key, current }) = found else { return Next::Unknown(reason) };
        // Told again although it was taken over: it cannot be said in a way that the broker takes.
        if self.told.contains(&key) {
            return Next::Unknown(reason);
        }
        let is_guard = matches!(self.guard(), Some(Guard::With(guard, _)) if guard == key);
        // Cut from the text: it may well be as it is wanted.
        if is_guard && matches!((&current, &self.shape), (Current::Untold, Shape::Exchange(_))) {
            return Next::Unknown(reason);
        }
        self.shape.take_over(&key, &current);
        self.told.push(key);
        match (self.shape.guard(&self.told), &self.shape) {
            (Guard::With(..), _) => Next::Again,
            // It is compared last.
            (Guard::Spent, Shape::Exchange(_)) => Next::Known,
            (Guard::Spent, Shape::Queue(_)) => self.assume_another_type(),
        }
    }

    /// A broker that compares what one type never has compares it with a queue of another type, which it may not have
    /// told yet (3.10.8 tells `x-max-priority` before it).
    fn assume_another_type(&mut self) -> Next {
        let known = self.shape.clone();
        let is_told = self.told.iter().any(|key| key == QUEUE_TYPE);
        while let Some(kind) = self.types.pop().filter(|_| !is_told) {
            self.shape.take_over(QUEUE_TYPE, &Current::Value(Value::text(kind)));
            if let Guard::With(..) = self.shape.guard(&self.told) {
                return Next::Again;
            }
        }
        self.shape = known;
        Next::Unknown(UNGUARDED.to_owned())
    }

    /// `None` = it goes without.
    fn guard(&self) -> Option<Guard> {
        let is_free = self.may_make && self.told.is_empty() && matches!(self.shape, Shape::Exchange(_));
        (!is_free).then(|| self.shape.guard(&self.told))
    }
}

/// Whether the broker would have had to make the object: it says so of queues and of exchanges in this order.
fn is_refused_guard(reason: &str, key: &str) -> bool {
    reason.contains(&format!("invalid arg '{key}'"))
        || (reason.contains("invalid type '") && reason.contains(&format!("' for arg '{key}'")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::difference::{FoundExchange, FoundQueue};
    use crate::domain::message::Headers;

    fn queue(kind: &str) -> Probe {
        let arguments = Headers::from([("x-queue-type".to_owned(), Value::text(kind))]);
        let queue = FoundQueue { durable: true, auto_delete: false, exclusive: false, arguments };
        Probe::new("queue q".to_owned(), Shape::Queue(queue))
    }

    /// The arguments of the next declaration, but for the type.
    fn sent(probe: &Probe) -> Vec<String> {
        let Shape::Queue(queue) = probe.declared() else { panic!("a queue") };
        queue.arguments.into_keys().filter(|key| key != "x-queue-type").collect()
    }

    fn refused(key: &str, values: &str) -> String {
        format!("PRECONDITION_FAILED - inequivalent arg '{key}' for queue 'q' in vhost '/': received {values}")
    }

    const AS_ONE: &str = "the value '1' of type 'signedint' but current is none";

    #[test]
    fn while_a_guard_is_left_every_declaration_has_one_and_without_one_nothing_is_declared() {
        let mut probe = queue("classic");
        let mut guards = Vec::new();
        let end = loop {
            let [guard] = sent(&probe).try_into().expect("one guard");
            guards.push(guard.clone());
            match probe.heed(refused(&guard, AS_ONE)) {
                Next::Again => {}
                end @ (Next::Vanished | Next::Known | Next::Unknown(_)) => break end,
            }
        };
        assert_eq!(
            guards[..4],
            ["x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size", "x-max-priority"]
        );
        assert_eq!(end, Next::Unknown(UNGUARDED.to_owned()));
    }

    #[test]
    fn a_queue_that_has_what_the_type_never_has_is_of_another_type() {
        let mut probe = queue("quorum");
        for guard in ["x-max-priority", "x-queue-mode"] {
            assert_eq!(sent(&probe), [guard]);
            assert_eq!(probe.heed(refused(guard, AS_ONE)), Next::Again);
        }
        assert_eq!(probe.shape().value(QUEUE_TYPE), Some(Value::text("stream")), "so that the true one is told");
        assert_eq!(sent(&probe), ["x-delivery-limit"]);
        assert_eq!(
            probe.heed(refused(QUEUE_TYPE, "the value 'stream' of type 'longstr' but current is none")),
            Next::Again
        );
        assert_eq!((probe.shape().value(QUEUE_TYPE), sent(&probe)), (None, vec!["x-delivery-limit".to_owned()]));
    }

    #[test]
    fn a_type_that_was_told_is_not_guessed_at() {
        let mut probe = queue("classic");
        assert_eq!(probe.heed(refused(QUEUE_TYPE, "'classic' but current is 'quorum'")), Next::Again);
        assert_eq!(probe.heed(refused("x-max-priority", AS_ONE)), Next::Again);
        assert_eq!(probe.heed(refused("x-queue-mode", AS_ONE)), Next::Unknown(UNGUARDED.to_owned()));
        assert_eq!(probe.shape().value(QUEUE_TYPE), Some(Value::text("quorum")));
    }

    #[test]
    fn a_refused_guard_tells_that_the_queue_is_gone() {
        let mut probe = queue("quorum");
        let other = refused("x-max-length", "none but current is the value '9' of type 'signedint'");
        assert_eq!(probe.heed(other), Next::Again);
        assert_eq!(sent(&probe), ["x-max-length", "x-max-priority"]);
        let gone = "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/'".to_owned();
        assert_eq!(probe.heed(gone), Next::Vanished);
    }

    #[test]
    fn another_type_has_another_guard() {
        let mut probe = queue("quorum");
        assert_eq!(probe.heed(refused("x-queue-type", "'quorum' but current is 'classic'")), Next::Again);
        assert_eq!(sent(&probe), ["x-delivery-limit"]);
    }

    #[test]
    fn what_is_told_twice_or_cannot_be_read_ends_it() {
        let mut probe = queue("quorum");
        let twice = refused("x-max-length", "none but current is the value '[]' of type 'array'");
        assert_eq!(probe.heed(twice.clone()), Next::Again);
        assert_eq!(probe.heed(twice.clone()), Next::Unknown(twice));
        assert_eq!(probe.heed("something new".to_owned()), Next::Unknown("something new".to_owned()));
    }

    fn exchange(kind: &str, alternate: Option<&str>) -> Shape {
        Shape::Exchange(FoundExchange {
            kind: kind.to_owned(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: alternate.map(|name| ("alternate-exchange".to_owned(), Value::text(name))).into_iter().collect(),
        })
    }

    fn refused_exchange(key: &str, values: &str) -> String {
        format!("inequivalent arg '{key}' for exchange 'x' in vhost '/': received {values}")
    }

    const GUARDED: &str = "the value '1.0' of type 'double' but current is none";

    #[test]
    fn an_exchange_that_differs_is_declared_with_a_guard_only_which_tells_the_last_of_it() {
        let mut probe = Probe::new("exchange x".to_owned(), exchange("topic", Some("spare"))).may_make();
        assert_eq!(probe.declared(), exchange("topic", Some("spare")), "it may be made so");
        assert_eq!(probe.heed(refused_exchange("type", "'topic' but current is 'fanout'")), Next::Again);
        let guarded = exchange("fanout", None).with("alternate-exchange", Value::Double(1.0));
        assert_eq!(probe.declared(), guarded);
        assert_eq!(probe.heed(refused_exchange("alternate-exchange", GUARDED)), Next::Known);
        assert_eq!(probe.shape(), &exchange("fanout", None));
    }

    #[test]
    fn an_exchange_that_may_not_be_made_so_has_a_guard_from_the_beginning_and_is_seen_to_be_gone() {
        let mut probe = Probe::new("exchange x".to_owned(), exchange("direct", None));
        assert_eq!(probe.declared(), exchange("direct", None).with("alternate-exchange", Value::Double(1.0)));
        let gone = "PRECONDITION_FAILED - invalid type 'double' for arg 'alternate-exchange' in exchange 'x'";
        assert_eq!(probe.heed(gone.to_owned()), Next::Vanished);
    }

    #[test]
    fn an_alternate_exchange_that_is_cut_from_the_text_of_a_guard_is_unknown() {
        let cut = refused_exchange("alternate-exchange", "'1....");
        let mut probe = Probe::new("exchange x".to_owned(), exchange("direct", Some("spare")));
        assert_eq!(probe.heed(cut.clone()), Next::Unknown(cut.clone()));
        assert_eq!(probe.shape(), &exchange("direct", Some("spare")), "it may be as it is wanted");
        let mut probe = Probe::new("exchange x".to_owned(), exchange("direct", Some("spare"))).may_make();
        assert_eq!(probe.heed(cut), Next::Known);
        assert_ne!(probe.shape(), &exchange("direct", Some("spare")), "the broker has compared it with the wish");
    }
}
