//! Every generated value with its origin, in the order of the API.

use super::valid::{Policy, Valid};
use crate::{
    api::{Blocks, EffectiveValue, Ejection, LocalityFailover, Origin, ResilienceSpec, Retries, Timeouts},
    observed::ServiceView,
};

/// `routed`: routes are ours; otherwise what stands in them is not listed. Neither is what stands in none,
/// nor a threshold that Istio switches off (RES019).
pub(super) fn effective(
    spec: &ResilienceSpec,
    valid: &Valid,
    service: Option<&ServiceView>,
    routed: bool,
) -> Vec<EffectiveValue> {
    let common = spec.blocks();
    let near = service.is_some_and(|service| service.prefers_near);
    let mut list = List { prefix: String::new(), own: &common, base: None, near, values: Vec::new() };
    let common_route = service.is_none() || valid.routes.iter().any(|port| !valid.ports.contains_key(port));
    list.limits(&valid.common);
    list.server(spec);
    list.policy(&valid.common, routed && common_route);
    let mut values = list.values;
    for entry in &spec.ports {
        let Some(policy) = valid.ports.get(&entry.port) else { continue };
        let own = entry.blocks();
        let prefix = format!("ports[{}].", entry.port);
        let mut list = List { prefix, own: &own, base: Some(&common), near, values };
        let routed = routed && valid.routes.contains(&entry.port);
        list.limits(policy);
        list.policy(policy, routed);
        values = list.values;
    }
    values
}

/// Values of one port, or of all, and where each comes from.
struct List<'a> {
    prefix: String,
    /// What the entry itself says.
    own: &'a Blocks,
    /// What it inherits from.
    base: Option<&'a Blocks>,
    /// The Service prefers near endpoints.
    near: bool,
    values: Vec<EffectiveValue>,
}

