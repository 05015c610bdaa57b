//! What a run has to say, in numbers. Pure; this is also the shape of `--output json`.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outcome::{ConnectionError, Outcome, Unavailable, Where};
use super::plan::{Connections, Pacing, Plan, Protocol};
use super::record::{Latencies, Recorder};

/// The whole report. Field names are stable: fields may be added, none changes its meaning or its
/// unit, which is the last part of its name (`_ms` milliseconds, `_s` seconds, `_per_s` per second,
/// `_percent` of 100). Where there is nothing to measure a latency, it is `null`.
///
/// `requests` = the counts of all `statuses` + `timeouts` + `connection_errors`; every request that
/// was due is in exactly one of `requests`, `unsent`, `unfinished`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Where the requests went.
    pub url: String,
    /// Their method.
    pub method: String,
    /// `http/1.1` or `http/2`.
    pub protocol: Protocol,
    /// How requests followed each other.
    pub pacing: Pacing,
    /// `own`, `shared` or `fresh`.
    pub connections: Connections,
    /// Connections that were opened (attempts that failed are in `connection_errors`).
    pub connections_opened: u64,
    /// HTTP/2 with `shared` connections: over how many the requests were spread.
    pub http2_connections: Option<usize>,
    /// How long it sent before it counted.
    pub warm_up_s: f64,
    /// Requests of the warm-up of which something came. They are in no other number but
    /// `connections_opened`.
    pub warm_up_requests: u64,
    /// Timeout of each request.
    pub timeout_ms: f64,
    /// Why the run ended.
    pub ended_by: EndedBy,
    /// The share of errors was above `--fail-above-errors`.
    pub guard_tripped: bool,
    /// From the start (the end of the warm-up) to the last answer.
    pub elapsed_s: f64,
    /// Requests of which something came: an answer, a timeout, a failure.
    pub requests: u64,
    /// `requests` per second of `elapsed_s`.
    pub achieved_rate_per_s: f64,
    /// Open loop only: fell due while `max_in_flight` were in flight, so never sent. If not 0, the
    /// percentiles are those of a gentler load than was asked for.
    pub unsent: u64,
    /// Sent, and given up because the run was told twice to stop.
    pub unfinished: u64,
    /// Requests that are not a whole answer below 400.
    pub errors: u64,
    /// `errors` and `unsent` of `requests` and `unsent`: what the guard looks at.
    pub error_percent: f64,
    /// Bytes of the answers' bodies.
    pub received_bytes: u64,
    /// Of all `requests`.
    pub latency: Option<Latency>,
    /// All `requests` by their latency, in steps of 1, 2, 5, 10 … up to the slowest. Closed loop: of
    /// those that were sent; a stall that kept others from being sent is in it once.
    pub histogram: Vec<Bar>,
    /// Whole answers by their `server` header, at most 16 of them; answers without one are not in it.
    /// In a mesh it tells whether an Envoy was on the way.
    pub servers: BTreeMap<String, u64>,
    /// Whole answers by status code.
    pub statuses: BTreeMap<u16, Group>,
    /// `statuses.503` by cause.
    pub unavailable_503: Unavailable503,
    /// No whole answer within the timeout.
    pub timeouts: Group,
    /// Connections that did not come about or broke.
    pub connection_errors: ConnectionErrors,
    /// Open loop only: how much later than intended requests left, which is part of their latency.
    /// If this is not small beside `latency`, the machine was too slow for the rate.
    pub start_lag: Option<Latency>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EndedBy {
    /// As many requests as asked for.
    Requests,
    /// As long as asked for.
    Duration,
    /// It was told to.
    Signal,
    /// Too many errors.
    Guard,
}

/// Requests that have something in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// How many.
    pub count: u64,
    /// Of all `requests`.
    pub percent: f64,
    /// Of these; `null` when there are none.
    pub latency: Option<Latency>,
}

/// 503s by cause, as far as the answer tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unavailable503 {
    /// `x-envoy-overloaded: true`: refused by a breaker's overflow, somewhere on the way.
    pub overloaded: Group,
    /// Those of `overloaded` that the first Envoy on the way had from another
    /// (`x-envoy-upstream-service-time`, which an Envoy's router adds to what it was sent).
    pub overloaded_behind: Group,
    /// Envoy's «no healthy upstream»: no endpoints, or all ejected.
    pub no_healthy_upstream: Group,
    /// Anything else.
    pub other: Group,
}

