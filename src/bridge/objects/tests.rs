//! What is remembered of objects, how often it is said and when it rings.

use futures_util::FutureExt as _;

use super::*;
use crate::broker::Broker as _;
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::{Exchange, ExchangeKind, Named, Queue};

fn plan() -> Plan {
    let queue = Queue {
        name: QueueName::parse("work").unwrap(),
        durable: true,
        auto_delete: false,
        exclusive: false,
        arguments: Headers::new(),
        named: Named::new(),
    };
    Plan { mode: TopologyMode::Create, steps: vec![Step::Queue(queue)] }
}

fn owner() -> PlanOf {
    PlanOf::Subscription(SubscriptionName::parse("work").unwrap())
}

fn mismatch(found: &str) -> BrokerError {
    let difference = Difference { key: "type".to_owned(), wanted: "a".to_owned(), found: found.to_owned() };
    BrokerError::Mismatch { object: "queue work".to_owned(), differences: vec![difference], reason: String::new() }
}

#[test]
fn a_trouble_is_said_once_until_it_changes() {
    let mut state = State::default();
    assert!(state.is_news(&owner(), &mismatch("b")));
    assert!(!state.is_news(&owner(), &mismatch("b")));
    assert!(state.is_news(&owner(), &mismatch("c")));
    state.fits(&owner());
    assert!(state.is_news(&owner(), &mismatch("c")));
}

#[test]
fn a_lock_is_said_once_a_second_look_finds_it_too() {
    let lock = BrokerError::Locked { object: "queue work".to_owned() };
    let mut state = State::default();
    assert!(!state.is_news(&owner(), &lock), "the connection that has it may just be going");
    assert!(state.is_news(&owner(), &lock));
    assert!(!state.is_news(&owner(), &lock));
    state.fits(&owner());
    assert!(!state.is_news(&owner(), &lock));
    assert!(state.is_news(&owner(), &mismatch("b")), "anything else is said at once");
    assert!(!state.is_news(&owner(), &lock));
}

#[test]
fn a_lost_session_says_nothing_of_objects() {
    let objects = Objects::default();
    let lost = BrokerError::SessionLost { reason: String::new() };
    objects.applied(&owner(), SessionId(1), &plan(), Err(&lost));
    assert!(objects.troubled().is_empty());
    objects.applied(&owner(), SessionId(1), &plan(), Err(&mismatch("b")));
    objects.applied(&owner(), SessionId(1), &plan(), Err(&lost));
    assert_eq!(objects.troubled(), [owner()], "and mends nothing");
    assert!(!objects.state().is_news(&owner(), &mismatch("b")), "what was said before it is not said again");
}

#[test]
fn a_subscription_that_comes_again_with_its_trouble_is_not_told_of_anew() {
    let objects = Objects::default();
    objects.applied(&owner(), SessionId(1), &plan(), Err(&mismatch("b")));
    objects.forget(&owner());
    assert!(objects.troubled().is_empty());
    assert!(!objects.state().is_news(&owner(), &mismatch("b")));
    objects.forget(&owner());
    assert!(objects.state().is_news(&owner(), &mismatch("c")), "another trouble is news");
    objects.state().fits(&owner());
    objects.forget(&owner());
    assert!(objects.state().is_news(&owner(), &mismatch("c")), "so is one that was mended meanwhile");
}

#[test]
fn what_was_told_in_a_session_is_remembered_up_to_a_bound() {
    let objects = Objects::default();
    let remarks = (0..=SEEN_MAX).map(|number| number.to_string()).collect();
    objects.applied(&owner(), SessionId(1), &plan(), Ok(&Findings { remarks, ..Findings::default() }));
    assert_eq!(objects.state().adopted.len(), SEEN_MAX);
}

#[tokio::test]
async fn an_exchange_that_is_made_again_rings_unless_in_a_pass_over_everything() {
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1_024 });
    let session = broker.connect(SessionId(1)).await.unwrap();
    let name = ExchangeName::parse("events").unwrap();
    let exchange = Step::Exchange(Exchange::durable(name.clone(), ExchangeKind::Topic));
    let plan = Arc::new(Plan { mode: TopologyMode::Create, steps: vec![exchange] });
    let (objects, live) = (Objects::default(), (SessionId(1), session.as_ref()));
    objects.apply(&owner(), live, &plan).await.unwrap();
    broker.faults().delete_exchange(&name);
    objects.apply_in_pass(&owner(), live, &plan).await.unwrap();
    assert_eq!(objects.everything_is_due().now_or_never(), None);
    broker.faults().delete_exchange(&name);
    objects.apply(&owner(), live, &plan).await.unwrap();
    assert_eq!(objects.everything_is_due().now_or_never(), Some(()));
}

#[test]
fn arguments_and_policies_that_drop_messages_are_told_apart_from_others() {
    let lack =
        |key: &str, found: &str| Difference { key: key.to_owned(), wanted: String::new(), found: found.to_owned() };
    for key in ["x-max-length", "x-expires", "policy tidy: max-length", "policy a: b and c: message-ttl"] {
        assert!(drops(&lack(key, "5")), "{key}");
        assert!(!drops(&lack(key, "")), "{key}: there is none");
    }
    for key in ["x-queue-type", "policy tidy: ha-mode", "policy max-length: ha-mode", "delivery-limit"] {
        assert!(!drops(&lack(key, "5")), "{key}");
    }
}

#[test]
fn an_adoption_is_said_once_in_a_session() {
    let objects = Objects::default();
    let lacks = vec![Difference { key: "k".to_owned(), wanted: "a".to_owned(), found: String::new() }];
    let adopted = Adopted { lacks, ..Adopted::same("queue work".to_owned()) };
    let findings = Findings { adopted: vec![adopted], ..Findings::default() };
    for (session, expected) in [(1, 1), (1, 1), (2, 1)] {
        objects.applied(&owner(), SessionId(session), &plan(), Ok(&findings));
        assert_eq!(objects.state().adopted.len(), expected);
        assert_eq!(objects.state().session, Some(SessionId(session)));
    }
    let same = Findings { adopted: vec![Adopted::same("queue same".to_owned())], ..Findings::default() };
    objects.applied(&owner(), SessionId(2), &plan(), Ok(&same));
    assert!(!objects.state().adopted.contains("queue same"), "there is nothing to say of it");
}
