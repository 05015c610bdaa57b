//! `load URL`: sends load, prints what came back.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use super::output::Output;
use crate::load::plan::{MAX_IN_FLIGHT, MAX_RATE};
use crate::load::{self, Connections, Control, Pacing, Plan, Protocol, Report, render};

/// Send HTTP requests and report what came back, by status, cause and percentile.
///
/// Closed loop by default: so many workers, each with one request at a time. With --rate an open
/// loop: requests leave at a fixed rate, and each latency counts from when its request was due, so
/// that a stalled server cannot hide behind requests that were never sent.
///
/// Ends by itself, after 10 s unless --requests or --duration say otherwise. Ctrl-C or SIGTERM stop
/// it early, with a report; a second one does not wait for the answers that are still missing.
///
/// Exit codes: 0 done, 1 the guard tripped (--fail-above-errors) or the run failed, 2 bad usage.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Where to; http only (in a mesh the sidecar does the TLS).
    url: Url,
    /// Workers of the closed loop, each with one request at a time. 1 to 10000.
    #[arg(short = 'c', long, default_value_t = 1, conflicts_with = "rate")]
    concurrency: usize,
    /// Open loop: requests per second, whatever the answers. 1 to 1000000.
    #[arg(short = 'r', long)]
    rate: Option<u32>,
    /// Open loop: requests in flight; what falls due above that is counted as unsent. 1 to 10000.
    /// Default: as many as fall due within the timeout, at most 1000.
    #[arg(long, requires = "rate")]
    max_in_flight: Option<usize>,
    /// Stop after so many requests.
    #[arg(short = 'n', long)]
    requests: Option<u64>,
    /// Send for so long before anything is counted, such as 5s.
    #[arg(short = 'w', long, default_value = "0s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Issue requests for so long, such as 30s or 5m; at most 24h. Default: 10s, unless --requests.
    #[arg(short = 'd', long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Method. Default: GET, or POST when there is a body.
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// A header, as 'Name: value'. May be given several times.
    #[arg(short = 'H', long = "header", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Body of every request.
    #[arg(long, conflicts_with = "body_file")]
    body: Option<String>,
    /// A file with the body of every request.
    #[arg(long)]
    body_file: Option<PathBuf>,
    /// How long one request may take, to the last byte of its answer. 1ms to 1h.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Speak HTTP/2, without asking first. Default: HTTP/1.1.
    #[arg(long)]
    http2: bool,
    /// How connections are kept. Default: own in a closed loop, shared in an open one.
    #[arg(long, value_enum)]
    connections: Option<ConnectionsArg>,
    /// With --http2 and shared connections: spread the requests over so many. 1 to 10000.
    #[arg(long, requires = "http2", value_name = "NUMBER", default_value_t = 1)]
    http2_connections: usize,
    /// Stop, and exit with 1, when more than this share is not an answer below 400. 0 to 100.
    /// Judged from 100 requests on, and at the end. What could not be sent counts as an error.
    #[arg(long, value_name = "PERCENT")]
    fail_above_errors: Option<f64>,
    /// How to print the report.
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConnectionsArg {
    /// Each worker keeps one of its own (closed loop only).
    Own,
    /// Requests take what is free; with --http2 all share one, or --http2-connections.
    Shared,
    /// A new one for every request (keep-alive off).
    Fresh,
}

/// When neither --requests nor --duration is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Most requests in flight unless asked for: below the 1024 files that a shell usually allows.
const DEFAULT_MOST_IN_FLIGHT: u64 = 1_000;

/// Runs the load and prints its report on standard output.
///
/// # Errors
/// The HTTP client cannot be made, standard output cannot be written.
pub fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(send(args))
}

