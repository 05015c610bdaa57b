//! What holds for every legal policy, and what no input can do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use proptest::{collection, option, prelude::*, sample};
use resilience_operator::{
    api::{
        Coexistence, Resilience, ResilienceSpec, TargetKind,
        schema::{decode, faults},
    },
    cli::yaml,
    diff::{changes, diff, strip_patch},
    istio::{Existing, Kind, SHARED_BLOCKS, spec_faults},
    names,
    observed::Observed,
    translate::{Desired, DesiredObject, translate},
    validate::{Owner, Settings, Valid, validate},
};
use serde_json::{Value, json};

use crate::{
    legal::{UID, legal_spec, policy, without_server_side, world},
    support::merge,
};

fn valid(policy: &Resilience, world: &Observed) -> Valid {
    validate(policy, world, &Settings::default()).unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

/// What the API server holds after it took the object.
fn existing(object: &DesiredObject) -> Existing {
    let meta: ObjectMeta = serde_json::from_value(object.json["metadata"].clone()).expect("metadata of ours");
    Existing::new(object.kind, &meta, object.json["spec"].clone())
}

/// A merge patch (RFC 7386) that only takes away.
fn strip(there: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        if value.is_null() {
            there.as_object_mut().and_then(|map| map.remove(key));
        } else if let Some(inner) = there.get_mut(key) {
            strip(inner, value);
        }
    }
}

/// What `controller::apply` does, on plain values: apply, then take away what an apply leaves.
fn apply(desired: &Desired, owner: &Owner, world: &[Existing]) -> Vec<Existing> {
    let diff = diff(desired, owner, world);
    let mut world = world.to_vec();
    for write in diff.apply {
        let fresh = existing(&write.object);
        let same = |one: &&mut Existing| one.kind == fresh.kind && one.name == fresh.name && !one.deleting;
        let there = match world.iter_mut().find(same) {
            Some(there) => {
                let mut root = json!({"spec": there.spec});
                merge(&mut root, &json!({"spec": write.object.json["spec"]}));
                there.labels.extend(fresh.labels);
                there.owners.retain(|one| fresh.owners.iter().all(|ours| ours.uid != one.uid));
                there.owners.extend(fresh.owners);
                there.spec = root["spec"].take();
                if let Some(patch) = strip_patch(&changes(&write.object, there)) {
                    let mut root = json!({"spec": there.spec.take()});
                    strip(&mut root, &patch);
                    there.spec = root["spec"].take();
                }
                continue;
            }
            None => fresh,
        };
        world.push(there);
    }
    world.retain(|one| one.deleting || !diff.prune.iter().any(|gone| gone.kind == one.kind && gone.name == one.name));
    world
}

/// What others may have done to an object of ours.
fn damage() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let all = vec![
        ("/exportTo", json!(["."])),
        ("/workloadSelector", json!({"matchLabels": {"app": "batch"}})),
        ("/gateways", json!(["mesh"])),
        ("/egress", json!([{"hosts": ["./*"]}])),
        ("/outboundTrafficPolicy", json!({"mode": "ALLOW_ANY"})),
        ("/inboundConnectionPool/http", json!({"http2MaxRequests": 77})),
        ("/trafficPolicy/tls", json!({"mode": "DISABLE"})),
        ("/trafficPolicy/portLevelSettings", json!([{"port": {"number": 80}}])),
        ("/trafficPolicy/loadBalancer", json!({"simple": "RANDOM"})),
        ("/trafficPolicy/connectionPool/tcp/maxConnections", json!(77)),
        ("/trafficPolicy/connectionPool/http/idleTimeout", json!("1h")),
        ("/trafficPolicy/outlierDetection/maxEjectionPercent", json!(99)),
        ("/trafficPolicy/outlierDetection/minHealthPercent", json!(50)),
        ("/trafficPolicy/connectionPool", json!({})),
        ("/http/0/timeout", json!("77s")),
        ("/http/0/fault", json!({"abort": {"httpStatus": 500}})),
        ("/hosts", json!(["else.shop.svc.cluster.local"])),
        ("/http", json!([])),
    ];
    sample::subsequence(all.clone(), 0..=all.len())
}

fn hurt(spec: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a path");
    if let Some(Value::Object(map)) = spec.pointer_mut(parent) {
        map.insert(key.to_owned(), value);
    }
}

