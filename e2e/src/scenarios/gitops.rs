//! A policy that is applied from Git: those who apply judge its state rightly, and neither they nor the operator
//! undo what the other does.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::stage::{SOON, until_condition};
use crate::audit::{self, Log};
use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::parts;
use crate::report::Report;
use crate::run::{check_with_input, finish_with_input};
use crate::wait;

/// What kstatus and the health check for Argo CD make of an object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    kstatus: String,
    kstatus_message: String,
    argo: String,
    argo_message: String,
}

/// The two judges (`e2e/gitops`).
struct Judges {
    program: PathBuf,
    health: PathBuf,
}

impl Judges {
    fn get(checkout: &Checkout) -> Result<Self> {
        let place = parts::gitops(checkout, &Cache::open()?, &Report::new())?;
        Ok(Self { program: place.join("bin/gitops"), health: checkout.root().join("deploy/argo-cd/health.lua") })
    }

    fn ask(&self, object: &Value) -> Result<Verdict> {
        let said = check_with_input(Command::new(&self.program).arg(&self.health), &format!("{object}\n"))?;
        serde_json::from_str(&said).with_context(|| format!("no verdict: {said}"))
    }

    /// What both must say of a state.
    fn agree(&self, state: &str, object: &Value, kstatus: &str, argo: &str) -> Result<()> {
        let said = self.ask(object)?;
        let is_right = said.kstatus == kstatus && said.argo == argo;
        ensure!(is_right, "{state}: {kstatus} and {argo} are right, and {said:?} was said of {}", object["status"]);
        println!("{state}: {} ({}), {} ({})", said.kstatus, said.kstatus_message, said.argo, said.argo_message);
        Ok(())
    }
}

fn service(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}, {"name": "tcp", "port": 81}]}})
    .to_string()
}

/// As it is in a repository, with what Flux and Argo CD add before they apply.
fn in_git(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["targetRefs"] = json!([{"kind": "Service", "name": name}]);
    json!({"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
        "metadata": {"name": name, "labels": {FLUX: "shop", ARGO: "shop"}, "annotations": {TRACKING: "shop:resilience.dev/Resilience:shop/shop"}},
        "spec": spec})
}

const FLUX: &str = "kustomize.toolkit.fluxcd.io/name";
const ARGO: &str = "app.kubernetes.io/instance";
const TRACKING: &str = "argocd.argoproj.io/tracking-id";
/// By whose names the two apply.
const APPLIERS: [&str; 2] = ["kustomize-controller", "argocd-controller"];

fn apply_as(kubectl: &Kubectl, applier: &str, object: &Value) -> Result<()> {
    let manager = format!("--field-manager={applier}");
    let args = ["apply", "--server-side", "--force-conflicts", &manager, "-f", "-"];
    check_with_input(&mut kubectl.command(&args)?, &object.to_string()).map(drop)
}

/// Each state of a policy, as it is on a real API server, gets the right word from both.
///
/// # Errors
/// When it gets another one.
pub fn judges_agree(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let judges = Judges::get(checkout)?;
    with_namespace(&lab, "gitops-judged", |kubectl| {
        let limited = json!({"limits": {"perClient": {"activeRequests": 10}, "perServer": {"mode": "Unlimited"}}});
        // What is answered to a creation is there before the operator can have looked.
        let mut create = kubectl.command(&["create", "-f", "-", "-o", "json"])?;
        let created = check_with_input(&mut create, &in_git("shop", &limited).to_string())?;
        judges.agree("not looked at yet", &serde_json::from_str(&created)?, "InProgress", "Progressing")?;
        judges.agree(
            "without its Service",
            &until_condition(kubectl, "shop", "Accepted", "False")?,
            "InProgress",
            "Progressing",
        )?;
        kubectl.apply(&service("shop"))?;
        let ready = until_condition(kubectl, "shop", "Ready", "True")?;
        judges.agree("as the spec says", &ready, "Current", "Healthy")?;
        let mut edited = ready.clone();
        edited["metadata"]["generation"] = json!(ready["metadata"]["generation"].as_i64().unwrap_or_default() + 1);
        judges.agree("edited a moment ago", &edited, "InProgress", "Progressing")?;
        judges.agree("not in effect", &not_in_effect(&ready), "InProgress", "Degraded")?;

        // The second of a Service is the one that must go: it is younger, and of the same second it comes later by
        // its name.
        let mut second = in_git("shop", &limited);
        second["metadata"]["name"] = json!("shop-too");
        apply_as(kubectl, APPLIERS[0], &second)?;
        judges.agree(
            "somebody else has the host",
            &until_condition(kubectl, "shop-too", "Stalled", "True")?,
            "Failed",
            "Degraded",
        )?;
        let faulty = json!({"ports": [{"port": 81, "timeouts": {"request": "1s"}}]});
        kubectl.apply(&service("faulty"))?;
        apply_as(kubectl, APPLIERS[0], &in_git("faulty", &faulty))?;
        judges.agree("with a fault", &until_condition(kubectl, "faulty", "Stalled", "True")?, "Failed", "Degraded")?;

        let with_mode = |mode: &str| {
            let mut spec = limited.clone();
            spec["mode"] = json!(mode);
            apply_as(kubectl, APPLIERS[0], &in_git("shop", &spec))
        };
        with_mode("Suspend")?;
        judges.agree(
            "suspended as it should be",
            &until_condition(kubectl, "shop", "Ready", "True")?,
            "Current",
            "Suspended",
        )?;
        with_mode("Observe")?;
        judges.agree("observing", &until_condition(kubectl, "shop", "Ready", "False")?, "InProgress", "Suspended")?;

        kubectl.run(&[
            "patch",
            "resilience",
            "shop",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["example.com/held"]}}"#,
        ])?;
        kubectl.run(&["delete", "resilience", "shop", "--wait=false"])?;
        let going = kubectl.json(&["get", "resilience", "shop"])?;
        kubectl.run(&["patch", "resilience", "shop", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
        let said = judges.ask(&going)?;
        ensure!(said.kstatus == "Terminating", "being deleted: {said:?}");
        Ok(())
    })
}

