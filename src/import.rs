//! From DestinationRules and VirtualServices that exist to the policies that would generate the same.
//!
//! In: objects, their targets, and how the operator would observe a policy among them. Out: for each host a
//! `Resilience` with the proof that what is generated from it has the same effect, and what has no counterpart,
//! by path, with what to do. The proof does not rest on how the policy was made: it compares what two specs
//! mean to istiod ([`rule`], [`routes`]).
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod attempt;
mod blocks;
mod keeper;
mod left;
mod plan;
mod report;
mod routes;
mod rule;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::{Resilience, TargetRef},
    istio::{Existing, Kind},
    names,
    observed::{Observed, ServiceView, host_of},
    validate::Settings,
};

pub use keeper::keeper;
pub use plan::{Handover, Taking, hand_over, same_effect, taking};
pub use report::{Fate, Imported, Left, Line, Source, SourceFate};

/// What is to be imported, and how to see it.
pub struct Sources<'a> {
    /// DestinationRules and VirtualServices of one namespace.
    pub objects: Vec<Arc<Existing>>,
    /// Services and ServiceEntries of that namespace.
    pub targets: Vec<(TargetRef, ServiceView)>,
    /// Policies of that namespace.
    pub policies: Vec<&'a Resilience>,
    /// What the operator would observe of a policy among all these.
    pub observe: &'a dyn Fn(&Resilience) -> Observed,
}

/// All that is said of one host in the namespace.
struct Group<'a> {
    target: &'a TargetRef,
    service: &'a ServiceView,
    host: String,
    rules: Vec<Arc<Existing>>,
    routes: Vec<Arc<Existing>>,
}

/// Imports a namespace: one entry for each host that objects of it speak of, by host.
#[must_use]
pub fn import(namespace: &str, sources: &Sources<'_>, settings: &Settings) -> Vec<Imported> {
    let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for (target, service) in &sources.targets {
        let Some(host) = host_of(target, namespace, Some(service), &settings.cluster_domain) else { continue };
        let group = Group { target, service, host: host.clone(), rules: Vec::new(), routes: Vec::new() };
        groups.entry(host.to_lowercase()).or_insert(group);
    }
    let mut outside: BTreeMap<String, Imported> = BTreeMap::new();
    for object in sources.objects.iter().filter(|object| is_somebodys(object)) {
        let hosts = object.hosts(&settings.cluster_domain);
        let mut found = false;
        for (_, group) in groups.iter_mut().filter(|(_, group)| object.is_for(&group.host, &settings.cluster_domain)) {
            found = true;
            match object.kind {
                Kind::DestinationRule => group.rules.push(object.clone()),
                Kind::VirtualService => group.routes.push(object.clone()),
                Kind::Sidecar => {}
            }
        }
        if !found {
            let host = hosts.join(", ");
            let entry = outside.entry(host.clone()).or_insert_with(|| Imported::of_host(&host));
            entry.stays(object, left::not_a_target(object, namespace));
        }
    }
    let spoken = groups.into_values().filter(|group| !group.rules.is_empty() || !group.routes.is_empty());
    let mut all: Vec<Imported> = spoken.map(|group| one(namespace, &group, sources, settings)).collect();
    all.extend(outside.into_values());
    all.sort_by(|one, two| one.host.cmp(&two.host));
    all
}

/// Whether an object is not generated from a policy already. What was printed by `render` and applied by hand is
/// nobody's, and can be imported.
fn is_somebodys(object: &Existing) -> bool {
    let owned =
        object.owners.iter().any(|owner| owner.kind == names::KIND && owner.api_version.starts_with(names::GROUP));
    object.kind != Kind::Sidecar && !owned && !object.labels.contains_key(names::LABEL_OWNER_UID)
}

fn one(namespace: &str, group: &Group<'_>, sources: &Sources<'_>, settings: &Settings) -> Imported {
    let mut imported = Imported::of_host(&group.host);
    imported.target = Some(group.target.clone());
    let has = |policy: &&&Resilience| policy.spec.target_refs.first() == Some(group.target);
    if let Some(policy) = sources.policies.iter().find(has) {
        let name = policy.metadata.name.clone().unwrap_or_default();
        for object in group.rules.iter().chain(&group.routes) {
            imported.stays(object, left::has_policy(object, &name));
        }
        return imported;
    }
    let chosen = attempt::Chosen::among(group, &mut imported);
    attempt::run(namespace, group, &chosen, sources, settings, &mut imported);
    imported
}
