//! The two ways to leave, by the very commands of `docs/leaving.md`, under a load: what is in force is kept as plain
//! objects, or it is removed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::chart::folder;
use super::helm::{release, restore};
use super::import::{LIMIT, adopt, has_the_timeout, watched};
use super::merge::{called, under_way};
use super::stage::{PORT, SOON, Stage, on_stage, policy};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::fortio::load_at;
use crate::helm::Helm;
use crate::lab::Lab;
use crate::operator;
use crate::replicas;
use crate::report::Report;
use crate::run::check;
use crate::wait::Seen;
use crate::workloads::TARGET;

/// Kept, the rules have neither owner nor mark, are as they were when the operator, its CRD and its namespace are gone,
/// and when Helm has installed another; every look at the client's Envoy finds the policy. Removed, nothing of them is
/// left. Of the calls that go on meanwhile not one fails.
///
/// # Errors
/// When one of these is not so.
pub fn keeps_or_removes(checkout: &Checkout) -> Result<()> {
    // The same file that the operator's image holds.
    let program = operator::build(checkout, &Report::new())?;
    let lab = Lab::attach_to(checkout)?;
    let helm = Helm::of(&lab)?;
    on_stage(checkout, "leaving", |stage| {
        let kept = keep(checkout, &lab, &helm, stage).and_then(|()| take_in(stage, &program));
        // Whatever happened: the other scenarios have the operator of `deploy/`.
        let restored = restore(checkout, &lab, &helm);
        kept.and(restored)?;
        remove(checkout, &lab, stage)
    })
}

/// What was kept becomes policies' again, and the new operator serves them.
fn take_in(stage: &Stage<'_>, program: &Path) -> Result<()> {
    // The person's balancing stays where it is, and his rule is shared.
    adopt(stage, program, 1)?;
    stage.until_condition("httpbin", "Programmed", "True")?;
    stage.until_condition("shared", "Programmed", "True").map(drop)
}

/// The policy of `httpbin`, of which every kind is generated.
fn of_httpbin() -> Value {
    json!({
        "limits": {"perClient": {"activeRequests": LIMIT}, "perServer": {"mode": "Unlimited"}},
        "timeouts": {"request": "9s"},
    })
}

/// A Service with a person's rule, and a policy that shares it.
fn shared() -> String {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shared"},
        "spec": {"selector": {"app": "shared"}, "ports": [{"name": "http", "port": 80}]}});
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "persons"},
        "spec": {"host": "shared", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}});
    let spec = json!({"coexistence": "Merge", "limits": {"perClient": {"activeRequests": LIMIT}}});
    format!("{service}\n---\n{rule}\n---\n{}\n", policy("shared", "shared", &spec))
}

fn keep(checkout: &Checkout, lab: &Lab, helm: &Helm<'_>, stage: &Stage<'_>) -> Result<()> {
    stage.kubectl.apply(&shared())?;
    stage.policy(&of_httpbin())?;
    stage.until_condition("shared", "Programmed", "True")?;
    stage.until_threshold("fortio", "max_requests", LIMIT)?;
    has_the_timeout(stage)?;
    let before = rules(stage)?;
    ensure!(before.len() == 4, "not all kinds are there: {:?}", before.keys());
    calls_go_on(stage, "what is in force is kept", || {
        watched(stage, || {
            follow(checkout, lab, "Keep what is in force")?;
            let kept = rules(stage)?;
            are_plain(&before, &kept)?;
            follow(checkout, lab, "Remove the operator")?;
            let crd = lab.kubectl().try_run(&["get", "crd", "resiliences.resilience.dev"])?;
            ensure!(!crd.status.success(), "the CRD is still there");
            are_untouched(stage, &kept, "the operator and its CRD are gone")?;

            let namespace = checkout.root().join("deploy/namespace.yaml").display().to_string();
            lab.kubectl().run(&["apply", "-f", &namespace])?;
            release(helm, "install", &folder(checkout), &[])?;
            stage.apply_policy("httpbin", &of_httpbin())?;
            let refused = stage.until_condition("httpbin", "Accepted", "False")?;
            let accepted = refused["status"]["conditions"].as_array().into_iter().flatten();
            let reason = accepted.clone().find(|one| one["type"] == "Accepted").map(|one| one["reason"].clone());
            ensure!(reason == Some(json!("Conflicted")), "a policy beside what was kept is {reason:?}");
            stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
            are_untouched(stage, &kept, "another operator was installed, and a policy came and went")
        })
    })
}

