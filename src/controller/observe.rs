//! Step one: what is known, as plain data. Reads the caches only; decides nothing.

use kube::ResourceExt as _;

use super::{server_side, world::World};
use crate::{
    api::{Resilience, TargetKind, TargetRef},
    istio::{Existing, Stake},
    names,
    observed::{Endpoints, Observed, Rival, ServiceView, Target, count_endpoints},
    validate::Settings,
};

/// Everything that the decision about `resilience` rests on.
pub fn observe(resilience: &Resilience, world: &World, settings: &Settings) -> Observed {
    let cluster_domain = &settings.cluster_domain;
    let namespace = resilience.namespace().unwrap_or_default();
    let Some(target) = resilience.spec.target_refs.first() else {
        return Observed { existing: existing(resilience, None, world, cluster_domain), ..Observed::default() };
    };
    let found = world.target(&namespace, target);
    Observed {
        endpoints: endpoints(target, found.as_ref().map(|found| &found.view), &namespace, world),
        target: found.map_or(Target::Missing, |found| Target::Found(found.view.clone())),
        rivals: rivals(resilience, &namespace, target, world),
        existing: existing(resilience, Some(target), world, cluster_domain),
        server_side: server_side::observe(resilience, world, &settings.root_namespace),
        membership: world.namespaces.get(&namespace, &namespace).map(|namespace| namespace.view),
        istio: world.istio_knows(),
    }
}

/// A Service's from its slices, a ServiceEntry's from itself.
fn endpoints(target: &TargetRef, found: Option<&ServiceView>, namespace: &str, world: &World) -> Option<Endpoints> {
    match target.kind {
        TargetKind::Service => {
            let slices = world.slices.within(namespace);
            let ours = slices.iter().filter(|slice| slice.view.service.as_ref() == Some(&target.name));
            Some(count_endpoints(ours.map(|slice| &slice.view.slice)))
        }
        TargetKind::ServiceEntry => found.and_then(|entry| entry.listed),
    }
}

/// One that is being deleted is no rival: waiting for it to go would only leave a gap.
fn rivals(resilience: &Resilience, namespace: &str, target: &TargetRef, world: &World) -> Vec<Rival> {
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

/// What concerns the policy, of its namespace.
fn existing(resilience: &Resilience, target: Option<&TargetRef>, world: &World, cluster_domain: &str) -> Vec<Existing> {
    let namespace = resilience.namespace().unwrap_or_default();
    let name = target.map(names::generated_name);
    let host = target.and_then(|target| world.host(&namespace, target, cluster_domain));
    let stake = Stake { uid: resilience.metadata.uid.as_deref(), name: name.as_deref(), host: host.as_deref() };
    let all = world.istio_within(&namespace);
    all.iter().map(|entry| &entry.view).filter(|object| object.concerns(&stake, cluster_domain)).cloned().collect()
}
