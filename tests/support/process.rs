//! Programs that a test starts: their output is kept for asserting and for failures, their end is waited for by pid.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;

use super::wait::{PATIENCE, until, until_within};

/// Lines of the log that a failed test shows.
const SHOWN_LINES: usize = 60;

/// A running program. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
    out: Arc<Mutex<Vec<String>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

impl Process {
    /// Starts a program that inherits nothing of the environment but where programs and the home folder are.
    #[expect(clippy::disallowed_methods, reason = "only config reads the environment of the product; this is not it")]
    pub(crate) fn start(name: &str, mut command: Command, environment: &[(&str, &str)]) -> Self {
        let kept = ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(kept).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let out = gather(child.stdout.take().expect("a pipe"));
        let log = gather(child.stderr.take().expect("a pipe"));
        Self { child, name: name.to_owned(), out, log }
    }

    /// Lines of standard output so far.
    pub(crate) fn output(&self) -> Vec<String> {
        self.out.lock().expect("no reader panics").clone()
    }

    /// How many they are.
    pub(crate) fn output_count(&self) -> usize {
        self.out.lock().expect("no reader panics").len()
    }

    /// Lines of standard error so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Everything that it has said, for looking for what must not be there.
    pub(crate) fn said(&self) -> String {
        [self.output(), self.log()].concat().join("\n")
    }

    /// Waits for a JSON line of the log with this text as its `message`.
    pub(crate) async fn logged(&mut self, message: &str) -> Json {
        let find = |line: &String| {
            let line: Json = serde_json::from_str(line).ok()?;
            (line.get("message")?.as_str()? == message).then_some(line)
        };
        until(&format!("{} logs {message:?}", self.name), async || {
            // Looked at first, so that the last lines of a process that has ended are seen.
            let is_running = self.is_running();
            let found = self.log().iter().find_map(find);
            assert!(found.is_some() || is_running, "{} ended before it logged {message:?}", self.name);
            found
        })
        .await
    }

    /// Sends a signal such as `TERM` to this process alone.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} takes no signal", self.name);
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        self.end_within(PATIENCE).await
    }

    /// The same with a deadline of its own.
    pub(crate) async fn end_within(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until_within(limit, &what, async || self.child.try_wait().expect("a child of ours")).await
    }

    /// SIGTERM, and its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.end().await.code()
    }

    /// SIGKILL: it can say and do nothing any more.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().expect("a child of ours");
        assert_eq!(self.end().await.signal(), Some(9), "{} was killed", self.name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of its memory in bytes, such as `VmHWM` (the most that was ever resident) or `VmRSS`.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let kib: u64 = found.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).expect("a size");
        kib * 1024
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|end| end.is_none())
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its programs said")]
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = [self.output(), self.log()].concat();
            let shown = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("--- {} said last:\n{}\n---", self.name, lines[shown..].join("\n"));
        }
    }
}

/// Reads until the other side is closed, on a thread: a pipe that nobody empties would stop the program.
fn gather(pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            into.lock().expect("no reader panics").push(line);
        }
    });
    lines
}
