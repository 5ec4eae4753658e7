//! One GET: connect, ask, read, all within one deadline. Follows no redirect, so credentials go nowhere else.
//!
//! Knows HTTP and no RabbitMQ.

use std::pin::pin;

use async_compat::Compat;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lapin::tcp::AsyncTcpStream;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ManagementError;
use super::options::ManagementOptions;
use crate::broker::amqp::options::TlsOptions;
use crate::broker::amqp::tls;

/// Longest answer that is read: a queue with ten thousand bindings needs less.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The settings whose words errors use.
const SECTION: &str = "bus.amqp.management";

/// What carries a call.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Status and body of a path, on a connection of its own.
///
/// # Errors
/// `Unreachable` for what fails on the way or is late, `NotManagement` for what is no HTTP or has no end.
pub(super) async fn get(options: &ManagementOptions, path: &str) -> Result<(StatusCode, Bytes), ManagementError> {
    let late = |_| Err(unreachable(options, &format!("no answer within {} ms", options.timeout.as_millis())));
    timeout(options.timeout, ask(options, path)).await.unwrap_or_else(late)
}

async fn ask(options: &ManagementOptions, path: &str) -> Result<(StatusCode, Bytes), ManagementError> {
    let request = request(options, path)?;
    let stream = connect(options).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(options, &error))?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| judge(options, &error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        // Too long, or ended in the middle.
        let body = body.map_err(|error| not_management(options, &error))?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection is driven here, so that it is gone with the call. One that has ended may have left an answer.
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

fn request(options: &ManagementOptions, path: &str) -> Result<Request<Empty<Bytes>>, ManagementError> {
    let login = format!("{}:{}", options.user(), options.password.expose_secret());
    let login = SecretString::from(format!("Basic {}", STANDARD.encode(login)));
    let mut login = HeaderValue::from_str(login.expose_secret()).map_err(|error| unreachable(options, &error))?;
    login.set_sensitive(true);
    Request::get(format!("{}{path}", options.base_path))
        .header(HOST, options.authority())
        .header(AUTHORIZATION, login)
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| unreachable(options, &error))
}

async fn connect(options: &ManagementOptions) -> Result<Box<dyn Stream>, ManagementError> {
    let socket = TcpStream::connect((options.host.as_str(), options.port)).await;
    let socket = socket.map_err(|error| unreachable(options, &error))?;
    if !options.tls {
        return Ok(Box::new(socket));
    }
    // The file is read at every call: a renewed one is used without a restart.
    let trust = TlsOptions { ca_file: options.ca_file.clone(), ..TlsOptions::default() };
    let plain = AsyncTcpStream::Plain(Compat::new(socket));
    let secured = tls::secure(plain, (&options.host, SECTION), &trust).await;
    let secured = secured.map_err(|failure| unreachable(options, &format!("TLS: {}", failure.into_reason())))?;
    Ok(Box::new(Compat::new(secured)))
}

/// What is no HTTP is another thing than what is not there.
fn judge(options: &ManagementOptions, error: &hyper::Error) -> ManagementError {
    if error.is_parse() { not_management(options, error) } else { unreachable(options, error) }
}

fn unreachable(options: &ManagementOptions, reason: &dyn std::fmt::Display) -> ManagementError {
    ManagementError::Unreachable { endpoint: options.endpoint(), reason: options.scrub(&reason.to_string()) }
}

fn not_management(options: &ManagementOptions, reason: &dyn std::fmt::Display) -> ManagementError {
    ManagementError::NotManagement { endpoint: options.endpoint(), reason: options.scrub(&reason.to_string()) }
}
