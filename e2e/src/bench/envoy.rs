//! From a policy to the client's Envoy: the whole way, istiod in it, beside the same change of a rule by hand. The one
//! measurement that needs a node: the lab is brought up for it, and ends with it if it was not up.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::filled::Percentiles;
use super::tools::Tools;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::{Lab, Options};
use crate::namespace::with_namespace;
use crate::report::Report;
use crate::run::check;
use crate::scenarios::stage::{SOON, until_condition};
use crate::workloads::start_client_in;

/// Of both Services. Nothing listens there: a client's Envoy has a cluster for each Service, used or not.
const PORT: u16 = 8000;

/// Times of the whole way.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ToEnvoy {
    /// A rule that is changed by hand.
    pub raw: Percentiles,
    /// A policy that is changed.
    pub ours: Percentiles,
    /// One look at the Envoy: both are late by up to so much.
    pub look: Percentiles,
}

/// Changes both `count` times, in turn.
///
/// # Errors
/// When the lab does not come up, or a change does not arrive.
pub fn measure(checkout: &Checkout, tools: &Tools, count: u32, report: &Report) -> Result<ToEnvoy> {
    let (lab, started) = Lab::up(checkout, Options { operator: true, control_plane: false }, report)?;
    let measured = report.step("change policies and rules, each until an Envoy has it", || {
        with_namespace(&lab, "bench-envoy", |kubectl| in_namespace(checkout, &lab, kubectl, tools, count))
    });
    let ended = if started { Lab::down(checkout) } else { Ok(()) };
    let measured = measured?;
    ended.map(|()| measured)
}

fn in_namespace(checkout: &Checkout, lab: &Lab, kubectl: &Kubectl, tools: &Tools, count: u32) -> Result<ToEnvoy> {
    let service = |name: &str| {
        let port = json!({"name": "http", "port": PORT, "appProtocol": "http"});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [port]}})
    };
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "raw"},
        "spec": {"host": "raw", "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 999}}}},
    });
    let policy = json!({
        "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": "ours"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "ours"}],
            "limits": {"perClient": {"activeRequests": 999}},
        },
    });
    for object in [service("raw"), service("ours"), rule, policy] {
        kubectl.apply(&object.to_string())?;
    }
    start_client_in(checkout, kubectl)?;
    until_condition(kubectl, "ours", "Programmed", "True")?;
    kubectl.rolled_out("deployment/fortio", SOON)?;
    let pods = kubectl.json(&["get", "pods", "-l", "app=fortio"])?;
    let pod = pods.pointer("/items/0/metadata/name").and_then(Value::as_str).context("there is no client")?;
    let program = tools.client.to_str().context("the path of the bench's client is no text")?;
    let mut command = lab.inside(program)?;
    command.args(["envoy", "--namespace", kubectl.current_namespace(), "--pod", pod]);
    command.args(["--ours", "ours", "--raw", "raw", "--port", &PORT.to_string(), "--count", &count.to_string()]);
    let said: Value = serde_json::from_str(&check(&mut command)?)?;
    let read = |key: &str| Percentiles::read(&said[key]);
    Ok(ToEnvoy { raw: read("raw")?, ours: read("ours")?, look: read("look_ms")? })
}
