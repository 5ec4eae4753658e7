//! A RabbitMQ node of a test's own: started, killed, started again and asked. Knows no test and no client.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use super::server::Server;
use super::{Identity, URL_VARIABLE, prefix};

const START_DEADLINE: Duration = Duration::from_mins(2);
const START_TRIES: usize = 3;
const POLL: Duration = Duration::from_millis(50);
/// Of the broker's log, after a failed test.
const SHOWN_LINES: usize = 60;
/// What the server says last when it starts.
const BOOTED: &str = "completed with";
const PLAIN_SETTINGS: &str = "loopback_users.guest = false\nlog.console.level = warning\n";
/// Waits for the end of its input, which is the end of the process that holds the other side, then kills and cleans.
const WATCHDOG: &str = r#"read -r _; for f in "$0"/*.pid; do kill -9 "$(cat "$f")"; done 2>/dev/null; rm -rf "$0""#;
/// Notes its own pid before it becomes the broker, so that the watchdog knows it from the first moment.
const NOTE_PID: &str = r#"echo $$ > "$0"; exec "$@""#;

/// A node that belongs to whoever holds this: to be killed, started again and asked. It dies when this is dropped, and
/// also when the process is killed.
#[derive(Debug)]
pub(crate) struct BrokerHandle {
    pub(crate) port: u16,
    /// Listens only where the node was started with an identity.
    pub(crate) tls_port: u16,
    /// Ports that open later than the plain one (4.3.6 opens the one for TLS last).
    late_ports: Vec<u16>,
    dist_port: u16,
    epmd_port: u16,
    node_name: String,
    server: Server,
    folder: PathBuf,
    broker: Option<Child>,
    epmd: Child,
    /// Its input is the pipe whose end it waits for.
    watchdog: Child,
}

impl BrokerHandle {
    /// Starts a node of its own on free loopback ports and waits until it answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, with a TLS listener beside the plain one.
    pub(crate) async fn start_with(identity: Option<&Identity>) -> Self {
        Self::start_as(identity, "").await
    }

    /// The same, with further lines in its `rabbitmq.conf`.
    pub(crate) async fn start_set(lines: &str) -> Self {
        Self::start_as(None, lines).await
    }

    async fn start_as(identity: Option<&Identity>, lines: &str) -> Self {
        for _ in 1..START_TRIES {
            // A free port may be taken before the node gets to it.
            if let Ok(handle) = Self::try_start(identity, lines).await {
                return handle;
            }
        }
        Self::try_start(identity, lines)
            .await
            .unwrap_or_else(|log| panic!("the private RabbitMQ did not start:\n{log}"))
    }

    async fn try_start(identity: Option<&Identity>, lines: &str) -> Result<Self, String> {
        let server =
            Server::find().unwrap_or_else(|| panic!("no rabbitmq-server here: install it, or set {URL_VARIABLE}"));
        let [port, tls_port, dist_port, epmd_port] = crate::support::ports::free();
        let name = prefix();
        let folder = server.folder(&format!("sidebus-rabbitmq-{name}"));
        fs::create_dir_all(&folder).expect("a folder for the broker");
        let settings =
            identity.map_or_else(String::new, |identity| identity.settings((&folder, &server.seen(&folder)), tls_port));
        fs::write(folder.join("rabbitmq.conf"), format!("{PLAIN_SETTINGS}{settings}{lines}")).expect("a settings file");
        let plugins = identity.map(Identity::plugins).unwrap_or_default();
        fs::write(folder.join("enabled_plugins"), format!("[{plugins}].")).expect("a plugins file");
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a watchdog");
        let address = format!("-address 127.0.0.1 -port {epmd_port}");
        let epmd = detached(server.epmd(), address.split(' '), &folder.join("epmd.pid")).spawn().expect("epmd");
        let node_name = format!("{name}@localhost");
        let (late_ports, broker) = (identity.map(|_| tls_port).into_iter().collect(), None);
        let mut handle = Self {
            port,
            tls_port,
            late_ports,
            dist_port,
            epmd_port,
            node_name,
            server,
            folder,
            broker,
            epmd,
            watchdog,
        };
        handle.restart_or_log().await?;
        handle.until_booted().await?;
        Ok(handle)
    }

