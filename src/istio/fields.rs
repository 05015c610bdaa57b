//! Every field of Sidecar, DestinationRule and VirtualService that we write, as a path, and what Istio does where
//! it has no such field.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{Kind, Version};

/// A field that we write, named from `spec`; `[]` stands for each entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// As in `trafficPolicy.portLevelSettings[].connectionPool.tcp.maxConnections`.
    pub path: String,
    /// The version that it came with, where `networking.istio.io/v1` (1.22) is older.
    pub since: Option<Version>,
    /// The value that means the same as leaving it out; `None`: without it something else holds.
    pub without: Option<&'static str>,
}

/// Came with Istio 1.26 (istio `pilot/pkg/networking/core/route/retry`, #55639; unset is Envoy's 25ms).
const BACKOFF: &str = "http[].retries.backoff";
/// Came with Istio 1.27 (istio `pilot/pkg/networking/core/cluster_traffic_policy.go`, #56782).
const BUDGET: &str = "trafficPolicy.retryBudget";

/// What stands at the top of a traffic policy and for a port alike.
const BLOCKS: [&str; 24] = [
    "connectionPool",
    "connectionPool.tcp",
    "connectionPool.tcp.maxConnections",
    "connectionPool.tcp.connectTimeout",
    "connectionPool.tcp.idleTimeout",
    "connectionPool.tcp.maxConnectionDuration",
    "connectionPool.http",
    "connectionPool.http.http1MaxPendingRequests",
    "connectionPool.http.http2MaxRequests",
    "connectionPool.http.maxRequestsPerConnection",
    "connectionPool.http.maxRetries",
    "connectionPool.http.idleTimeout",
    "outlierDetection",
    "outlierDetection.consecutive5xxErrors",
    "outlierDetection.consecutiveGatewayErrors",
    "outlierDetection.splitExternalLocalOriginErrors",
    "outlierDetection.consecutiveLocalOriginFailures",
    "outlierDetection.interval",
    "outlierDetection.baseEjectionTime",
    "outlierDetection.maxEjectionPercent",
    "outlierDetection.minHealthPercent",
    "loadBalancer",
    "loadBalancer.localityLbSetting",
    "loadBalancer.localityLbSetting.enabled",
];

const OF_RULES: [&str; 8] = [
    "host",
    "trafficPolicy",
    BUDGET,
    "trafficPolicy.retryBudget.percent",
    "trafficPolicy.retryBudget.minRetryConcurrency",
    "trafficPolicy.portLevelSettings",
    "trafficPolicy.portLevelSettings[].port",
    "trafficPolicy.portLevelSettings[].port.number",
];

/// `inboundConnectionPool` came with Istio 1.20 (istio/api#2961), before `networking.istio.io/v1`.
const OF_SIDECARS: [&str; 14] = [
    "workloadSelector",
    "workloadSelector.labels",
    "inboundConnectionPool",
    "inboundConnectionPool.tcp",
    "inboundConnectionPool.tcp.maxConnections",
    "inboundConnectionPool.tcp.connectTimeout",
    "inboundConnectionPool.tcp.idleTimeout",
    "inboundConnectionPool.tcp.maxConnectionDuration",
    "inboundConnectionPool.http",
    "inboundConnectionPool.http.http1MaxPendingRequests",
    "inboundConnectionPool.http.http2MaxRequests",
    "inboundConnectionPool.http.maxRequestsPerConnection",
    "inboundConnectionPool.http.maxRetries",
    "inboundConnectionPool.http.idleTimeout",
];

const OF_ROUTES: [&str; 19] = [
    "hosts",
    "exportTo",
    "http",
    "http[].name",
    "http[].match",
    "http[].match[].port",
    "http[].match[].method",
    "http[].match[].method.exact",
    "http[].route",
    "http[].route[].destination",
    "http[].route[].destination.host",
    "http[].route[].destination.port",
    "http[].route[].destination.port.number",
    "http[].timeout",
    "http[].retries",
    "http[].retries.attempts",
    "http[].retries.retryOn",
    "http[].retries.perTryTimeout",
    BACKOFF,
];

/// All fields of a kind that we write, in order of their paths.
#[must_use]
pub fn written_fields(kind: Kind) -> &'static [Field] {
    // Each decision asks for all of them.
    static SIDECAR: LazyLock<Vec<Field>> = LazyLock::new(|| fields(Kind::Sidecar));
    static RULE: LazyLock<Vec<Field>> = LazyLock::new(|| fields(Kind::DestinationRule));
    static ROUTES: LazyLock<Vec<Field>> = LazyLock::new(|| fields(Kind::VirtualService));
    match kind {
        Kind::Sidecar => &SIDECAR,
        Kind::DestinationRule => &RULE,
        Kind::VirtualService => &ROUTES,
    }
}

