//! Declarations and look-ups, each on a channel that may die of it: 403, 404, 405 and 406 close the channel.
//!
//! Knows no plan: `topology` decides what to ask.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};

use super::convert::{short, table};
use super::error::within;
use super::pool::{self, Pool};
use crate::broker::BrokerError;
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;
use crate::domain::topology;

/// Where the channels come from.
#[derive(Debug, Clone)]
enum Source {
    /// An admin connection of the pool.
    Pool(Pool),
    /// The connection that consumes: an exclusive queue exists for one connection only.
    Own(Arc<Connection>),
}

/// Makes a channel for each call.
#[derive(Debug, Clone)]
pub(super) struct Scratch {
    source: Source,
    operation_timeout: Duration,
}

impl Scratch {
    pub(super) fn pooled(pool: Pool, operation_timeout: Duration) -> Self {
        Self { source: Source::Pool(pool), operation_timeout }
    }

    pub(super) fn own(connection: Arc<Connection>, operation_timeout: Duration) -> Self {
        Self { source: Source::Own(connection), operation_timeout }
    }

    /// A channel that closes itself when it is dropped.
    async fn channel(&self) -> Result<Channel, BrokerError> {
        match &self.source {
            // The channel keeps the connection; the pool has it back at once, for the next one.
            Source::Pool(pool) => self.open(&*pool::take(pool).await?).await,
            Source::Own(connection) => self.open(connection).await,
        }
    }

    async fn open(&self, connection: &Connection) -> Result<Channel, BrokerError> {
        within(self.operation_timeout, "opening a channel", connection.create_channel()).await
    }

    /// Passive declare of an exchange.
    pub(super) async fn look_for_exchange(&self, name: &ExchangeName) -> Result<(), BrokerError> {
        let exchange = checked("an exchange name", name.as_str())?;
        // The broker looks at nothing but the name.
        let options = ExchangeDeclareOptions {
            passive: true,
            durable: false,
            auto_delete: false,
            internal: false,
            nowait: false,
        };
        let channel = self.channel().await?;
        let call = channel.exchange_declare(exchange, ExchangeKind::Topic, options, FieldTable::default());
        within(self.operation_timeout, &format!("exchange {name}"), call).await
    }

    /// Active declare of an exchange.
    pub(super) async fn declare_exchange(&self, wanted: &topology::Exchange) -> Result<(), BrokerError> {
        let exchange = checked("an exchange name", wanted.name.as_str())?;
        let arguments = checked_table(&wanted.arguments)?;
        let options = ExchangeDeclareOptions {
            passive: false,
            durable: wanted.durable,
            auto_delete: wanted.auto_delete,
            internal: wanted.internal,
            // Without an answer nobody would know.
            nowait: false,
        };
        let channel = self.channel().await?;
        let call = channel.exchange_declare(exchange, kind(wanted.kind), options, arguments);
        within(self.operation_timeout, &format!("exchange {}", wanted.name), call).await
    }

    /// Passive declare of a queue.
    pub(super) async fn look_for_queue(&self, name: &QueueName) -> Result<(), BrokerError> {
        let queue = checked("a queue name", name.as_str())?;
        // The broker looks at nothing but the name.
        let options =
            QueueDeclareOptions { passive: true, durable: false, exclusive: false, auto_delete: false, nowait: false };
        let channel = self.channel().await?;
        let call = channel.queue_declare(queue, options, FieldTable::default());
        within(self.operation_timeout, &format!("queue {name}"), call).await.map(drop)
    }

    /// Active declare of a queue.
    pub(super) async fn declare_queue(&self, wanted: &topology::Queue) -> Result<(), BrokerError> {
        let queue = checked("a queue name", wanted.name.as_str())?;
        let arguments = checked_table(&wanted.arguments)?;
        let options = QueueDeclareOptions {
            passive: false,
            durable: wanted.durable,
            exclusive: wanted.exclusive,
            auto_delete: wanted.auto_delete,
            nowait: false,
        };
        let channel = self.channel().await?;
        let call = channel.queue_declare(queue, options, arguments);
        within(self.operation_timeout, &format!("queue {}", wanted.name), call).await.map(drop)
    }

    /// Binds; repeating a binding is harmless.
    pub(super) async fn bind(&self, queue: &QueueName, binding: &Binding) -> Result<(), BrokerError> {
        let destination = checked("a queue name", queue.as_str())?;
        let source = checked("an exchange name", binding.exchange.as_str())?;
        let key = checked("a binding key", &binding.routing_key)?;
        let arguments = checked_table(&binding.arguments)?;
        let channel = self.channel().await?;
        let call = channel.queue_bind(destination, source, key, QueueBindOptions { nowait: false }, arguments);
        let object = format!("binding of queue {queue} to exchange {}", binding.exchange);
        within(self.operation_timeout, &object, call).await
    }
}

fn kind(kind: topology::ExchangeKind) -> ExchangeKind {
    match kind {
        topology::ExchangeKind::Topic => ExchangeKind::Topic,
        topology::ExchangeKind::Direct => ExchangeKind::Direct,
        topology::ExchangeKind::Fanout => ExchangeKind::Fanout,
        topology::ExchangeKind::Headers => ExchangeKind::Headers,
    }
}

fn checked(what: &'static str, text: &str) -> Result<ShortString, BrokerError> {
    short(what, text).map_err(|error| BrokerError::Unsupported { what: error.to_string() })
}

fn checked_table(headers: &Headers) -> Result<FieldTable, BrokerError> {
    table(headers).map_err(|error| BrokerError::Unsupported { what: error.to_string() })
}
