//! `coexistence: Merge` on a real API server with its real bookkeeping: a person's rule holds our blocks, keeps
//! what is his byte for byte, and has them no more when they are given back. Under a load, no hand-over loses a
//! call.

use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::enforced::worlds::without_operator;
use super::stage::{PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::envoy::Stats;
use crate::fortio::load_at;
use crate::lab::Lab;
use crate::run::{Finished, check_with_input, finish_with_input};
use crate::wait::Seen;
use crate::workloads::TARGET;

/// Calls a second of the load, and callers at a time.
const RATE: u32 = 100;
const CALLERS: u32 = 4;
/// Calls of a load beside one hand-over: a dozen seconds.
const CALLS: u32 = 1_200;

/// A limit far above what the load needs.
const LIMIT: u64 = 777;

/// A person's rule is shared beside his later applies from both sides, both halves act in the client's Envoy,
/// and the rule is as it was when the policy is gone.
///
/// # Errors
/// When one of these is not so.
pub fn shares_and_gives_back(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "merge-shares", |stage| {
        for how in [Apply::Server, Apply::Client] {
            let rule = persons_rule();
            how.run(stage, "person", &rule)?;
            let before = get(stage)?;
            stage.policy(&sharing())?;
            shared(stage, &before)?;
            both_halves_act(stage)?;
            // The same file again, and one in which he has changed his mind about his own part.
            how.run(stage, "person", &rule)?;
            shared(stage, &before)?;
            let mut edited = rule.clone();
            edited["spec"]["trafficPolicy"]["loadBalancer"]["simple"] = "ROUND_ROBIN".into();
            how.run(stage, "person", &edited)?;
            shared(stage, &json!({"metadata": before["metadata"], "spec": edited["spec"]}))?;
            how.run(stage, "person", &rule)?;

            stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
            until_as_before(stage, &before)?;
            stage.kubectl.run(&["delete", "destinationrule", "persons"])?;
        }
        Ok(())
    })
}

/// A field that a person has is told with his manager's name and not forced; that he leaves it heals.
///
/// # Errors
/// When one of these is not so.
pub fn forces_nothing(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "merge-forces-nothing", |stage| {
        let mut rule = persons_rule();
        rule["spec"]["trafficPolicy"]["connectionPool"] = json!({"http": {"http2MaxRequests": 9}});
        Apply::Server.run(stage, "person", &rule)?;
        let before = get(stage)?;
        stage.apply_policy("httpbin", &sharing())?;
        let told = until_reason(stage, "Programmed", "FieldConflict")?;
        let field = "person owns spec.trafficPolicy.connectionPool.http.http2MaxRequests (9)";
        ensure!(told.contains(field), "the message should hold {field:?}: {told}");
        let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
        ensure!(version(&get(stage)?) == version(&before), "the rule was written");

        Apply::Server.run(stage, "person", &persons_rule())?;
        stage.until_condition("httpbin", "Programmed", "True")?;
        stage.until_threshold("fortio", "max_requests", LIMIT)?;

        // Who edits a field of ours takes it; it is told, and given up by the same hand.
        let edit = |value: Value| {
            let patch = json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": value}}}}});
            let patch = patch.to_string();
            stage.kubectl.run(&[
                "patch",
                "destinationrule",
                "persons",
                "--type=merge",
                "--field-manager=hand",
                "-p",
                &patch,
            ])
        };
        edit(json!(9))?;
        let told = until_reason(stage, "Programmed", "FieldConflict")?;
        ensure!(told.contains("hand owns"), "the message should name the hand: {told}");
        edit(Value::Null)?;
        stage.until_condition("httpbin", "Programmed", "True")?;
        let limit = get(stage)?.pointer("/spec/trafficPolicy/connectionPool/http/http2MaxRequests").cloned();
        ensure!(limit == Some(json!(LIMIT)), "the limit is not back: {limit:?}");
        Ok(())
    })
}

