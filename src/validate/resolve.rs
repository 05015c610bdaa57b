//! From what the spec says, field by field, to what holds for each port.

use std::collections::BTreeMap;

use super::{
    Violation,
    arithmetic::{default_max_percent, ejectable},
    valid::{Budget, Owner, Policy, ResolvedEjection, ResolvedRetries, ServerLimits, Valid},
};
use crate::{
    api::{
        Blocks, Duration, Ejection, PerServerLimits, PortEntry, ResilienceSpec, Retries, RetryOn, ServerMode,
        TargetKind, TargetRef,
    },
    istio::Protocol,
    observed::{Observed, ServiceView},
};

/// Unset `ejection.interval`.
const DEFAULT_INTERVAL: &str = "10s";
/// Unset `ejection.baseTime`.
const DEFAULT_BASE_TIME: &str = "30s";
/// Unset `retries.retryOn`: both mean that the request was not processed, so any method is safe.
const DEFAULT_RETRY_ON: [RetryOn; 2] = [RetryOn::ConnectFailure, RetryOn::RefusedStream];
/// Unset `retries.budget.minConcurrency`: Envoy's own (`retry_budget.min_retry_concurrency`).
const DEFAULT_MIN_CONCURRENCY: u32 = 3;
/// Unset `ejection.maxPercent` where endpoints cannot be counted: one of two can go, and never all.
const UNCOUNTED_MAX_PERCENT: u32 = 50;
/// `limits.perServer` in mode Unlimited: the most that Istio's `int32` can say. Said, since a pool without a
/// field is refused, and so that a reader sees it.
const UNLIMITED: i32 = i32::MAX;

/// Faults of blocks and ports that the schema cannot see: what a port has in the end, and what the
/// target's ports can carry.
pub(super) fn faults(spec: &ResilienceSpec, service: Option<&ServiceView>) -> Vec<Violation> {
    let common = spec.blocks();
    let mut violations = Vec::new();
    if service.is_some_and(|service| service.http_ports().is_empty()) {
        let target = spec.target_refs.first();
        let cure = match target.map(|target| target.kind) {
            Some(TargetKind::ServiceEntry) => "give one protocol HTTP",
            Some(TargetKind::Service) | None => "name one http-…, set its appProtocol",
        };
        let target = target.map(ToString::to_string).unwrap_or_default();
        let hint = format!("{target} has no HTTP port: {cure}, or leave this out");
        violations.extend(of_routes(&common, "spec", &hint));
    }
    for (index, entry) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let merged = entry.blocks().over(&common);
        violations.extend(merged_faults(entry, &merged, &path));
        let Some(service) = service else { continue };
        match service.ports.iter().find(|port| port.number == entry.port) {
            Some(port) if !port.protocol.is_http() => violations.extend(opaque_faults(entry, port.protocol, &path)),
            Some(_) => {}
            None => {
                let ports: Vec<String> = service.ports.iter().map(|port| port.number.to_string()).collect();
                let message = format!("{} is no port of the target, which has {}", entry.port, ports.join(", "));
                violations.push(Violation::new(format!("{path}.port"), message));
            }
        }
    }
    violations
}

/// What stands there of a request timeout and of retries.
fn of_routes(blocks: &Blocks, path: &str, message: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    if blocks.timeouts.as_ref().is_some_and(|timeouts| timeouts.request.is_some()) {
        violations.push(Violation::new(format!("{path}.timeouts.request"), message));
    }
    if blocks.retries.is_some() {
        violations.push(Violation::new(format!("{path}.retries"), message));
    }
    violations
}

