//! The seam for whoever sees objects whole, bindings included. Knows no protocol: AMQP itself cannot do it.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::domain::difference::{Difference, FoundExchange, FoundQueue, value_text};
use crate::domain::message::{Headers, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;

/// Looks at objects of the broker and touches nothing. An error says why nobody could tell; it never fails a plan.
pub trait Inspect: fmt::Debug + Send + Sync {
    /// An exchange as it exists; `None` = there is none of this name.
    fn exchange<'a>(&'a self, name: &'a ExchangeName) -> BoxFuture<'a, Result<Option<FoundExchange>, String>>;

    /// A queue as it exists.
    fn queue<'a>(&'a self, name: &'a QueueName) -> BoxFuture<'a, Result<Option<QueueReport>, String>>;

    /// What feeds a queue, but for the nameless exchange; `None` = there is no such queue.
    fn bindings<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Vec<Binding>>, String>>;
}

/// A queue and what rules it.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueReport {
    /// As it was declared.
    pub queue: FoundQueue,
    /// What policies add; `None` = no policy matches.
    pub policy: Option<Policy>,
}

/// Policies that rule a queue, put together by the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The name of the policy, and of the operator's policy, where there are both.
    pub name: String,
    /// Such as `message-ttl` and `max-length`, without the `x-` of arguments.
    pub definition: Headers,
}

impl Policy {
    /// Requeues that it allows.
    pub fn delivery_limit(&self) -> Option<i64> {
        self.definition.get("delivery-limit").and_then(Value::as_integer)
    }

    /// What it rules, as differences from a queue that no policy rules: nobody has named them in the settings.
    pub fn differences(&self) -> Vec<Difference> {
        let one = |(key, value): (&String, _)| Difference {
            key: format!("policy {}: {key}", self.name),
            wanted: String::new(),
            found: value_text(value),
        };
        self.definition.iter().map(one).collect()
    }
}
