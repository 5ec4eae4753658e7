//! Binds every socket of a process before anything else begins. Knows no broker and no service.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};
use tokio::time::Instant;
use tracing::info;

use super::StartError;
use crate::config::{ListenAddress, Settings, SocketSettings};

/// Connections that wait to be accepted, as the standard library has it for TCP.
const BACKLOG: u32 = 1024;
/// A live process takes or refuses a local connection at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Another process that starts in the same folder holds the lock for [`ANSWER_WITHIN`] at most; a few may be before us.
const TURN_WITHIN: Duration = Duration::from_secs(5);
const TURN_EVERY: Duration = Duration::from_millis(20);

/// Where the process listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// For handlers and publishers; `None` = on the socket alone.
    pub grpc: Option<SocketAddr>,
    /// For handlers and publishers of this machine.
    pub socket: Option<PathBuf>,
    /// Probes and metrics.
    pub admin: Option<SocketAddr>,
    /// Probes and metrics for kubelet and Prometheus.
    pub health: Option<SocketAddr>,
}

impl Addresses {
    /// A line of the log for whoever waits until the process listens.
    pub(super) fn tell(&self, broker: &str) {
        let off = || "off".to_owned();
        let shown = |address: Option<SocketAddr>| address.map_or_else(off, |at| at.to_string());
        let (grpc, admin, health) = (shown(self.grpc), shown(self.admin), shown(self.health));
        let socket = self.socket.as_ref().map_or_else(off, |path| path.display().to_string());
        info!(%grpc, %socket, %admin, %health, %broker, "listening");
    }

    /// Where a client on this machine finds the door, as `--endpoint` takes it.
    pub fn endpoint(&self) -> String {
        match (&self.grpc, &self.socket) {
            (Some(address), _) => address.to_string(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => String::new(),
        }
    }
}

/// Every socket, bound.
pub(super) struct Doors {
    pub(super) grpc: Option<TcpListener>,
    pub(super) socket: Option<Socket>,
    pub(super) admin: Option<TcpListener>,
    pub(super) health: Option<TcpListener>,
}

/// A bound Unix socket. Its file goes with `file`.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    /// Users that may connect; empty = any.
    pub(super) uids: Vec<u32>,
    pub(super) file: SocketFile,
}

impl Doors {
    pub(super) async fn bind(settings: &Settings) -> Result<Self, StartError> {
        let socket = match &settings.grpc.unix_socket {
            Some(socket) => Some(Socket::bind(socket).await?),
            None => None,
        };
        let probes = "probes and metrics";
        Ok(Self {
            grpc: listen(settings.grpc.listen.as_ref(), "handlers and publishers", "grpc.listen").await?,
            socket,
            admin: listen(settings.admin.listen.as_ref(), probes, "admin.listen").await?,
            health: listen(settings.health.listen.as_ref(), probes, "health.listen").await?,
        })
    }

    pub(super) fn addresses(&self) -> Result<Addresses, StartError> {
        let of = |socket: &Option<TcpListener>, key| socket.as_ref().map(|socket| address_of(socket, key)).transpose();
        Ok(Addresses {
            grpc: of(&self.grpc, "grpc.listen")?,
            socket: self.socket.as_ref().map(|socket| socket.file.path.clone()),
            admin: of(&self.admin, "admin.listen")?,
            health: of(&self.health, "health.listen")?,
        })
    }
}

async fn listen(
    address: Option<&ListenAddress>,
    what: &'static str,
    key: &'static str,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind((address.host.as_str(), address.port)).await;
    bound.map(Some).map_err(|source| StartError::Bind { what, key, address: address.to_string(), source })
}

fn address_of(socket: &TcpListener, key: &'static str) -> Result<SocketAddr, StartError> {
    let told = socket.local_addr();
    told.map_err(|source| StartError::Bind { what: "its own address", key, address: "?".to_owned(), source })
}

