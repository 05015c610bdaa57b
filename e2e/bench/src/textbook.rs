//! The controller that a kube-rs tutorial ends with: watch the policies and what they own, apply everything at each
//! reconcile, patch the status. Correct, a page long, and what most operators are. Sixteen at a time, as kube's own
//! default has no bound.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
    runtime::{
        Controller,
        controller::{Action, Config},
        watcher,
    },
};
use serde_json::{Value, json};

use crate::calls;

const MANAGER: &str = "textbook";

/// Runs until it is ended.
///
/// # Errors
/// None: what fails is tried again.
pub async fn run(client: Client) -> Result<()> {
    let api = |kind| Api::<DynamicObject>::all_with(client.clone(), &kind);
    let (policies, rules, routes) = (calls::policies(), calls::rules(), calls::routes());
    Controller::new_with(api(policies.clone()), watcher::Config::default(), policies)
        .owns_with(api(rules.clone()), rules, watcher::Config::default())
        .owns_with(api(routes.clone()), routes, watcher::Config::default())
        .with_config(Config::default().concurrency(16))
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(5)), Arc::new(client.clone()))
        .for_each(|_| std::future::ready(()))
        .await;
    Ok(())
}

async fn reconcile(policy: Arc<DynamicObject>, client: Arc<Client>) -> kube::Result<Action> {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let apply = PatchParams::apply(MANAGER).force();
    for (kind, spec) in [(calls::rules(), rule(&policy)), (calls::routes(), routes(&policy))] {
        let api = Api::<DynamicObject>::namespaced_with(Client::clone(&client), &namespace, &kind);
        let object = json!({
            "apiVersion": kind.api_version, "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace, "ownerReferences": [{
                "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "name": name, "uid": policy.uid(),
                "controller": true, "blockOwnerDeletion": true,
            }]},
            "spec": spec,
        });
        api.patch(&name, &apply, &Patch::Apply(&object)).await?;
    }
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "Applied", "message": "applied",
            "observedGeneration": policy.metadata.generation, "lastTransitionTime": policy.creation_timestamp()})
    };
    let status = json!({
        "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": name},
        "status": {"observedGeneration": policy.metadata.generation,
            "conditions": [condition("Accepted"), condition("Programmed"), condition("Ready")]},
    });
    let api = Api::<DynamicObject>::namespaced_with(Client::clone(&client), &namespace, &calls::policies());
    api.patch_status(&name, &apply, &Patch::Apply(&status)).await?;
    Ok(Action::requeue(Duration::from_hours(1)))
}

fn host(policy: &DynamicObject) -> String {
    format!("{}.{}.svc.cluster.local", policy.name_any(), policy.namespace().unwrap_or_default())
}

fn rule(policy: &DynamicObject) -> Value {
    let spec = &policy.data["spec"];
    let ejection = &spec["ejection"];
    json!({"host": host(policy), "trafficPolicy": {
        "connectionPool": {"tcp": {"connectTimeout": spec["timeouts"]["connect"]}},
        "outlierDetection": {
            "consecutive5xxErrors": ejection["consecutive5xx"], "consecutiveGatewayErrors": ejection["consecutiveGateway"],
            "interval": ejection["interval"], "baseEjectionTime": ejection["baseTime"],
            "maxEjectionPercent": ejection["maxPercent"], "minHealthPercent": ejection["minHealthyPercent"],
        },
    }})
}

fn routes(policy: &DynamicObject) -> Value {
    let (spec, host) = (&policy.data["spec"], host(policy));
    json!({"hosts": [host], "http": [{
        "name": "port-80", "match": [{"port": 80}],
        "route": [{"destination": {"host": host, "port": {"number": 80}}}],
        "timeout": spec["timeouts"]["request"], "retries": {"attempts": spec["retries"]["attempts"], "retryOn": "connect-failure,refused-stream"},
    }]})
}
