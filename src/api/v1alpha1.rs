//! `resilience.dev/v1alpha1`. Field names are for ever: there is no conversion (docs/adr/0002).
//!
//! Every number is optional and unset means untouched; zero appears only where it means «off».
//! Ranges and cross-field rules live in the schema, once: the API server evaluates them, and so
//! does [`crate::api::schema`] offline.

#![allow(clippy::duplicated_attributes, reason = "one printcolumn per column is how kube spells it")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, warnings::Code};

/// Circuit breaking for one Service: what each client may ask of it, when a failing endpoint is
/// left out, how long a call may take, and what is tried again.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "resilience.dev",
    version = "v1alpha1",
    kind = "Resilience",
    plural = "resiliences",
    singular = "resilience",
    shortname = "rsl",
    category = "istio-policies",
    namespaced,
    derive = "PartialEq",
    doc = "Circuit breaking for one Service, generated for Istio as DestinationRule and VirtualService.",
    status = "ResilienceStatus",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[0].name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(name = "Endpoints", type_ = "integer", json_path = ".status.targets[0].endpoints", priority = 1),
    printcolumn(name = "Warnings", type_ = "string", json_path = ".status.warnings[*].code", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.limits) || has(self.ejection) || has(self.timeouts) || has(self.retries)", "declares nothing: set at least one of limits, ejection, timeouts, retries"),
    validation = ("!has(self.retries) || !has(self.retries.perTryTimeout) || !has(self.timeouts) || !has(self.timeouts.request) || !self.retries.perTryTimeout.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || !self.timeouts.request.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self.retries.perTryTimeout) < duration(self.timeouts.request)", "retries.perTryTimeout must be shorter than timeouts.request: otherwise no try is ever repeated"),
)]
pub struct ResilienceSpec {
    /// The Service that this policy protects, in the namespace of this object.
    #[schemars(schema_with = "target_refs_schema")]
    pub target_refs: Vec<TargetRef>,
    /// How much may be asked of the Service at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// When an endpoint that fails is left out for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
}

/// Names a Service of the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// API group of the target: the core group, written as the empty string.
    #[serde(default)]
    pub group: String,
    /// Kind of the target.
    pub kind: TargetKind,
    /// Name of the target.
    pub name: String,
}

/// What a policy can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A core/v1 Service.
    Service,
}

/// Limits, by who enforces them.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.perClient)", "is empty: set perClient, or leave limits out"))]
pub struct Limits {
    /// Enforced by EACH client proxy: ten clients may ask ten times as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_client: Option<PerClientLimits>,
}

/// What one client proxy may ask of the Service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.connections) || has(self.pendingRequests) || has(self.activeRequests) || has(self.requestsPerConnection) || has(self.concurrentRetries)", "is empty: set at least one limit, or leave perClient out"),
)]
pub struct PerClientLimits {
    /// Connections that a client proxy opens. Queues, does not refuse: set pendingRequests to bound
    /// the queue. A proxy always opens at least one per worker thread and endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub connections: Option<i32>,
    /// Requests that wait for a connection, HTTP/1 and HTTP/2. One more is answered 503 at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub pending_requests: Option<i32>,
    /// Requests under way, HTTP/1 and HTTP/2. One more is answered 503 at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub active_requests: Option<i32>,
    /// Requests that one connection carries before it is closed; 1 switches keep-alive off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub requests_per_connection: Option<i32>,
    /// Retries under way at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub concurrent_retries: Option<i32>,
}

/// When an endpoint is left out, for how long, and how many may be at a time. A detector that is
/// not set is off. State is kept by each client proxy on its own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("(has(self.consecutive5xx) && self.consecutive5xx > 0) || (has(self.consecutiveGateway) && self.consecutiveGateway > 0) || has(self.consecutiveLocalOrigin)", "no detector is on: set consecutive5xx, consecutiveGateway or consecutiveLocalOrigin above 0, or leave ejection out"),
)]
pub struct Ejection {
    /// Answers 500 to 599 in a row that eject an endpoint; connection failures count as well,
    /// unless consecutiveLocalOrigin is set. 0 or unset: off.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "consecutive5xx")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub consecutive_5xx: Option<u32>,
    /// Answers 502, 503 or 504 in a row that eject an endpoint. 0 or unset: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub consecutive_gateway: Option<u32>,
    /// Failures of the client proxy's own (connect, reset, timeout) in a row that eject an
    /// endpoint; counted apart from answers once this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub consecutive_local_origin: Option<u32>,
    /// How often ejected endpoints are looked at. Unset: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Length of the first ejection; the n-th takes n times as long. Unset: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_time: Option<Duration>,
    /// Share of the endpoints that may be out at a time; rounded down, so 10 of 3 endpoints ejects
    /// none. Unset: 50 up to 3 endpoints, 25 from 4, 10 from 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_percent: Option<u32>,
}