    /// It answers before all of it has begun: until then 4.3.6 tells no consumer that its queue was deleted (measured).
    async fn until_booted(&self) -> Result<(), String> {
        let log = self.folder.join("broker.log");
        let deadline = Instant::now() + START_DEADLINE;
        let mut turns = interval(POLL);
        loop {
            turns.tick().await;
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains(BOOTED) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(said);
            }
        }
    }

    /// Starts the killed node again, on the same ports and data, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.restart_or_log().await.unwrap_or_else(|log| panic!("the private RabbitMQ did not come back:\n{log}"));
    }

    async fn restart_or_log(&mut self) -> Result<(), String> {
        let log = self.folder.join("broker.log");
        let output = fs::File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command =
            detached(self.server.script("rabbitmq-server"), ["-noinput"], &self.folder.join("broker.pid"));
        self.surround(&mut command);
        let same = output.try_clone().expect("a second handle");
        self.broker = Some(command.stdout(output).stderr(same).spawn().expect("the broker's script"));
        let deadline = Instant::now() + START_DEADLINE;
        let mut turns = interval(POLL);
        while !self.is_up().await {
            let ended = self.broker.as_mut().is_some_and(|broker| broker.try_wait().is_ok_and(|code| code.is_some()));
            if ended || Instant::now() > deadline {
                return Err(fs::read_to_string(log).unwrap_or_default());
            }
            turns.tick().await;
        }
        Ok(())
    }

    async fn is_up(&self) -> bool {
        let name = self.node_name.split('@').next().expect("a name before the host");
        let mut is_up = greets(self.port, name).await;
        for port in &self.late_ports {
            is_up = is_up && TcpStream::connect(("127.0.0.1", *port)).await.is_ok();
        }
        is_up
    }

    /// The folder that is its root, where that is not the machine's own.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.server.root()
    }

    /// Of the node's process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.broker.as_ref().map(Child::id)
    }

    /// False after a kill.
    pub(crate) fn is_running(&self) -> bool {
        self.broker.is_some()
    }

    /// Stops the node where it is (`STOP`) or lets it go on (`CONT`): it keeps its connections and answers nothing meanwhile.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the broker takes no signal");
    }

    /// Kills the node without any notice.
    pub(crate) fn kill(&mut self) {
        let Some(mut broker) = self.broker.take() else { return };
        broker.kill().expect("the broker can be killed");
        broker.wait().expect("the broker has ended");
        // Its number may soon be somebody else's.
        fs::remove_file(self.folder.join("broker.pid")).expect("the broker had noted its pid");
    }

    /// Address of a virtual host of this node, without credentials: `user` and `password` come first.
    pub(crate) fn url(&self, (user, password): (&str, &str), vhost: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/{}", self.port, vhost.replace('/', "%2f"))
    }

    /// Makes a virtual host that nobody else has, with all rights for `guest`; answers its name.
    pub(crate) async fn virtual_host(&self) -> String {
        let name = prefix();
        self.ctl(&["add_vhost", &name]).await;
        self.ctl(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]).await;
        name
    }

    /// Makes the node write down which queues it has, before it is killed. It does so by itself a moment later only: a new
    /// quorum queue comes back with its log forgotten and without a leader, so that consuming hangs (half a second), and a new
    /// classic one may not come back at all (two seconds; both on 3.10.8, whose tables wait in buffers of their own).
    pub(crate) async fn note_queues(&self) {
        self.ctl(&["eval", "disk_log:sync(latest_log), [dets:sync(Table) || Table <- dets:all()]."]).await;
    }

    /// Makes a queue of the virtual host `/` fall silent, as one without a leader is, or answer again: what is published to
    /// it is not confirmed meanwhile.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) async fn mute_queue(&self, queue: &str, mute: bool) {
        let call = if mute { "suspend" } else { "resume" };
        let told = self
            .ctl(&[
                "eval",
                &format!(
                    "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
                     sys:{call}(case amqqueue:get_pid(Q) of {{Name, _}} -> Name; Pid -> Pid end)."
                ),
            ])
            .await;
        assert_eq!(told.trim(), "ok", "{call} {queue}");
    }

    /// Runs a command of `rabbitmqctl` against this node; answers what it prints.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = command(self.server.script("rabbitmqctl"));
        command.args(["-q", "-n", &self.node_name]).args(arguments);
        self.surround(&mut command);
        let output = tokio::process::Command::from(command).output().await.expect("rabbitmqctl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Everything that keeps the node away from others on this machine. The cookie lands in the home folder.
    fn surround(&self, command: &mut Command) {
        let seen = self.server.seen(&self.folder);
        let folder = |name: &str| seen.join(name);
        command
            .env("HOME", &seen)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.node_name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONFIG_FILE", folder("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", folder("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", folder("server-pid"))
            // The script then becomes the server instead of watching it, so its pid is the server's.
            .env("RABBITMQ_ALLOW_INPUT", "1");
    }
}

impl Drop for BrokerHandle {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its broker said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the broker said last:\n{}\n---",
                lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
            );
        }
        let processes = self.broker.iter_mut().chain([&mut self.epmd]);
        for process in processes {
            // Either may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A command out of the reach of signals to the tests' process group, which notes its pid. Whatever the words of the call start keeps
/// the pid: each becomes the next.
fn detached<'a>(call: Vec<OsString>, arguments: impl IntoIterator<Item = &'a str>, pid_file: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", NOTE_PID]).arg(pid_file).args(call).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

fn command(call: Vec<OsString>) -> Command {
    let mut words = call.into_iter();
    let mut command = Command::new(words.next().expect("a call names its program"));
    command.args(words);
    command
}

/// True if the node of this name answers on the port. Another broker may have taken it while ours was away and would pass for ours,
/// with empty queues. Each tells its name, as that of its cluster, before anybody logs in.
async fn greets(port: u16, name: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    if stream.write_all(b"AMQP\x00\x00\x09\x01").await.is_err() {
        return false;
    }
    let mut greeting = Vec::new();
    let named = async {
        while stream.read_buf(&mut greeting).await.is_ok_and(|count| count > 0) {
            if greeting.windows(name.len()).any(|window| window == name.as_bytes()) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(Duration::from_secs(5), named).await.unwrap_or(false)
}
