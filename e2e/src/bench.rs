//! `cargo lab bench load`: our load generator beside fortio and oha, one after the other, round after
//! round, against the same server without a proxy between. In: nothing but this checkout; no lab need be
//! up. Out: a table of requests per second of the generator's own CPU, and its percentiles.
//!
//! It judges nothing: other work on the machine moves every figure. Ratios within a round move least,
//! so the table gives those, as medians of the rounds.

mod contenders;
mod counts;
mod envoy;
mod filled;
mod findings;
mod fixtures;
mod offline;
pub mod operator;
mod process;
mod stand;
mod storm;
mod tools;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::Value;

use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::parts;
use crate::report::Report;
use crate::run::{cargo, check};
use crate::wait::{Seen, until};

/// Pinned: another version may count otherwise.
const OHA: &str = "1.16.0";
/// The server is up within this, or never.
const SOON: Duration = Duration::from_mins(1);

/// A way to call.
struct Case {
    name: &'static str,
    callers: u32,
    http2: bool,
    keep_alive: bool,
    /// Calls a second; `None`: as fast as answers come.
    rate: Option<u32>,
}

const CASES: &[Case] = &[
    Case { name: "HTTP/1.1, 8 callers", callers: 8, http2: false, keep_alive: true, rate: None },
    Case { name: "HTTP/1.1, 64 callers", callers: 64, http2: false, keep_alive: true, rate: None },
    Case { name: "HTTP/1.1, 8 callers, keep-alive off", callers: 8, http2: false, keep_alive: false, rate: None },
    Case { name: "HTTP/1.1, 2000 a second", callers: 64, http2: false, keep_alive: true, rate: Some(2_000) },
    Case { name: "HTTP/2, 8 connections of 1 stream", callers: 8, http2: true, keep_alive: true, rate: None },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Generator {
    Ours,
    Fortio,
    Oha,
}

/// What one run of one generator gave.
#[derive(Debug, Clone, Copy)]
struct Figures {
    requests: f64,
    cpu_seconds: f64,
    /// p50, p90 and p99 in milliseconds.
    latency: [f64; 3],
}

impl Figures {
    fn per_cpu_second(self) -> f64 {
        self.requests / self.cpu_seconds
    }
}

/// The programs that are compared.
struct Programs {
    ours: PathBuf,
    fortio: PathBuf,
    oha: Option<PathBuf>,
}

/// Runs every case so many rounds, so long each, and prints the table.
///
/// # Errors
/// When a generator cannot be built or run, or got any other answer than 200.
pub fn load(checkout: &Checkout, rounds: usize, seconds: u32) -> Result<()> {
    let report = Report::new();
    let programs = Programs {
        ours: ours(checkout, &report)?,
        fortio: parts::fortio(checkout, &Cache::open()?, &report)?.join("bin/fortio"),
        oha: match oha(&Cache::open()?, &report) {
            Ok(program) => Some(program),
            Err(error) => {
                report.note(&format!("without oha: {error:#}"));
                None
            }
        },
    };
    let server = Server::start(&programs.fortio)?;
    let generators = [Generator::Fortio, Generator::Ours, Generator::Oha];
    let generators: Vec<_> =
        generators.into_iter().filter(|one| *one != Generator::Oha || programs.oha.is_some()).collect();
    let mut text = String::new();
    for case in CASES {
        let mut runs: Vec<Vec<Figures>> = vec![Vec::new(); generators.len()];
        report.step(case.name, || {
            for _ in 0..rounds {
                for (generator, runs) in generators.iter().zip(&mut runs) {
                    runs.push(run(&programs, *generator, case, &server.url, seconds)?);
                }
            }
            Ok(())
        })?;
        writeln!(
            text,
            "\n{:<36} {:>12} {:>10} {:>8} {:>8} {:>8}",
            case.name, "per CPU-s", "to fortio", "p50 ms", "p90 ms", "p99 ms"
        )?;
        for (generator, those) in generators.iter().zip(&runs) {
            let per_cpu = median(those.iter().map(|run| run.per_cpu_second()));
            let ratio =
                median(those.iter().zip(&runs[0]).map(|(run, fortio)| run.per_cpu_second() / fortio.per_cpu_second()));
            let [p50, p90, p99] = [0, 1, 2].map(|at| median(those.iter().map(|run| run.latency[at])));
            writeln!(
                text,
                "  {:<34} {per_cpu:>12.0} {ratio:>10.2} {p50:>8.3} {p90:>8.3} {p99:>8.3}",
                generator.name()
            )?;
        }
    }
    println!("{text}\nMedians of {rounds} interleaved rounds of {seconds} s each.");
    Ok(())
}

/// The one in the middle; of two their mean.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = [values.len().saturating_sub(1) / 2, values.len() / 2].map(|at| values.get(at).copied());
    let [Some(one), Some(other)] = middle else { return f64::NAN };
    f64::midpoint(one, other)
}