/// The rules of whole blocks, which CEL holds for the spec, for what a port has in the end.
fn merged_faults(entry: &PortEntry, merged: &Blocks, path: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    if let Some(ejection) = &merged.ejection
        && !has_detector(ejection)
    {
        violations.push(Violation::new(
            format!("{path}.ejection"),
            "no detector is on for this port: set consecutive5xx, consecutiveGateway or consecutiveLocalOrigin above 0, here or in spec.ejection",
        ));
    }
    if let Some(retries) = &merged.retries {
        let own = entry.retries.clone().unwrap_or_default();
        if retries.attempts.is_none() {
            violations.push(Violation::new(
                format!("{path}.retries"),
                "needs attempts, here or in spec.retries: how many tries after the first; 0 for none",
            ));
        } else if retries.attempts == Some(0) && own.attempts.is_none() && own != Retries::default() {
            violations.push(Violation::new(
                format!("{path}.retries"),
                "takes attempts 0 from spec.retries, so nothing is tried again: set attempts here",
            ));
        }
        let millis = |duration: Option<&Duration>| duration.and_then(Duration::as_millis);
        let request = millis(merged.timeouts.as_ref().and_then(|timeouts| timeouts.request.as_ref()));
        let per_try = millis(retries.per_try_timeout.as_ref());
        if request.is_some_and(|request| per_try.is_some_and(|per_try| per_try >= request)) {
            violations.push(Violation::new(
                path,
                "retries.perTryTimeout must be shorter than timeouts.request, with what this port takes from spec: otherwise no try is ever repeated",
            ));
        }
    }
    violations
}

fn has_detector(ejection: &Ejection) -> bool {
    ejection.consecutive_5xx.unwrap_or(0) > 0
        || ejection.consecutive_gateway.unwrap_or(0) > 0
        || ejection.consecutive_local_origin.is_some()
}

/// An entry of a port whose requests proxies do not see.
fn opaque_faults(entry: &PortEntry, protocol: Protocol, path: &str) -> Vec<Violation> {
    if protocol == Protocol::Udp {
        return vec![Violation::new(format!("{path}.port"), "is UDP, which the mesh does not carry: leave it out")];
    }
    let hint = format!("port {} carries no HTTP that proxies see: leave this out", entry.port);
    let mut violations = of_routes(&entry.blocks(), path, &hint);
    let timeouts = entry.timeouts.clone().unwrap_or_default();
    for (field, set) in [("idle", timeouts.idle.is_some()), ("lifetime", timeouts.lifetime.is_some())] {
        if set {
            // istio `pilot/pkg/networking/core/networkfilter.go` reads the top level alone.
            violations.push(Violation::new(
                format!("{path}.timeouts.{field}"),
                format!(
                    "Istio knows no such time for a single port without HTTP: set spec.timeouts.{field} for all ports"
                ),
            ));
        }
    }
    violations
}

/// Decides every value. The host, and what neighbours leave of the routes, come later.
pub(super) fn resolve(
    spec: &ResilienceSpec,
    target: &TargetRef,
    service: Option<&ServiceView>,
    observed: &Observed,
    owner: Owner,
) -> Valid {
    let common = spec.blocks();
    let mut world = Here { service, observed, unknowns: Vec::new() };
    let ports = spec.ports.iter().enumerate().map(|(index, entry)| {
        let blocks = entry.blocks().over(&common);
        (entry.port, world.policy(&blocks, &format!("spec.ports[{index}]")))
    });
    let ports: BTreeMap<u16, Policy> = ports.collect();
    let common = world.policy(&common, "spec");
    let common_acts = service.is_none_or(|service| {
        service.ports.is_empty() || service.ports.iter().any(|port| !ports.contains_key(&port.number))
    });
    let mut valid = Valid {
        owner,
        mode: spec.mode,
        target: target.clone(),
        host: String::new(),
        endpoints: observed
            .sent(common.ejection.as_ref().and_then(|ejection| ejection.min_healthy_percent).unwrap_or(0)),
        server: spec
            .limits
            .as_ref()
            .and_then(|limits| limits.per_server.as_ref())
            .map(|limits| server(limits, service)),
        common,
        ports,
        common_acts,
        merge: None,
        export_to: Vec::new(),
        routes: Vec::new(),
        effective: Vec::new(),
        warnings: Vec::new(),
        unknowns: world.unknowns,
    };
    if let Some(service) = service {
        let http = service.http_ports().into_iter();
        valid.routes = http.filter(|port| valid.of_port(*port).wants_routes()).collect();
    } else {
        valid.unknowns.extend(ports_unknown(&valid));
        valid.unknowns.extend(valid.server.as_ref().map(|_| {
            Violation::new(
                "spec.limits.perServer",
                format!("needs the selector of {target}, which is not known here: add it to the files"),
            )
        }));
    }
    valid
}

