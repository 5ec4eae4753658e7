//! The bare AMQP client, as somebody writes it who knows lapin well: confirms pipelined, acks coalesced.

use std::pin::Pin;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::future::poll_immediate;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::place::{Stage, Target};

/// A connection and a channel of its own.
pub(crate) async fn open(stage: &Stage) -> (Connection, Channel) {
    let connection = Connection::connect(&stage.url, ConnectionProperties::default()).await.expect("the broker is up");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// A publisher with confirms.
#[derive(Debug)]
pub(crate) struct BarePublisher {
    _connection: Connection,
    channel: Channel,
    exchange: String,
    routing_keys: Vec<String>,
    window: usize,
}

type Unconfirmed = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>;

impl BarePublisher {
    /// Publishes to these queues in turn.
    pub(crate) async fn open(stage: &Stage, targets: &[Target], window: usize) -> Self {
        let (connection, channel) = open(stage).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let routing_keys = targets.iter().map(|target| target.routing_key.clone()).collect();
        Self { _connection: connection, channel, exchange: stage.exchange.clone(), routing_keys, window }
    }

    /// Publishes until the last is confirmed. Each call is polled once, which queues its frames in order, and awaited later.
    pub(crate) async fn publish(&self, bodies: impl Iterator<Item = Vec<u8>>) {
        let mut unconfirmed = Unconfirmed::new();
        for (number, body) in bodies.enumerate() {
            self.begin(number, body, &mut unconfirmed).await;
            if unconfirmed.len() >= self.window {
                unconfirmed.next().await;
            }
        }
        while unconfirmed.next().await.is_some() {}
    }

    /// Begins one publish.
    pub(crate) async fn begin(&self, number: usize, body: Vec<u8>, unconfirmed: &mut Unconfirmed) {
        let (channel, exchange) = (self.channel.clone(), self.exchange.clone());
        let key = self.routing_keys[number % self.routing_keys.len()].clone();
        let mut publish: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let id = number.to_string();
            let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let written = channel.basic_publish(exchange.into(), key.into(), options, &body, properties).await;
            let confirm = written.expect("it is written").await.expect("it is confirmed");
            assert!(matches!(confirm, Confirmation::Ack(None)), "{confirm:?}");
        });
        let begun = std::future::poll_fn(|context| Poll::Ready(publish.as_mut().poll(context))).await;
        if begun.is_pending() {
            unconfirmed.push(publish);
        }
    }
}

/// A consumer that acks once a quarter of what it may hold, and when nothing more is there.
#[derive(Debug)]
pub(crate) struct BareConsumer {
    _connection: Connection,
    channel: Channel,
    consumer: lapin::Consumer,
    quarter: usize,
}

impl BareConsumer {
    pub(crate) async fn open(stage: &Stage, target: &Target, prefetch: u16) -> Self {
        let (connection, channel) = open(stage).await;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("a prefetch");
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(target.queue.as_str().into(), "".into(), options, arguments).await;
        let quarter = usize::from(prefetch / 4).max(1);
        Self { _connection: connection, channel, consumer: consumer.expect("a consumer"), quarter }
    }

    /// Takes so many deliveries; the last ack is written when this ends.
    pub(crate) async fn take(&mut self, messages: usize, mut seen: impl FnMut(&[u8])) {
        let (mut taken, mut unacked, mut tag) = (0, 0, 0);
        while taken < messages {
            let delivery = if let Some(delivery) = poll_immediate(self.consumer.next()).await {
                delivery
            } else {
                self.ack(tag, &mut unacked).await;
                self.consumer.next().await
            };
            let delivery: Delivery = delivery.expect("it goes on").expect("a delivery");
            seen(&delivery.data);
            (taken, unacked, tag) = (taken + 1, unacked + 1, delivery.delivery_tag);
            if unacked == self.quarter {
                self.ack(tag, &mut unacked).await;
            }
        }
        self.ack(tag, &mut unacked).await;
    }

    async fn ack(&self, tag: u64, unacked: &mut usize) {
        if *unacked > 0 {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.expect("it is written");
            *unacked = 0;
        }
    }
}