/// Connection errors, together and by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionErrors {
    /// All of them.
    #[serde(flatten)]
    pub all: Group,
    /// Counts by kind; every kind is there, also with 0.
    pub by_kind: BTreeMap<ConnectionError, u64>,
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bar {
    /// Latencies up to this, and above that of the bar before.
    pub up_to_ms: f64,
    /// How many.
    pub count: u64,
}

/// Latencies in milliseconds, to the microsecond; percentiles within 0.1 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// The shortest.
    pub min_ms: f64,
    /// Their mean.
    pub mean_ms: f64,
    /// Half are at most so long.
    pub p50_ms: f64,
    /// 90 % are.
    pub p90_ms: f64,
    /// 95 % are.
    pub p95_ms: f64,
    /// 99 % are.
    pub p99_ms: f64,
    /// 99.9 % are.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    /// `None` when nothing was recorded.
    #[must_use]
    pub fn of(latencies: &Latencies) -> Option<Self> {
        Some(Self {
            min_ms: millis(latencies.min()?),
            mean_ms: millis(latencies.mean()?),
            p50_ms: millis(latencies.quantile(0.5)?),
            p90_ms: millis(latencies.quantile(0.9)?),
            p95_ms: millis(latencies.quantile(0.95)?),
            p99_ms: millis(latencies.quantile(0.99)?),
            p999_ms: millis(latencies.quantile(0.999)?),
            max_ms: millis(latencies.max()?),
        })
    }
}

/// What a run knows beside its recorder.
#[derive(Debug, Clone, Copy)]
pub struct RunFacts {
    /// From the start to the last answer.
    pub elapsed: Duration,
    /// What made it end.
    pub ended_by: EndedBy,
    /// Due, but not sent.
    pub unsent: u64,
    /// Sent, but given up.
    pub unfinished: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Finished before anything was counted.
    pub warm_up_requests: u64,
}

impl Report {
    /// The report of a run of `plan`.
    #[must_use]
    pub fn new(plan: &Plan, recorder: &Recorder, facts: RunFacts) -> Self {
        let all = recorder.together(|_| true);
        let requests = all.count();
        let group = |wanted: &dyn Fn(Outcome) -> bool| {
            let latencies = recorder.together(wanted);
            Group {
                count: latencies.count(),
                percent: percent(latencies.count(), requests),
                latency: Latency::of(&latencies),
            }
        };
        let cause = |cause| group(&|outcome| outcome == Outcome::Unavailable(cause));
        let overloaded = |outcome| matches!(outcome, Outcome::Unavailable(Unavailable::Overloaded(_)));
        let errors = recorder.together(Outcome::is_error).count();
        let error_percent = error_percent(requests, errors, facts.unsent);
        let statuses = recorder
            .outcomes()
            .filter_map(|(outcome, _)| outcome.status())
            .map(|status| (status, group(&|outcome| outcome.status() == Some(status))))
            .collect();
        let by_kind =
            ConnectionError::ALL.map(|kind| (kind, recorder.together(|o| o == Outcome::Failed(kind)).count()));
        Self {
            url: plan.url.to_string(),
            method: plan.method.to_string(),
            protocol: plan.protocol,
            pacing: plan.pacing,
            connections: plan.connections,
            connections_opened: facts.connections_opened,
            http2_connections: (plan.protocol == Protocol::Http2 && plan.connections == Connections::Shared)
                .then_some(plan.http2_connections),
            warm_up_s: rounded(plan.warm_up.as_secs_f64()),
            warm_up_requests: facts.warm_up_requests,
            timeout_ms: millis(plan.timeout),
            ended_by: facts.ended_by,
            guard_tripped: facts.ended_by == EndedBy::Guard
                || plan.fail_above_errors.is_some_and(|most| error_percent > most),
            elapsed_s: rounded(facts.elapsed.as_secs_f64()),
            requests,
            achieved_rate_per_s: per_second(requests, facts.elapsed),
            unsent: facts.unsent,
            unfinished: facts.unfinished,
            errors,
            error_percent: rounded(error_percent),
            received_bytes: recorder.bytes(),
            latency: Latency::of(&all),
            histogram: bars(&all),
            servers: recorder.servers().collect(),
            statuses,
            unavailable_503: Unavailable503 {
                overloaded: group(&overloaded),
                overloaded_behind: cause(Unavailable::Overloaded(Where::Behind)),
                no_healthy_upstream: cause(Unavailable::NoHealthyUpstream),
                other: cause(Unavailable::Other),
            },
            timeouts: group(&|outcome| outcome == Outcome::Timeout),
            connection_errors: ConnectionErrors {
                all: group(&|outcome| matches!(outcome, Outcome::Failed(_))),
                by_kind: by_kind.into_iter().collect(),
            },
            start_lag: Latency::of(recorder.lag()),
        }
    }
}

