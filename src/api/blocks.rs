//! The blocks of a policy: limits, ejection, timeouts, retries. The same in `spec` and for a port.
//!
//! A port takes field by field from the spec what it leaves out, so a rule of more than one field
//! stands here only if it holds for what an entry itself says. Rules of whole blocks are the spec's
//! (CEL) and, for ports, [`crate::validate`]'s.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Duration,
    fields::{methods_schema, retry_on_schema, status_codes_schema},
};

/// All blocks. Each field unset means untouched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocks {
    /// How much may be asked at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// When an endpoint is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
}

impl Blocks {
    /// These blocks, and from `base` every field that they leave out.
    ///
    /// A port that says `attempts: 0` has no retries at all: what `base` says of them falls away.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        // Through JSON, so that a new field is inherited without a line here.
        let mut merged = serde_json::to_value(base).unwrap_or_default();
        overlay(&mut merged, &serde_json::to_value(self).unwrap_or_default());
        let mut merged: Self = serde_json::from_value(merged).unwrap_or_default();
        if self.retries.as_ref().is_some_and(|retries| retries.attempts == Some(0)) {
            merged.retries.clone_from(&self.retries);
        }
        merged
    }
}

/// Objects field by field; anything else is replaced.
fn overlay(base: &mut Value, top: &Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            for (key, value) in top {
                overlay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, top) => base.clone_from(top),
    }
}

/// Limits, by who enforces them.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.perClient) || has(self.perServer)", "is empty: set perClient or perServer, or leave limits out"))]
pub struct Limits {
    /// Enforced by EACH client proxy: ten clients may ask ten times as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_client: Option<PerClientLimits>,
    /// Enforced by EACH server proxy, for all its clients together and for all ports. Unset: Istio puts
    /// perClient there too. Only for a Service with a selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_server: Option<PerServerLimits>,
}

/// What one client proxy may ask of the Service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.connections) || has(self.pendingRequests) || has(self.activeRequests) || has(self.requestsPerConnection) || has(self.concurrentRetries)", "is empty: set at least one limit, or leave perClient out"),
)]
pub struct PerClientLimits {
    /// Connections that a client proxy opens. Queues, does not refuse: set pendingRequests to bound
    /// the queue. A proxy always opens at least one per worker thread and endpoint. Envoy:
    /// `circuit_breakers.thresholds.max_connections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub connections: Option<i32>,
    /// Requests that wait for a connection, HTTP/1 and HTTP/2. One more is answered 503 at once. Envoy:
    /// `circuit_breakers.thresholds.max_pending_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub pending_requests: Option<i32>,
    /// Requests under way, HTTP/1 and HTTP/2. One more is answered 503 at once. Envoy:
    /// `circuit_breakers.thresholds.max_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub active_requests: Option<i32>,
    /// Requests that one connection carries before it is closed; 1 switches keep-alive off. Envoy:
    /// `common_http_protocol_options.max_requests_per_connection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub requests_per_connection: Option<i32>,
    /// Retries under way at a time. Envoy: `circuit_breakers.thresholds.max_retries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub concurrent_retries: Option<i32>,
}

/// What one server proxy takes from all its clients together. Retries are no limit of a server's: what
/// its own proxy repeats is not of this policy.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.mode != 'Limited' || has(self.connections) || has(self.pendingRequests) || has(self.activeRequests) || has(self.requestsPerConnection)", "mode Limited needs a limit: set connections, pendingRequests, activeRequests or requestsPerConnection, or use mode Unlimited"),
    validation = ("self.mode != 'Unlimited' || !(has(self.connections) || has(self.pendingRequests) || has(self.activeRequests) || has(self.requestsPerConnection))", "mode Unlimited takes no limit: leave connections, pendingRequests, activeRequests and requestsPerConnection out, or use mode Limited"),
)]
pub struct PerServerLimits {
    /// Whether a server's own proxy limits at all.
    pub mode: ServerMode,
    /// Connections that a server proxy opens to its application; over HTTP surplus requests wait for one, a
    /// surplus TCP connection is closed. Unset: not limited. Envoy:
    /// `circuit_breakers.thresholds.max_connections` of the inbound cluster, as of all four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub connections: Option<i32>,
    /// Requests that wait for a connection to the application. One more is answered 503 at once. Unset:
    /// not limited. Envoy: `circuit_breakers.thresholds.max_pending_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub pending_requests: Option<i32>,
    /// Requests under way in the application. One more is answered 503 at once. Unset: not limited. Envoy:
    /// `circuit_breakers.thresholds.max_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub active_requests: Option<i32>,
    /// Requests that one connection to the application carries before it is closed. Unset: not limited.
    /// Envoy: `common_http_protocol_options.max_requests_per_connection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub requests_per_connection: Option<i32>,
}

