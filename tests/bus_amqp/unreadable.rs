//! Messages that lapin cannot read end the connection that they come over, and come again: what the port makes of that.
//! failures.md M1.

use futures_util::StreamExt as _;
use futures_util::future::FutureExt as _;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use sidebus::broker::conformance::Lab as _;
use sidebus::broker::{BrokerError, Confirm, ConsumeOptions, LaneRole, Prefetch, Session, SessionEvent};
use sidebus::domain::name::QueueName;
use tokio::time::timeout;

use crate::lab::{PATIENCE, RabbitLab, declare, number, to_queue};
use crate::support::rabbitmq;
use crate::support::raw::{Killer, RawPublisher};
use crate::support::wait::until;

fn options(own_connection: bool) -> ConsumeOptions {
    ConsumeOptions { prefetch: Prefetch::new(10), exclusive: false, own_connection }
}

/// An exchange that leads to the queue: by way of another one for what only the broker makes too large.
async fn exchange_to(lab: &RabbitLab, queue: &QueueName, killer: Killer) -> String {
    let channel = rabbitmq::shared().await.lapin().await.create_channel().await.expect("a channel");
    let fanout = async |name: String, queue: &str| {
        let options = ExchangeDeclareOptions {
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
        };
        let kind = ExchangeKind::Fanout;
        channel
            .exchange_declare(name.as_str().into(), kind, options, FieldTable::default())
            .await
            .expect("an exchange");
        let (options, to) = (QueueBindOptions { nowait: false }, name.as_str().into());
        channel.queue_bind(queue.into(), to, "".into(), options, FieldTable::default()).await.expect("a binding");
        name
    };
    let direct = fanout(lab.name("to-work"), queue.as_str()).await;
    if killer != Killer::LargeHeaders {
        return direct;
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(direct.as_str().into()));
    let (parking, options) = (lab.name("parking"), lapin::options::QueueDeclareOptions::durable());
    channel.queue_declare(parking.as_str().into(), options, arguments).await.expect("a queue");
    fanout(lab.name("to-parking"), &parking).await
}

/// A queue with such a message in it.
async fn poisoned(lab: &RabbitLab, session: &dyn Session, killer: Killer) -> QueueName {
    let queue = lab.queue("work");
    declare(session, &queue).await;
    let shared = rabbitmq::shared().await;
    let login = (shared.username.as_str(), shared.password.as_str());
    let mut raw = RawPublisher::connect((&shared.host, shared.port), login, &shared.vhost).await;
    raw.publish(&killer.message(&exchange_to(lab, &queue, killer).await)).await;
    queue
}

#[tokio::test]
async fn what_lapin_cannot_read_ends_the_session_and_is_told_from_a_lost_link() {
    for killer in Killer::ALL {
        let lab = RabbitLab::new().await;
        let session = lab.session().await;
        let queue = poisoned(&lab, &*session, killer).await;
        let (mut arrivals, _settler) = session.consume(queue, options(false)).await.expect("a consumer");
        let end = timeout(PATIENCE, arrivals.next_batch(10)).await.expect("an end");
        assert!(matches!(end, Err(BrokerError::Unparsable { .. })), "{killer:?}: {end:?}");
        let told = timeout(PATIENCE, session.events().next()).await.expect("an event");
        assert!(matches!(told, Some(SessionEvent::Closed(BrokerError::Unparsable { .. }))), "{killer:?}: {told:?}");
    }
}

#[tokio::test]
async fn over_a_connection_of_its_own_it_ends_that_consumer_and_nothing_else() {
    for killer in Killer::ALL {
        let lab = RabbitLab::new().await;
        let session = lab.session().await;
        let (other, queue) = (lab.queue("other"), poisoned(&lab, &*session, killer).await);
        declare(&*session, &other).await;
        let (mut others, _settler) = session.consume(other.clone(), options(false)).await.expect("a consumer");
        for _ in 0..2 {
            let (mut arrivals, _settler) = session.consume(queue.clone(), options(true)).await.expect("a consumer");
            let end = timeout(PATIENCE, arrivals.next_batch(10)).await.expect("an end");
            assert!(matches!(end, Err(BrokerError::Unparsable { .. })), "{killer:?}: {end:?}");
            // The same for whatever is asked of it later.
            let change = arrivals.set_prefetch(Prefetch::new(2)).await;
            assert!(matches!(change, Err(BrokerError::Unparsable { .. })), "{killer:?}: {change:?}");
        }
        let mut lane = session.lane(LaneRole::Settle).await.expect("a lane");
        assert_eq!(lane.publish(vec![to_queue(other.as_str(), 7)]).await, [Confirm::Stored]);
        let batch = timeout(PATIENCE, others.next_batch(10)).await.expect("a delivery").expect("the consumer lives");
        assert_eq!(batch.iter().map(number).collect::<Vec<_>>(), [7], "{killer:?}");
        assert_eq!(session.events().next().now_or_never(), None, "the session lives");
    }
}

#[tokio::test]
async fn a_connection_of_its_own_goes_with_its_consumer() {
    let lab = RabbitLab::new().await;
    let session = lab.session().await;
    let queue = lab.queue("work");
    declare(&*session, &queue).await;
    let (mut held, _settler) = session.consume(queue.clone(), options(false)).await.expect("a consumer");
    held.cancel().await.expect("a cancel");
    let open = async |count| {
        let is_so = async || (lab.proxy.open_links() == count).then_some(());
        until(&format!("{count} links are open"), is_so).await;
    };
    // That of the look before the connect ends by itself.
    open(3).await;
    let (mut arrivals, settler) = session.consume(queue, options(true)).await.expect("a consumer");
    open(4).await;
    arrivals.cancel().await.expect("a cancel");
    drop((arrivals, settler));
    open(3).await;
    let halves = session.consume(lab.queue("work"), options(true)).await.expect("a consumer");
    session.close(PATIENCE).await;
    open(0).await;
    drop(halves);
}
