//! Probes and metrics over HTTP. Knows the bridge's link and no broker; changes nothing.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::bridge::LinkWatch;
use crate::domain::readiness::{Mode, Readiness, readiness};
use crate::runtime::PhaseWatch;

/// What the probes look at. Clones share it.
#[derive(Clone)]
pub struct Probes {
    link: LinkWatch,
    phase: PhaseWatch,
    mode: Mode,
    endpoint: String,
    metrics: PrometheusHandle,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").field("mode", &self.mode).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Probes {
    /// Probes of a running bridge; `endpoint` is the broker's, without credentials.
    pub fn new(
        link: LinkWatch,
        phase: PhaseWatch,
        mode: Mode,
        (endpoint, metrics): (String, PrometheusHandle),
    ) -> Self {
        Self { link, phase, mode, endpoint, metrics }
    }

    /// The readiness answer now.
    pub fn readiness(&self) -> Readiness {
        let is_stopping = self.phase.now() > crate::runtime::Phase::Running;
        readiness(self.mode, self.link.now().connected(), is_stopping)
    }

    fn ready_text(&self) -> (StatusCode, String) {
        match self.readiness() {
            Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
            Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping\n".to_owned()),
            Readiness::NotConnected => {
                let error = self.link.now().why_down();
                let text = format!("not ready: {error}\nbroker: {}\nhint: {}\n", self.endpoint, error.hint());
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }
}

/// Serves `/livez`, `/readyz`, `/startupz` and `/metrics` until `shutdown`.
///
/// # Errors
/// The socket failed.
pub async fn serve(
    listener: TcpListener,
    probes: Probes,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // Liveness never looks at the broker: a restart of this process would not bring it back.
    let alive = || async { "ok\n" };
    let router = Router::new()
        .route("/livez", get(alive))
        .route("/health", get(alive))
        .route("/startupz", get(|| async { "started\n" }))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Arc::new(probes));
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn ready(State(probes): State<Arc<Probes>>) -> impl IntoResponse {
    probes.ready_text()
}

async fn scrape(State(probes): State<Arc<Probes>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], probes.metrics.render())
}
