//! The rights that are shipped: none is spare, and none is missing. Judged at the API server's audit log.
//!
//! What is granted is read from `deploy/`; a rule that is added there, or in an overlay's file of [`FILES`],
//! is taken away here as well, and needs a line in [`without::breaks`].

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::gateway_api::with_gateway_api;
use super::stage::{SOON, policy};
use crate::audit::Log;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::operator;
use crate::replicas;
use crate::wait::Seen;

mod process;
pub mod without;

/// A right: what, as the audit log names it, and the verb.
type Right = (String, String);

/// Whose rules are the operator's own, with what an overlay needs beside `deploy/`.
const FILES: &[&str] = &["rbac.yaml"];

/// Rules in a YAML file of `deploy/` that a role of this name, of a namespace or the cluster, has.
fn rules(checkout: &Checkout, file: &str, name: &str) -> Result<Vec<Value>> {
    let path = checkout.root().join("deploy").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut rules = Vec::new();
    for document in text.split("\n---\n") {
        let document: Value =
            serde_saphyr::from_str(document).with_context(|| format!("{} is no YAML", path.display()))?;
        let is_role = document["kind"] == "Role" || document["kind"] == "ClusterRole";
        if is_role && document["metadata"]["name"] == name {
            rules.extend(document["rules"].as_array().into_iter().flatten().cloned());
        }
    }
    ensure!(!rules.is_empty(), "{} has no role {name}", path.display());
    Ok(rules)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The rights of rules, one by one.
fn rights(rules: &[Value]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let what = if group.is_empty() { resource.to_owned() } else { format!("{group}/{resource}") };
                rights.extend(texts(&rule["verbs"]).map(|verb| (what.clone(), verb.to_owned())));
            }
        }
    }
    rights
}

/// What the operator's own account may do.
fn granted(checkout: &Checkout) -> Result<BTreeSet<Right>> {
    let mut all = BTreeSet::new();
    for file in FILES {
        all.extend(rights(&rules(checkout, file, operator::ACCOUNT)?));
    }
    Ok(all)
}

/// A life of the operator, from its first start to the end of a policy, uses each right, and is denied
/// nothing.
///
/// # Errors
/// When a right was not used, or one was missed.
pub fn are_all_used(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let system = lab.namespace(operator::NAMESPACE);
    with_gateway_api(checkout, &lab, || {
        replicas::scale(&lab, 0)?;
        system.run(&["delete", "lease", "resilience-operator", "--ignore-not-found"])?;
        let mut log = Log::from_now(checkout)?;
        replicas::scale(&lab, 2)?;
        with_namespace(&lab, "rights-used", |kubectl| live(kubectl, |what| kubectl.until(what.0, SOON, |_| what.1())))?;
        let granted = granted(checkout)?;
        system.until("every right was used", SOON, |_| {
            let mut used = BTreeSet::new();
            for one in log.read()?.iter().filter(|one| one.is_by_the_operator()) {
                ensure!(!one.is_denied(), "a right is missing: {one}: {}", one.message);
                used.insert((one.what.clone(), one.verb.clone()));
                // The API server asks for this right as well, and logs only the request's verb.
                if one.verb == "patch" && one.code == 201 {
                    used.insert((one.what.clone(), "create".to_owned()));
                }
            }
            let spare: Vec<_> = granted.difference(&used).collect();
            Ok(if spare.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("not used: {spare:?}")) })
        })
    })
}

/// What is waited for, and a look whether it is so.
type Look<'a> = (&'a str, &'a dyn Fn() -> Result<Seen<()>>);

/// The life of a policy, step by step; after each, `until` waits for what came of it.
fn live(kubectl: &Kubectl, mut until: impl FnMut(Look<'_>) -> Result<()>) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
        "spec": {"selector": {"app": "shop"}, "ports": [{"name": "http", "port": 80}]}});
    kubectl.apply(&service.to_string())?;
    let spec = |limit: u32, mode: &str| {
        json!({"mode": mode, "limits": {"perClient": {"activeRequests": limit}, "perServer": {"mode": "Limited", "activeRequests": 2 * limit}},
            "timeouts": {"request": format!("{limit}s")}})
    };
    let apply = |limit, mode: &str| kubectl.apply(&policy("shop", "shop", &spec(limit, mode))).map(drop);
    // Twice the same change: the event of the second is a series.
    for limit in [5, 6, 5, 6] {
        apply(limit, "Enforce")?;
        until(("the limit is in all three", &|| is_limited(kubectl, limit)))?;
    }
    apply(6, "Observe")?;
    until(("nothing is generated any more", &|| is_gone(kubectl)))?;
    apply(5, "Enforce")?;
    until(("it is generated again", &|| is_limited(kubectl, 5)))?;
    kubectl.run(&["delete", "resilience", "shop"])?;
    until(("all went with the policy", &|| is_gone(kubectl)))
}

const GENERATED: &str = "sidecars,destinationrules,virtualservices";

fn is_limited(kubectl: &Kubectl, limit: u32) -> Result<Seen<()>> {
    let objects = kubectl.json(&["get", GENERATED])?;
    let said: Vec<&Value> = objects["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|object| match object["kind"].as_str() {
            Some("Sidecar") => &object["spec"]["inboundConnectionPool"]["http"]["http2MaxRequests"],
            Some("DestinationRule") => &object["spec"]["trafficPolicy"]["connectionPool"]["http"]["http2MaxRequests"],
            _ => &object["spec"]["http"][0]["timeout"],
        })
        .collect();
    let wanted = [json!(2 * limit), json!(limit), json!(format!("{limit}s"))];
    let there = said.len() == wanted.len() && wanted.iter().all(|one| said.contains(&one));
    let policy = kubectl.json(&["get", "resilience", "shop"])?;
    let told = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
    Ok(if there && told { Seen::Done(()) } else { Seen::NotYet(format!("{said:?}, {}", policy["status"])) })
}

fn is_gone(kubectl: &Kubectl) -> Result<Seen<()>> {
    let left = kubectl.run(&["get", GENERATED, "-o", "name"])?;
    Ok(if left.trim().is_empty() { Seen::Done(()) } else { Seen::NotYet(left) })
}