/// Our blocks go when the policy does not share any more, when it observes, when the operator was away while
/// the policy went, and where nothing of a block would be left that somebody owns as such.
///
/// # Errors
/// When something is left, or missing.
pub fn gives_back_in_every_case(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    on_stage(checkout, "merge-gives-back", |stage| {
        Apply::Server.run(stage, "person", &persons_rule())?;
        let before = get(stage)?;

        stage.policy(&sharing())?;
        let mut refusing = sharing();
        refusing["coexistence"] = "Refuse".into();
        stage.apply_policy("httpbin", &refusing)?;
        until_reason(stage, "Accepted", "Conflicted")?;
        until_as_before(stage, &before).context("after Refuse")?;

        stage.policy(&sharing())?;
        let mut observing = sharing();
        observing["mode"] = "Observe".into();
        stage.apply_policy("httpbin", &observing)?;
        until_reason(stage, "Programmed", "Observing")?;
        until_as_before(stage, &before).context("after Observe")?;

        stage.policy(&sharing())?;
        without_operator(&lab, || stage.kubectl.run(&["delete", "resilience", "httpbin"]).map(drop))?;
        until_as_before(stage, &before).context("after the operator was away")?;
        stage.kubectl.run(&["delete", "destinationrule", "persons"])?;

        // kubectl owns trafficPolicy as such and leaves it empty: what our going leaves behind is `null`.
        Apply::Client.run(stage, "person", &persons_rule())?;
        stage.policy(&sharing())?;
        let mut bare = persons_rule();
        bare["spec"]["trafficPolicy"]["loadBalancer"] = Value::Null;
        bare["spec"].as_object_mut().context("a spec")?.remove("trafficPolicy");
        let patch = json!({"spec": {"trafficPolicy": {"loadBalancer": null}}}).to_string();
        stage.kubectl.run(&["patch", "destinationrule", "persons", "--type=merge", "-p", &patch])?;
        stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
        stage.kubectl.until("nothing of a traffic policy is left", SOON, |_| {
            let rule = get(stage)?;
            Ok(if rule["spec"] == bare["spec"] { Seen::Done(()) } else { Seen::NotYet(rule.to_string()) })
        })
    })
}

/// Ours moves into a person's rule that comes, comes back when that goes, and is given back, and of the calls
/// that go on meanwhile not one is lost.
///
/// # Errors
/// With the answers that were not 200.
pub fn hands_over_without_a_loss(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "merge-hands-over", |stage| {
        stage.policy(&sharing())?;
        stage.until_threshold("fortio", "max_requests", LIMIT)?;
        under_load(stage, "ours moves into a rule that comes", || {
            Apply::Server.run(stage, "person", &persons_rule())?;
            stage.until_gone("destinationrule", "httpbin")?;
            both_halves_act(stage)
        })?;
        under_load(stage, "ours is created when the rule goes", || {
            stage.kubectl.run(&["delete", "destinationrule", "persons"])?;
            stage.kubectl.until("ours is there", SOON, |kubectl| {
                let there = kubectl.run(&["get", "destinationrule", "httpbin", "--ignore-not-found", "-o", "name"])?;
                Ok(if there.trim().is_empty() { Seen::NotYet("it is not".to_owned()) } else { Seen::Done(()) })
            })?;
            stage.until_condition("httpbin", "Programmed", "True")?;
            stage.until_threshold("fortio", "max_requests", LIMIT)
        })?;
        under_load(stage, "the rule is shared once more, and given back", || {
            Apply::Server.run(stage, "person", &persons_rule())?;
            stage.until_gone("destinationrule", "httpbin")?;
            both_halves_act(stage)?;
            stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
            stage.kubectl.until("ours is out of it", SOON, |_| {
                let rule = get(stage)?;
                Ok(if rule["spec"] == persons_rule()["spec"] { Seen::Done(()) } else { Seen::NotYet(rule.to_string()) })
            })
        })
    })
}

