//! Which RabbitMQ a private node runs, the machine's own or one unpacked into a folder, and how its programs are called. Knows no node.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names a folder of `tests/brokers.sh` whose RabbitMQ private nodes run instead of the machine's own.
const ROOT_VARIABLE: &str = "BUS_TEST_RABBITMQ_ROOT";
/// Folders with the server's own scripts. Not `/usr/sbin`: Debian's wrapper there changes to another user.
const SCRIPT_FOLDERS: [&str; 3] = ["/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin"];
/// Mounts what an Erlang needs and changes the root. It runs in a mount namespace of its own, so nobody else sees the mounts, they
/// go with the last process in it, and whoever deletes the folder cannot reach the machine's files through them.
const ENTER: &str = r#"mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" || exit 1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec chroot "$0" "$@""#;

/// A RabbitMQ whose programs can be started.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    /// Installed on this machine.
    Installed {
        /// The folder with its own scripts.
        scripts: PathBuf,
    },
    /// Unpacked with everything that it needs, and entered by changing the root: needs to be root.
    Unpacked {
        /// The folder that becomes the root.
        root: PathBuf,
    },
}

impl Server {
    /// The one that the environment names, else the machine's own; none where neither is.
    ///
    /// # Panics
    /// The environment names a folder without a server: another version in its place would be tested unnoticed.
    pub(crate) fn find() -> Option<Self> {
        if let Some(root) = given_root() {
            let is_there = root.join("usr/lib/rabbitmq/bin/rabbitmq-server").exists();
            assert!(is_there, "{ROOT_VARIABLE}: no RabbitMQ in {}; run tests/brokers.sh prepare", root.display());
            return Some(Self::Unpacked { root });
        }
        let scripts =
            SCRIPT_FOLDERS.iter().map(PathBuf::from).find(|folder| folder.join("rabbitmq-server").exists())?;
        Some(Self::Installed { scripts })
    }

    /// The folder that becomes its programs' root; none for the machine's own.
    pub(crate) fn root(&self) -> Option<&Path> {
        match self {
            Self::Installed { .. } => None,
            Self::Unpacked { root } => Some(root),
        }
    }

    /// A path for a node's files, which nobody has made yet. As this process sees it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        match self {
            Self::Installed { .. } => std::env::temp_dir().join(name),
            Self::Unpacked { root } => root.join("tmp").join(name),
        }
    }

    /// A path of this process as the server's programs see it.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        match self {
            Self::Installed { .. } => path.to_owned(),
            Self::Unpacked { root } => Path::new("/").join(path.strip_prefix(root).expect("a path below the root")),
        }
    }

    /// The words that call one of the server's scripts; its arguments come behind them.
    pub(crate) fn script(&self, name: &str) -> Vec<OsString> {
        match self {
            Self::Installed { scripts } => vec![scripts.join(name).into()],
            Self::Unpacked { .. } => self.enter(Path::new("/usr/lib/rabbitmq/bin").join(name)),
        }
    }

    /// The words that call Erlang's port mapper: the server's own, since another version may not speak with it.
    pub(crate) fn epmd(&self) -> Vec<OsString> {
        match self {
            Self::Installed { .. } => vec!["epmd".into()],
            Self::Unpacked { .. } => self.enter(PathBuf::from("epmd")),
        }
    }

    fn enter(&self, program: PathBuf) -> Vec<OsString> {
        match self {
            Self::Installed { .. } => vec![program.into()],
            Self::Unpacked { root } => {
                let words = ["unshare", "--mount", "sh", "-c", ENTER].map(OsString::from);
                words.into_iter().chain([root.into(), program.into()]).collect()
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only config reads the environment of the product; this is the tests' own"
)]
fn given_root() -> Option<PathBuf> {
    std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).map(PathBuf::from)
}
