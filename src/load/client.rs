//! One request over hyper, and what came of it. Nothing is done behind the caller's back: no
//! redirects, no proxies from the environment, no retries of answers.
//!
//! One exception is left, and harmless to the counts: a request of which no byte was sent, because
//! its kept connection turned out to be closed already, moves to another connection.
//!
//! All that is done for one request happens in the task that wants it: an HTTP/1.1 connection has no
//! task of its own, so an answer costs no wake-up from one task to the next, and a connection is back
//! in its pool before the next request asks for it.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, SERVER, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tower::ServiceExt as _;

use super::failure::outcome_of;
use super::names::Names;
use super::outcome::{NO_HEALTHY_UPSTREAM, Outcome, Signs};
use super::plan::{Connections, Plan, Protocol};

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const UPSTREAM_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// A body of so many bytes is not worth a second buffer.
const SHORT: usize = 4_096;

type Body = Full<Bytes>;
type BoxError = Box<dyn StdError + Send + Sync>;

/// What is sent, and where to. The same for all requests of a run.
#[derive(Debug)]
pub(super) struct Target {
    method: Method,
    /// As it stands in the request: the path in HTTP/1.1, the whole in HTTP/2.
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    version: Version,
    timeout: Duration,
    /// Where connections go to.
    peer: Uri,
    connector: HttpConnector<Names>,
    opened: AtomicU64,
}

/// What came of one request.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// Bytes of body.
    pub(super) bytes: u64,
    /// The header `server` of a whole answer.
    pub(super) server: Option<HeaderValue>,
}

impl Target {
    /// What `plan` sends.
    ///
    /// # Errors
    /// The URL or its host is none that HTTP can carry; [`Plan::faults`] refuses such a plan.
    pub(super) fn new(plan: &Plan) -> Result<Self, http::Error> {
        let peer: Uri = plan.url.as_str().parse()?;
        let mut headers = plan.headers.clone();
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        let own_name = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), " (load)");
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(own_name));
        let path = peer.path_and_query().map_or("/", |path| path.as_str());
        let (uri, version) = match plan.protocol {
            Protocol::Http1 => {
                let host = peer.authority().map_or("", |authority| authority.as_str());
                headers.entry(HOST).or_insert(HeaderValue::try_from(host)?);
                if plan.connections == Connections::Fresh {
                    // Who does not come again says so: the other side closes, and keeps the port.
                    headers.entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
                }
                (path.parse()?, Version::HTTP_11)
            }
            Protocol::Http2 => {
                // What HTTP/1.1 calls the host is the authority here.
                let uri = match headers.remove(HOST) {
                    Some(host) => {
                        Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build()?
                    }
                    None => peer.clone(),
                };
                (uri, Version::HTTP_2)
            }
        };
        let mut connector = HttpConnector::new_with_resolver(Names::new());
        // A request in two packets must not wait for an acknowledgement of the first.
        connector.set_nodelay(true);
        Ok(Self {
            method: plan.method.clone(),
            uri,
            headers,
            body: plan.body.clone().into(),
            version,
            timeout: plan.timeout,
            peer,
            connector,
            opened: AtomicU64::new(0),
        })
    }

    /// Connections opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, BoxError> {
        let stream = self.connector.clone().oneshot(self.peer.clone()).await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    async fn connect_http1(&self) -> Result<Http1, BoxError> {
        // Head and a short body in one piece are cheaper to write than to gather.
        let gather = self.body.len() > SHORT;
        let (sender, connection) = http1::Builder::new().writev(gather).handshake(self.connect().await?).await?;
        Ok(Http1 { sender, connection: Some(connection) })
    }

    async fn connect_http2(&self) -> Result<http2::SendRequest<Body>, BoxError> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), self.connect().await?).await?;
        // Ends with the last sender, or with its runtime. What it fails of, its requests tell.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Where connections come from and go back to. Clones are the same line.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// HTTP/1.1: those that nobody uses at the moment; `None`: none is kept.
    Http1(Option<Arc<Mutex<Vec<Http1>>>>),
    /// HTTP/2: the one for all; `None`: none is kept.
    Http2(Option<Arc<tokio::sync::Mutex<Option<http2::SendRequest<Body>>>>>),
}

impl Line {
    /// A line as the plan has them, without a connection yet.
    pub(super) fn new(plan: &Plan) -> Self {
        let kept = plan.connections != Connections::Fresh;
        match plan.protocol {
            Protocol::Http1 => Self::Http1(kept.then(Arc::default)),
            Protocol::Http2 => Self::Http2(kept.then(Arc::default)),
        }
    }

    async fn exchange(&self, target: &Target, bytes: &mut u64) -> Result<Heard, BoxError> {
        match self {
            Self::Http1(idle) => over_http1(target, idle.as_deref(), bytes).await,
            Self::Http2(current) => over_http2(target, current.as_deref(), bytes).await,
        }
    }
}

/// Sends requests, one at a time.
#[derive(Debug)]
pub(super) struct Caller {
    target: Arc<Target>,
    line: Line,
    /// Kept, since a timer that only moves on is nearly free.
    patience: Pin<Box<Sleep>>,
}

impl Caller {
    /// Must be called within a runtime.
    pub(super) fn new(target: Arc<Target>, line: Line) -> Self {
        let patience = Box::pin(tokio::time::sleep(target.timeout));
        Self { target, line, patience }
    }