impl List<'_> {
    /// A value, if there is one. `set` tells whether blocks say it; `unset` is the origin if none does.
    fn add(&mut self, path: &str, value: Option<impl std::fmt::Display>, set: fn(&Blocks) -> bool, unset: Origin) {
        let Some(value) = value else { return };
        let origin = if set(self.own) {
            Origin::Spec
        } else if self.base.is_some_and(set) {
            Origin::Inherited
        } else {
            unset
        };
        self.values.push(EffectiveValue { path: format!("{}{path}", self.prefix), value: value.to_string(), origin });
    }

    /// A value that only blocks can say.
    fn said(&mut self, path: &str, value: Option<impl std::fmt::Display>, set: fn(&Blocks) -> bool) {
        self.add(path, value, set, Origin::Default);
    }

    fn limits(&mut self, policy: &Policy) {
        let limits = &policy.limits;
        self.said("limits.perClient.connections", limits.connections, |b| per_client(b, |l| l.connections.is_some()));
        self.said("limits.perClient.pendingRequests", limits.pending_requests, |b| {
            per_client(b, |l| l.pending_requests.is_some())
        });
        self.said("limits.perClient.activeRequests", limits.active_requests, |b| {
            per_client(b, |l| l.active_requests.is_some())
        });
        self.said("limits.perClient.requestsPerConnection", limits.requests_per_connection, |b| {
            per_client(b, |l| l.requests_per_connection.is_some())
        });
        self.said("limits.perClient.concurrentRetries", limits.concurrent_retries, |b| {
            per_client(b, |l| l.concurrent_retries.is_some())
        });
    }

    /// What each server's own proxy takes.
    fn server(&mut self, spec: &ResilienceSpec) {
        let Some(server) = spec.limits.as_ref().and_then(|limits| limits.per_server.as_ref()) else { return };
        let mut said = |field: &str, value: Option<String>| {
            let Some(value) = value else { return };
            self.values.push(EffectiveValue { path: format!("limits.perServer.{field}"), value, origin: Origin::Spec });
        };
        said("mode", Some(server.mode.name().to_owned()));
        said("connections", server.connections.map(|value| value.to_string()));
        said("pendingRequests", server.pending_requests.map(|value| value.to_string()));
        said("activeRequests", server.active_requests.map(|value| value.to_string()));
        said("requestsPerConnection", server.requests_per_connection.map(|value| value.to_string()));
    }

    fn policy(&mut self, policy: &Policy, routed: bool) {
        self.ejection(policy);
        let timeouts = &policy.timeouts;
        self.said("timeouts.connect", timeouts.connect.as_ref(), |b| timeout(b, |t| t.connect.is_some()));
        if routed {
            self.said("timeouts.request", timeouts.request.as_ref(), |b| timeout(b, |t| t.request.is_some()));
        }
        self.said("timeouts.idle", timeouts.idle.as_ref(), |b| timeout(b, |t| t.idle.is_some()));
        self.said("timeouts.lifetime", timeouts.lifetime.as_ref(), |b| timeout(b, |t| t.lifetime.is_some()));
        if routed {
            self.retries(policy);
        }
        let budget = policy.retries.as_ref().and_then(|retries| retries.budget);
        self.said("retries.budget.percent", budget.map(|budget| budget.percent), |b| retry(b, |r| r.budget.is_some()));
        self.said("retries.budget.minConcurrency", budget.map(|budget| budget.min_concurrency), |b| {
            retry(b, |r| r.budget.as_ref().is_some_and(|budget| budget.min_concurrency.is_some()))
        });
    }

    fn ejection(&mut self, policy: &Policy) {
        let Some(resolved) = &policy.ejection else { return };
        self.said("ejection.consecutive5xx", Some(resolved.consecutive_5xx), |b| {
            ejection(b, |e| e.consecutive_5xx.is_some())
        });
        self.said("ejection.consecutiveGateway", Some(resolved.consecutive_gateway), |b| {
            ejection(b, |e| e.consecutive_gateway.is_some())
        });
        self.said("ejection.consecutiveLocalOrigin", resolved.consecutive_local_origin, |b| {
            ejection(b, |e| e.consecutive_local_origin.is_some())
        });
        self.said("ejection.interval", Some(&resolved.interval), |b| ejection(b, |e| e.interval.is_some()));
        self.said("ejection.baseTime", Some(&resolved.base_time), |b| ejection(b, |e| e.base_time.is_some()));
        let counted = if resolved.counted { Origin::Endpoints } else { Origin::Default };
        self.add(
            "ejection.maxPercent",
            Some(resolved.max_percent),
            |b| ejection(b, |e| e.max_percent.is_some()),
            counted,
        );
        let threshold = resolved.min_healthy_percent.filter(|percent| !self.near || *percent == 0);
        self.said("ejection.minHealthyPercent", threshold, |b| ejection(b, |e| e.min_healthy_percent.is_some()));
        self.said("ejection.localityFailover", resolved.locality_failover.map(LocalityFailover::name), |b| {
            ejection(b, |e| e.locality_failover.is_some())
        });
    }

    fn retries(&mut self, policy: &Policy) {
        let Some(resolved) = &policy.retries else { return };
        self.said("retries.attempts", Some(resolved.attempts), |b| retry(b, |r| r.attempts.is_some()));
        self.said("retries.retryOn", joined(resolved.retry_on.iter().map(|on| on.name().to_owned())), |b| {
            retry(b, |r| r.retry_on.is_some())
        });
        self.said("retries.statusCodes", joined(resolved.status_codes.iter().map(ToString::to_string)), |b| {
            retry(b, |r| r.status_codes.is_some())
        });
        self.said("retries.methods", joined(resolved.methods.iter().map(|method| method.name().to_owned())), |b| {
            retry(b, |r| r.methods.is_some())
        });
        self.said("retries.perTryTimeout", resolved.per_try_timeout.as_ref(), |b| {
            retry(b, |r| r.per_try_timeout.is_some())
        });
        self.said("retries.backoff", resolved.backoff.as_ref(), |b| retry(b, |r| r.backoff.is_some()));
    }
}

fn joined(words: impl Iterator<Item = String>) -> Option<String> {
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn per_client(blocks: &Blocks, set: fn(&crate::api::PerClientLimits) -> bool) -> bool {
    blocks.limits.as_ref().and_then(|limits| limits.per_client.as_ref()).is_some_and(set)
}

fn ejection(blocks: &Blocks, set: fn(&Ejection) -> bool) -> bool {
    blocks.ejection.as_ref().is_some_and(set)
}

fn timeout(blocks: &Blocks, set: fn(&Timeouts) -> bool) -> bool {
    blocks.timeouts.as_ref().is_some_and(set)
}

fn retry(blocks: &Blocks, set: fn(&Retries) -> bool) -> bool {
    blocks.retries.as_ref().is_some_and(set)
}
