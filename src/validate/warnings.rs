//! What is legal but will surprise, with the numbers of now.

use super::{ResolvedEjection, ResolvedRetries, Valid, neighbours::Neighbours};
use crate::{
    api::{PerClientLimits, RetryOn, Warning, warnings::Code},
    observed::{Discovery, ServiceView},
    validate::{ejectable, http_ports},
};

pub(super) fn warnings(valid: &Valid, service: Option<&ServiceView>, neighbours: &Neighbours) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, message: String| warnings.push(Warning { code, message });
    if let Some(limits) = &valid.limits {
        per_client(limits, valid, service, &mut warn);
    }
    if let Some(resolved) = &valid.ejection {
        ejection(resolved, valid.endpoints, service, &mut warn);
    }
    if let Some(resolved) = valid.routes.as_ref().and_then(|routes| routes.retries.as_ref()) {
        let bounded = valid.limits.as_ref().is_some_and(|limits| limits.concurrent_retries.is_some());
        retries(resolved, surplus(valid, service) == Some(Surplus::Refused) && !bounded, &mut warn);
    }
    if let Some(other) = &neighbours.routes_owner {
        warn(
            Code::RoutesOwnedByAnother,
            format!(
                "{other} has the host, and a proxy takes the routes of one VirtualService only: timeouts.request and retries are not generated; put them there"
            ),
        );
    }
    for other in &neighbours.ignored_rules {
        warn(
            Code::YoungerRuleIgnored,
            format!(
                "{other} is for the same host and younger: Istio ignores its traffic policy beside ours; delete it"
            ),
        );
    }
    warnings.sort_by_key(|warning| warning.code);
    warnings
}

fn per_client(
    limits: &PerClientLimits,
    valid: &Valid,
    service: Option<&ServiceView>,
    warn: &mut impl FnMut(Code, String),
) {
    if let Some(surplus) = surplus(valid, service) {
        let numbers = [
            ("connections", limits.connections),
            ("pendingRequests", limits.pending_requests),
            ("activeRequests", limits.active_requests),
        ];
        let shared: Vec<String> =
            numbers.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}"))).collect();
        let shared = shared.join(", ");
        let fate = match surplus {
            Surplus::Refused => "the surplus gets 503",
            Surplus::Waits => "the surplus waits there",
            Surplus::Closed => "the surplus is closed at once",
        };
        warn(
            Code::PerClientLimitsServer,
            format!(
                "Istio puts perClient on each server's own proxy too, where all clients share it: with N client proxies up to N × ({shared}) meet a server that takes {shared}, and {fate} although each client keeps its limit"
            ),
        );
        if valid.ejection.is_some() && surplus == Surplus::Refused {
            warn(
                Code::PerClientLimitsEject,
                "with ejection on, those 503 of a busy server count as its failures: clients eject healthy endpoints, and a limit becomes an outage".to_owned(),
            );
        }
    }
    if limits.connections.is_some() && limits.pending_requests.is_none() && speaks_http(service) {
        warn(
            Code::ConnectionsQueue,
            "connections alone refuses no HTTP request: surplus ones queue without bound; set pendingRequests as well"
                .to_owned(),
        );
    }
}

fn ejection(
    ejection: &ResolvedEjection,
    endpoints: Option<u32>,
    service: Option<&ServiceView>,
    warn: &mut impl FnMut(Code, String),
) {
    let percent = ejection.max_percent;
    if let Some(endpoints) = endpoints.filter(|endpoints| *endpoints > 0) {
        let share = format!("maxPercent {percent} of {}", count(endpoints));
        let out = ejectable(endpoints, percent);
        if out == 0 {
            warn(Code::EjectsNone, format!("{share} ejects none: {}", ejects_none_cure(endpoints)));
        } else if out == endpoints {
            warn(
                Code::EjectsAll,
                format!(
                    "{share} lets all be ejected: then every call gets 503 until one returns; {}",
                    ejects_all_cure(endpoints)
                ),
            );
        }
    }
    if service.is_some_and(|service| service.discovery == Discovery::Headless) {
        warn(
            Code::HeadlessEjection,
            "the Service is headless: clients pick the endpoint by address, so ejections are counted and change nothing; use a Service with a cluster IP".to_owned(),
        );
    }
}

/// `amplified`: a server refuses by its own limit, and nothing bounds the retries under way.
fn retries(retries: &ResolvedRetries, amplified: bool, warn: &mut impl FnMut(Code, String)) {
    let repeats_timeouts = |on: &RetryOn| matches!(on, RetryOn::Reset | RetryOn::Http5xx | RetryOn::GatewayError);
    if retries.per_try_timeout.is_some() && !retries.retry_on.iter().any(repeats_timeouts) {
        warn(
            Code::PerTryTimeoutNotRetried,
            "a try that runs into perTryTimeout is not tried again, because retryOn has none of Reset, 5xx, GatewayError: it only shortens the call; add Reset if the calls may be repeated".to_owned(),
        );
    }
    let repeats_503 = retries.retry_on.iter().any(|on| matches!(on, RetryOn::Http5xx | RetryOn::GatewayError))
        || retries.status_codes.contains(&503);
    if retries.attempts > 0 && repeats_503 && amplified {
        warn(
            Code::RetriesAmplifyOverflow,
            format!(
                "a server that refuses by its own limit answers 503, and 503 is tried again: up to {} tries per call when it is busiest; bound them with limits.perClient.concurrentRetries",
                retries.attempts + 1
            ),
        );
    }
}

/// What becomes of what a server's own proxy does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surplus {
    /// 503 at once.
    Refused,
    /// Queued: `maxConnections` alone refuses no HTTP request (measured M6).
    Waits,
    /// The connection is closed (Envoy `tcp_proxy` checks `max_connections` first).
    Closed,
}

/// `None` if the server's own proxy limits nothing: `requestsPerConnection` and `concurrentRetries`
/// refuse nothing there, and `activeRequests` counts HTTP requests only.
fn surplus(valid: &Valid, service: Option<&ServiceView>) -> Option<Surplus> {
    let limits = valid.limits.as_ref()?;
    if speaks_http(service) {
        let refuses = limits.pending_requests.is_some() || limits.active_requests.is_some();
        refuses.then_some(Surplus::Refused).or(limits.connections.map(|_| Surplus::Waits))
    } else {
        limits.connections.or(limits.pending_requests).map(|_| Surplus::Closed)
    }
}

/// Whether a port of the Service carries HTTP, or may: not known counts as HTTP.
fn speaks_http(service: Option<&ServiceView>) -> bool {
    service.is_none_or(|service| !http_ports(service).is_empty())
}

fn count(endpoints: u32) -> String {
    if endpoints == 1 { "1 endpoint".to_owned() } else { format!("{endpoints} endpoints") }
}

fn ejects_none_cure(endpoints: u32) -> String {
    if endpoints == 1 {
        "the only endpoint cannot be left out without an outage; add endpoints".to_owned()
    } else {
        format!("set at least {}", 100_u32.div_ceil(endpoints))
    }
}

fn ejects_all_cure(endpoints: u32) -> String {
    if endpoints == 1 {
        "add endpoints, or set less than 100".to_owned()
    } else {
        // The largest share that leaves one endpoint in: floor(n × p / 100) = n − 1.
        format!("set at most {}", (100 * endpoints - 1) / endpoints)
    }
}
