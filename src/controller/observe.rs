//! Step one: what is known, as plain data. Reads the caches only; decides nothing.

use kube::ResourceExt as _;

use super::world::World;
use crate::{
    api::Resilience,
    istio::Existing,
    names,
    observed::{Observed, Rival, Target, count_endpoints},
};

/// Everything that the decision about `resilience` rests on.
pub fn observe(resilience: &Resilience, world: &World, cluster_domain: &str) -> Observed {
    let namespace = resilience.namespace().unwrap_or_default();
    let Some(target) = resilience.spec.target_refs.first() else {
        return Observed { existing: existing(resilience, None, world, cluster_domain), ..Observed::default() };
    };
    let service = world.services.get(&namespace, &target.name);
    let slices = world.slices.within(&namespace);
    let ours = slices.iter().filter(|slice| slice.view.service.as_ref() == Some(&target.name));
    Observed {
        target: service.map_or(Target::Missing, |service| Target::Found(service.view.clone())),
        endpoints: Some(count_endpoints(ours.map(|slice| &slice.view.slice))),
        rivals: rivals(resilience, &namespace, &target.name, world),
        existing: existing(resilience, Some(&target.name), world, cluster_domain),
    }
}

/// One that is being deleted is no rival: waiting for it to go would only leave a gap.
fn rivals(resilience: &Resilience, namespace: &str, target: &str, world: &World) -> Vec<Rival> {
    let policies = world.policies.within(namespace);
    let others = policies.iter().filter(|policy| {
        policy.name != resilience.name_any()
            && policy.view.target() == Some(target)
            && policy.view.meta().deletion_timestamp.is_none()
    });
    let rival = |policy: &kube::core::ObjectMeta, name: &str| Rival {
        name: name.to_owned(),
        created: policy.creation_timestamp.as_ref().map(|time| time.0),
    };
    others.map(|policy| rival(policy.view.meta(), &policy.name)).collect()
}

/// Those that are ours, have a name that we would use, or are for the target's host.
fn existing(resilience: &Resilience, target: Option<&str>, world: &World, cluster_domain: &str) -> Vec<Existing> {
    let namespace = resilience.namespace().unwrap_or_default();
    let uid = resilience.uid().unwrap_or_default();
    let name = target.map(names::generated_name);
    let host = target.map(|target| names::service_host(target, &namespace, cluster_domain));
    let matters = |object: &Existing| {
        object.owners.iter().any(|owner| owner.uid == uid)
            || object.labels.get(names::LABEL_OWNER_UID) == Some(&uid)
            || Some(&object.name) == name.as_ref()
            || host.as_ref().is_some_and(|host| object.hosts(cluster_domain).contains(host))
    };
    let all = world.istio_within(&namespace);
    all.iter().map(|entry| &entry.view).filter(|object| matters(object)).cloned().collect()
}
