//! Of the caches, what bears on a Sidecar for the pods of a policy's target; and whom that concerns when it
//! changes. Reads one namespace and the root namespace; decides nothing.

use std::collections::BTreeSet;

use kube::ResourceExt as _;

use super::{
    relations::Names,
    world::{Policy, World},
};
use crate::{
    api::{Resilience, TargetKind},
    istio::{Existing, Kind},
    observed::{Selecting, Selector, ServerSide, may_select_the_same},
};

/// Nothing for a policy that asks for no Sidecar.
pub fn observe(resilience: &Resilience, world: &World, root_namespace: &str) -> ServerSide {
    let namespace = resilience.namespace().unwrap_or_default();
    let Some(target) = asking(resilience) else { return ServerSide::default() };
    let services = world.services.within(&namespace);
    let Some(own) = services.iter().find(|service| service.name == target) else { return ServerSide::default() };
    let policies = world.policies.within(&namespace);
    let policy = |service: &str| {
        let stating = policies.iter().find(|policy| stated(&policy.view) == Some(service));
        stating.map(|policy| policy.name.as_str())
    };
    let selecting = services.iter().map(|service| Selecting {
        name: &service.name,
        selector: &service.view.selector,
        policy: policy(&service.name),
    });
    let slices = world.slices.within(&namespace);
    let addresses = |service: &str| -> BTreeSet<String> {
        let of = slices.iter().filter(|slice| slice.view.service.as_deref() == Some(service));
        let endpoints = of.flat_map(|slice| &slice.view.slice.endpoints);
        endpoints.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
    };
    let sidecars = world.istio(Kind::Sidecar);
    let (here, mut of_root) = (sidecars.within(&namespace), Vec::new());
    if root_namespace != namespace {
        of_root = sidecars.within(root_namespace);
    }
    let sidecars = here.iter().chain(&of_root).map(|entry| &entry.view);
    let target = Selecting { name: target, selector: &own.view.selector, policy: None };
    let side = ServerSide::gather(&namespace, &target, selecting, sidecars, addresses);
    ServerSide { root_unknown: world.root_sidecars_unknown(root_namespace), ..side }
}

/// The Service whose server's side a policy states.
fn asking(resilience: &Resilience) -> Option<&str> {
    let target = resilience.spec.target_refs.first().filter(|target| target.kind == TargetKind::Service)?;
    resilience.spec.limits.as_ref()?.per_server.as_ref()?;
    Some(&target.name)
}

fn stated(policy: &Policy) -> Option<&str> {
    policy.readable().and_then(asking)
}

/// Policies of a namespace that state the server's side of pods that may have these labels.
pub fn of_labels(world: &World, namespace: &str, labels: &Selector) -> Names {
    let policies = world.policies.within(namespace);
    let concerned = policies.iter().filter(|policy| {
        let service = stated(&policy.view).and_then(|service| world.services.get(namespace, service));
        service.is_some_and(|service| may_select_the_same(&service.view.selector, labels))
    });
    concerned.map(|policy| policy.name.clone()).collect()
}

/// Those of its namespace that a Sidecar may select pods of.
pub fn of_sidecar(world: &World, namespace: &str, sidecar: &Existing) -> Names {
    of_labels(world, namespace, &sidecar.workload_labels().unwrap_or_default())
}
