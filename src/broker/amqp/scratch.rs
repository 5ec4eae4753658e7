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
use super::hub::Hub;
use super::opening;
use super::pool::{self, Pool};
use super::shape::{Shape, Wanted};
use crate::broker::BrokerError;
use crate::domain::difference::{FoundExchange, FoundQueue};
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;

/// AMQP's reply code for a close that is no error.
const CLOSE_OK: u16 = 200;

/// Where the channels come from.
#[derive(Debug, Clone)]
enum Source {
    /// An admin connection of the pool.
    Pool(Pool),
    /// The connection that consumes: an exclusive queue exists for one connection only.
    Own(Arc<Connection>, Arc<Hub>),
    /// One that lives no longer than this.
    Lone(Arc<Connection>),
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

    pub(super) fn own(connection: Arc<Connection>, hub: Arc<Hub>, operation_timeout: Duration) -> Self {
        Self { source: Source::Own(connection, hub), operation_timeout }
    }

    pub(super) fn lone(connection: Arc<Connection>, operation_timeout: Duration) -> Self {
        Self { source: Source::Lone(connection), operation_timeout }
    }

    /// Closes a connection that is this one's own. One that is not closed in time goes with its last handle.
    pub(super) async fn end(self) {
        if let Source::Lone(connection) = self.source {
            let close = connection.close(CLOSE_OK, "closed by this process".into());
            let _ = within(self.operation_timeout, "closing a connection", close).await;
        }
    }

    /// A channel that closes itself when it is dropped.
    async fn channel(&self) -> Result<Channel, BrokerError> {
        let limit = self.operation_timeout;
        match &self.source {
            Source::Pool(pool) => Ok(pool::channel(pool, limit).await?.0),
            Source::Own(connection, hub) => opening::own_channel(connection, limit, hub).await,
            Source::Lone(connection) => opening::channel(connection, limit).await,
        }
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

    /// One active declare.
    ///
    /// # Errors
    /// `Mismatch` where the broker takes it not so; the session is gone, or there was no answer.
    pub(super) async fn declare(&self, wanted: Wanted<'_>, shape: &Shape) -> Result<(), BrokerError> {
        match (wanted, shape) {
            (Wanted::Exchange(it), Shape::Exchange(shape)) => self.declare_exchange(&it.name, shape).await,
            (Wanted::Queue(it), Shape::Queue(shape)) => self.declare_queue(&it.name, shape).await,
            (Wanted::Exchange(_), Shape::Queue(_)) | (Wanted::Queue(_), Shape::Exchange(_)) => Ok(()),
        }
    }

    async fn declare_exchange(&self, name: &ExchangeName, shape: &FoundExchange) -> Result<(), BrokerError> {
        let exchange = checked("an exchange name", name.as_str())?;
        let arguments = checked_table(&shape.arguments)?;
        let options = ExchangeDeclareOptions {
            passive: false,
            durable: shape.durable,
            auto_delete: shape.auto_delete,
            internal: shape.internal,
            // Without an answer nobody would know.
            nowait: false,
        };
        let channel = self.channel().await?;
        let call = channel.exchange_declare(exchange, kind(&shape.kind), options, arguments);
        within(self.operation_timeout, &format!("exchange {name}"), call).await
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

    async fn declare_queue(&self, name: &QueueName, shape: &FoundQueue) -> Result<(), BrokerError> {
        let queue = checked("a queue name", name.as_str())?;
        let arguments = checked_table(&shape.arguments)?;
        let options = QueueDeclareOptions {
            passive: false,
            durable: shape.durable,
            exclusive: shape.exclusive,
            auto_delete: shape.auto_delete,
            nowait: false,
        };
        let channel = self.channel().await?;
        let call = channel.queue_declare(queue, options, arguments);
        within(self.operation_timeout, &format!("queue {name}"), call).await.map(drop)
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

    /// Takes a binding away; one that is not there is no error for the broker.
    pub(super) async fn unbind(&self, queue: &QueueName, binding: &Binding) -> Result<(), BrokerError> {
        let destination = checked("a queue name", queue.as_str())?;
        let source = checked("an exchange name", binding.exchange.as_str())?;
        let key = checked("a binding key", &binding.routing_key)?;
        let arguments = checked_table(&binding.arguments)?;
        let channel = self.channel().await?;
        let call = channel.queue_unbind(destination, source, key, arguments);
        let object = format!("binding of queue {queue} to exchange {}", binding.exchange);
        within(self.operation_timeout, &object, call).await
    }
}

/// Types of plugins are sent as they are named: an existing exchange may have one.
fn kind(word: &str) -> ExchangeKind {
    match word {
        "topic" => ExchangeKind::Topic,
        "direct" => ExchangeKind::Direct,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        other => ExchangeKind::Custom(other.into()),
    }
}

fn checked(what: &'static str, text: &str) -> Result<ShortString, BrokerError> {
    short(what, text).map_err(|error| BrokerError::Unsupported { what: error.to_string() })
}

fn checked_table(headers: &Headers) -> Result<FieldTable, BrokerError> {
    table(headers).map_err(|error| BrokerError::Unsupported { what: error.to_string() })
}
