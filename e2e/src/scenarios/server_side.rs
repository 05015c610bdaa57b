//! A limit for each client is one for each client only if the server's side is stated, and stating it changes
//! nothing else. Judged at answers, at the Envoys' own counters, and at all that the server's Envoy holds.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::enforced::{expect, reading};
use super::stage::{CONTAINER_PORT, PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::config_dump::ConfigDump;
use crate::envoy::Stats;
use crate::fortio::{Answers, load_from};
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::wait::Seen;
use crate::workloads::{TARGET, with_images};

/// Both count everything.
const CLIENTS: [&str; 2] = ["deploy/fortio", "deploy/second"];
const SERVER: &str = "deploy/httpbin";
/// Requests that a client may have under way.
const LIMIT: u64 = 2;
/// Where a Sidecar without a selector is for the whole mesh, and its name there.
const ROOT: &str = "istio-system";
const MESH_WIDE: &str = "scenario-mesh-wide";

/// Plain Istio: two clients, each within its limit, and one of them ejects the only, healthy server and gets
/// nothing but 503 (measured M10). The same numbers in a policy that states the server's side: every answer
/// is 200, and each client still keeps its limit.
///
/// # Errors
/// When one of these is not so.
pub fn is_no_outage(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "no-outage", |stage| {
        second_client(checkout, stage)?;
        outage(stage)?;
        stage.kubectl.run(&["delete", "destinationrule", "raw", "--wait"])?;
        stage.policy(&json!({
            "limits": {"perClient": {"activeRequests": LIMIT}, "perServer": {"mode": "Unlimited"}},
            "ejection": {"consecutive5xx": 3, "interval": "1s", "baseTime": "300s", "maxPercent": 100},
        }))?;
        for client in CLIENTS {
            stage.until_threshold(client, "max_requests", LIMIT)?;
        }
        until_server(stage, "the server limits nothing", |held| held.keys().all(|path| !path.starts_with("limits.")))?;
        // A client whose cluster is new has forgotten whom it ejected.
        for client in CLIENTS {
            stage.kubectl.until(&format!("{client} is answered again"), SOON, |_| {
                let answers = call(stage, client, 1, 20)?;
                Ok(if answers.status(200) == 20 { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
            })?;
        }
        within(stage)?;
        CLIENTS.into_iter().try_for_each(|client| beyond(stage, client))
    })
}

/// Raw Istio, with the same numbers.
fn outage(stage: &Stage<'_>) -> Result<()> {
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "raw"},
        "spec": {"host": stage.host(), "trafficPolicy": {
            "connectionPool": {"http": {"http2MaxRequests": LIMIT}},
            "outlierDetection": {
                "consecutive5xxErrors": 3, "interval": "1s", "baseEjectionTime": "300s", "maxEjectionPercent": 100,
            },
        }},
    });
    stage.kubectl.apply(&rule.to_string())?;
    for client in CLIENTS {
        stage.until_threshold(client, "max_requests", LIMIT)?;
    }
    until_server(stage, "the server has the clients' limit", |held| {
        held.get("limits.perServer.activeRequests") == Some(&LIMIT.to_string())
    })?;
    let hit = stage.kubectl.until("a client ejects the only server", SOON, |kubectl| {
        let answers = together(stage, 500)?;
        for client in CLIENTS {
            let ejected =
                Stats::of(kubectl, client)?.outbound(&stage.host(), PORT, "outlier_detection.ejections_active");
            if ejected == 1 {
                return Ok(Seen::Done(client));
            }
        }
        Ok(Seen::NotYet(format!("{answers:?}")))
    })?;
    let own = |stats: &Stats| stats.outbound(&stage.host(), PORT, "upstream_rq_active_overflow");
    for client in CLIENTS {
        let refused = own(&Stats::of(stage.kubectl, client)?);
        ensure!(refused == 0, "{client} went beyond its own limit {refused} times, so this shows nothing");
    }
    let answers = call(stage, hit, 1, 20)?;
    println!("raw Istio: {hit}, always within its limit, has ejected the only server: {answers:?}");
    ensure!(answers.status(503) == 20, "{hit} should get 503 alone: {answers:?}");
    Ok(())
}