impl Socket {
    /// Takes the place of a socket that nobody listens on any more.
    async fn bind(settings: &SocketSettings) -> Result<Self, StartError> {
        let path = &settings.path;
        let refused = |reason: String| StartError::Socket { path: path.clone(), reason };
        let _turn = turn(path).await.map_err(refused)?;
        clear(path).await.map_err(refused)?;
        let told = |what: &str, error: std::io::Error| refused(format!("{what}: {error}"));
        let socket = UnixSocket::new_stream().map_err(|error| told("no socket", error))?;
        socket.bind(path).map_err(|error| told("it cannot be made", error))?;
        // The mode before the first connection can be made: listening begins below.
        let file = SocketFile::of(path).map_err(|error| told("it cannot be looked at", error))?;
        let mode = std::fs::Permissions::from_mode(settings.mode);
        std::fs::set_permissions(path, mode).map_err(|error| told("its mode cannot be set", error))?;
        let listener = socket.listen(BACKLOG).map_err(|error| told("nobody can be listened for", error))?;
        Ok(Self { listener, uids: settings.uids.clone(), file })
    }
}

/// Waits for our turn in the folder: between bind and listen a socket looks like that of a dead process, and another
/// process that starts would remove it. The lock goes with the value; it is on the folder, so no file of it is left.
async fn turn(path: &Path) -> Result<File, String> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let folder = File::open(folder).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            "its folder does not exist; create it, or mount a volume there".to_owned()
        } else {
            format!("its folder cannot be opened: {error}")
        }
    })?;
    let deadline = Instant::now() + TURN_WITHIN;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(TURN_EVERY).await,
            Err(TryLockError::WouldBlock) => {
                return Err(
                    "another process holds the lock of its folder; stop it, or choose another folder".to_owned()
                );
            }
            // A file system without locks: then it is as safe as before there was one.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(folder),
            Err(TryLockError::Error(error)) => return Err(format!("its folder cannot be locked: {error}")),
        }
    }
}

/// Removes a socket file that a dead process has left; refuses whatever else is there.
async fn clear(path: &Path) -> Result<(), String> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("it cannot be looked at: {error}")),
    };
    if !found.file_type().is_socket() {
        return Err("something else than a socket is there; move it away, or choose another path".to_owned());
    }
    match tokio::time::timeout(ANSWER_WITHIN, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| format!("the file of a dead process cannot be removed: {error}"))
        }
        Ok(Err(error)) => Err(format!("whether somebody listens there cannot be found out: {error}")),
        Ok(Ok(_)) | Err(_) => Err("another process listens there; stop it, or choose another path".to_owned()),
    }
}

/// The file of a socket that we have bound. It is removed once, at the latest with this value, unless another process has
/// put its own there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    identity: (u64, u64),
    is_removed: AtomicBool,
}

impl SocketFile {
    fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)?, is_removed: AtomicBool::new(false) })
    }

    /// Removes it, while its listener is open: then no other process takes the path between our look and the removal.
    /// Only once, since the system gives the number of a file that is gone to the next one.
    pub(super) fn remove(&self) {
        let is_first = !self.is_removed.swap(true, Ordering::Relaxed);
        if is_first && identity(&self.path).is_ok_and(|found| found == self.identity) {
            // One that cannot be removed is stale for the next process, which looks whether anybody answers.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(path: PathBuf) -> SocketSettings {
        SocketSettings { path, mode: 0o600, uids: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_begins_to_listen_is_alone_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path().join("s"));
        let other = turn(&settings.path).await.unwrap();
        let Err(error) = Socket::bind(&settings).await else { panic!("two at a time") };
        assert!(error.to_string().contains("another process holds the lock"), "{error}");
        assert!(!settings.path.exists(), "nothing was touched");

        let mut waiting = std::pin::pin!(Socket::bind(&settings));
        assert!(tokio::time::timeout(TURN_EVERY, &mut waiting).await.is_err());
        drop(other);
        let bound = waiting.await.unwrap();
        assert!(turn(&settings.path).await.is_ok(), "whoever listens keeps nobody waiting");
        drop(bound);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn a_file_that_was_removed_is_not_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path().join("s"));
        let first = Socket::bind(&settings).await.unwrap();
        first.file.remove();
        let successor = Socket::bind(&settings).await.unwrap();
        // As if the system had given it the number of ours.
        let mut file = first.file;
        file.identity = successor.file.identity;
        drop(file);
        assert!(settings.path.exists());
    }
}
