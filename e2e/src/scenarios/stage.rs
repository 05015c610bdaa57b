//! In: a namespace. Out: a client and a server in it, a policy applied and in the client's Envoy, and
//! answers counted: what the scenarios of policies have in common.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::fortio::{Answers, load};
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::{elsewhere, with_namespace};
use crate::wait::Seen;
use crate::workloads::{TARGET, start_in};

/// Long enough for a busy machine; nothing waits so long when it is right.
pub const SOON: Duration = Duration::from_mins(1);

/// The port of the Service `httpbin`.
pub const PORT: u16 = 8000;
/// The port of its container.
pub const CONTAINER_PORT: u16 = 8080;

/// A namespace with `httpbin` and `fortio`, both behind sidecars.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The client in this namespace.
    pub kubectl: &'a Kubectl,
}

/// Runs `play` on a stage of its own, on the lab or the cluster that the checkout names instead.
///
/// # Errors
/// When the lab is not up with our operator, or what `play` says.
pub fn on_stage(checkout: &Checkout, name: &str, play: impl FnOnce(&Stage<'_>) -> Result<()>) -> Result<()> {
    let set = |kubectl: &Kubectl| {
        start_in(checkout, kubectl)?;
        play(&Stage { kubectl })
    };
    if let Some(cluster) = checkout.other_cluster() {
        return elsewhere(cluster, name, set);
    }
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    with_namespace(&lab, name, set)
}

/// As [`Stage::until_condition`], where no stage is needed.
///
/// # Errors
/// When it does not in time.
pub fn until_condition(kubectl: &Kubectl, name: &str, kind: &str, status: &str) -> Result<Value> {
    kubectl.until(&format!("{kind}={status} of {name}"), SOON, |kubectl| {
        let object = kubectl.json(&["get", "resilience", name])?;
        let generation = object.pointer("/metadata/generation");
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let holds = conditions.iter().any(|condition| {
            condition["type"] == kind
                && condition["status"] == status
                && condition.get("observedGeneration") == generation
        });
        Ok(if holds { Seen::Done(object) } else { Seen::NotYet(object["status"].to_string()) })
    })
}

impl Stage<'_> {
    /// The FQDN of `httpbin` here.
    #[must_use]
    pub fn host(&self) -> String {
        format!("httpbin.{}.svc.cluster.local", self.kubectl.current_namespace())
    }

    /// Applies a policy for `httpbin` with this spec, and waits until it is Programmed.
    ///
    /// # Errors
    /// When it is refused, or not programmed in time.
    pub fn policy(&self, spec: &Value) -> Result<()> {
        self.apply_policy("httpbin", spec)?;
        self.until_condition("httpbin", "Programmed", "True").map(drop)
    }

    /// Applies a policy for `httpbin` under another name, without waiting.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply_policy(&self, name: &str, spec: &Value) -> Result<()> {
        self.kubectl.apply(&policy(name, "httpbin", spec)).map(drop)
    }

    /// Waits until a condition of a policy has a status that speaks of its present generation, and gives
    /// the whole policy.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_condition(&self, name: &str, kind: &str, status: &str) -> Result<Value> {
        until_condition(self.kubectl, name, kind, status)
    }

    /// Waits until the Envoy of a client, `deploy/fortio`, has a threshold, as `max_pending_requests`, for
    /// `httpbin`.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_threshold(&self, client: &str, name: &str, value: u64) -> Result<()> {
        let line = format!("outbound|{PORT}||{}::default_priority::{name}::{value}", self.host());
        self.kubectl.until(&format!("the Envoy of {client} has {name} {value}"), SOON, |kubectl| {
            let clusters =
                kubectl.exec("deploy/fortio", "istio-proxy", &["pilot-agent", "request", "GET", "clusters"])?;
            let there: Vec<&str> = clusters
                .lines()
                .filter(|line| line.contains(&format!("::{name}::")) && line.contains(&self.host()))
                .collect();
            Ok(if there.contains(&line.as_str()) { Seen::Done(()) } else { Seen::NotYet(there.join(", ")) })
        })
    }

    /// Calls a path of `httpbin` from the client.
    ///
    /// # Errors
    /// When fortio cannot be run.
    pub fn call(&self, path: &str, callers: u32, requests: u32) -> Result<Answers> {
        load(self.kubectl, &format!("{TARGET}{path}"), callers, requests)
    }

    /// Calls until the answers are right.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn until_answers(
        &self,
        what: &str,
        path: &str,
        callers: u32,
        requests: u32,
        right: impl Fn(&Answers) -> bool,
    ) -> Result<()> {
        self.kubectl.until(what, SOON, |_| {
            let answers = self.call(path, callers, requests)?;
            Ok(if right(&answers) { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
        })
    }

    /// What the client's and the server's Envoys counted while `work` ran.
    ///
    /// # Errors
    /// When `work` fails, or a proxy counts nothing at all for `httpbin`.
    pub fn counted<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Stats, Stats)> {
        let look = || {
            Ok::<_, anyhow::Error>((
                Stats::of(self.kubectl, "deploy/fortio")?,
                Stats::of(self.kubectl, "deploy/httpbin")?,
            ))
        };
        let (client, server) = look()?;
        ensure!(
            client.knows(&self.host()),
            "the client's Envoy counts nothing for {}: is sidecar.istio.io/statsInclusionPrefixes set?",
            self.host()
        );
        let value = work()?;
        let (client_after, server_after) = look()?;
        Ok((value, client_after.since(&client), server_after.since(&server)))
    }

    /// An Istio object of this namespace.
    ///
    /// # Errors
    /// When it is not there.
    pub fn generated(&self, kind: &str) -> Result<Value> {
        self.kubectl.json(&["get", kind, "httpbin"]).with_context(|| format!("no {kind} was generated"))
    }

    /// Waits until an object is gone.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn until_gone(&self, kind: &str, name: &str) -> Result<()> {
        self.kubectl.until(&format!("{kind} {name} is gone"), SOON, |kubectl| {
            let found = kubectl.run(&["get", kind, name, "--ignore-not-found", "-o", "name"])?;
            Ok(if found.trim().is_empty() { Seen::Done(()) } else { Seen::NotYet("still there".to_owned()) })
        })
    }
}

/// A policy as YAML.
#[must_use]
pub fn policy(name: &str, service: &str, spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["targetRefs"] = serde_json::json!([{"kind": "Service", "name": service}]);
    serde_json::json!({
        "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
        "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}
