//! The fields of Sidecar, DestinationRule and VirtualService that we write, and no others: under
//! server-side apply what we do not send stays whose it is.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Serialize;

/// Metadata of a generated object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace: always that of the policy and its target.
    pub namespace: String,
    /// Our labels.
    pub labels: BTreeMap<String, String>,
    /// The policy; empty when its uid is not known (offline).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

/// `networking.istio.io/v1` DestinationRule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRule {
    /// `networking.istio.io/v1`.
    pub api_version: &'static str,
    /// `DestinationRule`.
    pub kind: &'static str,
    /// Name, labels, owner.
    pub metadata: Metadata,
    /// The rule.
    pub spec: DestinationRuleSpec,
}

/// Spec of a DestinationRule. `exportTo` stays unset: one that differs from another rule's turns
/// «oldest wins» into «youngest wins» (measured M4).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// Fully qualified.
    pub host: String,
    /// At least one block (istio `validateTrafficPolicy`).
    pub traffic_policy: TrafficPolicy,
}

/// What is applied to somebody else's DestinationRule: our blocks, and what says whose they are. Neither
/// `host` nor anything else that is its owner's, and no ownerReference: it must not go with the policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergedBlocks {
    /// `networking.istio.io/v1`.
    pub api_version: &'static str,
    /// `DestinationRule`.
    pub kind: &'static str,
    /// Name, and whose the blocks are.
    pub metadata: MergedMetadata,
    /// The blocks.
    pub spec: MergedSpec,
}

/// Metadata of which we own a label and an annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MergedMetadata {
    /// The object's name.
    pub name: String,
    /// Its namespace, which is the policy's.
    pub namespace: String,
    /// The policy's uid; empty where it is not known (offline).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The policy's name.
    pub annotations: BTreeMap<String, String>,
}

/// Spec of which we own some blocks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergedSpec {
    /// Only `connectionPool`, `outlierDetection` and `retryBudget`.
    pub traffic_policy: TrafficPolicy,
}

/// `trafficPolicy`. Without `tls`, so that auto-mTLS stays (measured M54).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Limits and connect timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Locality failover, switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Lost on any port that has settings of its own (measured M31).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// Ports that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_level_settings: Vec<PortPolicy>,
}

/// An entry of `portLevelSettings`. It inherits nothing from the top level, so every block is whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortPolicy {
    /// Service port.
    pub port: PortSelector,
    /// Limits and times of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Locality failover, switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
}

/// `loadBalancer`, as far as we say anything of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Locality.
    pub locality_lb_setting: LocalityLbSetting,
}

/// `loadBalancer.localityLbSetting`: ejection alone switches it on (claims R4.5a, R4.5b).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalityLbSetting {
    /// Always false: on is the mesh's default.
    pub enabled: bool,
}

/// `retryBudget`. Without `budgetInterval`, which nearly removes the budget (measured M30).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Always written: unset it was 0.2 instead of 20 in older versions (istio#59504).
    pub percent: u32,
    /// 0 would be 3.
    pub min_retry_concurrency: u32,
}

/// `connectionPool`: at least one of its halves (istio `validateConnectionPool`).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPool {
    /// TCP half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpPool>,
    /// HTTP half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// `connectionPool.tcp`. Istio reads 0 as unset, so no field is ever 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpPool {
    /// Envoy `max_connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i32>,
    /// Envoy cluster `connect_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    /// Envoy `tcp_proxy.idle_timeout` and, unless HTTP has its own, `common_http_protocol_options.idle_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// Envoy `max_connection_duration` of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<String>,
}

/// `connectionPool.http`. Istio reads 0 as unset, so no field is ever 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPool {
    /// Envoy `max_pending_requests`, for HTTP/1 and HTTP/2 despite its name.
    #[serde(skip_serializing_if = "Option::is_none", rename = "http1MaxPendingRequests")]
    pub http1_max_pending_requests: Option<i32>,
    /// Envoy `max_requests`, for HTTP/1 and HTTP/2 despite its name.
    #[serde(skip_serializing_if = "Option::is_none", rename = "http2MaxRequests")]
    pub http2_max_requests: Option<i32>,
    /// Envoy `max_requests_per_connection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<i32>,
    /// Envoy `max_retries`: under way at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
    /// Envoy `common_http_protocol_options.idle_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
}

