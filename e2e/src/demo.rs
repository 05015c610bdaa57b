//! `cargo lab demo`: the main job as a story. In: a lab with our operator, or another cluster with one. Out: the object as declared, the
//! objects as generated, a table of what callers got at each step with the Envoys as witnesses, and a
//! picture of it. A story that does not come true is an error.

pub(crate) mod measure;
mod picture;
mod table;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::envoy::Stats;
use crate::kubectl::Kubectl;
use crate::lab::{Lab, Options};
use crate::namespace::elsewhere;
use crate::report::Report;
use crate::scenarios::stage::{PORT, SOON, Stage, policy};
use crate::wait::Seen;
use crate::workloads::{self, add_failing_replica, add_loader, start_in, with_images};
use measure::{CLIENT, Pace, Row};

/// Enough for a split that means something.
const REQUESTS: u64 = 1_000;
/// Calls a second against limits: five times what one connection can carry.
const RATE: u32 = 100;
/// Calls made at that rate.
const PACED: u64 = 600;
/// How far our split may be from fortio's, in points.
const AGREEMENT: f64 = 10.0;
/// The object that the story is about, written by hand.
const SAMPLE: &str = "istio-samples/httpbin-circuit-breaker/resilience.yaml";

/// Tells the story, on the lab or the cluster that the checkout names instead, and draws it where `picture` says.
///
/// # Errors
/// When the lab does not start, or the story does not come true.
pub fn run(checkout: &Checkout, picture: Option<&Path>) -> Result<()> {
    let report = Report::new();
    let (rows, rest) = match checkout.other_cluster() {
        Some(cluster) => (on(cluster, checkout, &report)?, "Nothing of it is left on that cluster."),
        None => on_the_lab(checkout, &report)?,
    };
    println!("\n{}", table::whole(&rows));
    if let Some(path) = picture {
        fs::write(path, picture::draw(&rows)).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("drawn in {}", path.display());
    }
    println!("{rest}");
    Ok(())
}

/// In a namespace of its own.
fn on(cluster: &Kubectl, checkout: &Checkout, report: &Report) -> Result<Vec<Row>> {
    elsewhere(cluster, workloads::NAMESPACE, |kubectl| {
        report.step("start httpbin and fortio", || start_in(checkout, kubectl))?;
        tell(checkout, &Stage { kubectl }, report)
    })
}

fn on_the_lab(checkout: &Checkout, report: &Report) -> Result<(Vec<Row>, &'static str)> {
    let (lab, started) = Lab::up(checkout, Options { operator: true, control_plane: false }, report)?;
    let kubectl = lab.namespace(workloads::NAMESPACE);
    let told = tell(checkout, &Stage { kubectl: &kubectl }, report);
    // Whatever came of it, the demo's namespace is as it was, so that it can be told again.
    let tidied = tidy(checkout, &kubectl);
    let rows = told?;
    tidied?;
    let rest = if started {
        "The lab stays up: `cargo lab down` ends it, `cargo lab kubectl -- explain resilience.spec` goes on from here."
    } else {
        "`cargo lab kubectl -- explain resilience.spec` goes on from here."
    };
    Ok((rows, rest))
}

