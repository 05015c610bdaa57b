//! Step one: what is known, as plain data. Reads the caches only; decides nothing.

use std::sync::Arc;

use kube::ResourceExt as _;

use super::{
    cache::Entry,
    index::Key,
    server_side,
    world::{Policy, World},
};
use crate::{
    api::{Resilience, TargetKind, TargetRef},
    istio::{Existing, Stake},
    names,
    observed::{Endpoints, Observed, Rival, ServiceView, Target, count_endpoints},
};

/// Everything that the decision about `resilience` rests on.
pub fn observe(resilience: &Resilience, world: &World) -> Observed {
    let namespace = resilience.namespace().unwrap_or_default();
    let Some(target) = resilience.spec.target_refs.first() else {
        return Observed { existing: existing(resilience, None, world), ..Observed::default() };
    };
    let found = world.target(&namespace, target);
    Observed {
        endpoints: endpoints(target, found.as_ref().map(|found| &found.view), &namespace, world),
        target: found.map_or(Target::Missing, |found| Target::Found(found.view.clone())),
        rivals: rivals(resilience, &namespace, target, world),
        namesakes: namesakes(&namespace, target, world),
        existing: existing(resilience, Some(target), world),
        server_side: server_side::observe(resilience, world),
        membership: world.namespaces.get(&namespace, &namespace).map(|namespace| namespace.view),
        istio: world.istio_knows(),
        neighbourhood: world.neighbourhood(&namespace, target),
        unseen: world.unseen(),
    }
}

/// A Service's from its slices, a ServiceEntry's from itself.
fn endpoints(target: &TargetRef, found: Option<&ServiceView>, namespace: &str, world: &World) -> Option<Endpoints> {
    match target.kind {
        TargetKind::Service => {
            let slices = world.slices.by(Key::Service(namespace, &target.name));
            let ours = slices
                .iter()
                .filter(|slice| slice.namespace == namespace && slice.view.service.as_ref() == Some(&target.name));
            Some(count_endpoints(ours.map(|slice| &slice.view.slice)))
        }
        TargetKind::ServiceEntry => found.and_then(|entry| entry.listed),
    }
}

/// Policies of the namespace for the same target, or for another with its host. One that is being deleted
/// is no rival: waiting for it to go would only leave a gap.
fn rivals(resilience: &Resilience, namespace: &str, target: &TargetRef, world: &World) -> Vec<Rival> {
    let own = resilience.name_any();
    let own = Some((namespace, own.as_str()));
    let mut others = world.targeting_beside(own, namespace, target);
    if let Some(host) = world.host(namespace, target) {
        let for_host = world.policies_for_beside(own, &host).into_iter();
        others.extend(for_host.filter(|policy| {
            let other = policy.view.target();
            policy.namespace == namespace
                && other.is_some_and(|other| other != target && world.host(namespace, other).as_ref() == Some(&host))
        }));
    }
    others.retain(|policy| policy.view.meta().deletion_timestamp.is_none());
    others.sort_by(|one, two| one.name.cmp(&two.name));
    let rival = |policy: &Arc<Entry<Policy>>| {
        let created = policy.view.meta().creation_timestamp.as_ref().map(|time| time.0);
        Some(Rival { name: policy.name.clone(), created, target: policy.view.target()?.clone() })
    };
    others.iter().filter_map(rival).collect()
}

/// ServiceEntries of other namespaces with the host of a ServiceEntry.
fn namesakes(namespace: &str, target: &TargetRef, world: &World) -> Vec<String> {
    let host = match target.kind {
        TargetKind::Service => None,
        TargetKind::ServiceEntry => world.host(namespace, target),
    };
    let Some(host) = host.map(|host| host.to_ascii_lowercase()) else { return Vec::new() };
    let others = world.entries.by(Key::Host(&host)).into_iter().filter(|entry| entry.namespace != namespace);
    let mut others: Vec<String> = others.map(|entry| format!("{}/{}", entry.namespace, entry.name)).collect();
    others.sort();
    others
}

/// What concerns the policy, of its namespace.
fn existing(resilience: &Resilience, target: Option<&TargetRef>, world: &World) -> Vec<Existing> {
    let namespace = resilience.namespace().unwrap_or_default();
    let name = target.map(names::generated_name);
    let host = target.and_then(|target| world.host(&namespace, target));
    let stake = Stake { uid: resilience.metadata.uid.as_deref(), name: name.as_deref(), host: host.as_deref() };
    world.concerning(&namespace, &stake).iter().map(|entry| Existing::clone(&entry.view)).collect()
}