fn remove(checkout: &Checkout, lab: &Lab, stage: &Stage<'_>) -> Result<()> {
    calls_go_on(stage, "all is removed", || {
        follow(checkout, lab, "Have it removed")?;
        stage.kubectl.until("the person's rule is his alone", SOON, |kubectl| {
            let rule = kubectl.json(&["get", "destinationrule", "persons"])?;
            let alone = rule["spec"]["trafficPolicy"] == json!({"loadBalancer": {"simple": "RANDOM"}})
                && marks(&rule).is_empty();
            Ok(if alone { Seen::Done(()) } else { Seen::NotYet(rule.to_string()) })
        })?;
        // A Sidecar that was kept is nobody's.
        let left: Vec<String> = rules(stage)?.into_keys().collect();
        ensure!(left == ["DestinationRule persons", "Sidecar httpbin"], "left: {left:?}");
        stage.until_threshold("fortio", "max_requests", UNLIMITED)
    })
}

/// What istiod sets where no rule limits.
const UNLIMITED: u64 = 4_294_967_295;

/// Runs the first block of commands under a heading of the page, as it stands there.
fn follow(checkout: &Checkout, lab: &Lab, heading: &str) -> Result<()> {
    let page = fs::read_to_string(checkout.root().join("docs/leaving.md")).context("docs/leaving.md cannot be read")?;
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.with_context(|| format!("docs/leaving.md has no «{heading}»"))?;
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.with_context(|| format!("docs/leaving.md has no commands under «{heading}»"))?;
    let desk = desk(checkout)?;
    let mut shell = lab.inside("sh")?;
    shell.args(["-euc", &format!("cd '{}'\n{block}", desk.path().display())]);
    check(&mut shell).map(drop).with_context(|| format!("«{heading}»"))
}

/// Where a reader stands who installed as the README says: beside `deploy/`, with `mine/` that has it as a resource.
/// Not in the checkout itself, which may be somebody's who has his own.
fn desk(checkout: &Checkout) -> Result<tempfile::TempDir> {
    let desk = tempfile::tempdir().context("no temporary folder can be made")?;
    let at = |name: &str| desk.path().join(name);
    symlink(checkout.root().join("deploy"), at("deploy")).context("deploy cannot be linked")?;
    fs::create_dir(at("mine")).context("mine cannot be made")?;
    fs::write(at("mine/kustomization.yaml"), "resources: [../deploy]\n").context("mine cannot be written")?;
    Ok(desk)
}

/// The operator as `deploy/` has it, with one that leads.
///
/// # Errors
/// When it does not get there in time.
pub fn install(checkout: &Checkout, lab: &Lab) -> Result<()> {
    let deploy = checkout.root().join("deploy").display().to_string();
    lab.kubectl().run(&["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-k", &deploy])?;
    replicas::ready(lab).map(drop)
}

/// Everything of Istio in the namespace, by kind and name.
fn rules(stage: &Stage<'_>) -> Result<BTreeMap<String, Value>> {
    let list = stage.kubectl.json(&["get", "sidecars,destinationrules,virtualservices"])?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |object: &Value| format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
    Ok(items.into_iter().map(|object| (name(&object), object)).collect())
}

/// Labels and annotations of ours.
fn marks(object: &Value) -> Vec<String> {
    let all = ["labels", "annotations"].into_iter().filter_map(|kind| object["metadata"][kind].as_object());
    let is_ours = |key: &String| key.starts_with("resilience.dev/") || key == "app.kubernetes.io/managed-by";
    all.flat_map(|marks| marks.keys().cloned()).filter(is_ours).collect()
}