/// Argo Rollouts' rule holds our blocks while it turns its subsets; Flagger's is refused, with the place where
/// the values belong, and what Flagger does to its rule would have taken them out.
///
/// # Errors
/// When one of these is not so.
pub fn beside_release_tools(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "merge-beside-tools", |stage| {
        let subsets = |canary: &str| {
            json!([
                {"name": "canary", "labels": {"app": "httpbin", "rollouts-pod-template-hash": canary}},
                {"name": "stable", "labels": {"app": "httpbin", "rollouts-pod-template-hash": "789746c88d"}},
            ])
        };
        let mut rollouts = persons_rule();
        rollouts["spec"] = json!({"host": "httpbin", "subsets": subsets("7bf84f9696")});
        rollouts["metadata"]["annotations"] = json!({"argo-rollouts.argoproj.io/managed-by-rollouts": "httpbin"});
        Apply::Server.run(stage, "person", &rollouts)?;
        stage.policy(&sharing())?;
        let status = stage.kubectl.json(&["get", "resilience", "httpbin"])?["status"].to_string();
        ensure!(status.contains("RES061"), "the subsets should be told: {status}");
        // As its controller does: the whole object, read and written with other labels in the subsets.
        let mut turned = get(stage)?;
        turned["spec"]["subsets"] = subsets("84d95ffc99");
        replace(stage, "rollouts-controller", &turned)?;
        let after = get(stage)?;
        ensure!(after["spec"]["subsets"] == turned["spec"]["subsets"], "its subsets are not its own: {after}");
        ensure!(
            blocks(&after) == blocks(&turned) && blocks(&after) != json!([null, null, null]),
            "ours is gone: {after}"
        );
        stage.until_condition("httpbin", "Programmed", "True")?;
        stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
        stage.kubectl.run(&["delete", "destinationrule", "persons"])?;

        let mut flagger = persons_rule();
        flagger["spec"] = json!({"host": "httpbin", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}});
        let create = ["create", "--field-manager=flagger", "-f", "-"];
        check_with_input(&mut stage.kubectl.command(&create)?, &flagger.to_string())?;
        let before = get(stage)?;
        stage.apply_policy("httpbin", &sharing())?;
        let told = until_reason(stage, "Accepted", "Conflicted")?;
        ensure!(told.contains("spec.service.trafficPolicy"), "the message should say where they belong: {told}");
        ensure!(get(stage)? == before, "Flagger's rule was touched");
        Ok(())
    })
}

/// How a person brings his file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apply {
    Server,
    Client,
}

impl Apply {
    fn run(self, stage: &Stage<'_>, manager: &str, object: &Value) -> Result<()> {
        let manager = format!("--field-manager={manager}");
        let args: &[&str] = match self {
            Self::Server => &["apply", "--server-side", &manager, "-f", "-"],
            Self::Client => &["apply", &manager, "-f", "-"],
        };
        check_with_input(&mut stage.kubectl.command(args)?, &object.to_string()).map(drop)
    }
}

fn replace(stage: &Stage<'_>, manager: &str, object: &Value) -> Result<()> {
    let manager = format!("--field-manager={manager}");
    let args = ["replace", manager.as_str(), "-f", "-"];
    let answer: Finished = finish_with_input(&mut stage.kubectl.command(&args)?, &object.to_string())?;
    ensure!(answer.status.success(), "it cannot be replaced: {}", answer.all());
    Ok(())
}

/// Fields of every kind that are not ours.
fn persons_rule() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "persons", "labels": {"team": "shop"}},
        "spec": {
            "host": "httpbin",
            "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}},
            "subsets": [{"name": "all", "labels": {"app": "httpbin"}}],
        },
    })
}

fn sharing() -> Value {
    json!({
        "coexistence": "Merge",
        "limits": {"perClient": {"activeRequests": LIMIT}},
        "ejection": {"consecutive5xx": 5},
    })
}

fn get(stage: &Stage<'_>) -> Result<Value> {
    stage.kubectl.json(&["get", "destinationrule", "persons"])
}

fn blocks(rule: &Value) -> Value {
    ["connectionPool", "outlierDetection", "retryBudget"]
        .map(|block| rule["spec"]["trafficPolicy"][block].clone())
        .to_vec()
        .into()
}

/// What of a rule is a person's own: its spec without our blocks, and its marks without ours, nor what kubectl
/// writes down for itself.
fn persons_part(rule: &Value) -> Value {
    let mut part = json!({
        "spec": rule["spec"], "labels": rule["metadata"]["labels"], "annotations": rule["metadata"]["annotations"],
    });
    if let Some(policy) = part.pointer_mut("/spec/trafficPolicy").and_then(Value::as_object_mut) {
        policy.retain(|key, _| !["connectionPool", "outlierDetection", "retryBudget"].contains(&key.as_str()));
    }
    for key in ["labels", "annotations"] {
        let marks = part[key].as_object().into_iter().flatten();
        let kept =
            marks.filter(|(key, _)| !key.starts_with("resilience.dev/") && !key.starts_with("kubectl.kubernetes.io/"));
        part[key] = Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect());
    }
    part
}

