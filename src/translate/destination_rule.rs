//! Limits, ejection, times of connections and retry budget as a DestinationRule.

use super::metadata;
use crate::{
    api::LocalityFailover,
    istio::{
        ConnectionPool, DestinationRule, DestinationRuleSpec, HttpPool, Kind, LoadBalancer, LocalityLbSetting,
        MergedBlocks, MergedMetadata, MergedSpec, OutlierDetection, PortPolicy, PortSelector, RetryBudget, TcpPool,
        TrafficPolicy,
    },
    names,
    validate::{Merge, Policy, ResolvedEjection, Valid},
};

/// `None` if nothing of the policy belongs there: Istio refuses an empty traffic policy.
pub(super) fn build(valid: &Valid) -> Option<DestinationRule> {
    let common = traffic_policy(&valid.common);
    // An entry takes the place of the whole top level for its port (measured M55), also with the blocks
    // that it leaves out: so it is written only where something differs, and then whole.
    let ports = valid.ports.iter().filter_map(|(port, policy)| {
        let own = port_policy(*port, policy);
        (own != port_policy(*port, &valid.common)).then_some(own)
    });
    let policy = TrafficPolicy { port_level_settings: ports.collect(), ..common };
    if policy == TrafficPolicy::default() {
        return None;
    }
    Some(DestinationRule {
        api_version: names::ISTIO_API_VERSION,
        kind: Kind::DestinationRule.as_str(),
        metadata: metadata(valid),
        spec: DestinationRuleSpec { host: valid.host.clone(), traffic_policy: policy },
    })
}

/// The blocks of the policy for somebody else's rule; `None` as with [`build`].
pub(super) fn blocks(valid: &Valid, merge: &Merge) -> Option<MergedBlocks> {
    // Locality and ports were refused: their places in a rule are not for two.
    let policy = TrafficPolicy { load_balancer: None, ..traffic_policy(&valid.common) };
    if policy == TrafficPolicy::default() {
        return None;
    }
    let uid = valid.owner.uid.iter().map(|uid| (names::LABEL_CO_OWNER_UID.to_owned(), uid.clone()));
    let name = [(names::ANNOTATION_CO_OWNER.to_owned(), valid.owner.name.clone())];
    Some(MergedBlocks {
        api_version: names::ISTIO_API_VERSION,
        kind: Kind::DestinationRule.as_str(),
        metadata: MergedMetadata {
            name: merge.name.clone(),
            namespace: valid.owner.namespace.clone(),
            labels: uid.collect(),
            annotations: name.into(),
        },
        spec: MergedSpec { traffic_policy: policy },
    })
}

fn traffic_policy(policy: &Policy) -> TrafficPolicy {
    // `tcp.idleTimeout` is taken for HTTP as well where `http.idleTimeout` is not set (claim R3.1a).
    let connection_pool = connection_pool(policy, Scope::All);
    let budget = policy.retries.as_ref().and_then(|retries| retries.budget);
    TrafficPolicy {
        connection_pool,
        outlier_detection: policy.ejection.as_ref().map(outlier_detection),
        load_balancer: load_balancer(policy),
        retry_budget: budget
            .map(|budget| RetryBudget { percent: budget.percent, min_retry_concurrency: budget.min_concurrency }),
        port_level_settings: Vec::new(),
    }
}

fn port_policy(port: u16, policy: &Policy) -> PortPolicy {
    PortPolicy {
        port: PortSelector { number: port },
        connection_pool: connection_pool(policy, Scope::Port),
        outlier_detection: policy.ejection.as_ref().map(outlier_detection),
        load_balancer: load_balancer(policy),
    }
}

/// Which half of `connectionPool` carries the idle time: that of TCP acts on listeners as well, which
/// read the top level alone (istio `pilot/pkg/networking/core/networkfilter.go`; claim R3.1b).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Port,
}

fn connection_pool(policy: &Policy, scope: Scope) -> Option<ConnectionPool> {
    let (limits, timeouts) = (&policy.limits, &policy.timeouts);
    let idle = |of: Scope| timeouts.idle.as_ref().filter(|_| scope == of).map(ToString::to_string);
    let tcp = TcpPool {
        max_connections: limits.connections,
        connect_timeout: timeouts.connect.as_ref().map(ToString::to_string),
        idle_timeout: idle(Scope::All),
        max_connection_duration: timeouts.lifetime.as_ref().map(ToString::to_string),
    };
    let http = HttpPool {
        http1_max_pending_requests: limits.pending_requests,
        http2_max_requests: limits.active_requests,
        max_requests_per_connection: limits.requests_per_connection,
        max_retries: limits.concurrent_retries,
        idle_timeout: idle(Scope::Port),
    };
    let tcp = (tcp != TcpPool::default()).then_some(tcp);
    let http = (http != HttpPool::default()).then_some(http);
    (tcp.is_some() || http.is_some()).then_some(ConnectionPool { tcp, http })
}

fn outlier_detection(ejection: &ResolvedEjection) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx_errors: ejection.consecutive_5xx,
        consecutive_gateway_errors: ejection.consecutive_gateway,
        split_external_local_origin_errors: ejection.consecutive_local_origin.map(|_| true),
        consecutive_local_origin_failures: ejection.consecutive_local_origin,
        interval: ejection.interval.to_string(),
        base_ejection_time: ejection.base_time.to_string(),
        max_ejection_percent: ejection.max_percent,
        min_health_percent: ejection.min_healthy_percent,
    }
}

fn load_balancer(policy: &Policy) -> Option<LoadBalancer> {
    let failover = policy.ejection.as_ref().and_then(|ejection| ejection.locality_failover);
    (failover == Some(LocalityFailover::Disabled))
        .then_some(LoadBalancer { locality_lb_setting: LocalityLbSetting { enabled: false } })
}
