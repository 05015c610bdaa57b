//! Whom a change concerns.
//!
//! In: one object before and after, and the policies. Out: names of policies of its namespace, which
//! may not exist any more: what they left behind is then cleaned up. No I/O, no decision.

use std::collections::BTreeSet;

use super::{
    cache::Delta,
    world::{Policy, Slice, World},
};
use crate::{
    api::{TargetKind, TargetRef},
    istio::{Existing, Stake},
    names,
    observed::{Membership, ServiceView},
};

/// Names of policies.
pub type Names = BTreeSet<String>;

/// A policy itself and, if it comes, goes or turns to another Service, the others for that Service:
/// one of them may have to take over, or to stand back.
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
            names.insert(delta.name.clone());
            return names;
        }
    }
    for target in delta.sides().filter_map(|side| side.view.target()) {
        names.extend(targeting(world, &delta.namespace, target));
    }
    names.insert(delta.name.clone());
    names
}

/// Those that an Istio object belongs to, by owner or by label; and those whose name or host it has.
pub fn of_istio(delta: &Delta<Existing>, world: &World, cluster_domain: &str) -> Names {
    let same = |delta: &Delta<Existing>| matches!((&delta.before, &delta.after), (Some(before), Some(after)) if before.view == after.view);
    // Annotations and the bookkeeping of others are not in the view; nor is the echo of what we
    // wrote, whose answer is in the cache already.
    if same(delta) {
        return Names::new();
    }
    let mut names = Names::new();
    let policies = world.policies.within(&delta.namespace);
    for side in delta.sides() {
        let object = &side.view;
        let owners = object.owners.iter().filter(|owner| is_policy(owner));
        names.extend(owners.map(|owner| owner.name.clone()));
        // No reference leads from there to a policy that is gone.
        names.extend(object.co_owner.clone().filter(|_| object.co_owner_uid().is_some()));
        let concerned = policies.iter().filter(|policy| {
            let target = policy.view.target();
            let name = target.map(names::generated_name);
            let host = target.and_then(|target| world.host(&delta.namespace, target, cluster_domain));
            let stake = Stake { uid: Some(&policy.uid), name: name.as_deref(), host: host.as_deref() };
            object.concerns(&stake, cluster_domain)
        });
        names.extend(concerned.map(|policy| policy.name.clone()));
    }
    names
}

/// Those for a Service that came, went, or changed its ports.
pub fn of_service(delta: &Delta<ServiceView>, world: &World) -> Names {
    if matches!((&delta.before, &delta.after), (Some(before), Some(after)) if before.view == after.view) {
        return Names::new();
    }
    targeting(world, &delta.namespace, &service(&delta.name))
}

/// Those for a `ServiceEntry` that came, went, or changed.
pub fn of_entry(delta: &Delta<ServiceView>, world: &World) -> Names {
    if matches!((&delta.before, &delta.after), (Some(before), Some(after)) if before.view == after.view) {
        return Names::new();
    }
    let entry =
        TargetRef { group: names::ISTIO_GROUP.to_owned(), kind: TargetKind::ServiceEntry, name: delta.name.clone() };
    targeting(world, &delta.namespace, &entry)
}

/// All of a namespace that joins the mesh or leaves it.
pub fn of_namespace(delta: &Delta<Membership>, world: &World) -> Names {
    if matches!((&delta.before, &delta.after), (Some(before), Some(after)) if before.view == after.view) {
        return Names::new();
    }
    world.policies.within(&delta.namespace).iter().map(|policy| policy.name.clone()).collect()
}

/// Those for the Service whose endpoints changed.
pub fn of_slice(delta: &Delta<Slice>, world: &World) -> Names {
    if matches!((&delta.before, &delta.after), (Some(before), Some(after)) if before.view == after.view) {
        return Names::new();
    }
    let services = delta.sides().filter_map(|side| side.view.service.as_deref());
    services.flat_map(|name| targeting(world, &delta.namespace, &service(name))).collect()
}

