//! Messages that their batches have left behind: the broker has not confirmed them for long. Knows no batch.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::batch::{Word, with_return};
use crate::broker::{Confirm, Publication, Routing};

/// A queue without a word for so long is silent: less may be a link that is full, or a disk that is slow.
const SILENT_FROM: Duration = Duration::from_secs(1);

/// What is known of a message whose word is awaited.
struct Waiting {
    id: Option<String>,
    routing: Routing,
    begun: Instant,
    deadline: Instant,
}

/// The word of a message; whether it was returned is certain later.
pub(super) struct Heard {
    number: u64,
    message: Waiting,
    confirm: Confirm,
}

impl Heard {
    /// When its time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.message.deadline
    }

    /// True if a return that has not come would make another one of it.
    pub(super) fn is_word(&self) -> bool {
        self.message.routing == Routing::Required
    }

    /// What became of it, with all returns that could speak of it, or without some.
    pub(super) fn outcome(self, returned: &mut HashSet<String>, is_certain: bool) -> (u64, Confirm) {
        let is_doubtful = !is_certain && self.is_word() && self.confirm == Confirm::Stored;
        let confirm = if is_doubtful { Confirm::TimedOut } else { self.confirm };
        (self.number, with_return(confirm, self.message.id.as_ref(), returned))
    }
}

type Call = BoxFuture<'static, (Option<u64>, lapin::Result<Word>)>;

/// See the module.
#[derive(Default)]
pub(super) struct Left {
    waiting: BTreeMap<u64, Waiting>,
    /// Also those of messages that were given up: their confirms may carry the returns of others.
    calls: FuturesUnordered<Call>,
    heard: Vec<Heard>,
    /// So many have been left behind.
    next: u64,
    has_failed: bool,
}

impl Left {
    /// One more, sent and late at these times; or one that was given up, of which only the confirm is listened to.
    pub(super) fn take(
        &mut self,
        call: BoxFuture<'static, lapin::Result<Word>>,
        message: Option<(&Publication, (Instant, Instant))>,
    ) {
        let number = message.map(|(publication, (begun, deadline))| {
            let id = publication.message.properties.message_id.clone();
            let number = self.next;
            self.waiting.insert(number, Waiting { id, routing: publication.routing, begun, deadline });
            self.next += 1;
            number
        });
        self.calls.push(async move { (number, call.await) }.boxed());
    }

    /// Messages without a word.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True if no confirm is awaited here: none can carry the return of another message.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.heard.is_empty()
    }

    /// Numbers of those without a word for so long that it is no delay.
    pub(super) fn silent(&self) -> Vec<u64> {
        let now = Instant::now();
        let silent = self.waiting.iter().take_while(|(_, message)| now >= message.begun + SILENT_FROM);
        silent.map(|(number, _)| *number).collect()
    }

    /// The number of the oldest without a word.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(number, _)| *number)
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// True once the channel was closed over one.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Ids of those of which it is not certain what became of them.
    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.waiting
            .values()
            .chain(self.heard.iter().map(|heard| &heard.message))
            .filter_map(|message| message.id.as_ref())
    }

    /// Waits for a word, for ever where none can come; it may carry a return. Cancel-safe.
    pub(super) async fn word(&mut self, returned: &mut HashSet<String>) {
        match self.calls.next().await {
            Some(answer) => self.hear(answer, returned),
            None => std::future::pending().await,
        }
    }

    /// Takes in what has come meanwhile.
    pub(super) fn glance(&mut self, returned: &mut HashSet<String>) {
        while let Some(Some(answer)) = self.calls.next().now_or_never() {
            self.hear(answer, returned);
        }
    }

    fn hear(&mut self, (number, answer): (Option<u64>, lapin::Result<Word>), returned: &mut HashSet<String>) {
        self.has_failed |= answer.is_err();
        let confirm = match answer {
            Ok(word) => {
                returned.extend(word.returned);
                word.confirm
            }
            Err(_) => Confirm::Lost,
        };
        if let Some(number) = number
            && let Some(message) = self.waiting.remove(&number)
        {
            self.heard.push(Heard { number, message, confirm });
        }
    }

    /// True if one has a word.
    pub(super) fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Takes out those that have a word.
    pub(super) fn take_heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    /// When the time of the oldest one with a number below is over.
    pub(super) fn deadline(&self, below: u64) -> Option<Instant> {
        self.waiting.range(..below).next().map(|(_, message)| message.deadline)
    }

    /// Gives up those with a number below whose time is over. Their confirms are listened to all the same.
    pub(super) fn give_up(&mut self, below: u64, returned: &mut HashSet<String>) -> Vec<(u64, Confirm)> {
        let now = Instant::now();
        let mut over = Vec::new();
        while let Some(first) = self.waiting.first_entry()
            && *first.key() < below
            && first.get().deadline <= now
        {
            let (number, message) = first.remove_entry();
            over.push((number, with_return(Confirm::TimedOut, message.id.as_ref(), returned)));
        }
        over
    }
}