/// The rule has our blocks, and what is a person's is as in `theirs`.
fn shared(stage: &Stage<'_>, theirs: &Value) -> Result<()> {
    let rule = get(stage)?;
    let limit = rule.pointer("/spec/trafficPolicy/connectionPool/http/http2MaxRequests");
    ensure!(limit == Some(&json!(LIMIT)), "our limit is not there: {rule}");
    let (now, then) = (persons_part(&rule).to_string(), persons_part(theirs).to_string());
    ensure!(now == then, "what is a person's is {now} and was {then}");
    ensure!(rule["metadata"].get("ownerReferences").is_none(), "it would go with the policy: {rule}");
    let second = stage.kubectl.run(&["get", "destinationrule", "httpbin", "--ignore-not-found", "-o", "name"])?;
    ensure!(second.trim().is_empty(), "there is a second rule for the host");
    Ok(())
}

/// His balancing and our limit are in one cluster of the client's Envoy.
fn both_halves_act(stage: &Stage<'_>) -> Result<()> {
    stage.until_threshold("fortio", "max_requests", LIMIT)?;
    let name = format!("outbound|{PORT}||{}", stage.host());
    stage.kubectl.until("the client's Envoy has both halves", SOON, |kubectl| {
        let dump = ConfigDump::of(kubectl, "deploy/fortio")?;
        let cluster = dump.cluster(&name).cloned().unwrap_or_default();
        let both = cluster["lb_policy"] == "RANDOM" && cluster.get("outlier_detection").is_some();
        Ok(if both { Seen::Done(()) } else { Seen::NotYet(cluster["lb_policy"].to_string()) })
    })
}

/// As it was, byte for byte, but for what kubectl and the API server keep of their own.
fn until_as_before(stage: &Stage<'_>, before: &Value) -> Result<()> {
    let essence = |rule: &Value| {
        let mut rule = rule.clone();
        if let Some(metadata) = rule["metadata"].as_object_mut() {
            for key in ["resourceVersion", "generation", "managedFields"] {
                metadata.remove(key);
            }
            let annotations = metadata.get("annotations").and_then(Value::as_object);
            if annotations.is_some_and(serde_json::Map::is_empty) {
                metadata.remove("annotations");
            }
        }
        rule
    };
    let before = essence(before);
    stage.kubectl.until("the rule is as it was before", SOON, |_| {
        let now = essence(&get(stage)?);
        Ok(if now == before { Seen::Done(()) } else { Seen::NotYet(now.to_string()) })
    })
}

/// Waits for a reason of a condition, and gives its message.
fn until_reason(stage: &Stage<'_>, kind: &str, reason: &str) -> Result<String> {
    stage.kubectl.until(&format!("{kind} is {reason}"), SOON, |kubectl| {
        let policy = kubectl.json(&["get", "resilience", "httpbin"])?;
        let generation = policy.pointer("/metadata/generation");
        let conditions = policy.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let found = conditions
            .iter()
            .find(|one| one["type"] == kind && one["reason"] == reason && one.get("observedGeneration") == generation);
        Ok(match found {
            Some(one) => Seen::Done(one["message"].as_str().unwrap_or_default().to_owned()),
            None => Seen::NotYet(policy["status"].to_string()),
        })
    })
}

/// Calls that the client's Envoy has sent to the host.
pub(super) fn called(stage: &Stage<'_>) -> Result<u64> {
    Ok(Stats::of(stage.kubectl, "deploy/fortio")?.outbound(&stage.host(), PORT, "upstream_rq_total"))
}

/// Waits until the client's Envoy has sent more.
pub(super) fn under_way(stage: &Stage<'_>, before: u64) -> Result<()> {
    stage.kubectl.until("the load is under way", SOON, |_| {
        Ok(if called(stage)? > before { Seen::Done(()) } else { Seen::NotYet("no call yet".to_owned()) })
    })
}

/// Does `work` while calls go on; they end by themselves, not before it, and every one has to get its 200.
pub(super) fn under_load(stage: &Stage<'_>, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = called(stage)?;
    thread::scope(|scope| {
        let load = scope.spawn(|| load_at(stage.kubectl, &format!("{TARGET}/get"), CALLERS, CALLS, RATE));
        let worked = under_way(stage, before).and_then(|()| work());
        let before_its_end = !load.is_finished();
        let answers = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        worked.with_context(|| what.to_owned())?;
        println!(
            "    {what}: {} of {} calls got 200, {}",
            answers.status(200),
            answers.total(),
            if before_its_end { "all of it under load" } else { "the load ended first" }
        );
        ensure!(before_its_end, "{what}: the load ended before it was done");
        ensure!(
            answers.status(200) == u64::from(CALLS) && answers.total() == u64::from(CALLS),
            "{what}: of {CALLS} calls not all got 200: {answers:?}"
        );
        Ok(())
    })
}