/// Whether an owner is of our kind, in whatever version.
pub fn is_policy(owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> bool {
    owner.kind == names::KIND && owner.api_version.split('/').next() == Some(names::GROUP)
}

fn service(name: &str) -> TargetRef {
    TargetRef { group: String::new(), kind: TargetKind::Service, name: name.to_owned() }
}

fn targeting(world: &World, namespace: &str, target: &TargetRef) -> Names {
    let policies = world.policies.within(namespace);
    let for_it = policies.iter().filter(|policy| policy.view.target() == Some(target));
    for_it.map(|policy| policy.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        controller::{cache::Entry, world},
        istio::Kind,
    };

    const DOMAIN: &str = "cluster.local";

    fn policy(name: &str, target: &str, generation: i64) -> Entry<Policy> {
        let object = json!({
            "apiVersion": names::API_VERSION, "kind": names::KIND,
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": generation},
            "spec": {"targetRefs": [{"kind": "Service", "name": target}], "timeouts": {"connect": "1s"}},
        });
        world::policy(serde_json::from_value::<DeserializeGuard<_>>(object).unwrap())
    }

    fn rule(name: &str, host: &str, meta: &Value) -> Entry<Existing> {
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

    fn sorted(names: Names) -> Vec<String> {
        names.into_iter().collect()
    }

    #[test]
    fn a_policy_that_goes_calls_the_others_for_its_service() {
        let world = world();
        let delta = world.policies.remove("ns", "a", "uid-a").unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), ["a", "b"]);
    }

    #[test]
    fn a_policy_that_turns_to_another_service_calls_those_of_both() {
        let world = world();
        let delta = world.policies.put(policy("a", "other", 2)).unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), ["a", "b", "c"]);
    }

    #[test]
    fn an_edit_of_a_policy_calls_it_alone() {
        let world = world();
        let delta = world.policies.put(policy("a", "httpbin", 2)).unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), ["a"]);
    }

    #[test]
    fn a_change_of_status_calls_nobody() {
        let world = world();
        let delta = world.policies.put(policy("a", "httpbin", 1)).unwrap();
        assert_eq!(sorted(of_policy(&delta, &world)), Vec::<String>::new());
    }

    #[test]
    fn an_istio_object_calls_its_owner_even_if_that_is_gone() {
        let world = world();
        let owner = json!({"ownerReferences": [
            {"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "name": "gone", "uid": "x"},
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "not-of-ours", "uid": "y"},
        ]});
        let delta = world.istio(Kind::DestinationRule).put(rule("any", "elsewhere.example", &owner)).unwrap();
        assert_eq!(sorted(of_istio(&delta, &world, DOMAIN)), ["gone"]);
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
        let shared = rules.put(rule("any", "elsewhere.example", &marks("c"))).unwrap();
        assert_eq!(sorted(of_istio(&shared, &world, DOMAIN)), ["c"]);
        let forgotten = rules.put(rule("other-one", "elsewhere.example", &marks("gone"))).unwrap();
        assert_eq!(sorted(of_istio(&forgotten, &world, DOMAIN)), ["gone"]);
    }

    #[test]
    fn an_istio_object_calls_by_label_by_name_and_by_host() {
        let world = world();
        let label = json!({"labels": {names::LABEL_OWNER_UID: "uid-c"}});
        let rules = world.istio(Kind::DestinationRule);
        let by_label = rules.put(rule("any", "elsewhere.example", &label)).unwrap();
        assert_eq!(sorted(of_istio(&by_label, &world, DOMAIN)), ["c"]);
        let by_name = rules.put(rule("other", "elsewhere.example", &json!({}))).unwrap();
        assert_eq!(sorted(of_istio(&by_name, &world, DOMAIN)), ["c"]);
        let by_host = rules.put(rule("foreign", "httpbin", &json!({}))).unwrap();
        assert_eq!(sorted(of_istio(&by_host, &world, DOMAIN)), ["a", "b"]);
    }

    #[test]
    fn a_rule_that_leaves_a_host_calls_those_that_it_left() {
        let world = world();
        let rules = world.istio(Kind::DestinationRule);
        rules.put(rule("foreign", "httpbin", &json!({})));
        let delta = rules.put(rule("foreign", "elsewhere.example", &json!({}))).unwrap();
        assert_eq!(sorted(of_istio(&delta, &world, DOMAIN)), ["a", "b"]);
    }

    #[test]
    fn the_echo_of_an_istio_object_calls_nobody() {
        let world = world();
        let rules = world.istio(Kind::DestinationRule);
        rules.put(rule("foreign", "httpbin", &json!({"annotations": {"seen": "1"}})));
        let delta = rules.put(rule("foreign", "httpbin", &json!({"annotations": {"seen": "2"}}))).unwrap();
        assert_eq!(sorted(of_istio(&delta, &world, DOMAIN)), Vec::<String>::new());
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
        let first = world.slices.put(slice(false, "10.0.0.1", "a")).unwrap();
        assert_eq!(sorted(of_slice(&first, &world)), ["c"]);
        let renamed = world.slices.put(slice(false, "10.0.0.1", "b")).unwrap();
        assert_eq!(sorted(of_slice(&renamed, &world)), Vec::<String>::new());
        let ready = world.slices.put(slice(true, "10.0.0.1", "b")).unwrap();
        assert_eq!(sorted(of_slice(&ready, &world)), ["c"]);
        let moved = world.slices.put(slice(true, "10.0.0.2", "b")).unwrap();
        assert_eq!(sorted(of_slice(&moved, &world)), ["c"]);
    }
}