/// From the step of the fastest to that of the slowest.
fn bars(latencies: &Latencies) -> Vec<Bar> {
    // 1 µs to beyond any timeout: 1, 2, 5 of nine decades and a half.
    let edges: Vec<Duration> =
        (0..10).flat_map(|decade| [1, 2, 5].map(|step| Duration::from_micros(step * 10_u64.pow(decade)))).collect();
    let counts = latencies.between(&edges);
    let bars = edges.iter().zip(counts).map(|(edge, count)| Bar { up_to_ms: millis(*edge), count });
    let mut bars: Vec<Bar> = bars.skip_while(|bar| bar.count == 0).collect();
    while bars.pop_if(|bar| bar.count == 0).is_some() {}
    bars
}

/// The share of errors in percent that the guard looks at. What could not be sent is an error: a
/// service that is too slow for the rate has not answered it.
#[must_use]
pub fn error_percent(requests: u64, errors: u64, unsent: u64) -> f64 {
    share(errors + unsent, requests + unsent) * 100.0
}

// Counts stay far below 2^52, where an f64 still holds each of them.
#[allow(clippy::cast_precision_loss)]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn percent(part: u64, of: u64) -> f64 {
    rounded(share(part, of) * 100.0)
}

#[allow(clippy::cast_precision_loss)]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

