//! The load generator against real servers on 127.0.0.1.
//!
//! No assertion depends on how fast this machine is: where latencies are judged, noise can only
//! push them further from the bound.
// clippy.toml allows these in test functions; the helpers here are tests as well.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use futures::stream::{self, StreamExt as _};
use resilience_operator::load::outcome::ConnectionError;
use resilience_operator::load::{self, Connections, Control, EndedBy, Pacing, Plan, Protocol, Report};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinHandle;

// ---- servers ----

/// A server on a free port of 127.0.0.1, until dropped.
struct Server {
    address: SocketAddr,
    /// Requests that arrived.
    hits: Arc<AtomicU64>,
    /// Connections that were accepted.
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers request number 0, 1, 2 … with `answer(number, request)`.
    async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(u64, Request) -> A + Clone + Send + Sync + 'static,
        A: Future<Output: IntoResponse> + Send,
    {
        let (hits, connections) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::clone(&hits);
        let app = Router::new().fallback(move |request: Request| {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            async move { answer(number, request).await.into_response() }
        });
        let accepted = Arc::clone(&connections);
        let listener = listener.tap_io(move |stream| {
            // Or an answer in pieces waits 40 ms for an acknowledgement.
            stream.set_nodelay(true).unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
        });
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, hits, connections, task }
    }

    /// Treats each connection as it likes, after the head of the first request was read.
    async fn raw<A>(treat: impl Fn(TcpStream) -> A + Send + 'static) -> Self
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicU64>::default();
        let accepted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                treat(stream).await;
            }
        });
        Self { address, hits: Arc::default(), connections, task }
    }

    fn plan(&self) -> Plan {
        plan(self.address)
    }

    fn hits(&self) -> u64 {
        self.hits.load(Ordering::SeqCst)
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One worker, one request, and patience beyond any test's.
fn plan(address: SocketAddr) -> Plan {
    Plan {
        url: format!("http://{address}/").parse().unwrap(),
        method: Method::GET,
        headers: HeaderMap::new(),
        body: Vec::new(),
        protocol: Protocol::Http1,
        timeout: Duration::from_mins(1),
        pacing: Pacing::Closed { concurrency: 1 },
        connections: Connections::Own,
        http2_connections: 1,
        warm_up: Duration::ZERO,
        requests: Some(1),
        duration: None,
        fail_above_errors: None,
    }
}

/// `requests` at `rate_per_s`, with room for all of them in flight.
fn open(server: &Server, rate_per_s: u32, requests: u32) -> Plan {
    Plan {
        pacing: Pacing::Open { rate_per_s, max_in_flight: requests as usize },
        connections: Connections::Shared,
        requests: Some(requests.into()),
        ..server.plan()
    }
}

async fn run(plan: &Plan) -> Report {
    load::run(plan, &Control::default()).await.unwrap()
}

fn count(report: &Report, status: u16) -> u64 {
    report.statuses.get(&status).map_or(0, |group| group.count)
}

/// Comes back when `reached` is true; what never is, fails after a time beyond any machine's.
async fn until(reached: impl Fn() -> bool) {
    let reached = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_mins(1);
    tokio::time::timeout(patience, reached).await.unwrap();
}

// ---- what came back ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_counted_by_status_and_503s_by_cause() {
    let server = Server::start(async |number, _| -> Response {
        match number % 5 {
            0 => "fine".into_response(),
            1 => (StatusCode::SERVICE_UNAVAILABLE, [("x-envoy-overloaded", "true")], "overflow").into_response(),
            2 => (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response(),
            3 => (StatusCode::SERVICE_UNAVAILABLE, "my database is down").into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    })
    .await;
    let report = run(&Plan { requests: Some(500), pacing: Pacing::Closed { concurrency: 4 }, ..server.plan() }).await;
    assert_eq!(report.requests, 500);
    assert_eq!(server.hits(), 500);
    let by_status = [200, 503, 404].map(|status| count(&report, status));
    assert_eq!(by_status, [100, 300, 100]);
    let causes = &report.unavailable_503;
    assert_eq!([causes.overloaded.count, causes.no_healthy_upstream.count, causes.other.count], [100, 100, 100]);
    assert_eq!(report.errors, 400);
    assert_eq!(report.received_bytes, 100 * (4 + 8 + 19 + 19));
    assert_eq!(report.ended_by, EndedBy::Requests);
    assert_eq!((report.unsent, report.unfinished), (0, 0));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout_with_its_latency() {
    let server = Server::start(async |_, _| std::future::pending::<()>().await).await;
    let report = run(&Plan { requests: Some(3), timeout: Duration::from_millis(30), ..server.plan() }).await;
    assert_eq!((report.requests, report.timeouts.count), (3, 3));
    assert!(report.timeouts.latency.unwrap().min_ms >= 30.0);
    assert_eq!(report.errors, 3);
}

#[tokio::test]
async fn a_body_that_does_not_end_is_a_timeout() {
    let server = Server::raw(async |mut stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        stream.write_all(head).await.unwrap();
        // Until the other side has enough.
        let _ = stream.read_u8().await;
    })
    .await;
    let report = run(&Plan { timeout: Duration::from_millis(30), ..server.plan() }).await;
    assert_eq!((report.timeouts.count, report.statuses.len()), (1, 0));
}

async fn kind_of(server: &Server) -> Vec<(ConnectionError, u64)> {
    let report = run(&Plan { requests: Some(3), ..server.plan() }).await;
    assert_eq!(report.requests, 3);
    assert_eq!(report.connection_errors.all.count, 3, "{report:#?}");
    let kinds = report.connection_errors.by_kind.into_iter();
    kinds.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn a_reset_connection_is_told_from_a_closed_one() {
    let resets = Server::raw(async |stream| stream.set_zero_linger().unwrap()).await;
    assert_eq!(kind_of(&resets).await, [(ConnectionError::Reset, 3)]);
    assert_eq!(resets.connections(), 3);
    let closes = Server::raw(async |stream| drop(stream)).await;
    assert_eq!(kind_of(&closes).await, [(ConnectionError::Closed, 3)]);
    assert_eq!(closes.connections(), 3, "nothing is tried again in secret");
}

#[tokio::test]
async fn half_a_body_is_a_failure_and_not_a_200() {
    let server = Server::raw(async |mut stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        stream.write_all(head).await.unwrap();
    })
    .await;
    assert_eq!(kind_of(&server).await, [(ConnectionError::Closed, 3)]);
}

#[tokio::test]
async fn what_is_not_http_is_called_so() {
    let server = Server::raw(async |mut stream| {
        stream.write_all(b"SSH-2.0-nothing\r\n\r\n").await.unwrap();
    })
    .await;
    assert_eq!(kind_of(&server).await, [(ConnectionError::Protocol, 3)]);
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    // Bound, so that nobody else gets the port; but nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let plan = Plan { requests: Some(20), ..plan(socket.local_addr().unwrap()) };
    let report = run(&plan).await;
    let refused = report.connection_errors.by_kind[&ConnectionError::Refused];
    assert_eq!((report.requests, refused), (20, 20));
    assert_eq!(report.connections_opened, 0);
}

#[tokio::test]
async fn a_name_that_cannot_exist_is_not_found() {
    // A label longer than DNS allows fails before anything is asked.
    let url = format!("http://{}.invalid/", "a".repeat(64));
    let report = run(&Plan { url: url.parse().unwrap(), ..plan(([127, 0, 0, 1], 1).into()) }).await;
    assert_eq!(report.connection_errors.by_kind[&ConnectionError::Lookup], 1, "{report:#?}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let server = Server::start(async |_, _| (StatusCode::FOUND, [(header::LOCATION, "/there")])).await;
    let report = run(&Plan { requests: Some(5), ..server.plan() }).await;
    assert_eq!((count(&report, 302), server.hits()), (5, 5));
}

#[tokio::test]
async fn method_headers_and_body_arrive_as_given() {
    let server = Server::start(async |_, request: Request| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 100).await.unwrap();
        let twice: Vec<_> = head.headers.get_all("x-twice").iter().collect();
        let as_given = head.method == Method::PUT
            && head.uri.path_and_query().unwrap() == "/a?b=c"
            && twice == ["1", "2"]
            && head.headers[header::HOST] == "httpbin.example"
            && body == Bytes::from_static(b"hello");
        if as_given { StatusCode::OK } else { StatusCode::BAD_REQUEST }
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.append("x-twice", "1".parse().unwrap());
    headers.append("x-twice", "2".parse().unwrap());
    headers.append(header::HOST, "httpbin.example".parse().unwrap());
    let report = run(&Plan {
        url: format!("http://{}/a?b=c", server.address).parse().unwrap(),
        method: Method::PUT,
        headers,
        body: b"hello".to_vec(),
        requests: Some(2),
        ..server.plan()
    })
    .await;
    assert_eq!(count(&report, 200), 2, "{report:#?}");
}

// ---- closed loop ----

/// Lets requests pass only `together` at a time, and knows how many there were at most.
#[derive(Clone)]
struct Turnstile {
    gate: Arc<Barrier>,
    inside: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Turnstile {
    fn new(together: usize) -> Self {
        Self { gate: Arc::new(Barrier::new(together)), inside: Arc::default(), most: Arc::default() }
    }

    async fn pass(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.gate.wait().await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_reaches_its_concurrency_and_never_exceeds_it() {
    for connections in [Connections::Own, Connections::Shared, Connections::Fresh] {
        let turnstile = Turnstile::new(7);
        let at_server = turnstile.clone();
        let server = Server::start(move |_, _| {
            let turnstile = at_server.clone();
            async move { turnstile.pass().await }
        })
        .await;
        let report =
            run(&Plan { pacing: Pacing::Closed { concurrency: 7 }, connections, requests: Some(70), ..server.plan() })
                .await;
        assert_eq!(count(&report, 200), 70, "{report:#?}");
        // A request that passed may still be inside when its neighbour's next one comes; so the
        // server sees at most what is in flight at the client, which is what is bounded.
        assert_eq!(turnstile.most.load(Ordering::SeqCst), 7, "{connections:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_worker_keeps_its_own_connection() {
    // A body in pieces: the connection is free again only a moment after the last one was read.
    let server = Server::start(async |_, _| {
        let pieces = stream::iter(["fi", "ne"]).then(async |piece| {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(piece)
        });
        Body::from_stream(pieces)
    })
    .await;
    let report = run(&Plan { pacing: Pacing::Closed { concurrency: 4 }, requests: Some(2_000), ..server.plan() }).await;
    assert_eq!(count(&report, 200), 2_000);
    assert_eq!((report.connections_opened, server.connections()), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_connections_are_one_per_request_and_say_so() {
    let server = Server::start(async |_, request: Request| {
        let closes = request.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
        if closes { StatusCode::OK } else { StatusCode::BAD_REQUEST }
    })
    .await;
    let report = run(&Plan {
        pacing: Pacing::Closed { concurrency: 4 },
        connections: Connections::Fresh,
        requests: Some(100),
        ..server.plan()
    })
    .await;
    assert_eq!((report.connections_opened, server.connections()), (100, 100));
    assert_eq!(count(&report, 200), 100, "{report:#?}");
}

#[tokio::test]
async fn a_server_that_closes_each_time_gets_a_new_connection_each_time() {
    let server = Server::start(async |_, _| [(header::CONNECTION, "close")]).await;
    let report = run(&Plan { requests: Some(50), ..server.plan() }).await;
    assert_eq!((count(&report, 200), server.connections()), (50, 50));
}

#[tokio::test]
async fn a_closed_loop_ends_when_its_time_is_up() {
    let server = Server::start(async |_, _| "fine").await;
    let report = run(&Plan { requests: None, duration: Some(Duration::from_millis(50)), ..server.plan() }).await;
    assert_eq!(report.ended_by, EndedBy::Duration);
    assert!(report.elapsed_s >= 0.05);
    assert_eq!(report.requests, server.hits(), "what was sent was waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_with_prior_knowledge_shares_one_connection() {
    let turnstile = Turnstile::new(5);
    let server = Server::start(move |_, request: Request| {
        let turnstile = turnstile.clone();
        async move {
            turnstile.pass().await;
            assert_eq!(request.version(), Version::HTTP_2);
        }
    })
    .await;
    let report = run(&Plan {
        pacing: Pacing::Closed { concurrency: 5 },
        protocol: Protocol::Http2,
        connections: Connections::Shared,
        requests: Some(50),
        ..server.plan()
    })
    .await;
    assert_eq!(count(&report, 200), 50, "{report:#?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_are_spread_over_as_many_connections_as_asked_for() {
    // All seven at once: three, two and two on each connection.
    for pacing in [Pacing::Closed { concurrency: 7 }, Pacing::Open { rate_per_s: 1_000, max_in_flight: 70 }] {
        let turnstile = Turnstile::new(7);
        let server = Server::start(move |_, _| {
            let turnstile = turnstile.clone();
            async move { turnstile.pass().await }
        })
        .await;
        let report = run(&Plan {
            pacing,
            protocol: Protocol::Http2,
            connections: Connections::Shared,
            http2_connections: 3,
            requests: Some(70),
            ..server.plan()
        })
        .await;
        assert_eq!((count(&report, 200), server.connections()), (70, 3), "{report:#?}");
    }
}

#[tokio::test]
async fn over_http2_a_host_header_is_the_authority() {
    let server = Server::start(async |_, request: Request| {
        let as_given = request.uri().authority().is_some_and(|authority| authority == "httpbin.example")
            && !request.headers().contains_key(header::HOST);
        if as_given { StatusCode::OK } else { StatusCode::BAD_REQUEST }
    })
    .await;
    let headers = HeaderMap::from_iter([(header::HOST, "httpbin.example".parse().unwrap())]);
    let report = run(&Plan { headers, protocol: Protocol::Http2, ..server.plan() }).await;
    assert_eq!(count(&report, 200), 1, "{report:#?}");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            // The answer says nothing of the end that is right behind it.
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    // Each is due long after the end of the connection before.
    let plan = Plan {
        pacing: Pacing::Open { rate_per_s: 4, max_in_flight: 3 },
        connections: Connections::Shared,
        requests: Some(3),
        ..plan(address)
    };
    let report = run(&plan).await;
    assert_eq!((count(&report, 200), report.connections_opened), (3, 3), "{report:#?}");
    server.await.unwrap();
}

#[tokio::test]
async fn answers_are_counted_by_the_server_that_gave_them_and_by_where_a_breaker_overflowed() {
    let server = Server::start(async |number, _| -> Response {
        let refused = (StatusCode::SERVICE_UNAVAILABLE, [("x-envoy-overloaded", "true"), ("server", "envoy")]);
        match number % 3 {
            0 => ([("server", "gunicorn")], "fine").into_response(),
            1 => refused.into_response(),
            _ => ([("x-envoy-upstream-service-time", "1")], refused.into_response()).into_response(),
        }
    })
    .await;
    let report = run(&Plan { requests: Some(30), ..server.plan() }).await;
    assert_eq!(report.servers, [("envoy".to_owned(), 20), ("gunicorn".to_owned(), 10)].into());
    let causes = &report.unavailable_503;
    assert_eq!((causes.overloaded.count, causes.overloaded_behind.count), (20, 10));
}

#[tokio::test]
async fn what_is_sent_to_warm_up_is_in_no_number_but_its_own() {
    let at_a_rate = Pacing::Open { rate_per_s: 200, max_in_flight: 1_000 };
    for pacing in [Pacing::Closed { concurrency: 1 }, at_a_rate] {
        let server = Server::start(async |_, _| "fine").await;
        let connections = Connections::Shared;
        let warm_up = Duration::from_millis(100);
        let report = run(&Plan { pacing, connections, warm_up, requests: Some(10), ..server.plan() }).await;
        assert_eq!((report.requests, count(&report, 200), report.received_bytes), (10, 10, 40), "{report:#?}");
        assert_eq!(report.requests + report.warm_up_requests, server.hits());
        if pacing == at_a_rate {
            assert_eq!(report.warm_up_requests, 20, "{report:#?}");
        }
    }
}

// ---- open loop ----

#[tokio::test]
async fn an_open_loop_sends_what_falls_due_in_its_time() {
    let server = Server::start(async |_, _| "fine").await;
    let report =
        run(&Plan { requests: None, duration: Some(Duration::from_millis(250)), ..open(&server, 200, 50) }).await;
    assert_eq!((report.requests, server.hits()), (50, 50));
    assert_eq!(report.ended_by, EndedBy::Duration);
    // The last one was due after 245 ms, and cannot have left before.
    assert!(report.elapsed_s >= 0.245);
    assert!(report.start_lag.is_some());
}

#[tokio::test]
async fn an_open_loop_does_not_wait_for_a_stalled_server_and_shows_the_whole_stall() {
    const REQUESTS: u32 = 40;
    const EVERY_MS: f64 = 5.0;
    // Answers nobody until everybody has come: a closed loop would wait for ever.
    let turnstile = Turnstile::new(REQUESTS as usize);
    let server = Server::start(move |_, _| {
        let turnstile = turnstile.clone();
        async move { turnstile.pass().await }
    })
    .await;
    let report = run(&open(&server, 200, REQUESTS)).await;
    assert_eq!(count(&report, 200), u64::from(REQUESTS));
    // Nobody was answered before the last one was due, 39 × 5 ms after the first: the first waited
    // all of it, half of them at least half of it. A slow machine only makes them wait longer.
    let latency = report.latency.unwrap();
    assert!(latency.max_ms >= 39.0 * EVERY_MS, "{latency:?}");
    assert!(latency.p50_ms >= 19.0 * EVERY_MS, "{latency:?}");
}

#[tokio::test]
async fn a_stall_that_a_closed_loop_sees_once_is_seen_by_every_request_that_was_due_in_it() {
    const REQUESTS: u32 = 100;
    /// Stalls at request 10 until `over`, and then answers all that came meanwhile.
    async fn stalling(over: &Arc<Semaphore>) -> Server {
        let over = Arc::clone(over);
        Server::start(move |number, _| {
            let over = Arc::clone(&over);
            async move {
                if number >= 10 {
                    let _passes = over.acquire().await.unwrap();
                }
            }
        })
        .await
    }
    let over = Arc::new(Semaphore::new(0));
    let (for_open, for_closed) = (stalling(&over).await, stalling(&over).await);
    let open = open(&for_open, 200, REQUESTS);
    let closed = Plan { requests: Some(REQUESTS.into()), ..for_closed.plan() };
    let control = Control::default();
    let stalled = async {
        // As long as the open loop has something to send: 450 ms or more, by its own clock.
        until(|| control.progress().issued == u64::from(REQUESTS) && for_closed.hits() == 11).await;
        assert_eq!(for_closed.hits(), 11, "one request waits, and nobody knows of the 89 that should have left");
        over.add_permits(1_000);
    };
    let naive = Control::default();
    let (honest, naive, ()) = tokio::join!(load::run(&open, &control), load::run(&closed, &naive), stalled);
    let (honest, naive) = (honest.unwrap(), naive.unwrap());
    assert_eq!([count(&honest, 200), count(&naive, 200)], [u64::from(REQUESTS); 2]);
    // Ten were answered at once. So half of all waited longer than the 61st, which was due 195 ms before
    // the last one: no machine makes their wait shorter. Of the naive figures, only the longest has heard
    // of a stall.
    let (honest, naive) = (honest.latency.unwrap(), naive.latency.unwrap());
    assert!(honest.p50_ms >= 190.0, "{honest:?}");
    assert!(naive.max_ms >= 200.0, "{naive:?}");
    assert!(naive.p90_ms < honest.p50_ms, "the naive figure would have told: {naive:?}, {honest:?}");
}

#[tokio::test]
async fn what_falls_due_above_the_bound_is_counted_and_not_sent() {
    let (gate, at_server) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    let (waiting, most) = (Arc::clone(&gate), Arc::clone(&at_server));
    let server = Server::start(move |number, _| {
        let (gate, most) = (Arc::clone(&waiting), Arc::clone(&most));
        async move {
            most.fetch_max(number + 1, Ordering::SeqCst);
            let _pass = gate.acquire().await.unwrap();
        }
    })
    .await;
    let plan = Plan { pacing: Pacing::Open { rate_per_s: 1_000, max_in_flight: 3 }, ..open(&server, 1_000, 20) };
    let control = Control::default();
    let release = async {
        until(|| control.progress().unsent == 17).await;
        gate.add_permits(3);
    };
    let (report, ()) = tokio::join!(load::run(&plan, &control), release);
    let report = report.unwrap();
    assert_eq!((report.requests, report.unsent), (3, 17));
    assert_eq!(server.hits(), 3);
    assert!((report.error_percent - 85.0).abs() < 1e-9);
}

// ---- stopping ----

/// A server that answers only once it is told to, and a plan of `pacing` without an end in sight.
async fn held(pacing: Pacing) -> (Server, Arc<Semaphore>, Plan) {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let server = Server::start(move |_, _| {
        let gate = Arc::clone(&waiting);
        async move { gate.acquire().await.unwrap().forget() }
    })
    .await;
    let plan = Plan { pacing, connections: Connections::Shared, requests: Some(1_000_000), ..server.plan() };
    (server, gate, plan)
}

const BOTH_LOOPS: [Pacing; 2] = [Pacing::Closed { concurrency: 4 }, Pacing::Open { rate_per_s: 100, max_in_flight: 4 }];

#[tokio::test]
async fn a_stop_waits_for_the_answers_that_are_on_their_way() {
    for pacing in BOTH_LOOPS {
        let (server, gate, plan) = held(pacing).await;
        let control = Control::default();
        let stop = async {
            until(|| server.hits() == 4).await;
            control.stop();
            gate.add_permits(4);
        };
        let (report, ()) = tokio::join!(load::run(&plan, &control), stop);
        let report = report.unwrap();
        assert_eq!(report.ended_by, EndedBy::Signal);
        assert_eq!((count(&report, 200), report.unfinished), (4, 0), "{pacing:?}");
    }
}

#[tokio::test]
async fn a_second_stop_gives_up_what_is_in_flight_and_says_how_much() {
    for pacing in BOTH_LOOPS {
        let (server, _gate, plan) = held(pacing).await;
        let control = Control::default();
        let stop = async {
            until(|| server.hits() == 4).await;
            control.stop();
            control.abandon();
        };
        let (report, ()) = tokio::join!(load::run(&plan, &control), stop);
        let report = report.unwrap();
        assert_eq!((report.requests, report.unfinished), (0, 4), "{pacing:?}");
        assert_eq!(report.ended_by, EndedBy::Signal);
    }
}

#[tokio::test]
async fn dropping_a_run_ends_its_requests() {
    let (server, gate, plan) = held(BOTH_LOOPS[1]).await;
    let control = Control::default();
    tokio::select! {
        report = load::run(&plan, &control) => panic!("{report:?}"),
        () = until(|| server.hits() == 4) => {}
    }
    gate.add_permits(1_000);
    // Those in flight end without an answer, and none follows.
    let after = run(&server.plan()).await;
    assert_eq!((count(&after, 200), server.hits()), (1, 5));
    assert_eq!(control.progress().finished, 0);
}

#[tokio::test]
async fn the_guard_stops_a_run_that_goes_wrong() {
    let server =
        Server::start(async |number, _| if number < 200 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR })
            .await;
    let report = run(&Plan { requests: Some(1_000_000), fail_above_errors: Some(50.0), ..server.plan() }).await;
    assert_eq!(report.ended_by, EndedBy::Guard);
    assert!(report.guard_tripped);
    // The first share above a half: 201 of 401.
    assert_eq!((report.requests, report.errors), (401, 201));
}

#[tokio::test]
async fn the_guard_lets_few_requests_finish_and_judges_them_at_the_end() {
    let server = Server::start(async |_, _| StatusCode::INTERNAL_SERVER_ERROR).await;
    let report = run(&Plan { requests: Some(10), fail_above_errors: Some(99.0), ..server.plan() }).await;
    assert_eq!((report.requests, report.ended_by), (10, EndedBy::Requests));
    assert!(report.guard_tripped);
}

#[tokio::test]
async fn a_faulty_plan_sends_nothing() {
    let server = Server::start(async |_, _| "fine").await;
    let plan = Plan { requests: None, ..server.plan() };
    assert!(load::run(&plan, &Control::default()).await.is_err());
    assert_eq!(server.connections(), 0);
}

// ---- the command ----

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resilience-operator"));
    command
        .arg("load")
        .args(args)
        // Whatever proxy this machine has must not matter.
        .env("http_proxy", "http://127.0.0.1:1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn load(args: &[&str]) -> Output {
    command(args).output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_command_prints_a_table_without_colours_into_a_pipe() {
    let server = Server::start(async |_, _| "fine").await;
    let url = server.plan().url;
    let output = load(&[url.as_str(), "-n", "20", "-c", "2"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = text(&output.stdout);
    assert!(table.contains("20 requests in "), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(server.hits(), 20);
}

#[tokio::test]
async fn the_command_prints_json_and_says_by_its_exit_code_that_the_guard_tripped() {
    let server = Server::start(async |_, _| StatusCode::BAD_GATEWAY).await;
    let url = server.plan().url;
    let guard = ["--fail-above-errors", "10"];
    let output = load(&[&[url.as_str(), "-n", "20", "-o", "json"], &guard[..]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((count(&report, 502), report.guard_tripped), (20, true));
}

#[tokio::test]
async fn bad_usage_ends_with_2_and_a_reason() {
    for (args, reason) in [
        (&["https://127.0.0.1/"][..], "only http"),
        (&["http://127.0.0.1:1/", "-c", "0"], "concurrency: 0"),
        (&["http://127.0.0.1:1/", "--connections", "own", "-r", "1"], "no workers"),
        (&["http://127.0.0.1:1/", "--body-file", "/does/not/exist"], "/does/not/exist"),
        (&["http://127.0.0.1:1/", "-c", "1", "-r", "1"], "cannot be used with"),
    ] {
        let output = load(args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains(reason), "{output:?}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[tokio::test]
async fn sigterm_and_ctrl_c_stop_early_with_a_report() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(async |_, _| "fine").await;
        let url = server.plan().url;
        let child = command(&[url.as_str(), "-d", "1h", "-o", "json"]).spawn().unwrap();
        until(|| server.hits() > 0).await;
        let pid = child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().await;
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report.ended_by, EndedBy::Signal);
        assert_eq!(report.requests, server.hits());
    }
}
