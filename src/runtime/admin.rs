//! Liveness, readiness, metrics, over HTTP.
//!
//! Alive and ready are different questions. Alive: the process answers; only a restart would help if
//! it did not. Ready: everything that decisions rest on is there; a restart would not bring it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{Metrics, classic};

/// What stands between the process and readiness.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<&'static str, String>>);

impl Health {
    /// Not ready, because of `why`, until [`Health::open`] is called for the same gate.
    pub fn block(&self, gate: &'static str, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gate, why.to_owned());
    }

    /// Another reason for a gate that stands in the way; one that is open stays so.
    pub fn explain(&self, gate: &'static str, why: &str) {
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(gate) {
            why.clone_into(known);
        }
    }

    /// The gate no longer stands in the way.
    pub fn open(&self, gate: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(gate);
    }

    /// Everything that stands in the way, one line each.
    #[must_use]
    pub fn blockers(&self) -> Vec<String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().map(|(gate, why)| format!("{gate}: {why}")).collect()
    }
}

/// What the admin server speaks for.
#[derive(Clone)]
struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// Takes the address. Apart from [`serve`], so that a taken address ends the start and not a task.
///
/// # Errors
/// If the address cannot be bound.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("the admin server cannot listen on {address}: set --admin-address"))
}

/// Serves until `stop`.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    axum::serve(listener, router(health, metrics))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("the admin server ended")
}

/// The routes.
pub fn router(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/metrics/policies", get(scrape_policies))
        .with_state(Admin { health, metrics })
}

async fn ready(State(admin): State<Admin>) -> Response {
    let blockers = admin.health.blockers();
    if blockers.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, blockers.join("\n") + "\n").into_response()
    }
}

/// Why there is no `/metrics/policies`.
const NOT_TOLD: &str = "what policies allow is not told: --limit-metrics, or the component deploy/limit-metrics, turns it on, and with it names of policies and hosts in labels\n";

async fn scrape(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    exposed(admin.metrics.encode(), &headers)
}

/// Apart, since there are names in it.
async fn scrape_policies(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    match admin.metrics.encode_limits() {
        Some(encoded) => exposed(encoded, &headers),
        None => (StatusCode::NOT_FOUND, NOT_TOLD).into_response(),
    }
}

/// In `OpenMetrics` for who asks for it, in the older format for everybody else.
fn exposed(encoded: Result<String, std::fmt::Error>, headers: &HeaderMap) -> Response {
    let asked = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = asked.into_iter().any(|accept| accept.contains("application/openmetrics-text"));
    match encoded {
        Ok(text) if open => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], classic(&text)).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
