//! RabbitMQ's HTTP management API, as far as topology asks it: one object, its bindings, its policy.
//!
//! It only reads. Knows no plan and no AMQP; `http` carries the calls, `json` reads the answers.

use bytes::Bytes;
use hyper::StatusCode;

use super::inspect::QueueReport;
use super::options::percent_encode;
use crate::domain::difference::FoundExchange;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;

mod error;
mod http;
mod inspector;
mod json;
mod options;

pub use error::ManagementError;
pub use inspector::ManagementInspector;
pub use options::ManagementOptions;

/// Characters of an answer that an error quotes.
const QUOTED_CHARS_MAX: usize = 200;

/// Asks one management API about one virtual host.
#[derive(Debug, Clone)]
pub struct Management {
    options: ManagementOptions,
    vhost: String,
}

impl Management {
    /// For a virtual host; opens nothing yet.
    pub fn new(options: ManagementOptions, vhost: String) -> Self {
        Self { options, vhost }
    }

    /// Where it is, without credentials.
    pub fn endpoint(&self) -> String {
        self.options.endpoint()
    }

    /// An exchange as it exists.
    ///
    /// # Errors
    /// [`ManagementError::NotThere`] if there is none of this name; else why nobody could tell.
    pub async fn exchange(&self, name: &ExchangeName) -> Result<FoundExchange, ManagementError> {
        let body = self.read("exchanges", name.as_str(), "").await?;
        self.understood("an exchange", json::exchange(&body))
    }

    /// A queue as it exists, and the policies that rule it.
    ///
    /// # Errors
    /// As of [`Management::exchange`].
    pub async fn queue(&self, name: &QueueName) -> Result<QueueReport, ManagementError> {
        let body = self.read("queues", name.as_str(), "").await?;
        self.understood("a queue", json::queue(&body))
    }

    /// What feeds a queue, but for the nameless exchange, which feeds every queue.
    ///
    /// # Errors
    /// As of [`Management::exchange`].
    pub async fn bindings(&self, name: &QueueName) -> Result<Vec<Binding>, ManagementError> {
        let body = self.read("queues", name.as_str(), "/bindings").await?;
        self.understood("the bindings of a queue", json::bindings(&body))
    }

    /// The body of `/api/{collection}/{vhost}/{name}{rest}`.
    async fn read(&self, collection: &str, name: &str, rest: &str) -> Result<Bytes, ManagementError> {
        let path = format!("/api/{collection}/{}/{}{rest}", percent_encode(&self.vhost), percent_encode(name));
        let (status, body) = http::get(&self.options, &path).await?;
        if status == StatusCode::OK { Ok(body) } else { Err(self.refusal(status, &body, name)) }
    }

    fn refusal(&self, status: StatusCode, body: &[u8], name: &str) -> ManagementError {
        let endpoint = self.endpoint();
        let words = json::reason(body);
        let quoted = |otherwise: &str| self.options.scrub(words.as_deref().unwrap_or(otherwise));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ManagementError::Refused { endpoint, user: self.options.user().to_owned(), reason: quoted("no reason") }
            }
            // Any web server answers 404; this one says so in its own form.
            StatusCode::NOT_FOUND if words.is_some() => ManagementError::NotThere { name: name.to_owned() },
            _ if status.is_server_error() => {
                ManagementError::Unreachable { endpoint, reason: format!("it answers {status}: {}", quoted("nothing")) }
            }
            _ => ManagementError::NotManagement { endpoint, reason: format!("it answers {status}") },
        }
    }

    fn understood<T>(&self, what: &str, read: Result<T, serde_json::Error>) -> Result<T, ManagementError> {
        read.map_err(|error| {
            let reason: String = error.to_string().chars().take(QUOTED_CHARS_MAX).collect();
            let reason = format!("the answer is not {what}: {}", self.options.scrub(&reason));
            ManagementError::NotManagement { endpoint: self.endpoint(), reason }
        })
    }
}
