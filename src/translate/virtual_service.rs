//! Request timeout and retries as a VirtualService: one route per HTTP port, two where retries depend
//! on the method.

use super::metadata;
use crate::{
    api::{Method, RetryOn},
    istio::{
        Destination, ExactMatch, HttpRetry, HttpRoute, Kind, PortSelector, RouteDestination, RouteMatch,
        VirtualService, VirtualServiceSpec,
    },
    names,
    validate::{Policy, ResolvedRetries, Valid},
};

/// `None` if no route is asked for: a VirtualService that changes nothing would still take the host
/// from any younger one.
pub(super) fn build(valid: &Valid) -> Option<VirtualService> {
    if valid.routes.is_empty() {
        return None;
    }
    Some(VirtualService {
        api_version: names::ISTIO_API_VERSION,
        kind: Kind::VirtualService.as_str(),
        metadata: metadata(valid),
        spec: VirtualServiceSpec {
            hosts: vec![valid.host.clone()],
            export_to: valid.export_to.clone(),
            http: valid.routes.iter().flat_map(|port| routes(*port, &valid.host, valid.of_port(*port))).collect(),
        },
    })
}

/// A split by method has a second route that takes every other call: without it they would get 404
/// (measured M45). Those are not tried again at all, also not by the mesh's default.
fn routes(port: u16, host: &str, policy: &Policy) -> Vec<HttpRoute> {
    let retries = policy.retries.as_ref();
    let methods = retries.map(|retries| retries.methods.as_slice()).unwrap_or_default();
    let any = RouteMatch { port, method: None };
    if methods.is_empty() {
        return vec![route(names::route_name(port), vec![any], port, host, policy, retries.map(retry))];
    }
    let of = |method: &Method| RouteMatch { port, method: Some(ExactMatch { exact: method.name() }) };
    let matches = methods.iter().map(of).collect();
    vec![
        route(names::retried_route_name(port), matches, port, host, policy, retries.map(retry)),
        route(names::route_name(port), vec![any], port, host, policy, Some(HttpRetry::default())),
    ]
}

fn route(
    name: String,
    matches: Vec<RouteMatch>,
    port: u16,
    host: &str,
    policy: &Policy,
    retries: Option<HttpRetry>,
) -> HttpRoute {
    let destination = Destination { host: host.to_owned(), port: PortSelector { number: port } };
    HttpRoute {
        name,
        matches,
        route: vec![RouteDestination { destination }],
        timeout: policy.timeouts.request.as_ref().map(ToString::to_string),
        retries,
    }
}

fn retry(retries: &ResolvedRetries) -> HttpRetry {
    let words = retries.retry_on.iter().map(|on| retry_on(*on).to_owned());
    let codes = retries.status_codes.iter().map(ToString::to_string);
    let list: Vec<String> = words.chain(codes).collect();
    HttpRetry {
        attempts: retries.attempts,
        retry_on: (!list.is_empty()).then(|| list.join(",")),
        per_try_timeout: retries.per_try_timeout.as_ref().map(ToString::to_string),
        backoff: retries.backoff.as_ref().map(ToString::to_string),
    }
}

/// Envoy's word, of those that Istio lets through (istio `pkg/config/validation`,
/// `supportedRetryOnPolicies`).
pub(crate) const fn retry_on(on: RetryOn) -> &'static str {
    match on {
        RetryOn::ConnectFailure => "connect-failure",
        RetryOn::RefusedStream => "refused-stream",
        RetryOn::Reset => "reset",
        RetryOn::ResetBeforeRequest => "reset-before-request",
        RetryOn::Http5xx => "5xx",
        RetryOn::GatewayError => "gateway-error",
        RetryOn::Retriable4xx => "retriable-4xx",
        RetryOn::Cancelled => "cancelled",
        RetryOn::DeadlineExceeded => "deadline-exceeded",
        RetryOn::Internal => "internal",
        RetryOn::ResourceExhausted => "resource-exhausted",
        RetryOn::Unavailable => "unavailable",
    }
}