/// They are the same objects with the same specs, and nothing of them is ours any more.
fn are_plain(before: &BTreeMap<String, Value>, kept: &BTreeMap<String, Value>) -> Result<()> {
    let names = |rules: &BTreeMap<String, Value>| rules.keys().cloned().collect::<Vec<_>>();
    ensure!(names(before) == names(kept), "of {:?} were kept {:?}", names(before), names(kept));
    for (name, was) in before {
        let is = &kept[name];
        ensure!(is["spec"] == was["spec"], "{name} was {} and is {}", was["spec"], is["spec"]);
        ensure!(is["metadata"]["uid"] == was["metadata"]["uid"], "{name} is another object");
        for field in ["ownerReferences", "finalizers", "deletionTimestamp"] {
            ensure!(is["metadata"].get(field).is_none(), "{name} has {field}: {}", is["metadata"]);
        }
        ensure!(!marks(was).is_empty(), "{name} had no mark of ours: {}", was["metadata"]);
        ensure!(marks(is).is_empty(), "{name} still has {:?}", marks(is));
    }
    Ok(())
}

/// Nobody has written to them.
fn are_untouched(stage: &Stage<'_>, kept: &BTreeMap<String, Value>, when: &str) -> Result<()> {
    let now = rules(stage)?;
    for (name, was) in kept {
        let is = now.get(name).with_context(|| format!("{when}, and so is {name}"))?;
        let (then, now) = (&was["metadata"]["resourceVersion"], &is["metadata"]["resourceVersion"]);
        ensure!(then == now, "{when}: {name} was written to: {was} is now {is}");
    }
    Ok(())
}

/// Calls of one load, and of the other; a second of each has so many.
const ROUNDS: [u32; 2] = [100, 140];
const RATE: u32 = 25;

/// What a client's Envoy counts of calls that do not get an answer of the server.
const CAUSES: [&str; 6] = [
    "upstream_cx_none_healthy",
    "upstream_cx_connect_fail",
    "upstream_cx_connect_timeout",
    "upstream_rq_pending_overflow",
    "upstream_rq_pending_failure_eject",
    "upstream_rq_timeout",
];

/// Does `work` while calls go on, from before it to after it: two loads, each begun anew whenever it ends, so that one
/// calls while the other begins. Every call has to get its 200.
pub(super) fn calls_go_on<T>(stage: &Stage<'_>, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = called(stage)?;
    let counted = Stats::of(stage.kubectl, "deploy/fortio")?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let call = |calls: u32| {
            let mut answers = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                let round = load_at(stage.kubectl, &format!("{TARGET}/get"), 1, calls, RATE)?;
                for (status, count) in round.by_status {
                    *answers.entry(status).or_insert(0) += count;
                }
            }
            Ok::<BTreeMap<i32, u64>, anyhow::Error>(answers)
        };
        let loads = ROUNDS.map(|calls| scope.spawn(move || call(calls)));
        let worked = under_way(stage, before).and_then(|()| work());
        over.store(true, Ordering::Relaxed);
        let mut all: BTreeMap<i32, u64> = BTreeMap::new();
        for load in loads {
            for (status, count) in load.join().map_err(|_| anyhow::anyhow!("a load panicked"))?? {
                *all.entry(status).or_insert(0) += count;
            }
        }
        let value = worked.with_context(|| what.to_owned())?;
        println!("    {what}: of {} calls {} got 200", all.values().sum::<u64>(), all.get(&200).unwrap_or(&0));
        if !all.keys().eq([&200]) {
            let counted = Stats::of(stage.kubectl, "deploy/fortio")?.since(&counted);
            let causes = CAUSES.map(|cause| format!("{cause} {}", counted.outbound(&stage.host(), PORT, cause)));
            bail!("{what}: not every call got 200: {all:?}; the client's Envoy counted {}", causes.join(", "));
        }
        Ok(value)
    })
}
