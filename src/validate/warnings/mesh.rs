//! What stands beside the policy, and who is not reached by it.

use super::Warnings;
use crate::{
    api::warnings::Code,
    observed::{Membership, Observed, ServiceView},
    validate::{neighbours::Neighbours, valid::Valid},
};

pub(super) fn warn(
    valid: &Valid,
    service: Option<&ServiceView>,
    observed: &Observed,
    neighbours: &Neighbours,
    all: &mut Warnings,
) {
    if let Some(other) = &neighbours.routes_owner {
        all.say(
            None,
            Code::RoutesOwnedByAnother,
            format!(
                "{other} has the host, and a proxy takes the routes of one VirtualService only: timeouts.request and retries are not generated; put them there"
            ),
        );
    }
    for other in &neighbours.ignored_rules {
        all.say(
            None,
            Code::YoungerRuleIgnored,
            format!(
                "{other} is for the same host and younger: Istio ignores its traffic policy beside ours; delete it"
            ),
        );
    }
    for (other, gateway) in neighbours.gateways.iter().filter(|_| !valid.routes.is_empty()) {
        all.say(
            None,
            Code::GatewayRoutesApart,
            format!(
                "calls also come in through gateway {gateway} by {other}, where timeouts.request and retries of this policy do not act, unlike its limits and ejection; put them into the routes there"
            ),
        );
    }
    membership(valid, service, observed, all);
}

fn membership(valid: &Valid, service: Option<&ServiceView>, observed: &Observed, all: &mut Warnings) {
    let namespace = &valid.owner.namespace;
    match observed.membership {
        Some(Membership::Outside) => all.say(
            None,
            Code::CallersWithoutSidecar,
            format!(
                "namespace {namespace} has no label that gives its pods a sidecar, and calls from a pod without one are not limited at all; label it istio-injection=enabled and restart the callers there"
            ),
        ),
        Some(Membership::Ambient { waypoint }) if !service.and_then(|service| service.waypoint).unwrap_or(waypoint) => {
            all.say(
                None,
                Code::AmbientWithoutWaypoint,
                format!(
                    "namespace {namespace} is in ambient mode and {} uses no waypoint: nothing there enforces the policy on callers without a sidecar; deploy a waypoint and label the target istio.io/use-waypoint",
                    valid.target
                ),
            );
        }
        Some(Membership::Injected | Membership::Ambient { .. }) | None => {}
    }
}
