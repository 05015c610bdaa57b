//! `resilience.dev/v1alpha1`. Field names are for ever: there is no conversion (docs/adr/0002).
//!
//! Every number is optional and unset means untouched; zero appears only where it means «off».
//! Ranges and cross-field rules live in the schema, once: the API server evaluates them, and so
//! does [`crate::api::schema`] offline.

#![allow(clippy::duplicated_attributes, reason = "one printcolumn per column is how kube spells it")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Blocks, Ejection, Limits, Retries, Timeouts,
    fields::{ports_schema, target_refs_schema},
    status::ResilienceStatus,
};
use crate::names;

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
    doc = "Circuit breaking for one Service, generated for Istio as DestinationRule, VirtualService and Sidecar.",
    status = "ResilienceStatus",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[0].name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(
        name = "InEffect",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"InEffect\")].status",
        priority = 1
    ),
    printcolumn(name = "Endpoints", type_ = "integer", json_path = ".status.targets[0].endpoints", priority = 1),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Verified\")].status",
        priority = 1
    ),
    printcolumn(name = "Warnings", type_ = "string", json_path = ".status.warnings[*].code", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.ejection) || (has(self.ejection.consecutive5xx) && self.ejection.consecutive5xx > 0) || (has(self.ejection.consecutiveGateway) && self.ejection.consecutiveGateway > 0) || has(self.ejection.consecutiveLocalOrigin)").message("no detector is on: set consecutive5xx, consecutiveGateway or consecutiveLocalOrigin above 0, or leave ejection out").field_path(".ejection"),
    validation = Rule::new("!has(self.retries) || has(self.retries.attempts)").message("needs attempts: how many tries after the first; 0 for none").field_path(".retries"),
    validation = Rule::new("!has(self.retries) || !has(self.retries.budget) || !has(self.limits) || !has(self.limits.perClient) || !has(self.limits.perClient.concurrentRetries)").message("cannot stand beside retries.budget: Envoy takes the budget and ignores the number; leave one of the two out").field_path(".limits.perClient.concurrentRetries"),
    validation = Rule::new("!has(self.ports) || !has(self.retries) || !has(self.retries.budget)").message("cannot stand beside ports: Istio drops the budget on a port with settings of its own; use limits.perClient.concurrentRetries").field_path(".retries.budget"),
    validation = Rule::new("!has(self.limits) || !has(self.limits.perServer) || self.targetRefs.all(target, target.kind == 'Service')").message("is for a Service: Istio sets it by the labels of pods, and a ServiceEntry names none that are known to be in this mesh; leave it out").field_path(".limits.perServer"),
    validation = ("has(self.limits) || has(self.ejection) || has(self.timeouts) || has(self.retries) || has(self.ports)", "declares nothing: set at least one of limits, ejection, timeouts, retries, ports"),
    validation = ("!has(self.retries) || !has(self.retries.perTryTimeout) || !has(self.timeouts) || !has(self.timeouts.request) || !self.retries.perTryTimeout.matches('^([0-9]+(h|m|s|ms))+$') || !self.timeouts.request.matches('^([0-9]+(h|m|s|ms))+$') || duration(self.retries.perTryTimeout) < duration(self.timeouts.request)", "retries.perTryTimeout must be shorter than timeouts.request: otherwise no try is ever repeated"),
)]
pub struct ResilienceSpec {
    /// The Service or `ServiceEntry` that this policy protects, in the namespace of this object.
    #[schemars(schema_with = "target_refs_schema")]
    pub target_refs: Vec<TargetRef>,
    /// Whether the policy acts, only reports, or leaves everything as it is.
    #[serde(default)]
    pub mode: Mode,
    /// What becomes of the policy where somebody else has a DestinationRule for the host in this namespace.
    #[serde(default)]
    pub coexistence: Coexistence,
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
    /// Ports that differ. What an entry leaves out it takes, field by field, from the blocks above;
    /// ports without an entry have exactly those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ports_schema")]
    pub ports: Vec<PortEntry>,
}