fn fields(kind: Kind) -> Vec<Field> {
    let paths: BTreeSet<String> = match kind {
        Kind::Sidecar => OF_SIDECARS.iter().map(|path| (*path).to_owned()).collect(),
        Kind::DestinationRule => {
            let scopes = ["trafficPolicy", "trafficPolicy.portLevelSettings[]"];
            let blocks = scopes.iter().flat_map(|scope| BLOCKS.iter().map(move |block| format!("{scope}.{block}")));
            OF_RULES.iter().map(|path| (*path).to_owned()).chain(blocks).collect()
        }
        Kind::VirtualService => OF_ROUTES.iter().map(|path| (*path).to_owned()).collect(),
    };
    let field = |path: String| Field {
        since: match path.as_str() {
            BACKOFF => Some(Version { major: 1, minor: 26 }),
            path if path.starts_with(BUDGET) => Some(Version { major: 1, minor: 27 }),
            _ => None,
        },
        without: (path == BACKOFF).then_some("25ms"),
        path,
    };
    paths.into_iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::istio::{
        ConnectionPool, Destination, DestinationRuleSpec, ExactMatch, HttpPool, HttpRetry, HttpRoute, LoadBalancer,
        LocalityLbSetting, OutlierDetection, PortPolicy, PortSelector, RetryBudget, RouteDestination, RouteMatch,
        SidecarSpec, TcpPool, TrafficPolicy, VirtualServiceSpec, WorkloadSelector,
    };

    fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    found.insert(path.clone());
                    paths(inner, &path, found);
                }
            }
            Value::Array(list) => list.iter().for_each(|inner| paths(inner, &format!("{at}[]"), found)),
            _ => {}
        }
    }

    fn pool() -> ConnectionPool {
        let text = || Some(String::new());
        ConnectionPool {
            tcp: Some(TcpPool {
                max_connections: Some(1),
                connect_timeout: text(),
                idle_timeout: text(),
                max_connection_duration: text(),
            }),
            http: Some(HttpPool {
                http1_max_pending_requests: Some(1),
                http2_max_requests: Some(1),
                max_requests_per_connection: Some(1),
                max_retries: Some(1),
                idle_timeout: text(),
            }),
        }
    }

    fn detection() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx_errors: 1,
            consecutive_gateway_errors: 1,
            split_external_local_origin_errors: Some(true),
            consecutive_local_origin_failures: Some(1),
            interval: String::new(),
            base_ejection_time: String::new(),
            max_ejection_percent: 1,
            min_health_percent: Some(1),
        }
    }

    // Without `..`, so that a new field does not compile until it stands here, and so in the list.
    fn whole_rule() -> DestinationRuleSpec {
        let balancer = || LoadBalancer { locality_lb_setting: LocalityLbSetting { enabled: false } };
        DestinationRuleSpec {
            host: String::new(),
            traffic_policy: TrafficPolicy {
                connection_pool: Some(pool()),
                outlier_detection: Some(detection()),
                load_balancer: Some(balancer()),
                retry_budget: Some(RetryBudget { percent: 1, min_retry_concurrency: 1 }),
                port_level_settings: vec![PortPolicy {
                    port: PortSelector { number: 1 },
                    connection_pool: Some(pool()),
                    outlier_detection: Some(detection()),
                    load_balancer: Some(balancer()),
                }],
            },
        }
    }

    fn whole_sidecar() -> SidecarSpec {
        SidecarSpec { workload_selector: WorkloadSelector { labels: BTreeMap::new() }, inbound_connection_pool: pool() }
    }

    fn whole_routes() -> VirtualServiceSpec {
        let text = || Some(String::new());
        let destination = Destination { host: String::new(), port: PortSelector { number: 1 } };
        VirtualServiceSpec {
            export_to: vec!["a".to_owned()],
            hosts: Vec::new(),
            http: vec![HttpRoute {
                name: String::new(),
                matches: vec![RouteMatch { port: 1, method: Some(ExactMatch { exact: "GET" }) }],
                route: vec![RouteDestination { destination }],
                timeout: text(),
                retries: Some(HttpRetry { attempts: 1, retry_on: text(), per_try_timeout: text(), backoff: text() }),
            }],
        }
    }

    #[test]
    fn the_list_has_every_field_that_the_written_types_have_and_no_other() {
        let rule = serde_json::to_value(whole_rule()).unwrap();
        let routes = serde_json::to_value(whole_routes()).unwrap();
        let sidecar = serde_json::to_value(whole_sidecar()).unwrap();
        for (kind, whole) in [(Kind::Sidecar, sidecar), (Kind::DestinationRule, rule), (Kind::VirtualService, routes)] {
            let mut found = BTreeSet::new();
            paths(&whole, "", &mut found);
            let listed: BTreeSet<String> = written_fields(kind).iter().map(|field| field.path.clone()).collect();
            assert_eq!(found, listed, "{kind}");
        }
    }
}
