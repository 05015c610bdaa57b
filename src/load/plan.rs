//! What to send, how fast, and when to stop. Plain data and its checks: no I/O, no clock.

use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// Most workers of a closed loop, and most requests in flight of an open one. Each may hold a
/// socket of its own, and the ports of one source address end near 28 000.
pub const MAX_IN_FLIGHT: usize = 10_000;

/// Highest rate of an open loop, in requests per second.
pub const MAX_RATE: u32 = 1_000_000;

/// Longest timeout of one request.
pub const MAX_TIMEOUT: Duration = Duration::from_hours(1);

/// Longest run: a load generator that somebody forgot must end by itself.
pub const MAX_DURATION: Duration = Duration::from_hours(24);

/// One run of load, complete: the same plan sends the same requests.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to. Scheme `http` only: in a mesh the sidecar does the TLS.
    pub url: Url,
    /// The method of every request.
    pub method: Method,
    /// Sent with every request as given.
    pub headers: HeaderMap,
    /// The body of every request; empty means none.
    pub body: Vec<u8>,
    /// How to speak to the server.
    pub protocol: Protocol,
    /// From sending (connecting included) to the last byte of the answer; 1 ms to [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// Closed or open loop.
    pub pacing: Pacing,
    /// How connections are kept.
    pub connections: Connections,
    /// HTTP/2 with [`Connections::Shared`]: so many connections (1 to [`MAX_IN_FLIGHT`]), over which
    /// the requests are spread in turn. 1 otherwise.
    pub http2_connections: usize,
    /// Send for so long before anything is counted; 0 to [`MAX_DURATION`].
    pub warm_up: Duration,
    /// Stop after so many requests, those of the warm-up not counted; at least 1.
    pub requests: Option<u64>,
    /// Issue requests for so long after the warm-up; above 0, at most [`MAX_DURATION`]. What is in flight then is
    /// still waited for, so the run takes at most both plus the timeout.
    pub duration: Option<Duration>,
    /// Stop as soon as the share of errors is above this, in percent, 0 to 100. It is judged from
    /// [`GUARD_SAMPLE`] requests on, and once more at the end, however few there were.
    pub fail_above_errors: Option<f64>,
}

/// Below so many requests a share of errors is noise, and does not stop a run early.
pub const GUARD_SAMPLE: u64 = 100;

/// How to speak to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2 without TLS and without asking first (prior knowledge).
    #[serde(rename = "http/2")]
    Http2,
}

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "loop", rename_all = "camelCase", rename_all_fields = "snake_case")]
pub enum Pacing {
    /// So many workers (1 to [`MAX_IN_FLIGHT`]), each with one request at a time: a slow server is
    /// asked less often, and the latencies are those of the requests that were sent.
    Closed {
        /// Workers, hence requests in flight.
        concurrency: usize,
    },
    /// A fixed rate that does not care for the answers: a slow server is asked as often as a fast
    /// one, and each latency counts from when the request was due, not from when it left.
    Open {
        /// Requests per second, 1 to [`MAX_RATE`].
        rate_per_s: u32,
        /// So many requests in flight (1 to [`MAX_IN_FLIGHT`]); what falls due above that is not
        /// sent, and counted as unsent.
        max_in_flight: usize,
    },
}

/// How connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Connections {
    /// Each worker of a closed loop keeps one of its own.
    Own,
    /// All requests share what there is: HTTP/1.1 opens what is missing, HTTP/2 has
    /// [`Plan::http2_connections`].
    Shared,
    /// A new one for every request.
    Fresh,
}

/// Why a plan cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not an `http` URL.
    #[error("URL: scheme {0:?} is not supported, only http: in a mesh the sidecar does the TLS")]
    Scheme(String),
    /// A URL that no request can carry.
    #[error("URL: {0}")]
    Url(String),
    /// The URL has a user or a password.
    #[error("URL: user and password are not sent; use a header")]
    UserInfo,
    /// A value out of its range.
    #[error("{what}: {value} is not within {range}")]
    Range {
        /// Which value, by the name of its option.
        what: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        range: String,
    },
    /// Neither a number of requests nor a duration.
    #[error("neither a number of requests nor a duration: the run would never end")]
    Unbounded,
    /// An open loop has no workers that could own a connection.
    #[error("connections: an open loop has no workers, so none can have its own")]
    OwnInOpenLoop,
    /// A number of connections where it means nothing.
    #[error("http2-connections: only shared connections of HTTP/2 have a number of their own")]
    Http2Connections,
}

impl Plan {
    /// To how many lines `callers` at a time are dealt, each on one thread: who shares a connection of HTTP/2
    /// is best on its thread.
    pub(super) fn lines(&self, callers: usize) -> usize {
        match (self.connections, self.protocol) {
            (Connections::Shared, Protocol::Http2) => self.http2_connections.min(callers),
            _ => callers,
        }
    }