/// Both keep their limit.
fn within(stage: &Stage<'_>) -> Result<()> {
    let look = || Stats::of(stage.kubectl, SERVER);
    let before = look()?;
    let answers = together(stage, 1000)?;
    let refused = look()?.since(&before).inbound(CONTAINER_PORT, "upstream_rq_active_overflow");
    println!("with the server's side stated, each within its limit: {answers:?}, {refused} refused by the server");
    ensure!(answers.iter().all(|answers| answers.status(200) == 1000), "calls within limits fail: {answers:?}");
    ensure!(refused == 0, "the server's Envoy refused {refused}");
    Ok(())
}

/// One goes beyond its limit, and is refused by its own proxy alone.
fn beyond(stage: &Stage<'_>, client: &str) -> Result<()> {
    let look = || Stats::of(stage.kubectl, client);
    let before = look()?;
    let answers = call(stage, client, 8, 400)?;
    let counted = look()?;
    let own = counted.since(&before).outbound(&stage.host(), PORT, "upstream_rq_active_overflow");
    let ejected = counted.outbound(&stage.host(), PORT, "outlier_detection.ejections_active");
    println!("{client} beyond its limit: {answers:?}, {own} of them refused by its own proxy, {ejected} ejected");
    let mixed = answers.status(200) > 0 && answers.status(503) > 0;
    ensure!(
        mixed && own == answers.status(503) && ejected == 0,
        "{client}: {answers:?}, {own} refused, {ejected} ejected"
    );
    Ok(())
}

/// All that the server's Envoy holds is the same before and after our Sidecar, but for the limits in front of
/// its application. Where a Sidecar would change more, the policy is refused with the culprit's name, nothing
/// of it is there, and it heals when the culprit goes.
///
/// # Errors
/// When one of these is not so.
pub fn changes_nothing_else(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let root = lab.namespace(ROOT);
    on_stage(checkout, "server-side", |stage| {
        let bare = until_held(stage, "the server's Envoy knows its own Service", |held| {
            held.keys().any(|name| name.contains(&stage.host()))
        })?;
        stated(stage, &bare)?;
        for culprit in culprits(stage) {
            let _gone_afterwards = culprit.mesh_wide.then(|| MeshWide(&root));
            let place = if culprit.mesh_wide { &root } else { stage.kubectl };
            comes_and_goes(stage, place, &culprit, &bare).with_context(|| culprit.name.clone())?;
        }
        Ok(())
    })
}

/// Without a word on clients: the server is one too, and a rule would show in its own clusters.
fn policy() -> Value {
    json!({"limits": {"perServer": {"mode": "Limited", "activeRequests": 77}}})
}

/// Declares, and looks that nothing else is changed; takes it away, and looks again.
fn stated(stage: &Stage<'_>, bare: &BTreeMap<String, Value>) -> Result<()> {
    stage.policy(&policy())?;
    until_limit(stage)?;
    until_held(stage, "the server's Envoy is as before", |held| held == bare)?;
    println!("the same before and after our Sidecar: {} clusters, listeners and tables of routes", bare.len());
    Ok(())
}

/// Something that has a say on the server's pods.
struct Culprit {
    name: String,
    object: Value,
    mesh_wide: bool,
    /// Whether it changes what the server's Envoy holds.
    acts: bool,
}

fn culprits(stage: &Stage<'_>) -> Vec<Culprit> {
    let sidecar = |name: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": name}, "spec": spec});
    let closed = json!({
        "egress": [{"hosts": ["istio-system/*"]}], "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
    });
    let mut of_pods = json!({"workloadSelector": {"labels": {"app": "httpbin"}}});
    of_pods["ingress"] = json!([{
        "port": {"number": CONTAINER_PORT, "protocol": "HTTP", "name": "http"},
        "defaultEndpoint": format!("127.0.0.1:{CONTAINER_PORT}"),
    }]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "admin"},
        "spec": {"selector": {"app": "httpbin"}, "ports": [{"name": "http", "port": 81, "targetPort": CONTAINER_PORT}]},
    });
    let here = stage.kubectl.current_namespace();
    let culprit = |name: String, object, acts| Culprit { name, object, mesh_wide: false, acts };
    vec![
        culprit(format!("Sidecar {here}/everyone"), sidecar("everyone", closed.clone()), true),
        culprit(format!("Sidecar {here}/of-pods"), sidecar("of-pods", of_pods), true),
        culprit("Service admin".to_owned(), service, false),
        Culprit {
            name: format!("Sidecar {ROOT}/{MESH_WIDE}"),
            object: sidecar(MESH_WIDE, closed),
            mesh_wide: true,
            acts: true,
        },
    ]
}

