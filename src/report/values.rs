//! Every value that is in force for a policy's target, also where the policy says nothing.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::EffectiveValue,
    observed::PortView,
    validate::{Policy, Valid},
};

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueLine {
    /// The port that it is for; null: every port without values of its own.
    pub port: Option<u16>,
    /// Path of the field, from `spec` or from the port's entry.
    pub path: String,
    /// The value, as text.
    pub value: String,
    /// Who chose it.
    pub origin: Origin,
}

/// Who chose a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Origin {
    /// The spec says so.
    Spec,
    /// A port's entry leaves it out, and the blocks for all ports say so.
    Inherited,
    /// The spec leaves it out and this is our fill-in.
    Default,
    /// The spec leaves it out and it follows the number of endpoints.
    Endpoints,
    /// Nothing is declared, and this is what istiod programs then.
    Istio,
    /// Nothing is declared, istiod programs nothing, and this is what Envoy does then.
    Envoy,
    /// Somebody else's VirtualService has the routes of the host.
    Others,
}

impl Origin {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Spec => "Spec",
            Self::Inherited => "Inherited",
            Self::Default => "Default",
            Self::Endpoints => "Endpoints",
            Self::Istio => "Istio's default",
            Self::Envoy => "Envoy's default",
            Self::Others => "another VirtualService",
        }
    }
}

impl From<crate::api::Origin> for Origin {
    fn from(origin: crate::api::Origin) -> Self {
        match origin {
            crate::api::Origin::Spec => Self::Spec,
            crate::api::Origin::Inherited => Self::Inherited,
            crate::api::Origin::Default => Self::Default,
            crate::api::Origin::Endpoints => Self::Endpoints,
        }
    }
}

/// What holds where nothing is declared.
struct Unset {
    /// The field.
    path: &'static str,
    value: &'static str,
    origin: Origin,
    /// Part of a route, so that it takes an HTTP port, and nobody else's VirtualService.
    routed: bool,
    /// Whether the policy leaves it open.
    open: fn(&Policy) -> bool,
}

/// What stands there where a policy does not state the server's side.
const SERVER_SIDE: &str = "limits.perServer";

/// Whether Istio puts limits of clients on servers' own proxies too (measured M9).
const fn limits_servers(policy: &Policy) -> bool {
    let limits = &policy.limits;
    limits.connections.is_some() || limits.pending_requests.is_some() || limits.active_requests.is_some()
}

