//! Opens the sockets to RabbitMQ and hands them to lapin. Knows no session.
//!
//! lapin's own connect has no deadline, and every try that is given up leaves a thread and a socket behind. So the
//! socket is ours: it has our options, it is really TLS where TLS is asked for, and it can be cut from outside.

use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_compat::Compat;
use lapin::tcp::{AsyncTcpStream, TLSConfig};
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use secrecy::ExposeSecret;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error;
use super::options::AmqpOptions;
use crate::broker::BrokerError;

/// What lapin reads and writes.
pub(super) type Stream = AsyncTcpStream<Compat<TcpStream>>;

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

/// TCP and, where asked for, TLS: every address of the host in turn, each with its share of `limit`.
pub(super) async fn open(options: &AmqpOptions, limit: Duration) -> Result<(Stream, Cutter), BrokerError> {
    let endpoint = options.endpoint();
    let unreachable = |reason: String| BrokerError::Unreachable { endpoint: options.endpoint(), reason };
    let work = async {
        let found = tokio::net::lookup_host((options.host.as_str(), options.port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|error| unreachable(error.to_string()))?.collect();
        let socket = reach(&addresses, limit).await.map_err(|error| unreachable(error.to_string()))?;
        tune(&socket).map_err(|error| unreachable(error.to_string()))?;
        let cutter = Cutter::of(&socket).map_err(|error| unreachable(error.to_string()))?;
        let plain = AsyncTcpStream::Plain(Compat::new(socket));
        let stream = if options.tls { secure(plain, options).await? } else { plain };
        Ok((stream, cutter))
    };
    let late = || BrokerError::TimedOut { operation: format!("connecting to {endpoint}"), within: limit };
    timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

async fn reach(addresses: &[SocketAddr], limit: Duration) -> std::io::Result<TcpStream> {
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
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

async fn secure(plain: Stream, options: &AmqpOptions) -> Result<Stream, BrokerError> {
    let refused = |reason: String| BrokerError::Tls { endpoint: options.endpoint(), reason };
    // No identity and no extra authority: the platform's roots, or those that SSL_CERT_FILE names.
    let config = TLSConfig { identity: None, cert_chain: None };
    let stream = plain.into_tls(&options.host, config).await.map_err(|error| refused(error.to_string()))?;
    // Built without a TLS feature, lapin hands the plain stream back and would send the password over it. The variant
    // exists only with the feature, so such a build fails here, and at run time nothing else passes.
    if matches!(stream, AsyncTcpStream::Rustls(_)) {
        Ok(stream)
    } else {
        Err(refused("the stream is not encrypted".to_owned()))
    }
}

/// Opens a connection whose socket is ours, from TCP to the virtual host, within `connect_timeout`.
pub(super) async fn connect(options: &AmqpOptions, role: Role) -> Result<Link, BrokerError> {
    let (stream, cutter) = open(options, options.connect_timeout).await?;
    let mut guard = CutUnlessDone { cutter: cutter.clone(), done: false };
    let runtime = lapin::runtime::default_runtime().map_err(|error| error::connecting(&error, options))?;
    let slot = Mutex::new(Some(stream));
    let handed = async move |_: AMQPUri, _| {
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        // lapin asks once, since recovery is off; a second time there is nothing to hand out.
        stream.ok_or_else(|| std::io::Error::other("the socket was used up").into())
    };
    let call = Connection::connector(uri(options), runtime, handed, properties(&options.connection_name, role));
    match timeout(options.connect_timeout, call).await {
        Ok(Ok(connection)) => {
            guard.done = true;
            Ok(Link { connection, cutter })
        }
        Ok(Err(error)) => Err(error::connecting(&error, options)),
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

fn uri(options: &AmqpOptions) -> AMQPUri {
    AMQPUri {
        // Only for lapin's own connector, which is not used: the stream is secured before lapin sees it.
        scheme: if options.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: options.username.expose_secret().to_owned(),
                password: options.password.expose_secret().to_owned(),
            },
            host: options.host.clone(),
            port: options.port,
        },
        vhost: options.vhost.clone(),
        query: AMQPQueryString {
            frame_max: None,
            channel_max: None,
            heartbeat: Some(options.heartbeat_seconds()),
            connection_timeout: None,
            auth_mechanism: None,
        },
    }
}
