//! What of a policy asks for a field of what is generated.

use crate::{
    api::{EffectiveValue, Origin},
    diff::Change,
    istio::Kind,
};

/// Fields of `inboundConnectionPool`, as [`FIELDS`].
const OF_SERVERS: &[(&str, &str)] = &[
    ("tcp.maxConnections", "limits.perServer.connections"),
    ("http.http1MaxPendingRequests", "limits.perServer.pendingRequests"),
    ("http.http2MaxRequests", "limits.perServer.activeRequests"),
    ("http.maxRequestsPerConnection", "limits.perServer.requestsPerConnection"),
    ("tcp.connectTimeout", "timeouts.connect"),
    ("tcp.idleTimeout", "timeouts.idle"),
    ("tcp.maxConnectionDuration", "timeouts.lifetime"),
    ("", "limits.perServer"),
];

/// Fields of `trafficPolicy`, and the field of the policy that each stands for.
const FIELDS: &[(&str, &str)] = &[
    ("connectionPool.tcp.maxConnections", "limits.perClient.connections"),
    ("connectionPool.http.http1MaxPendingRequests", "limits.perClient.pendingRequests"),
    ("connectionPool.http.http2MaxRequests", "limits.perClient.activeRequests"),
    ("connectionPool.http.maxRequestsPerConnection", "limits.perClient.requestsPerConnection"),
    ("connectionPool.http.maxRetries", "limits.perClient.concurrentRetries"),
    ("connectionPool.tcp.connectTimeout", "timeouts.connect"),
    ("connectionPool.tcp.idleTimeout", "timeouts.idle"),
    ("connectionPool.http.idleTimeout", "timeouts.idle"),
    ("connectionPool.tcp.maxConnectionDuration", "timeouts.lifetime"),
    ("connectionPool", "limits.perClient, timeouts"),
    ("outlierDetection.consecutive5xxErrors", "ejection.consecutive5xx"),
    ("outlierDetection.consecutiveGatewayErrors", "ejection.consecutiveGateway"),
    ("outlierDetection.splitExternalLocalOriginErrors", "ejection.consecutiveLocalOrigin"),
    ("outlierDetection.consecutiveLocalOriginFailures", "ejection.consecutiveLocalOrigin"),
    ("outlierDetection.interval", "ejection.interval"),
    ("outlierDetection.baseEjectionTime", "ejection.baseTime"),
    ("outlierDetection.maxEjectionPercent", "ejection.maxPercent"),
    ("outlierDetection.minHealthPercent", "ejection.minHealthyPercent"),
    ("outlierDetection", "ejection"),
    ("loadBalancer.localityLbSetting", "ejection.localityFailover"),
    ("retryBudget.percent", "retries.budget.percent"),
    ("retryBudget.minRetryConcurrency", "retries.budget.minConcurrency"),
    ("retryBudget", "retries.budget"),
    ("portLevelSettings", "ports"),
];

/// Where in `trafficPolicy` a field of the policy stands, as a pointer; a block before its fields.
pub(super) fn places(field: &str) -> impl Iterator<Item = String> {
    let places = FIELDS.iter().rev().filter(move |(_, known)| *known == field);
    places.map(|(place, _)| format!("/trafficPolicy/{}", place.replace('.', "/")))
}

/// Why a generated object's field is as it is wanted.
pub(super) fn reason(kind: Kind, change: &Change, effective: &[EffectiveValue]) -> String {
    let path = change.path.join(".");
    if path.starts_with("metadata.") {
        return "says whose the object is".to_owned();
    }
    match (kind, path.as_str()) {
        (_, "spec.host" | "spec.hosts") => return "the host of the target".to_owned(),
        (Kind::Sidecar, path) if path.starts_with("spec.workloadSelector") => {
            return "the selector of the target".to_owned();
        }
        (Kind::VirtualService, "spec.exportTo") if change.want.is_some() => {
            return "not further than the target, and not where its host is another's".to_owned();
        }
        (Kind::VirtualService, "spec.http") => {
            return "timeouts.request, retries and the ports of the target".to_owned();
        }
        _ => {}
    }
    let (fields, inner) = match (path.strip_prefix("spec.inboundConnectionPool"), kind) {
        (Some(inner), Kind::Sidecar) => (OF_SERVERS, inner.trim_start_matches('.')),
        _ => (FIELDS, path.strip_prefix("spec.trafficPolicy.").unwrap_or_default()),
    };
    let below = |head: &str| {
        head.is_empty() || inner.strip_prefix(head).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let Some((_, field)) = fields.iter().find(|(head, _)| below(head)) else {
        return "not ours, and it would void the policy".to_owned();
    };
    if change.want.is_none() {
        return format!("{field}: the policy does not set it");
    }
    match effective.iter().find(|value| value.path == *field).map(|value| value.origin) {
        Some(Origin::Spec | Origin::Inherited) | None => format!("{field}, as the spec says"),
        Some(Origin::Default) => format!("{field}, our default"),
        Some(Origin::Endpoints) => format!("{field}, by the number of endpoints"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(kind: Kind, path: &str, want: Option<Value>) -> String {
        let value = |path: &str, origin| EffectiveValue { path: path.to_owned(), value: "50".to_owned(), origin };
        let effective = [value("ejection.maxPercent", Origin::Endpoints), value("ejection.interval", Origin::Default)];
        let change = Change { path: path.split('.').map(str::to_owned).collect(), have: None, want };
        reason(kind, &change, &effective)
    }

    #[test]
    fn a_field_is_told_by_the_policys_own_word_and_who_chose_it() {
        let rule = |field: &str| said(Kind::DestinationRule, &format!("spec.trafficPolicy.{field}"), Some(json!(1)));
        assert_eq!(rule("outlierDetection.maxEjectionPercent"), "ejection.maxPercent, by the number of endpoints");
        assert_eq!(rule("outlierDetection.interval"), "ejection.interval, our default");
        assert_eq!(rule("connectionPool.http.http2MaxRequests"), "limits.perClient.activeRequests, as the spec says");
        assert_eq!(rule("outlierDetection"), "ejection, as the spec says");
        assert_eq!(rule("portLevelSettings"), "ports, as the spec says");
    }

    #[test]
    fn what_a_server_takes_is_told_by_its_own_words() {
        let sidecar = |path: &str, want| said(Kind::Sidecar, path, want);
        let pool = |field: &str| sidecar(&format!("spec.inboundConnectionPool{field}"), Some(json!(1)));
        assert_eq!(pool(".http.http2MaxRequests"), "limits.perServer.activeRequests, as the spec says");
        assert_eq!(pool(".tcp.idleTimeout"), "timeouts.idle, as the spec says");
        assert_eq!(pool(""), "limits.perServer, as the spec says");
        assert_eq!(sidecar("spec.workloadSelector.labels.app", Some(json!("a"))), "the selector of the target");
        assert_eq!(sidecar("spec.egress", None), "not ours, and it would void the policy");
        assert_eq!(
            sidecar("spec.inboundConnectionPool.http.maxRetries", None),
            "limits.perServer: the policy does not set it"
        );
    }

    #[test]
    fn what_must_go_is_either_not_in_the_policy_or_against_it() {
        let pool = "spec.trafficPolicy.connectionPool.http.maxRetries";
        assert_eq!(
            said(Kind::DestinationRule, pool, None),
            "limits.perClient.concurrentRetries: the policy does not set it"
        );
        for void in ["spec.exportTo", "spec.trafficPolicy.tls", "spec.workloadSelector"] {
            assert_eq!(said(Kind::DestinationRule, void, None), "not ours, and it would void the policy", "{void}");
        }
    }
}
