//! The operator for some namespaces, under Roles alone, as the component `deploy/namespaced` has it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, policy};
use crate::audit::Log;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::operator;
use crate::replicas;
use crate::run::check;
use crate::wait::Seen;

/// Policies of its namespaces are served and say what is not seen; another's is not even read, and nothing is
/// granted in the cluster.
///
/// # Errors
/// When one of these is not so.
pub fn works_with_roles_alone(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    with_namespace(&lab, "namespaced-in", |inside| {
        with_namespace(&lab, "namespaced-out", |outside| {
            let played = install(checkout, &lab, inside).and_then(|mut log| judge(&lab, inside, outside, &mut log));
            // Whatever happened: the other scenarios have the whole cluster.
            let restored = restore(checkout, &lab);
            played.and(restored)
        })
    })
}

const CLUSTER_WIDE: &str = "clusterrole,clusterrolebinding";

/// Gives the log since before the first of its pods can have begun.
fn install(checkout: &Checkout, lab: &Lab, inside: &Kubectl) -> Result<Log> {
    let overlay = checkout.root().join("deploy/namespaced");
    let manifests = with_component(checkout, lab)?;
    let named = format!("value: {}", inside.current_namespace());
    ensure!(manifests.contains("value: shop"), "deploy/namespaced names other namespaces than this scenario knows");
    // No pod of before, which would still have its rights and its watches.
    replicas::scale(lab, 0)?;
    lab.kubectl().run(&["delete", CLUSTER_WIDE, operator::ACCOUNT, "--ignore-not-found"])?;
    let log = Log::from_now(checkout)?;
    let shown = overlay.join("namespace").display().to_string();
    inside.run(&["apply", "--server-side", "-k", &shown])?;
    lab.kubectl().apply(&manifests.replace("value: shop", &named))?;
    replicas::scale(lab, 2)?;
    Ok(log)
}

/// What `kustomize edit add component namespaced` makes of `deploy/`, done to a copy.
fn with_component(checkout: &Checkout, lab: &Lab) -> Result<String> {
    // Not below `/tmp`, which the lab does not see.
    let copy = tempfile::tempdir_in(checkout.state()).context("there is no place for a copy of deploy/")?;
    let folders = ["deploy", "crds"].map(|folder| checkout.root().join(folder));
    check(Command::new("cp").arg("-r").args(folders).arg(copy.path()))?;
    let file = copy.path().join("deploy/kustomization.yaml");
    let text = fs::read_to_string(&file).context("deploy/kustomization.yaml cannot be read")?;
    fs::write(&file, format!("{text}components:\n- namespaced\n")).context("the copy cannot be written")?;
    lab.kubectl().run(&["kustomize", &copy.path().join("deploy").display().to_string()])
}

fn judge(lab: &Lab, inside: &Kubectl, outside: &Kubectl, log: &mut Log) -> Result<()> {
    let bound = lab.kubectl().json(&["get", "clusterrolebindings"])?;
    let ours = |binding: &&Value| {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        subjects
            .clone()
            .any(|subject| subject["kind"] == "ServiceAccount" && subject["namespace"] == operator::NAMESPACE)
    };
    let bound = bound["items"].as_array().into_iter().flatten().find(ours);
    ensure!(bound.is_none(), "something is granted in the cluster: {bound:?}");

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
        "spec": {"selector": {"app": "shop"}, "ports": [{"name": "http", "port": 80}]}});
    let spec = json!({"limits": {"perClient": {"activeRequests": 5}, "perServer": {"mode": "Unlimited"}}, "timeouts": {"request": "3s"}});
    // First outside, so that a policy inside that is served tells that there was time enough.
    for kubectl in [outside, inside] {
        kubectl.apply(&service.to_string())?;
        kubectl.apply(&policy("shop", "shop", &spec))?;
    }
    let served = inside.until("the policy inside is programmed", SOON, |kubectl| {
        let policy = kubectl.json(&["get", "resilience", "shop"])?;
        let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_so = conditions.iter().any(|one| one["type"] == "Programmed" && one["status"] == "True");
        Ok(if is_so { Seen::Done(policy) } else { Seen::NotYet(policy["status"].to_string()) })
    })?;
    for kind in ["sidecar", "destinationrule", "virtualservice"] {
        inside.run(&["get", kind, "shop"]).with_context(|| format!("no {kind} was generated"))?;
    }
    let warnings = served["status"]["warnings"].to_string();
    ensure!(
        warnings.contains("RES073") && warnings.contains("works in some namespaces only"),
        "the policy does not say what is not seen: {warnings}"
    );
    ensure!(!warnings.contains("may not be read"), "a right of Istio's root namespace is missing: {warnings}");
    let left = outside.json(&["get", "resilience", "shop"])?;
    // As the API server itself has it for a new object.
    let is_untouched = left["status"] == json!({"observedGeneration": -1});
    ensure!(is_untouched, "the policy outside was touched: {}", left["status"]);
    let generated = outside.run(&["get", "sidecars,destinationrules,virtualservices", "-o", "name"])?;
    ensure!(generated.trim().is_empty(), "generated outside: {generated}");

    let mut asked = 0;
    for request in log.read()?.iter().filter(|one| one.is_by_the_operator()) {
        ensure!(!request.is_denied(), "a right is missing: {request}: {}", request.message);
        let of = request.namespace.as_deref();
        let known = [inside.current_namespace(), operator::NAMESPACE, "istio-system"];
        let is_known = of.map_or(request.what.starts_with('/'), |of| known.contains(&of));
        ensure!(is_known, "asked beyond its namespaces: {request}");
        asked += 1;
    }
    ensure!(asked > 0, "the audit log has nothing of the operator since it was installed");
    Ok(())
}

fn restore(checkout: &Checkout, lab: &Lab) -> Result<()> {
    let deploy = checkout.root().join("deploy").display().to_string();
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-k", &deploy];
    lab.kubectl().run(&apply)?;
    let system = lab.namespace(operator::NAMESPACE);
    system.run(&["delete", "role,rolebinding", "resilience-operator-events", "--ignore-not-found"])?;
    lab.namespace("istio-system").run(&["delete", "role,rolebinding", operator::ACCOUNT, "--ignore-not-found"])?;
    system.rolled_out("deployment/resilience-operator", SOON * 2)
}
