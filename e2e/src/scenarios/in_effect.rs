//! What the object says of proxies, beside what istiod's own list and the Envoys say: three clients in two
//! namespaces, two istiods. The identity is set up for the scenario, with a short grace, and taken away after.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::stage::{PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::operator;
use crate::replicas::{process_of, signal};
use crate::wait::Seen;
use crate::workloads::{start_client_in, with_images};

/// How long a laggard may lag here.
const GRACE: Duration = Duration::from_secs(8);

/// Where istiod is.
const ROOT: &str = "istio-system";

/// A home with a client and the server, and two clients away.
struct Mesh<'a> {
    lab: &'a Lab,
    stage: &'a Stage<'a>,
    away: &'a Kubectl,
}

/// Three clients of two istiods are counted; one whose proxy is stopped is named, and matters after the grace.
///
/// # Errors
/// When the counts are others than istiod's own, or `Ready` is lost too soon, or not at all.
pub fn counts(checkout: &Checkout) -> Result<()> {
    on_mesh(checkout, "in-effect-counts", 2, |mesh| {
        let home = mesh.stage.kubectl;
        mesh.until_spread()?;
        mesh.is("True", "InEffect")?;
        home.until("as many proxies as the istiods have", SOON, |_| {
            let (counted, connected) = (mesh.proxies()?, u64::try_from(mesh.connected()?.concat().len())?);
            let all = json!({"total": connected, "inEffect": connected});
            Ok(if counted == all { Seen::Done(()) } else { Seen::NotYet(format!("{counted}, and not {all}")) })
        })?;
        let stopped = pod(mesh.away, "second")?;
        let envoy = process_of(mesh.lab, &stopped, b"/usr/local/bin/envoy\0")?;
        signal(envoy, Signal::SIGSTOP)?;
        let judged = mesh.judge_laggard(&stopped);
        signal(envoy, Signal::SIGCONT)?;
        judged?;
        mesh.is("True", "InEffect")?;
        mesh.stage.until_condition("httpbin", "Ready", "True").map(drop)
    })
}

/// A rule in a client's namespace, and then a patch that its Envoy refuses.
///
/// # Errors
/// When one is not told with name or words, or does not heal.
pub fn names(checkout: &Checkout) -> Result<()> {
    on_mesh(checkout, "in-effect-names", 1, |mesh| {
        mesh.is("True", "InEffect")?;
        let theirs = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "theirs"},
            "spec": {"host": mesh.stage.host(), "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 900}}}},
        });
        mesh.away.apply(&theirs.to_string())?;
        let said = mesh.is("False", "Shadowed")?;
        let name = format!("DestinationRule {}/theirs is what counts for", mesh.away.current_namespace());
        ensure!(said.contains(&name) && said.contains("fortio-") && said.contains("second-"), "{said}");
        mesh.away.delete(&theirs.to_string())?;
        mesh.is("True", "InEffect")?;

        let broken = broken(&mesh.stage.host());
        mesh.away.apply(&broken.to_string())?;
        let said = mesh.is("False", "RefusedByProxy")?;
        let words = format!("Error adding/updating cluster(s) outbound|{PORT}||{}: ", mesh.stage.host());
        ensure!(said.contains(&words) && said.contains("fortio-"), "not Envoy's words: {said}");
        mesh.stage.until_condition("httpbin", "Ready", "False")?;
        mesh.away.delete(&broken.to_string())?;
        mesh.is("True", "InEffect")?;
        mesh.stage.until_condition("httpbin", "Ready", "True").map(drop)
    })
}

impl Mesh<'_> {
    /// Waits until InEffect says so, with this reason; what it says.
    fn is(&self, status: &str, reason: &str) -> Result<String> {
        self.stage.kubectl.until(&format!("InEffect={status}, {reason}"), SOON * 2, |_| {
            let said = self.condition("InEffect")?;
            let right = said["status"] == status && said["reason"] == reason;
            let message = said["message"].as_str().unwrap_or_default().to_owned();
            Ok(if right { Seen::Done(message) } else { Seen::NotYet(said.to_string()) })
        })
    }

    fn condition(&self, kind: &str) -> Result<Value> {
        let object = self.stage.kubectl.json(&["get", "resilience", "httpbin"])?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default())
    }

    fn proxies(&self) -> Result<Value> {
        Ok(self.stage.kubectl.json(&["get", "resilience", "httpbin"])?["status"]["targets"][0]["proxies"].clone())
    }

    /// A stopped proxy: named at once, `Ready` stays for the grace, and then not.
    fn judge_laggard(&self, pod: &str) -> Result<()> {
        self.stage.apply_policy("httpbin", &json!({"limits": {"perClient": {"activeRequests": 60}}}))?;
        let name = format!("not acknowledged by {pod}.{}", self.away.current_namespace());
        self.stage.kubectl.until(&format!("{name} is said"), SOON, |_| {
            let (said, ready) = (self.condition("InEffect")?, self.condition("Ready")?);
            ensure!(ready["status"] == "True", "Ready is lost within the grace: {said}");
            let named = said["message"].as_str().is_some_and(|message| message.contains(&name));
            Ok(if named && said["reason"] == "Progressing" { Seen::Done(()) } else { Seen::NotYet(said.to_string()) })
        })?;
        let said = self.is("False", "Lagging")?;
        ensure!(said.contains(&name), "{said}");
        self.stage.until_condition("httpbin", "Ready", "False").map(drop)
    }

    /// The sidecars of each istiod, by its own list.
    fn connected(&self) -> Result<Vec<Vec<String>>> {
        let root = self.lab.namespace(ROOT);
        let pods = root.json(&["get", "pods", "-l", "app=istiod", "--field-selector=status.phase=Running"])?;
        let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        let ask = |name: &str| {
            let text = root.exec(name, "discovery", &["pilot-discovery", "request", "GET", "/debug/syncz"])?;
            let list: Vec<Value> = serde_json::from_str(text.trim()).context("istiod's list is no JSON")?;
            let sidecars = list.iter().filter(|proxy| proxy["proxy_type"] == "sidecar");
            Ok(sidecars.filter_map(|proxy| proxy["proxy"].as_str()).map(str::to_owned).collect())
        };
        names.map(ask).collect()
    }

    /// Starts a client anew until both istiods have some of ours: which one a proxy comes to is chance.
    fn until_spread(&self) -> Result<()> {
        let namespaces = [self.stage.kubectl.current_namespace(), self.away.current_namespace()];
        let of_ours = |proxies: &Vec<String>| {
            proxies.iter().any(|proxy| proxy.split_once('.').is_some_and(|(_, space)| namespaces.contains(&space)))
        };
        self.away.until("both istiods have proxies of ours", SOON * 2, |away| {
            let connected = self.connected()?;
            if connected.len() == 2 && connected.iter().all(of_ours) {
                return Ok(Seen::Done(()));
            }
            away.run(&["rollout", "restart", "deployment/second"])?;
            away.rolled_out("deployment/second", SOON)?;
            Ok(Seen::NotYet(format!("{connected:?}")))
        })
    }
}

