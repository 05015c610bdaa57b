//! What a change of a rule does to calls under way.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, CLIENT, by_rule, routes, rule, with_spec};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::fortio::{Answers, load_at};
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::workloads::{TARGET, start_in};

const PORT: u16 = 8000;
/// Callers at once; each has a connection to its proxy.
const CALLERS: u32 = 8;
const REQUESTS: u32 = 1000;
/// A second; so the load lasts five.
const RATE: u32 = 200;
/// Changes that must fall into it.
const CHANGES: u32 = 4;

const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["M73"],
        says: "under load and without a change no call fails, and callers share few connections",
        judge: nothing_happens_without_a_change,
    },
    Claim {
        ids: &["M74", "M75"],
        says: "no change fails a call; one of a rule reopens the connections, one of routes does not",
        judge: changes_fail_nothing_and_those_of_rules_reopen,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "changes", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-changes", |kubectl| {
        start_in(checkout, kubectl)?;
        judge.all(&Bench::new(kubectl), CLAIMS, Bench::sweep);
        Ok(())
    })
}

fn nothing_happens_without_a_change(bench: &Bench) -> Result<()> {
    let run = under_load(bench, None)?;
    ensure!(run.opened <= u64::from(CALLERS), "{} connections were opened for {CALLERS} callers", run.opened);
    Ok(())
}

fn changes_fail_nothing_and_those_of_rules_reopen(bench: &Bench) -> Result<()> {
    let by_routes = under_load(bench, Some(change_routes))?;
    let by_rules = under_load(bench, Some(change_rule))?;
    // At the rate above some four calls are under way, so each change of a rule costs about as many.
    ensure!(
        by_rules.opened >= u64::from(by_rules.changes) && by_rules.opened > 2 * by_routes.opened,
        "{} changes of a rule opened {} connections, {} of routes {}",
        by_rules.changes,
        by_rules.opened,
        by_routes.changes,
        by_routes.opened
    );
    ensure!(by_routes.opened <= u64::from(CALLERS), "changes of routes opened {} connections", by_routes.opened);
    Ok(())
}

/// Created, then updated again and again; with every fourth one it goes, and the next one creates it anew.
fn change_rule(bench: &Bench, number: u32) -> Result<()> {
    let (name, cluster) = (format!("changed-{}", number / 4), bench.cluster("httpbin", PORT));
    if number % 4 == 3 {
        bench.kubectl.run(&["delete", "destinationrule", &name])?;
        bench.until("the rule is gone", |dump| {
            if by_rule(dump, &cluster, &name).is_err() { Ok(()) } else { Err("still there".to_owned()) }
        })?;
        return Ok(());
    }
    let requests = 1000 + u64::from(number);
    bench.apply(&[rule(&name, "httpbin", json!({"connectionPool": {"http": {"http2MaxRequests": requests}}}))])?;
    bench.until("the client has the change", |dump| {
        let seen = dump.cluster(&cluster).and_then(|cluster| super::bench::threshold(cluster, "max_requests"));
        if seen == Some(requests) { Ok(()) } else { Err(format!("{seen:?}")) }
    })?;
    Ok(())
}

/// As [`change_rule`], of routes.
fn change_routes(bench: &Bench, number: u32) -> Result<()> {
    let (name, host) = (format!("changed-{}", number / 4), bench.host("httpbin"));
    let timeout = |dump: &crate::config_dump::ConfigDump| -> Value {
        routes(dump, &host, PORT).first().and_then(|route| route.pointer("/route/timeout")).cloned().unwrap_or_default()
    };
    let seconds = if number % 4 == 3 { 0 } else { 10 + number };
    if seconds == 0 {
        bench.kubectl.run(&["delete", "virtualservice", &name])?;
    } else {
        let route = json!([{"destination": {"host": "httpbin", "port": {"number": PORT}}}]);
        let spec = json!({"hosts": ["httpbin"], "http": [{"route": route, "timeout": format!("{seconds}s")}]});
        bench.apply(&[with_spec("VirtualService", &name, &spec)])?;
    }
    bench.until("the client has the change", |dump| {
        let seen = timeout(dump);
        if seen == format!("{seconds}s") { Ok(()) } else { Err(seen.to_string()) }
    })?;
    Ok(())
}

/// What happened while the load ran.
struct Run {
    changes: u32,
    opened: u64,
}

/// Makes one change after the other while the load runs. Every call must be answered 200.
fn under_load(bench: &Bench, change: Option<fn(&Bench, u32) -> Result<()>>) -> Result<Run> {
    let host = bench.host("httpbin");
    // Connections are there: what is opened later has another reason.
    let warm = load(bench, REQUESTS / 5)?;
    ensure!(warm.status(200) == warm.total(), "not all answers are 200 before any change: {warm:?}");
    let before = Stats::of(&bench.kubectl, CLIENT)?;
    ensure!(before.knows(&host), "the client's Envoy counts nothing for {host}");
    let (answers, changes) = std::thread::scope(|scope| -> Result<(Answers, u32)> {
        let load = scope.spawn(|| load(bench, REQUESTS));
        let mut changes = 0;
        let mut result = Ok(());
        while let Some(change) = change.filter(|_| !load.is_finished() && result.is_ok()) {
            result = change(bench, changes);
            changes += 1;
        }
        let answers = load.join().ok().context("the load panicked")??;
        result.map(|()| (answers, changes))
    })?;
    let after = Stats::of(&bench.kubectl, CLIENT)?.since(&before);
    ensure!(change.is_none() || changes >= CHANGES, "only {changes} changes fell into the load");
    ensure!(
        answers.total() == u64::from(REQUESTS) && answers.status(200) == answers.total(),
        "not all answers are 200 through {changes} changes: {answers:?}"
    );
    Ok(Run { changes, opened: after.outbound(&host, PORT, "upstream_cx_total") })
}

fn load(bench: &Bench, requests: u32) -> Result<Answers> {
    load_at(&bench.kubectl, &format!("{TARGET}/delay/0.02"), CALLERS, requests, RATE)
}

#[cfg(test)]
mod tests {
    use super::{CLAIMS, listed};
    use crate::measured::bench::each_once;

    #[test]
    fn every_measurement_of_the_family_is_judged_once() {
        each_once(listed(CLAIMS), &["M73", "M74", "M75"]);
    }
}
