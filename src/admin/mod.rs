//! Probes and metrics over HTTP, and a place for the administration services. Knows the bridge's link and no broker; changes nothing.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tonic::Status;

use crate::bridge::{Idle, LinkWatch, Registry};
use crate::domain::readiness::{Mode, Readiness, readiness};
use crate::runtime::PhaseWatch;

/// What the probes look at. Clones share it.
#[derive(Clone)]
pub struct Probes {
    link: LinkWatch,
    registry: Registry,
    phase: PhaseWatch,
    mode: Mode,
    endpoint: Option<String>,
    metrics: PrometheusHandle,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").field("mode", &self.mode).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Probes {
    /// Probes of a running bridge; `endpoint` is the broker's, without credentials; `None` = no
    /// answer says where the broker is.
    pub fn new(
        (link, registry): (LinkWatch, Registry),
        phase: PhaseWatch,
        mode: Mode,
        (endpoint, metrics): (Option<String>, PrometheusHandle),
    ) -> Self {
        Self { link, registry, phase, mode, endpoint, metrics }
    }

    /// The readiness answer now.
    pub fn readiness(&self) -> Readiness {
        let is_stopping = self.phase.now() > crate::runtime::Phase::Running;
        readiness(self.mode, self.link.now().connected(), is_stopping)
    }

    /// One line for each thing that is looked at, before the answer itself.
    fn checks(&self) -> String {
        let link = self.link.now();
        let process =
            if self.phase.now() > crate::runtime::Phase::Running { "[-]process: stopping" } else { "[+]process" };
        let place = self.endpoint.as_ref().map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
        let broker = match (&link.live, &self.endpoint) {
            (Some(live), _) => {
                let found = live.session.capabilities();
                format!("[+]broker: {} {}{place}", found.product, found.version)
            }
            (None, Some(_)) => format!("[-]broker: {}", link.why_down()),
            // The error's own words name host and virtual host.
            (None, None) => format!("[-]broker: {}", link.why_down().class().as_str()),
        };
        // Said, and no reason against being ready: the messages wait in their queues.
        let idle = self.registry.idle().into_iter().map(|(name, why)| match (why, &self.endpoint) {
            (Idle::NoHandler, _) => format!("[+]subscription {}: no_handler\n", name.as_str()),
            (Idle::Paused(why), Some(_)) => format!("[+]subscription {}: paused: {why}\n", name.as_str()),
            // As above.
            (Idle::Paused(_), None) => format!("[+]subscription {}: paused\n", name.as_str()),
        });
        format!("{process}\n{broker}\n{}", idle.collect::<String>())
    }

    fn ready_text(&self) -> (StatusCode, String) {
        match self.readiness() {
            Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
            Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping\n".to_owned()),
            Readiness::NotConnected => {
                let error = self.link.now().why_down();
                let hint = error.hint();
                let text = match &self.endpoint {
                    Some(endpoint) => format!("not ready: {error}\nbroker: {endpoint}\nhint: {hint}\n"),
                    // The error's own words name host and virtual host.
                    None => format!("not ready: {}\nhint: {hint}\n", error.class().as_str()),
                };
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }
}

/// `/livez`, `/readyz`, `/startupz` and `/metrics`, and `tools` beside them: the administration services, which the
/// health listener never has.
pub fn routes(probes: Probes, tools: Router) -> Router {
    // Liveness never looks at the broker: a restart of this process would not bring it back.
    let alive = || async { "ok\n" };
    Router::new()
        .route("/livez", get(alive))
        .route("/health", get(alive))
        .route("/startupz", get(|| async { "started\n" }))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Arc::new(probes))
        .merge(tools)
        .fallback(nothing_here)
}

/// Serves routes until `shutdown`.
///
/// # Errors
/// The socket failed.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
}

/// A gRPC client reads the status of gRPC, everybody else that of HTTP.
async fn nothing_here(headers: HeaderMap) -> Response {
    let is_grpc =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Status::unimplemented("no such method on this door").into_http();
    }
    (StatusCode::NOT_FOUND, "nothing here; see /livez, /readyz, /startupz and /metrics\n").into_response()
}

async fn ready(State(probes): State<Arc<Probes>>, uri: Uri) -> impl IntoResponse {
    let is_verbose = |word: &str| word == "verbose" || word.starts_with("verbose=");
    let (status, answer) = probes.ready_text();
    match uri.query() {
        Some(query) if query.split('&').any(is_verbose) => (status, format!("{}{answer}", probes.checks())),
        Some(_) | None => (status, answer),
    }
}

async fn scrape(State(probes): State<Arc<Probes>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], probes.metrics.render())
}