/// A Sidecar for every namespace, which must not outlive its part: others come to the same lab.
struct MeshWide<'a>(&'a Kubectl);

impl Drop for MeshWide<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.run(&["delete", "sidecar", MESH_WIDE, "--ignore-not-found", "--wait"]) {
            eprintln!("the mesh-wide Sidecar {ROOT}/{MESH_WIDE} stays and spoils every other test: {error:#}");
        }
    }
}

/// It comes after our Sidecar, is named, and is what counts; a policy that comes while it is there is refused
/// and writes nothing; it goes, and the policy heals.
fn comes_and_goes(stage: &Stage<'_>, place: &Kubectl, culprit: &Culprit, bare: &BTreeMap<String, Value>) -> Result<()> {
    place.apply(&culprit.object.to_string())?;
    let refused = || -> Result<()> {
        let object = stage.until_condition("httpbin", "Accepted", "False")?;
        let said = object["status"]["conditions"].to_string();
        ensure!(said.contains(&culprit.name) && said.contains("Conflicted"), "it should name it: {said}");
        Ok(())
    };
    refused()?;
    if culprit.acts {
        stage.until_gone("sidecar", "httpbin")?;
        stage.until_gone("destinationrule", "httpbin")?;
        until_held(stage, "what counts is the culprit", |held| held != bare)?;
    }
    stage.kubectl.run(&["delete", "resilience", "httpbin", "--wait"])?;
    stage.until_gone("sidecar", "httpbin")?;
    let without = if culprit.acts { settled(stage)? } else { BTreeMap::new() };
    stage.apply_policy("httpbin", &policy())?;
    refused()?;
    let written = stage.kubectl.run(&[
        "get",
        "sidecars,destinationrules",
        "-o",
        "name",
        "--selector=app.kubernetes.io/managed-by",
    ])?;
    ensure!(written.trim().is_empty(), "refused, and yet there is {written}");
    if culprit.acts {
        ensure!(held(stage)? == without, "refused, and yet the server's Envoy has changed");
    }
    place.delete(&culprit.object.to_string())?;
    stage.until_condition("httpbin", "Programmed", "True")?;
    until_limit(stage)?;
    until_held(stage, "the server's Envoy is as before", |held| held == bare)?;
    println!("{}: refused by name, nothing written, healed", culprit.name);
    Ok(())
}

/// What the server's Envoy holds, once two looks agree on it.
fn settled(stage: &Stage<'_>) -> Result<BTreeMap<String, Value>> {
    let mut last = BTreeMap::new();
    until_held(stage, "the server's Envoy rests", |held| std::mem::replace(&mut last, held.clone()) == *held)
}

fn until_limit(stage: &Stage<'_>) -> Result<()> {
    until_server(stage, "the server takes 77", |held| {
        held.get("limits.perServer.activeRequests").is_some_and(|limit| limit == "77")
    })
}

/// Clusters, listeners and tables of routes of the server's Envoy by name, whole; but for the thresholds in
/// front of its application, and for what belongs to namespaces that come and go.
fn held(stage: &Stage<'_>) -> Result<BTreeMap<String, Value>> {
    let dump = ConfigDump::of(stage.kubectl, SERVER)?;
    let lasting = [stage.kubectl.current_namespace(), ROOT, "kube-system", "default"];
    let lasts = |name: &str| {
        let host = name.strip_prefix("outbound|").and_then(|rest| rest.rsplit('|').next());
        let namespace = host.and_then(|host| host.split('.').nth(1));
        // With the culprit's own Service a cluster comes that is nobody's doing but its own.
        namespace.is_none_or(|namespace| lasting.contains(&namespace)) && !name.contains("||admin.")
    };
    let own = format!("inbound|{CONTAINER_PORT}||");
    let kinds = [("cluster", dump.clusters()), ("listener", dump.listeners()), ("routes", dump.routes())];
    let mut held = BTreeMap::new();
    for (kind, objects) in kinds {
        for object in objects {
            let name = object["name"].as_str().unwrap_or_default();
            if !lasts(name) {
                continue;
            }
            let mut object = object.clone();
            if name == own {
                object["circuit_breakers"].take();
                object["metadata"].take();
            }
            if let Some(hosts) = object.get_mut("virtual_hosts").and_then(Value::as_array_mut) {
                hosts.retain(|host| {
                    let domain = host["name"].as_str().unwrap_or_default();
                    let namespace = domain.split('.').nth(1);
                    namespace.is_none_or(|namespace| lasting.contains(&namespace)) && !domain.starts_with("admin.")
                });
            }
            held.insert(format!("{kind} {name}"), object);
        }
    }
    Ok(held)
}