/// As the operator says it when another rule counts; the scenarios of `InEffect` see it on a cluster.
fn not_in_effect(ready: &Value) -> Value {
    let mut object = ready.clone();
    for one in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if one["type"] == "InEffect" || one["type"] == "Ready" {
            one["status"] = json!("False");
            one["message"] = json!("another rule counts");
        }
    }
    object
}

/// Applied again and again by both, nothing changes, nothing shows as different, and nothing that is generated is
/// theirs to prune.
///
/// # Errors
/// When one of these is not so.
pub fn is_let_alone(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    with_namespace(&lab, "gitops-applied", |kubectl| {
        let spec = json!({"limits": {"perClient": {"activeRequests": 10}, "perServer": {"mode": "Unlimited"}}, "timeouts": {"request": "3s"}});
        let policy = in_git("shop", &spec);
        let mut log = Log::from_now(checkout)?;
        kubectl.apply(&service("shop"))?;
        APPLIERS.iter().try_for_each(|applier| apply_as(kubectl, applier, &policy))?;
        until_condition(kubectl, "shop", "Ready", "True")?;
        let before = generated(kubectl)?;
        ensure!(before.len() == 3, "a Sidecar, a rule and routes should be there: {before:?}");

        let (still, here) = (Duration::from_secs(3), kubectl.current_namespace());
        // Events come beside the work, and so later.
        let mut settled = || {
            wait::until_unchanged("the operator's writes", SOON, still, || Ok(audit::work_in(log.read()?, here).len()))
        };
        let made = settled()?;
        ensure!(made > 0, "the audit log shows no write of the operator at all");
        for applier in APPLIERS.iter().cycle().take(6) {
            apply_as(kubectl, applier, &policy)?;
            let manager = format!("--field-manager={applier}");
            let args = ["diff", "--server-side", "--force-conflicts", &manager, "-f", "-"];
            let shown = finish_with_input(&mut kubectl.command(&args)?, &policy.to_string())?;
            ensure!(shown.status.success(), "{applier} sees a difference: {}", shown.all());
        }
        let writes = settled()?;
        ensure!(writes == made, "the operator wrote: {:?}", &audit::work_in(log.read()?, here)[made..]);
        ensure!(generated(kubectl)? == before, "what is generated was written");

        for theirs in [FLUX, ARGO] {
            let found = kubectl.run(&["get", &format!("resiliences,{KINDS}"), "-l", theirs, "-o", "name"])?;
            ensure!(found.trim() == "resilience.resilience.dev/shop", "with the label {theirs}: {found}");
        }
        Ok(())
    })
}

const KINDS: &str = "sidecars,destinationrules,virtualservices";

/// What is generated, with its version; none carries a mark of those who apply.
fn generated(kubectl: &Kubectl) -> Result<Vec<(String, String)>> {
    let list = kubectl.json(&["get", KINDS])?;
    let one = |object: &Value| {
        let metadata = object["metadata"].to_string();
        ensure!(![FLUX, ARGO, TRACKING].iter().any(|mark| metadata.contains(mark)), "a mark went along: {metadata}");
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Ok((format!("{} {}", object["kind"], text("name")), text("resourceVersion")))
    };
    list["items"].as_array().into_iter().flatten().map(one).collect()
}
