//! Who connects over TCP: peers of this host and others apart, and of each other one no more than its share.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

use crate::telemetry::seldom::Seldom;

/// After an accept that failed, most likely for want of descriptors: time for some to be freed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Accepted connections that wait for their server.
pub(super) const ACCEPTED_MAX: usize = 16;

/// A connection; its share is free again when this value goes.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    _share: Option<Share>,
}

/// Accepts for ever: peers of this host go to `near`, others to `far`, with at most `per_peer` connections each. On
/// loopback all handlers of a pod are one peer, so nothing is counted there.
pub(super) async fn accept(listener: TcpListener, per_peer: usize, near: Sender<Peer>, far: Sender<Peer>) {
    let (shares, mut failures) = (Shares::new(per_peer), Failures::default());
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                failures.pause(&error).await;
                continue;
            }
        };
        // A connection that refuses the option works as well, only slower.
        stream.set_nodelay(true).ok();
        let address = address.ip().to_canonical();
        if is_near(address) {
            // Fails only when the server has ended, and then this future is dropped.
            near.send(Peer { stream, _share: None }).await.ok();
            continue;
        }
        match shares.take(address) {
            Ok(share) => {
                far.send(Peer { stream, _share: Some(share) }).await.ok();
            }
            Err(Refused::First) => {
                warn!(peer = %address, limit = per_peer, "connections refused: limits.connections_per_peer");
            }
            Err(Refused::Again) => {}
        }
    }
}

/// Accepts that failed: told at most once a minute, or a full table of descriptors would fill the log as well.
#[derive(Debug, Default)]
pub(super) struct Failures(Seldom);

impl Failures {
    /// Tells of one, and gives time for what it lacked.
    pub(super) async fn pause(&mut self, error: &io::Error) {
        if self.0.is_due(Instant::now()) {
            warn!(%error, "a connection could not be accepted; handlers that are connected go on");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// True for a peer whose end the kernel tells us.
fn is_near(address: IpAddr) -> bool {
    address.is_loopback()
}

/// Connections by peer.
#[derive(Debug, Clone)]
struct Shares {
    max: usize,
    taken: Arc<Mutex<HashMap<IpAddr, Taken>>>,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// Refusals are told once until there is room again: a flood must not fill the log.
    is_told: bool,
}

/// Why there is no share.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    First,
    Again,
}

/// One connection of a peer.
#[derive(Debug)]
struct Share {
    address: IpAddr,
    shares: Shares,
}

impl Shares {
    fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    fn take(&self, address: IpAddr) -> Result<Share, Refused> {
        // A count cannot be left half changed.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = taken.entry(address).or_default();
        if entry.count >= self.max {
            let was_told = std::mem::replace(&mut entry.is_told, true);
            return Err(if was_told { Refused::Again } else { Refused::First });
        }
        entry.count += 1;
        Ok(Share { address, shares: self.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = taken.get_mut(&self.address) {
            entry.count -= 1;
            entry.is_told = false;
            if entry.count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

impl Connected for Peer {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_no_more_and_others_have_theirs() {
        let shares = Shares::new(2);
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = shares.take(one).unwrap();
        let _second = shares.take(one).unwrap();
        assert_eq!(shares.take(one).unwrap_err(), Refused::First);
        assert_eq!(shares.take(one).unwrap_err(), Refused::Again, "told once");
        assert!(shares.take(other).is_ok());

        drop(first);
        let _third = shares.take(one).unwrap();
        assert_eq!(shares.take(one).unwrap_err(), Refused::First, "told again after there was room");
        assert_eq!(shares.taken.lock().unwrap().len(), 1, "whoever is gone costs nothing");
    }

    #[test]
    fn peers_of_this_host_are_near_in_every_notation() {
        for (address, expected) in
            [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("::ffff:127.0.0.1", true), ("10.0.0.1", false)]
        {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(is_near(address.to_canonical()), expected, "{address}");
        }
    }
}
