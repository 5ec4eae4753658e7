//! Who lives how long: sessions, channels, exclusive queues; and the rules for topology that are ours to choose.

use super::*;
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, ExchangeKind};

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_the_last_of_its_parts() {
    let broker = broker();
    let watcher = session(&broker).await;
    let work = declare(&watcher, "work", &[]).await;
    fill(&watcher, &work, &["a", "b"]).await;

    let dying = session(&broker).await;
    let mut tap = consume(&dying, &work, 10).await;
    let taken = tap.take(1).await;
    drop(dying);
    assert_depth(&broker, &work, 0, 2); // its consumer keeps it
    assert_eq!(tap.settle(taken, Settlement::Ack).await, [Settled::Applied]);
    drop(tap);
    assert_depth(&broker, &work, 1, 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_arrivals_give_back_only_the_untaken() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    fill(&session, &work, &["a", "b", "c"]).await;
    let Tap { mut arrivals, mut settler } = consume(&session, &work, 10).await;
    let taken = arrivals.next_batch(1).await.unwrap().remove(0);
    drop(arrivals);
    assert_depth(&broker, &work, 2, 1);
    assert_eq!(settler.settle(vec![(taken.receipt, Settlement::Ack)], Proof::Read).await, [Settled::Applied]);
    assert_depth(&broker, &work, 2, 0);
}

#[tokio::test(start_paused = true)]
async fn receipts_of_another_channel_are_stale_and_settle_nothing() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    fill(&session, &work, &["a", "b"]).await;
    let mut one = consume(&session, &work, 1).await;
    let mut two = consume(&session, &work, 1).await;
    let of_one = one.take(1).await;
    two.take(1).await;
    assert_eq!(two.settle(of_one, Settlement::Ack).await, [Settled::Stale]);
    assert_depth(&broker, &work, 0, 2);
}

#[tokio::test(start_paused = true)]
async fn consumers_take_turns() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    let mut one = consume(&session, &work, 10).await;
    let mut two = consume(&session, &work, 10).await;
    for text in ["a", "b", "c", "d"] {
        fill(&session, &work, &[text]).await;
    }
    assert_eq!(bodies(&one.take(2).await), ["a", "c"]);
    assert_eq!(bodies(&two.take(2).await), ["b", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_consumer_is_passed_over() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    let mut small = consume(&session, &work, 1).await;
    let mut large = consume(&session, &work, 10).await;
    fill(&session, &work, &["a", "b", "c", "d"]).await;
    assert_eq!(bodies(&small.take(1).await), ["a"]);
    assert_eq!(bodies(&large.take(3).await), ["b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_is_gone_before_others_are_served() {
    let broker = broker();
    let owner = session(&broker).await;
    let mut own = queue("own", &[]);
    own.exclusive = true;
    create(&owner, vec![Step::Queue(own.clone())]).await.unwrap();
    let other = session(&broker).await;
    let locked = BrokerError::Locked { object: "queue own".to_owned() };
    assert_eq!(create(&other, vec![Step::Queue(own.clone())]).await, Err(locked));
    drop(owner);
    assert_eq!(broker.faults().depth(&own.name), None);
    let created = Findings { created: vec!["queue own".to_owned()], ..Findings::default() };
    assert_eq!(create(&other, vec![Step::Queue(own)]).await, Ok(created));
}

#[tokio::test(start_paused = true)]
async fn verify_compares_too() {
    let broker = broker();
    let session = session(&broker).await;
    let mut exchange = Exchange::durable(ExchangeName::from_broker("events"), ExchangeKind::Topic);
    create(&session, vec![Step::Exchange(exchange.clone())]).await.unwrap();
    exchange.kind = ExchangeKind::Fanout;
    exchange.named.insert("type".to_owned());
    let plan = Plan { mode: TopologyMode::Verify, steps: vec![Step::Exchange(exchange)] };
    let found = session.apply(Arc::new(plan)).await;
    assert!(matches!(found, Err(BrokerError::Mismatch { .. })), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shared_queue_does_not_become_exclusive() {
    let broker = broker();
    let session = session(&broker).await;
    declare(&session, "work", &[]).await;
    let mut wanted = queue("work", &[]);
    wanted.exclusive = true;
    let found = create(&session, vec![Step::Queue(wanted)]).await;
    assert!(matches!(found, Err(BrokerError::Mismatch { .. })), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_internal_exchange_takes_no_publishes() {
    let broker = broker();
    let session = session(&broker).await;
    let mut exchange = Exchange::durable(ExchangeName::from_broker("inner"), ExchangeKind::Fanout);
    exchange.internal = true;
    create(&session, vec![Step::Exchange(exchange.clone())]).await.unwrap();
    let mut publication = to(&name("any"), "refused");
    publication.message.exchange = exchange.name;
    let confirms = publish(&session, vec![publication]).await;
    assert!(matches!(confirms[..], [Confirm::NotSent(BrokerError::AccessRefused { .. })]), "{confirms:?}");
}

#[tokio::test(start_paused = true)]
async fn an_auto_delete_exchange_goes_with_its_last_queue() {
    let broker = broker();
    let session = session(&broker).await;
    let mut exchange = Exchange::durable(ExchangeName::from_broker("fleeting"), ExchangeKind::Fanout);
    exchange.auto_delete = true;
    let work = declare(&session, "work", &[]).await;
    let binding = Binding { exchange: exchange.name.clone(), routing_key: String::new(), arguments: Headers::new() };
    let bind = Step::Bind { queue: work.clone(), exclusive: false, binding };
    create(&session, vec![Step::Exchange(exchange.clone()), bind]).await.unwrap();
    let mut publication = to(&work, "routed");
    publication.message.exchange = exchange.name.clone();
    assert_eq!(publish(&session, vec![publication.clone()]).await, [Confirm::Stored]);

    broker.faults().delete_queue(&work);
    assert_eq!(publish(&session, vec![publication]).await, [Confirm::ExchangeMissing(exchange.name)]);
}

#[tokio::test(start_paused = true)]
async fn floats_that_are_not_finite_keep_their_bits() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    let (float, double) = (f32::from_bits(0x7fc0_1234), f64::from_bits(0xfff8_0000_0000_4321));
    let mut publication = to(&work, "strange");
    publication.message.properties.headers =
        Headers::from([("f".to_owned(), Value::Float(float)), ("d".to_owned(), Value::Double(double))]);
    assert_eq!(publish(&session, vec![publication]).await, [Confirm::Stored]);
    let taken = consume(&session, &work, 1).await.take(1).await;
    let (Some(Value::Float(f)), Some(Value::Double(d))) = (headers(&taken[0]).get("f"), headers(&taken[0]).get("d"))
    else {
        panic!("{taken:?}")
    };
    assert_eq!((f.to_bits(), d.to_bits()), (float.to_bits(), double.to_bits()));
}

#[tokio::test(start_paused = true)]
async fn a_body_is_shared_and_never_copied() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    let publication = to(&work, "shared");
    let address = publication.message.body.as_ptr();
    publish(&session, vec![publication]).await;
    let taken = consume(&session, &work, 1).await.take(1).await;
    assert_eq!(taken[0].message.body.as_ptr(), address);
}
