//! Where the series of RabbitMQ differ, each truth asserted by the name of its series. What Sidebus promises holds on all of them; what
//! fails here on a new series is a rule to think over.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use sidebus::domain::version::Version;
use tokio::time::timeout;

use crate::lab::PATIENCE;
use crate::support::rabbitmq;
use crate::support::wait::until;

/// More give-backs than the default limit of 4.0 allows, which is 20.
const ROUNDS: usize = 25;
const MIB: usize = 1024 * 1024;

/// Series that differ in something that Sidebus relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    /// Before 4.0; tried on 3.10.8.
    Three,
    /// 4.0 to 4.2; tried on 4.0.5.
    Four,
    /// From 4.3 on; tried on 4.3.6.
    FourThree,
}

async fn version() -> Version {
    rabbitmq::shared().await.version().await
}

async fn series() -> Series {
    match version().await {
        Version { major: ..4, .. } => Series::Three,
        Version { major: 4, minor: ..3, .. } => Series::Four,
        Version { .. } => Series::FourThree,
    }
}

/// A quorum queue of one test, and a channel on it.
struct Bench {
    connection: Connection,
    channel: Channel,
    queue: String,
}

impl Bench {
    async fn new(arguments: &[(&str, AMQPValue)]) -> Self {
        let connection = rabbitmq::shared().await.lapin().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions { nowait: false }).await.expect("confirms");
        let bench = Self { connection, channel, queue: rabbitmq::prefix() };
        bench.declare(&bench.queue, arguments).await;
        bench
    }

    async fn declare(&self, queue: &str, arguments: &[(&str, AMQPValue)]) {
        let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
        let mut table = FieldTable::default();
        for (name, value) in arguments.iter().chain([&quorum]) {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, table).await.expect("a queue");
    }

    /// True if the broker has it, false if the channel is closed.
    async fn publish(&self, body: &[u8], properties: BasicProperties) -> bool {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let queue = self.queue.as_str().into();
        let Ok(sent) = self.channel.basic_publish("".into(), queue, options, body, properties).await else {
            return false;
        };
        timeout(PATIENCE, sent).await.expect("an answer").is_ok_and(|confirm| confirm.is_ack())
    }

    async fn get(&self, queue: &str) -> Option<BasicGetMessage> {
        let options = BasicGetOptions { no_ack: false };
        self.channel.basic_get(queue.into(), options).await.expect("the queue is there")
    }

    /// Waits for the message.
    async fn take(&self) -> BasicGetMessage {
        until("the message", async || self.get(&self.queue).await).await
    }

    /// Gives back what was taken, then waits for it again.
    async fn again(&mut self, taken: &BasicGetMessage, how: GiveBack) -> BasicGetMessage {
        self.give_back(taken, how).await;
        self.take().await
    }

    async fn give_back(&mut self, taken: &BasicGetMessage, how: GiveBack) {
        let tag = taken.delivery.delivery_tag;
        match how {
            GiveBack::Nack => {
                let options = BasicNackOptions { multiple: false, requeue: true };
                self.channel.basic_nack(tag, options).await.expect("written");
            }
            GiveBack::Reject => {
                self.channel.basic_reject(tag, BasicRejectOptions { requeue: true }).await.expect("written");
            }
            GiveBack::Close => {
                self.channel.close(200, "done".into()).await.expect("a close");
                self.channel = self.connection.create_channel().await.expect("a channel");
            }
        }
    }

    /// Messages that no consumer holds.
    async fn ready(&self) -> u32 {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(self.queue.as_str().into(), options, FieldTable::default()).await;
        let count = found.expect("the queue is there").message_count();
        channel.close(200, "done".into()).await.expect("a close");
        count
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GiveBack {
    Nack,
    Reject,
    Close,
}

/// Failed deliveries that the broker has counted so far.
fn count(taken: &BasicGetMessage) -> Option<i64> {
    let headers = taken.delivery.properties.headers().as_ref()?;
    let count = headers.inner().get("x-delivery-count")?;
    let AMQPValue::LongLongInt(count) = count else { panic!("a count is {count:?}") };
    Some(*count)
}

#[tokio::test]
async fn a_give_back_by_nack_is_uncounted_from_4_3_on_and_counts_before() {
    let mut bench = Bench::new(&[]).await;
    assert!(bench.publish(b"body", BasicProperties::default()).await);
    let first = bench.take().await;
    let second = bench.again(&first, GiveBack::Nack).await;
    let third = bench.again(&second, GiveBack::Nack).await;

    let counts = [count(&first), count(&second), count(&third)];
    match series().await {
        Series::Three => assert_eq!(counts, [Some(0), Some(1), Some(2)]),
        Series::Four => assert_eq!(counts, [None, Some(1), Some(2)]),
        Series::FourThree => assert_eq!(counts, [None, None, None]),
    }
}

#[tokio::test]
async fn a_reject_and_a_closed_channel_count_on_every_series() {
    for how in [GiveBack::Reject, GiveBack::Close] {
        let mut bench = Bench::new(&[]).await;
        assert!(bench.publish(b"body", BasicProperties::default()).await);
        let first = bench.take().await;
        let second = bench.again(&first, how).await;
        let third = bench.again(&second, how).await;

        assert_eq!([count(&second), count(&third)], [Some(1), Some(2)], "{how:?}");
    }
}

/// Give-backs after which a message was dead-lettered; none if it outlived all of them.
async fn dead_after(limit: Option<i64>, how: GiveBack) -> Option<usize> {
    let dead = rabbitmq::prefix();
    let limit = limit.map(|limit| ("x-delivery-limit", AMQPValue::LongLongInt(limit)));
    let target = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", &dead)];
    let target = target.map(|(name, value)| (name, AMQPValue::LongString(value.into())));
    let mut bench = Bench::new(&target.into_iter().chain(limit).collect::<Vec<_>>()).await;
    bench.declare(&dead, &[]).await;
    assert!(bench.publish(b"body", BasicProperties::default()).await);
    let mut taken = bench.take().await;
    for round in 1..=ROUNDS {
        bench.give_back(&taken, how).await;
        let back = until("the message, in one of the two queues", async || match bench.get(&bench.queue).await {
            Some(back) => Some(Some(back)),
            None => bench.get(&dead).await.map(|_| None),
        });
        match back.await {
            Some(back) => taken = back,
            None => return Some(round),
        }
    }
    None
}

#[tokio::test]
async fn a_quorum_queue_without_a_limit_gives_up_after_20_from_4_0_on() {
    let found = dead_after(None, GiveBack::Reject).await;

    match series().await {
        Series::Three => assert_eq!(found, None),
        Series::Four | Series::FourThree => assert_eq!(found, Some(21)),
    }
}

#[tokio::test]
async fn a_negative_limit_means_none_from_4_0_on_and_death_at_once_before() {
    let found = dead_after(Some(-1), GiveBack::Reject).await;

    match series().await {
        Series::Three => assert_eq!(found, Some(1)),
        Series::Four | Series::FourThree => assert_eq!(found, None),
    }
}

#[tokio::test]
async fn give_backs_by_nack_use_up_the_limit_before_4_3() {
    let found = dead_after(Some(20), GiveBack::Nack).await;

    match series().await {
        Series::Three | Series::Four => assert_eq!(found, Some(21)),
        Series::FourThree => assert_eq!(found, None),
    }
}

/// A line of a dead-lettering history, as a broker writes it.
fn death(queue: &str, count: i64) -> AMQPValue {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut line = FieldTable::default();
    line.insert("count".into(), AMQPValue::LongLongInt(count));
    line.insert("reason".into(), text("rejected"));
    line.insert("queue".into(), text(queue));
    line.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
    line.insert("exchange".into(), text(""));
    line.insert("routing-keys".into(), AMQPValue::FieldArray(vec![text(queue)].into()));
    AMQPValue::FieldArray(vec![AMQPValue::FieldTable(line)].into())
}

#[tokio::test]
async fn a_history_of_deaths_that_a_client_sends_goes_on_before_4_0_only() {
    let dead = rabbitmq::prefix();
    let target = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", &dead)];
    let bench = Bench::new(&target.map(|(name, value)| (name, AMQPValue::LongString(value.into())))).await;
    bench.declare(&dead, &[]).await;
    let mut headers = FieldTable::default();
    headers.insert("x-death".into(), death(&bench.queue, 5));
    assert!(bench.publish(b"body", BasicProperties::default().with_headers(headers)).await);
    let taken = bench.take().await;
    let options = BasicRejectOptions { requeue: false };
    bench.channel.basic_reject(taken.delivery.delivery_tag, options).await.expect("written");
    let letter = until("the letter", async || bench.get(&dead).await).await;

    let headers = letter.delivery.properties.headers().clone().expect("a history");
    let Some(AMQPValue::FieldArray(lines)) = headers.inner().get("x-death") else { panic!("{headers:?}") };
    let [AMQPValue::FieldTable(line)] = lines.as_slice() else { panic!("{lines:?}") };
    let count = line.inner().get("count").cloned();
    match series().await {
        Series::Three => assert_eq!(count, Some(AMQPValue::LongLongInt(6))),
        Series::Four | Series::FourThree => assert_eq!(count, Some(AMQPValue::LongLongInt(1))),
    }
}

#[tokio::test]
async fn a_prefetch_for_a_whole_channel_is_refused_by_quorum_queues_and_means_each_consumer_from_4_3_on() {
    let bench = Bench::new(&[]).await;
    for _ in 0..3 {
        assert!(bench.publish(b"body", BasicProperties::default()).await);
    }
    bench.channel.basic_qos(1, BasicQosOptions { global: true }).await.expect("every series says yes at first");
    let consume = async || {
        let options = BasicConsumeOptions::default();
        bench.channel.basic_consume(bench.queue.as_str().into(), "".into(), options, FieldTable::default()).await
    };
    let first = consume().await;

    match series().await {
        Series::Three | Series::Four => {
            let error = first.map(|_| ()).expect_err("no consumer").to_string();
            assert!(error.contains("does not support global qos"), "{error}");
        }
        Series::FourThree => {
            let _both = (first.expect("a consumer"), consume().await.expect("a second one"));
            until("each consumer holds one of three", async || (bench.ready().await == 1).then_some(())).await;
        }
    }
}

#[tokio::test]
async fn a_message_of_17_mib_costs_the_channel_from_4_0_on() {
    let body = vec![0; 17 * MIB];
    let bench = Bench::new(&[]).await;
    let stored = bench.publish(&body, BasicProperties::default()).await;

    match series().await {
        Series::Three => assert!(stored),
        Series::Four | Series::FourThree => assert!(!stored),
    }
    // What Sidebus lets through at most fits everywhere.
    let bench = Bench::new(&[]).await;
    assert!(bench.publish(&body[..16 * MIB], BasicProperties::default()).await);
}

#[tokio::test]
async fn a_queue_that_dies_with_the_broker_is_taken_by_every_series() {
    let bench = Bench::new(&[]).await;
    let options = QueueDeclareOptions { durable: false, ..QueueDeclareOptions::default() };
    let name = rabbitmq::prefix();
    let declared = bench.channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await;

    assert!(declared.is_ok(), "{declared:?}");
}

#[tokio::test]
async fn a_session_tells_the_version_that_the_node_itself_tells() {
    let shared = rabbitmq::shared().await;
    let Some(node) = &shared.node else {
        println!("skipped: a broker by address is asked nothing");
        return;
    };
    let told = node.ctl(&["eval", "io:format(rabbit_misc:version())."]).await;

    assert!(told.starts_with(&shared.version().await.to_string()), "{told}");
}

#[tokio::test]
async fn a_quorum_queue_hands_out_by_priority_from_4_3_on() {
    let bench = Bench::new(&[]).await;
    // All below 5, which 4.0 calls one priority.
    for priority in 1..=3 {
        assert!(bench.publish(&[priority], BasicProperties::default().with_priority(priority)).await);
    }
    let mut found = Vec::new();
    for _ in 0..3 {
        found.extend(bench.take().await.delivery.data);
    }

    match series().await {
        Series::Three | Series::Four => assert_eq!(found, [1, 2, 3]),
        Series::FourThree => assert_eq!(found, [3, 2, 1]),
    }
}

/// Deleting the folder of an unpacked broker must never reach the machine's files.
#[tokio::test]
async fn nobody_else_sees_what_a_node_has_mounted_in_its_root() {
    let shared = rabbitmq::shared().await;
    let Some(root) = shared.node.as_ref().and_then(|node| node.root()) else {
        println!("skipped: this node has the root of the machine");
        return;
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel's own table");
    let inner = root.join("proc");
    let inner = std::fs::canonicalize(&inner).unwrap_or(inner);

    assert!(mounts.contains(" /proc "), "{mounts}");
    assert!(!mounts.contains(&format!(" {} ", inner.display())), "{mounts}");
}