prop_compose! {
    /// Any object of the kinds that we write: ours by owner, by label, by none; also of other policies.
    fn anything()(
        kind in sample::select(Kind::ALL.to_vec()),
        name in sample::select(vec!["a", "b", "c"]),
        owner in option::of(sample::select(vec![UID, "another"])),
        label in option::of(sample::select(vec![UID, "another"])),
        shared in option::of(sample::select(vec![UID, "another"])),
        managed in any::<bool>(),
        deleting in any::<bool>(),
    ) -> Existing {
        let mut labels = BTreeMap::new();
        labels.extend(shared.map(|uid| (names::LABEL_CO_OWNER_UID.to_owned(), uid.to_owned())));
        labels.extend(label.map(|uid| (names::LABEL_OWNER_UID.to_owned(), uid.to_owned())));
        labels.extend(managed.then(|| (names::LABEL_MANAGED_BY.to_owned(), names::OPERATOR.to_owned())));
        let owners = owner.into_iter().map(|uid| OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() });
        let owners = owners.collect();
        let meta = ObjectMeta { name: Some(name.to_owned()), namespace: Some("shop".to_owned()), ..ObjectMeta::default() };
        Existing { labels, owners, deleting, uid: Some("u".to_owned()), ..Existing::new(kind, &meta, json!({})) }
    }
}

