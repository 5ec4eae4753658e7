//! Several nodes, logins that change, tokens: against the real broker, and against a greeter that shows what is sent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions, Changes, Login, Node};
use sidebus::broker::{Broker, BrokerError, Confirm, LaneRole, Session, SessionId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::connecting::greeting;
use crate::lab::{self, PATIENCE};
use crate::support::wait::{until, until_within};
use crate::support::{nodes, rabbitmq, tokens};

/// Longer than the pause between two looks at the file, and not much.
const TOKEN_GOOD_FOR: Duration = Duration::from_secs(20);

fn local(port: u16) -> Node {
    Node { host: "127.0.0.1".to_owned(), port }
}

/// A port that nobody listens on, for as long as the listener is not asked.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("a bound port").port()
}

/// Options whose login is what the cell holds.
fn changing(options: &AmqpOptions, now: &Arc<Mutex<Login>>) -> Changes {
    let (options, now) = (options.clone(), Arc::clone(now));
    Changes::Reread(Arc::new(move || {
        let login = now.lock().expect("no test panics here").clone();
        Ok(AmqpOptions { login, ..options.clone() })
    }))
}

fn password(user: &str, password: &str) -> Login {
    Login::Password { username: SecretString::from(user), password: SecretString::from(password) }
}

/// failures.md L13.
#[tokio::test]
async fn of_several_nodes_the_one_that_answers_is_used_whatever_the_order() {
    let shared = rabbitmq::shared().await;
    let good = Node { host: shared.host.clone(), port: shared.port };
    let nodes = vec![local(closed_port().await), good, local(closed_port().await)];
    let broker = AmqpBroker::new(AmqpOptions { nodes, ..shared.options() });
    for number in 1..=6 {
        let session = broker.connect(SessionId(number)).await.expect("a session");
        session.lane(LaneRole::Publish).await.expect("a pooled connection to the same node");
        session.close(Duration::from_secs(2)).await;
    }
}

/// failures.md L4 and L13.
#[tokio::test]
async fn a_node_that_accepts_and_stays_silent_costs_its_share_and_no_more() {
    let shared = rabbitmq::shared().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent_port = silent.local_addr().expect("a bound port").port();
    let nodes = vec![local(silent_port), Node { host: shared.host.clone(), port: shared.port }];
    let options = AmqpOptions { nodes, preflight_timeout: Duration::from_secs(4), ..shared.options() };
    let broker = AmqpBroker::new(options);
    for number in 1..=3 {
        timeout(PATIENCE, broker.connect(SessionId(number))).await.expect("a deadline").expect("a session");
    }
}

/// failures.md L13.
#[tokio::test]
async fn when_no_node_answers_each_is_named() {
    let (one, two) = (closed_port().await, closed_port().await);
    let options = AmqpOptions { nodes: vec![local(one), local(two)], ..rabbitmq::shared().await.options() };
    let error = AmqpBroker::new(options).connect(SessionId(1)).await.expect_err("nobody is there");
    let text = error.to_string();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
    assert!(text.contains(&one.to_string()) && text.contains(&two.to_string()), "{text}");
}

/// failures.md L12.
#[tokio::test]
async fn a_login_is_read_anew_for_every_session_and_every_pooled_connection() {
    let node = nodes::managed().await;
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, "first"]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, ".*", ".*", ".*"]).await;
    let shared = rabbitmq::shared().await.options();
    let login = Arc::new(Mutex::new(password(&user, "first")));
    let options =
        AmqpOptions { nodes: vec![local(node.port)], login: password(&user, "first"), vhost: "/".to_owned(), ..shared };
    let broker = AmqpBroker::with_changes(options.clone(), changing(&options, &login));
    let session = broker.connect(SessionId(1)).await.expect("a session");

    node.ctl(&["change_password", &user, "second"]).await;
    let refused = broker.connect(SessionId(2)).await;
    assert!(matches!(refused, Err(BrokerError::LoginRefused { .. })), "{refused:?}");
    *login.lock().expect("no test panics here") = password(&user, "second");

    // The session is older than the change; its first pooled connection is not.
    session.lane(LaneRole::Publish).await.expect("a connection with the new password");
    broker.connect(SessionId(3)).await.expect("a session with the new password");
}

