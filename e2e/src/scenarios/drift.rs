//! Whatever a foreign hand does to a generated object is undone; what is theirs stays.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::wait::Seen;

/// A kind of drift: its name, the object, and the patch that makes it (`None`: deletion).
struct Drift {
    name: &'static str,
    kind: &'static str,
    patch: Option<Value>,
}

/// Each kind of drift, one after the other.
///
/// # Errors
/// When one is not undone.
pub fn is_undone(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "drift-is-undone", |stage| {
        stage.policy(&json!({
            "limits": {
                "perClient": {"activeRequests": 100, "pendingRequests": 50}, "perServer": {"mode": "Unlimited"},
            },
            "timeouts": {"request": "5s"},
        }))?;
        for drift in drifts() {
            undone(stage, &drift)?;
        }
        foreign_metadata_stays(stage)
    })
}

fn drifts() -> Vec<Drift> {
    let rule = |name, patch: Value| Drift { name, kind: "destinationrule", patch: Some(patch) };
    let sidecar = |name, patch: Value| Drift { name, kind: "sidecar", patch: Some(patch) };
    let routes = |name, patch: Value| Drift { name, kind: "virtualservice", patch: Some(patch) };
    vec![
        rule(
            "an owned field",
            json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 7}}}}}),
        ),
        rule(
            "a field added to a block of ours",
            json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"maxRetries": 1}}}}}),
        ),
        rule("the owner", json!({"metadata": {"ownerReferences": null}})),
        rule("a label of ours", json!({"metadata": {"labels": {"resilience.dev/owner-uid": null}}})),
        rule("exportTo", json!({"spec": {"exportTo": ["."]}})),
        rule("tls", json!({"spec": {"trafficPolicy": {"tls": {"mode": "DISABLE"}}}})),
        sidecar("what the pods may call", json!({"spec": {"egress": [{"hosts": ["./*"]}]}})),
        sidecar("where the unknown goes", json!({"spec": {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}})),
        sidecar("other pods", json!({"spec": {"workloadSelector": {"labels": {"version": "v2"}}}})),
        sidecar("a server's limit", json!({"spec": {"inboundConnectionPool": {"http": {"http2MaxRequests": 1}}}})),
        routes("a route", json!({"spec": {"http": [{"route": [{"destination": {"host": "elsewhere"}}]}]}})),
        routes("exportTo of the routes", json!({"spec": {"exportTo": ["."]}})),
        routes("gateways", json!({"spec": {"gateways": ["mesh", "outside"]}})),
        routes("the routes' owner", json!({"metadata": {"ownerReferences": null}})),
        Drift { name: "the Sidecar itself", kind: "sidecar", patch: None },
        Drift { name: "the rule itself", kind: "destinationrule", patch: None },
        Drift { name: "the routes themselves", kind: "virtualservice", patch: None },
    ]
}

fn undone(stage: &Stage<'_>, drift: &Drift) -> Result<()> {
    let Drift { name, kind, patch } = drift;
    let before = essence(&stage.generated(kind)?);
    let made = match patch {
        Some(patch) => {
            stage.kubectl.run(&["patch", kind, "httpbin", "--type=merge", "-p", &patch.to_string(), "-o", "json"])?
        }
        None => stage.kubectl.run(&["delete", kind, "httpbin", "--wait=false"]).map(|_| "{}".to_owned())?,
    };
    let made: Value = serde_json::from_str(&made)?;
    ensure!(essence(&made) != before, "the test changed nothing: {name} of {kind}");
    stage.kubectl.until(&format!("{name} of {kind} is as before"), SOON, |kubectl| {
        let now = kubectl.try_run(&["get", kind, "httpbin", "-o", "json"])?;
        let now = serde_json::from_str::<Value>(&now.stdout).map(|object| essence(&object)).unwrap_or_default();
        Ok(if now == before { Seen::Done(()) } else { Seen::NotYet(now.to_string()) })
    })
}

fn foreign_metadata_stays(stage: &Stage<'_>) -> Result<()> {
    stage.kubectl.run(&["label", "destinationrule", "httpbin", "team=shop"])?;
    stage.kubectl.run(&["annotate", "destinationrule", "httpbin", "note=ours"])?;
    // A change of the policy makes the operator write the object once more.
    stage.policy(&json!({
        "limits": {"perClient": {"activeRequests": 101}, "perServer": {"mode": "Unlimited"}},
    }))?;
    let rule = stage.generated("destinationrule")?;
    ensure!(
        rule.pointer("/spec/trafficPolicy/connectionPool/http/http2MaxRequests") == Some(&json!(101)),
        "the rule was not renewed: {rule}"
    );
    ensure!(rule.pointer("/metadata/labels/team") == Some(&json!("shop")), "a foreign label is gone: {rule}");
    ensure!(rule.pointer("/metadata/annotations/note") == Some(&json!("ours")), "a foreign annotation is gone: {rule}");
    stage.until_gone("virtualservice", "httpbin")
}

/// What must be the same before and after.
fn essence(object: &Value) -> Value {
    json!({
        "labels": object.pointer("/metadata/labels"),
        "owners": object.pointer("/metadata/ownerReferences"),
        "spec": object.get("spec"),
    })
}
