//! Who answers, who refuses, and what a refusal says.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions};
use sidebus::broker::{Broker, BrokerError, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::lab::{PATIENCE, RabbitLab};
use crate::support::rabbitmq;

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
        tls: false,
        host: "127.0.0.1".to_owned(),
        port: address.port(),
        vhost: "/".to_owned(),
        username: SecretString::from("mia"),
        password: SecretString::from(SECRET),
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
    let options = AmqpOptions { password: SecretString::from(SECRET), ..rabbitmq::shared().await.options() };
    let user = rabbitmq::shared().await.username.clone();
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

#[tokio::test]
async fn a_silent_listener_ends_with_the_preflight_deadline() {
    let (_listener, address) = listener().await;
    let error = refusal(towards(address)).await;
    assert!(matches!(error, BrokerError::TimedOut { .. }), "{error:?}");
    let error = refusal(AmqpOptions { tls: true, ..towards(address) }).await;
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
    let (error, heard) = tokio::join!(refusal(AmqpOptions { tls: true, ..towards(address) }), plain);
    assert!(matches!(error, BrokerError::Tls { .. }), "{error:?}");
    assert_eq!(heard.first(), Some(&22), "a TLS handshake record and nothing of AMQP");
    let contains = |needle: &[u8]| heard.windows(needle.len()).any(|window| window == needle);
    assert!(!contains(b"mia") && !contains(SECRET.as_bytes()) && !contains(b"AMQP"));
}

#[tokio::test]
async fn tls_towards_the_plain_port_of_a_broker_fails() {
    let shared = rabbitmq::shared().await;
    let error = refusal(AmqpOptions { tls: true, host: "localhost".to_owned(), ..shared.options() }).await;
    assert!(matches!(error, BrokerError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_broker_that_greets_and_falls_silent_is_given_up_and_cut() {
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
        let mut lapins = greet().await;
        // Ends only when the other side closes: lapin itself would wait for ever, and its thread with it.
        let mut heard = Vec::new();
        let _ = lapins.read_to_end(&mut heard).await;
    };
    let (answer, ()) = timeout(PATIENCE, async { tokio::join!(broker.connect(SessionId(1)), silent) })
        .await
        .expect("the socket is cut");
    assert!(matches!(answer, Err(BrokerError::TimedOut { .. })), "{answer:?}");
    assert_eq!(broker.abandoned_connects(), 1);
}

/// `connection.start` of a broker without properties.
fn greeting() -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 10, 0, 9, 0, 0, 0, 0];
    payload.extend(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(payload.len()).expect("a short payload").to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}