async fn send(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(faults) => {
            for fault in faults {
                eprintln!("error: {fault}");
            }
            return Ok(ExitCode::from(2));
        }
    };
    let control = Control::default();
    // Dropped, and so ended, with the run.
    let report = tokio::select! {
        report = load::run(&plan, &control) => report?,
        never = stop_on_signals(&control) => never?,
        never = show_progress(&control, io::stderr().is_terminal()) => never,
    };
    print(&report, output)?;
    Ok(if report.guard_tripped { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// The plan that was asked for, or every fault of it.
fn plan(args: LoadArgs) -> Result<Plan, Vec<String>> {
    let body = match (args.body, args.body_file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) => {
            let unreadable = |error| vec![format!("--body-file {}: {error}", path.display())];
            std::fs::read(&path).map_err(unreadable)?
        }
        (None, None) => Vec::new(),
    };
    let pacing = args.rate.map_or(Pacing::Closed { concurrency: args.concurrency }, |rate_per_s| Pacing::Open {
        rate_per_s,
        max_in_flight: args.max_in_flight.unwrap_or_else(|| max_in_flight(rate_per_s, args.timeout)),
    });
    let shares = matches!(pacing, Pacing::Open { .. }) || args.http2_connections > 1;
    let connections = match args.connections {
        Some(ConnectionsArg::Fresh) => Connections::Fresh,
        Some(ConnectionsArg::Shared) => Connections::Shared,
        None if shares => Connections::Shared,
        Some(ConnectionsArg::Own) | None => Connections::Own,
    };
    let default_method = if body.is_empty() { Method::GET } else { Method::POST };
    let mut headers = HeaderMap::new();
    for (name, value) in args.headers {
        headers.append(name, value);
    }
    let unbounded = args.requests.is_none() && args.duration.is_none();
    let plan = Plan {
        url: args.url,
        method: args.method.unwrap_or(default_method),
        headers,
        body,
        protocol: if args.http2 { Protocol::Http2 } else { Protocol::Http1 },
        timeout: args.timeout,
        pacing,
        connections,
        http2_connections: args.http2_connections,
        warm_up: args.warm_up,
        requests: args.requests,
        duration: if unbounded { Some(DEFAULT_DURATION) } else { args.duration },
        fail_above_errors: args.fail_above_errors,
    };
    let faults = plan.faults();
    if faults.is_empty() { Ok(plan) } else { Err(faults.iter().map(ToString::to_string).collect()) }
}

/// As many as can be waiting when the server answers nothing: then none has to stay unsent.
fn max_in_flight(rate_per_s: u32, timeout: Duration) -> usize {
    let due = timeout.as_millis().saturating_mul(u128::from(rate_per_s)).div_ceil(1_000);
    let most = u64::try_from(due).unwrap_or(u64::MAX).clamp(1, DEFAULT_MOST_IN_FLIGHT);
    usize::try_from(most).unwrap_or(1)
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("not of the form 'Name: value'")?;
    let name = name.trim().parse().map_err(|error| format!("name: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("value: {error}"))?;
    Ok((name, value))
}

/// Stops at the first signal, gives up what is in flight at the second. Only ever returns an error.
async fn stop_on_signals<T>(control: &Control) -> anyhow::Result<T> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut first = true;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if first {
            control.stop();
            let now = control.progress();
            eprintln!("\rstopping; {} in flight, once more to give them up", now.issued - now.finished);
        } else {
            control.abandon();
        }
        first = false;
    }
}

/// A line on standard error, twice a second after the first second; for people only. Never returns.
async fn show_progress<T>(control: &Control, terminal: bool) -> T {
    if !terminal {
        return std::future::pending().await;
    }
    let _clear = ClearLine;
    tokio::time::sleep(Duration::from_secs(1)).await;
    loop {
        let now = control.progress();
        let mut line = if now.issued == 0 && now.warm_up > 0 {
            format!("\rwarming up: {} answered", now.warm_up)
        } else {
            format!("\r{} answered, {} errors", now.finished, now.errors)
        };
        // Writing to a String cannot fail; and where standard error is gone, nobody looks.
        let _ = write!(line, ", {} in flight", now.issued - now.finished);
        if now.unsent > 0 {
            let _ = write!(line, ", {} unsent", now.unsent);
        }
        let _ = write!(io::stderr(), "{line}\x1b[K");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Takes the progress line away, so that the report starts on a clean one.
struct ClearLine;

impl Drop for ClearLine {
    fn drop(&mut self) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let colour = colour(stdout.is_terminal());
    let text = output.text(report, |report| render::table(report, colour))?;
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `load … | head -1` is a fair thing to do.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("standard output"),
    }
}

/// <https://no-color.org>: any non-empty value means no colour.
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

// The help text names these numbers.
const _: () = assert!(MAX_IN_FLIGHT == 10_000 && MAX_RATE == 1_000_000);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(args: &[&str]) -> Plan {
        let all = ["load", "http://127.0.0.1:1/"].iter().chain(args);
        plan(Cli::try_parse_from(all).unwrap().load).unwrap()
    }

    #[test]
    fn without_options_it_is_one_worker_for_ten_seconds() {
        let plan = parse(&[]);
        assert_eq!(plan.pacing, Pacing::Closed { concurrency: 1 });
        assert_eq!((plan.requests, plan.duration), (None, Some(Duration::from_secs(10))));
        assert_eq!(plan.connections, Connections::Own);
        assert_eq!((plan.method.clone(), plan.protocol), (Method::GET, Protocol::Http1));
        assert_eq!(plan.faults(), []);
    }

    #[test]
    fn a_number_of_requests_needs_no_duration() {
        let plan = parse(&["-n", "5"]);
        assert_eq!((plan.requests, plan.duration), (Some(5), None));
    }

    #[test]
    fn a_rate_makes_it_an_open_loop_with_room_for_a_whole_timeout() {
        let plan = parse(&["--rate", "50", "--timeout", "2s"]);
        assert_eq!(plan.pacing, Pacing::Open { rate_per_s: 50, max_in_flight: 100 });
        assert_eq!(plan.connections, Connections::Shared);
        let fast = parse(&["--rate", "5000"]);
        assert_eq!(fast.pacing, Pacing::Open { rate_per_s: 5000, max_in_flight: 1000 });
    }

    #[test]
    fn a_body_makes_it_a_post_unless_told_otherwise() {
        assert_eq!(parse(&["--body", "x"]).method, Method::POST);
        assert_eq!(parse(&["--body", "x", "-X", "PUT"]).method, Method::PUT);
    }

    #[test]
    fn headers_are_kept_in_number_and_trimmed() {
        let plan = parse(&["-H", "x-a: 1", "-H", "X-A:2"]);
        let values: Vec<_> = plan.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
    }

    #[test]
    fn what_makes_no_sense_is_bad_usage() {
        for args in [
            &["http://127.0.0.1:1/", "-c", "2", "--rate", "5"][..],
            &["http://127.0.0.1:1/", "--max-in-flight", "5"],
            &["http://127.0.0.1:1/", "-H", "no colon"],
            &["http://127.0.0.1:1/", "--duration", "5"],
            &["not a url"],
            &[],
        ] {
            let all = ["load"].iter().chain(args);
            assert!(Cli::try_parse_from(all).is_err(), "{args:?}");
        }
    }
}