/// `outlierDetection`. Every field that has a hidden default is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// 0 = off; unset would be Envoy's 5.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: u32,
    /// 0 = off.
    pub consecutive_gateway_errors: u32,
    /// Only together with the split (istio `validateOutlierDetection`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_external_local_origin_errors: Option<bool>,
    /// Only together with the split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Time between two sweeps.
    pub interval: String,
    /// Length of the first ejection.
    pub base_ejection_time: String,
    /// 1..=100; unset would be Envoy's 10, which ejects none of nine.
    pub max_ejection_percent: u32,
    /// Envoy `healthy_panic_threshold`; unset: 0, which is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_health_percent: Option<u32>,
}

/// `networking.istio.io/v1` Sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// `networking.istio.io/v1`.
    pub api_version: &'static str,
    /// `Sidecar`.
    pub kind: &'static str,
    /// Name, labels, owner.
    pub metadata: Metadata,
    /// For which workloads, and what they take.
    pub spec: SidecarSpec,
}

/// Spec of a Sidecar. Without `egress`, `ingress` and `outboundTrafficPolicy`: unset, they are what a
/// workload has that no Sidecar selects (measured M68).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarSpec {
    /// Never for a whole namespace.
    pub workload_selector: WorkloadSelector,
    /// Takes the place of the whole `connectionPool` of any DestinationRule on inbound clusters, also with
    /// the fields that it leaves out (istio `pilot/pkg/networking/core/cluster_builder.go`,
    /// `buildInboundCluster`; measured M72).
    pub inbound_connection_pool: ConnectionPool,
}

/// `workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkloadSelector {
    /// All of them must match; none would match every workload of the namespace.
    pub labels: BTreeMap<String, String>,
}

/// `networking.istio.io/v1` VirtualService.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualService {
    /// `networking.istio.io/v1`.
    pub api_version: &'static str,
    /// `VirtualService`.
    pub kind: &'static str,
    /// Name, labels, owner.
    pub metadata: Metadata,
    /// The routes.
    pub spec: VirtualServiceSpec,
}

/// Spec of a VirtualService for the mesh (`gateways` unset).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// One fully qualified host.
    pub hosts: Vec<String>,
    /// Namespaces whose clients get the routes; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// For each HTTP port one route, or two that differ by method.
    pub http: Vec<HttpRoute>,
}

/// A route. At least one per port, matching it: a fixed destination without a match sends the other ports'
/// traffic astray (measured M43).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// Shows in Envoy's route and access log.
    pub name: String,
    /// The port; or the port with each of several methods.
    #[serde(rename = "match")]
    pub matches: Vec<RouteMatch>,
    /// Exactly one.
    pub route: Vec<RouteDestination>,
    /// Unset: no timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Unset: the mesh's default retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<HttpRetry>,
}

/// One way in which a route matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// Service port.
    pub port: u16,
    /// Unset: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<ExactMatch>,
}

/// A text, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExactMatch {
    /// The text.
    pub exact: &'static str,
}

/// A weighted destination; the only one, so without weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteDestination {
    /// Where to.
    pub destination: Destination,
}

/// Host and port of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// Fully qualified.
    pub host: String,
    /// Always explicit (analyzer IST0112).
    pub port: PortSelector,
}

/// A port by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortSelector {
    /// Service port.
    pub number: u16,
}

/// `retries` of a route. As it defaults, nothing is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRetry {
    /// After the first try. 0 = off, and then nothing else may be set.
    pub attempts: i32,
    /// The whole list, comma-separated without blanks: it replaces Istio's own (measured M21, M22).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<String>,
    /// Unset: the route's timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    /// Unset: Envoy's 25ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
}