/// Istio 1.31 with its default mesh configuration, in the order of the API.
///
/// Limits: `getDefaultCircuitBreakerThresholds` writes 4294967295 for each (istio
/// `pilot/pkg/networking/core/cluster_traffic_policy.go`). Connect: `ConnectTimeout`
/// (`pkg/config/mesh/mesh.go`). Retries: `cachedDefaultPolicy` (`.../core/route/retry/retry.go`, measured
/// M16); its `retriable-status-codes` comes without codes and means nothing. The rest Envoy decides.
const UNSET: &[Unset] = &[
    Unset {
        path: "limits.perClient.connections",
        value: "unlimited",
        origin: Origin::Istio,
        routed: false,
        open: |policy| policy.limits.connections.is_none(),
    },
    Unset {
        path: "limits.perClient.pendingRequests",
        value: "unlimited",
        origin: Origin::Istio,
        routed: false,
        open: |policy| policy.limits.pending_requests.is_none(),
    },
    Unset {
        path: "limits.perClient.activeRequests",
        value: "unlimited",
        origin: Origin::Istio,
        routed: false,
        open: |policy| policy.limits.active_requests.is_none(),
    },
    Unset {
        path: "limits.perClient.requestsPerConnection",
        value: "unlimited",
        origin: Origin::Envoy,
        routed: false,
        open: |policy| policy.limits.requests_per_connection.is_none(),
    },
    Unset {
        path: "limits.perClient.concurrentRetries",
        value: "unlimited",
        origin: Origin::Istio,
        routed: false,
        // A budget takes its place.
        open: |policy| {
            policy.limits.concurrent_retries.is_none()
                && policy.retries.as_ref().is_none_or(|retries| retries.budget.is_none())
        },
    },
    Unset {
        path: SERVER_SIDE,
        value: "perClient's, from all clients together",
        origin: Origin::Istio,
        routed: false,
        open: limits_servers,
    },
    Unset {
        path: SERVER_SIDE,
        value: "unlimited",
        origin: Origin::Istio,
        routed: false,
        open: |policy| !limits_servers(policy),
    },
    Unset {
        path: "ejection",
        value: "none: a failing endpoint stays in",
        origin: Origin::Istio,
        routed: false,
        open: |policy| policy.ejection.is_none(),
    },
    Unset {
        path: "timeouts.connect",
        value: "10s",
        origin: Origin::Istio,
        routed: false,
        open: |policy| policy.timeouts.connect.is_none(),
    },
    Unset {
        path: "timeouts.request",
        value: "none",
        origin: Origin::Istio,
        routed: true,
        open: |policy| policy.timeouts.request.is_none(),
    },
    Unset {
        path: "timeouts.idle",
        value: "1h",
        origin: Origin::Envoy,
        routed: false,
        open: |policy| policy.timeouts.idle.is_none(),
    },
    Unset {
        path: "timeouts.lifetime",
        value: "unlimited",
        origin: Origin::Envoy,
        routed: false,
        open: |policy| policy.timeouts.lifetime.is_none(),
    },
    Unset {
        path: "retries.attempts",
        value: "2",
        origin: Origin::Istio,
        routed: true,
        open: |policy| policy.retries.is_none(),
    },
    Unset {
        path: "retries.retryOn",
        value: "ConnectFailure, RefusedStream, Unavailable, Cancelled",
        origin: Origin::Istio,
        routed: true,
        open: |policy| policy.retries.is_none(),
    },
    Unset {
        path: "retries.perTryTimeout",
        value: "none",
        origin: Origin::Envoy,
        routed: true,
        open: |policy| retrying(policy).is_none_or(|retries| retries.per_try_timeout.is_none()),
    },
    Unset {
        path: "retries.backoff",
        value: "25ms",
        origin: Origin::Envoy,
        routed: true,
        open: |policy| retrying(policy).is_none_or(|retries| retries.backoff.is_none()),
    },
];

/// Retries that are declared and on.
fn retrying(policy: &Policy) -> Option<&crate::validate::ResolvedRetries> {
    policy.retries.as_ref().filter(|retries| retries.attempts > 0)
}

/// Every value of a valid policy. `others_routes`: somebody else's VirtualService has the host.
pub(super) fn values(valid: &Valid, ports: &[PortView], others_routes: bool) -> Vec<ValueLine> {
    let declared: Vec<ValueLine> = valid.effective.iter().map(declared).collect();
    let of = |port: Option<u16>| declared.iter().filter(move |line| line.port == port).cloned().collect();
    let mut lines = with_unset(of(None), None, &valid.common, any_http(ports), others_routes);
    for (port, policy) in &valid.ports {
        let http = ports.iter().any(|view| view.number == *port && view.protocol.is_http());
        lines.extend(with_unset(of(Some(*port)), Some(*port), policy, http, others_routes));
    }
    if valid.server.is_some() {
        lines.retain(|line| line.path != SERVER_SIDE);
    }
    lines
}

fn any_http(ports: &[PortView]) -> bool {
    ports.iter().any(|port| port.protocol.is_http())
}

/// What is in force for a target that nothing of Istio speaks of.
pub(super) fn unset_alone(ports: &[PortView]) -> Vec<ValueLine> {
    with_unset(Vec::new(), None, &Policy::default(), any_http(ports), false)
}

