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
}

/// What a refusal leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It was taken over: declare again.
    Again,
    /// The object is not there any more.
    Vanished,
    /// Nothing further can be found out, and why.
    Unknown(String),
}

impl Probe {
    /// For an object such as `queue player-projector`, beginning with what it most likely is.
    pub(super) fn new(object: String, shape: Shape) -> Self {
        Self { object, shape, told: Vec::new(), types: TYPES.to_vec() }
    }

    /// What is known so far.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What is declared next: what is known, and the guard.
    pub(super) fn declared(&self) -> Shape {
        match (self.guard(), self.shape.clone()) {
            (Guard::With(key, value), Shape::Queue(mut queue)) => {
                queue.arguments.entry(key.to_owned()).or_insert(value);
                Shape::Queue(queue)
            }
            (Guard::With(..) | Guard::NeverHad | Guard::Spent, shape) => shape,
        }
    }

    /// Takes in why the broker refused the last declaration.
    pub(super) fn heed(&mut self, reason: String) -> Next {
        if let Guard::With(key, _) = self.guard()
            && reason.contains(&format!("invalid arg '{key}'"))
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
        self.shape.take_over(&key, &current);
        self.told.push(key);
        match self.guard() {
            Guard::Spent => self.assume_another_type(),
            Guard::With(..) | Guard::NeverHad => Next::Again,
        }
    }

    /// A broker that compares what one type never has compares it with a queue of another type, which it may not have
    /// told yet (3.10.8 tells `x-max-priority` before it).
    fn assume_another_type(&mut self) -> Next {
        let known = self.shape.clone();
        let is_told = self.told.iter().any(|key| key == QUEUE_TYPE);
        while let Some(kind) = self.types.pop().filter(|_| !is_told) {
            self.shape.take_over(QUEUE_TYPE, &Current::Value(Value::text(kind)));
            if let Guard::With(..) = self.guard() {
                return Next::Again;
            }
        }
        self.shape = known;
        Next::Unknown(UNGUARDED.to_owned())
    }

    fn guard(&self) -> Guard {
        self.shape.guard(&self.told)
    }
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
                end @ (Next::Vanished | Next::Unknown(_)) => break end,
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

    #[test]
    fn an_exchange_has_no_guard_and_is_compared_without() {
        let exchange = FoundExchange {
            kind: "topic".to_owned(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Headers::new(),
        };
        let mut probe = Probe::new("exchange x".to_owned(), Shape::Exchange(exchange.clone()));
        assert_eq!(probe.declared(), Shape::Exchange(exchange.clone()));
        let refused = "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is 'fanout'";
        assert_eq!(probe.heed(refused.to_owned()), Next::Again);
        assert_eq!(probe.shape(), &Shape::Exchange(FoundExchange { kind: "fanout".to_owned(), ..exchange }));
    }
}
