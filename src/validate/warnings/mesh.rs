//! Who is not reached by the policy.

use super::Warnings;
use crate::{
    api::warnings::Code,
    observed::{Membership, Observed, ServiceView},
    validate::valid::Valid,
};

pub(super) fn warn(valid: &Valid, service: Option<&ServiceView>, observed: &Observed, all: &mut Warnings) {
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
