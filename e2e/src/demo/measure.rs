//! In: a stage and a path. Out: one row: what the callers got, and what the Envoys counted meanwhile.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::envoy::Stats;
use crate::fortio;
use crate::scenarios::stage::{CONTAINER_PORT, PORT, Stage};
use crate::workloads::TARGET;

/// Where our load generator runs.
pub(crate) const CLIENT: &str = "deploy/loader";

/// Enough for fortio to keep its rate.
const FORTIO_CALLERS: u32 = 8;
/// What is called as fast as answers come.
const QUICK: &str = "/get";
/// What is called at a rate.
const SLOW: &str = "/delay/0.05";

/// How calls are made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many callers, each with one request at a time, as fast as answers come.
    Callers(u32),
    /// So many a second, whatever the answers, and each takes the server 50 ms. The only way to compare
    /// two generators under a limit: the share of refusals of callers that call as fast as they can is a
    /// measure of the callers, and with answers of a millisecond or two every burst counts.
    Rate(u32),
}

/// One step of the story in numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// The step.
    pub(crate) step: String,
    /// Requests made.
    pub(crate) requests: u64,
    /// Answers 200.
    pub(crate) ok: u64,
    /// Answers 503.
    pub(crate) refused: u64,
    /// Any other answer, or none.
    pub(crate) failed: u64,
    /// Milliseconds: p50, p90, p99; none from fortio.
    pub(crate) latency: Option<[f64; 3]>,
    /// Refused by the client's Envoy: pending and active overflow.
    pub(crate) client_refused: u64,
    /// Refused by the servers' Envoys.
    pub(crate) server_refused: u64,
    /// The client's Envoy wanted one more connection than it may have.
    pub(crate) connections_full: u64,
    /// Endpoints out at the end.
    pub(crate) ejected: u64,
    /// Tries after the first, by the client's Envoy.
    pub(crate) retries: u64,
}

impl Row {
    pub(crate) fn refused_percent(&self) -> f64 {
        percent(self.refused, self.requests)
    }

    pub(crate) fn failed_percent(&self) -> f64 {
        percent(self.failed, self.requests)
    }
}

/// A share in percent; of nothing it is nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of a demo are far below 2^52")]
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Calls with `resilience-operator load` from behind a sidecar.
///
/// # Errors
/// When it cannot run, or a proxy does not answer.
pub(crate) fn ours(stage: &Stage<'_>, step: &str, requests: u64, pace: Pace) -> Result<Row> {
    let (path, option, value) = match pace {
        Pace::Callers(callers) => (QUICK, "-c", callers.to_string()),
        Pace::Rate(rate) => (SLOW, "-r", rate.to_string()),
    };
    let (url, count) = (format!("{TARGET}{path}"), requests.to_string());
    let command = ["/resilience-operator", "load", &url, "-n", &count, option, &value, "-o", "json"];
    witnessed(stage, CLIENT, step, || {
        let text = stage.kubectl.exec(CLIENT, "loader", &command)?;
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("our load generator printed no JSON but: {text}"))?;
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let (requests, ok, refused) =
            (number("/requests"), number("/statuses/200/count"), number("/statuses/503/count"));
        let millis = |name: &str| report.pointer(&format!("/latency/{name}")).and_then(Value::as_f64);
        let latency =
            millis("p50_ms").zip(millis("p90_ms")).zip(millis("p99_ms")).map(|((p50, p90), p99)| [p50, p90, p99]);
        Ok(Row { requests, ok, refused, failed: requests - ok - refused, latency, ..Row::default() })
    })
}

/// Calls with fortio, which is not ours.
///
/// # Errors
/// As [`ours`].
pub(crate) fn fortio(stage: &Stage<'_>, step: &str, requests: u64, rate: u32) -> Result<Row> {
    witnessed(stage, "deploy/fortio", step, || {
        let answers =
            fortio::load_at(stage.kubectl, &format!("{TARGET}{SLOW}"), FORTIO_CALLERS, u32::try_from(requests)?, rate)?;
        let (requests, ok, refused) = (answers.total(), answers.status(200), answers.status(503));
        Ok(Row { requests, ok, refused, failed: requests - ok - refused, ..Row::default() })
    })
}

fn witnessed(stage: &Stage<'_>, client: &str, step: &str, call: impl FnOnce() -> Result<Row>) -> Result<Row> {
    let look = || Ok::<_, anyhow::Error>((Stats::of(stage.kubectl, client)?, servers(stage)?));
    let (client_before, server_before) = look()?;
    let row = call()?;
    let (client_after, server_after) = look()?;
    let counted = client_after.since(&client_before);
    let outbound = |name: &str| counted.outbound(&stage.host(), PORT, name);
    Ok(Row {
        step: step.to_owned(),
        client_refused: outbound("upstream_rq_pending_overflow") + outbound("upstream_rq_active_overflow"),
        server_refused: server_after.saturating_sub(server_before),
        connections_full: outbound("upstream_cx_overflow"),
        // A gauge: what it is now, not what was added.
        ejected: client_after.outbound(&stage.host(), PORT, "outlier_detection.ejections_active"),
        retries: outbound("upstream_rq_retry"),
        ..row
    })
}

/// Refusals of all the servers' Envoys.
fn servers(stage: &Stage<'_>) -> Result<u64> {
    let pods = stage.kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=httpbin",
        "--field-selector=status.phase=Running",
        "-o",
        "name",
    ])?;
    let refused = |pod: &str| {
        let stats = Stats::of(stage.kubectl, pod)?;
        let inbound = |name: &str| stats.inbound(CONTAINER_PORT, name);
        Ok(inbound("upstream_rq_pending_overflow") + inbound("upstream_rq_active_overflow"))
    };
    pods.lines().map(refused).sum()
}