#[tokio::test]
async fn a_login_that_cannot_be_read_is_told_and_read_again() {
    let shared = rabbitmq::shared().await.options();
    let is_there = Arc::new(Mutex::new(false));
    let (options, known) = (shared.clone(), Arc::clone(&is_there));
    let changes = Changes::Reread(Arc::new(move || {
        let is_there = *known.lock().expect("no test panics here");
        is_there.then(|| options.clone()).ok_or_else(|| BrokerError::Unreadable { reason: "gone".to_owned() })
    }));
    let broker = AmqpBroker::with_changes(shared, changes);
    let refused = broker.connect(SessionId(1)).await;
    assert!(matches!(refused, Err(BrokerError::Unreadable { .. })), "{refused:?}");
    *is_there.lock().expect("no test panics here") = true;
    broker.connect(SessionId(2)).await.expect("a session");
}

#[tokio::test]
async fn a_new_token_keeps_a_live_connection_beyond_the_end_of_the_old_one() {
    let secured = nodes::secured().await;
    let short = secured.tokens.token(TOKEN_GOOD_FOR);
    let ends = tokens::now() + TOKEN_GOOD_FOR.as_secs();
    let login = Arc::new(Mutex::new(Login::Token(SecretString::from(short))));
    let nodes = vec![local(secured.node.port)];
    let first = login.lock().expect("no test panics here").clone();
    let options = AmqpOptions { nodes, login: first, vhost: "/".to_owned(), ..rabbitmq::shared().await.options() };
    let renewed = AmqpBroker::with_changes(options.clone(), changing(&options, &login));
    let renewed = renewed.connect(SessionId(1)).await.expect("the broker takes the token");
    let left = AmqpBroker::new(options).connect(SessionId(1)).await.expect("the broker takes the token");

    *login.lock().expect("no test panics here") =
        Login::Token(SecretString::from(secured.tokens.token(Duration::from_hours(1))));
    // Over a connection that has been there from the start: the broker looks at its token for every new target.
    let publish = async |session: &dyn Session| {
        let mut lane = session.lane(LaneRole::Settle).await.ok()?;
        let target = rabbitmq::prefix();
        let confirms = lane.publish(vec![lab::to_queue(&target, 1)]).await;
        (confirms == [Confirm::Unroutable]).then_some(())
    };
    until_within(TOKEN_GOOD_FOR * 3, "the first token has ended", async || (tokens::now() > ends + 1).then_some(()))
        .await;

    // On a busy machine it is sent a little later; a refusal costs the lane's channel and nothing else.
    until("the new token was sent", async || publish(renewed.as_ref()).await).await;
    assert_eq!(publish(left.as_ref()).await, None, "without a new one the broker refuses");
}

#[tokio::test]
async fn a_token_is_sent_as_the_password_of_a_user_without_a_name() {
    let (listener, options) = greeter().await;
    let options = AmqpOptions { login: Login::Token(SecretString::from("canary-token")), ..options };
    let broker = AmqpBroker::new(options);
    let heard = async {
        let _preflight = greet(&listener).await;
        let mut first = greet(&listener).await;
        frame(&mut first).await
    };
    let connecting = async { broker.connect(SessionId(1)).await };
    let either = async {
        tokio::select! {
            start_ok = heard => start_ok,
            answer = connecting => panic!("{answer:?}"),
        }
    };
    let start_ok = timeout(PATIENCE, either).await.expect("it is sent");
    let contains = |needle: &[u8]| start_ok.windows(needle.len()).any(|window| window == needle);
    assert!(contains(b"\x05PLAIN\x00\x00\x00\x0e\x00\x00canary-token"), "{start_ok:?}");
}

/// A listener that speaks AMQP as far as its greeting.
async fn greeter() -> (TcpListener, AmqpOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    let options = AmqpOptions { nodes: vec![local(port)], ..rabbitmq::shared().await.options() };
    (listener, options)
}

async fn greet(listener: &TcpListener) -> TcpStream {
    let (mut socket, _) = listener.accept().await.expect("a connect");
    let mut header = [0_u8; 8];
    socket.read_exact(&mut header).await.expect("the protocol header");
    socket.write_all(&greeting()).await.expect("a greeting");
    socket
}

/// The payload of the next frame.
async fn frame(socket: &mut TcpStream) -> Vec<u8> {
    let mut head = [0_u8; 7];
    socket.read_exact(&mut head).await.expect("a frame");
    let [_, _, _, size @ ..] = head;
    let mut payload = vec![0_u8; usize::try_from(u32::from_be_bytes(size)).expect("a size") + 1];
    socket.read_exact(&mut payload).await.expect("its payload and end");
    payload
}