/// fortio's own echo server, until dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(fortio: &Path) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let off = ["-grpc-port", "-redirect-port", "-tcp-port", "-udp-port"].map(|port| [port, "disabled"]);
        let process = Command::new(fortio)
            .args(["server", "-quiet", "-http-port", &address.to_string()])
            .args(off.as_flattened())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("fortio's server cannot be started")?;
        let server = Self { process, url: format!("http://{address}/") };
        until("fortio's server listens", SOON, || {
            Ok(match TcpStream::connect(address) {
                Ok(_) => Seen::Done(()),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose, and an error means that it is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Free a moment ago; whoever takes it meanwhile makes the server's start fail.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn run(programs: &Programs, generator: Generator, case: &Case, url: &str, seconds: u32) -> Result<Figures> {
    let program = match generator {
        Generator::Ours => &programs.ours,
        Generator::Fortio => &programs.fortio,
        Generator::Oha => programs.oha.as_ref().context("oha was not built")?,
    };
    let mut command = Command::new(program);
    command.args(generator.words(case, seconds)).arg(url);
    let before = children()?;
    let text = check(&mut command)?;
    let cpu_seconds = children()? - before;
    let report: Value =
        serde_json::from_str(&text).with_context(|| format!("{}: no JSON: {text}", generator.name()))?;
    let (requests, ok, latency) = generator
        .read(&report)
        .with_context(|| format!("{} printed other JSON than expected: {text}", generator.name()))?;
    // What oha gives up when its time is over it counts as errors, not as answers.
    ensure!(requests > 0.0 && (ok - requests).abs() < 0.5, "{}: not every answer is 200: {text}", generator.name());
    Ok(Figures { requests, cpu_seconds, latency })
}

/// CPU seconds, user and system, of all children that have ended and were waited for.
fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?).as_secs_f64())
}

