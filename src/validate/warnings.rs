//! What is legal but will surprise, with the numbers of now.

use super::{Valid, neighbours::Neighbours};
use crate::{
    api::{PerClientLimits, RetryOn, Warning, warnings::Code},
    observed::{Discovery, ServiceView},
    validate::ejectable,
};

pub(super) fn warnings(valid: &Valid, service: Option<&ServiceView>, neighbours: &Neighbours) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, message: String| warnings.push(Warning { code, message });
    if let Some(limits) = &valid.limits {
        per_client(limits, valid, &mut warn);
    }
    if let Some(ejection) = &valid.ejection {
        if let Some(endpoints) = valid.endpoints.filter(|endpoints| *endpoints > 0) {
            let percent = ejection.max_percent;
            match ejectable(endpoints, percent) {
                0 => warn(
                    Code::EjectsNone,
                    format!(
                        "maxPercent {percent} of {} ejects none: {}",
                        count(endpoints),
                        ejects_none_cure(endpoints)
                    ),
                ),
                out if out == endpoints => warn(
                    Code::EjectsAll,
                    format!(
                        "maxPercent {percent} of {} lets all be ejected: then every call gets 503 until one returns; {}",
                        count(endpoints),
                        ejects_all_cure(endpoints)
                    ),
                ),
                _ => {}
            }
        }
        if service.is_some_and(|service| service.discovery == Discovery::Headless) {
            warn(
                Code::HeadlessEjection,
                "the Service is headless: clients pick the endpoint by address, so ejections are counted and change nothing; use a Service with a cluster IP".to_owned(),
            );
        }
    }
    if let Some(retries) = valid.routes.as_ref().and_then(|routes| routes.retries.as_ref()) {
        let repeats_timeouts = |on: &RetryOn| matches!(on, RetryOn::Reset | RetryOn::Http5xx | RetryOn::GatewayError);
        if retries.per_try_timeout.is_some() && !retries.retry_on.iter().any(repeats_timeouts) {
            warn(
                Code::PerTryTimeoutNotRetried,
                "a try that runs into perTryTimeout is not tried again, because retryOn has none of Reset, 5xx, GatewayError: it only shortens the call; add Reset if the calls may be repeated".to_owned(),
            );
        }
        let repeats_503 = retries.retry_on.iter().any(|on| matches!(on, RetryOn::Http5xx | RetryOn::GatewayError))
            || retries.status_codes.contains(&503);
        if retries.attempts > 0 && repeats_503 && valid.limits.as_ref().is_some_and(limits_server) {
            warn(
                Code::RetriesAmplifyOverflow,
                format!(
                    "a server that refuses by its own limit answers 503, and 503 is tried again: up to {} tries per call when it is busiest; bound them with limits.perClient.concurrentRetries",
                    retries.attempts + 1
                ),
            );
        }
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

fn per_client(limits: &PerClientLimits, valid: &Valid, warn: &mut impl FnMut(Code, String)) {
    if limits_server(limits) {
        let numbers = [
            ("connections", limits.connections),
            ("pendingRequests", limits.pending_requests),
            ("activeRequests", limits.active_requests),
        ];
        let shared: Vec<String> =
            numbers.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}"))).collect();
        let shared = shared.join(", ");
        warn(
            Code::PerClientLimitsServer,
            format!(
                "Istio puts perClient on each server's own proxy too, where all clients share it: with N client proxies up to N × ({shared}) meet a server that takes {shared}, and the surplus gets 503 although each client keeps its limit"
            ),
        );
        if valid.ejection.is_some() {
            warn(
                Code::PerClientLimitsEject,
                "with ejection on, those 503 of a busy server count as its failures: clients eject healthy endpoints, and a limit becomes an outage".to_owned(),
            );
        }
    }
    if limits.connections.is_some() && limits.pending_requests.is_none() {
        warn(
            Code::ConnectionsQueue,
            "connections alone refuses nothing: surplus requests queue without bound; set pendingRequests as well"
                .to_owned(),
        );
    }
}

/// Whether a server's own proxy would refuse by these limits. `requestsPerConnection` and
/// `concurrentRetries` refuse nothing there.
fn limits_server(limits: &PerClientLimits) -> bool {
    limits.pending_requests.is_some() || limits.active_requests.is_some() || limits.connections.is_some()
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
