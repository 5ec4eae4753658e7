//! A TCP link that can be cut or fall silent: connections of one test pass through it, so that breaking them touches nobody
//! else and needs no rights on the broker.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Forwards a loopback port to another one.
#[derive(Debug)]
#[allow(dead_code, reason = "each test binary uses a part of it")]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    target: Arc<AtomicU16>,
    links: Arc<Mutex<Vec<AbortHandle>>>,
    made: Arc<AtomicUsize>,
    accepting: AbortHandle,
    silent: watch::Sender<Silent>,
}

/// Which ways of a link nothing passes.
#[derive(Debug, Clone, Copy, Default)]
struct Silent {
    there: bool,
    back: bool,
    /// New links pass what comes back first, and nothing that comes later.
    after_greeting: bool,
}

/// One way of a link.
#[derive(Debug, Clone, Copy)]
enum Way {
    There,
    Back,
    /// As `Back`, and silent after what came first.
    BackOnce,
}

impl Silent {
    fn on(self, way: Way) -> bool {
        match way {
            Way::There => self.there,
            Way::Back | Way::BackOnce => self.back,
        }
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    #[expect(clippy::disallowed_methods, reason = "a helper of one test; it ends with the test's runtime")]
    pub(crate) async fn to(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own_port = listener.local_addr().expect("a bound port").port();
        let links = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::new(AtomicU16::new(port));
        let made: Arc<AtomicUsize> = Arc::default();
        let silent = watch::Sender::new(Silent::default());
        let (host, known, towards) = (host.to_owned(), Arc::clone(&links), Arc::clone(&target));
        let (heard, count) = (silent.subscribe(), Arc::clone(&made));
        let accepting = tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                let (host, port, heard) = (host.clone(), towards.load(Ordering::Relaxed), heard.clone());
                let link = tokio::spawn(async move { forward(inner, &host, port, heard).await });
                known.lock().expect("no test panics here").push(link.abort_handle());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { port: own_port, target, links, made, accepting: accepting.abort_handle(), silent }
    }

    /// New links lead to another port from now on.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// Every link stays open, new ones can be made, and nothing passes them: no byte and no end of either side.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn freeze(&self) {
        self.silent.send_replace(Silent { there: true, back: true, after_greeting: false });
    }

    /// The same for what comes back from the other side, while it goes on hearing everything.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn freeze_answers(&self) {
        self.silent.send_replace(Silent { there: false, back: true, after_greeting: false });
    }

    /// Links that are made from now on pass the first word of the other side, and nothing that it says afterwards.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn only_greet(&self) {
        self.silent.send_replace(Silent { after_greeting: true, ..Silent::default() });
    }

    /// Everything passes again, what was held back first.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn thaw(&self) {
        self.silent.send_replace(Silent::default());
    }

    /// Links that are open now.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn open_links(&self) -> usize {
        let mut links = self.links.lock().expect("no test panics here");
        links.retain(|link| !link.is_finished());
        links.len()
    }

    /// Links that were ever made.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn links_made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Cuts so many of them, those that were made first.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn cut_oldest(&self, count: usize) {
        assert!(self.open_links() >= count, "there are not so many");
        self.links.lock().expect("no test panics here").drain(..count).for_each(|link| link.abort());
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

async fn forward(inner: TcpStream, host: &str, port: u16, silent: watch::Receiver<Silent>) {
    let Ok(outer) = TcpStream::connect((host, port)).await else { return };
    // Both sides send small frames that somebody waits for.
    let tuned = inner.set_nodelay(true).and_then(|()| outer.set_nodelay(true));
    if tuned.is_ok() {
        let back = if silent.borrow().after_greeting { Way::BackOnce } else { Way::Back };
        let ((from_inner, to_inner), (from_outer, to_outer)) = (inner.into_split(), outer.into_split());
        // However it ends, both sockets are closed by it.
        let _ = tokio::try_join!(
            pass(from_inner, to_outer, (Way::There, silent.clone())),
            pass(from_outer, to_inner, (back, silent)),
        );
    }
}

/// Passes bytes on until their end, which is passed on too.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (mut way, mut silent): (Way, watch::Receiver<Silent>),
) -> io::Result<()> {
    let mut bytes = vec![0_u8; 16 * 1024];
    loop {
        heard(&mut silent, way).await;
        let count = tokio::select! {
            count = from.read(&mut bytes) => count?,
            // What comes from now on may have to wait.
            _ = silent.changed() => continue,
        };
        heard(&mut silent, way).await;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
        match way {
            Way::There | Way::Back => {}
            Way::BackOnce => {
                // As in `heard`.
                let _ = silent.wait_for(|silent| !silent.after_greeting).await;
                way = Way::Back;
            }
        }
    }
}

async fn heard(silent: &mut watch::Receiver<Silent>, way: Way) {
    // It is there as long as its proxy, and so is this link.
    let _ = silent.wait_for(|silent| !silent.on(way)).await;
}
