//! Of the caches, what bears on a Sidecar for the pods of a policy's target; and whom that concerns when it
//! changes. Reads one namespace and the root namespace; decides nothing.

use std::{collections::BTreeSet, sync::Arc};

use kube::ResourceExt as _;

use super::{
    cache::Entry,
    index::Key,
    relations::Names,
    world::{Policy, World},
};
use crate::{
    api::{Resilience, TargetKind, TargetRef},
    istio::{Existing, Kind},
    observed::{Selecting, Selector, ServerSide, may_select_the_same},
};

/// Nothing for a policy that asks for no Sidecar.
pub fn observe(resilience: &Resilience, world: &World) -> ServerSide {
    let namespace = resilience.namespace().unwrap_or_default();
    let Some(target) = asking(resilience) else { return ServerSide::default() };
    let services = world.services.within(&namespace);
    let Some(own) = services.iter().find(|service| service.name == target) else { return ServerSide::default() };
    let policy = |service: &str| {
        let policies = world.targeting(&namespace, &TargetRef::new(TargetKind::Service, service));
        policies.iter().filter(|policy| stated(&policy.view).is_some()).map(|policy| policy.name.clone()).min()
    };
    let selecting = services.iter().map(|service| Selecting { name: &service.name, selector: &service.view.selector });
    let addresses = |service: &str| -> BTreeSet<String> {
        let mut slices = world.slices.by(Key::Service(&namespace, service));
        slices.retain(|slice| slice.namespace == namespace && slice.view.service.as_deref() == Some(service));
        let endpoints = slices.iter().flat_map(|slice| &slice.view.slice.endpoints);
        endpoints.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
    };
    let sidecars = world.istio(Kind::Sidecar);
    let (here, mut of_root) = (sidecars.within(&namespace), Vec::new());
    if world.root_namespace != namespace {
        of_root = sidecars.within(&world.root_namespace);
    }
    let sidecars = here.iter().chain(&of_root).map(|entry| &*entry.view);
    let target = Selecting { name: target, selector: &own.view.selector };
    ServerSide::gather(&namespace, &target, selecting, sidecars, policy, addresses)
}

/// The Service whose server's side a policy states.
fn asking(resilience: &Resilience) -> Option<&str> {
    let target = resilience.spec.target_refs.first().filter(|target| target.kind == TargetKind::Service)?;
    resilience.spec.limits.as_ref()?.per_server.as_ref()?;
    Some(&target.name)
}

pub fn stated(policy: &Policy) -> Option<&str> {
    policy.readable().and_then(asking)
}

/// Policies of a namespace that state the server's side of pods that may have these labels.
pub fn of_labels(world: &World, namespace: &str, labels: &Selector) -> Names {
    let mut stating = world.policies.by(Key::Stating(namespace));
    stating.retain(|policy| policy.namespace == namespace);
    of(world, stating, labels)
}

/// Those of its namespace that a Sidecar may select pods of; of all namespaces if it is for the mesh.
pub fn of_sidecar(world: &World, sidecar: &Existing) -> Names {
    match sidecar.workload_labels() {
        // Looks at each: there is one, and it rarely changes.
        None if sidecar.namespace == world.root_namespace => of(world, world.policies.all(), &Selector::new()),
        labels => of_labels(world, &sidecar.namespace, &labels.unwrap_or_default()),
    }
}

fn of(world: &World, policies: impl IntoIterator<Item = Arc<Entry<Policy>>>, labels: &Selector) -> Names {
    let concerned = policies.into_iter().filter(|policy| {
        let service = stated(&policy.view).and_then(|service| world.services.get(&policy.namespace, service));
        service.is_some_and(|service| may_select_the_same(&service.view.selector, labels))
    });
    concerned.map(|policy| (policy.namespace.clone(), policy.name.clone())).collect()
}
