//! Whom a change concerns.
//!
//! In: one object before and after, and the policies. Out: names of policies, of whatever namespace, which
//! may not exist any more: what they left behind is then cleaned up. No I/O, no decision.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    cache::{Delta, Entry},
    index::{Key, as_read, target_of},
    server_side,
    world::{Policy, Slice, World},
};
use crate::{
    api::{TargetKind, TargetRef},
    istio::{Existing, Kind, neighbourhood::GatewayRoute},
    names,
    observed::{Membership, ServiceView},
};

/// Namespaces and names of policies.
pub type Names = BTreeSet<(String, String)>;

/// A policy itself and, if it comes, goes or turns to another host, the others of its namespace for that
/// host: one of them may have to take over, or to stand back.
pub fn of_policy(delta: &Delta<Policy>, world: &World) -> Names {
    let (before, after) = (delta.before.as_ref(), delta.after.as_ref());
    let mut names = Names::new();
    if let (Some(before), Some(after)) = (before, after) {
        if !before.view.differs(&after.view) {
            return names;
        }
        let standing = |policy: &Policy| {
            let meta = policy.meta();
            (policy.target().cloned(), meta.uid.clone(), meta.deletion_timestamp.is_some())
        };
        if standing(&before.view) == standing(&after.view) {
            names.insert((delta.namespace.clone(), delta.name.clone()));
            return names;
        }
    }
    for target in delta.sides().filter_map(|side| side.view.target()) {
        names.extend(for_the_host_of(world, &delta.namespace, target));
    }
    names.insert((delta.namespace.clone(), delta.name.clone()));
    names
}

/// Those that an Istio object belongs to, by owner or by label; those whose name it has; and those, of all
/// namespaces, whose host it speaks of: by name, by a wildcard, or as one to send calls to.
pub fn of_istio(delta: &Delta<Arc<Existing>>, world: &World) -> Names {
    of_istio_beside(None, delta, world)
}

/// Likewise, but the one of that namespace and name, whose own write it was: it has looked already.
pub fn of_istio_beside(one: Option<(&str, &str)>, delta: &Delta<Arc<Existing>>, world: &World) -> Names {
    // Annotations and the bookkeeping of others are not in the view; nor is the echo of what we
    // wrote, whose answer is in the cache already.
    if unchanged(delta) {
        return Names::new();
    }
    let (mut names, mut stars) = (Names::new(), BTreeSet::new());
    let namespace = &delta.namespace;
    for side in delta.sides() {
        let object = &side.view;
        names.extend(claimed(object));
        let uids = object.owners.iter().map(|owner| &owner.uid).chain(object.labels.get(names::LABEL_OWNER_UID));
        let of_uid = uids.chain(object.labels.get(names::LABEL_CO_OWNER_UID)).flat_map(|uid| {
            let mut policies = world.policies.by_beside(one, Key::Uid(uid));
            policies.retain(|policy| policy.namespace == *namespace && policy.uid == *uid);
            policies
        });
        names.extend(named(of_uid));
        let mut of_name = world.policies.by_beside(one, Key::Target(namespace, &delta.name));
        of_name.retain(|policy| {
            let generates = policy.view.target().map(names::generated_name);
            policy.namespace == *namespace && generates.as_ref() == Some(&delta.name)
        });
        names.extend(named(of_name));
        if object.kind == Kind::Sidecar {
            names.extend(server_side::of_sidecar(world, object));
        }
        for host in object.destinations(&world.cluster_domain) {
            names.extend(named(world.policies_for_beside(one, &host)));
        }
        for host in object.hosts(&world.cluster_domain) {
            match host.strip_prefix('*') {
                None => names.extend(named(world.policies_for_beside(one, &host))),
                Some(end) => {
                    stars.insert(as_read(object.kind, end).into_owned());
                }
            }
        }
    }
    for end in stars {
        names.extend(named(world.policies_under(&end)));
    }
    names.retain(|(namespace, name)| Some((namespace.as_str(), name.as_str())) != one);
    names
}

/// Those that an Istio object says it is of, whether they are there or not.
pub fn claimed(object: &Existing) -> impl Iterator<Item = (String, String)> {
    let owners = object.owners.iter().filter(|owner| is_policy(owner)).map(|owner| &owner.name);
    // No reference leads from there to a policy that is gone.
    let co_owner = object.co_owner.iter().filter(|_| object.co_owner_uid().is_some());
    owners.chain(co_owner).map(|name| (object.namespace.clone(), name.clone()))
}

/// Those for what a route of the Gateway API is attached to, in whatever namespace.
pub fn of_gateway_route(delta: &Delta<Arc<GatewayRoute>>, world: &World) -> Names {
    if unchanged(delta) {
        return Names::new();
    }
    let parents = delta.sides().flat_map(|side| &side.view.parents);
    parents.flat_map(|parent| named(world.targeting(&parent.namespace, &target_of(parent)))).collect()
}

