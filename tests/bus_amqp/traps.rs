//! What lapin and RabbitMQ do that shaped the backend, asserted as it is today: a test that fails here says that a
//! safeguard may go.

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::timeout;

use crate::lab::PATIENCE;
use crate::support::rabbitmq;

async fn queue(channel: &Channel) -> ShortString {
    let name = ShortString::from(rabbitmq::prefix());
    let options =
        QueueDeclareOptions { passive: false, durable: false, exclusive: true, auto_delete: false, nowait: false };
    channel.queue_declare(name.clone(), options, FieldTable::default()).await.expect("a queue");
    name
}

async fn publish(channel: &Channel, key: &str, id: u32) -> lapin::PublisherConfirm {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let properties = BasicProperties::default().with_message_id(id.to_string().into());
    channel.basic_publish("".into(), key.into(), options, b"body", properties).await.expect("a publish")
}

async fn consume(channel: &Channel, queue: &ShortString) -> lapin::Consumer {
    let options = BasicConsumeOptions { no_local: false, no_ack: false, exclusive: false, nowait: false };
    channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await.expect("a consumer")
}

#[tokio::test]
async fn lapin_ends_a_stream_without_an_error_when_the_queue_goes() {
    let connection = rabbitmq::shared().await.lapin().await;
    let channel = connection.create_channel().await.expect("a channel");
    let name = queue(&channel).await;
    let mut consumer = consume(&channel, &name).await;
    let options = QueueDeleteOptions { if_unused: false, if_empty: false, nowait: false };
    channel.queue_delete(name, options).await.expect("the queue goes");
    let end = timeout(PATIENCE, consumer.next()).await.expect("an end");
    assert!(end.is_none() && channel.status().connected(), "{end:?}");
}

#[tokio::test]
async fn a_return_rides_on_another_confirm() {
    let connection = rabbitmq::shared().await.lapin().await;
    let channel = connection.create_channel().await.expect("a channel");
    let name = queue(&channel).await;
    channel.confirm_select(ConfirmSelectOptions { nowait: false }).await.expect("confirms");
    let strangers = async {
        loop {
            let mut confirms = Vec::new();
            for id in 0..500 {
                let key = if id % 8 == 0 { "to-nowhere" } else { name.as_str() };
                confirms.push((id, publish(&channel, key, id).await));
            }
            for (id, confirm) in confirms {
                let Confirmation::Ack(Some(returned)) = confirm.await.expect("a confirm") else { continue };
                let of = returned.delivery.properties.message_id().as_ref().map(ShortString::to_string);
                if of != Some(id.to_string()) {
                    return;
                }
            }
        }
    };
    timeout(PATIENCE, strangers).await.expect("lapin hangs a return on a confirm of another message");
}

#[tokio::test]
async fn an_ack_of_many_needs_a_tag_that_is_outstanding() {
    let connection = rabbitmq::shared().await.lapin().await;
    let channel = connection.create_channel().await.expect("a channel");
    let name = queue(&channel).await;
    for id in 0..3 {
        publish(&channel, name.as_str(), id).await;
    }
    let mut consumer = consume(&channel, &name).await;
    for _ in 0..3 {
        timeout(PATIENCE, consumer.next()).await.expect("a delivery").expect("a delivery").expect("a delivery");
    }
    let ack = |tag, multiple| channel.basic_ack(tag, BasicAckOptions { multiple });
    ack(2, false).await.expect("written");
    // Tag 1 is outstanding and would be covered, yet the broker refuses, because tag 2 itself is not.
    ack(2, true).await.expect("written");
    let end = timeout(PATIENCE, consumer.next()).await.expect("an end").expect("an error");
    assert!(end.expect_err("the channel is closed").to_string().contains("PRECONDITION_FAILED"));
}

/// Publishes one message on a channel of its own; true if channel and connection are alive after it was answered.
async fn survives(properties: BasicProperties) -> (bool, bool) {
    let connection = rabbitmq::shared().await.lapin().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions { nowait: false }).await.expect("confirms");
    let name = queue(&channel).await;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let sent = channel.basic_publish("".into(), name, options, b"body", properties).await.expect("a publish");
    let confirmed = timeout(PATIENCE, sent).await.expect("an answer").is_ok();
    // The connection dies a moment after its channels.
    let other = timeout(PATIENCE, connection.create_channel()).await.expect("an answer").is_ok();
    (confirmed, other)
}

#[tokio::test]
async fn a_number_that_is_none_costs_the_whole_connection() {
    let with = |value| {
        let mut headers = FieldTable::default();
        headers.insert("x-odds".into(), value);
        BasicProperties::default().with_headers(headers)
    };
    assert_eq!(survives(with(AMQPValue::Double(f64::MAX))).await, (true, true));
    for number in [f64::NAN, f64::INFINITY] {
        assert_eq!(survives(with(AMQPValue::Double(number))).await, (false, false), "double {number}");
    }
    for number in [f32::NAN, f32::INFINITY] {
        assert_eq!(survives(with(AMQPValue::Float(number))).await, (false, false), "float {number}");
    }
}

#[tokio::test]
async fn a_life_time_beyond_ten_years_costs_the_channel() {
    let living = |milliseconds: &str| BasicProperties::default().with_expiration(milliseconds.into());
    assert_eq!(survives(living("315360000000")).await, (true, true));
    assert_eq!(survives(living("315360000001")).await, (false, true));
}
