//! The way by which everything is written: only while the term lasts, and only as fast as the API
//! server bears.
//!
//! The term is asked twice. By the caller, before a call: how long it may take. And below TLS, before
//! each piece that goes to the network: a process that was stopped in between, and wakes up when
//! another one leads, sends nothing any more.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use http::{Response, StatusCode, Uri, header};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        Client as HttpClient,
        connect::{Connected, Connection, HttpConnector},
    },
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
};
use tokio::time::{Instant, sleep_until};
use tower::{BoxError, Service, ServiceBuilder};

use super::{client::CONNECT, lease::term::Term};

/// After «too many requests» without a word how long: as client-go.
const REST: Duration = Duration::from_secs(1);

/// Longest rest.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// A client, how long it may be used, and how fast.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    term: Term,
    brake: Arc<Mutex<Brake>>,
}

/// Why a write may not even be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// Another replica leads, or may.
    #[error("this replica is not the leader, or not for long enough")]
    Term,
    /// For so long.
    #[error("the API server has too many requests and asked for a rest of {} s", .0.as_secs_f32().ceil())]
    Rest(Duration),
}

impl Writer {
    /// A writer of its own connections. `unsent`: how long the machine may keep bytes that the API
    /// server has not acknowledged; what a cut network held back that long is not delivered later.
    ///
    /// # Errors
    /// If `config` says what cannot be done.
    pub fn new(config: &Config, term: Term, unsent: Duration) -> anyhow::Result<Self> {
        let fault = "the client for writes cannot be built from its configuration";
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_tcp_user_timeout(Some(unsent));
        let guarded = Guarded { inner: tcp, term: term.clone() };
        let connector = config.rustls_https_connector_with_connector(guarded).context(fault)?;
        let brake = Arc::<Mutex<Brake>>::default();
        let told = brake.clone();
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().context(fault)?)
            .layer(config.extra_headers_layer().context(fault)?)
            .map_response(move |answer| listen(&told, answer))
            .map_err(BoxError::from)
            .service(HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector));
        Ok(Self { client: Client::new(service, config.default_namespace.clone()), term, brake })
    }

    /// Writes through a client that there is already: in tests, and where nobody else could write.
    #[must_use]
    pub fn through(client: Client, term: Term) -> Self {
        Self { client, term, brake: Arc::default() }
    }

    /// The client. Whoever uses it asks [`Writer::allow`] first.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The term.
    #[must_use]
    pub fn term(&self) -> &Term {
        &self.term
    }

    /// How long a call may take that would like to take `deadline`, a rest before it included.
    ///
    /// # Errors
    /// If it must not be made.
    pub fn allow(&self, deadline: Duration) -> Result<Allowed, Held> {
        let left = self.term.left().ok_or(Held::Term)?.min(deadline);
        let now = Instant::now();
        let from = self.brake.lock().unwrap_or_else(PoisonError::into_inner).until.filter(|until| *until > now);
        match from.map(|from| from - now) {
            Some(rest) if rest >= left => Err(Held::Rest(rest)),
            _ => Ok(Allowed { from, left }),
        }
    }
}

/// Leave for one call.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    from: Option<Instant>,
    /// How long it may take.
    pub left: Duration,
}

impl Allowed {
    /// Waits until the API server has had its rest, and makes the call.
    ///
    /// # Errors
    /// If it took too long. It may have had its effect.
    pub async fn make<T>(self, call: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
        tokio::time::timeout(self.left, async {
            if let Some(from) = self.from {
                sleep_until(from).await;
            }
            call.await
        })
        .await
    }
}

/// For how long nothing is sent, since the API server has too many requests (priority and fairness).
/// For all writers at a time: if each of a thousand policies tried for itself, that would be the storm.
#[derive(Debug, Default)]
struct Brake {
    until: Option<Instant>,
    /// Rests in a row that did not help.
    in_vain: u32,
}

impl Brake {
    /// The API server asked for a rest. What was under way when it did so before adds nothing.
    fn pull(&mut self, now: Instant, asked: Option<Duration>) {
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        let rest = asked.unwrap_or(REST).saturating_mul(1 << self.in_vain.min(16)).min(LONGEST_REST);
        self.until = Some(now + rest);
        self.in_vain += 1;
    }

