//! One request over reqwest, and what came of it. Nothing is done behind the caller's back: no
//! redirects, no proxies from the environment, no retries of answers.
//!
//! One exception is left, and harmless to the counts: a request of which no byte was sent, because
//! its kept connection turned out to be closed already, moves to another connection.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use reqwest::header::{CONNECTION, HeaderName};
use reqwest::{Client, Request, Response, Version, redirect, retry};
use tower::{Layer, Service};

use super::outcome::{ConnectionError, NO_HEALTHY_UPSTREAM, Outcome};
use super::plan::{Connections, Plan, Protocol};

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// How long a worker waits for its own connection to come back to the pool before it opens another.
/// It comes back within microseconds, but on a busy machine the task that hands it back may have to
/// wait for a core. The price: where a server closes after a whole answer without having said so,
/// the next request takes this much longer.
const REUSE_GRACE: Duration = Duration::from_millis(50);

/// Sends the requests of a plan. Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    client: Client,
    request: Arc<Request>,
    timeout: Duration,
    /// The kept connection is good for another request.
    reusable: Arc<AtomicBool>,
}

/// What came of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// Bytes of body.
    pub(super) bytes: u64,
}

impl Sender {
    /// A sender with connections of its own, which counts in `opened` those that it opens.
    pub(super) fn new(plan: &Plan, opened: &Arc<AtomicU64>) -> reqwest::Result<Self> {
        let reusable = Arc::new(AtomicBool::new(false));
        let gate = Gate {
            opened: Arc::clone(opened),
            reusable: Arc::clone(&reusable),
            // HTTP/2 connections stay in the pool while they are in use.
            patient: plan.connections == Connections::Own && plan.protocol == Protocol::Http1,
        };
        let builder = Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), " (load)"))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(retry::never())
            .pool_max_idle_per_host(match plan.connections {
                Connections::Own => 1,
                Connections::Shared => usize::MAX,
                Connections::Fresh => 0,
            })
            .connector_layer(gate);
        let client = match plan.protocol {
            Protocol::Http1 => builder.http1_only(),
            Protocol::Http2 => builder.http2_prior_knowledge(),
        }
        .build()?;
        let mut request = Request::new(plan.method.clone(), plan.url.clone());
        *request.headers_mut() = plan.headers.clone();
        if !plan.body.is_empty() {
            *request.body_mut() = Some(plan.body.clone().into());
        }
        Ok(Self { client, request: Arc::new(request), timeout: plan.timeout, reusable })
    }

    /// Sends one request and reads its answer to the end, within the timeout.
    pub(super) async fn send(&self) -> Answer {
        let mut bytes = 0;
        let sent = tokio::time::timeout(self.timeout, self.exchange(&mut bytes)).await;
        if !matches!(sent, Ok(Ok(_))) {
            // After a failure there is no connection to wait for.
            self.reusable.store(false, Ordering::Relaxed);
        }
        let outcome = match sent {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => outcome_of(&error),
            Err(_elapsed) => Outcome::Timeout,
        };
        Answer { outcome, bytes }
    }

    async fn exchange(&self, bytes: &mut u64) -> reqwest::Result<Outcome> {
        // Only a streamed body cannot be cloned, and ours are never streamed.
        let Some(request) = self.request.try_clone() else {
            return Ok(Outcome::Failed(ConnectionError::Other));
        };
        let mut response = self.client.execute(request).await?;
        let status = response.status().as_u16();
        let overloaded = response.headers().get(OVERLOADED).is_some_and(|value| value == "true");
        let mut start = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            *bytes += chunk.len() as u64;
            // One byte more than is looked for, so that a longer text is seen to differ.
            let wanted = (NO_HEALTHY_UPSTREAM.len() + 1).saturating_sub(start.len());
            if status == 503 && wanted > 0 {
                start.extend(chunk.iter().take(wanted));
            }
        }
        self.reusable.store(keeps_alive(&response), Ordering::Relaxed);
        Ok(Outcome::of_answer(status, overloaded, &start))
    }
}

