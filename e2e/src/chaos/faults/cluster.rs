//! What administrators do to a cluster: kinds, rights and webhooks go and come.

use anyhow::{Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::chaos::proxy::WEBHOOK_PORT;
use crate::chaos::proxy::webhook::Verdict;
use crate::chaos::stage::{OUR_CRD, SOON, Stage, bare};
use crate::replicas;
use crate::sandbox::NODE_ADDRESS;
use crate::wait::{self, Seen};

/// The name of the webhook's configuration.
const WEBHOOK: &str = "chaos";

/// One of Istio's kinds goes with all its objects, and comes back.
pub fn istios_crds_are_deleted(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let kind = if random.bool() { "destinationrules" } else { "virtualservices" };
    stage.kubectl().run(&["delete", "crd", &format!("{kind}.networking.istio.io"), "--timeout=60s"])?;
    stage.until_edits(usize::MAX)?;
    stage.install_crds()?;
    stage.make_bystanders()?;
    Ok(1)
}

/// Our kind goes with all policies, and comes back without them; the user has them still.
pub fn our_crd_is_deleted(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    stage.kubectl().run(&["delete", "crd", OUR_CRD, "--timeout=60s"])?;
    stage.until_edits(usize::MAX)?;
    stage.install_crds()?;
    Ok(1)
}

/// The operator's role is unbound, or loses the right to write one kind; and gets it back.
pub fn rights_are_withdrawn(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let kubectl = stage.kubectl();
    let what = if random.bool() { "clusterrolebinding" } else { "clusterrole" };
    let was = kubectl.json(&["get", what, "resilience-operator"])?;
    if what == "clusterrolebinding" {
        kubectl.run(&["delete", what, "resilience-operator"])?;
    } else {
        kubectl.apply(&without_routes(bare(was.clone())).to_string())?;
    }
    let denied = stage.until_edits(usize::MAX).and_then(|()| {
        let since = stage.since;
        wait::until("a write is denied", SOON, || {
            let denied = stage.with_log(|writes| {
                writes.iter().filter(|write| write.from >= since && write.pod.is_some() && write.code == 403).count()
            })?;
            Ok(if denied > 0 { Seen::Done(denied as u64) } else { Seen::NotYet("none".to_owned()) })
        })
    });
    kubectl.apply(&bare(was).to_string())?;
    denied
}

/// The role, but for writes of VirtualServices.
fn without_routes(mut role: Value) -> Value {
    for rule in role["rules"].as_array_mut().into_iter().flatten() {
        if rule["resources"].to_string().contains("virtualservices") {
            let mut read = rule.clone();
            read["resources"] = json!(["virtualservices"]);
            read["verbs"] = json!(["get", "list", "watch"]);
            if let Some(resources) = rule["resources"].as_array_mut() {
                resources.retain(|resource| resource != "virtualservices");
            }
            if let Some(rules) = role["rules"].as_array_mut() {
                rules.push(read);
            }
            break;
        }
    }
    role
}

/// A webhook refuses whatever we write.
pub fn webhook_refuses(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    under_webhook(stage, Verdict::Refuse, 2)
}

/// A webhook says nothing, until the API server is tired of it.
pub fn webhook_hangs(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    under_webhook(stage, Verdict::Hang, 2)
}

fn under_webhook(stage: &Stage, verdict: Verdict, at_least: u64) -> Result<u64> {
    let authority = std::fs::read(stage.lab.checkout().state().join("pki/ca.crt"))?;
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": WEBHOOK},
        "webhooks": [{
            "name": "chaos.resilience.example",
            "clientConfig": {"url": format!("https://{NODE_ADDRESS}:{WEBHOOK_PORT}/"), "caBundle": BASE64_STANDARD.encode(&authority)},
            "rules": [{"apiGroups": ["networking.istio.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["destinationrules", "virtualservices", "sidecars"]}],
            "namespaceSelector": {"matchLabels": {"resilience-lab": "chaos"}},
            "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        }],
    });
    stage.set_webhook(verdict)?;
    stage.kubectl().apply(&configuration.to_string())?;
    let bites = stage.until_bitten(at_least);
    stage.set_webhook(Verdict::Allow)?;
    heal(stage)?;
    bites
}

/// The webhook goes, and istiod is there.
pub fn heal(stage: &Stage) -> Result<()> {
    stage.kubectl().run(&["delete", "validatingwebhookconfiguration", WEBHOOK, "--ignore-not-found"])?;
    let istio = stage.lab.namespace("istio-system");
    istio.run(&["scale", "deployment", "istiod", "--replicas=1"])?;
    istio.rolled_out("deployment/istiod", SOON * 2)
}

/// Istio's own webhook has nobody who answers.
pub fn istiod_is_away(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    let istio = stage.lab.namespace("istio-system");
    istio.run(&["scale", "deployment", "istiod", "--replicas=0"])?;
    let gone = istio.until("istiod has gone", SOON, |kubectl| {
        let pods = kubectl.run(&["get", "pods", "-l", "app=istiod", "-o", "name"])?;
        Ok(if pods.trim().is_empty() { Seen::Done(()) } else { Seen::NotYet(pods) })
    });
    let through = gone.and_then(|()| stage.until_edits(usize::MAX));
    heal(stage)?;
    through?;
    ensure!(!replicas::pods(&stage.lab)?.is_empty(), "the operator went with istiod");
    Ok(1)
}