/// How long things may take.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.connect) || has(self.request)", "is empty: set connect or request, or leave timeouts out"))]
pub struct Timeouts {
    /// Opening a connection to an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// A whole call, with all its tries. HTTP ports only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
}

/// What is tried again. HTTP ports only.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.attempts > 0 || (!has(self.retryOn) && !has(self.statusCodes) && !has(self.perTryTimeout) && !has(self.backoff))", "attempts 0 switches retries off: leave out retryOn, statusCodes, perTryTimeout and backoff"),
)]
pub struct Retries {
    /// Tries after the first. 0: none, also not Istio's own two.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: i32,
    /// What counts as failed and is tried again. Unset: `ConnectFailure` and `RefusedStream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "retry_on_schema")]
    pub retry_on: Option<Vec<RetryOn>>,
    /// Answers that are tried again besides, by status code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "status_codes_schema")]
    pub status_codes: Option<Vec<u16>>,
    /// How long one try may take. Tried again only if retryOn has `Reset`, `5xx` or `GatewayError`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// Least wait before the first retry; doubles up to ten times as much. Unset: 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
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

impl RetryOn {
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

/// What was observed and done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResilienceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Programmed, Ready, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// What the policy was put on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "what_is_known")]
    pub targets: Vec<TargetStatus>,
    /// Every value that was generated, with its origin.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "what_is_known")]
    pub effective: Vec<EffectiveValue>,
    /// What is legal but will surprise.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "what_is_known")]
    pub warnings: Vec<Warning>,
}

/// A list of the status, or nothing of it if another version of the operator wrote what this one does
/// not know. Status is derived anew; that it cannot be read must not make the object unreadable.
fn what_is_known<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let list = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(list).unwrap_or_default())
}

/// One target of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Which one.
    #[serde(rename = "ref")]
    pub target_ref: TargetRef,
    /// Endpoints that client proxies are sent.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub endpoints: u32,
    /// How many of them may be ejected at a time. Absent: ejection is not declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ejectable_endpoints: Option<u32>,
    /// The objects that stand for the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated: Vec<GeneratedRef>,
}

/// A generated object, in the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GeneratedRef {
    /// `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whose the object is.
    pub ownership: Ownership,
}

/// Whose a generated object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ownership {
    /// We created it and own the whole of it.
    Created,
}

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveValue {
    /// Path of the field, from `spec`.
    pub path: String,
    /// The value, as text.
    pub value: String,
    /// Who chose it.
    pub origin: Origin,
}

/// Who chose a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Origin {
    /// The spec says so.
    Spec,
    /// The spec leaves it out and this is our fill-in.
    Default,
    /// The spec leaves it out and it follows the number of endpoints.
    Endpoints,
}

/// Something legal that will surprise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// Stable code; `docs/warnings/CODE.md` tells what, why and the fix.
    pub code: Code,
    /// What will happen, with the numbers of now.
    pub message: String,
}

/// Status codes that Istio takes in `retryOn`: those that Go's `net/http` has a name for, of
/// 400 and above (istio `pkg/config/validation`, `validateHTTPRetry`).
pub const RETRIABLE_STATUS_CODES: &[u16] = &[
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424,
    425, 426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

fn target_refs_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let _ = generator;
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 1,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["group", "kind", "name"],
        "items": {
            "type": "object",
            "required": ["kind", "name"],
            "properties": {
                "group": {"type": "string", "enum": [""], "default": "", "description": "API group of the target: the core group, written as the empty string."},
                "kind": {"type": "string", "enum": ["Service"], "description": "Kind of the target."},
                "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "description": "Name of the target, an RFC 1123 label as all names of Services are."},
            },
        },
    })
}

fn retry_on_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = RetryOn::json_schema(generator);
    let names: Vec<serde_json::Value> = items
        .get("oneOf")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|variant| variant.get("const").cloned())
        .collect();
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": names},
    })
}

fn status_codes_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let codes: Vec<String> = RETRIABLE_STATUS_CODES.iter().map(ToString::to_string).collect();
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "integer",
            "format": "int32",
            "minimum": 400,
            "maximum": 599,
            "x-kubernetes-validations": [{
                "rule": format!("self in [{}]", codes.join(", ")),
                "message": "is not a status code that Istio can retry on: use a registered one from 400 to 511",
            }],
        },
    })
}

fn conditions_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = generator.subschema_for::<Condition>();
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": items,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_of_another_version_does_not_make_the_object_unreadable() {
        let object = json!({
            "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": "a"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "a"}], "timeouts": {"connect": "1s"}},
            "status": {
                "observedGeneration": 3,
                "warnings": [{"code": "RES999", "message": "of tomorrow"}],
                "effective": [{"path": "p", "value": "v", "origin": "Oracle"}],
            },
        });
        let status = serde_json::from_value::<Resilience>(object).unwrap().status.unwrap();
        assert_eq!(status, ResilienceStatus { observed_generation: Some(3), ..ResilienceStatus::default() });
    }
}
