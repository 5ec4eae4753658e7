//! A RabbitMQ for tests: the one that `BUS_TEST_AMQP_URL` names, else a private node that dies with this process.
//!
//! Every test owns names with a random prefix, so that tests share a broker without meeting each other.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use secrecy::SecretString;
use sidebus::broker::amqp::AmqpOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, interval};

use super::container::{self, BrokerContainer};
pub(crate) use super::identity::Identity;

/// The only variable that tests read. Never `AMQP_URL`, which people export for their own broker.
const URL_VARIABLE: &str = "BUS_TEST_AMQP_URL";
/// Folders with the server's own scripts. Not `/usr/sbin`: Debian's wrapper there changes to another user.
const SCRIPT_FOLDERS: [&str; 3] = ["/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin"];
const START_DEADLINE: Duration = Duration::from_mins(2);
const START_TRIES: usize = 3;
const POLL: Duration = Duration::from_millis(50);
const PLAIN_SETTINGS: &str = "loopback_users.guest = false\nlog.console.level = warning\n";
/// Waits for the end of its input, which is the end of the process that holds the other side, then kills and cleans.
const WATCHDOG: &str = r#"read -r _; for f in "$0"/*.pid; do kill -9 "$(cat "$f")"; done 2>/dev/null; rm -rf "$0""#;
/// Notes its own pid before it becomes the broker, so that the watchdog knows it from the first moment.
const NOTE_PID: &str = r#"echo $$ > "$0"; exec "$@""#;

/// A broker to connect to.
#[derive(Debug)]
pub(crate) struct SharedBroker {
    /// True for `amqps://`; roots of its own come by `SSL_CERT_FILE`.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) vhost: String,
    pub(crate) username: String,
    pub(crate) password: String,
    /// The private node; none where a URL was given.
    pub(crate) node: Option<BrokerHandle>,
    /// The container, where it runs in one.
    pub(crate) container: Option<BrokerContainer>,
}

static SHARED: OnceCell<SharedBroker> = OnceCell::const_new();

/// The broker of this test process. Sources in order: the URL, a private node, a container where no server is
/// installed and an engine answers.
pub(crate) async fn shared() -> &'static SharedBroker {
    SHARED
        .get_or_init(async || match given_url() {
            Some(url) => SharedBroker::from_url(&url),
            None if scripts().is_none() && container::engine_is_there() => {
                SharedBroker::contained(container::start().await)
            }
            None => SharedBroker::private(BrokerHandle::start().await),
        })
        .await
}

#[expect(
    clippy::disallowed_methods,
    reason = "only config reads the environment of the product; this is the tests' own"
)]
fn given_url() -> Option<String> {
    std::env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty())
}

impl SharedBroker {
    fn from_url(text: &str) -> Self {
        let url = url::Url::parse(text).expect("BUS_TEST_AMQP_URL is a URL");
        let tls = url.scheme() == "amqps";
        assert!(tls || url.scheme() == "amqp", "{URL_VARIABLE} must be amqp:// or amqps://");
        let decode = |part: &str| percent_decode(part);
        let path = url.path();
        Self {
            tls,
            host: url.host_str().expect("the URL names a host").trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(if tls { 5671 } else { 5672 }),
            // Without a path the virtual host is "/", with a bare slash it is the empty one.
            vhost: if path.is_empty() { "/".to_owned() } else { decode(path.trim_start_matches('/')) },
            username: if url.username().is_empty() { "guest".to_owned() } else { decode(url.username()) },
            password: url.password().map_or_else(|| "guest".to_owned(), decode),
            node: None,
            container: None,
        }
    }

    pub(crate) fn private(node: BrokerHandle) -> Self {
        Self {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: node.port,
            vhost: "/".to_owned(),
            username: "guest".to_owned(),
            password: "guest".to_owned(),
            node: Some(node),
            container: None,
        }
    }

    fn contained(container: BrokerContainer) -> Self {
        Self {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: container.port,
            vhost: "/".to_owned(),
            username: "guest".to_owned(),
            password: "guest".to_owned(),
            node: None,
            container: Some(container),
        }
    }

    /// As the environment of a daemon would name it.
    pub(crate) fn url(&self) -> String {
        let vhost = self.vhost.replace('%', "%25").replace('/', "%2f");
        let scheme = if self.tls { "amqps" } else { "amqp" };
        format!("{scheme}://{}:{}@{}:{}/{vhost}", self.username, self.password, self.host, self.port)
    }

    /// For connecting to it.
    pub(crate) fn options(&self) -> AmqpOptions {
        AmqpOptions {
            tls: self.tls,
            host: self.host.clone(),
            port: self.port,
            vhost: self.vhost.clone(),
            username: SecretString::from(self.username.clone()),
            password: SecretString::from(self.password.clone()),
            connection_name: "sidebus-test".to_owned(),
            heartbeat: Duration::from_secs(10),
            preflight_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(20),
            operation_timeout: Duration::from_secs(20),
            confirm_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(2),
            pool_size_max: 2,
            pool_wait_timeout: Duration::from_secs(10),
        }
    }

    /// A bare connection, for what a test does behind Sidebus's back.
    pub(crate) async fn lapin(&self) -> lapin::Connection {
        lapin::Connection::connect(&self.url(), lapin::ConnectionProperties::default()).await.expect("the broker is up")
    }