    /// Sends one request and reads its answer to the end, within the timeout.
    pub(super) async fn call(&mut self) -> Answer {
        let mut bytes = 0;
        self.patience.as_mut().reset(tokio::time::Instant::now() + self.target.timeout);
        let heard = tokio::select! {
            biased;
            heard = self.line.exchange(&self.target, &mut bytes) => heard,
            () = self.patience.as_mut() => {
                return Answer { outcome: Outcome::Timeout, bytes, server: None };
            }
        };
        match heard {
            Ok(Heard { outcome, server }) => Answer { outcome, bytes, server },
            Err(error) => Answer { outcome: outcome_of(&*error), bytes, server: None },
        }
    }
}

/// A whole answer.
struct Heard {
    outcome: Outcome,
    server: Option<HeaderValue>,
}

/// What became of a request on a connection: an answer or a failure, or it never left and is back.
enum Sent {
    Away(Result<Heard, BoxError>),
    Back(Box<Request<Body>>),
}

impl Sent {
    /// A request that did not leave may leave on another connection if this one was kept: that it was
    /// closed meanwhile is not news.
    fn of(failed: TrySendError<Request<Body>>, kept: bool) -> Self {
        let mut failed = failed;
        match failed.take_message() {
            Some(request) if kept => Self::Back(Box::new(request)),
            _ => Self::Away(Err(failed.into_error().into())),
        }
    }
}

/// An HTTP/1.1 connection. It moves only while somebody waits for something on it.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: http1::SendRequest<Body>,
    /// Until it is closed.
    connection: Option<http1::Connection<TokioIo<TcpStream>, Body>>,
}

impl Http1 {
    async fn send(&mut self, request: Request<Body>, kept: bool, bytes: &mut u64) -> Sent {
        let Self { sender, connection } = self;
        let answer = async {
            match sender.try_send_request(request).await {
                Ok(response) => Sent::Away(read(response, bytes).await),
                Err(failed) => Sent::of(failed, kept),
            }
        };
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            // Puts the request where the connection finds it.
            if let Poll::Ready(sent) = answer.as_mut().poll(cx) {
                return Poll::Ready(sent);
            }
            if let Some(open) = connection
                && Pin::new(open).poll(cx).is_ready()
            {
                // Dropped, so that the answer hears of it. Why it ended, the answer tells.
                *connection = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Whether another request can be sent. Hears first what has come in since the last one.
    async fn is_free(&mut self) -> bool {
        poll_fn(|cx| {
            let closed = self.connection.as_mut().is_none_or(|open| Pin::new(open).poll(cx).is_ready());
            Poll::Ready(!closed && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(()))))
        })
        .await
    }
}

async fn over_http1(target: &Target, idle: Option<&Mutex<Vec<Http1>>>, bytes: &mut u64) -> Result<Heard, BoxError> {
    let pool = || idle.map(|idle| idle.lock().unwrap_or_else(PoisonError::into_inner));
    let mut request = target.request();
    loop {
        let kept = pool().and_then(|mut pool| pool.pop());
        let is_kept = kept.is_some();
        let mut connection = match kept {
            Some(mut kept) => {
                if !kept.is_free().await {
                    continue;
                }
                kept
            }
            None => target.connect_http1().await?,
        };
        match connection.send(request, is_kept, bytes).await {
            Sent::Away(heard) => {
                if let (Ok(_), Some(_), Some(mut pool)) = (&heard, &connection.connection, pool()) {
                    pool.push(connection);
                }
                return heard;
            }
            Sent::Back(back) => request = *back,
        }
    }
}

async fn over_http2(
    target: &Target,
    current: Option<&tokio::sync::Mutex<Option<http2::SendRequest<Body>>>>,
    bytes: &mut u64,
) -> Result<Heard, BoxError> {
    let mut request = target.request();
    loop {
        let (mut sender, is_kept) = match current {
            Some(current) => {
                // Held while a connection is made: all others wait for the same one.
                let mut current = current.lock().await;
                match &*current {
                    Some(sender) if !sender.is_closed() => (sender.clone(), true),
                    _ => (current.insert(target.connect_http2().await?).clone(), false),
                }
            }
            None => (target.connect_http2().await?, false),
        };
        match sender.try_send_request(request).await {
            Ok(response) => return read(response, bytes).await,
            Err(failed) => match Sent::of(failed, is_kept) {
                Sent::Away(heard) => return heard,
                Sent::Back(back) => request = *back,
            },
        }
    }
}

/// Reads an answer to its end.
async fn read(response: Response<Incoming>, bytes: &mut u64) -> Result<Heard, BoxError> {
    let (head, mut body) = response.into_parts();
    let status = head.status.as_u16();
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame?.into_data() else {
            continue;
        };
        *bytes += chunk.len() as u64;
        // One byte more than is looked for, so that a longer text is seen to differ.
        let wanted = (NO_HEALTHY_UPSTREAM.len() + 1).saturating_sub(start.len());
        if status == 503 && wanted > 0 {
            start.extend(chunk.iter().take(wanted));
        }
    }
    let signs = Signs {
        overloaded: head.headers.get(OVERLOADED).is_some_and(|value| value == "true"),
        passed_on: head.headers.contains_key(UPSTREAM_TIME),
        start: &start,
    };
    Ok(Heard { outcome: Outcome::of_answer(status, signs), server: head.headers.get(SERVER).cloned() })
}
