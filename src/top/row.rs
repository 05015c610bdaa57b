//! The shape of what is told.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// What the proxies of clients say of the hosts that were asked about.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Top {
    /// When the proxies were read.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// A row for each target and client, of those that have called it.
    pub rows: Vec<Row>,
    /// Proxies that were read and have not called any of the hosts yet.
    pub idle: usize,
    /// Proxies that were not read.
    pub unread: Vec<Unread>,
    /// What else is not told, and what to do about it; one line each.
    pub notes: Vec<String>,
}

/// A proxy, by its pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Istio's canonical name of its workload; null: it has none.
    pub workload: Option<String>,
}

/// A proxy that was not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unread {
    /// Whose proxy.
    pub client: Proxy,
    /// Why, and what to do.
    pub why: String,
}

/// The breaker of one client for one target.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Fully qualified host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Subset of its endpoints; null: all of them.
    pub subset: Option<String>,
    /// Who calls.
    pub client: Proxy,
    /// What the breaker does: one or more of `Limiting`, `Ejecting` and `Panic`; or else `Closed` or `Unknown`.
    pub states: Vec<State>,
    /// Requests that went to an endpoint, per second since the reading before, retries included; null: not known.
    #[serde(serialize_with = "hundredths")]
    pub requests_per_s: Option<f64>,
    /// Requests under way.
    pub active_requests: Used,
    /// Requests that wait for a connection.
    pub pending_requests: Used,
    /// Connections.
    pub connections: Used,
    /// What the client's proxy refused to send.
    pub refused: Refused,
    /// Endpoints that the proxy was sent.
    pub endpoints: usize,
    /// Those of them that outlier detection has ejected.
    pub ejected: Vec<Ejected>,
    /// Whether the proxy counts what it refuses; without, `refused` is null.
    pub counted: bool,
    /// Readings up to this one, the oldest first; 60 at most.
    pub history: History,
}

/// What a breaker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum State {
    /// Requests were refused by a limit since the reading before.
    Limiting,
    /// An endpoint is ejected.
    Ejecting,
    /// So many endpoints are out that Envoy sends to all of them again.
    Panic,
    /// None of that.
    Closed,
    /// The proxy does not tell, or was read only once.
    Unknown,
}

impl State {
    /// For people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Limiting => "limiting",
            Self::Ejecting => "ejecting",
            Self::Panic => "panic",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
        }
    }
}

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Used {
    /// Now; null: the proxy does not tell.
    pub used: Option<u64>,
    /// At most; null: there is no limit.
    pub allowed: Option<u64>,
}

impl Used {
    /// Used of allowed in percent, 100 at most.
    #[must_use]
    pub fn percent(self) -> Option<u64> {
        let (used, allowed) = (self.used?, self.allowed?);
        // A limit of 0 is always full.
        Some(used.saturating_mul(100).checked_div(allowed).map_or(100, |percent| percent.min(100)))
    }
}

/// Requests that no endpoint got.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// All of them, per second since the reading before; null: not known.
    #[serde(serialize_with = "hundredths")]
    pub per_s: Option<f64>,
    /// Their share in all that the client asked for since the reading before; null: not known, or nothing was asked for.
    #[serde(serialize_with = "hundredths")]
    pub percent: Option<f64>,
    /// By cause, as far as the proxy counts it.
    pub by_cause: Vec<CauseLine>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Cause {
    /// `limits.perClient.activeRequests` were under way (`upstream_rq_active_overflow`).
    ActiveRequests,
    /// `limits.perClient.pendingRequests` waited (`upstream_rq_pending_overflow`; an Envoy before 1.38 counts
    /// both here).
    PendingRequests,
    /// No endpoint was healthy (`upstream_cx_none_healthy`).
    NoHealthyEndpoint,
    /// A retry that was not made: the caller got the answer before it (`upstream_rq_retry_overflow`). It is no request
    /// of the client's, and not in the sum.
    ConcurrentRetries,
}

impl Cause {
    pub(super) const ALL: [Self; 4] =
        [Self::ActiveRequests, Self::PendingRequests, Self::NoHealthyEndpoint, Self::ConcurrentRetries];

    pub(super) const fn counter(self) -> &'static str {
        match self {
            Self::ActiveRequests => "upstream_rq_active_overflow",
            Self::PendingRequests => "upstream_rq_pending_overflow",
            Self::NoHealthyEndpoint => "upstream_cx_none_healthy",
            Self::ConcurrentRetries => "upstream_rq_retry_overflow",
        }
    }

    pub(super) const fn is_limit(self) -> bool {
        matches!(self, Self::ActiveRequests | Self::PendingRequests)
    }

    pub(super) const fn is_request(self) -> bool {
        !matches!(self, Self::ConcurrentRetries)
    }

    /// For people: the field of the policy, where it is one.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ActiveRequests => "activeRequests",
            Self::PendingRequests => "pendingRequests",
            Self::NoHealthyEndpoint => "noHealthyEndpoint",
            Self::ConcurrentRetries => "concurrentRetries",
        }
    }
}

/// What was refused for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CauseLine {
    /// Why.
    pub cause: Cause,
    /// Per second since the reading before; null: not known.
    #[serde(serialize_with = "hundredths")]
    pub per_s: Option<f64>,
    /// Since the proxy counts.
    pub total: u64,
}

/// An endpoint that is ejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ejected {
    /// Its address and port.
    pub endpoint: String,
    /// It is back within so many seconds, a bound and no forecast; null: not known.
    pub returns_within_s: Option<u64>,
}

/// The past of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// As `requestsPerS`.
    #[serde(serialize_with = "all_hundredths")]
    pub requests_per_s: Vec<Option<f64>>,
    /// As `refused.perS`.
    #[serde(serialize_with = "all_hundredths")]
    pub refused_per_s: Vec<Option<f64>>,
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn hundredths<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(rounded).serialize(serializer)
}

fn all_hundredths<S: Serializer>(numbers: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(numbers.iter().map(|number| number.map(rounded)))
}
