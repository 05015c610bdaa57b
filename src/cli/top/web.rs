//! The same as a page, for this machine alone.

use std::{io::Write as _, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::{net::TcpListener, sync::Mutex, time::Instant};

use super::Rounds;
use crate::{cli::Io, runtime::shutdown, top::Top};

/// Style and script are in it, and it asks nobody but us.
const PAGE: &str = include_str!("page.html");

/// What a browser holds the page to.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Reads, or gives what was read just now.
pub type Look = Arc<dyn Fn() -> BoxFuture<'static, Result<Top, Vec<String>>> + Send + Sync>;

/// Serves the page until somebody ends it.
///
/// # Errors
/// If the port cannot be had.
pub(super) async fn serve(rounds: Rounds, port: u16, every: Duration, io: &mut Io) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("port {port} of 127.0.0.1 cannot be had: --port names another"))?;
    writeln!(io.out, "http://{}/", listener.local_addr()?)?;
    io.out.flush()?;
    let looked = Arc::new(Mutex::new(Looked { rounds, every, last: None }));
    let look: Look = Arc::new(move || {
        let looked = looked.clone();
        async move { looked.lock().await.look().await }.boxed()
    });
    let server = axum::serve(listener, router(look)).with_graceful_shutdown(stop.cancelled_owned());
    server.await.context("the page is served no longer")
}

/// Proxies are read when somebody looks, and once for all who do.
struct Looked {
    rounds: Rounds,
    every: Duration,
    last: Option<(Instant, Top)>,
}

impl Looked {
    async fn look(&mut self) -> Result<Top, Vec<String>> {
        // Browsers are not to the millisecond.
        let fresh = self.every.mul_f64(0.9);
        if let Some((when, top)) = &self.last
            && when.elapsed() < fresh
        {
            return Ok(top.clone());
        }
        let top = self.rounds.next().await?;
        self.last = Some((Instant::now(), top.clone()));
        Ok(top)
    }
}

/// The page, and what it polls: `/top.json`, which is what `-o json` prints.
pub fn router(look: Look) -> Router {
    Router::new()
        .route("/", get(async || page()))
        .route("/top.json", get(told))
        .layer(middleware::from_fn(for_this_machine))
        .with_state(look)
}

fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE).into_response()
}

async fn told(State(look): State<Look>) -> Response {
    let body = match look().await.map(|top| serde_json::to_string(&top)) {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(faults) => return (StatusCode::BAD_GATEWAY, faults.join("\n")).into_response(),
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

/// A page of elsewhere whose name was made to point to this machine comes with that name.
async fn for_this_machine(request: Request, next: Next) -> Response {
    if is_this_machine(request.headers()) {
        return next.run(request).await;
    }
    let words = "this page is for 127.0.0.1 and localhost alone: use the address that was printed\n";
    (StatusCode::FORBIDDEN, words).into_response()
}

fn is_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}