    /// It answered.
    fn release(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            *self = Self::default();
        }
    }
}

fn listen<B>(brake: &Mutex<Brake>, answer: Response<B>) -> Response<B> {
    let mut brake = brake.lock().unwrap_or_else(PoisonError::into_inner);
    if answer.status() == StatusCode::TOO_MANY_REQUESTS {
        let asked = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        brake.pull(Instant::now(), asked.map(Duration::from_secs));
    } else {
        brake.release(Instant::now());
    }
    drop(brake);
    answer
}

/// Connections that send only while the term lasts.
#[derive(Clone)]
struct Guarded<T> {
    inner: T,
    term: Term,
}

impl<T> Guarded<T> {
    fn check(&self) -> io::Result<()> {
        if self.term.lasts() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, Held::Term)) }
    }
}

impl<T> Service<Uri> for Guarded<T>
where
    T: Service<Uri>,
    T::Future: Send + 'static,
{
    type Response = Guarded<T::Response>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, term) = (self.inner.call(uri), self.term.clone());
        Box::pin(async move { Ok(Guarded { inner: connecting.await?, term }) })
    }
}

impl<T: Connection> Connection for Guarded<T> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

impl<T: Read + Unpin> Read for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Router, routing::get};
    use kube::core::Request;

    use super::*;

    #[test]
    fn rests_double_while_they_do_not_help_and_are_as_long_as_asked() {
        let mut brake = Brake::default();
        let mut now = Instant::now();
        let mut rests = Vec::new();
        for asked in [None, None, Some(Duration::from_secs(2)), Some(Duration::from_mins(1))] {
            brake.pull(now, asked);
            // Of the same moment.
            brake.pull(now, asked);
            let until = brake.until.unwrap();
            rests.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(rests, [1, 2, 8, 30]);
        brake.release(now);
        brake.pull(now, None);
        assert_eq!(brake.until, Some(now + REST));
    }

    #[test]
    fn an_answer_to_what_was_under_way_does_not_end_a_rest() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        brake.pull(now, None);
        brake.release(now);
        assert_eq!(brake.until, Some(now + REST));
    }

    /// Counts calls, and answers the first `busy` of them with 429.
    async fn server(busy: usize) -> (Config, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let app = Router::new().route(
            "/x/y",
            get(async move || {
                let call = counted.fetch_add(1, Ordering::Relaxed);
                let code = if call < busy { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
                (code, [(header::RETRY_AFTER, "1")], "{}")
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (Config::new(url.parse().unwrap()), calls)
    }

    async fn ask(writer: &Writer) -> kube::Result<String> {
        let request = Request::new("/x").get("y", &kube::api::GetParams::default()).unwrap();
        writer.client().request_text(request).await
    }

    #[tokio::test]
    async fn a_connection_that_was_made_in_a_term_sends_nothing_after_it() {
        let (config, calls) = server(0).await;
        let term = Term::to_be_elected();
        let writer = Writer::new(&config, term.clone(), REST).unwrap();
        assert!(ask(&writer).await.is_err(), "it sent before its term");
        let later = Instant::now() + Duration::from_mins(1);
        term.renew(later, later);
        ask(&writer).await.unwrap();
        // As if it had been stopped after it had asked whether it may: nothing but the connection knows.
        term.renew(Instant::now(), Instant::now());
        let error = ask(&writer).await.unwrap_err();
        assert!(format!("{error:?}").contains("Term"), "{error:?}");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn all_writers_rest_as_long_as_the_api_server_asked_one_of_them_to() {
        let (config, calls) = server(1).await;
        let writer = Writer::new(&config, Term::always(), REST).unwrap();
        assert!(writer.allow(REST).unwrap().make(ask(&writer)).await.unwrap().is_err());
        let begun = Instant::now();
        let other = writer.clone();
        assert!(matches!(other.allow(Duration::from_millis(500)), Err(Held::Rest(_))));
        other.allow(Duration::from_secs(5)).unwrap().make(ask(&other)).await.unwrap().unwrap();
        assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert!(other.allow(REST).is_ok());
    }
}
