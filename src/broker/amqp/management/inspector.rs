//! The management API as the eyes of a session: what it cannot tell is unknown, and never more than that.
//!
//! Knows no plan.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::Instant;
use tracing::warn;

use super::{Management, ManagementError};
use crate::broker::amqp::inspect::{Inspect, QueueReport};
use crate::domain::difference::FoundExchange;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;

/// After a failure nobody asks for so long: a silent server would cost its deadline once for each object.
const PAUSE: Duration = Duration::from_secs(30);

/// Whom to ask, as files say now; an error = why they say nothing.
type Reread = Arc<dyn Fn() -> Result<Management, String> + Send + Sync>;

/// Asks a management API, and lets it be for a while after it has failed.
#[derive(Debug)]
pub struct ManagementInspector {
    asked: Asked,
    failed: Mutex<Option<(Instant, String)>>,
}

/// Whom to ask.
enum Asked {
    Always(Box<Management>),
    Reread(Reread),
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always(management) => management.fmt(f),
            Self::Reread(_) => f.write_str("Reread"),
        }
    }
}

impl ManagementInspector {
    /// Opens nothing yet.
    pub fn new(management: Management) -> Self {
        Self { asked: Asked::Always(Box::new(management)), failed: Mutex::new(None) }
    }

    /// With its address and login read again for every question, as AMQP's are at every connect.
    pub fn rereading(now: Reread) -> Self {
        Self { asked: Asked::Reread(now), failed: Mutex::new(None) }
    }

    /// `None` = not there.
    async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(&Management) -> Result<T, ManagementError>,
    ) -> Result<Option<T>, String> {
        if let Some(reason) = self.pausing() {
            return Err(reason);
        }
        let answer = match &self.asked {
            Asked::Always(management) => call(management).await,
            Asked::Reread(now) => match now() {
                Ok(management) => call(&management).await,
                Err(reason) => return Err(self.failed(reason)),
            },
        };
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(ManagementError::NotThere { .. }) => Ok(None),
            Err(
                error @ (ManagementError::Unreachable { .. }
                | ManagementError::Refused { .. }
                | ManagementError::NotManagement { .. }),
            ) => Err(self.failed(error.to_string())),
        }
    }

    /// Notes a failure and tells it; gives the reason back.
    fn failed(&self, reason: String) -> String {
        warn!(error = %reason, "the management API tells nothing: what only it can see stays unknown");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), reason.clone()));
        reason
    }

    fn pausing(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(since, _)| since.elapsed() < PAUSE).map(|(_, reason)| reason.clone())
    }
}

impl Inspect for ManagementInspector {
    fn exchange<'a>(&'a self, name: &'a ExchangeName) -> BoxFuture<'a, Result<Option<FoundExchange>, String>> {
        self.ask(async |management| management.exchange(name).await).boxed()
    }

    fn queue<'a>(&'a self, name: &'a QueueName) -> BoxFuture<'a, Result<Option<QueueReport>, String>> {
        self.ask(async |management| management.queue(name).await).boxed()
    }

    fn bindings<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Vec<Binding>>, String>> {
        self.ask(async |management| management.bindings(queue).await).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use secrecy::SecretString;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::super::ManagementOptions;
    use super::*;

    const MISSING: &str = r#"{"error":"Object Not Found","reason":"Not Found"}"#;

    fn options(port: u16) -> ManagementOptions {
        ManagementOptions {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port,
            base_path: String::new(),
            username: SecretString::from("canary-user"),
            password: SecretString::from("canary-word"),
            ca_file: None,
            timeout: Duration::from_secs(10),
        }
    }

    /// Answers each call with the status that stands first, and counts the calls.
    async fn server(statuses: &'static [&'static str], calls: Arc<AtomicUsize>) -> (u16, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            for status in statuses {
                let (mut socket, _) = listener.accept().await.unwrap();
                calls.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await.unwrap();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", MISSING.len());
                socket.write_all(format!("{head}{MISSING}").as_bytes()).await.unwrap();
            }
        });
        (port, server)
    }

    #[tokio::test]
    async fn after_a_failure_it_is_left_alone_for_a_while() {
        let calls = Arc::new(AtomicUsize::new(0));
        let (port, _server) = server(&["503 Busy", "404 Not Found", "404 Not Found"], Arc::clone(&calls)).await;
        let inspector = ManagementInspector::new(Management::new(options(port), "/".to_owned()));
        let queue = QueueName::parse("q").unwrap();
        let reason = inspector.queue(&queue).await.unwrap_err();
        assert_eq!(inspector.bindings(&queue).await, Err(reason), "the same words, without a call");
        assert_eq!(calls.load(Ordering::SeqCst), 1);

        tokio::time::pause();
        tokio::time::advance(PAUSE).await;
        tokio::time::resume();

        assert_eq!(inspector.queue(&queue).await, Ok(None));
        assert_eq!(inspector.bindings(&queue).await, Ok(None), "what is missing has none");
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_login_that_was_renewed_is_used_by_the_next_question() {
        let calls = Arc::new(AtomicUsize::new(0));
        let (old, _old) = server(&["401 No"], Arc::clone(&calls)).await;
        let (new, _new) = server(&["404 Not Found"], Arc::clone(&calls)).await;
        let says = Arc::new(Mutex::new(Ok(old)));
        let files = Arc::clone(&says);
        let now = move || files.lock().unwrap().clone().map(|port| Management::new(options(port), "/".to_owned()));
        let inspector = ManagementInspector::rereading(Arc::new(now));
        let queue = QueueName::parse("q").unwrap();
        assert!(inspector.queue(&queue).await.is_err());

        for (said, answer) in [(Err("password_file: is empty".to_owned()), None), (Ok(new), Some(Ok(None)))] {
            tokio::time::pause();
            tokio::time::advance(PAUSE).await;
            tokio::time::resume();
            *says.lock().unwrap() = said.clone();
            assert_eq!(inspector.queue(&queue).await, answer.unwrap_or_else(|| Err(said.unwrap_err())));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2, "nobody is asked for whom there is no login");
    }

    #[test]
    fn nobody_sees_the_login() {
        let shown = format!("{:?}", ManagementInspector::new(Management::new(options(1), "/".to_owned())));
        assert!(shown.contains("http://127.0.0.1:1") && !shown.contains("canary"), "{shown}");
    }
}
