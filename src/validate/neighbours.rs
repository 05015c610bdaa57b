//! Who else has the target, its host, or the names that we would use.

mod routes;
mod rules;

use jiff::Timestamp;
use kube::ResourceExt;

use super::{Owner, Settings, Valid};
use crate::{
    api::Resilience,
    istio::{Existing, Kind, neighbourhood::Neighbourhood},
    names,
    observed::{Observed, Rival, Unseen},
};

pub(super) use routes::{Routes, RoutesOwner};
pub(super) use rules::{Hidden, Rules};

/// What the neighbours mean for a policy that goes ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbours {
    /// Younger DestinationRules for the host, which Istio ignores beside ours.
    pub(super) ignored_rules: Vec<String>,
    /// VirtualServices that bring calls in from a gateway, and that gateway.
    pub(super) gateways: Vec<(String, String)>,
    /// DestinationRules of whatever namespace; nothing where none of ours is generated.
    pub(super) rules: Rules,
    /// Routes of whatever namespace.
    pub(super) routes: Routes,
    /// ServiceEntries of other namespaces that declare the host as well.
    pub(super) namesakes: Vec<String>,
    /// What could not be read and matters.
    pub(super) unseen: Vec<Unseen>,
}

/// The kinds that a spec asks for: an object in the way of one that is not generated is in nobody's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    /// What a server's own proxy takes.
    pub(super) server: bool,
    /// Limits, ejection or a connect timeout.
    pub(super) rule: bool,
    /// A request timeout or retries.
    pub(super) routes: bool,
}

impl Wants {
    const fn want(self, kind: Kind) -> bool {
        match kind {
            Kind::Sidecar => self.server,
            Kind::DestinationRule => self.rule,
            Kind::VirtualService => self.routes,
        }
    }

    /// Whether something that may not be read could change what is generated, or what is said of it.
    const fn need(self, unseen: Unseen) -> bool {
        match unseen {
            Unseen::RootNamespace(kind) => self.want(kind),
            Unseen::GatewayRoutes(_) => self.routes,
            Unseen::OtherNamespaces => self.rule || self.routes,
        }
    }
}

