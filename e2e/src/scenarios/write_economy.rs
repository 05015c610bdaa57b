//! How many writes a policy costs, counted at the API server: three when it is made, two when one half of it changes,
//! none when the operator starts anew, and none when it looks at everything again. Events are told apart.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, policy};
use crate::audit::{self, Log};
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::operator;
use crate::replicas;
use crate::wait::{self, Seen};

const POLICIES: u32 = 50;

const RULES: &str = "networking.istio.io/destinationrules";
const ROUTES: &str = "networking.istio.io/virtualservices";
const STATUS: &str = "resilience.dev/resiliences/status";

/// Fifty policies: no write more than it takes, at any step of their life.
///
/// # Errors
/// When there is one more, or one less.
pub fn is_kept(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let deployment = looks_again_soon(checkout, &lab)?;
    let seen = live(checkout, &lab);
    // Whatever happened: the other scenarios have it as it is deployed.
    let restored = deployment.restore();
    seen.and(restored)
}

fn live(checkout: &Checkout, lab: &Lab) -> Result<()> {
    with_namespace(lab, "write-economy", |kubectl| {
        let services = (0..POLICIES).map(|number| {
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": called(number)}, "spec": {"ports": [{"name": "http", "port": 80}]}})
            .to_string()
        });
        kubectl.apply(&services.collect::<Vec<_>>().join("\n---\n"))?;
        let count = |what: &'static str, work: &dyn Fn() -> Result<()>, wanted: [u32; 3]| {
            let mut log = Log::from_now(checkout)?;
            work()?;
            let found = at_rest(&mut log, kubectl)?;
            let expected: BTreeMap<_, _> = [RULES, ROUTES, STATUS]
                .into_iter()
                .map(str::to_owned)
                .zip(wanted)
                .filter(|(_, count)| *count > 0)
                .collect();
            ensure!(found == expected, "{what}: {found:?} were written for {POLICIES} policies, not {expected:?}");
            Ok(())
        };
        let apply = |seconds: u32| {
            let policies = (0..POLICIES).map(|number| policy(&called(number), &called(number), &spec(seconds)));
            kubectl.apply(&policies.collect::<Vec<_>>().join("\n---\n"))?;
            until_programmed(kubectl)
        };
        count("made", &|| apply(3), [POLICIES; 3])?;
        count("changed in their routes", &|| apply(4), [0, POLICIES, POLICIES])?;
        count("looked at again", &|| until_looked_at_again(lab), [0; 3])?;
        count("found by a new leader", &|| restart(lab), [0; 3])
    })
}

fn called(number: u32) -> String {
    format!("service-{number}")
}

/// A rule and routes, no Sidecar; and every number given, so that nothing follows from endpoints.
fn spec(seconds: u32) -> Value {
    json!({
        "ejection": {"consecutive5xx": 5, "interval": "10s", "baseTime": "30s", "maxPercent": 50},
        "timeouts": {"connect": "1s", "request": format!("{seconds}s")},
    })
}

fn until_programmed(kubectl: &Kubectl) -> Result<()> {
    kubectl.until("all are programmed as they are now", SOON * 2, |kubectl| {
        let list = kubectl.json(&["get", "resilience"])?;
        let done = list["items"].as_array().into_iter().flatten().filter(|object| {
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|one| {
                one["type"] == "Programmed"
                    && one["status"] == "True"
                    && Some(&one["observedGeneration"]) == object.pointer("/metadata/generation")
            })
        });
        let done = u32::try_from(done.count())?;
        Ok(if done == POLICIES { Seen::Done(()) } else { Seen::NotYet(format!("{done} of {POLICIES}")) })
    })
}

/// The operator's writes in the namespace but events, by what was written, once there are no more.
fn at_rest(log: &mut Log, kubectl: &Kubectl) -> Result<BTreeMap<String, u32>> {
    let (still, here) = (Duration::from_secs(3), kubectl.current_namespace());
    wait::until_unchanged("the operator's writes", SOON, still, || Ok(audit::work_in(log.read()?, here).len()))?;
    let mut counts = BTreeMap::new();
    for write in audit::work_in(log.read()?, here) {
        if !write.what.ends_with("/events") {
            *counts.entry(write.what.clone()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Waits until the leader has looked at so many policies once more, though nothing happened. Others' scenarios leave
/// few behind, so nearly all of these are ours.
fn until_looked_at_again(lab: &Lab) -> Result<()> {
    let leader = replicas::until_one_leads(lab, SOON)?;
    let begun = reconciles(lab, &leader)?;
    wait::until("policies are looked at again", SOON * 3, || {
        let more = reconciles(lab, &leader)? - begun;
        Ok(if more >= POLICIES { Seen::Done(()) } else { Seen::NotYet(format!("{more} of {POLICIES}")) })
    })
}

/// Another leader, which knows nothing of what the one before did.
fn restart(lab: &Lab) -> Result<()> {
    replicas::system(lab).run(&["rollout", "restart", "deployment/resilience-operator"])?;
    let leader = replicas::ready(lab)?;
    wait::until("the new leader has looked at policies", SOON, || {
        let looked = reconciles(lab, &leader)?;
        Ok(if looked >= POLICIES { Seen::Done(()) } else { Seen::NotYet(format!("{looked} of {POLICIES}")) })
    })
}

fn reconciles(lab: &Lab, pod: &str) -> Result<u32> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy/metrics", operator::NAMESPACE);
    let metrics = lab.kubectl().run(&["get", "--raw", &path])?;
    let counted = metrics.lines().filter_map(|line| {
        line.strip_prefix("resilience_operator_reconciles_total{")?.rsplit_once(' ')?.1.parse::<u32>().ok()
    });
    Ok(counted.sum())
}

/// The operator as it is deployed for everyone, but that it looks at everything each minute.
fn looks_again_soon(checkout: &Checkout, lab: &Lab) -> Result<Deployment> {
    let folder = checkout.state().join("write-economy");
    fs::create_dir_all(&folder)?;
    // From target/lab/state/write-economy.
    let overlay = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../../../../deploy"],
        "patches": [{"target": {"kind": "Deployment", "name": "resilience-operator"}, "patch": json!([{
            "op": "add", "path": "/spec/template/spec/containers/0/env/-",
            "value": {"name": "RESILIENCE_RESYNC", "value": "1m"},
        }]).to_string()}],
    });
    fs::write(folder.join("kustomization.yaml"), overlay.to_string())?;
    let deployment = Deployment { lab: lab.clone(), plain: checkout.root().join("deploy").display().to_string() };
    deployment.apply(&folder.display().to_string())?;
    Ok(deployment)
}

/// The operator's.
struct Deployment {
    lab: Lab,
    plain: String,
}

impl Deployment {
    fn apply(&self, folder: &str) -> Result<()> {
        let words = ["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-k", folder];
        self.lab.kubectl().run(&words)?;
        replicas::ready(&self.lab).map(drop)
    }

    fn restore(&self) -> Result<()> {
        self.apply(&self.plain)
    }
}