/// Those for a Service that came, went, or changed its ports.
pub fn of_service(delta: &Delta<ServiceView>, world: &World) -> Names {
    if unchanged(delta) {
        return Names::new();
    }
    let own = named(world.targeting(&delta.namespace, &TargetRef::new(TargetKind::Service, &delta.name)));
    let sharing = delta.sides().flat_map(|side| server_side::of_labels(world, &delta.namespace, &side.view.selector));
    own.chain(sharing).collect()
}

/// Those for a `ServiceEntry` that came, went, or changed, and those for another with its host.
pub fn of_entry(delta: &Delta<ServiceView>, world: &World) -> Names {
    if unchanged(delta) {
        return Names::new();
    }
    let own = world.targeting(&delta.namespace, &TargetRef::new(TargetKind::ServiceEntry, &delta.name));
    let hosts: BTreeSet<&String> = delta.sides().flat_map(|side| &side.view.hosts).collect();
    // Of all namespaces: one with this host keeps its routes to itself.
    let others = hosts.into_iter().flat_map(|host| world.policies_for(host));
    named(own).chain(named(others)).collect()
}

/// All of a namespace that joins the mesh or leaves it.
pub fn of_namespace(delta: &Delta<Membership>, world: &World) -> Names {
    if unchanged(delta) {
        return Names::new();
    }
    named(world.policies.within(&delta.namespace)).collect()
}

/// Those for the Service whose endpoints changed.
pub fn of_slice(delta: &Delta<Slice>, world: &World) -> Names {
    if unchanged(delta) {
        return Names::new();
    }
    let services: BTreeSet<&str> = delta.sides().filter_map(|side| side.view.service.as_deref()).collect();
    let concerned = services.into_iter().flat_map(|name| {
        let own = named(world.targeting(&delta.namespace, &TargetRef::new(TargetKind::Service, name)));
        // Also those for another Service that may have these pods: endpoints tell whether it has.
        let view = world.services.get(&delta.namespace, name);
        let sharing = view.map(|service| server_side::of_labels(world, &delta.namespace, &service.view.selector));
        own.chain(sharing.into_iter().flatten())
    });
    concerned.collect()
}

