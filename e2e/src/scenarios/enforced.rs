//! Declared is enforced: every golden of `tests/translate` in a real cluster, and for each what `status` says
//! beside what the Envoy of a real client holds.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::gateway_api::with_gateway_api;
use super::stage::SOON;
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::{unique, with_namespace};
use crate::wait::Seen;

pub mod expect;
pub mod golden;
pub mod reading;
pub mod verdict;
pub mod worlds;

use golden::{Golden, text};
use verdict::{Tally, judge};

/// Goldens whose world this cluster cannot have, and why.
const IMPOSSIBLE: [(&str, &str); 11] = [
    ("canary-of-flagger", OTHER_HAND),
    ("canary-of-flagger-primary", OTHER_HAND),
    ("entry-of-a-host-of-two-namespaces", OTHERS_CLIENT),
    ("service-exported-to-some", OTHERS_CLIENT),
    ("merge-beside-a-block-of-its-owner", OTHERS_BLOCK),
    ("istio-of-one-kind-only", OTHER_ISTIO),
    ("istio-with-backoff-default", OTHER_ISTIO),
    ("istio-without-backoff", OTHER_ISTIO),
    ("istio-without-backoff-default", OTHER_ISTIO),
    ("istio-without-retry-budget", OTHER_ISTIO),
    // `the_servers_sidecar_changes_nothing_else_or_is_refused` has one for itself.
    ("server-beside-a-sidecar-of-the-mesh", "its Sidecar would be that of every other golden too"),
];
const OTHER_HAND: &str = "an object of it is known by the program that wrote it, and here the lab writes all";
const OTHERS_CLIENT: &str =
    "it is not for clients of other namespaces, as this one's is: `a_policy_reaches_nobody_elses_host` judges it";
const OTHERS_BLOCK: &str = "a block acts in it that another declared, and here whatever acts undeclared is a fault";
const OTHER_ISTIO: &str =
    "its CRDs are those of another Istio, which `each_istio_takes_what_we_render_for_it` installs";

/// The first half of every pair.
fn goldens(checkout: &Checkout) -> Result<Vec<Golden>> {
    let folder = checkout.root().join("tests/translate");
    let entries = fs::read_dir(&folder).with_context(|| format!("{} cannot be listed", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.to_string_lossy().ends_with(".in.yaml"));
    files.sort();
    for (name, reason) in IMPOSSIBLE {
        let file = folder.join(format!("{name}.in.yaml"));
        ensure!(files.contains(&file), "{name} is left out ({reason}), but there is no such golden");
        files.retain(|other| *other != file);
    }
    let goldens = files.iter().map(|file| Golden::read(file, &unique("run"))).collect::<Result<Vec<_>>>()?;
    for golden in &goldens {
        // They would take the place of the lab's own.
        let brings = golden.objects.iter().any(|object| object["kind"] == "CustomResourceDefinition");
        ensure!(!brings, "{} brings CRDs of another Istio: it belongs to those that are left out", golden.name);
    }
    Ok(goldens)
}

/// For every golden: the client's Envoy enforces what `status.effective` declares and nothing beyond it,
/// what is not programmed has changed nothing, and a real cluster says what the golden says.
///
/// # Errors
/// With every difference.
pub fn is_declared(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let goldens = goldens(checkout)?;
    with_namespace(&lab, "enforced", |client| {
        with_gateway_api(checkout, &lab, || {
            let played = play(&lab, client, &goldens);
            let removed = worlds::remove(lab.kubectl(), &goldens);
            played.and(removed)
        })
    })
}

fn play(lab: &Lab, client: &Kubectl, goldens: &[Golden]) -> Result<()> {
    let before = worlds::without_operator(lab, || {
        worlds::start_client(client)?;
        worlds::build(lab.kubectl(), goldens)?;
        worlds::dump(client, 1)
    })?;
    let policies = decided(lab.kubectl(), goldens)?;
    let now = worlds::dump(client, 2)?;
    let (wrong, tally) = judged(goldens, &policies, &before, &now);
    println!("{} goldens: {tally}", goldens.len());
    ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    tally.says_something(goldens.len())
}

fn judged(
    goldens: &[Golden],
    policies: &BTreeMap<String, Vec<Value>>,
    before: &ConfigDump,
    now: &ConfigDump,
) -> (Vec<String>, Tally) {
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for golden in goldens {
        let policies = policies.get(&golden.namespace).map(Vec::as_slice).unwrap_or_default();
        let found = judge(golden, policies, before, now, &mut tally);
        wrong.extend(found.into_iter().map(|sentence| format!("{}: {sentence}", golden.name)));
    }
    (wrong, tally)
}

/// Every policy of the goldens by its namespace, once all of their statuses speak of what is there.
fn decided(kubectl: &Kubectl, goldens: &[Golden]) -> Result<BTreeMap<String, Vec<Value>>> {
    let expected: usize = goldens.iter().map(|golden| golden.of_kind("Resilience").count()).sum();
    kubectl.until("every policy is decided", SOON * 5, |kubectl| {
        let list = kubectl.json(&["get", "resilience", "--all-namespaces"])?;
        let here = list["items"].as_array().into_iter().flatten().filter(|policy| {
            let namespace = text(policy, "/metadata/namespace");
            goldens.iter().any(|golden| golden.namespace == namespace)
        });
        let (decided, open): (Vec<&Value>, Vec<&Value>) = here.partition(|policy| is_decided(policy));
        if decided.len() < expected {
            let open: Vec<String> = open.iter().map(|policy| text(policy, "/metadata/namespace")).collect();
            return Ok(Seen::NotYet(format!("{} of {expected}; not {}", decided.len(), open.join(", "))));
        }
        let mut policies: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for policy in decided {
            policies.entry(text(policy, "/metadata/namespace")).or_default().push(policy.clone());
        }
        Ok(Seen::Done(policies))
    })
}

/// Its status speaks of its generation, and not of a write that will be tried again.
fn is_decided(policy: &Value) -> bool {
    let conditions = policy.pointer("/status/conditions").and_then(Value::as_array);
    let waits = conditions.into_iter().flatten().any(|condition| condition["reason"] == "WriteFailed");
    policy.pointer("/status/observedGeneration") == policy.pointer("/metadata/generation") && !waits
}
