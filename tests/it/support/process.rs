//! The real binary as its users start it: arguments, environment, signals, exit code, both outputs.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{eventually, http, within};

/// What a finished command has said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A directory of its own and an environment of its own: nothing of the machine's settings comes in.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), environment: Vec::new() }
    }

    /// The memory backend on free ports.
    pub(crate) fn memory() -> Self {
        Self::free_ports().with("BUS_BACKEND", "memory")
    }

    pub(crate) fn free_ports() -> Self {
        Self::new().with("BUS__GRPC__LISTEN", "127.0.0.1:0").with("BUS__ADMIN__LISTEN", "127.0.0.1:0")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus"));
        command.args(args).env_clear().envs(self.environment.iter().cloned()).current_dir(self.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Said {
        self.run_with_input(args, "").await
    }

    pub(crate) async fn run_with_input(&self, args: &[&str], input: &str) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that reads nothing may be gone before.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        let output = within(&args.join(" "), child.wait_with_output()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Said { code: output.status.code().unwrap_or(-1), stdout, stderr }
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, args: &[&str]) -> Process {
        let mut child = self.command(args).spawn().unwrap();
        let mut readers = JoinSet::new();
        let (stdout, stderr) = (Lines::default(), Lines::default());
        stdout.follow(child.stdout.take().unwrap(), &mut readers);
        stderr.follow(child.stderr.take().unwrap(), &mut readers);
        Process { child, stdout, stderr, readers }
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) async fn daemon(&self, args: &[&str]) -> Daemon {
        let process = self.start(&[&["run"], args].concat());
        let line = process.stderr.find("listening").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| line[name].as_str().unwrap().to_owned();
        Daemon { grpc: address("grpc"), admin: address("admin"), process }
    }
}

/// The lines of one output so far.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    changed: watch::Sender<()>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { lines: Arc::default(), changed: watch::Sender::new(()) }
    }
}

impl Lines {
    fn follow(&self, output: impl AsyncRead + Unpin + Send + 'static, readers: &mut JoinSet<()>) {
        let lines = self.clone();
        readers.spawn(async move {
            let mut reader = BufReader::new(output).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                lines.lines.lock().unwrap().push(line);
                lines.changed.send_replace(());
            }
        });
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The first line that contains this, now or later.
    pub(crate) async fn find(&self, part: &str) -> String {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(line) = self.all().into_iter().find(|line| line.contains(part)) {
                    return line;
                }
                changed.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(super::PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no {part:?} in {:#?}", self.all()))
    }
}

/// A running command; it is killed with this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    readers: JoinSet<()>,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.pid();
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await.unwrap();
        assert!(sent.success(), "{signal} to {pid}: {sent}");
    }

    /// Waits for the end and for all that it has said.
    pub(crate) async fn end(&mut self) -> Said {
        let status = within("the end of the process", self.child.wait()).await.unwrap();
        within("its last words", async { while self.readers.join_next().await.is_some() {} }).await;
        let text = |lines: &Lines| lines.all().join("\n");
        Said { code: status.code().unwrap_or(-1), stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }
}

/// A running daemon and where it listens.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) grpc: String,
    pub(crate) admin: String,
}

impl Daemon {
    pub(crate) fn port(&self) -> u16 {
        self.grpc.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        http::get(&self.admin, path).await.expect("the probes answer")
    }

    pub(crate) async fn ready(&self) {
        let is_ready = async || (http::get(&self.admin, "/readyz").await?.0 == 200).then_some(());
        eventually("readiness", is_ready).await;
    }
}
