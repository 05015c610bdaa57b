//! The proxy's process, inside the sandbox. In: TLS from the operator's pods, and rules from standard input. Out:
//! the same calls, under the same token, to the API server; what a rule says instead; and how often each
//! rule bit, on standard output. It ends when its input does, so it never outlives who started it.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::lines::{Cutter, Repeater, gone};
use super::rules::{Act, Call, Lines, Rule};
use super::webhook::{self, Verdict};
use super::{PORT, WEBHOOK_PORT};
use crate::sandbox::NODE_ADDRESS;

/// What the process is told, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// These rules from now on, and no others.
    Rules(Vec<Rule>),
    /// This verdict of the webhook from now on.
    Webhook(Verdict),
    /// How often has what bitten?
    Count,
    /// A question to etcd, by its HTTP gateway: only processes inside reach it.
    Etcd {
        /// The path.
        path: String,
        /// The question.
        question: String,
    },
}

/// How often the present rules have bitten, and how often the webhook was asked, since they were set.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Counts {
    /// By rule.
    pub rules: Vec<u64>,
    /// Calls of the webhook.
    pub webhook: u64,
    /// Watches that have fallen silent and are still read: whoever does has not found out.
    pub silent: u64,
    /// What etcd said, if it was asked.
    pub etcd: String,
}

/// Rules in force, with their counts.
#[derive(Debug, Default)]
struct Force(Vec<(Rule, AtomicU64, AtomicU64)>);

impl Force {
    /// What becomes of this call, if anything.
    fn of(&self, call: &Call) -> Option<Act> {
        // Lines bite when one comes.
        let mut rules =
            self.0.iter().filter(|(rule, _, _)| !matches!(rule.act, Act::Lines(_)) && call.is_of(&rule.calls));
        let hit = |(rule, met, _): &&(Rule, AtomicU64, AtomicU64)| {
            met.fetch_add(1, Ordering::Relaxed).is_multiple_of(rule.every)
        };
        let (rule, _, bitten) = rules.find(hit)?;
        bitten.fetch_add(1, Ordering::Relaxed);
        Some(rule.act)
    }

    /// What becomes of the lines of a watch.
    fn lines(&self, call: &Call) -> Option<(Lines, &AtomicU64)> {
        self.0.iter().find_map(|(rule, _, bitten)| match rule.act {
            Act::Lines(lines) if call.is_of(&rule.calls) => Some((lines, bitten)),
            _ => None,
        })
    }
}

/// What every connection shares.
struct Shared {
    force: watch::Sender<Arc<Force>>,
    silent: Arc<AtomicU64>,
    connector: TlsConnector,
}

/// Runs until its input ends.
///
/// # Errors
/// When it cannot listen, or the state has no certificates.
pub fn main(state: &Path) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(state))
}

async fn serve(state: &Path) -> Result<()> {
    let pki = state.join("pki");
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&pki)?));
    let connector = TlsConnector::from(Arc::new(client_config(&pki)?));
    let shared = Arc::new(Shared { force: watch::Sender::new(Arc::default()), silent: Arc::default(), connector });
    let webhook = Arc::new(webhook::Webhook::default());
    let (calls, reviews) = (listen(PORT).await?, listen(WEBHOOK_PORT).await?);
    let (proxied, asked) = (shared.clone(), webhook.clone());
    let (for_calls, for_reviews) = (acceptor.clone(), acceptor);
    tokio::spawn(accept(calls, for_calls, move |stream, from| {
        let shared = proxied.clone();
        async move { connection(stream, from, &shared).await }
    }));
    tokio::spawn(accept(reviews, for_reviews, move |stream, _| {
        let webhook = asked.clone();
        async move { webhook::connection(stream, &webhook).await }
    }));
    obey(&shared, &webhook).await
}

