//! A publisher that speaks AMQP 0-9-1 byte by byte: for messages that no client library would send.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const FRAME_END: u8 = 0xCE;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// As large as RabbitMQ's own, so that a header of a publish fits into one.
const FRAME_BYTES_MAX: u32 = 131_072;

/// A message that lapin cannot read, in one of four ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killer {
    RoutingKey,
    HeaderName,
    ContentType,
    /// They fit when they are published, and not with what the broker adds when it has dead-lettered the message.
    LargeHeaders,
}

impl Killer {
    pub(crate) const ALL: [Self; 4] = [Self::RoutingKey, Self::HeaderName, Self::ContentType, Self::LargeHeaders];
    /// Bytes that are no text.
    const ODD: &[u8] = b"\xff\xfe";

    /// Its message, for an exchange that routes `player.#`.
    pub(crate) fn message(self, exchange: &str) -> RawMessage<'_> {
        let plain = RawMessage {
            exchange: exchange.as_bytes(),
            routing_key: b"player.Killer",
            message_id: b"killer",
            body: b"killer",
            ..RawMessage::default()
        };
        match self {
            Self::RoutingKey => RawMessage { routing_key: b"player.\xff\xfe", ..plain },
            Self::HeaderName => RawMessage { headers: vec![(Self::ODD, b"x".to_vec())], ..plain },
            Self::ContentType => RawMessage { content_type: Some(Self::ODD), ..plain },
            Self::LargeHeaders => RawMessage { headers: vec![(b"x-large", vec![b'x'; 131_000])], ..plain },
        }
    }
}

/// What a raw message says; every part is bytes.
#[derive(Debug, Default)]
pub(crate) struct RawMessage<'a> {
    pub(crate) exchange: &'a [u8],
    pub(crate) routing_key: &'a [u8],
    pub(crate) content_type: Option<&'a [u8]>,
    /// Long strings.
    pub(crate) headers: Vec<(&'a [u8], Vec<u8>)>,
    pub(crate) message_id: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// An open channel in confirm mode.
#[derive(Debug)]
pub(crate) struct RawPublisher(TcpStream);

impl RawPublisher {
    /// To the virtual host of a plain link.
    pub(crate) async fn connect((host, port): (&str, u16), (user, password): (&str, &str), vhost: &str) -> Self {
        let mut socket = TcpStream::connect((host, port)).await.expect("the broker is up");
        socket.write_all(b"AMQP\x00\x00\x09\x01").await.expect("a protocol header");
        let mut raw = Self(socket);
        raw.expect(10, 10).await;
        let login = [b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat();
        let start_ok = [long(0), short(b"PLAIN"), long_bytes(&login), short(b"en_US")].concat();
        raw.method(0, (10, 11), &start_ok).await;
        raw.expect(10, 30).await;
        let tune_ok = [2_047_u16.to_be_bytes().to_vec(), long(FRAME_BYTES_MAX), 0_u16.to_be_bytes().to_vec()].concat();
        raw.method(0, (10, 31), &tune_ok).await;
        raw.method(0, (10, 40), &[short(vhost.as_bytes()), short(b""), vec![0]].concat()).await;
        raw.expect(10, 41).await;
        raw.method(1, (20, 10), &short(b"")).await;
        raw.expect(20, 11).await;
        raw.method(1, (85, 10), &[0]).await;
        raw.expect(85, 11).await;
        raw
    }

    /// Publishes a persistent message and waits until the broker has it.
    pub(crate) async fn publish(&mut self, message: &RawMessage<'_>) {
        let to = [vec![0, 0], short(message.exchange), short(message.routing_key), vec![0]].concat();
        self.method(1, (60, 40), &to).await;
        let (mut flags, mut properties) = (0_u16, Vec::new());
        if let Some(content_type) = message.content_type {
            flags |= 1 << 15;
            properties.extend(short(content_type));
        }
        if !message.headers.is_empty() {
            flags |= 1 << 13;
            let entry = |(name, value): &(&[u8], Vec<u8>)| [short(name), vec![b'S'], long_bytes(value)].concat();
            properties.extend(long_bytes(&message.headers.iter().flat_map(entry).collect::<Vec<u8>>()));
        }
        flags |= 1 << 12;
        properties.push(2);
        if !message.message_id.is_empty() {
            flags |= 1 << 7;
            properties.extend(short(message.message_id));
        }
        let bytes = u64::try_from(message.body.len()).expect("a small body");
        let header = [vec![0, 60, 0, 0], bytes.to_be_bytes().to_vec(), flags.to_be_bytes().to_vec(), properties];
        self.frame(HEADER, 1, &header.concat()).await;
        self.frame(BODY, 1, message.body).await;
        self.expect(60, 80).await;
    }

    /// Takes the first message off a queue for good; answers its body.
    pub(crate) async fn take(&mut self, queue: &str) -> Vec<u8> {
        self.method(1, (60, 70), &[vec![0, 0], short(queue.as_bytes()), vec![1]].concat()).await;
        self.expect(60, 71).await;
        loop {
            let (kind, payload) = self.read().await;
            if kind == BODY {
                return payload;
            }
        }
    }

    async fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
        self.frame(METHOD, channel, &[&ids, arguments].concat()).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = u32::try_from(payload.len()).expect("a small frame");
        let frame = [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, &[FRAME_END]].concat();
        self.0.write_all(&frame).await.expect("the broker reads");
    }

    /// Waits for a method; anything else but a heartbeat is the broker's refusal.
    async fn expect(&mut self, class: u16, method: u16) {
        loop {
            let (kind, payload) = self.read().await;
            if kind == METHOD {
                let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
                assert_eq!(payload[..4], ids, "{}", String::from_utf8_lossy(&payload));
                return;
            }
        }
    }

    /// The next frame: its kind and what it holds.
    async fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0_u8; 7];
        self.0.read_exact(&mut head).await.expect("a frame");
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0_u8; usize::try_from(size).expect("a small frame")];
        self.0.read_exact(&mut payload).await.expect("the rest of a frame");
        assert_eq!(self.0.read_u8().await.expect("the end of a frame"), FRAME_END);
        (head[0], payload)
    }
}

fn long(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")][..], text].concat()
}

fn long_bytes(bytes: &[u8]) -> Vec<u8> {
    [&long(u32::try_from(bytes.len()).expect("a small string"))[..], bytes].concat()
}
