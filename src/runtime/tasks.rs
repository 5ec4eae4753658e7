//! Tasks with a kind: the kind says what a panic means. Knows nothing of what the tasks do.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::error;

/// What a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Owns the session to the broker.
    Keeper,
    /// Owns the deliveries of a subscription.
    Subscription,
    /// Owns a confirm channel.
    Lane,
    /// Serves a listening socket.
    Server,
    /// Reads one handler's stream.
    Stream,
    /// Opens one connection to the broker: whoever waits for it hears that it failed.
    Connect,
    /// Publishes sample traffic.
    Sample,
}

/// What the panic of a task means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnPanic {
    /// A part that everybody needs is gone: never stay half alive.
    StopProcess,
    /// Only one peer is hurt.
    Log,
}

impl TaskKind {
    fn on_panic(self) -> OnPanic {
        match self {
            Self::Keeper | Self::Subscription | Self::Lane | Self::Server => OnPanic::StopProcess,
            Self::Stream | Self::Connect | Self::Sample => OnPanic::Log,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Subscription => "subscription",
            Self::Lane => "lane",
            Self::Server => "server",
            Self::Stream => "stream",
            Self::Connect => "connect",
            Self::Sample => "sample",
        }
    }
}

/// A task that ended the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which task.
    pub task: String,
    /// What it said.
    pub text: String,
}

/// Where tasks are born and watched. Clones share the same tasks.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    failed: Arc<watch::Sender<Option<Failure>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { tracker: TaskTracker::new(), failed: Arc::new(watch::Sender::new(None)) }
    }
}

impl Tasks {
    /// Starts a task. Its panic is logged, and stops the process if the kind says so.
    pub fn spawn(&self, kind: TaskKind, name: impl Into<String>, work: impl Future<Output = ()> + Send + 'static) {
        let (failed, name) = (Arc::clone(&self.failed), name.into());
        self.tracker.spawn(async move {
            let Err(text) = until_panic(work).await else { return };
            error!(task.kind = kind.as_str(), task.name = %name, panic = %text, "task panicked: this is a bug");
            match kind.on_panic() {
                OnPanic::StopProcess => tell(&failed, Failure { task: format!("{} {name}", kind.as_str()), text }),
                OnPanic::Log => {}
            }
        });
    }

    /// A part that everybody needs has ended by an error: as a panic would, this stops the process.
    pub fn fail(&self, task: &str, error: &dyn std::fmt::Display) {
        error!(task.name = %task, %error, "a part of the process has failed");
        tell(&self.failed, Failure { task: task.to_owned(), text: error.to_string() });
    }

    /// Waits for the first failure that stops the process. Cancel-safe.
    pub async fn failure(&self) -> Failure {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(failure) = failed.borrow_and_update().clone() {
                return failure;
            }
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until all tasks have ended, at most so long. True = all ended.
    pub async fn all_ended(&self, within: Duration) -> bool {
        self.tracker.close();
        let ended = tokio::time::timeout(within, self.tracker.wait()).await.is_ok();
        self.tracker.reopen();
        ended
    }

    /// Tasks that are running.
    pub fn count(&self) -> usize {
        self.tracker.len()
    }
}

/// Runs something to its end, or to its panic; answers the panic's text then. What it worked on must not be used after a
/// panic: it may be half done.
///
/// # Errors
/// It panicked.
pub async fn until_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panic_text(panic.as_ref()))
}

fn tell(failed: &watch::Sender<Option<Failure>>, failure: Failure) {
    failed.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(failure);
        is_first
    });
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// failures.md S4.
    #[tokio::test]
    async fn a_panic_of_a_needed_task_is_told_and_of_a_stream_is_not() {
        for kind in [TaskKind::Keeper, TaskKind::Subscription, TaskKind::Lane, TaskKind::Server] {
            let tasks = Tasks::default();
            tasks.spawn(TaskKind::Stream, "s", async { panic!("only a peer") });
            tasks.spawn(kind, "l", async { panic!("all of us") });
            let failure = tasks.failure().await;
            assert_eq!((failure.task, failure.text.as_str()), (format!("{} l", kind.as_str()), "all of us"));
            assert!(tasks.all_ended(Duration::from_secs(5)).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_end_has_an_end() {
        let tasks = Tasks::default();
        tasks.spawn(TaskKind::Server, "s", std::future::pending());
        assert!(!tasks.all_ended(Duration::from_secs(1)).await);
        assert_eq!(tasks.count(), 1);
    }
}
