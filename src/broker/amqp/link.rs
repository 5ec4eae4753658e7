//! Opens the sockets to RabbitMQ and hands them to lapin. Knows no session.
//!
//! lapin's own connect has no deadline, and every try that is given up leaves a thread and a socket behind. So the
//! socket is ours: it has our options, it is really TLS where TLS is asked for, and it can be cut from outside.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_compat::Compat;
use lapin::tcp::AsyncTcpStream;
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Connection, ConnectionProperties};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::options::{AmqpOptions, Changes, FRAME_BYTES_MAX, Login, Transport};
use super::places::Place;
use super::token::TokenLogin;
use super::{error, tls};
use crate::broker::BrokerError;

/// What lapin reads and writes.
pub(super) type Stream = AsyncTcpStream<Compat<TcpStream>>;

/// The settings whose words errors of TLS use.
const TLS_SECTION: &str = "bus.amqp.tls";

/// Silence after which the kernel asks whether the other side is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Written bytes that nobody confirms for so long end the socket.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// Whom a connection serves: an alarm of the broker blocks whole connections, acks included, so they are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Consume,
    Settle,
    Publish,
    Admin,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Settle => "settle",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

/// A second handle of a socket. Cutting it ends lapin's loop, whatever it waits for, and with it its thread.
#[derive(Debug, Clone)]
pub(super) struct Cutter(Arc<std::net::TcpStream>);

impl Cutter {
    fn of(stream: &TcpStream) -> std::io::Result<Self> {
        Ok(Self(Arc::new(std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?))))
    }

    /// Ends the connection at once. Cutting a socket that is closed already changes nothing.
    pub(super) fn cut(&self) {
        // The only error is "not connected", which is what was wanted.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Cuts unless it was told that all went well: also when the connect is given up by dropping it.
struct CutUnlessDone {
    cutter: Cutter,
    done: bool,
}

impl Drop for CutUnlessDone {
    fn drop(&mut self) {
        if !self.done {
            self.cutter.cut();
        }
    }
}

/// A connection of ours and the means to end it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) cutter: Cutter,
}

/// TCP and, where asked for, TLS, to one address within `limit`.
pub(super) async fn open(
    options: &AmqpOptions,
    place: &Place,
    limit: Duration,
) -> Result<(Stream, Cutter), BrokerError> {
    let endpoint = || options.endpoint_of(&place.node);
    let unreachable = |reason: String| BrokerError::Unreachable { endpoint: endpoint(), reason };
    let deadline = Instant::now() + limit;
    let socket = timeout_at(deadline, TcpStream::connect(place.address)).await;
    let socket = socket.map_err(|_| unreachable(format!("{} does not answer", place.address)))?;
    let socket = socket.map_err(|error| unreachable(error.to_string()))?;
    tune(&socket).map_err(|error| unreachable(error.to_string()))?;
    let cutter = Cutter::of(&socket).map_err(|error| unreachable(error.to_string()))?;
    let plain = AsyncTcpStream::Plain(Compat::new(socket));
    let stream = match &options.transport {
        Transport::Plain => plain,
        Transport::Tls(tls) => {
            let secured = timeout_at(deadline, tls::secure(plain, (&place.node.host, TLS_SECTION), tls)).await;
            let late = |_| BrokerError::TimedOut { operation: format!("TLS with {}", endpoint()), within: limit };
            secured.map_err(late)?.map_err(|failure| failure.at(endpoint()))?
        }
    };
    Ok((stream, cutter))
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))?;
    bound_silence(&socket)
}

#[cfg(target_os = "linux")]
fn bound_silence(socket: &SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// Elsewhere the heartbeat alone finds a half-open link.
#[cfg(not(target_os = "linux"))]
fn bound_silence(_: &SockRef<'_>) -> std::io::Result<()> {
    let _ = UNACKNOWLEDGED_MAX;
    Ok(())
}

/// Opens a connection whose socket is ours, from TCP to the virtual host, within `connect_timeout`.
pub(super) async fn connect(
    (options, changes): (&AmqpOptions, &Changes),
    place: &Place,
    role: Role,
) -> Result<Link, BrokerError> {
    let deadline = Instant::now() + options.connect_timeout;
    let (stream, cutter) = open(options, place, options.connect_timeout).await?;
    let mut guard = CutUnlessDone { cutter: cutter.clone(), done: false };
    let refused = |error: &lapin::Error| error::connecting(error, options, &place.node);
    let runtime = lapin::runtime::default_runtime().map_err(|error| refused(&error))?;
    let slot = Mutex::new(Some(stream));
    let handed = async move |_: AMQPUri, _| {
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        // lapin asks once, since recovery is off; a second time there is nothing to hand out.
        stream.ok_or_else(|| std::io::Error::other("the socket was used up").into())
    };
    let mut properties = properties(&options.connection_name, role);
    if let (Login::Token(token), Changes::Reread(_)) = (&options.login, changes) {
        properties = properties.with_auth_provider(TokenLogin::new(token.clone(), changes.clone()));
    }
    let call = Connection::connector(uri(options, place), runtime, handed, properties);
    match timeout_at(deadline, call).await {
        Ok(Ok(connection)) => {
            guard.done = true;
            Ok(Link { connection, cutter })
        }
        Ok(Err(error)) => Err(refused(&error)),
        Err(_) => Err(BrokerError::TimedOut {
            operation: format!("the handshake of the {} connection", role.as_str()),
            within: options.connect_timeout,
        }),
    }
}

/// What lapin tells the broker about us. Recovery stays off: it is a property that has to be switched on.
pub(super) fn properties(connection_name: &str, role: Role) -> ConnectionProperties {
    let text = |text: String| LongString::from(text);
    ConnectionProperties::default()
        .with_connection_name(text(format!("{connection_name} {}", role.as_str())))
        .with_client_property("product".into(), text(env!("CARGO_PKG_NAME").to_owned()))
        .with_client_property("version".into(), text(env!("CARGO_PKG_VERSION").to_owned()))
}

fn uri(options: &AmqpOptions, place: &Place) -> AMQPUri {
    let (username, password) = options.login.plain();
    AMQPUri {
        // Only for lapin's own connector, which is not used: the stream is secured before lapin sees it.
        scheme: match options.transport {
            Transport::Plain => AMQPScheme::AMQP,
            Transport::Tls(_) => AMQPScheme::AMQPS,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: username.to_owned(), password: password.to_owned() },
            host: place.node.host.clone(),
            port: place.node.port,
        },
        vhost: options.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_BYTES_MAX),
            channel_max: None,
            heartbeat: Some(options.heartbeat_seconds()),
            connection_timeout: None,
            auth_mechanism: match options.login {
                Login::Password { .. } | Login::Token(_) => None,
                Login::Certificate => Some(SASLMechanism::External),
            },
        },
    }
}