/// The rival that wins against `resilience`, and why: the oldest, then the first by name.
pub(super) fn winner<'a>(resilience: &Resilience, rivals: &'a [Rival]) -> Option<(&'a Rival, &'static str)> {
    let own_created = resilience.creation_timestamp().map(|time| time.0);
    let own_name = resilience.name_any();
    let age = |rival: &'a Rival| by_age(rival.created, &rival.name);
    rivals.iter().filter(|rival| age(rival) < by_age(own_created, &own_name)).min_by_key(|rival| age(rival)).map(
        |rival| {
            let why = if rival.created == own_created { "as old and first by name" } else { "older" };
            (rival, why)
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
    observed: &Observed,
    settings: &Settings,
) -> Result<Neighbours, String> {
    let name = names::generated_name(&valid.target);
    let mut neighbours = Neighbours::default();
    look_within(valid, wants, &name, &observed.existing, settings, &mut neighbours)?;
    let mut around = observed.neighbourhood.clone();
    let is_other = |object: &Existing| object.namespace != valid.owner.namespace || !is_ours(object, &valid.owner);
    around.rules.retain(|object| is_other(object));
    around.virtual_services.retain(|object| is_other(object));
    let ours = |kind| {
        let ours = observed.existing.iter().filter(|object| is_ours(object, &valid.owner) && !object.deleting);
        ours.into_iter().find(|object| object.kind == kind && object.name == name)
    };
    if wants.rule && !valid.host.is_empty() {
        neighbours.rules = match &valid.merge {
            None => rules::look(valid, &name, &around, ours(Kind::DestinationRule)),
            Some(merge) => rules::look_beside(valid, &merge.name, &around),
        };
        if let Some(Hidden { rule, .. }) = neighbours.rules.hidden.iter().find(|hidden| hidden.has_tls) {
            return Err(format!(
                "{rule} says how calls are encrypted (tls), and a rule of ours for {} would hide it whole: give that host a DestinationRule of its own with the tls and set coexistence: Merge here, or take the tls out of it",
                valid.host
            ));
        }
    }
    if wants.routes && !valid.host.is_empty() {
        if neighbours.routes.owner.is_none() {
            neighbours.routes = routes::look(valid, &name, &around, ours(Kind::VirtualService));
        }
        neighbours.gateways.extend(gateways_elsewhere(valid, &around));
    }
    neighbours.namesakes.clone_from(&observed.namesakes);
    neighbours.unseen = observed.unseen.iter().copied().filter(|unseen| wants.need(*unseen)).collect();
    Ok(neighbours)
}

/// Looks at the policy's own namespace.
fn look_within(
    valid: &Valid,
    wants: Wants,
    name: &str,
    existing: &[Existing],
    settings: &Settings,
    neighbours: &mut Neighbours,
) -> Result<(), String> {
    let (owner, host) = (&valid.owner, &valid.host);
    let (ours, others): (Vec<_>, Vec<_>) = existing.iter().partition(|object| is_ours(object, owner));
    // Also one that is being deleted: while something holds it istiod heeds it (claim R1.2b).
    let others = others.into_iter().filter(|object| wants.want(object.kind));
    for other in others {
        let whole = other.whole();
        let for_host = other.is_for(host, &settings.cluster_domain);
        match other.kind {
            // One of them holds our blocks, and none of ours stands beside it.
            Kind::DestinationRule if valid.merge.is_some() => {}
            Kind::DestinationRule if for_host && !other.has_workload_selector() => {
                let our_rule = ours.iter().find(|object| object.kind == Kind::DestinationRule && object.name == name);
                match beside(our_rule.copied(), other, name, host) {
                    Beside::Merged => {}
                    Beside::Ignored => neighbours.ignored_rules.push(whole),
                    Beside::InTheWay(why) => return Err(why),
                }
            }
            Kind::VirtualService if for_host && other.binds_mesh() => {
                neighbours.routes.owner = Some(RoutesOwner { name: whole, is_gateway_api: false });
            }
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
    Ok(())
}

/// What a rule of somebody else for the very host, in our namespace and for all clients, is beside ours.
enum Beside {
    /// Istio merges the two: it is there for its subsets.
    Merged,
    /// Istio ignores its traffic policy beside ours.
    Ignored,
    /// It is in the way; the sentence says how.
    InTheWay(String),
}

fn beside(ours: Option<&Existing>, other: &Existing, name: &str, host: &str) -> Beside {
    let (whole, exports) = (other.whole(), other.export_to());
    // One that is there for its subsets is merged with ours, whichever is older (claims R1.3b, R1.3c), unless
    // it is exported elsewhere (R1.4): ours has no `exportTo`.
    if !other.has_policy_of_others() && exports.is_empty() && other.name != name {
        return Beside::Merged;
    }
    if !exports.is_empty() {
        return Beside::InTheWay(format!(
            "{whole} has host {host} and exportTo [{}], where a rule of ours has none: of rules that are exported differently Istio takes the youngest, whole, so whose counts would be a matter of age: move its settings here and delete it, or delete this object",
            exports.join(", ")
        ));
    }
    if ours.is_some_and(|rule| first(rule, other)) {
        return Beside::Ignored;
    }
    Beside::InTheWay(format!(
        "{whole} has host {host}, and Istio takes the traffic policy of one rule only: move its settings here and delete it, or delete this object"
    ))
}

/// As in the policy's own namespace: a gateway's routes may stand next to the gateway.
fn gateways_elsewhere(valid: &Valid, around: &Neighbourhood) -> Vec<(String, String)> {
    let elsewhere = around.virtual_services.iter().filter(|object| object.namespace != valid.owner.namespace);
    let bring_in = elsewhere.filter(|object| {
        !object.binds_mesh()
            && (object.is_for(&valid.host, &around.cluster_domain)
                || object.destinations(&around.cluster_domain).contains(&valid.host))
    });
    bring_in.flat_map(|object| object.gateways().into_iter().map(|gateway| (object.whole(), gateway))).collect()
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