/// A value of the status, its port apart.
pub(super) fn declared(value: &EffectiveValue) -> ValueLine {
    let port = value.path.strip_prefix("ports[").and_then(|rest| rest.split_once("]."));
    let (port, path) = match port.and_then(|(port, path)| Some((port.parse().ok()?, path))) {
        Some((port, path)) => (Some(port), path),
        None => (None, value.path.as_str()),
    };
    ValueLine { port, path: path.to_owned(), value: value.value.clone(), origin: value.origin.into() }
}

/// Declared values, and between them, in the order of the API, what holds where nothing is declared.
fn with_unset(
    declared: Vec<ValueLine>,
    port: Option<u16>,
    policy: &Policy,
    http: bool,
    others_routes: bool,
) -> Vec<ValueLine> {
    let mut lines = declared;
    let off = policy.retries.as_ref().is_some_and(|retries| retries.attempts == 0);
    for unset in UNSET {
        let said = lines.iter().any(|line| line.path == unset.path);
        let void = unset.routed && (!http || (off && unset.path.starts_with("retries.") && !others_routes));
        // Declared for a route that another has: the other decides.
        let taken = unset.routed && others_routes;
        if said || void || !(taken || (unset.open)(policy)) {
            continue;
        }
        if taken && unset.path != "timeouts.request" && unset.path != "retries.attempts" {
            continue;
        }
        let (value, origin) =
            if taken { ("what it says".to_owned(), Origin::Others) } else { (unset.value.to_owned(), unset.origin) };
        lines.push(ValueLine { port, path: unset.path.to_owned(), value, origin });
    }
    lines.sort_by_key(|line| position(&line.path));
    lines
}

/// Where a field stands in the API.
fn position(path: &str) -> usize {
    const ORDER: &[&str] = &["limits", SERVER_SIDE, "ejection", "timeouts", "retries"];
    const FIELDS: &[&str] = &[
        "mode",
        "connections",
        "pendingRequests",
        "activeRequests",
        "requestsPerConnection",
        "concurrentRetries",
        "consecutive5xx",
        "consecutiveGateway",
        "consecutiveLocalOrigin",
        "interval",
        "baseTime",
        "maxPercent",
        "minHealthyPercent",
        "localityFailover",
        "connect",
        "request",
        "idle",
        "lifetime",
        "attempts",
        "retryOn",
        "statusCodes",
        "methods",
        "perTryTimeout",
        "backoff",
        "percent",
        "minConcurrency",
    ];
    let block = if path.starts_with(SERVER_SIDE) { SERVER_SIDE } else { path.split('.').next().unwrap_or_default() };
    let field = path.rsplit('.').next().unwrap_or_default();
    let index = |list: &[&str], word: &str| list.iter().position(|one| *one == word).unwrap_or(list.len());
    index(ORDER, block) * (FIELDS.len() + 1) + index(FIELDS, field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::Protocol;

    #[test]
    fn a_value_of_a_port_is_told_under_its_port() {
        let value = |path: &str| EffectiveValue {
            path: path.to_owned(),
            value: "3s".to_owned(),
            origin: crate::api::Origin::Inherited,
        };
        let line = declared(&value("ports[9000].timeouts.request"));
        assert_eq!((line.port, line.path.as_str(), line.origin), (Some(9000), "timeouts.request", Origin::Inherited));
        assert_eq!(declared(&value("timeouts.request")).port, None);
    }

    #[test]
    fn where_nothing_is_declared_every_default_is_told_in_the_order_of_the_api() {
        let http = [PortView { number: 80, protocol: Protocol::Http }];
        let lines = unset_alone(&http);
        let paths: Vec<&str> = lines.iter().map(|line| line.path.as_str()).collect();
        let mut all: Vec<&str> = UNSET.iter().map(|unset| unset.path).collect();
        all.dedup();
        assert_eq!(paths, all);
        let opaque = [PortView { number: 5432, protocol: Protocol::Opaque }];
        assert!(unset_alone(&opaque).iter().all(|line| line.path != "retries.attempts"), "a TCP port has no retries");
    }
}