/// Takes orders until there are none any more. Each is answered by the counts, so whoever gave it knows that
/// it is in force.
async fn obey(shared: &Shared, webhook: &webhook::Webhook) -> Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    while let Some(line) = orders.next_line().await? {
        let mut etcd = String::new();
        match serde_json::from_str(&line).with_context(|| format!("no order: {line}"))? {
            Order::Rules(rules) => {
                let force = rules.into_iter().map(|rule| (rule, AtomicU64::new(0), AtomicU64::new(0))).collect();
                shared.force.send_replace(Arc::new(Force(force)));
            }
            Order::Webhook(verdict) => webhook.set(verdict),
            Order::Count => {}
            Order::Etcd { path, question } => {
                etcd = ask_etcd(path, question).await.unwrap_or_else(|error| format!("{error:#}"));
            }
        }
        let rules = shared.force.borrow().0.iter().map(|(_, _, bitten)| bitten.load(Ordering::Relaxed)).collect();
        let silent = shared.silent.load(Ordering::Relaxed);
        let mut answer = serde_json::to_string(&Counts { rules, webhook: webhook.asked(), silent, etcd })?;
        answer.push('\n');
        out.write_all(answer.as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

async fn ask_etcd(path: String, question: String) -> Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", 2379)).await.context("etcd cannot be reached")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(path).header(header::HOST, "127.0.0.1").body(Full::new(Bytes::from(question)))?;
    let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The API server's own certificate: it names this address, and the operator's pods trust who signed it.
fn server_config(pki: &Path) -> Result<ServerConfig> {
    let certificates = CertificateDer::pem_file_iter(pki.join("apiserver.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key"))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(certificates, key)?)
}

fn client_config(pki: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((NODE_ADDRESS, port)).await.with_context(|| format!("port {port} is taken inside the lab"))
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

async fn accept<F>(listener: TcpListener, acceptor: TlsAcceptor, serve: impl Fn(Tls, IpAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let Ok((stream, from)) = listener.accept().await else { continue };
        // Small answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        let handshake = acceptor.accept(stream);
        // One that dies here is the client's affair.
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(5), handshake).await {
            tokio::spawn(serve(stream, from.ip()));
        }
    }
}

/// What goes back.
type Answer = Response<BoxBody<Bytes, io::Error>>;

async fn connection(stream: Tls, from: IpAddr, shared: &Arc<Shared>) {
    let upstream = Arc::new(Mutex::new(None));
    let service = hyper::service::service_fn(|request| {
        let (shared, upstream) = (shared.clone(), upstream.clone());
        async move { answer(&shared, &upstream, from, request).await }
    });
    // A cut is an error of the service, and what it is for.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Upstream = Mutex<Option<SendRequest<Full<Bytes>>>>;

fn cut(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

/// One call. An error ends the connection.
async fn answer(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    from: IpAddr,
    request: Request<Incoming>,
) -> io::Result<Answer> {
    let uri = request.uri();
    let call = Call::new(request.method().as_str(), uri.path(), uri.query().unwrap_or_default(), from);
    let act = shared.force.borrow().of(&call);
    match act {
        Some(Act::Answer { code, retry_after }) => return Ok(status(code, retry_after)),
        Some(Act::Cut) => return Err(cut("as a rule says")),
        Some(Act::Hang) => return std::future::pending().await,
        _ => {}
    }
    let response = forward(shared, upstream, request).await?;
    match act {
        Some(Act::AnswerAfter { code }) => {
            response.into_body().collect().await.map_err(io::Error::other)?;
            Ok(status(code, None))
        }
        Some(Act::CutAfter) => {
            response.into_body().collect().await.map_err(io::Error::other)?;
            Err(cut("as a rule says"))
        }
        Some(Act::HangAfter) => {
            response.into_body().collect().await.map_err(io::Error::other)?;
            std::future::pending().await
        }
        Some(Act::Trickle { pieces }) => Ok(through(response, |body, to| trickle(body, to, pieces))),
        _ if call.watches && response.status() == StatusCode::OK => {
            let force = shared.force.subscribe();
            let silent = shared.silent.clone();
            Ok(through(response, |body, to| pump(body, to, call, force, silent)))
        }
        _ => Ok(response.map(|body| body.map_err(io::Error::other).boxed())),
    }
}

/// An API server's way to say that it did not work.
fn status(code: u16, retry_after: Option<u32>) -> Answer {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": match code { 401 => "Unauthorized", 410 => "Expired", 429 => "TooManyRequests", 504 => "Timeout", _ => "InternalError" },
        "message": format!("a chaos run answers {code}"),
    });
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// To the API server, over this connection's own: what cannot be reached there cannot be reached here.
async fn forward(shared: &Shared, upstream: &Upstream, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut upstream = upstream.lock().await;
    let mut known = upstream.take();
    // It may have been closed since.
    let open = match &mut known {
        Some(sender) => sender.ready().await.is_ok(),
        None => false,
    };
    let mut sender = match known {
        Some(sender) if open => sender,
        _ => connect(shared).await?,
    };
    let response = sender.send_request(Request::from_parts(head, Full::new(body))).await.map_err(io::Error::other)?;
    *upstream = Some(sender);
    drop(upstream);
    Ok(response)
}

async fn connect(shared: &Shared) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect((NODE_ADDRESS, 6443)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(NODE_ADDRESS).map_err(io::Error::other)?;
    let stream = shared.connector.connect(name, stream).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A body that a task writes.
struct Pipe(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Pipe {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

type Out = mpsc::Sender<io::Result<Bytes>>;

/// The same response with a body that `work` makes of it.
fn through<F>(response: Response<Incoming>, work: impl FnOnce(Incoming, Out) -> F) -> Answer
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut head, body) = response.into_parts();
    // It may end before it is whole.
    head.headers.remove(header::CONTENT_LENGTH);
    let (to, pipe) = mpsc::channel(1);
    tokio::spawn(work(body, to));
    Response::from_parts(head, Pipe(pipe).boxed())
}

async fn trickle(mut body: Incoming, to: Out, pieces: u32) {
    let mut left = pieces;
    while let Some(Ok(frame)) = body.frame().await {
        for piece in frame.into_data().unwrap_or_default().chunks(512) {
            if left == 0 {
                let _ = to.send(Err(cut("the answer breaks off"))).await;
                return;
            }
            left -= 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if to.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                return;
            }
        }
    }
}

/// The lines of a watch, as long as somebody reads them.
async fn pump(mut body: Incoming, to: Out, call: Call, mut force: watch::Receiver<Arc<Force>>, silent: Arc<AtomicU64>) {
    let (mut cutter, mut repeater) = (Cutter::default(), Repeater::default());
    loop {
        let present = force.borrow_and_update().clone();
        let lines = present.lines(&call);
        let bite = || {
            if let Some((_, bitten)) = lines {
                bitten.fetch_add(1, Ordering::Relaxed);
            }
        };
        match lines.map(|(lines, _)| lines) {
            Some(Lines::Silence) => {
                bite();
                // For ever, whatever is in force later: that is what a dead connection is like.
                silent.fetch_add(1, Ordering::Relaxed);
                to.closed().await;
                silent.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            Some(Lines::Gone) => {
                bite();
                let _ = to.send(Ok(gone())).await;
                return;
            }
            Some(Lines::End) => return bite(),
            Some(Lines::Break) => {
                bite();
                let _ = to.send(Ok(Bytes::from_static(b"{\"type\":\"MODI"))).await;
                let _ = to.send(Err(cut("within a line"))).await;
                return;
            }
            Some(Lines::Lag { .. } | Lines::Repeat | Lines::Lose) | None => {}
        }
        let lines_now = lines.map(|(lines, _)| lines);
        if lines_now != Some(Lines::Repeat)
            && let Some(rest) = repeater.rest()
            && to.send(Ok(rest)).await.is_err()
        {
            return;
        }
        let frame = tokio::select! {
            frame = body.frame() => frame,
            changed = force.changed() => match changed { Ok(()) => continue, Err(_) => return },
            () = to.closed() => return,
        };
        let piece = match frame {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => return drop(to.send(Err(io::Error::other(error))).await),
            None => return,
        };
        if let Some(Lines::Lag { ms }) = lines_now {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        for line in cutter.take(&piece) {
            let out = match lines_now {
                Some(Lines::Lose) => Vec::new(),
                Some(Lines::Repeat) => repeater.take(line),
                _ => vec![line],
            };
            bite();
            for line in out {
                if to.send(Ok(line)).await.is_err() {
                    return;
                }
            }
        }
    }
}