fn on_mesh(checkout: &Checkout, name: &str, istiods: u8, play: impl FnOnce(&Mesh<'_>) -> Result<()>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    on_stage(checkout, name, |stage| {
        with_namespace(&lab, &format!("{name}-away"), |away| {
            let mesh = Mesh { lab: &lab, stage, away };
            stage.policy(&json!({"limits": {"perClient": {"activeRequests": 50}}, "timeouts": {"request": "7s"}}))?;
            // As the lab's operator is, and as everybody's is by default.
            let said = mesh.is("Unknown", "NoIdentity")?;
            ensure!(said.contains("docs/in-effect.md"), "no cure is told: {said}");
            let played = scale(&lab, istiods).and_then(|()| set_up(checkout, &lab)).and_then(|()| {
                start_client_in(checkout, away)?;
                add_second(checkout, away)?;
                play(&mesh)
            });
            // Whatever happened.
            let back = take_away(checkout, &lab).and_then(|()| scale(&lab, 1));
            played.and(back)
        })
    })
}

fn add_second(checkout: &Checkout, away: &Kubectl) -> Result<()> {
    let clients = with_images(&manifest(checkout, "measured-clients.yaml")?);
    let second = clients.split("\n---\n").find(|document| document.contains("name: second,"));
    away.apply(second.context("measured-clients.yaml has no second client")?)?;
    away.rolled_out("deployment/second", SOON * 2)
}

fn scale(lab: &Lab, istiods: u8) -> Result<()> {
    let root = lab.namespace(ROOT);
    root.run(&["scale", "deployment/istiod", &format!("--replicas={istiods}")])?;
    root.rolled_out("deployment/istiod", SOON * 2)
}

/// The operator with the component, as an overlay of somebody who wants it.
fn set_up(checkout: &Checkout, lab: &Lab) -> Result<()> {
    let folder = checkout.state().join("in-effect");
    fs::create_dir_all(&folder)?;
    // From target/lab/state/in-effect.
    let root = "../../../..";
    let overlay = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         resources: [{root}/deploy]\ncomponents: [{root}/deploy/in-effect]\n\
         patches:\n- target: {{kind: Deployment, name: resilience-operator}}\n  patch: |\n    \
         - op: add\n      path: /spec/template/spec/containers/0/env/-\n      \
         value: {{name: RESILIENCE_IN_EFFECT_GRACE, value: {}s}}\n",
        GRACE.as_secs()
    );
    fs::write(folder.join("kustomization.yaml"), overlay)?;
    deploy(lab, &folder.display().to_string())
}

/// A patch of a host's clusters that Istio takes, and no Envoy.
pub(super) fn broken(host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "broken"},
        "spec": {"configPatches": [{
            "applyTo": "CLUSTER",
            "match": {"context": "SIDECAR_OUTBOUND", "cluster": {"service": host}},
            "patch": {"operation": "MERGE", "value": {"lb_policy": "CLUSTER_PROVIDED"}},
        }]},
    })
}

/// The operator as it was, without the identity.
///
/// # Errors
/// When it does not get available.
pub(super) fn take_away(checkout: &Checkout, lab: &Lab) -> Result<()> {
    deploy(lab, &checkout.root().join("deploy").display().to_string())?;
    let of_ours = "-l=app.kubernetes.io/name=resilience-operator";
    lab.namespace(ROOT).run(&["delete", "serviceaccounts,roles,rolebindings", of_ours]).map(drop)
}

/// Applies the operator as this kustomization has it, and waits until it is there.
///
/// # Errors
/// When it is refused, or does not get available.
pub(super) fn deploy(lab: &Lab, folder: &str) -> Result<()> {
    let system = lab.namespace(operator::NAMESPACE);
    lab.kubectl().run(&["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-k", folder])?;
    system.rolled_out("deployment", SOON * 2)
}

/// A pod of an app that is not on its way out.
fn pod(kubectl: &Kubectl, app: &str) -> Result<String> {
    let pods = kubectl.json(&["get", "pods", "-l", &format!("app={app}")])?;
    let living = pods["items"].as_array().into_iter().flatten();
    let living = living.filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
    let mut names = living.filter_map(|pod| pod["metadata"]["name"].as_str());
    Ok(names.next().with_context(|| format!("no pod of {app}"))?.to_owned())
}