fn tell(checkout: &Checkout, stage: &Stage<'_>, report: &Report) -> Result<Vec<Row>> {
    let kubectl = stage.kubectl;
    report.step("start our load generator behind a sidecar", || {
        tidy(checkout, kubectl)?;
        add_loader(checkout, kubectl)?;
        kubectl.until("the loader reaches httpbin", SOON, |_| {
            let row = measure::ours(stage, "first call", 1, Pace::Callers(1))?;
            Ok(if row.ok == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{row:?}")) })
        })
    })?;
    let mut rows = Vec::new();
    limits(checkout, stage, report, &mut rows)?;
    failing_replica(checkout, stage, report, &mut rows)?;
    heading("6. Deleted: as it was");
    kubectl.run(&["delete", "resilience", "httpbin"])?;
    stage.until_gone("destinationrule", "httpbin")?;
    stage.until_gone("virtualservice", "httpbin")?;
    end_failing_replica(kubectl)?;
    let row = report.step("call again", || {
        kubectl.until("every answer is 200 again", SOON, |_| {
            let row = measure::ours(stage, "deleted", REQUESTS, Pace::Callers(3))?;
            Ok(if row.ok == REQUESTS { Seen::Done(row) } else { Seen::NotYet(format!("{row:?}")) })
        })
    })?;
    show(&row);
    rows.push(row);
    Ok(rows)
}

fn limits(checkout: &Checkout, stage: &Stage<'_>, report: &Report, rows: &mut Vec<Row>) -> Result<()> {
    heading("1. No policy: 100 calls a second, each of which takes the server 50 ms");
    let row = report.step("call", || measure::ours(stage, "no policy", PACED, Pace::Rate(RATE)))?;
    show(&row);
    ensure!(row.ok == PACED, "not every answer is 200 although nothing is declared: {row:?}");
    rows.push(row);

    heading("2. One Resilience is declared …");
    let path = checkout.root().join(SAMPLE);
    let declared = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    println!("{}", indent(&declared));
    stage.kubectl.apply(&declared)?;
    report.step("wait until it is Programmed and in the client's Envoy", || {
        stage.until_condition("httpbin", "Programmed", "True")?;
        stage.until_threshold(CLIENT, "max_pending_requests", 1)?;
        stage.until_threshold("deploy/fortio", "max_pending_requests", 1)
    })?;
    println!("   … and this is generated and kept:\n{}", indent(&spec_of(stage, "destinationrule")?));
    println!("{}", indent(&stage.kubectl.run(&["get", "resilience", "httpbin"])?));
    println!("{}", indent(&warnings(stage)?));
    let ours =
        report.step("call with our load generator", || measure::ours(stage, "limits", PACED, Pace::Rate(RATE)))?;
    show(&ours);
    let theirs = report.step("call with fortio", || measure::fortio(stage, "limits (fortio)", PACED, RATE))?;
    show(&theirs);
    for row in [&ours, &theirs] {
        ensure!(row.requests >= 500, "too few calls to compare: {row:?}");
        ensure!(row.ok > 0 && row.refused > 0, "the answers should be mixed: {row:?}");
        ensure!(
            row.refused == row.client_refused + row.server_refused,
            "the Envoys counted other refusals than the caller: {row:?}"
        );
    }
    let apart = (ours.refused_percent() - theirs.refused_percent()).abs();
    ensure!(apart <= AGREEMENT, "our split and fortio's are {apart:.1} points apart: {ours:?} {theirs:?}");
    println!("   ours and fortio's share of refusals are {apart:.1} points apart");
    rows.extend([ours, theirs]);
    Ok(())
}

fn failing_replica(checkout: &Checkout, stage: &Stage<'_>, report: &Report, rows: &mut Vec<Row>) -> Result<()> {
    let kubectl = stage.kubectl;
    heading("3. Three callers as fast as answers come; of three replicas one answers every call with 500");
    kubectl.run(&["delete", "resilience", "httpbin"])?;
    stage.until_gone("destinationrule", "httpbin")?;
    report.step("start three replicas, of which one fails", || {
        kubectl.run(&["scale", "deployment/httpbin", "--replicas=2"])?;
        kubectl.rolled_out("deployment/httpbin", SOON)?;
        add_failing_replica(checkout, kubectl)?;
        kubectl.until("a third fails", SOON, |_| {
            let row = measure::ours(stage, "probe", 300, Pace::Callers(3))?;
            let percent = row.failed_percent();
            Ok(if (20.0..50.0).contains(&percent) { Seen::Done(()) } else { Seen::NotYet(format!("{row:?}")) })
        })
    })?;
    let row = measure::ours(stage, "one of three fails", REQUESTS, Pace::Callers(3))?;
    show(&row);
    rows.push(row);

    heading("4. Ejection: after three failures in a row it is left out");
    declare(stage, &json!({"ejection": {"consecutive5xx": 3, "interval": "1s", "baseTime": "30s", "maxPercent": 50}}))?;
    report.step("call until it is ejected", || {
        kubectl.until("an endpoint is ejected", SOON, |kubectl| {
            measure::ours(stage, "probe", 60, Pace::Callers(3))?;
            let ejected =
                Stats::of(kubectl, CLIENT)?.outbound(&stage.host(), PORT, "outlier_detection.ejections_active");
            Ok(if ejected == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{ejected} ejected")) })
        })
    })?;
    let row = measure::ours(stage, "ejection", REQUESTS, Pace::Callers(3))?;
    show(&row);
    ensure!(row.ok == REQUESTS && row.ejected == 1, "the failing endpoint is ejected and still answers: {row:?}");
    rows.push(row);

    heading("5. Retries instead: a failed call is tried again elsewhere");
    declare(
        stage,
        &json!({"retries": {"attempts": 2, "retryOn": ["5xx"], "backoff": "1ms"}, "timeouts": {"request": "2s"}}),
    )?;
    println!("   generated:\n{}", indent(&spec_of(stage, "virtualservice")?));
    let row = report.step("call", || {
        kubectl.until("retries heal", SOON, |_| {
            let row = measure::ours(stage, "retries", REQUESTS, Pace::Callers(3))?;
            // Two more tries, each on one of the other endpoints.
            Ok(if row.failed_percent() < 5.0 && row.retries > 0 {
                Seen::Done(row)
            } else {
                Seen::NotYet(format!("{row:?}"))
            })
        })
    })?;
    show(&row);
    rows.push(row);
    Ok(())
}

fn declare(stage: &Stage<'_>, spec: &Value) -> Result<()> {
    println!("{}", indent(&yaml(spec)?));
    stage.kubectl.apply(&policy("httpbin", "httpbin", spec))?;
    stage.until_condition("httpbin", "Programmed", "True").map(drop)
}

/// With its pod: one on its way out is still listed, and gone when its Envoy is asked.
fn end_failing_replica(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["delete", "deployment", "httpbin-failing", "--ignore-not-found", "--cascade=foreground"]).map(drop)
}

fn tidy(checkout: &Checkout, kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["delete", "resilience", "--all", "--wait"])?;
    end_failing_replica(kubectl)?;
    kubectl.delete(&with_images(&manifest(checkout, "loader.yaml")?))?;
    kubectl.run(&["scale", "deployment/httpbin", "--replicas=1"])?;
    kubectl.rolled_out("deployment/httpbin", Duration::from_mins(2))
}

fn warnings(stage: &Stage<'_>) -> Result<String> {
    let object = stage.kubectl.json(&["get", "resilience", "httpbin"])?;
    let warnings = object.pointer("/status/warnings").and_then(Value::as_array).cloned().unwrap_or_default();
    let lines = warnings.iter().map(|warning| format!("{}: {}", text(warning, "code"), text(warning, "message")));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn spec_of(stage: &Stage<'_>, kind: &str) -> Result<String> {
    let object = stage.generated(kind)?;
    yaml(&json!({"kind": object["kind"], "metadata": {"name": object["metadata"]["name"]}, "spec": object["spec"]}))
}

fn yaml(value: &Value) -> Result<String> {
    serde_saphyr::to_string(value).context("an object cannot be printed as YAML")
}

fn heading(text: &str) {
    println!("\n{}", console::style(text).bold());
}

fn show(row: &Row) {
    println!("{}", table::whole(std::slice::from_ref(row)));
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("     {line}")).collect::<Vec<_>>().join("\n")
}
