//! `--adopt`: the order of writes in which every state between two of them is the old policy in full or the new
//! one in full (docs/adr/0023).
//!
//! Where an object has the name that the generated one needs, it becomes the generated one, in one write. Where
//! it has another, the generated one is put beside it first, as a copy that Istio ignores while the older stands
//! (measured M3, M33), and the older goes then. Only after that the policy comes, and takes what it needs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    report::{Imported, SourceFate},
    routes::{self, Place},
    rule::Meaning,
};
use crate::{
    api::{Ownership, Resilience},
    diff::changes,
    istio::{Existing, Kind},
    names,
    observed::{Observed, ServiceView, Target, host_of},
    translate::{DesiredObject, translate},
    validate::{Owner, Settings, is_ours, validate},
};

/// What is to be written for one host, in this order; the policy's own objects are taken last ([`taking`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Handover {
    /// Objects to create beside those that have the host under another name; each is nobody's yet.
    pub copies: Vec<DesiredObject>,
    /// Objects to delete, each only as it was looked at.
    pub delete: Vec<Arc<Existing>>,
    /// Objects that become the policy's own.
    pub take: Vec<Arc<Existing>>,
    /// Objects into which the operator writes the policy's blocks.
    pub share: Vec<Arc<Existing>>,
    /// The policy.
    pub policy: Resilience,
}

/// Plans a hand-over; `None` where nothing was imported.
///
/// # Errors
/// What stands in the way, and what to do.
pub fn hand_over(imported: &Imported, objects: &[Arc<Existing>]) -> Result<Option<Handover>, String> {
    let Some(policy) = imported.policy.clone() else { return Ok(None) };
    let mut plan = Handover { copies: Vec::new(), delete: Vec::new(), take: Vec::new(), share: Vec::new(), policy };
    let find = |kind: Kind, name: &str| objects.iter().find(|object| object.kind == kind && object.name == name);
    for desired in imported.objects.iter().filter(|desired| desired.ownership == Ownership::Created) {
        let in_place = imported.replaced(desired.kind).any(|name| name == desired.name);
        match find(desired.kind, &desired.name) {
            Some(there) if in_place => plan.take.push(there.clone()),
            // Left by a hand-over that did not come to its end.
            Some(there) if there.is_generated() && changes(desired, there).is_empty() => {}
            Some(there) => {
                return Err(format!(
                    "{} has the name that is needed and says something else: delete it, or make it the only one for the host",
                    there.whole()
                ));
            }
            None => plan.copies.push(desired.clone()),
        }
    }
    for kind in [Kind::DestinationRule, Kind::VirtualService] {
        for name in imported.replaced(kind) {
            if !plan.take.iter().any(|object| object.kind == kind && object.name == name) {
                plan.delete.extend(find(kind, name).cloned());
            }
        }
    }
    let shared = imported.from.iter().filter(|source| source.fate == SourceFate::Shared);
    plan.share.extend(shared.filter_map(|source| find(Kind::DestinationRule, &source.name)).cloned());
    Ok(Some(plan))
}

/// What a policy that is there has yet to take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taking {
    /// Each with the object that it becomes, in the order of the writes.
    pub objects: Vec<(DesiredObject, Arc<Existing>)>,
    /// Objects that have the name and do not mean the same: they stay.
    pub differing: Vec<String>,
}

/// Objects that carry the names of what a policy generates and mean the same, but are not its own.
#[must_use]
pub fn taking(policy: &Resilience, mut observed: Observed, settings: &Settings) -> Taking {
    let mut taking = Taking::default();
    let (Some(target), Target::Found(service)) = (policy.spec.target_refs.first(), observed.target.clone()) else {
        return taking;
    };
    let (owner, name) = (Owner::of(policy), names::generated_name(target));
    if owner.uid.is_none() {
        return taking;
    }
    let is_free = |object: &Existing| {
        let theirs = object.owners.iter().any(|owner| owner.kind == names::KIND)
            || object.labels.contains_key(names::LABEL_OWNER_UID);
        object.name == name && object.kind != Kind::Sidecar && !theirs && !is_ours(object, &owner) && !object.deleting
    };
    let free: Vec<Existing> = observed.existing.iter().filter(|object| is_free(object)).cloned().collect();
    let here = |object: &Existing| object.namespace == owner.namespace && is_free(object);
    observed.existing.retain(|object| !is_free(object));
    observed.neighbourhood.rules.retain(|object| !here(object));
    observed.neighbourhood.virtual_services.retain(|object| !here(object));
    let Ok(valid) = validate(policy, &observed, settings) else { return taking };
    let Some(host) = host_of(target, &owner.namespace, Some(&service), &settings.cluster_domain) else { return taking };
    let place = Place { namespace: &owner.namespace, host: &host, cluster_domain: &settings.cluster_domain };
    for desired in translate(&valid).objects().into_iter().filter(|desired| desired.ownership == Ownership::Created) {
        let Some(there) = free.iter().find(|there| there.kind == desired.kind) else { continue };
        if is_same(&desired, there, &service, place) {
            taking.objects.push((desired, Arc::new(there.clone())));
        } else {
            taking.differing.push(there.whole());
        }
    }
    taking
}

/// Whether an object means what is desired.
fn is_same(desired: &DesiredObject, there: &Existing, service: &ServiceView, place: Place<'_>) -> bool {
    let want = &desired.json["spec"];
    match desired.kind {
        Kind::VirtualService if !routes::without_counterpart(&there.spec, place).is_empty() => false,
        kind => differing(kind, Some(&there.spec), Some(want), service, place).is_empty(),
    }
}

/// What two specs of a kind mean differently to the clients of a target: each by port and path. `place` is the
/// namespace and the host; a spec that is `None` is that of no object.
#[must_use]
pub fn same_effect(
    kind: Kind,
    one: Option<&Value>,
    other: Option<&Value>,
    (namespace, host): (&str, &str),
    service: &ServiceView,
    settings: &Settings,
) -> Vec<String> {
    differing(kind, one, other, service, Place { namespace, host, cluster_domain: &settings.cluster_domain })
}

fn differing(
    kind: Kind,
    one: Option<&Value>,
    other: Option<&Value>,
    service: &ServiceView,
    place: Place<'_>,
) -> Vec<String> {
    if kind == Kind::DestinationRule {
        let none = json!({ "host": place.host });
        let of =
            |spec: Option<&Value>| Meaning::of(spec.unwrap_or(&none), place.namespace, service, place.cluster_domain);
        let differences = of(one).differences(&of(other)).into_iter();
        return differences.map(|difference| format!("port {:?}: {}", difference.port, difference.path)).collect();
    }
    let http = service.http_ports();
    let (one, other) = (routes::of_spec(one, &http, place), routes::of_spec(other, &http, place));
    let ports = http.iter().filter(|port| one.get(port) != other.get(port));
    ports.map(|port| format!("port {port}: routes")).collect()
}
