//! Every block of YAML on a page is legal: policies as the operator judges them, Istio's objects by Istio's own
//! rules; what else there may be is listed here.

use resilience_operator::{
    cli::{input, world::World, yaml},
    istio::{Kind, Source, spec_faults},
    names,
    validate::Settings,
};
use serde_json::{Value, json};

use super::fences::{fences, pages};
use crate::support::{read, root};

/// Fields of a policy's spec, some of which stand for a policy where a page shows no more.
const OF_A_SPEC: [&str; 8] =
    ["targetRefs", "mode", "coexistence", "limits", "ejection", "timeouts", "retries", "ports"];

/// Kinds of Kubernetes and of others that a page may show, with the field that says what such an object is for.
const OF_OTHERS: [(&str, &str); 7] = [
    ("ClusterRole", "rules"),
    ("Role", "rules"),
    ("RoleBinding", "roleRef"),
    ("Service", "spec"),
    ("Namespace", "metadata"),
    ("Kustomization", "spec"),
    ("Deployment", "spec"),
];

/// Pieces of Istio's own settings: the one field at the top of each.
const OF_THE_MESH: [&str; 2] = ["defaultConfig", "outboundTrafficPolicy"];

/// Why a document is not what it should be; `Ok` with what it is.
fn judged(document: &Value) -> Result<&'static str, String> {
    let Some(fields) = document.as_object() else { return Err("is no object".to_owned()) };
    let only = |known: &[&str]| fields.keys().all(|field| known.contains(&field.as_str()));
    let whole = |kind: &str, version: &str| {
        let is_so = fields.get("apiVersion").is_none_or(|said| said == version);
        if is_so { Ok(()) } else { Err(format!("{kind} is of {version}")) }
    };
    match fields.get("kind").and_then(Value::as_str) {
        Some(names::KIND) => policy(document).map(|()| "policy"),
        Some(kind) => {
            if let Some(istio) = Kind::ALL.into_iter().find(|one| one.as_str() == kind) {
                whole(kind, "networking.istio.io/v1")?;
                return faults(istio, &document["spec"]).map(|()| "object of Istio's");
            }
            let (_, needed) =
                OF_OTHERS.iter().find(|(known, _)| *known == kind).ok_or("is of a kind that no page has")?;
            let is_named = fields.contains_key("apiVersion") && document["metadata"]["name"].is_string();
            if is_named && fields.contains_key(*needed) {
                Ok("other")
            } else {
                Err(format!("{kind} without apiVersion, name or {needed}"))
            }
        }
        None if only(&["spec"]) => of_spec(document["spec"].clone()).map(|()| "policy"),
        None if only(&OF_A_SPEC) => of_spec(document.clone()).map(|()| "policy"),
        None if only(&["http"]) => {
            let spec = json!({"hosts": ["orders.shop.svc.cluster.local"], "http": document["http"]});
            faults(Kind::VirtualService, &spec).map(|()| "object of Istio's")
        }
        None if only(&["trafficPolicy"]) => {
            let spec = json!({"host": "orders.shop.svc.cluster.local", "trafficPolicy": document["trafficPolicy"]});
            faults(Kind::DestinationRule, &spec).map(|()| "object of Istio's")
        }
        None if only(&["metadata"]) => {
            let is_of_the_mesh = document["metadata"]["annotations"]
                .as_object()
                .is_some_and(|all| all.keys().all(|key| key.contains(".istio.io/")));
            if is_of_the_mesh {
                Ok("other")
            } else {
                Err("has metadata, and not annotations for Istio alone".to_owned())
            }
        }
        None if only(&OF_THE_MESH) || fields.keys().all(|key| key.starts_with("sidecar.istio.io/")) => Ok("other"),
        None => Err(format!("is nothing that is known: {:?}", fields.keys().collect::<Vec<_>>())),
    }
}

fn of_spec(mut spec: Value) -> Result<(), String> {
    if spec.get("targetRefs").is_none() {
        spec["targetRefs"] = json!([{"kind": "Service", "name": "shop"}]);
    }
    policy(&json!({"apiVersion": names::API_VERSION, "kind": names::KIND, "metadata": {"name": "shop"}, "spec": spec}))
}

/// As `validate` judges it.
fn policy(object: &Value) -> Result<(), String> {
    let world =
        World::new(input::read(&["-".into()], &mut object.to_string().as_bytes()), "default", &Settings::default());
    if let [why, ..] = world.unreadable.as_slice() {
        return Err(why.clone());
    }
    let [policy] = world.policies.as_slice() else { return Err("is no policy".to_owned()) };
    let faults = world.decide(policy, Some(3)).err().unwrap_or_default();
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

/// By Istio's own rules: what we are stricter about, others may write.
fn faults(kind: Kind, spec: &Value) -> Result<(), String> {
    let faults = spec_faults(kind, spec).into_iter().filter(|fault| fault.source == Source::Istio);
    let faults: Vec<String> = faults.map(|fault| fault.to_string()).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

#[test]
fn every_block_of_yaml_on_a_page_is_legal() {
    let (mut wrong, mut policies, mut objects) = (Vec::new(), 0, 0);
    for path in pages(root()) {
        let page = path.strip_prefix(root()).expect("it is below").display().to_string();
        for fence in fences(&read(&path)).into_iter().filter(|fence| fence.language == "yaml") {
            for document in yaml::documents(&fence.text) {
                match document.and_then(|document| judged(&document)) {
                    Ok("policy") => policies += 1,
                    Ok("object of Istio's") => objects += 1,
                    Ok(_) => {}
                    Err(why) => wrong.push(format!("{page}:{}: {why}", fence.line)),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(policies > 8 && objects > 1, "only {policies} policies and {objects} objects of Istio's were found");
}

#[test]
fn a_block_that_is_wrong_is_found() {
    for (text, why) in [
        ("limits: {perClient: {connections: 0}}", "connections"),
        ("spec: {ejection: {consecutive5x: 5}}", "consecutive5x"),
        (
            "kind: Sidecar\nspec: {workloadSelector: {labels: {app: shop}}, inboundConnectionPool: {}}",
            "inboundConnectionPool",
        ),
        ("http: [{timeout: 0s}]", "timeout"),
        ("kind: CronJob", "no page has"),
        ("limit: {perClient: {connections: 1}}", "nothing that is known"),
    ] {
        let document = yaml::documents(text).remove(0).expect("it is YAML");
        let said = judged(&document).expect_err(text);
        assert!(said.contains(why), "{text}: {said}");
    }
}
