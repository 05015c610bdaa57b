//! Limits of each client.

use super::{Here, Warnings, ejection::count, subject};
use crate::{
    api::{ServerMode, warnings::Code},
    istio::Protocol,
};

pub(super) fn warn(here: &Here<'_>, all: &mut Warnings) {
    let limits = &here.policy().limits;
    if here.servers_have_proxies() && here.valid.server.is_none() {
        server_side(here, all);
    }
    if limits.connections.is_some() && limits.pending_requests.is_none() && here.speaks_http() {
        all.add(
            here,
            Code::ConnectionsQueue,
            "connections alone refuses no HTTP request: surplus ones queue without bound; set pendingRequests as well",
        );
    }
    without_effect(here, all);
}

fn server_side(here: &Here<'_>, all: &mut Warnings) {
    let (policy, limits) = (here.policy(), &here.policy().limits);
    let Some(surplus) = surplus(here) else { return };
    let numbers = [
        ("connections", limits.connections),
        ("pendingRequests", limits.pending_requests),
        ("activeRequests", limits.active_requests.filter(|_| here.speaks_http())),
    ];
    let shared: Vec<String> =
        numbers.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}"))).collect();
    let shared = shared.join(", ");
    let fate = match surplus {
        Surplus::Refused => "the surplus gets 503",
        Surplus::Waits => "the surplus waits there",
        Surplus::Closed => "the surplus is closed at once",
    };
    let servers = match here.valid.endpoints {
        Some(1) => format!("one server proxy that takes {shared}"),
        Some(servers @ 2..) => format!("{servers} server proxies that take {shared} each"),
        // How many there are is not known, or none is there yet.
        Some(0) | None => format!("server proxies that take {shared} each"),
    };
    let cure = if here.service.is_none_or(|service| !service.selector.is_empty()) {
        "say what a server takes by limits.perServer, whose mode Unlimited leaves it to the clients"
    } else {
        "say what a server takes by a Sidecar with inboundConnectionPool for its pods"
    };
    all.add(
        here,
        Code::PerClientLimitsServer,
        format!(
            "Istio puts perClient on each server's own proxy too, where all clients share it: with N client proxies up to N × ({shared}) meet {servers}, and {fate} although each client keeps its limit; {cure}"
        ),
    );
    let Some(ejection) = policy.ejection.as_ref().filter(|_| surplus == Surplus::Refused && !here.client_picks())
    else {
        return;
    };
    let who = match (ejection.endpoints, ejection.ejectable) {
        (Some(endpoints), Some(out @ 1..)) => format!("each client ejects up to {out} of {}", count(endpoints)),
        // RES014 says that none is.
        (Some(1..), Some(0)) => return,
        _ => "clients eject endpoints".to_owned(),
    };
    all.add(
        here,
        Code::PerClientLimitsEject,
        format!(
            "with ejection on, those 503 of a busy server count as its failures: {who}, healthy as they are, and a limit becomes an outage"
        ),
    );
}

/// Limits that the protocol of a port makes meaningless (semantics 3.1, 3.4).
fn without_effect(here: &Here<'_>, all: &mut Warnings) {
    let limits = &here.policy().limits;
    let set = |fields: &[(&str, bool)]| -> Vec<String> {
        fields.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).to_owned()).collect()
    };
    let of_requests = set(&[
        ("activeRequests", limits.active_requests.is_some()),
        ("requestsPerConnection", limits.requests_per_connection.is_some()),
        ("concurrentRetries", limits.concurrent_retries.is_some()),
    ]);
    let opaque = here.ports(|port| port.protocol == Protocol::Opaque);
    if !opaque.is_empty() && !of_requests.is_empty() {
        all.add(
            here,
            Code::LimitsWithoutEffect,
            format!(
                "{} no HTTP that proxies see, so {} {} nothing there: {}",
                subject(&opaque, "carries", "carry"),
                of_requests.join(", "),
                does(&of_requests),
                if limits.connections.is_some() { "connections is what acts" } else { "set connections" }
            ),
        );
    }
    let of_connections =
        set(&[("connections", limits.connections.is_some()), ("pendingRequests", limits.pending_requests.is_some())]);
    let shared = here.ports(|port| port.protocol.is_http2());
    if !shared.is_empty() && !of_connections.is_empty() && limits.active_requests.is_none() {
        all.add(
            here,
            Code::LimitsWithoutEffect,
            format!(
                "{} HTTP/2, where one connection carries any number of requests, so {} hardly {} anything there: set activeRequests",
                subject(&shared, "speaks", "speak"),
                of_connections.join(", "),
                if of_connections.len() == 1 { "limits" } else { "limit" }
            ),
        );
    }
    let sealed = here.ports(|port| port.protocol == Protocol::Tls);
    if !sealed.is_empty() && (!of_requests.is_empty() || here.policy().ejection.is_some()) {
        let lost = (!of_requests.is_empty())
            .then(|| format!("{} {} nothing there", of_requests.join(", "), does(&of_requests)));
        let blind = here
            .policy()
            .ejection
            .is_some()
            .then(|| "ejection sees failed connections there, never an answer".to_owned());
        let lost: Vec<String> = lost.into_iter().chain(blind).collect();
        all.add(
            here,
            Code::SealedPort,
            format!(
                "{} the application's own TLS, in which proxies see connections and no requests: {}",
                subject(&sealed, "carries", "carry"),
                lost.join(", and ")
            ),
        );
    }
}

pub(super) fn does(fields: &[String]) -> &'static str {
    if fields.len() == 1 { "does" } else { "do" }
}

/// What becomes of what a server's own proxy does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surplus {
    /// 503 at once.
    Refused,
    /// Queued: `maxConnections` alone refuses no HTTP request (measured M6).
    Waits,
    /// The connection is closed (Envoy `tcp_proxy` checks `max_connections` first).
    Closed,
}

/// `None` if the server's own proxy limits nothing: `requestsPerConnection` and `concurrentRetries`
/// refuse nothing there, and `activeRequests` counts HTTP requests only. By `limits.perServer`, or else by
/// what Istio puts there from `limits.perClient`.
pub(super) fn surplus(here: &Here<'_>) -> Option<Surplus> {
    let limits = &here.policy().limits;
    let (connections, pending, active) = match &here.valid.server {
        Some(server) if server.mode == ServerMode::Unlimited => return None,
        Some(server) => (server.connections, server.pending_requests, server.active_requests),
        None => (limits.connections, limits.pending_requests, limits.active_requests),
    };
    if here.speaks_http() {
        let refuses = pending.is_some() || active.is_some();
        refuses.then_some(Surplus::Refused).or(connections.map(|_| Surplus::Waits))
    } else {
        connections.or(pending).map(|_| Surplus::Closed)
    }
}
