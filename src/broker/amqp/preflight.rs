//! Asks whether something that speaks AMQP 0-9-1 answers, before lapin tries. Sends no credentials, keeps nothing open.
//!
//! It is also the only source of the broker's version, which lapin does not show.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::options::{AmqpOptions, Login, Node, Transport};
use super::places::{self, Place};
use super::{error, link};
use crate::broker::{BrokerError, Capabilities};

/// What a client says first (AMQP 0-9-1, section 4.2.2).
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// A greeting longer than this is none.
const GREETING_BYTES_MAX: usize = 64 * 1024;
/// A broker that refuses a certificate does so at the end of the handshake.
const ALERT_WITHIN: Duration = Duration::from_secs(2);
/// Type, channel and size of a frame.
const FRAME_HEADER_BYTES: usize = 7;
const FRAME_METHOD: u8 = 1;
/// Class and method of `connection.start`, then the protocol's two version octets.
const START: [u8; 4] = [0, 10, 0, 10];
const START_VERSION_BYTES: usize = 2;

/// Reaches a node of the broker and reads its greeting, all within `preflight_timeout`; answers where that was, too.
///
/// # Errors
/// `Unreachable`, `Tls`, or `TimedOut` where a connection was accepted and then nothing came.
pub(super) async fn preflight(options: &AmqpOptions) -> Result<(Capabilities, Place), BrokerError> {
    towards(options, places::resolve).await
}

/// The same with the means to look up names.
async fn towards<F>(options: &AmqpOptions, resolve: impl Fn(&Node) -> F) -> Result<(Capabilities, Place), BrokerError>
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let limit = options.preflight_timeout;
    let deadline = Instant::now() + limit;
    let (candidates, mut failures) = places::candidates(options, limit, resolve).await;
    for (position, place) in candidates.iter().enumerate() {
        // Each gets an even share of what is left.
        let left = u32::try_from(candidates.len() - position).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match look(options, place, share).await {
            Ok(found) => return Ok((found, place.clone())),
            Err(error) => failures.push(error),
        }
    }
    Err(places::most_telling(options, failures))
}

/// The same at one place, within `limit`.
pub(super) async fn look(options: &AmqpOptions, place: &Place, limit: Duration) -> Result<Capabilities, BrokerError> {
    let endpoint = options.endpoint_of(&place.node);
    let deadline = Instant::now() + limit;
    // Under no second deadline: a port that nobody reaches must never be told as one that was reached and is late.
    let (mut stream, _cutter) = link::open(options, place, limit).await?;
    let work = async {
        let greeting = match greet(&mut stream).await {
            Ok(greeting) => greeting,
            Err(error) => return Err(explain(&error, (options, place), limit).await),
        };
        let stranger = || BrokerError::Unreachable {
            endpoint: endpoint.clone(),
            reason: "what answers does not speak AMQP 0-9-1".to_owned(),
        };
        let (found, mechanisms) = capabilities(&greeting).ok_or_else(stranger)?;
        offers(&mechanisms, options, &endpoint)?;
        Ok(found)
    };
    let late = || BrokerError::TimedOut { operation: format!("the greeting of {endpoint}"), within: limit };
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(late()))
}

/// Why a stream that was open brought no greeting. A broker that refuses a client certificate says so after the handshake
/// and closes; our hello then meets a closed socket, and the reset can swallow what the broker said. So its word is asked for
/// again, with nothing sent that could be reset.
async fn explain(error: &io::Error, (options, place): (&AmqpOptions, &Place), limit: Duration) -> BrokerError {
    // TLS's own word, and a greeting that is none, are invalid data; a loss is not.
    let is_loss = error.kind() != io::ErrorKind::InvalidData;
    if !is_loss || options.transport == Transport::Plain {
        return error::streaming(error, options, &place.node);
    }
    let asked = async {
        let (mut stream, _cutter) = link::open(options, place, limit).await?;
        stream.read_exact(&mut [0_u8]).await.map_err(|again| error::streaming(&again, options, &place.node))
    };
    match timeout(ALERT_WITHIN, asked).await {
        Ok(Err(error @ BrokerError::Tls { .. })) => error,
        Ok(_) | Err(_) => error::streaming(error, options, &place.node),
    }
}

/// Without a common way to log in the broker would only close the connection.
fn offers(mechanisms: &str, options: &AmqpOptions, endpoint: &str) -> Result<(), BrokerError> {
    let (wanted, advice) = match options.login {
        Login::Password { .. } | Login::Token(_) => ("PLAIN", ""),
        Login::Certificate => {
            ("EXTERNAL", ": enable its plugin rabbitmq_auth_mechanism_ssl and list EXTERNAL in auth_mechanisms")
        }
    };
    if mechanisms.is_empty() || mechanisms.split(' ').any(|offered| offered == wanted) {
        return Ok(());
    }
    Err(BrokerError::LoginRefused {
        endpoint: endpoint.to_owned(),
        user: options.login.user(),
        reason: format!("it takes logins by {mechanisms}, not by {wanted}{advice}"),
    })
}