    /// For tests that need the default names and therefore a virtual host of their own: fails where somebody else's
    /// deployment is found.
    pub(crate) async fn claim_default_names(&self) {
        if self.node.is_some() {
            return;
        }
        let connection = self.lapin().await;
        for name in ["angzarr.events", "angzarr.dlx"] {
            let channel = connection.create_channel().await.expect("a channel");
            let options = lapin::options::ExchangeDeclareOptions { passive: true, ..Default::default() };
            let kind = lapin::ExchangeKind::Topic;
            let found =
                channel.exchange_declare(name.into(), kind, options, lapin::types::FieldTable::default()).await.is_ok();
            assert!(!found, "{URL_VARIABLE} names a virtual host in use: exchange {name} exists");
        }
        let channel = connection.create_channel().await.expect("a channel");
        let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let found =
            channel.queue_declare("angzarr.dlq".into(), options, lapin::types::FieldTable::default()).await.is_ok();
        assert!(!found, "{URL_VARIABLE} names a virtual host in use: queue angzarr.dlq exists");
    }
}

/// The folder of the server's own scripts, where it is installed.
fn scripts() -> Option<&'static Path> {
    SCRIPT_FOLDERS.iter().map(Path::new).find(|folder| folder.join("rabbitmq-server").exists())
}

/// A prefix that nobody else has.
pub(crate) fn prefix() -> String {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes.iter().fold("t-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// A node that belongs to whoever holds this: to be killed, started again and asked. It dies when this is dropped, and
/// also when the process is killed.
#[derive(Debug)]
pub(crate) struct BrokerHandle {
    pub(crate) port: u16,
    /// Listens only where the node was started with an identity.
    pub(crate) tls_port: u16,
    dist_port: u16,
    epmd_port: u16,
    node_name: String,
    scripts: PathBuf,
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
        for _ in 1..START_TRIES {
            // A free port may be taken before the node gets to it.
            if let Ok(handle) = Self::try_start(identity).await {
                return handle;
            }
        }
        Self::try_start(identity).await.unwrap_or_else(|log| panic!("the private RabbitMQ did not start:\n{log}"))
    }

    async fn try_start(identity: Option<&Identity>) -> Result<Self, String> {
        let scripts = scripts();
        let scripts = scripts.unwrap_or_else(|| panic!("no rabbitmq-server here: install it, or set {URL_VARIABLE}"));
        let [port, tls_port, dist_port, epmd_port] = free_ports();
        let name = prefix();
        let folder = std::env::temp_dir().join(format!("sidebus-rabbitmq-{name}"));
        fs::create_dir_all(&folder).expect("a folder for the broker");
        let settings = identity.map_or_else(String::new, |identity| identity.settings(&folder, tls_port));
        fs::write(folder.join("rabbitmq.conf"), format!("{PLAIN_SETTINGS}{settings}")).expect("a settings file");
        fs::write(folder.join("enabled_plugins"), "[].").expect("a plugins file");
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a watchdog");
        let address = format!("-address 127.0.0.1 -port {epmd_port}");
        let epmd = detached("epmd", address.split(' '), &folder.join("epmd.pid")).spawn().expect("epmd");
        let node_name = format!("{name}@localhost");
        let (scripts, broker) = (scripts.to_owned(), None);
        let mut handle =
            Self { port, tls_port, dist_port, epmd_port, node_name, scripts, folder, broker, epmd, watchdog };
        handle.restart_or_log().await?;
        Ok(handle)
    }

    /// Starts the killed node again, on the same ports and data, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.restart_or_log().await.unwrap_or_else(|log| panic!("the private RabbitMQ did not come back:\n{log}"));
    }

    async fn restart_or_log(&mut self) -> Result<(), String> {
        let log = self.folder.join("broker.log");
        let output = fs::File::create(&log).expect("a log file");
        let mut command = detached(self.scripts.join("rabbitmq-server"), ["-noinput"], &self.folder.join("broker.pid"));
        self.surround(&mut command);
        let same = output.try_clone().expect("a second handle");
        self.broker = Some(command.stdout(output).stderr(same).spawn().expect("the broker's script"));
        let deadline = Instant::now() + START_DEADLINE;
        let mut turns = interval(POLL);
        while !greets(self.port).await {
            let ended = self.broker.as_mut().is_some_and(|broker| broker.try_wait().is_ok_and(|code| code.is_some()));
            if ended || Instant::now() > deadline {
                return Err(fs::read_to_string(log).unwrap_or_default());
            }
            turns.tick().await;
        }
        Ok(())
    }

    /// False after a kill.
    pub(crate) fn is_running(&self) -> bool {
        self.broker.is_some()
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

    /// Makes the node write down which quorum queues it has: it does so by itself every half second, and one that is
    /// killed before comes back with the new queue's log forgotten and without a leader, so that consuming hangs (3.10.8).
    pub(crate) async fn note_queues(&self) {
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]).await;
    }

    /// Runs a command of `rabbitmqctl` against this node; answers what it prints.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.scripts.join("rabbitmqctl"));
        command.args(["-q", "-n", &self.node_name]).args(arguments);
        self.surround(&mut command);
        let output = tokio::process::Command::from(command).output().await.expect("rabbitmqctl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Everything that keeps the node away from others on this machine. The cookie lands in the home folder.
    fn surround(&self, command: &mut Command) {
        let folder = |name: &str| self.folder.join(name);
        command
            .env("HOME", &self.folder)
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
    fn drop(&mut self) {
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

/// A command out of the reach of signals to the tests' process group, which notes its pid.
fn detached<'a>(
    program: impl AsRef<std::ffi::OsStr>,
    arguments: impl IntoIterator<Item = &'a str>,
    pid_file: &Path,
) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", NOTE_PID]).arg(pid_file).arg(program).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

fn free_ports() -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound port").port())
}

/// True if something on the port answers the protocol header of AMQP 0-9-1.
async fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    if stream.write_all(b"AMQP\x00\x00\x09\x01").await.is_err() {
        return false;
    }
    let mut first = [0_u8; 1];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut first)).await;
    matches!(read, Ok(Ok(_))) && first == [1]
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).expect("the URL is UTF-8")
}