/// Whether a server's own proxy limits what all clients together ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServerMode {
    /// By the limits beside it, and by no others.
    Limited,
    /// Not at all: perClient is enforced by clients alone.
    Unlimited,
}

impl ServerMode {
    /// The value as it stands in the spec.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limited => "Limited",
            Self::Unlimited => "Unlimited",
        }
    }
}

/// When an endpoint is left out, for how long, and how many may be at a time. A detector that is
/// not set is off. State is kept by each client proxy on its own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ejection {
    /// Answers 500 to 599 in a row that eject an endpoint; connection failures count as well,
    /// unless consecutiveLocalOrigin is set. 0 or unset: off. Envoy: `outlier_detection.consecutive_5xx`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "consecutive5xx")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub consecutive_5xx: Option<u32>,
    /// Answers 502, 503 or 504 in a row that eject an endpoint. 0 or unset: off. Envoy:
    /// `outlier_detection.consecutive_gateway_failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub consecutive_gateway: Option<u32>,
    /// Failures of the client proxy's own (connect, reset, timeout) in a row that eject an
    /// endpoint; counted apart from answers once this is set. Envoy:
    /// `outlier_detection.consecutive_local_origin_failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub consecutive_local_origin: Option<u32>,
    /// How often ejected endpoints are looked at. Unset: 10s. Envoy: `outlier_detection.interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Length of the first ejection; the n-th takes n times as long. Unset: 30s. Envoy:
    /// `outlier_detection.base_ejection_time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_time: Option<Duration>,
    /// Share of the endpoints that may be out at a time; rounded down, so 10 of 3 endpoints ejects
    /// none. Unset: 50 up to 3 endpoints, 25 from 4, 10 from 10. Envoy:
    /// `outlier_detection.max_ejection_percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_percent: Option<u32>,
    /// Below this share of endpoints in rotation a proxy distrusts its ejections and sends to all again.
    /// Above 0 it also keeps endpoints that are not ready from the proxies. Unset or 0: never. Envoy:
    /// `common_lb_config.healthy_panic_threshold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub min_healthy_percent: Option<u32>,
    /// Ejection switches Istio's locality failover on: calls stay in the caller's zone while endpoints
    /// there are well. `Disabled` switches it off for this host. Unset: as `Inherit`, with a warning
    /// where it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality_failover: Option<LocalityFailover>,
}

/// What becomes of Istio's locality failover, which ejection switches on: calls stay in the caller's zone while
/// endpoints there are well. Unset: as `Inherit`, with a warning where it matters. Envoy:
/// `load_assignment.endpoints.priority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LocalityFailover {
    /// As the mesh has it.
    Inherit,
    /// Off: endpoints of all zones are alike.
    Disabled,
}

impl LocalityFailover {
    /// The value as it stands in the spec.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inherit => "Inherit",
            Self::Disabled => "Disabled",
        }
    }
}

/// How long things may take.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.connect) || has(self.request) || has(self.idle) || has(self.lifetime)", "is empty: set connect, request, idle or lifetime, or leave timeouts out"))]
pub struct Timeouts {
    /// Opening a connection to an endpoint. Unset: the mesh's, which is 10s unless somebody changed it.
    /// Envoy: `connect_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// A whole call, with all its tries. HTTP ports only. Unset: it may take for ever. Envoy: `route.timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// A connection without requests, or of TCP without bytes, is closed after it. Unset: Envoy's 1h. Envoy:
    /// `common_http_protocol_options.idle_timeout`, of TCP `tcp_proxy.idle_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// A connection takes no more requests after it and is closed when the last has ended; of TCP it is
    /// closed at once. Unset: never. Envoy: `common_http_protocol_options.max_connection_duration`, of TCP
    /// `tcp_proxy.max_downstream_connection_duration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Duration>,
}