fn ports_unknown(valid: &Valid) -> Vec<Violation> {
    let wants = |of: fn(&Policy) -> bool| valid.policies().any(of);
    let wanting = [
        ("spec.timeouts.request", wants(|policy| policy.timeouts.request.is_some())),
        ("spec.retries", wants(|policy| policy.retries.is_some())),
        ("spec.ports", !valid.ports.is_empty()),
    ];
    let unknown = |(path, _): &(&str, bool)| {
        Violation::new(
            *path,
            format!("needs the ports of {}, which is not known here: add it to the files", valid.target),
        )
    };
    wanting.iter().filter(|(_, wanted)| *wanted).map(unknown).collect()
}

struct Here<'a> {
    service: Option<&'a ServiceView>,
    observed: &'a Observed,
    unknowns: Vec<Violation>,
}

impl Here<'_> {
    fn policy(&mut self, blocks: &Blocks, path: &str) -> Policy {
        Policy {
            limits: blocks.limits.as_ref().and_then(|limits| limits.per_client.clone()).unwrap_or_default(),
            ejection: blocks.ejection.as_ref().map(|ejection| self.ejection(ejection, path)),
            timeouts: blocks.timeouts.clone().unwrap_or_default(),
            retries: blocks.retries.as_ref().map(retries),
        }
    }

    fn ejection(&mut self, ejection: &Ejection, path: &str) -> ResolvedEjection {
        let max_percent = ejection.max_percent.unwrap_or_else(|| self.max_percent(ejection, path));
        let endpoints = self.observed.sent(ejection.min_healthy_percent.unwrap_or(0));
        let picked = self.service.is_some_and(|service| service.discovery.client_picks());
        ResolvedEjection {
            endpoints,
            ejectable: endpoints.map(|endpoints| if picked { 0 } else { ejectable(endpoints, max_percent) }),
            consecutive_5xx: ejection.consecutive_5xx.unwrap_or(0),
            consecutive_gateway: ejection.consecutive_gateway.unwrap_or(0),
            consecutive_local_origin: ejection.consecutive_local_origin,
            interval: ejection.interval.clone().unwrap_or_else(|| Duration::new(DEFAULT_INTERVAL)),
            base_time: ejection.base_time.clone().unwrap_or_else(|| Duration::new(DEFAULT_BASE_TIME)),
            max_percent,
            counted: self.service.is_none_or(|service| service.discovery.is_countable()),
            min_healthy_percent: ejection.min_healthy_percent,
            locality_failover: ejection.locality_failover,
        }
    }

    fn max_percent(&mut self, ejection: &Ejection, path: &str) -> u32 {
        if self.service.is_some_and(|service| !service.discovery.is_countable()) {
            return UNCOUNTED_MAX_PERCENT;
        }
        let Some(endpoints) = self.observed.sent(ejection.min_healthy_percent.unwrap_or(0)) else {
            self.unknowns.push(Violation::new(
                format!("{path}.ejection.maxPercent"),
                "is not set, so it follows the number of endpoints, which is not known here: set it, add the Service's EndpointSlices, or say --endpoints N",
            ));
            return UNCOUNTED_MAX_PERCENT;
        };
        default_max_percent(endpoints)
    }
}

fn server(limits: &PerServerLimits, service: Option<&ServiceView>) -> ServerLimits {
    let PerServerLimits { mode, connections, pending_requests, active_requests, requests_per_connection } = limits;
    let open = (*mode == ServerMode::Unlimited).then_some(UNLIMITED);
    ServerLimits {
        mode: *mode,
        selector: service.map(|service| service.selector.clone()).unwrap_or_default(),
        connections: connections.or(open),
        pending_requests: pending_requests.or(open),
        active_requests: active_requests.or(open),
        requests_per_connection: *requests_per_connection,
    }
}

fn retries(retries: &Retries) -> ResolvedRetries {
    let attempts = retries.attempts.unwrap_or(0);
    let off = attempts == 0;
    ResolvedRetries {
        attempts,
        retry_on: if off { Vec::new() } else { retries.retry_on.clone().unwrap_or_else(|| DEFAULT_RETRY_ON.to_vec()) },
        status_codes: retries.status_codes.clone().unwrap_or_default(),
        methods: retries.methods.clone().unwrap_or_default(),
        per_try_timeout: retries.per_try_timeout.clone(),
        backoff: retries.backoff.clone(),
        budget: retries.budget.as_ref().map(|budget| Budget {
            percent: budget.percent,
            min_concurrency: budget.min_concurrency.unwrap_or(DEFAULT_MIN_CONCURRENCY),
        }),
    }
}
