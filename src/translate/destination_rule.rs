//! Limits, ejection and connect timeout as a DestinationRule.

use super::metadata;
use crate::{
    istio::{
        ConnectionPool, DestinationRule, DestinationRuleSpec, HttpPool, Kind, OutlierDetection, TcpPool, TrafficPolicy,
    },
    names,
    validate::{ResolvedEjection, Valid},
};

/// `None` if nothing of the policy belongs there: Istio refuses an empty traffic policy.
pub(super) fn build(valid: &Valid) -> Option<DestinationRule> {
    let connection_pool = connection_pool(valid);
    let outlier_detection = valid.ejection.as_ref().map(outlier_detection);
    if connection_pool.is_none() && outlier_detection.is_none() {
        return None;
    }
    Some(DestinationRule {
        api_version: names::ISTIO_API_VERSION,
        kind: Kind::DestinationRule.as_str(),
        metadata: metadata(valid),
        spec: DestinationRuleSpec {
            host: valid.host.clone(),
            traffic_policy: TrafficPolicy { connection_pool, outlier_detection },
        },
    })
}

fn connection_pool(valid: &Valid) -> Option<ConnectionPool> {
    let limits = valid.limits.clone().unwrap_or_default();
    let tcp = TcpPool {
        max_connections: limits.connections,
        connect_timeout: valid.connect_timeout.as_ref().map(ToString::to_string),
    };
    let http = HttpPool {
        http1_max_pending_requests: limits.pending_requests,
        http2_max_requests: limits.active_requests,
        max_requests_per_connection: limits.requests_per_connection,
        max_retries: limits.concurrent_retries,
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
    }
}
