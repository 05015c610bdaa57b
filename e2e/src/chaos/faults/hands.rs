//! What other people do to our objects, beside them, and to the policies.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::chaos::plan::{self, NAMESPACES, Wish};
use crate::chaos::stage::{SOON, Stage, bare, yaml};
use crate::kubectl::Kubectl;
use crate::run::{check_with_input, finish_with_input};
use crate::wait::{self, Seen};

/// What holds an object that is deleted.
const FINALIZER: &str = "chaos.example/holds";

/// Some generated objects are edited, stripped, held or deleted.
pub fn on_what_we_generated(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let mut bites = 0;
    for _ in 0..random.u32(3..7) {
        let slot = stage.some_slot(random)?;
        let kubectl = stage.lab.namespace(plan::namespace(slot));
        let (rules, routes) = ("destinationrule", "virtualservice");
        let (kind, patch) = match random.u32(0..10) {
            0 => (rules, json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 7}}}}})),
            1 => (rules, json!({"spec": {"exportTo": ["."]}})),
            2 => (rules, json!({"metadata": {"labels": {"resilience.dev/owner-uid": null}}})),
            3 => (rules, json!({"metadata": {"ownerReferences": null}})),
            4 => (rules, json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}})),
            5 => (routes, json!({"metadata": {"ownerReferences": null}})),
            6 => (routes, json!({"spec": {"gateways": ["mesh", "outside"]}})),
            7 => (rules, json!({"metadata": {"finalizers": [FINALIZER]}})),
            8 => (rules, Value::Null),
            _ => (routes, Value::Null),
        };
        let name = plan::name(slot);
        // Beside the user and the operator: it may not be there at the moment.
        let done = if patch.is_null() {
            kubectl.try_run(&["delete", kind, &name, "--wait=false"])?
        } else {
            kubectl.try_run(&["patch", kind, &name, "--type=merge", "-p", &patch.to_string()])?
        };
        bites += u64::from(done.status.success());
        if patch.pointer("/metadata/finalizers").is_some() {
            kubectl.try_run(&["delete", kind, &name, "--wait=false"])?;
        }
    }
    heal(stage)?;
    Ok(bites)
}

/// Nothing is held any more.
pub fn heal(stage: &Stage) -> Result<()> {
    for namespace in NAMESPACES {
        let kubectl = stage.lab.namespace(namespace);
        let list = kubectl.json(&["get", "destinationrules"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        for item in items.iter().filter(|item| item["metadata"]["finalizers"].to_string().contains(FINALIZER)) {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            let patch = r#"{"metadata": {"finalizers": null}}"#;
            kubectl.try_run(&["patch", "destinationrule", name, "--type=merge", "-p", patch])?;
        }
        kubectl.run(&["delete", "destinationrule", FOREIGN, "--ignore-not-found"])?;
    }
    Ok(())
}

const FOREIGN: &str = "of-somebody-else";

/// Somebody has a rule for a host of ours, for a while: it is named, and not touched.
pub fn rule_of_somebody_else(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(usize::MAX)?;
    let slot = stage.some_slot(random)?;
    let (namespace, name) = (plan::namespace(slot), plan::name(slot));
    let kubectl = stage.lab.namespace(namespace);
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": FOREIGN},
        "spec": {"host": format!("{name}.{namespace}.svc.cluster.local"), "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 5}}}},
    });
    kubectl.apply(&rule.to_string())?;
    let before = version(&kubectl, FOREIGN)?;
    kubectl.until("the status names the rule of somebody else", SOON, |kubectl| {
        let status = kubectl.json(&["get", "resilience", &name])?["status"].to_string();
        Ok(if status.contains(FOREIGN) { Seen::Done(()) } else { Seen::NotYet(status) })
    })?;
    ensure!(version(&kubectl, FOREIGN)? == before, "the rule of somebody else was touched");
    kubectl.run(&["delete", "destinationrule", FOREIGN])?;
    Ok(1)
}

fn version(kubectl: &Kubectl, rule: &str) -> Result<String> {
    kubectl.run(&["get", "destinationrule", rule, "-o", "jsonpath={.metadata.uid} {.metadata.resourceVersion}"])
}

/// Policies are deleted and created under the same names at once: other uids, and often one event for both.
pub fn made_anew(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(usize::MAX)?;
    let wishes = stage.wishes();
    let mut chosen: Vec<_> = wishes.iter().filter(|_| random.bool()).collect();
    if chosen.is_empty() {
        chosen.extend(&wishes);
    }
    let (mut bites, mut refusals) = (0, String::new());
    for (slot, wish) in chosen {
        let (namespace, name) = (plan::namespace(*slot), plan::name(*slot));
        let document = plan::policy(namespace, &name, *wish).to_string();
        let words = ["replace", "--force", "--cascade=background", "--grace-period=0", "-f", "-"];
        let answer = finish_with_input(&mut stage.kubectl().command(&words)?, &document)?;
        if answer.status.success() {
            bites += 1;
        } else {
            refusals.push_str(&answer.all());
        }
    }
    ensure!(bites > 0 || wishes.is_empty(), "no policy was replaced: {refusals}");
    Ok(bites)
}

/// A namespace goes while the operator writes into it.
pub fn namespace_goes(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let namespace = format!("chaos-gone-{}", random.u32(..));
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    stage.kubectl().apply(&made.to_string())?;
    let documents = (0..20).flat_map(|number| {
        let (name, wish) = (plan::name(number), Wish { value: 1000 + number, observe: false });
        [plan::service(&namespace, &name), plan::policy(&namespace, &name, wish)]
    });
    stage.kubectl().apply(&yaml(documents))?;
    let kubectl = stage.lab.namespace(&namespace);
    let at_least = random.usize(1..10);
    kubectl.until("the operator writes there", SOON, |kubectl| {
        let found = kubectl.run(&["get", "destinationrules", "-o", "name"])?.lines().count();
        Ok(if found >= at_least { Seen::Done(()) } else { Seen::NotYet(format!("{found} rules")) })
    })?;
    stage.kubectl().run(&["delete", "namespace", &namespace, "--wait=false"])?;
    wait::until("the namespace goes", SOON, || {
        let left = stage.kubectl().run(&["get", "namespace", &namespace, "--ignore-not-found", "-o", "yaml"])?;
        Ok(if left.trim().is_empty() { Seen::Done(1) } else { Seen::NotYet(left) })
    })
}

/// A namespace is lost, and comes back from a backup: other uids, other times, generated objects first, with owners that
/// are no more.
pub fn restored_from_a_backup(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(usize::MAX)?;
    // The other one has the bystanders.
    let namespace = NAMESPACES[1];
    let kubectl = stage.lab.namespace(namespace);
    let mut backup = Vec::new();
    for kind in ["destinationrules", "virtualservices", "services", "resiliences"] {
        let list = kubectl.json(&["get", kind])?;
        backup.extend(list["items"].as_array().cloned().unwrap_or_default().into_iter().map(|item| {
            let mut item = bare(item);
            if kind == "services"
                && let Some(spec) = item["spec"].as_object_mut()
            {
                spec.remove("clusterIP");
                spec.remove("clusterIPs");
            }
            item
        }));
    }
    stage.kubectl().run(&["delete", "namespace", namespace, "--timeout=60s"])?;
    stage.make_namespaces()?;
    let bites = backup.len() as u64;
    check_with_input(&mut kubectl.command(&["create", "-f", "-"])?, &yaml(backup))?;
    Ok(bites)
}
