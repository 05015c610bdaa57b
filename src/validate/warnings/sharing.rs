//! What others' objects do to limits and ejection that are otherwise in force.

use serde_json::Value;

use super::Warnings;
use crate::{
    api::{PerClientLimits, warnings::Code},
    istio::{Existing, Handler, Kind},
    observed::Observed,
    validate::{Policy, Settings, Valid, is_ours},
};

pub(super) fn warn(valid: &Valid, observed: &Observed, settings: &Settings, all: &mut Warnings) {
    if !valid.policies().any(Policy::wants_rule) {
        return;
    }
    subsets(valid, all);
    let others = observed.existing.iter().filter(|object| {
        object.kind == Kind::VirtualService
            && !is_ours(object, &valid.owner)
            && object.binds_mesh()
            && object.is_for(&valid.host, &settings.cluster_domain)
    });
    for other in others {
        sent_elsewhere(valid, other, settings, all);
    }
}

/// A subset inherits our blocks, into a cluster of its own (istio
/// `pilot/pkg/networking/core/cluster_builder.go`, `applyDestinationRule`).
fn subsets(valid: &Valid, all: &mut Warnings) {
    let Some(merge) = valid.merge.as_ref().filter(|merge| !merge.subsets.is_empty()) else { return };
    let budget = valid.common.retries.as_ref().is_some_and(|retries| retries.budget.is_some());
    let counts = valid.common.limits != PerClientLimits::default() || valid.common.ejection.is_some() || budget;
    if counts {
        all.say(
            None,
            Code::SubsetsCountApart,
            format!(
                "DestinationRule {}/{} has subsets {}, and each counts for itself in every client: limits, ejection and the retry budget hold once for each of them",
                valid.owner.namespace,
                merge.name,
                merge.subsets.join(", ")
            ),
        );
    }
}

fn sent_elsewhere(valid: &Valid, routes: &Existing, settings: &Settings, all: &mut Warnings) {
    let list = |key: &str| routes.spec.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // Where routes are not all of HTTP, or are in other objects, this one does not tell.
    let whole = list("http").iter().all(|route| route.get("delegate").is_none());
    if !whole || !list("tcp").is_empty() || !list("tls").is_empty() {
        return;
    }
    let mut hosts = routes.destinations(&settings.cluster_domain);
    hosts.sort();
    hosts.dedup();
    if hosts.is_empty() || hosts.iter().any(|host| host.eq_ignore_ascii_case(&valid.host)) {
        return;
    }
    let what = match &routes.handler {
        Some(Handler::Flagger { canary }) => format!(
            "Flagger keeps it: put limits and ejection into spec.service.trafficPolicy of its Canary{}, timeouts.request and retries into spec.service.timeout and retries there",
            canary.as_ref().map(|name| format!(" {name}")).unwrap_or_default()
        ),
        Some(Handler::ArgoRollouts { .. }) | None => "make a Resilience for each of them".to_owned(),
    };
    all.say(
        None,
        Code::RoutedToOthers,
        format!(
            "{} sends every call for the host to {}: limits and ejection of this policy act on none of them; {what}",
            routes.whole(),
            hosts.join(" and ")
        ),
    );
}
