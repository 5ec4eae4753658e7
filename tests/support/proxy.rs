//! A TCP link that can be cut: connections of one test pass through it, so that breaking them touches nobody else and
//! needs no rights on the broker.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Forwards a loopback port to another one.
#[derive(Debug)]
#[allow(dead_code, reason = "each test binary uses a part of it")]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    target: Arc<AtomicU16>,
    links: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    #[expect(clippy::disallowed_methods, reason = "a helper of one test; it ends with the test's runtime")]
    pub(crate) async fn to(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own_port = listener.local_addr().expect("a bound port").port();
        let links = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::new(AtomicU16::new(port));
        let (host, known, towards) = (host.to_owned(), Arc::clone(&links), Arc::clone(&target));
        let accepting = tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                let (host, port) = (host.clone(), towards.load(Ordering::Relaxed));
                let link = tokio::spawn(async move { forward(inner, &host, port).await });
                known.lock().expect("no test panics here").push(link.abort_handle());
            }
        });
        Self { port: own_port, target, links, accepting: accepting.abort_handle() }
    }

    /// New links lead to another port from now on.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// Cuts every link; new ones can be made.
    pub(crate) fn cut(&self) {
        let links = std::mem::take(&mut *self.links.lock().expect("no test panics here"));
        links.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn forward(mut inner: TcpStream, host: &str, port: u16) {
    let Ok(mut outer) = TcpStream::connect((host, port)).await else { return };
    // Both sides send small frames that somebody waits for.
    let tuned = inner.set_nodelay(true).and_then(|()| outer.set_nodelay(true));
    if tuned.is_ok() {
        // However it ends, both sockets are closed by it.
        let _ = copy_bidirectional(&mut inner, &mut outer).await;
    }
}