/// What is tried again. HTTP ports only.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("!has(self.attempts) || self.attempts > 0 || (!has(self.retryOn) && !has(self.statusCodes) && !has(self.methods) && !has(self.perTryTimeout) && !has(self.backoff) && !has(self.budget))", "attempts 0 switches retries off: leave out retryOn, statusCodes, methods, perTryTimeout, backoff and budget"),
)]
pub struct Retries {
    /// Tries after the first. 0: none, also not Istio's own two. Required in `spec.retries`. Envoy:
    /// `retry_policy.num_retries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<i32>,
    /// What counts as failed and is tried again. Unset: `ConnectFailure` and `RefusedStream`. Envoy:
    /// `retry_policy.retry_on`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "retry_on_schema")]
    pub retry_on: Option<Vec<RetryOn>>,
    /// Answers that are tried again besides, by status code. Envoy: `retry_policy.retriable_status_codes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "status_codes_schema")]
    pub status_codes: Option<Vec<u16>>,
    /// Methods that are tried again; a call with another one never is. Unset: all. Envoy: a route of its own,
    /// by the header `:method`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "methods_schema")]
    pub methods: Option<Vec<Method>>,
    /// How long one try may take. Tried again only if retryOn has `Reset`, `5xx` or `GatewayError`. Unset: as
    /// long as the call. Envoy: `retry_policy.per_try_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// Longest wait before the first retry; the wait is drawn at random below it, which doubles with each
    /// retry up to ten times as much. Unset: 25ms. Envoy: `retry_policy.retry_back_off.base_interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
    /// Retries under way at a time, as a share of the calls under way. For all ports, and not together
    /// with `limits.perClient.concurrentRetries` or `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// How many retries may be under way at a time in one client proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Of the calls under way, waiting ones included. Envoy:
    /// `circuit_breakers.thresholds.retry_budget.budget_percent`.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
    /// Allowed in any case. Unset: 3. Envoy: `circuit_breakers.thresholds.retry_budget.min_retry_concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub min_concurrency: Option<u32>,
}

/// An HTTP method (RFC 9110, 9.3; PATCH is RFC 5789's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Safe.
    Get,
    /// Safe.
    Head,
    /// Safe.
    Options,
    /// Safe.
    Trace,
    /// Idempotent.
    Put,
    /// Idempotent.
    Delete,
    /// May act twice.
    Post,
    /// May act twice.
    Patch,
    /// May act twice.
    Connect,
}

impl Method {
    /// The method as it stands on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Connect => "CONNECT",
        }
    }

    /// Whether a call may be repeated without acting twice (RFC 9110, 9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Patch | Self::Connect)
    }
}

/// A kind of failure that is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RetryOn {
    /// No connection to the endpoint: the request was not sent.
    ConnectFailure,
    /// The endpoint refused the HTTP/2 stream: the request was not processed.
    RefusedStream,
    /// The endpoint disconnected, reset, or did not answer in time. It may have acted.
    Reset,
    /// As `Reset`, before anything of the request was sent.
    ResetBeforeRequest,
    /// Any answer 500 to 599, and whatever `Reset` means.
    #[serde(rename = "5xx")]
    Http5xx,
    /// 502, 503 or 504, and whatever `Reset` means.
    GatewayError,
    /// 409.
    Retriable4xx,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 13.
    Internal,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 14.
    Unavailable,
}

// Of an enum whose last one is this; one that is missing in `ALL` does not compile.
const _: () = assert!(RetryOn::ALL.len() == RetryOn::Unavailable as usize + 1);

impl RetryOn {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ConnectFailure,
        Self::RefusedStream,
        Self::Reset,
        Self::ResetBeforeRequest,
        Self::Http5xx,
        Self::GatewayError,
        Self::Retriable4xx,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::Internal,
        Self::ResourceExhausted,
        Self::Unavailable,
    ];

    /// Whether the server may have acted on the request before it failed, so that a repeated call may
    /// act twice. Refusals (409, 8) and what happened before the request was sent are no such failures.
    #[must_use]
    pub const fn may_have_acted(self) -> bool {
        match self {
            Self::Reset
            | Self::Http5xx
            | Self::GatewayError
            | Self::Cancelled
            | Self::DeadlineExceeded
            | Self::Internal
            | Self::Unavailable => true,
            Self::ConnectFailure
            | Self::RefusedStream
            | Self::ResetBeforeRequest
            | Self::Retriable4xx
            | Self::ResourceExhausted => false,
        }
    }

    /// The value as it stands in the spec.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectFailure => "ConnectFailure",
            Self::RefusedStream => "RefusedStream",
            Self::Reset => "Reset",
            Self::ResetBeforeRequest => "ResetBeforeRequest",
            Self::Http5xx => "5xx",
            Self::GatewayError => "GatewayError",
            Self::Retriable4xx => "Retriable4xx",
            Self::Cancelled => "Cancelled",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::Internal => "Internal",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Unavailable => "Unavailable",
        }
    }
}