    /// Every fault of this plan; empty when it can be run.
    #[must_use]
    pub fn faults(&self) -> Vec<PlanError> {
        let mut faults = Vec::new();
        if self.url.scheme() != "http" {
            faults.push(PlanError::Scheme(self.url.scheme().to_owned()));
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            faults.push(PlanError::UserInfo);
        }
        if let Err(error) = self.url.as_str().parse::<Uri>() {
            faults.push(PlanError::Url(error.to_string()));
        }
        let mut check = |ok: bool, what: &'static str, value: String, range: String| {
            if !ok {
                faults.push(PlanError::Range { what, value, range });
            }
        };
        check(
            (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&self.timeout),
            "timeout",
            format!("{:?}", self.timeout),
            format!("1ms to {MAX_TIMEOUT:?}"),
        );
        match self.pacing {
            Pacing::Closed { concurrency } => check(
                (1..=MAX_IN_FLIGHT).contains(&concurrency),
                "concurrency",
                concurrency.to_string(),
                format!("1 to {MAX_IN_FLIGHT}"),
            ),
            Pacing::Open { rate_per_s, max_in_flight } => {
                check((1..=MAX_RATE).contains(&rate_per_s), "rate", rate_per_s.to_string(), format!("1 to {MAX_RATE}"));
                check(
                    (1..=MAX_IN_FLIGHT).contains(&max_in_flight),
                    "max-in-flight",
                    max_in_flight.to_string(),
                    format!("1 to {MAX_IN_FLIGHT}"),
                );
            }
        }
        check(
            (1..=MAX_IN_FLIGHT).contains(&self.http2_connections),
            "http2-connections",
            self.http2_connections.to_string(),
            format!("1 to {MAX_IN_FLIGHT}"),
        );
        check(self.warm_up <= MAX_DURATION, "warm-up", format!("{:?}", self.warm_up), format!("0 to {MAX_DURATION:?}"));
        if let Some(requests) = self.requests {
            check(requests >= 1, "requests", requests.to_string(), "1 and more".to_owned());
        }
        if let Some(duration) = self.duration {
            check(
                !duration.is_zero() && duration <= MAX_DURATION,
                "duration",
                format!("{duration:?}"),
                format!("more than 0 to {MAX_DURATION:?}"),
            );
        }
        if let Some(percent) = self.fail_above_errors {
            check((0.0..=100.0).contains(&percent), "fail-above-errors", percent.to_string(), "0 to 100".to_owned());
        }
        if self.requests.is_none() && self.duration.is_none() {
            faults.push(PlanError::Unbounded);
        }
        if matches!(self.pacing, Pacing::Open { .. }) && self.connections == Connections::Own {
            faults.push(PlanError::OwnInOpenLoop);
        }
        let has_number = self.protocol == Protocol::Http2 && self.connections == Connections::Shared;
        if self.http2_connections > 1 && !has_number {
            faults.push(PlanError::Http2Connections);
        }
        faults
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan that can be run; tests change what they are about.
    pub(crate) fn plan() -> Plan {
        Plan {
            url: Url::parse("http://127.0.0.1:8000/get").unwrap(),
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Vec::new(),
            protocol: Protocol::Http1,
            timeout: Duration::from_secs(10),
            pacing: Pacing::Closed { concurrency: 3 },
            connections: Connections::Own,
            http2_connections: 1,
            warm_up: Duration::ZERO,
            requests: Some(500),
            duration: None,
            fail_above_errors: None,
        }
    }

    #[test]
    fn a_sound_plan_has_no_fault() {
        assert_eq!(plan().faults(), []);
    }

    #[test]
    fn every_fault_of_a_plan_is_named_at_once() {
        let faults = Plan {
            url: Url::parse("https://me:secret@127.0.0.1/").unwrap(),
            timeout: Duration::ZERO,
            pacing: Pacing::Open { rate_per_s: 0, max_in_flight: MAX_IN_FLIGHT + 1 },
            http2_connections: 2,
            warm_up: MAX_DURATION + Duration::from_nanos(1),
            requests: Some(0),
            duration: Some(MAX_DURATION + Duration::from_nanos(1)),
            fail_above_errors: Some(100.1),
            ..plan()
        }
        .faults();
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        for part in [
            "scheme \"https\"",
            "user and password",
            "timeout: 0ns",
            "rate: 0",
            "max-in-flight: 10001",
            "requests: 0",
            "duration: ",
            "fail-above-errors: 100.1",
            "no workers",
            "http2-connections: only",
            "warm-up: ",
        ] {
            assert!(told.iter().any(|fault| fault.contains(part)), "{part:?} is missing in {told:#?}");
        }
        assert_eq!(told.len(), 11, "{told:#?}");
        assert!(told.iter().all(|fault| !fault.contains("secret")));
    }

    #[test]
    fn a_plan_without_an_end_is_refused() {
        let plan = Plan { requests: None, ..plan() };
        assert_eq!(plan.faults(), [PlanError::Unbounded]);
    }

    #[test]
    fn a_share_that_is_not_a_number_is_refused() {
        let plan = Plan { fail_above_errors: Some(f64::NAN), ..plan() };
        assert_eq!(plan.faults().len(), 1);
    }
}