fn until_held(
    stage: &Stage<'_>,
    what: &str,
    mut right: impl FnMut(&BTreeMap<String, Value>) -> bool,
) -> Result<BTreeMap<String, Value>> {
    stage.kubectl.until(what, SOON, |_| {
        let held = held(stage)?;
        Ok(if right(&held) { Seen::Done(held) } else { Seen::NotYet(format!("{:?}", held.keys().collect::<Vec<_>>())) })
    })
}

/// What the status declares of a server is what its Envoy holds, word by word; and traffic meets it there.
///
/// # Errors
/// When it is not so.
pub fn limits_hold(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "servers-limits", |stage| {
        second_client(checkout, stage)?;
        for spec in [
            json!({"limits": {"perServer": {"mode": "Unlimited"}, "perClient": {"connections": 9}},
                "timeouts": {"connect": "3s", "idle": "90s", "lifetime": "1h"}, "retries": {"attempts": 1, "budget": {"percent": 30}}}),
            json!({"limits": {"perServer": {
                "mode": "Limited", "connections": 11, "pendingRequests": 12, "activeRequests": 13, "requestsPerConnection": 14,
            }}, "timeouts": {"connect": "2s"}}),
            json!({"limits": {"perServer": {"mode": "Limited", "activeRequests": LIMIT}}}),
        ] {
            stage.policy(&spec)?;
            let object = stage.kubectl.json(&["get", "resilience", "httpbin"])?;
            let declared = expect::declared_for_all(&object["status"]["effective"]);
            let wanted = expect::server(&declared);
            until_server(stage, &format!("the server enforces {wanted:?}"), |held| *held == wanted)?;
            println!("declared is enforced at the server: {wanted:?}");
        }
        stage.until_gone("destinationrule", "httpbin")?;
        let before = Stats::of(stage.kubectl, SERVER)?;
        let answers = together_with(stage, 4, 500)?;
        let refused =
            Stats::of(stage.kubectl, SERVER)?.since(&before).inbound(CONTAINER_PORT, "upstream_rq_active_overflow");
        let failed: u64 = answers.iter().map(|answers| answers.status(503)).sum();
        println!(
            "two clients without a limit, a server that takes {LIMIT}: {answers:?}, {refused} refused by the server"
        );
        let passed: u64 = answers.iter().map(|answers| answers.status(200)).sum();
        ensure!(refused > 0 && failed == refused && passed > 0, "{answers:?}, of which the server refused {refused}");
        Ok(())
    })
}

/// Waits until the cluster in front of the server's application enforces this.
fn until_server(stage: &Stage<'_>, what: &str, right: impl Fn(&expect::Values) -> bool) -> Result<()> {
    stage.kubectl.until(what, SOON, |kubectl| {
        let held = reading::server(&ConfigDump::of(kubectl, SERVER)?, CONTAINER_PORT).unwrap_or_default();
        Ok(if right(&held) { Seen::Done(()) } else { Seen::NotYet(format!("{held:?}")) })
    })
}

fn second_client(checkout: &Checkout, stage: &Stage<'_>) -> Result<()> {
    stage.kubectl.apply(&with_images(&manifest(checkout, "measured-clients.yaml")?))?;
    stage.kubectl.rolled_out("deploy/second", SOON * 2)
}

fn call(stage: &Stage<'_>, client: &str, callers: u32, requests: u32) -> Result<Answers> {
    load_from(stage.kubectl, client, &format!("{TARGET}/get"), callers, requests, &[])
}

/// Both at the same time, each with as many callers as its limit allows.
fn together(stage: &Stage<'_>, requests: u32) -> Result<Vec<Answers>> {
    together_with(stage, u32::try_from(LIMIT)?, requests)
}

fn together_with(stage: &Stage<'_>, callers: u32, requests: u32) -> Result<Vec<Answers>> {
    thread::scope(|scope| {
        let running = CLIENTS.map(|client| scope.spawn(move || call(stage, client, callers, requests)));
        running.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a caller panicked")))).collect()
    })
}