/// Whether an owner is of our kind, in whatever version.
pub fn is_policy(owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> bool {
    owner.kind == names::KIND && owner.api_version.split('/').next() == Some(names::GROUP)
}

fn unchanged<V: PartialEq>(delta: &Delta<V>) -> bool {
    matches!((&delta.before, &delta.after), (Some(before), Some(after)) if before.view == after.view)
}

fn named(policies: impl IntoIterator<Item = Arc<Entry<Policy>>>) -> impl Iterator<Item = (String, String)> {
    policies.into_iter().map(|policy| (policy.namespace.clone(), policy.name.clone()))
}

/// Those of a namespace for a target, and those for another target with its host.
fn for_the_host_of(world: &World, namespace: &str, target: &TargetRef) -> Names {
    let host = world.host(namespace, target);
    let for_host = host.into_iter().flat_map(|host| world.policies_for(&host));
    let here = for_host.filter(|policy| policy.namespace == namespace);
    named(world.targeting(namespace, target)).chain(named(here)).collect()
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::{cache::Entry, world};

    fn policy(name: &str, target: &str, generation: i64) -> Entry<Policy> {
        let object = json!({
            "apiVersion": names::API_VERSION, "kind": names::KIND,
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": generation},
            "spec": {"targetRefs": [{"kind": "Service", "name": target}], "timeouts": {"connect": "1s"}},
        });
        world::policy(serde_json::from_value::<DeserializeGuard<_>>(object).unwrap())
    }

    fn rule(name: &str, host: &str, meta: &Value) -> Entry<Arc<Existing>> {
        let mut object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "spec": {"host": host, "futureEnum": "NOT_KNOWN_YET"},
        });
        object["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        world::existing(Kind::DestinationRule, serde_json::from_value(object).unwrap())
    }

    fn world() -> World {
        let world = World::default();
        for (name, target) in [("a", "httpbin"), ("b", "httpbin"), ("c", "other")] {
            world.policies.put(policy(name, target, 1));
        }
        world
    }

    /// As of another version than one without any.
    fn renewed<V>(entry: Entry<V>) -> Entry<V> {
        Entry { version: Some(1), ..entry }
    }

    fn sorted(names: Names) -> Vec<String> {
        names.into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn a_policy_that_goes_calls_the_others_for_its_service() {
        let world = world();
        let delta = world.policies.remove("ns", "a", "uid-a", None).unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), ["a", "b"]);
    }

    #[test]
    fn a_policy_that_turns_to_another_service_calls_those_of_both() {
        let world = world();
        let delta = world.policies.put(policy("a", "other", 2)).news().unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), ["a", "b", "c"]);
    }

    #[test]
    fn an_edit_of_a_policy_calls_it_alone() {
        let world = world();
        let delta = world.policies.put(policy("a", "httpbin", 2)).news().unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), ["a"]);
    }

    #[test]
    fn a_change_of_status_calls_nobody() {
        let world = world();
        let delta = world.policies.put(renewed(policy("a", "httpbin", 1))).news().unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), Vec::<String>::new());
    }

    #[test]
    fn an_istio_object_calls_its_owner_even_if_that_is_gone() {
        let world = world();
        let owner = json!({"ownerReferences": [
            {"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "name": "gone", "uid": "x"},
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "not-of-ours", "uid": "y"},
        ]});
        let delta = world.istio(Kind::DestinationRule).put(rule("any", "elsewhere.example", &owner)).news().unwrap();
        assert_eq!(sorted(of_istio(&delta, &world)), ["gone"]);
    }

    #[test]
    fn a_shared_rule_calls_the_policy_that_has_blocks_in_it_even_if_that_is_gone() {
        let world = world();
        let marks = |name: &str| {
            json!({
                "labels": {names::LABEL_CO_OWNER_UID: format!("uid-{name}")},
                "annotations": {names::ANNOTATION_CO_OWNER: name},
            })
        };
        let rules = world.istio(Kind::DestinationRule);
        let shared = rules.put(rule("any", "elsewhere.example", &marks("c"))).news().unwrap();
        assert_eq!(sorted(of_istio(&shared, &world)), ["c"]);
        let forgotten = rules.put(rule("other-one", "elsewhere.example", &marks("gone"))).news().unwrap();
        assert_eq!(sorted(of_istio(&forgotten, &world)), ["gone"]);
    }

    #[test]
    fn an_istio_object_calls_by_label_by_name_and_by_host() {
        let world = world();
        let label = json!({"labels": {names::LABEL_OWNER_UID: "uid-c"}});
        let rules = world.istio(Kind::DestinationRule);
        let by_label = rules.put(rule("any", "elsewhere.example", &label)).news().unwrap();
        assert_eq!(sorted(of_istio(&by_label, &world)), ["c"]);
        let by_name = rules.put(rule("other", "elsewhere.example", &json!({}))).news().unwrap();
        assert_eq!(sorted(of_istio(&by_name, &world)), ["c"]);
        let by_host = rules.put(rule("foreign", "httpbin", &json!({}))).news().unwrap();
        assert_eq!(sorted(of_istio(&by_host, &world)), ["a", "b"]);
        // Who wrote it himself need not be told.
        assert_eq!(sorted(of_istio_beside(Some(("ns", "a")), &by_host, &world)), ["b"]);
        assert_eq!(sorted(of_istio_beside(Some(("ns", "c")), &by_label, &world)), Vec::<String>::new());
    }

    #[test]
    fn a_rule_that_leaves_a_host_calls_those_that_it_left() {
        let world = world();
        let rules = world.istio(Kind::DestinationRule);
        rules.put(rule("foreign", "httpbin", &json!({})));
        let delta = rules.put(rule("foreign", "elsewhere.example", &json!({}))).news().unwrap();
        assert_eq!(sorted(of_istio(&delta, &world)), ["a", "b"]);
    }

    #[test]
    fn the_echo_of_an_istio_object_calls_nobody() {
        let world = world();
        let rules = world.istio(Kind::DestinationRule);
        rules.put(rule("foreign", "httpbin", &json!({"annotations": {"seen": "1"}})));
        let delta =
            rules.put(renewed(rule("foreign", "httpbin", &json!({"annotations": {"seen": "2"}})))).news().unwrap();
        assert_eq!(sorted(of_istio(&delta, &world)), Vec::<String>::new());
    }

    #[test]
    fn endpoints_call_the_policies_of_their_service_only_when_they_differ() {
        let world = world();
        let slice = |ready: bool, address: &str, hostname: &str| {
            let object = json!({
                "addressType": "IPv4",
                "metadata": {"name": "s", "namespace": "ns", "uid": "s", "labels": {"kubernetes.io/service-name": "other"}},
                "endpoints": [{"addresses": [address], "hostname": hostname, "conditions": {"ready": ready, "terminating": false}}],
            });
            world::slice(serde_json::from_value(object).unwrap())
        };
        let first = world.slices.put(slice(false, "10.0.0.1", "a")).news().unwrap();
        assert_eq!(sorted(of_slice(&first, &world)), ["c"]);
        let renamed = world.slices.put(renewed(slice(false, "10.0.0.1", "b"))).news().unwrap();
        assert_eq!(sorted(of_slice(&renamed, &world)), Vec::<String>::new());
        let ready = world.slices.put(slice(true, "10.0.0.1", "b")).news().unwrap();
        assert_eq!(sorted(of_slice(&ready, &world)), ["c"]);
        let moved = world.slices.put(slice(true, "10.0.0.2", "b")).news().unwrap();
        assert_eq!(sorted(of_slice(&moved, &world)), ["c"]);
    }
}