/// Pointers to every value of an object, the root last.
fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| pointers(inner, format!("{at}/{key}"), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, inner)| pointers(inner, format!("{at}/{index}"), found));
        }
        _ => {}
    }
    found.push(at);
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "labels",
        "spec",
        "status",
        "targetRefs",
        "limits",
        "perClient",
        "connections",
        "ejection",
        "interval",
        "consecutive5xx",
        "timeouts",
        "request",
        "retries",
        "attempts",
        "retryOn",
        "statusCodes",
        "perTryTimeout",
        "methods",
        "budget",
        "percent",
        "mode",
        "ports",
        "port",
        "group",
        "kind",
        "localityFailover",
        "minHealthyPercent",
        "idle",
        "lifetime",
        "what",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~äß€]{0,8}".prop_map(Value::from),
        sample::select(vec![
            "resilience.dev/v1alpha1",
            "Resilience",
            "Service",
            "ServiceEntry",
            "networking.istio.io",
            "x",
            "1s",
            "Reset",
            "GET",
            "Observe",
            "Disabled",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::btree_map(keys.clone(), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_legal_policy_decodes_and_has_no_faults(policy in policy()) {
        let object = serde_json::to_value(&policy).expect("it is JSON");
        prop_assert_eq!(faults(&object), vec![]);
        prop_assert_eq!(decode(&object), Ok(policy));
    }

    #[test]
    fn a_legal_policy_survives_the_way_through_yaml(policy in policy()) {
        let object = serde_json::to_value(&policy).expect("it is JSON");
        let text = yaml::print(&object).expect("it can be printed");
        prop_assert_eq!(yaml::documents(&text), vec![Ok(object)]);
    }

    #[test]
    fn what_is_rendered_obeys_the_rules_of_istio(policy in policy(), world in world()) {
        for object in translate(&valid(&policy, &world)).objects() {
            prop_assert_eq!(spec_faults(object.kind, &object.json["spec"]), vec![], "{}", object.json);
        }
    }

    #[test]
    fn the_same_policy_gives_the_same_objects(policy in policy(), world in world()) {
        let again: Resilience = serde_json::from_value(serde_json::to_value(&policy).expect("JSON")).expect("it decodes");
        prop_assert_eq!(translate(&valid(&policy, &world)), translate(&valid(&again, &world.clone())));
    }

    #[test]
    fn nothing_differs_from_itself(policy in policy(), world in world()) {
        let valid = valid(&policy, &world);
        let desired = translate(&valid);
        let there: Vec<Existing> = desired.objects().iter().map(existing).collect();
        prop_assert!(diff(&desired, &valid.owner, &there).is_empty());
    }

    #[test]
    fn after_an_apply_nothing_differs(
        old in policy(), new in legal_spec(), world in world(), damage in damage(),
        no_owner in any::<bool>(), no_label in any::<bool>(),
    ) {
        let mut policy = old.clone();
        policy.metadata.uid = Some(UID.to_owned());
        let before = valid(&policy, &world);
        let mut there: Vec<Existing> = translate(&before).objects().iter().map(existing).collect();
        for object in &mut there {
            for (pointer, value) in &damage {
                hurt(&mut object.spec, pointer, value.clone());
            }
            if no_owner {
                object.owners.clear();
            } else if no_label {
                object.labels.clear();
            }
        }
        let target = policy.spec.target_refs.clone();
        policy.spec = ResilienceSpec { target_refs: target, ..new };
        if policy.spec.target_refs[0].kind == TargetKind::ServiceEntry {
            without_server_side(&mut policy.spec);
        }
        let after = valid(&policy, &world);
        let desired = translate(&after);
        let there = apply(&desired, &after.owner, &there);
        let left = diff(&desired, &after.owner, &there);
        prop_assert!(left.is_empty(), "{:#?}", left);
    }

    #[test]
    fn nobody_elses_object_is_pruned(policy in policy(), world in world(), there in collection::vec(anything(), 0..8)) {
        let mut policy = policy;
        policy.metadata.uid = Some(UID.to_owned());
        policy.spec.target_refs[0].name = "a".to_owned();
        let valid = valid(&policy, &world);
        let desired = translate(&valid);
        for gone in diff(&desired, &valid.owner, &there).prune {
            let ours = there.iter().any(|one| {
                one.kind == gone.kind
                    && one.name == gone.name
                    && (one.owners.iter().any(|owner| owner.uid == UID) || one.labels.get(names::LABEL_OWNER_UID).is_some_and(|uid| uid == UID))
            });
            prop_assert!(ours, "{:?} of {:#?}", gone, there);
            prop_assert!(desired.objects().iter().all(|object| object.kind != gone.kind || object.name != gone.name));
        }
    }

    #[test]
    fn only_what_has_our_blocks_is_given_back(policy in policy(), world in world(), there in collection::vec(anything(), 0..8)) {
        let mut policy = policy;
        policy.metadata.uid = Some(UID.to_owned());
        let valid = valid(&policy, &world);
        let diff = diff(&translate(&valid), &valid.owner, &there);
        for back in &diff.release {
            let shared = there.iter().any(|one| {
                one.kind == back.kind && one.name == back.name && one.co_owner_uid() == Some(UID)
            });
            prop_assert!(shared, "{:?} of {:#?}", back, there);
        }
    }

    #[test]
    fn into_a_rule_of_somebody_else_goes_nothing_but_three_blocks_and_two_marks(policy in policy(), world in world()) {
        let mut policy = policy;
        policy.metadata.uid = Some(UID.to_owned());
        policy.spec.coexistence = Coexistence::Merge;
        let host = valid(&policy, &world).host;
        let spec = json!({"host": host, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}, "subsets": [{"name": "a"}]});
        let meta = ObjectMeta {
            name: Some("theirs".to_owned()),
            namespace: policy.metadata.namespace.clone(),
            uid: Some("u".to_owned()),
            ..ObjectMeta::default()
        };
        let theirs = Existing::new(Kind::DestinationRule, &meta, spec);
        let world = Observed { existing: vec![theirs], ..world };
        let Ok(valid) = validate(&policy, &world, &Settings::default()) else { return Ok(()) };
        let desired = translate(&valid);
        prop_assert!(desired.destination_rule.is_none(), "a second rule");
        for object in desired.objects().into_iter().filter(|object| object.kind == Kind::DestinationRule) {
            let keys = |pointer: &str| -> Vec<String> {
                object.json.pointer(pointer).and_then(Value::as_object).into_iter().flat_map(|map| map.keys()).cloned().collect()
            };
            prop_assert_eq!(&object.name, "theirs");
            prop_assert_eq!(keys("/spec"), ["trafficPolicy"]);
            prop_assert!(keys("/spec/trafficPolicy").iter().all(|key| SHARED_BLOCKS.contains(&key.as_str())), "{}", object.json);
            prop_assert_eq!(keys("/metadata"), ["annotations", "labels", "name", "namespace"]);
            prop_assert_eq!(keys("/metadata/labels"), [names::LABEL_CO_OWNER_UID]);
        }
        let writes = diff(&desired, &valid.owner, &world.existing);
        prop_assert!(writes.prune.is_empty() && writes.release.is_empty());
    }

    #[test]
    fn no_json_makes_the_checks_panic(policy in policy(), place in any::<sample::Index>(), wrong in any_json()) {
        let mut object = serde_json::to_value(&policy).expect("it is JSON");
        let mut places = Vec::new();
        pointers(&object, String::new(), &mut places);
        if let Some(value) = object.pointer_mut(&places[place.index(places.len())]) {
            *value = wrong;
        }
        match decode(&object) {
            Ok(policy) => {
                let _verdict = validate(&policy, &Observed::default(), &Settings::default());
            }
            Err(faults) => prop_assert!(!faults.is_empty()),
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[-a-z0-9:{}\\[\\]&*!|>'\"%@`#,? \n\t~.]{0,80}") {
        let _documents = yaml::documents(&text);
    }
}

#[test]
fn the_winner_of_two_policies_is_the_same_whoever_asks() {
    use resilience_operator::{observed::Rival, validate::Refusal};
    let made = |name: &str, created: Option<i64>| {
        let mut policy: Resilience = decode(&json!({
            "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": name},
            "spec": {"targetRefs": [{"kind": "Service", "name": "x"}], "timeouts": {"connect": "1s"}}
        }))
        .expect("it is legal");
        policy.metadata.creation_timestamp = created.map(|second| {
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(second).expect("a time"))
        });
        policy
    };
    let ages = [None, Some(1), Some(2)];
    for (one, other) in ages.iter().flat_map(|one| ages.iter().map(move |other| (*one, *other))) {
        let refused = |policy: &Resilience, rival: &Resilience| {
            let created = rival.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let target = rival.spec.target_refs[0].clone();
            let rivals = vec![Rival { name: rival.metadata.name.clone().expect("a name"), target, created }];
            let observed = Observed { rivals, ..Observed::default() };
            matches!(validate(policy, &observed, &Settings::default()), Err(Refusal::Superseded(_)))
        };
        let (a, b) = (made("a", one), made("b", other));
        assert_ne!(refused(&a, &b), refused(&b, &a), "{one:?} {other:?}");
    }
}