fn keeps_alive(response: &Response) -> bool {
    response.version() >= Version::HTTP_11
        && !response.headers().get_all(CONNECTION).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// What a failure of reqwest means, from the innermost cause that says something.
fn outcome_of(error: &reqwest::Error) -> Outcome {
    if error.is_dns() {
        return Outcome::Failed(ConnectionError::Lookup);
    }
    let mut found = ConnectionError::Other;
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            match of_io(io) {
                // The kernel's own patience ended before ours.
                None => return Outcome::Timeout,
                Some(ConnectionError::Other) => {}
                Some(kind) => found = kind,
            }
        } else if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            match h2.get_io().map(of_io) {
                Some(None) => return Outcome::Timeout,
                Some(Some(kind)) => found = kind,
                None if h2.is_reset() || h2.is_go_away() => found = ConnectionError::StreamReset,
                None => found = ConnectionError::Protocol,
            }
        } else if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            if hyper.is_parse() {
                found = ConnectionError::Protocol;
            } else if hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled() {
                found = ConnectionError::Closed;
            }
        }
        source = cause.source();
    }
    Outcome::Failed(found)
}

/// The kind of an I/O error; `None` for a timeout.
fn of_io(error: &io::Error) -> Option<ConnectionError> {
    use io::ErrorKind as Kind;
    // ENFILE and EMFILE have no stable kind. The numbers are the same on every Unix.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        return Some(ConnectionError::LocalResources);
    }
    Some(match error.kind() {
        Kind::TimedOut => return None,
        Kind::ConnectionRefused => ConnectionError::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => ConnectionError::Reset,
        Kind::UnexpectedEof => ConnectionError::Closed,
        Kind::HostUnreachable | Kind::NetworkUnreachable => ConnectionError::Unreachable,
        Kind::AddrNotAvailable | Kind::AddrInUse => ConnectionError::LocalResources,
        _ => ConnectionError::Other,
    })
}

/// Counts connections, and keeps a worker from opening a second one while its first is merely on
/// the way back to the pool: the pool hands connections back a moment after the answer's last byte,
/// and in that moment the next request would otherwise start to connect.
#[derive(Debug, Clone)]
struct Gate {
    opened: Arc<AtomicU64>,
    reusable: Arc<AtomicBool>,
    patient: bool,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

#[derive(Clone)]
struct Gated<S> {
    gate: Gate,
    inner: S,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl<S, R> Service<R> for Gated<S>
where
    S: Service<R, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let spare = self.inner.clone();
        // The one that said it was ready is the one to call.
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let gate = self.gate.clone();
        Box::pin(async move {
            if gate.patient && gate.reusable.swap(false, Ordering::Relaxed) {
                let asking = tokio::task::try_id();
                tokio::time::sleep(REUSE_GRACE).await;
                // The connection came back, the request left on it, and the pool finishes this
                // attempt in a task of its own, for later. There is no later for a worker's second.
                if tokio::task::try_id() != asking {
                    return Err("not needed any more".into());
                }
            }
            let connection = inner.call(target).await?;
            gate.opened.fetch_add(1, Ordering::Relaxed);
            Ok(connection)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_are_told_apart() {
        use io::ErrorKind as Kind;
        for (kind, expected) in [
            (Kind::ConnectionRefused, Some(ConnectionError::Refused)),
            (Kind::ConnectionReset, Some(ConnectionError::Reset)),
            (Kind::BrokenPipe, Some(ConnectionError::Reset)),
            (Kind::UnexpectedEof, Some(ConnectionError::Closed)),
            (Kind::NetworkUnreachable, Some(ConnectionError::Unreachable)),
            (Kind::AddrNotAvailable, Some(ConnectionError::LocalResources)),
            (Kind::PermissionDenied, Some(ConnectionError::Other)),
            (Kind::TimedOut, None),
        ] {
            assert_eq!(of_io(&kind.into()), expected, "{kind:?}");
        }
        let too_many_files = io::Error::from_raw_os_error(24);
        assert_eq!(of_io(&too_many_files), Some(ConnectionError::LocalResources));
    }
}
