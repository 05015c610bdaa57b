//! Limits of each server, that the policy states.

use super::{
    Here, Warnings,
    limits::{Surplus, does, surplus},
    subject,
};
use crate::{
    api::{Duration, ServerMode, Timeouts, warnings::Code},
    istio::Protocol,
    observed::Membership,
    validate::valid::ServerLimits,
};

pub(super) fn warn(here: &Here<'_>, all: &mut Warnings) {
    let Some(server) = &here.valid.server else { return };
    without_proxies(here, all);
    times(here, all);
    if server.mode == ServerMode::Unlimited {
        return;
    }
    if server.connections.is_some() && server.pending_requests.is_none() && here.speaks_http() {
        all.say(
            None,
            Code::ConnectionsQueue,
            "perServer.connections alone refuses no HTTP request: surplus ones wait in the server's proxy without bound; set perServer.pendingRequests as well".to_owned(),
        );
    }
    opaque(here, server, all);
    below(here, server, all);
    ejects(here, server, all);
}

/// A Sidecar is for the proxies of pods, and some have none.
fn without_proxies(here: &Here<'_>, all: &mut Warnings) {
    let why = match here.observed.membership {
        Some(Membership::Outside) => "has no label that gives its pods a sidecar",
        Some(Membership::Ambient { .. }) => "is in ambient mode, where pods have no sidecar",
        Some(Membership::Injected) | None => return,
    };
    all.say(
        None,
        Code::PerServerWithoutProxies,
        format!(
            "namespace {} {why}, and limits.perServer is enforced by the servers' own: it acts on pods alone that have one all the same",
            here.valid.owner.namespace
        ),
    );
}

/// What a port says of its own, Istio puts on the servers' proxies only as long as no Sidecar does.
fn times(here: &Here<'_>, all: &mut Warnings) {
    if here.group.port.is_none() {
        return;
    }
    let (own, common) = (&here.policy().timeouts, &here.valid.common.timeouts);
    let all_of = |times: &Timeouts| [times.connect.clone(), times.idle.clone(), times.lifetime.clone()];
    let differing = ["connect", "idle", "lifetime"].into_iter().zip(all_of(own)).zip(all_of(common));
    let lost = differing.filter_map(|((name, own), common): ((_, Option<Duration>), _)| {
        own.filter(|own| common.as_ref() != Some(own)).map(|own| format!("timeouts.{name} {own}"))
    });
    let lost: Vec<String> = lost.collect();
    if !lost.is_empty() {
        all.add(
            here,
            Code::PortTimesNotAtServers,
            format!(
                "{} {} on the clients' proxies alone: beside limits.perServer the servers' own have one set of times for all ports, that of spec.timeouts",
                lost.join(", "),
                if lost.len() == 1 { "acts" } else { "act" }
            ),
        );
    }
}

fn opaque(here: &Here<'_>, server: &ServerLimits, all: &mut Warnings) {
    let of_requests = [
        ("perServer.activeRequests", server.active_requests),
        ("perServer.requestsPerConnection", server.requests_per_connection),
    ];
    let of_requests: Vec<String> =
        of_requests.iter().filter(|(_, set)| set.is_some()).map(|(name, _)| (*name).to_owned()).collect();
    let opaque = here.ports(|port| matches!(port.protocol, Protocol::Opaque | Protocol::Tls));
    if !opaque.is_empty() && !of_requests.is_empty() && server.connections.is_none() {
        all.add(
            here,
            Code::LimitsWithoutEffect,
            format!(
                "{} no HTTP that proxies see, so {} {} nothing there: set perServer.connections",
                subject(&opaque, "carries", "carry"),
                of_requests.join(", "),
                does(&of_requests),
            ),
        );
    }
}

/// Of what counts the same on both sides: what waits at a client is no load of a server.
fn below(here: &Here<'_>, server: &ServerLimits, all: &mut Warnings) {
    let limits = &here.policy().limits;
    let pairs = [
        ("connections", server.connections, limits.connections),
        ("activeRequests", server.active_requests.filter(|_| here.speaks_http()), limits.active_requests),
    ];
    for (name, server, client) in pairs {
        let (Some(server), Some(client)) = (server, client) else { continue };
        if server < client {
            all.add(
                here,
                Code::PerServerBelowPerClient,
                format!(
                    "one client may ask {name} {client}, and a server takes {server} from all clients together: a single client can overflow a server within its own limit; raise perServer.{name}, or lower perClient's"
                ),
            );
        }
    }
}

/// As with the limits that Istio puts there (measured M10, M12).
fn ejects(here: &Here<'_>, server: &ServerLimits, all: &mut Warnings) {
    let refuses = surplus(here) == Some(Surplus::Refused);
    let Some(ejection) = here.policy().ejection.as_ref().filter(|_| refuses && !here.client_picks()) else { return };
    if matches!((ejection.endpoints, ejection.ejectable), (Some(1..), Some(0))) {
        return;
    }
    // What a server takes before it answers 503: requests under way, or those and the ones that wait.
    let waiting = server.pending_requests.map(|pending| match server.connections {
        Some(connections) => {
            let takes = i64::from(connections) + i64::from(pending);
            (takes, format!("connections {connections} and pendingRequests {pending}"))
        }
        None => (i64::from(pending), format!("pendingRequests {pending}")),
    });
    let active = server.active_requests.map(|active| (i64::from(active), format!("activeRequests {active}")));
    let Some((takes, limit)) = active.into_iter().chain(waiting).min_by_key(|(takes, _)| *takes) else { return };
    let how = match here.policy().limits.active_requests {
        None => format!("one client can overfill a server that takes {limit}, since perClient has no activeRequests"),
        Some(client) => {
            let overfilling = |servers: u32| takes * i64::from(servers) / i64::from(client.max(1)) + 1;
            let servers = here.valid.endpoints.filter(|servers| *servers > 1);
            let spread =
                servers.map(|servers| format!(" (spread evenly over {servers} servers, {} do)", overfilling(servers)));
            let who = match overfilling(1) {
                1 => format!("one client at its limit of activeRequests {client} overfills"),
                several => format!("{several} clients at their limit of activeRequests {client} overfill"),
            };
            format!("{who} a server that takes {limit}{}", spread.unwrap_or_default())
        }
    };
    all.add(
        here,
        Code::PerServerLimitsEject,
        format!(
            "a full server answers 503, which counts as its failure with ejection on: {how}, and clients eject it although it is well; raise perServer, or count failures of connections alone (consecutiveLocalOrigin)"
        ),
    );
}
