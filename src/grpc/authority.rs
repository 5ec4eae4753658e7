//! The names under which callers on TCP may address the door: `:authority`, or `Host` where it is absent.
//!
//! A page in a browser that reaches loopback under a name of its own (DNS rebinding) is refused by this, whatever it says.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tonic::Status;
use tonic::transport::server::TcpConnectInfo;

use super::problem::Problem;

/// Longest part of a name that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// Which door is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// For handlers and publishers: on its socket any name is taken.
    Data,
    /// For tools: it listens on TCP only, and its server does not tell so.
    Admin,
}

/// Refuses rpcs under other names than these, on TCP.
pub(super) fn guarded(routes: Router, door: Door, allowed: Vec<String>) -> Router {
    routes.layer(from_fn_with_state((door, Arc::new(allowed)), check))
}

async fn check(State((door, allowed)): State<(Door, Arc<Vec<String>>)>, request: Request, next: Next) -> Response {
    let is_tcp = door == Door::Admin || request.extensions().get::<TcpConnectInfo>().is_some();
    let host = || request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str).or_else(host).unwrap_or_default();
    if is_tcp && !is_allowed(&allowed, authority) {
        let shown: String = authority.chars().take(SHOWN_CHARS_MAX).collect();
        let hint = match door {
            Door::Data => "call it localhost or 127.0.0.1, or add the name to grpc.allowed_authorities",
            Door::Admin => "call it localhost or 127.0.0.1",
        };
        let what = format!("this door is not called {shown:?}");
        let refusal = Status::from(Problem::NotAllowed { what, hint: hint.to_owned() });
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        return if is_grpc || door == Door::Data {
            refusal.into_http()
        } else {
            (StatusCode::FORBIDDEN, format!("{}\n", refusal.message())).into_response()
        };
    }
    next.run(request).await
}

/// An entry without a port stands for every port.
fn is_allowed(allowed: &[String], authority: &str) -> bool {
    let host = host_of(authority);
    allowed.iter().any(|entry| entry.eq_ignore_ascii_case(authority) || entry.eq_ignore_ascii_case(host))
}

/// `[::1]:80` → `[::1]`, `localhost:80` → `localhost`.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_with_every_port_and_a_name_with_a_port_with_that_one() {
        let allowed = ["localhost", "[::1]", "sidecar.local:7672"].map(str::to_owned);
        for authority in ["localhost", "LOCALHOST:1", "[::1]:7672", "[::1]", "sidecar.local:7672"] {
            assert!(is_allowed(&allowed, authority), "{authority}");
        }
        for authority in
            ["", "evil.example", "localhost.evil.example", "sidecar.local", "sidecar.local:1", "::1", "localhost:x"]
        {
            assert!(!is_allowed(&allowed, authority), "{authority}");
        }
    }
}