/// To three places: a report is read by people, too.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn millis(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::plan::tests::plan;

    pub(crate) fn recorder() -> Recorder {
        let mut recorder = Recorder::new().unwrap();
        let ms = Duration::from_millis;
        for i in 1..=6 {
            recorder.record(Outcome::Status(200), ms(i), 100);
        }
        recorder.record(Outcome::Unavailable(Unavailable::Overloaded(Where::First)), ms(1), 81);
        recorder.record(Outcome::Unavailable(Unavailable::Other), ms(3), 0);
        recorder.record(Outcome::Timeout, ms(10_000), 0);
        recorder.record(Outcome::Failed(ConnectionError::Refused), ms(2), 0);
        (0..8).for_each(|_| recorder.record_server(b"envoy"));
        recorder
    }

    pub(crate) fn facts() -> RunFacts {
        RunFacts {
            elapsed: Duration::from_secs(4),
            ended_by: EndedBy::Requests,
            unsent: 0,
            unfinished: 0,
            connections_opened: 3,
            warm_up_requests: 0,
        }
    }

    #[test]
    fn every_request_is_in_exactly_one_place() {
        let report = Report::new(&plan(), &recorder(), facts());
        assert_eq!(report.requests, 10);
        let placed = report.statuses.values().map(|group| group.count).sum::<u64>()
            + report.timeouts.count
            + report.connection_errors.all.count;
        assert_eq!(placed, report.requests);
        assert_eq!(report.statuses[&200].count, 6);
        assert_eq!(report.statuses[&503].count, 2);
        assert_eq!(report.unavailable_503.overloaded.count, 1);
        assert_eq!(report.unavailable_503.other.count, 1);
        assert_eq!(report.unavailable_503.no_healthy_upstream.count, 0);
        assert_eq!(report.connection_errors.by_kind[&ConnectionError::Refused], 1);
        assert_eq!(report.connection_errors.by_kind.len(), ConnectionError::ALL.len());
        assert!((report.achieved_rate_per_s - 2.5).abs() < 1e-9);
        assert!((report.statuses[&200].percent - 60.0).abs() < 1e-9);
        assert_eq!(report.errors, 4);
    }

    #[test]
    fn a_status_holds_the_latencies_of_all_its_causes() {
        let report = Report::new(&plan(), &recorder(), facts());
        let latency = report.statuses[&503].latency.unwrap();
        assert!((latency.min_ms - 1.0).abs() < 1e-9 && (latency.max_ms - 3.0).abs() < 1e-9);
        assert!((report.latency.unwrap().max_ms - 10_000.0).abs() < 1e-9);
        assert_eq!(report.unavailable_503.no_healthy_upstream.latency, None);
    }

    #[test]
    fn what_could_not_be_sent_counts_against_the_guard() {
        let guarded = Plan { fail_above_errors: Some(40.0), ..plan() };
        assert!(!Report::new(&guarded, &recorder(), facts()).guard_tripped, "exactly at the limit");
        let unsent = RunFacts { unsent: 1, ..facts() };
        assert!(Report::new(&guarded, &recorder(), unsent).guard_tripped);
        assert!(!Report::new(&plan(), &recorder(), unsent).guard_tripped, "no guard asked for");
    }

    #[test]
    fn a_breaker_behind_the_first_envoy_is_told_from_its_own() {
        let mut recorder = recorder();
        recorder.record(Outcome::Unavailable(Unavailable::Overloaded(Where::Behind)), Duration::from_millis(1), 81);
        let causes = Report::new(&plan(), &recorder, facts()).unavailable_503;
        assert_eq!((causes.overloaded.count, causes.overloaded_behind.count), (2, 1));
    }

    #[test]
    fn the_histogram_holds_every_request_once() {
        let report = Report::new(&plan(), &recorder(), facts());
        assert_eq!(report.histogram.iter().map(|bar| bar.count).sum::<u64>(), report.requests);
        let bars: Vec<_> = report.histogram.iter().take(4).map(|bar| (bar.up_to_ms, bar.count)).collect();
        assert_eq!(bars, [(1.0, 2), (2.0, 2), (5.0, 4), (10.0, 1)], "what lies on an edge is up to it");
        assert!(report.histogram.last().is_some_and(|bar| (bar.up_to_ms - 10_000.0).abs() < 1e-9 && bar.count == 1));
    }

    #[test]
    fn nothing_at_all_is_a_report_too() {
        let facts = RunFacts { elapsed: Duration::ZERO, ..facts() };
        let report = Report::new(&plan(), &Recorder::new().unwrap(), facts);
        assert_eq!((report.requests, report.latency), (0, None));
        assert!(report.error_percent.abs() < 1e-9 && report.achieved_rate_per_s.abs() < 1e-9);
    }

    /// The names that others rely on. A change here is a change for everyone who reads the JSON.
    #[test]
    fn the_names_in_the_json_are_these() {
        let json = serde_json::to_value(Report::new(&plan(), &recorder(), facts())).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(
            keys(&json),
            "achieved_rate_per_s connection_errors connections connections_opened elapsed_s \
             ended_by error_percent errors guard_tripped histogram http2_connections latency \
             method pacing protocol received_bytes requests servers start_lag statuses timeout_ms \
             timeouts unavailable_503 unfinished unsent url warm_up_requests warm_up_s"
        );
        assert_eq!(keys(&json["latency"]), "max_ms mean_ms min_ms p50_ms p90_ms p95_ms p999_ms p99_ms");
        assert_eq!(keys(&json["statuses"]), "200 503");
        assert_eq!(keys(&json["statuses"]["200"]), "count latency percent");
        assert_eq!(keys(&json["unavailable_503"]), "no_healthy_upstream other overloaded overloaded_behind");
        assert_eq!(keys(&json["connection_errors"]), "by_kind count latency percent");
        assert_eq!(
            keys(&json["connection_errors"]["by_kind"]),
            "closed local_resources lookup other protocol refused reset stream_reset unreachable"
        );
        assert_eq!(json["pacing"], serde_json::json!({"loop": "closed", "concurrency": 3}));
        assert_eq!(json["protocol"], "http/1.1");
        assert_eq!(json["ended_by"], "requests");
        assert_eq!(json["start_lag"], serde_json::Value::Null);
    }

    #[test]
    fn a_report_survives_its_own_json() {
        let report = Report::new(&plan(), &recorder(), facts());
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
