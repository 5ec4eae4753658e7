//! Notices that the files of addresses, logins and certificates hold something else than a session was opened with.
//!
//! Keeps no content, only keyed hashes of it. Knows no AMQP.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tracing::warn;

use super::options::{Changes, Transport};
use super::tls;

/// Between two looks. What is new must be the same twice, so it is acted upon after two to four seconds: whoever writes a
/// file has long ended by then, and the old login usually lives for minutes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Most bytes of a file that are looked at: a bundle of all authorities of an operating system has a quarter of it.
const BYTES_MAX: u64 = 1 << 20;

/// A file whose content a session is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedFile {
    /// The setting that names it.
    pub key: String,
    /// Where it is; read by this name each time, so a link may be replaced.
    pub path: PathBuf,
}

/// The watched files of a broker.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<WatchedFile>,
    hasher: RandomState,
}

/// What the files held, in their order.
type Marks = Vec<u64>;

impl Files {
    pub(super) fn new(files: Vec<WatchedFile>) -> Self {
        Self { files, hasher: RandomState::new() }
    }

    /// # Errors
    /// One of them cannot be read now, and why.
    async fn marks(&self) -> Result<Marks, String> {
        let mut marks = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let text = read(&file.path).await.map_err(|error| format!("{}: {error}", file.key))?;
            // A newline at the end is no part of a secret.
            marks.push(self.hasher.hash_one(text.trim_ascii_end()));
        }
        Ok(marks)
    }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    tokio::fs::File::open(path).await?.take(BYTES_MAX).read_to_end(&mut text).await?;
    Ok(text)
}

/// What the files say beside what a session was opened with.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Same,
    New(Marks),
    /// A connect could not use them, and why.
    Unusable(String),
}

/// What one session was opened with.
#[derive(Debug)]
pub(super) struct Notice {
    files: Arc<Files>,
    /// `None` = a file could not be read at that moment, so what it held is not known.
    opened_with: Option<Marks>,
    changes: Changes,
    transport: Transport,
}

impl Notice {
    /// To be made before a session is opened: a change in between is then noticed, and costs one more session.
    pub(super) async fn begin(files: &Arc<Files>, (changes, transport): (Changes, Transport)) -> Self {
        Self { opened_with: files.marks().await.ok(), files: Arc::clone(files), changes, transport }
    }

    /// Waits until the files hold something else, twice the same and good to use; answers the settings that name them.
    pub(super) async fn changed(&self) -> Vec<String> {
        if self.files.files.is_empty() {
            return std::future::pending().await;
        }
        let (mut last, mut told) = (Look::Same, None);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.look().await;
            match &now {
                Look::New(marks) if now == last => return self.keys(marks),
                // Once, and never of a file that is just being written.
                Look::Unusable(reason) if now == last && told.as_ref() != Some(reason) => {
                    warn!(
                        %reason,
                        "a file of the address or the login cannot be used any more: the session goes on, the next one could not be opened"
                    );
                    told = Some(reason.clone());
                }
                Look::Same => told = None,
                Look::New(_) | Look::Unusable(_) => {}
            }
            last = now;
        }
    }

    /// By the rules of a connect: an address that is none, or a key that goes with another certificate, is no change yet.
    async fn look(&self) -> Look {
        let marks = match self.files.marks().await {
            Ok(marks) if Some(&marks) == self.opened_with.as_ref() => return Look::Same,
            Ok(marks) => marks,
            Err(reason) => return Look::Unusable(reason),
        };
        let transport = match &self.changes {
            Changes::Never => self.transport.clone(),
            Changes::Reread(now) => match now() {
                Ok(options) => options.transport,
                Err(error) => return Look::Unusable(error.to_string()),
            },
        };
        match &transport {
            Transport::Tls(options) if !tls::reads_well(options).await => {
                Look::Unusable("bus.amqp.tls: the files do not go together".to_owned())
            }
            Transport::Tls(_) | Transport::Plain => Look::New(marks),
        }
    }

    fn keys(&self, now: &Marks) -> Vec<String> {
        let before = self.opened_with.as_deref().unwrap_or_default();
        let is_new = |position: usize| before.get(position) != now.get(position);
        let files = self.files.files.iter().enumerate();
        files.filter(|(position, _)| is_new(*position)).map(|(_, file)| file.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::broker::BrokerError;
    use crate::broker::amqp::options::tests::sample;

    /// On the paused clock far more looks than a change needs.
    const LONG: Duration = LOOK_EVERY.saturating_mul(20);

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::write(folder.join(name), text).unwrap();
    }

    fn files(folder: &Path) -> Arc<Files> {
        let file = |name: &str| WatchedFile { key: format!("key.{name}"), path: folder.join(name) };
        Arc::new(Files::new(vec![file("user"), file("password")]))
    }

    /// A password `half` is one that a connect could not use.
    fn changes(folder: &Path) -> Changes {
        let path = folder.join("password");
        Changes::Reread(Arc::new(move || match std::fs::read_to_string(&path) {
            Ok(text) if text != "half" => Ok(sample(1)),
            Ok(_) | Err(_) => Err(BrokerError::Unreadable { reason: "half".to_owned() }),
        }))
    }

    async fn notice(folder: &Path) -> Notice {
        write(folder, "user", "mia\n");
        write(folder, "password", "first\n");
        Notice::begin(&files(folder), (changes(folder), Transport::Plain)).await
    }

    async fn is_quiet(notice: &Notice) -> bool {
        timeout(LONG, notice.changed()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_content_is_told_by_its_key_again_and_again_until_the_old_one_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let notice = notice(folder.path()).await;
        assert!(is_quiet(&notice).await);
        write(folder.path(), "password", "second\n");
        for _ in 0..2 {
            assert_eq!(timeout(LONG, notice.changed()).await, Ok(vec!["key.password".to_owned()]));
        }
        write(folder.path(), "password", "first");
        assert!(is_quiet(&notice).await, "the same but for the end of its line");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_or_not_good_to_use_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let notice = notice(folder.path()).await;
        write(folder.path(), "password", "half");
        assert!(is_quiet(&notice).await);
        std::fs::remove_file(folder.path().join("password")).unwrap();
        assert!(is_quiet(&notice).await);
        write(folder.path(), "password", "second");
        assert!(!is_quiet(&notice).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_differs_at_every_look_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let notice = notice(folder.path()).await;
        let writing = async {
            // Twice within each pause between two looks.
            let mut clock = tokio::time::interval(LOOK_EVERY / 2);
            for number in 0..40 {
                clock.tick().await;
                write(folder.path(), "password", &format!("part {number}"));
            }
        };
        tokio::select! {
            keys = notice.changed() => panic!("{keys:?} while it is written"),
            () = writing => {}
        }
        assert_eq!(notice.changed().await, ["key.password"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_leads_elsewhere_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, password) in [("..v1", "first"), ("..v2", "second")] {
            std::fs::create_dir(at(version)).unwrap();
            write(&at(version), "password", password);
        }
        std::os::unix::fs::symlink("..v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/password", at("password")).unwrap();
        let files = vec![WatchedFile { key: "key".to_owned(), path: at("password") }];
        let notice = Notice::begin(&Arc::new(Files::new(files)), (Changes::Never, Transport::Plain)).await;
        assert!(is_quiet(&notice).await);
        std::os::unix::fs::symlink("..v2", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        assert_eq!(timeout(LONG, notice.changed()).await, Ok(vec!["key".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn without_files_nothing_ever_changes() {
        let notice = Notice::begin(&Arc::default(), (Changes::Never, Transport::Plain)).await;
        assert!(is_quiet(&notice).await);
    }
}
