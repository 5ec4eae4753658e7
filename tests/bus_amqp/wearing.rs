//! What a connection forgets, and what is done about it: each channel that the broker closes costs lapin its number.

use futures_util::StreamExt as _;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions};
use sidebus::broker::conformance::Lab;
use sidebus::broker::{
    Broker, BrokerError, Confirm, ConsumeOptions, LaneRole, Prefetch, Publication, Routing, SessionEvent, SessionId,
};
use sidebus::domain::name::{ExchangeName, QueueName};
use tokio::time::timeout;

use crate::lab::{PATIENCE, RabbitLab, declare, number, to_queue};
use crate::support::rabbitmq;

/// Half as many again as a connection has channels.
const LOOKS: u64 = 3_000;

/// failures.md P8: each look at an exchange that is not there costs a channel.
#[tokio::test]
async fn looks_without_end_at_what_is_not_there_use_nothing_up() {
    let (lab, shared) = (RabbitLab::new().await, rabbitmq::shared().await);
    let broker = AmqpBroker::new(AmqpOptions { pool_size_max: 1, ..shared.options() });
    let (session, queue) = (broker.connect(SessionId(1)).await.expect("a session"), lab.queue("work"));
    declare(&*session, &queue).await;
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    for numbers in (0..LOOKS).collect::<Vec<_>>().chunks(200) {
        let missing: Vec<_> =
            numbers.iter().map(|id| ExchangeName::from_broker(&lab.name(&format!("no{id}")))).collect();
        let batch = numbers.iter().zip(&missing).map(|(id, exchange)| {
            let Publication { mut message, .. } = to_queue(queue.as_str(), *id);
            message.exchange = exchange.clone();
            Publication { message, routing: Routing::Required }
        });
        let outcomes = lane.publish(batch.collect()).await;
        assert_eq!(outcomes, missing.into_iter().map(Confirm::ExchangeMissing).collect::<Vec<_>>());
    }
    assert_eq!(lane.publish(vec![to_queue(queue.as_str(), 1)]).await, [Confirm::Stored]);
    let mut fresh = session.lane(LaneRole::Publish).await.expect("another lane");
    assert_eq!(fresh.publish(vec![to_queue(queue.as_str(), 2)]).await, [Confirm::Stored]);
}

/// failures.md L5.
#[tokio::test]
async fn a_connection_whose_channels_the_broker_has_all_closed_ends_its_session() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    let missing = QueueName::parse(&lab.name("missing")).expect("a name");
    declare(&*session, &queue).await;
    let options = || ConsumeOptions { prefetch: Prefetch::new(10), exclusive: false, own_connection: false };
    let mut tries = 0;
    let end = loop {
        let error = session.consume(missing.clone(), options()).await.expect_err("there is no such queue");
        if !matches!(error, BrokerError::Missing { .. }) {
            break error;
        }
        tries += 1;
        assert!(tries <= 2_047, "no broker of these tests has more");
    };
    assert!(matches!(end, BrokerError::SessionLost { .. }) && tries > 2_000, "after {tries}: {end:?}");
    let mut events = session.events();
    let event = timeout(PATIENCE, events.next()).await.expect("the end is told");
    assert!(matches!(event, Some(SessionEvent::Closed(BrokerError::SessionLost { .. }))), "{event:?}");

    let next = lab.broker().connect(SessionId(2)).await.expect("another session");
    let mut lane = next.lane(LaneRole::Publish).await.expect("a lane");
    assert_eq!(lane.publish(vec![to_queue(queue.as_str(), 7)]).await, [Confirm::Stored]);
    let (mut arrivals, _settler) = next.consume(queue, options()).await.expect("a consumer");
    let came = timeout(PATIENCE, arrivals.next_batch(10)).await.expect("in time").expect("it lives");
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [7]);
}
