//! Request timeout and retries as a VirtualService: one route per HTTP port.

use super::metadata;
use crate::{
    api::RetryOn,
    istio::{
        Destination, HttpRetry, HttpRoute, Kind, PortMatch, PortSelector, RouteDestination, VirtualService,
        VirtualServiceSpec,
    },
    names,
    validate::{ResolvedRetries, Routes, Valid},
};

/// `None` if no route is asked for: a VirtualService that changes nothing would still take the host
/// from any younger one.
pub(super) fn build(valid: &Valid) -> Option<VirtualService> {
    let routes = valid.routes.as_ref().filter(|routes| !routes.ports.is_empty())?;
    Some(VirtualService {
        api_version: names::ISTIO_API_VERSION,
        kind: Kind::VirtualService.as_str(),
        metadata: metadata(valid),
        spec: VirtualServiceSpec {
            hosts: vec![valid.host.clone()],
            http: routes.ports.iter().map(|port| route(*port, &valid.host, routes)).collect(),
        },
    })
}

fn route(port: u16, host: &str, routes: &Routes) -> HttpRoute {
    HttpRoute {
        name: names::route_name(port),
        matches: vec![PortMatch { port }],
        route: vec![RouteDestination {
            destination: Destination { host: host.to_owned(), port: PortSelector { number: port } },
        }],
        timeout: routes.timeout.as_ref().map(ToString::to_string),
        retries: routes.retries.as_ref().map(retry),
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
const fn retry_on(on: RetryOn) -> &'static str {
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
