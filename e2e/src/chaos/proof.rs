//! Each guard of a chaos run is seen to bite: what it is there for is done by hand, on the lab, and it must say so. The
//! operator is not the culprit here; a hand is.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::plan::{self, NAMESPACES, Wish, Wishes};
use super::settle::judged;
use super::stage::{BYSTANDER, SOON, Stage};
use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::replicas;
use crate::report::Report;
use crate::run::check_with_input;
use crate::wait::{self, Seen};

/// Does what must not be.
type Cause = fn(&Stage) -> Result<()>;

/// Puts the cause of each violation there, and waits until it is told.
///
/// # Errors
/// When one is not told.
pub fn guards_see(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let report = Report::new();
    let wishes: Wishes = (0..plan::SLOTS).map(|slot| (slot, Wish { value: slot + 1, observe: false })).collect();
    let stage = Stage::set(&lab, wishes, &report)?;
    let seen = super::settle::settle(&stage, SOON * 2).and_then(|_| all(&stage, &report));
    stage.restore()?;
    seen
}

fn all(stage: &Stage, report: &Report) -> Result<()> {
    let causes: [(&str, &str, Cause); 5] = [
        ("two rules of ours for a host", "two rules of ours for", two_rules),
        ("a generated object without an owner", "without an owner", no_owner),
        ("a status that claims what is not there", "claims more than was seen", false_claim),
        ("a write by a replica that does not lead", "did not lead", write_of_a_standby),
        ("a write of what is of somebody else", "is of somebody else", foreign_write),
    ];
    let before = judged(stage)?;
    ensure!(before.is_empty(), "something is wrong before anything was done:\n{}", before.join("\n"));
    for (what, words, cause) in causes {
        report.step(&format!("seen: {what}"), || {
            cause(stage)?;
            wait::until(&format!("{what} is told"), SOON, || {
                let told = judged(stage)?;
                Ok(if told.iter().any(|line| line.contains(words)) {
                    Seen::Done(())
                } else {
                    Seen::NotYet(told.join("\n"))
                })
            })
        })?;
    }
    Ok(())
}

/// Under the operator's own name, as only it writes.
fn as_the_operator(stage: &Stage, document: &serde_json::Value) -> Result<()> {
    let kubectl = stage.lab.namespace(NAMESPACES[0]);
    let words = ["apply", "--server-side", "--force-conflicts", "--field-manager=resilience-operator", "-f", "-"];
    check_with_input(&mut kubectl.command(&words)?, &document.to_string()).map(drop)
}

fn two_rules(stage: &Stage) -> Result<()> {
    let slot = 0;
    let host = format!("{}.{}.svc.cluster.local", plan::name(slot), plan::namespace(slot));
    let twin = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "twin", "labels": {"resilience.dev/owner-uid": "chaos"}, "ownerReferences": [owner(stage, slot)?]},
        "spec": {"host": host},
    });
    as_the_operator(stage, &twin)
}

fn owner(stage: &Stage, slot: u32) -> Result<serde_json::Value> {
    let policy = stage.lab.namespace(plan::namespace(slot)).json(&["get", "resilience", &plan::name(slot)])?;
    let uid = policy["metadata"]["uid"].clone();
    Ok(json!({"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "name": plan::name(slot), "uid": uid}))
}

fn no_owner(stage: &Stage) -> Result<()> {
    let orphan = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "orphan", "labels": {"resilience.dev/owner-uid": "chaos"}},
        "spec": {"host": "orphan.example"},
    });
    as_the_operator(stage, &orphan)
}

/// While no operator runs that would correct it: one edit, and a status that says that it is done.
fn false_claim(stage: &Stage) -> Result<()> {
    replicas::scale(&stage.lab, 0)?;
    let (namespace, name) = (plan::namespace(2), plan::name(2));
    stage.kubectl().apply(&plan::policy(namespace, &name, Wish { value: 99, observe: false }).to_string())?;
    let kubectl = stage.lab.namespace(namespace);
    let policy = kubectl.json(&["get", "resilience", &name])?;
    let generation = policy["metadata"]["generation"].clone();
    let mut conditions = policy["status"]["conditions"].clone();
    for condition in conditions.as_array_mut().into_iter().flatten() {
        condition["observedGeneration"] = generation.clone();
    }
    let patch = json!({"status": {"observedGeneration": generation, "conditions": conditions}}).to_string();
    kubectl.run(&["patch", "resilience", &name, "--subresource=status", "--type=merge", "-p", &patch])?;
    let told = wait::until_true("the claim is overdue", SOON, || {
        Ok(!stage.watcher.broken().iter().all(|line| !line.contains("claims more")))
    });
    replicas::scale(&stage.lab, 2)?;
    replicas::ready(&stage.lab)?;
    told
}

/// With the token of the pod that stands by.
fn write_of_a_standby(stage: &Stage) -> Result<()> {
    let leader = replicas::ready(&stage.lab)?;
    let pods = replicas::pods(&stage.lab)?;
    let standby = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).find(|name| *name != leader);
    with_token_of(stage, standby.context("nobody stands by")?, plan::namespace(0), &plan::name(0))
}

/// With the token of the one that leads.
fn foreign_write(stage: &Stage) -> Result<()> {
    let leader = replicas::ready(&stage.lab)?;
    with_token_of(stage, &leader, NAMESPACES[0], BYSTANDER)
}

/// Writes a rule with the token of a pod. An apply, since that needs no right to read.
fn with_token_of(stage: &Stage, pod: &str, namespace: &str, name: &str) -> Result<()> {
    let system = replicas::system(&stage.lab);
    let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod];
    let token = system.run(&[&["create", "token", "resilience-operator"][..], &bound].concat())?;
    let authority = stage.lab.checkout().state().join("pki/ca.crt");
    let server = format!("https://{}:6443", crate::sandbox::NODE_ADDRESS);
    // Without the administrator's certificate, which would go before the token.
    let mut command = stage.lab.inside("kubectl")?;
    command.args(["--kubeconfig=/dev/null", "--server", &server, "--token", token.trim()]);
    command.arg("--certificate-authority").arg(authority);
    command.args(["apply", "--server-side", "--field-manager=chaos", "--validate=false", "-n", namespace, "-f", "-"]);
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name},
        "spec": {"exportTo": ["."]}});
    check_with_input(&mut command, &rule.to_string()).map(drop)
}
