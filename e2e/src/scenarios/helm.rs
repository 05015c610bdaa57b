//! The chart in a cluster: real Helm takes the operator over, upgrades it from an earlier release, rolls it back, and
//! uninstalls it, while calls go on under a policy.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::chart::{IMAGE, RELEASE, folder};
use super::leaving::{calls_go_on, install};
use super::stage::{SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::helm::Helm;
use crate::lab::Lab;
use crate::operator;
use crate::replicas;
use crate::run::check;
use crate::wait::Seen;

/// The CRD of ours, as kubectl is asked for it.
const CRD: &str = "resiliences.resilience.dev";

/// The version that the earlier release says it has.
const EARLIER: &str = "0.0.1";

/// The CRD's short name, and what the earlier one has instead.
const SHORT_NAME: &str = "rsl";
const SHORT_NAME_OF_BEFORE: &str = "rslbefore";

/// A limit far above what the load needs, and another.
const LIMITS: [u64; 2] = [666, 667];

/// A release takes the operator over where it stands, an upgrade brings the CRD of its version and rolls the pods, a
/// rollback brings both of before back, and when it is uninstalled CRD, policy and rules stay. Nothing of it touches
/// what is generated, and of the calls that go on meanwhile not one fails. A release on a cluster that has nothing yet
/// is in [`super::leaving`].
///
/// There is no chart of before: the earlier release is this one under a lower version, with other values and a CRD that
/// has another short name.
///
/// # Errors
/// When one of these is not so.
pub fn upgrades_and_uninstalls(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let helm = Helm::of(&lab)?;
    let earlier = earlier(checkout, &helm)?;
    on_stage(checkout, "helm", |stage| {
        let played = play(checkout, &lab, &helm, &earlier, stage);
        // Whatever happened: the other scenarios have the operator of `deploy/`.
        let restored = restore(checkout, &lab, &helm);
        played.and(restored)
    })
}

fn play(checkout: &Checkout, lab: &Lab, helm: &Helm<'_>, earlier: &str, stage: &Stage<'_>) -> Result<()> {
    stage.policy(&spec(LIMITS[0]))?;
    stage.until_threshold("fortio", "max_requests", LIMITS[0])?;
    let before = generated(stage)?;
    let untouched = || -> Result<()> {
        let now = generated(stage)?;
        ensure!(now == before, "what is generated was touched: {before:?} is {now:?}");
        Ok(())
    };
    calls_go_on(stage, "a release takes the operator over", || {
        let values = ["--set", "podAnnotations.release=earlier", "--set", "logLevel=debug"];
        let more = [&["--take-ownership", "--force-conflicts"], &values[..]].concat();
        release(helm, "install", earlier, &more)?;
        ensure!(short_names(lab)? == json!([SHORT_NAME_OF_BEFORE]), "the earlier CRD is not there");
        untouched()
    })?;
    calls_go_on(stage, "helm upgrade", || {
        release(helm, "upgrade", &folder(checkout), &["--reset-values"])?;
        replicas::ready(lab)?;
        until_no_pod_of_before(lab)?;
        ensure!(short_names(lab)? == json!([SHORT_NAME]), "the CRD was not upgraded: {}", short_names(lab)?);
        untouched()
    })?;
    // It is the upgraded one that serves.
    stage.policy(&spec(LIMITS[1]))?;
    stage.until_threshold("fortio", "max_requests", LIMITS[1])?;
    let before = generated(stage)?;
    calls_go_on(stage, "helm rollback", || {
        let words = ["rollback", RELEASE, "1", "--namespace", operator::NAMESPACE, "--wait", "--timeout", "3m"];
        helm.run(&words)?;
        replicas::ready(lab)?;
        ensure!(short_names(lab)? == json!([SHORT_NAME_OF_BEFORE]), "the CRD of before is not back");
        ensure!(generated(stage)? == before, "what is generated was touched");
        Ok(())
    })?;
    // It is the earlier one that serves.
    stage.policy(&spec(LIMITS[0]))?;
    stage.until_threshold("fortio", "max_requests", LIMITS[0])?;
    let before = generated(stage)?;
    calls_go_on(stage, "helm uninstall", || {
        uninstall(lab, helm)?;
        lab.kubectl().run(&["get", "crd", CRD]).context("the CRD went with the release")?;
        stage.kubectl.run(&["get", "resilience", "httpbin"]).context("the policy went with the release")?;
        ensure!(generated(stage)? == before, "what is generated was touched");
        Ok(())
    })
}

fn spec(limit: u64) -> Value {
    json!({"limits": {"perClient": {"activeRequests": limit}}, "timeouts": {"request": "9s"}})
}

/// A release as a person makes it, which has to be there in time.
pub(super) fn release(helm: &Helm<'_>, verb: &str, chart: &str, more: &[&str]) -> Result<()> {
    let words = [verb, RELEASE, chart, "--namespace", operator::NAMESPACE, "--set", IMAGE];
    helm.run(&[&words, &["--wait", "--timeout", "3m"][..], more].concat()).map(drop)
}

/// Ends the release, and waits until its pods have gone.
fn uninstall(lab: &Lab, helm: &Helm<'_>) -> Result<()> {
    helm.run(&["uninstall", RELEASE, "--namespace", operator::NAMESPACE, "--ignore-not-found", "--wait"])?;
    lab.namespace(operator::NAMESPACE).until("no replica is there", SOON, |_| {
        let pods = replicas::pods(lab)?.len();
        Ok(if pods == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{pods} pods")) })
    })
}

/// A pod that was told to end is listed until its kubelet says that it has.
fn until_no_pod_of_before(lab: &Lab) -> Result<()> {
    lab.namespace(operator::NAMESPACE).until("the pods of before are gone", SOON, |_| {
        let pods = replicas::pods(lab)?;
        let before = pods.iter().filter(|pod| pod["metadata"].pointer("/annotations/release").is_some());
        let names: Vec<_> = before.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        Ok(if names.is_empty() { Seen::Done(()) } else { Seen::NotYet(names.join(", ")) })
    })
}

/// Versions of what is generated.
fn generated(stage: &Stage<'_>) -> Result<Vec<Value>> {
    let version = |kind| Ok(stage.generated(kind)?["metadata"]["resourceVersion"].clone());
    ["destinationrule", "virtualservice"].into_iter().map(version).collect()
}

fn short_names(lab: &Lab) -> Result<Value> {
    Ok(lab.kubectl().json(&["get", "crd", CRD])?["spec"]["names"]["shortNames"].clone())
}

/// Packages this chart as an earlier version.
fn earlier(checkout: &Checkout, helm: &Helm<'_>) -> Result<String> {
    let place = checkout.state().join("earlier-chart");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("{} cannot be removed", place.display()))?;
    }
    fs::create_dir_all(&place)?;
    check(Command::new("cp").arg("-r").arg(folder(checkout)).arg(&place))?;
    let copy = place.join("chart");
    rename(&copy.join("files/crd.yaml"))?;
    let (chart, place) = (copy.display().to_string(), place.display().to_string());
    helm.run(&["package", &chart, "--version", EARLIER, "--app-version", EARLIER, "--destination", &place])?;
    Ok(format!("{place}/{RELEASE}-{EARLIER}.tgz"))
}

fn rename(crd: &Path) -> Result<()> {
    let text = fs::read_to_string(crd).with_context(|| format!("{} cannot be read", crd.display()))?;
    let of = |name: &str| format!("    shortNames:\n    - {name}\n");
    ensure!(text.contains(&of(SHORT_NAME)), "{} has another short name than {SHORT_NAME}", crd.display());
    fs::write(crd, text.replace(&of(SHORT_NAME), &of(SHORT_NAME_OF_BEFORE)))
        .with_context(|| format!("{} cannot be written", crd.display()))
}

/// The operator as `deploy/` has it, and nothing of a release.
pub(super) fn restore(checkout: &Checkout, lab: &Lab, helm: &Helm<'_>) -> Result<()> {
    uninstall(lab, helm)?;
    // By which Helm knows what is its own, and keeps it.
    let marks = ["meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-", "helm.sh/resource-policy-"];
    if lab.kubectl().try_run(&["get", "crd", CRD])?.status.success() {
        lab.kubectl().run(&[&["annotate", "crd", CRD][..], &marks].concat())?;
        lab.kubectl().run(&["label", "crd", CRD, "app.kubernetes.io/managed-by-"])?;
    }
    install(checkout, lab)
}
