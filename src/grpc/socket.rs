//! Whom a Unix socket lets in: the kernel tells the user of every peer. Knows no service.

use std::io;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tracing::warn;

use super::peers;
use crate::telemetry::seldom::Seldom;

/// Connections of these users; of any, where none is named. Others are closed and counted. An accept that failed is told
/// and followed by a pause, and is none of the stream's.
pub(super) fn admitted(
    accepted: impl Stream<Item = io::Result<UnixStream>> + Unpin,
    uids: Vec<u32>,
) -> impl Stream<Item = io::Result<UnixStream>> {
    let told = (Refusals::default(), peers::Failures::default());
    stream::unfold((accepted, uids, told), async |(mut accepted, uids, (mut refusals, mut failures))| {
        loop {
            match accepted.next().await? {
                Ok(peer) => match refusal(&peer, &uids) {
                    None => return Some((Ok(peer), (accepted, uids, (refusals, failures)))),
                    Some(why) => refusals.tell(&why),
                },
                Err(error) => failures.pause(&error).await,
            }
        }
    })
}

fn refusal(peer: &UnixStream, uids: &[u32]) -> Option<String> {
    if uids.is_empty() {
        return None;
    }
    match peer.peer_cred() {
        Ok(peer) if uids.contains(&peer.uid()) => None,
        Ok(peer) => Some(format!("user {} is not admitted", peer.uid())),
        Err(error) => Some(format!("the user is not known: {error}")),
    }
}

/// Refusals since the start: told seldom, with their number.
#[derive(Debug, Default)]
struct Refusals {
    count: u64,
    told: Seldom,
}

impl Refusals {
    fn tell(&mut self, why: &str) {
        self.count += 1;
        if self.told.is_due(Instant::now()) {
            let refused = self.count;
            warn!(%why, refused, "connections to the socket were refused; see grpc.unix_socket_uids");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_an_accept_that_failed_there_is_a_pause() {
        let (peer, _other) = UnixStream::pair().unwrap();
        let failing = (0..3).map(|_| Err(io::Error::other("too many open files")));
        let accepted = stream::iter(failing.chain([Ok(peer)]));
        let begin = Instant::now();
        let admitted: Vec<_> = admitted(accepted, Vec::new()).collect().await;
        assert!(matches!(admitted.as_slice(), [Ok(_)]), "{admitted:?}");
        assert_eq!(begin.elapsed(), peers::ACCEPT_PAUSE * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_counted_also_where_they_are_not_told() {
        let mut refusals = Refusals::default();
        (0..1_000).for_each(|_| refusals.tell("not admitted"));
        assert_eq!(refusals.count, 1_000);
    }
}
