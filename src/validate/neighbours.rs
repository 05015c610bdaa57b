//! Who else has the target, its host, or the names that we would use.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{Owner, Settings, Valid};
use crate::{
    api::Resilience,
    istio::{Existing, Kind},
    names,
    observed::Rival,
};

/// What the neighbours mean for a policy that goes ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbours {
    /// Another VirtualService has the host: we generate no routes.
    pub(super) routes_owner: Option<String>,
    /// Younger DestinationRules for the host, which Istio ignores beside ours.
    pub(super) ignored_rules: Vec<String>,
    /// VirtualServices that bring calls in from a gateway, and that gateway.
    pub(super) gateways: Vec<(String, String)>,
}

/// The kinds that a spec asks for: an object in the way of one that is not generated is in nobody's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    /// Limits, ejection or a connect timeout.
    pub(super) rule: bool,
    /// A request timeout or retries.
    pub(super) routes: bool,
}

impl Wants {
    const fn want(self, kind: Kind) -> bool {
        match kind {
            Kind::DestinationRule => self.rule,
            Kind::VirtualService => self.routes,
        }
    }
}

/// The rival that wins against `resilience`, and why: the oldest, then the first by name.
pub(super) fn winner<'a>(resilience: &Resilience, rivals: &'a [Rival]) -> Option<(&'a str, &'static str)> {
    let own_created = resilience.creation_timestamp().map(|time| time.0);
    let own_name = resilience.name_any();
    let age = |rival: &'a Rival| by_age(rival.created, &rival.name);
    rivals.iter().filter(|rival| age(rival) < by_age(own_created, &own_name)).min_by_key(|rival| age(rival)).map(
        |rival| {
            let why = if rival.created == own_created { "as old and first by name" } else { "older" };
            (rival.name.as_str(), why)
        },
    )
}

/// Looks at what exists beside us.
///
/// # Errors
/// The sentence for a conflict: whose object is in the way, and what to do.
pub(super) fn look(
    valid: &Valid,
    wants: Wants,
    existing: &[Existing],
    settings: &Settings,
) -> Result<Neighbours, String> {
    let (owner, host) = (&valid.owner, &valid.host);
    let name = names::generated_name(&valid.target);
    let (ours, others): (Vec<_>, Vec<_>) = existing.iter().partition(|object| is_ours(object, owner));
    // Also one that is being deleted: while something holds it istiod heeds it (claim R1.2b).
    let others = others.into_iter().filter(|object| wants.want(object.kind));
    let mut neighbours = Neighbours::default();
    for other in others {
        let whole = format!("{} {}/{}", other.kind, other.namespace, other.name);
        let for_host = other.is_for(host, &settings.cluster_domain);
        match other.kind {
            // One of them holds our blocks, and none of ours stands beside it.
            Kind::DestinationRule if valid.merge.is_some() => {}
            Kind::DestinationRule if for_host && !other.has_workload_selector() => {
                // One that is there for its subsets is merged with ours, whichever is older (claims R1.3b,
                // R1.3c), unless it is exported elsewhere (R1.4): ours has no `exportTo`.
                if !other.has_policy_of_others() && other.export_to().is_empty() && other.name != name {
                    continue;
                }
                let our_rule = ours.iter().find(|object| object.kind == Kind::DestinationRule && object.name == name);
                if our_rule.is_some_and(|rule| first(rule, other) && rule.export_to() == other.export_to()) {
                    neighbours.ignored_rules.push(whole);
                } else {
                    return Err(format!(
                        "{whole} has host {host}, and Istio takes the traffic policy of one rule only: move its settings here and delete it, or delete this object"
                    ));
                }
            }
            Kind::VirtualService if for_host && other.binds_mesh() => neighbours.routes_owner = Some(whole),
            Kind::VirtualService if other.name != name => {
                let brings_in = for_host || other.destinations(&settings.cluster_domain).contains(host);
                neighbours
                    .gateways
                    .extend(other.gateways().into_iter().filter(|_| brings_in).map(|g| (whole.clone(), g)));
            }
            _ if other.name == name => {
                return Err(format!(
                    "{whole} has the name that this policy needs and is not ours: rename or delete it"
                ));
            }
            _ => {}
        }
    }
    Ok(neighbours)
}

/// Whether an object was generated for this policy: by owner or, if that was stripped, by label.
pub(crate) fn is_ours(object: &Existing, owner: &Owner) -> bool {
    match &owner.uid {
        Some(uid) => {
            object.owners.iter().any(|reference| reference.uid == *uid)
                || object.labels.get(names::LABEL_OWNER_UID) == Some(uid)
        }
        // Offline nothing is ours for certain; what `render` printed before is, by its label.
        None => object.labels.get(names::LABEL_MANAGED_BY).is_some_and(|value| value == names::OPERATOR),
    }
}

/// Whether blocks of this policy stand in an object that is not ours.
pub(crate) fn is_co_owned(object: &Existing, owner: &Owner) -> bool {
    match &owner.uid {
        Some(uid) => object.co_owner_uid() == Some(uid),
        None => object.co_owner.as_ref() == Some(&owner.name),
    }
}

/// Which of two rules for one host counts: the older, then the first by name (measured M3).
pub(super) fn first(one: &Existing, other: &Existing) -> bool {
    by_age(one.created, &one.name) < by_age(other.created, &other.name)
}

/// Sorts the older first, then by name. What has no age was never in a cluster, as in a file, and
/// so is younger than all that was.
fn by_age(created: Option<Timestamp>, name: &str) -> (bool, Option<Timestamp>, &str) {
    (created.is_none(), created, name)
}
