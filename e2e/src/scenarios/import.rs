//! `import --adopt` on a real API server, with real istiods and Envoys: a person's rule and routes become a
//! policy's, and the limit is in the client's Envoy whenever one looks.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::merge::under_load;
use super::stage::{PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::operator;
use crate::report::Report;
use crate::run::finish;
use crate::wait::Seen;

/// A limit far above what the load needs.
pub(super) const LIMIT: u64 = 555;

/// Objects of other names go after a copy stands beside them, those of the target's name become the policy's in
/// place; of the calls that go on meanwhile not one is lost, and no look at the client's Envoy finds it without
/// the limit or the timeout.
///
/// # Errors
/// When one of these is not so.
pub fn hands_over_without_a_gap(checkout: &Checkout) -> Result<()> {
    // The same file that the operator's image holds.
    let program = operator::build(checkout, &Report::new())?;
    on_stage(checkout, "import-adopts", |stage| {
        for (rule, routes) in [("theirs", "their-routes"), ("httpbin", "httpbin")] {
            stage.kubectl.apply(&theirs(rule, routes))?;
            stage.until_threshold("fortio", "max_requests", LIMIT)?;
            has_the_timeout(stage)?;
            under_load(stage, &format!("DestinationRule {rule} is handed over"), || {
                watched(stage, || {
                    adopt(stage, &program, 0)?;
                    stage.until_condition("httpbin", "Programmed", "True").map(drop)
                })
            })?;
            for (kind, name) in [("destinationrule", rule), ("virtualservice", routes)] {
                if name != "httpbin" {
                    stage.until_gone(kind, name)?;
                }
                let owner = stage.generated(kind)?.pointer("/metadata/ownerReferences/0/kind").cloned();
                ensure!(owner == Some(json!("Resilience")), "{kind} httpbin is not the policy's: {owner:?}");
            }
            stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
            stage.until_gone("destinationrule", "httpbin")?;
            stage.until_gone("virtualservice", "httpbin")?;
        }
        Ok(())
    })
}

fn theirs(rule: &str, routes: &str) -> String {
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": rule},
        "spec": {
            "host": "httpbin",
            "trafficPolicy": {
                "connectionPool": {"http": {"http2MaxRequests": LIMIT}},
                "outlierDetection": {"consecutive5xxErrors": 7},
            },
        },
    });
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": routes},
        "spec": {"hosts": ["httpbin"], "http": [{"route": [{"destination": {"host": "httpbin"}}], "timeout": "9s"}]},
    });
    format!("{rule}\n---\n{routes}\n")
}

/// Waits until the routes in the client's Envoy have the timeout.
pub(super) fn has_the_timeout(stage: &Stage<'_>) -> Result<()> {
    stage.kubectl.until("the timeout is in the client's Envoy", SOON, |_| {
        let seen = timeouts(stage, &look(stage)?);
        Ok(if seen == ["9s"] { Seen::Done(()) } else { Seen::NotYet(seen.join(" ")) })
    })
}

/// Hands over what is in the namespace, and ends with this code: 1, if something stays where it is.
pub(super) fn adopt(stage: &Stage<'_>, program: &Path, code: i32) -> Result<()> {
    let mut command = stage.kubectl.inside(program.to_str().context("the path is no text")?)?;
    command.args(["import", "--adopt", "--yes", "--namespace", stage.kubectl.current_namespace()]);
    let done = finish(&mut command)?;
    ensure!(done.status.code() == Some(code), "import --adopt: {}", done.all());
    Ok(())
}

/// Does `work` while somebody looks at the client's Envoy again and again; every look has to find the policy.
pub(super) fn watched(stage: &Stage<'_>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                let dump = look(stage)?;
                let limit = limit(stage, &dump)?;
                ensure!(limit == Some(json!(LIMIT)), "look {looks} found the limit {limit:?}");
                let timeouts = timeouts(stage, &dump);
                ensure!(timeouts == ["9s"], "look {looks} found timeouts {timeouts:?}");
                looks += 1;
            }
            Ok::<u32, anyhow::Error>(looks)
        });
        let worked = work();
        over.store(true, Ordering::Relaxed);
        let looks = looks.join().map_err(|_| anyhow::anyhow!("the look-out panicked"))??;
        println!("    {looks} looks at the client's Envoy, and each found the policy");
        ensure!(looks > 0, "nobody looked");
        worked
    })
}

fn look(stage: &Stage<'_>) -> Result<ConfigDump> {
    ConfigDump::of(stage.kubectl, "deploy/fortio")
}

fn limit(stage: &Stage<'_>, dump: &ConfigDump) -> Result<Option<Value>> {
    let name = format!("outbound|{PORT}||{}", stage.host());
    let cluster = dump.cluster(&name).context("the client's Envoy has no cluster")?;
    Ok(cluster.pointer("/circuit_breakers/thresholds/0/max_requests").cloned())
}

/// Timeouts of the routes to the host.
fn timeouts(stage: &Stage<'_>, dump: &ConfigDump) -> Vec<String> {
    let name = format!("outbound|{PORT}||{}", stage.host());
    let hosts = dump.routes().iter().flat_map(|config| list(config, "virtual_hosts"));
    let routes = hosts
        .flat_map(|host| list(host, "routes"))
        .filter(|route| route.pointer("/route/cluster") == Some(&json!(name)));
    let mut found: Vec<String> = routes
        .map(|route| route.pointer("/route/timeout").and_then(Value::as_str).unwrap_or_default().to_owned())
        .collect();
    found.dedup();
    found
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