impl ResilienceSpec {
    /// What the spec says of every port.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        Blocks {
            limits: self.limits.clone(),
            ejection: self.ejection.clone(),
            timeouts: self.timeouts.clone(),
            retries: self.retries.clone(),
        }
    }

    /// A spec that says nothing of anything: what stands in for one that cannot be read.
    #[must_use]
    pub fn unread() -> Self {
        Self {
            target_refs: Vec::new(),
            mode: Mode::default(),
            coexistence: Coexistence::default(),
            limits: None,
            ejection: None,
            timeouts: None,
            retries: None,
            ports: Vec::new(),
        }
    }
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Generates its objects and keeps them.
    #[default]
    Enforce,
    /// Computes and reports; what an earlier Enforce generated is removed.
    Observe,
    /// Leaves what is there as it is: nothing is written, repaired or removed until the policy is deleted.
    Suspend,
}

/// What becomes of a policy where somebody else has a DestinationRule for the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Coexistence {
    /// It is not accepted: Istio would heed one of the two rules only.
    #[default]
    Refuse,
    /// Limits, ejection and the retry budget stand in the other's rule, beside what its owner wrote there,
    /// as long as nobody else has those blocks.
    Merge,
}

/// One port that differs.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.limits) || has(self.ejection) || has(self.timeouts) || has(self.retries)", "declares nothing: set at least one of limits, ejection, timeouts, retries, or leave the port out"),
    validation = Rule::new("!has(self.ejection) || has(self.ejection.consecutive5xx) || has(self.ejection.consecutiveGateway) || has(self.ejection.consecutiveLocalOrigin) || has(self.ejection.interval) || has(self.ejection.baseTime) || has(self.ejection.maxPercent) || has(self.ejection.minHealthyPercent) || has(self.ejection.localityFailover)").message("is empty: set a detector, or leave ejection out").field_path(".ejection"),
    validation = Rule::new("!has(self.retries) || has(self.retries.attempts) || has(self.retries.retryOn) || has(self.retries.statusCodes) || has(self.retries.methods) || has(self.retries.perTryTimeout) || has(self.retries.backoff) || has(self.retries.budget)").message("is empty: set attempts, or leave retries out").field_path(".retries"),
    validation = Rule::new("!has(self.limits) || !has(self.limits.perServer)").message("is for all ports: Istio's inboundConnectionPool knows no ports; set spec.limits.perServer").field_path(".limits.perServer"),
    validation = Rule::new("!has(self.retries) || !has(self.retries.budget)").message("is for all ports: Istio drops the budget on a port with settings of its own; use limits.perClient.concurrentRetries").field_path(".retries.budget"),
)]
pub struct PortEntry {
    /// Port of the Service or `ServiceEntry`, not of the pods.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// As `spec.limits`, but for `perServer`, which is for all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// As `spec.ejection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
    /// As `spec.timeouts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// As `spec.retries`, but for `budget`, which is for all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
}

impl PortEntry {
    /// What the entry itself says.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        Blocks {
            limits: self.limits.clone(),
            ejection: self.ejection.clone(),
            timeouts: self.timeouts.clone(),
            retries: self.retries.clone(),
        }
    }
}

/// Names a target in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// API group of the target: empty for a Service, `networking.istio.io` for a `ServiceEntry`.
    #[serde(default)]
    pub group: String,
    /// Kind of the target.
    pub kind: TargetKind,
    /// Name of the target.
    pub name: String,
}

/// What a policy can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A core/v1 Service.
    Service,
    /// A networking.istio.io `ServiceEntry`: a host outside of the cluster, or one that Kubernetes does not know.
    ServiceEntry,
}

impl TargetRef {
    /// A target of that kind, in the group that the kind has.
    #[must_use]
    pub fn new(kind: TargetKind, name: &str) -> Self {
        let group = match kind {
            TargetKind::Service => "",
            TargetKind::ServiceEntry => names::ISTIO_GROUP,
        };
        Self { group: group.to_owned(), kind, name: name.to_owned() }
    }
}

impl TargetKind {
    /// The kind as it stands in an object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
        }
    }
}

impl std::fmt::Display for TargetRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}
