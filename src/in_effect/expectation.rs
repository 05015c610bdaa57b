//! What a policy wants of the proxies that call its target.

use std::collections::BTreeMap;

use crate::{
    api::{Duration, PerClientLimits},
    istio::Kind,
    names,
    observed::proxies::{Origin, Values},
    translate::translate,
    validate::{Policy, Valid},
};

/// What a proxy that holds the host has if the policy is in effect there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// Fully qualified.
    pub host: String,
    /// The rule that its clusters are made from; `None`: the policy has none.
    pub rule: Option<Origin>,
    /// Where its routes come from, likewise.
    pub routes: Option<Origin>,
    /// What the clusters of ports without an entry have.
    pub common: Values,
    /// What those of ports with an entry have.
    pub ports: BTreeMap<u16, Values>,
    /// What the routes of a port have.
    pub routed: BTreeMap<u16, Values>,
}

impl Expectation {
    /// What follows from a policy that is programmed.
    #[must_use]
    pub fn of(valid: &Valid) -> Self {
        let desired = translate(valid);
        let origin = |kind: Kind, name: String| Origin {
            kind: kind.as_str().to_owned(),
            namespace: valid.owner.namespace.clone(),
            name,
        };
        let created = desired.destination_rule.as_ref().map(|rule| rule.metadata.name.clone());
        let shared = desired.merged.as_ref().map(|blocks| blocks.metadata.name.clone());
        let routed = desired.virtual_service.iter().flat_map(|_| &valid.routes);
        Self {
            host: valid.host.clone(),
            rule: created.or(shared).map(|name| origin(Kind::DestinationRule, name)),
            routes: desired
                .virtual_service
                .is_some()
                .then(|| origin(Kind::VirtualService, names::generated_name(&valid.target))),
            common: rule_values(&valid.common),
            ports: valid.ports.iter().map(|(port, policy)| (*port, rule_values(policy))).collect(),
            routed: routed.map(|port| (*port, route_values(valid.of_port(*port)))).collect(),
        }
    }

    /// Whether there is nothing that a proxy of a client could have.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rule.is_none() && self.routes.is_none()
    }

    /// What a cluster of that port has.
    pub(super) fn of_port(&self, port: u16) -> &Values {
        self.ports.get(&port).unwrap_or(&self.common)
    }

    /// What the routes of that port have; `None`: the policy has none for it.
    pub(super) fn of_routes(&self, port: u16) -> Option<&Values> {
        self.routed.get(&port)
    }
}

fn time(duration: &Duration) -> Option<String> {
    duration.as_millis().map(|millis| format!("{millis}ms"))
}

fn rule_values(policy: &Policy) -> Values {
    let PerClientLimits { connections, pending_requests, active_requests, requests_per_connection, concurrent_retries } =
        &policy.limits;
    let text = |number: Option<i32>| number.map(|number| number.to_string());
    let budget = policy.retries.as_ref().and_then(|retries| retries.budget);
    let mut values = vec![
        ("limits.perClient.connections", text(*connections)),
        ("limits.perClient.pendingRequests", text(*pending_requests)),
        ("limits.perClient.activeRequests", text(*active_requests)),
        ("limits.perClient.requestsPerConnection", text(*requests_per_connection)),
        ("limits.perClient.concurrentRetries", text(*concurrent_retries)),
        ("retries.budget.percent", budget.map(|budget| budget.percent.to_string())),
        ("timeouts.connect", policy.timeouts.connect.as_ref().and_then(time)),
    ];
    if let Some(ejection) = &policy.ejection {
        values.extend([
            ("ejection.consecutive5xx", Some(ejection.consecutive_5xx.to_string())),
            ("ejection.consecutiveGateway", Some(ejection.consecutive_gateway.to_string())),
            ("ejection.consecutiveLocalOrigin", ejection.consecutive_local_origin.map(|number| number.to_string())),
            ("ejection.interval", time(&ejection.interval)),
            ("ejection.baseTime", time(&ejection.base_time)),
            ("ejection.maxPercent", Some(ejection.max_percent.to_string())),
        ]);
    }
    values.into_iter().filter_map(|(path, value)| Some((path, value?))).collect()
}

/// Of a port whose methods differ, those of the first route, which is the one that tries again.
fn route_values(policy: &Policy) -> Values {
    let timeout = policy.timeouts.request.as_ref().and_then(time);
    let attempts = policy.retries.as_ref().map(|retries| retries.attempts.to_string());
    let values = [("timeouts.request", timeout), ("retries.attempts", attempts)];
    values.into_iter().filter_map(|(path, value)| Some((path, value?))).collect()
}