impl Generator {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "resilience-operator load",
            Self::Fortio => "fortio",
            Self::Oha => "oha",
        }
    }

    fn words(self, case: &Case, seconds: u32) -> Vec<String> {
        let callers = case.callers.to_string();
        let duration = format!("{seconds}s");
        let mut words: Vec<&str> = match self {
            Self::Ours => vec!["load", "-o", "json", "-d", &duration],
            // Its percentiles are no finer than its resolution, which is a millisecond unless told.
            Self::Fortio => vec!["load", "-quiet", "-json", "-", "-r", "0.000001", "-t", &duration, "-c", &callers],
            Self::Oha => vec!["--no-tui", "--output-format", "json", "-z", &duration, "-c", &callers],
        };
        if case.http2 {
            words.push(if self == Self::Fortio { "-h2" } else { "--http2" });
        }
        if !case.keep_alive {
            words.extend(match self {
                Self::Ours => ["--connections", "fresh"].as_slice(),
                Self::Fortio => &["-keepalive=false"],
                Self::Oha => &["--disable-keepalive"],
            });
        }
        let rate = case.rate.map(|rate| rate.to_string());
        match (self, &rate) {
            (Self::Ours, Some(rate)) => words.extend(["-r", rate]),
            (Self::Ours, None) => words.extend(["-c", &callers]),
            // Uniform: its callers would otherwise all call in the same instant.
            (Self::Fortio, rate) => words.extend(["-uniform", "-qps", rate.as_deref().unwrap_or("0")]),
            (Self::Oha, Some(rate)) => words.extend(["-q", rate, "--latency-correction"]),
            (Self::Oha, None) => {}
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// Answers, those of them that are 200, and p50, p90, p99 in milliseconds.
    fn read(self, report: &Value) -> Option<(f64, f64, [f64; 3])> {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
        let all =
            |pointer: &str| -> Option<f64> { report.pointer(pointer)?.as_object()?.values().map(Value::as_f64).sum() };
        let millis = |pointers: [&str; 3]| -> Option<[f64; 3]> {
            let [p50, p90, p99] = pointers.map(number);
            Some([p50? * 1e3, p90? * 1e3, p99? * 1e3])
        };
        match self {
            Self::Ours => {
                let [p50, p90, p99] = ["/latency/p50_ms", "/latency/p90_ms", "/latency/p99_ms"].map(number);
                Some((number("/requests")?, number("/statuses/200/count")?, [p50?, p90?, p99?]))
            }
            Self::Fortio => {
                let percentiles = report.pointer("/DurationHistogram/Percentiles")?.as_array()?;
                let at = |wanted: f64| {
                    let found = percentiles.iter().find(|one| one["Percentile"].as_f64() == Some(wanted))?;
                    Some(found["Value"].as_f64()? * 1e3)
                };
                Some((all("/RetCodes")?, number("/RetCodes/200")?, [at(50.0)?, at(90.0)?, at(99.0)?]))
            }
            Self::Oha => {
                let latency =
                    millis(["/latencyPercentiles/p50", "/latencyPercentiles/p90", "/latencyPercentiles/p99"])?;
                Some((all("/statusCodeDistribution")?, number("/statusCodeDistribution/200")?, latency))
            }
        }
    }
}

/// Our program as it is released: the lab's own is built to be built quickly.
fn ours(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    report.step("build our load generator", || {
        let mut cargo = cargo(checkout.root());
        cargo.args(["build", "--locked", "--release"]);
        cargo.args(["--package", "resilience-operator", "--bin", "resilience-operator"]);
        cargo.arg("--target-dir").arg(checkout.root().join("target"));
        check(&mut cargo).context("the load generator does not build")?;
        Ok(checkout.root().join("target/release/resilience-operator"))
    })
}

/// oha from its registry, built once.
fn oha(cache: &Cache, report: &Report) -> Result<PathBuf> {
    let key = Key::new("oha").with(OHA).with(std::env::consts::ARCH);
    let install = || {
        cache.get("parts", "oha", &key, |folder| {
            let building = tempfile::tempdir()?;
            let mut cargo = cargo(building.path());
            // With its TLS, although plain HTTP is all that is compared: it does not compile without.
            cargo.args(["install", "oha", "--locked", "--version", &format!("={OHA}")]);
            cargo.arg("--root").arg(folder).arg("--target-dir").arg(building.path());
            check(&mut cargo).context("oha does not build")?;
            Ok(())
        })
    };
    let there = cache.path("parts", "oha", &key).is_dir();
    let place = if there { install()? } else { report.step("build oha", install)? };
    Ok(place.join("bin/oha"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generators_report_is_read_in_the_same_units() {
        let cases = [
            (
                Generator::Ours,
                r#"{"requests": 3, "statuses": {"200": {"count": 2}},
                    "latency": {"p50_ms": 1.5, "p90_ms": 2.0, "p99_ms": 3.0}}"#,
            ),
            (
                Generator::Fortio,
                r#"{"RetCodes": {"200": 2, "-1": 1}, "DurationHistogram": {"Percentiles": [
                    {"Percentile": 50, "Value": 0.0015}, {"Percentile": 90, "Value": 0.002},
                    {"Percentile": 99, "Value": 0.003}]}}"#,
            ),
            (
                Generator::Oha,
                r#"{"statusCodeDistribution": {"200": 2, "503": 1},
                    "latencyPercentiles": {"p50": 0.0015, "p90": 0.002, "p99": 0.003}}"#,
            ),
        ];
        for (generator, text) in cases {
            let (requests, ok, latency) = generator.read(&serde_json::from_str(text).unwrap()).unwrap();
            let apart: f64 = latency.iter().zip([1.5, 2.0, 3.0]).map(|(is, wanted)| (is - wanted).abs()).sum();
            assert!((requests - 3.0).abs() + (ok - 2.0).abs() + apart < 1e-9, "{}: {latency:?}", generator.name());
        }
    }

    #[test]
    fn a_median_does_not_heed_one_bad_round() {
        assert!((median([1.0, 900.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([3.0, 900.0, 1.0, 2.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median([].into_iter()).is_nan());
    }
}
