//! Who answers, who refuses, and what a refusal says.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions, Login, Node, TlsOptions, Transport};
use sidebus::broker::{Broker, BrokerError, LaneRole, SessionEvent, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::lab::{PATIENCE, RabbitLab};
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::{self, BrokerHandle, Identity, SharedBroker};
use crate::support::wait::until;

const SECRET: &str = "canary-4711";

async fn refusal(options: AmqpOptions) -> BrokerError {
    let answer = timeout(PATIENCE, AmqpBroker::new(options).connect(SessionId(1))).await;
    let error = answer.expect("connecting has a deadline").expect_err("there is no session");
    let texts = format!("{error} {error:?}");
    assert!(!texts.contains(SECRET), "{texts}");
    error
}

/// Options that lead to a listener of the test, with short deadlines.
fn towards(address: SocketAddr) -> AmqpOptions {
    AmqpOptions {
        nodes: vec![Node { host: "127.0.0.1".to_owned(), port: address.port() }],
        transport: Transport::Plain,
        vhost: "/".to_owned(),
        login: login("mia"),
        connection_name: "sidebus-test".to_owned(),
        heartbeat: Duration::from_secs(10),
        preflight_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        operation_timeout: Duration::from_secs(5),
        confirm_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(2),
        pool_size_max: 1,
        pool_wait_timeout: Duration::from_secs(5),
    }
}

fn login(user: &str) -> Login {
    Login::Password { username: SecretString::from(user), password: SecretString::from(SECRET) }
}

fn tls() -> Transport {
    Transport::Tls(TlsOptions::default())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    (listener, address)
}

#[tokio::test]
async fn a_session_knows_what_the_broker_is() {
    let session = RabbitLab::new().await.session().await;
    let found = session.capabilities().clone();
    assert_eq!(found.product, "RabbitMQ");
    assert!(found.version.starts_with(|first: char| first.is_ascii_digit()), "{found:?}");
}

#[tokio::test]
async fn a_wrong_password_is_a_refused_login() {
    let user = rabbitmq::shared().await.username.clone();
    let options = AmqpOptions { login: login(&user), ..rabbitmq::shared().await.options() };
    let error = refusal(options).await;
    assert!(matches!(&error, BrokerError::LoginRefused { user: tried, .. } if *tried == user), "{error:?}");
}

#[tokio::test]
async fn a_missing_virtual_host_is_named() {
    let vhost = rabbitmq::prefix();
    let error = refusal(AmqpOptions { vhost: vhost.clone(), ..rabbitmq::shared().await.options() }).await;
    assert!(matches!(&error, BrokerError::VhostRefused { vhost: tried, .. } if *tried == vhost), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let (listener, address) = listener().await;
    drop(listener);
    let error = refusal(towards(address)).await;
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
}

/// failures.md L4.
#[tokio::test]
async fn a_silent_listener_ends_with_the_preflight_deadline() {
    let (_listener, address) = listener().await;
    let error = refusal(towards(address)).await;
    assert!(matches!(error, BrokerError::TimedOut { .. }), "{error:?}");
    let error = refusal(AmqpOptions { transport: tls(), ..towards(address) }).await;
    assert!(matches!(error, BrokerError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn something_else_than_amqp_is_unreachable_and_says_so() {
    let (listener, address) = listener().await;
    let web = async {
        let (mut socket, _) = listener.accept().await.expect("the preflight comes");
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("an answer");
    };
    let (error, ()) = tokio::join!(refusal(towards(address)), web);
    assert!(error.to_string().contains("does not speak AMQP"), "{error}");
}

#[tokio::test]
async fn tls_towards_a_plain_port_fails_and_tells_nothing() {
    let (listener, address) = listener().await;
    let plain = async {
        let (mut socket, _) = listener.accept().await.expect("the preflight comes");
        let mut heard = vec![0_u8; 4096];
        let count = socket.read(&mut heard).await.expect("a hello");
        // As RabbitMQ answers what it cannot read.
        socket.write_all(b"AMQP\x00\x00\x09\x01").await.expect("an answer");
        heard.truncate(count);
        let _ = socket.read_to_end(&mut heard).await;
        heard
    };
    let (error, heard) = tokio::join!(refusal(AmqpOptions { transport: tls(), ..towards(address) }), plain);
    assert!(matches!(error, BrokerError::Tls { .. }), "{error:?}");
    assert_eq!(heard.first(), Some(&22), "a TLS handshake record and nothing of AMQP");
    let contains = |needle: &[u8]| heard.windows(needle.len()).any(|window| window == needle);
    assert!(!contains(b"mia") && !contains(SECRET.as_bytes()) && !contains(b"AMQP"));
}

#[tokio::test]
async fn tls_towards_the_plain_port_of_a_broker_fails() {
    let shared = rabbitmq::shared().await;
    let error = refusal(AmqpOptions { transport: tls(), ..shared.options() }).await;
    assert!(matches!(error, BrokerError::Tls { .. }), "{error:?}");
}

/// Roots come by the environment, which a process reads once: so tests of this binary run again, in a process whose
/// roots and broker are the ones of this test.
#[tokio::test]
async fn a_trusted_certificate_carries_a_whole_session_and_another_none() {
    let identity = Identity::for_loopback();
    let shared = SharedBroker::private(BrokerHandle::start_with(Some(&identity)).await);
    let port = shared.node.as_ref().expect("a private node").tls_port;
    let shared = SharedBroker { tls: true, port, ..shared };
    let error = refusal(shared.options()).await;
    assert!(matches!(error, BrokerError::Tls { .. }), "{error:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &identity.authority).expect("a roots file");
    let tests = ["conformance::a_stored_batch_arrives_whole_and_in_order", "connecting::a_wrong_password"];
    let output = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(tests)
        .env("SSL_CERT_FILE", roots)
        .env("BUS_TEST_AMQP_URL", shared.url())
        .output();
    let output = timeout(PATIENCE * 2, output).await.expect("an end").expect("a child");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("2 passed"), "{text}");
}

/// failures.md L4.
#[tokio::test]
async fn a_broker_that_greets_and_falls_silent_is_given_up_and_leaves_nothing_behind() {
    let (listener, address) = listener().await;
    let broker = AmqpBroker::new(towards(address));
    let silent = async {
        let greet = async || {
            let (mut socket, _) = listener.accept().await.expect("a connect");
            let mut header = [0_u8; 8];
            socket.read_exact(&mut header).await.expect("the protocol header");
            socket.write_all(&greeting()).await.expect("a greeting");
            socket
        };
        let _preflight = greet().await;
        let mut lapins = [greet().await, greet().await];
        // Ends only when the other side closes: lapin itself would wait for ever.
        for lapin in &mut lapins {
            let _ = lapin.read_to_end(&mut Vec::new()).await;
        }
    };
    let (answer, ()) = timeout(PATIENCE, async { tokio::join!(broker.connect(SessionId(1)), silent) })
        .await
        .expect("the socket is cut");
    assert!(matches!(answer, Err(BrokerError::TimedOut { .. })), "{answer:?}");
    assert_eq!(broker.abandoned_connects(), 0, "what was cut is not left behind");
    // lapin's thread owns the socket, so where the socket is closed the thread has let go of it.
    let closed = async {
        let mut turns = tokio::time::interval(Duration::from_millis(20));
        while open_sockets_towards(address.port()) > 0 {
            turns.tick().await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the sockets are closed");
}

/// failures.md L4: a session that is lost while its lanes open takes their connects along, over years a great many.
#[tokio::test]
async fn a_connect_that_is_given_up_early_counts_only_if_it_hangs() {
    let shared = rabbitmq::shared().await;
    let proxy = Proxy::to(&shared.host, shared.port).await;
    let nodes = vec![Node { host: "127.0.0.1".to_owned(), port: proxy.port }];
    let broker = AmqpBroker::new(AmqpOptions { nodes, connect_timeout: Duration::from_secs(6), ..shared.options() });
    let session = broker.connect(SessionId(1)).await.expect("a session");
    let its_own = async || (proxy.open_links() == 2).then_some(());
    until("its own links alone", its_own).await;
    let give_up_a_connect = async || {
        proxy.only_greet();
        let before = proxy.links_made();
        // The first one asks who is there. Of the other lapin has the greeting once it is open, and waits.
        let begun = until("a connect", async || (proxy.links_made() == before + 2).then_some(()));
        tokio::select! {
            lane = session.lane(LaneRole::Publish) => panic!("nobody answers: {lane:?}"),
            () = begun => {}
        }
    };
    give_up_a_connect().await;
    proxy.thaw();
    until("it is answered and closed", its_own).await;
    assert_eq!(broker.abandoned_connects(), 0);

    give_up_a_connect().await;
    until("its deadline", async || (broker.abandoned_connects() == 1).then_some(())).await;
}

/// Sockets of this machine with that remote port which a process still holds (the kernel's own table; 0 elsewhere).
fn open_sockets_towards(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let towards = format!(":{port:04X}");
    let held = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|remote| remote.ends_with(&towards))
            && fields.get(9).is_some_and(|inode| *inode != "0")
    };
    table.lines().filter(held).count()
}

/// `connection.start` of a broker without properties.
pub(crate) fn greeting() -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 10, 0, 9, 0, 0, 0, 0];
    payload.extend(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(payload.len()).expect("a short payload").to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

/// failures.md L2: whoever reconnects waits for this.
#[tokio::test]
async fn a_lost_session_is_let_go_at_once_also_where_one_of_its_links_has_fallen_silent() {
    let lab = RabbitLab::new().await;
    let session = lab.session().await;
    let mut events = session.events();
    let _lane = session.lane(LaneRole::Publish).await.expect("a lane");
    // What looked first whether somebody answers has gone again.
    until("to consume, to settle, to publish", async || (lab.proxy.open_links() == 3).then_some(())).await;

    lab.proxy.freeze();
    lab.proxy.cut_oldest(2);
    let event = timeout(PATIENCE, events.next()).await.expect("the end is told");
    assert!(matches!(event, Some(SessionEvent::Closed(BrokerError::SessionLost { .. }))), "{event:?}");
    let closing = session.close(Duration::from_secs(20));
    timeout(Duration::from_secs(1), closing).await.expect("nobody waits for the silent link");
}