/// Says hello and reads one frame; answers its payload.
async fn greet(stream: &mut link::Stream) -> io::Result<Vec<u8>> {
    stream.write_all(PROTOCOL_HEADER).await?;
    stream.flush().await?;
    let mut header = [0_u8; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let [kind, _, _, size @ ..] = header;
    let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    // A broker of another protocol version answers with its own header, a web server with a status line.
    if kind != FRAME_METHOD || size > GREETING_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers does not speak AMQP 0-9-1"));
    }
    let mut payload = vec![0_u8; size];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// Product and version from the payload of `connection.start`, and the ways to log in; `None` if it is something else.
/// Fields that cannot be read are left empty: the version is for people and must not keep anybody from connecting.
fn capabilities(payload: &[u8]) -> Option<(Capabilities, String)> {
    let rest = payload.strip_prefix(&START)?.get(START_VERSION_BYTES..)?;
    let mut found = Capabilities::default();
    let mut cursor = Cursor(rest);
    let mut table = cursor.block().unwrap_or_default();
    while let Some((name, value)) = table.field() {
        match name {
            b"product" => found.product = String::from_utf8_lossy(value).into_owned(),
            b"version" => found.version = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    let mechanisms = cursor.block().map(|block| String::from_utf8_lossy(block.0).into_owned());
    Some((found, mechanisms.unwrap_or_default()))
}

/// The bytes not yet read.
#[derive(Default)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A length of four octets and that many bytes: a table, a long string or an array.
    fn block(&mut self) -> Option<Self> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(length).ok()?).map(Self)
    }

    /// The next name and value; numbers and tables count as no bytes. Ends at a type that is not known.
    fn field(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let length = self.take(1)?.first().copied()?;
        let name = self.take(usize::from(length))?;
        let value = match self.take(1)?.first()? {
            b'S' | b'x' => self.block()?.0,
            b'F' | b'A' => self.block().map(|_| b"".as_slice())?,
            b't' | b'b' | b'B' => self.take(1).map(|_| b"".as_slice())?,
            b's' | b'u' | b'U' => self.take(2).map(|_| b"".as_slice())?,
            b'I' | b'i' | b'f' => self.take(4).map(|_| b"".as_slice())?,
            b'l' | b'L' | b'd' | b'T' => self.take(8).map(|_| b"".as_slice())?,
            b'D' => self.take(5).map(|_| b"".as_slice())?,
            b'V' => b"",
            _ => return None,
        };
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::broker::amqp::options::tests::sample;

    fn start(fields: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 10, 0, 10, 0, 9];
        payload.extend(u32::try_from(fields.len()).unwrap().to_be_bytes());
        payload.extend(fields);
        payload.extend(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
        payload
    }

    #[test]
    fn product_and_version_are_found_among_other_fields() {
        let fields = b"\x0ccapabilitiesF\0\0\0\x03\x01at\x07productS\0\0\0\x08RabbitMQ\x01nI\0\0\0\x07\
            \x07versionS\0\0\0\x063.10.8";
        let (found, mechanisms) = capabilities(&start(fields)).unwrap();
        assert_eq!((found.product.as_str(), found.version.as_str()), ("RabbitMQ", "3.10.8"));
        assert_eq!(mechanisms, "PLAIN");
    }

    #[test]
    fn an_unknown_type_hides_the_rest_and_nothing_else() {
        let (found, _) = capabilities(&start(b"\x07productS\0\0\0\x01x\x01q?\x07versionS\0\0\0\x011")).unwrap();
        assert_eq!((found.product.as_str(), found.version.as_str()), ("x", ""));
    }

    #[test]
    fn another_method_is_no_greeting() {
        assert_eq!(capabilities(&[0, 10, 0, 50, 0, 0]), None);
        assert_eq!(capabilities(b"HTTP/1.1 400"), None);
    }

    /// A listener whose queue is full: the kernel drops what else comes, as a firewall would.
    fn deaf() -> (socket2::Socket, std::net::TcpStream, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let first = std::net::TcpStream::connect(address).unwrap();
        (socket, first, address)
    }

    /// failures.md L1: it is tried again each second only where the error says that nobody was reached. So often, since two
    /// deadlines that race do not always end in the same order.
    #[tokio::test]
    async fn a_port_that_answers_nothing_at_all_is_unreachable_and_never_a_late_greeting() {
        let (_listener, _first, address) = deaf();
        let options = sample(address.port());
        let place = Place { node: options.nodes[0].clone(), address };
        for _ in 0..4 {
            let looks = (0..200).map(|_| look(&options, &place, Duration::from_millis(20)));
            for outcome in futures_util::future::join_all(looks).await {
                let Err(BrokerError::Unreachable { reason, .. }) = &outcome else { panic!("{outcome:?}") };
                assert!(reason.ends_with("does not answer"), "{reason}");
            }
        }
    }

    /// failures.md L13.
    #[tokio::test]
    async fn a_name_that_leads_elsewhere_meanwhile_is_followed_with_the_next_connect() {
        let payload = start(b"\x07productS\0\0\0\x08RabbitMQ");
        let mut frame = vec![FRAME_METHOD, 0, 0];
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        let nodes = [tokio::net::TcpListener::bind("127.0.0.1:0"), tokio::net::TcpListener::bind("127.0.0.1:0")];
        let nodes: Vec<_> = futures_util::future::try_join_all(nodes).await.unwrap();
        let (options, answered) = (sample(1), Cell::new(0));
        let resolve = |_: &Node| {
            let address = nodes[answered.replace(answered.get() + 1)].local_addr();
            async move { Ok(vec![address?]) }
        };
        for (times, node) in (1..).zip(&nodes) {
            let greeting = async {
                let (mut socket, _) = node.accept().await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut socket, &frame).await.unwrap();
                socket
            };
            let (found, _socket) = tokio::join!(towards(&options, resolve), greeting);
            assert_eq!((found.unwrap().1.address, answered.get()), (node.local_addr().unwrap(), times));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = capabilities(&bytes);
            bytes.splice(0..0, [0, 10, 0, 10, 0, 9]);
            prop_assert!(capabilities(&bytes).is_some());
        }
    }
}
