//! The retry budget. Eight callers let 400 calls fail, each of which may be tried three more times.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::measured::routes_stage::{PORT, Stage, pool, threshold};

const CALLS: u64 = 400;
const ATTEMPTS: u64 = 3;

/// The spec of a DestinationRule with this budget.
fn budget(budget: &Value) -> Value {
    json!({"trafficPolicy": {"retryBudget": budget}})
}

/// Retries done and refused, with this DestinationRule.
fn retries(stage: &Stage, spec: Option<&Value>) -> Result<(u64, u64)> {
    let calls = json!([{"route": stage.to("httpbin"), "retries": {"attempts": ATTEMPTS, "retryOn": "503"}}]);
    let mut objects = vec![stage.virtual_service("httpbin", "httpbin", &calls)];
    objects.extend(spec.map(|spec| stage.destination_rule("httpbin", spec)));
    stage.write(&objects)?;
    let seen = stage.call_at_once("/status/503", 8, 400)?;
    let (done, refused) = (seen.retries(stage), seen.by_client(stage, "httpbin", "upstream_rq_retry_overflow"));
    seen.expect(503, CALLS + done)?;
    Ok((done, refused))
}

/// That the most of these retries were cut: less than half are left, and more than a quarter of the calls
/// ended by a refusal. In every run that was ever measured it was at most a tenth, and nine tenths.
fn expect_cut((done, refused): (u64, u64), what: &Value) -> Result<()> {
    ensure!(
        done < CALLS * ATTEMPTS / 2 && refused > CALLS / 4,
        "{what}: of {} retries {done} were made and {refused} refused",
        CALLS * ATTEMPTS
    );
    Ok(())
}

/// That every retry was made.
fn expect_all((done, refused): (u64, u64), what: &Value) -> Result<()> {
    let all = CALLS * ATTEMPTS;
    ensure!((done, refused) == (all, 0), "{what}: of {all} retries {done} were made and {refused} refused");
    Ok(())
}

pub(super) fn cuts(stage: &Stage) -> Result<()> {
    expect_all(retries(stage, None)?, &json!("no budget"))?;
    for spec in [
        // First: where a budget was, server-side apply makes null of `{}`, and the CRD refuses it.
        budget(&json!({})),
        budget(&json!({"percent": 20})),
        budget(&json!({"percent": 20, "minRetryConcurrency": 1})),
        budget(&json!({"percent": 0, "minRetryConcurrency": 1})),
        budget(&json!({"percent": 100, "minRetryConcurrency": 1})),
        pool(&json!({"http": {"maxRetries": 1}})),
    ] {
        let seen = retries(stage, Some(&spec))?;
        expect_cut(seen, &spec)?;
        ensure!(seen.0 > 0, "{spec}: not one retry was made");
    }
    Ok(())
}

/// Percent and least concurrency of the budget of a cluster of `httpbin`; none when it has no budget.
fn programmed(stage: &Stage, subset: &str) -> Result<Option<(f64, u64)>> {
    let dump = stage.client()?;
    let name = format!("outbound|{PORT}|{subset}|{}", stage.host("httpbin"));
    let cluster = dump.cluster(&name).with_context(|| format!("the client has no cluster {name}"))?;
    let Some(budget) = cluster.pointer("/circuit_breakers/thresholds/0/retry_budget") else { return Ok(None) };
    // What is 0 is not printed.
    let percent = budget["budget_percent"].get("value").and_then(Value::as_f64).unwrap_or(0.0);
    Ok(Some((percent, budget["min_retry_concurrency"].as_u64().unwrap_or(0))))
}

pub(super) fn defaults(stage: &Stage) -> Result<()> {
    for (stated, wanted) in [
        (json!({}), (20.0, 3)),
        (json!({"minRetryConcurrency": 0}), (20.0, 3)),
        (json!({"percent": 0}), (0.0, 3)),
        (json!({"percent": 35, "minRetryConcurrency": 4}), (35.0, 4)),
    ] {
        stage.write(&[stage.destination_rule("httpbin", &budget(&stated))])?;
        let seen = programmed(stage, "")?;
        ensure!(seen == Some(wanted), "{stated}: programmed is {seen:?}, not {wanted:?}");
    }
    // A budget that lets everything pass, beside a maximum that lets next to nothing pass.
    let spec = json!({"trafficPolicy": {
        "connectionPool": {"http": {"maxRetries": 1}},
        "retryBudget": {"percent": 100, "minRetryConcurrency": 1000},
    }});
    expect_all(retries(stage, Some(&spec))?, &spec)?;
    let dump = stage.client()?;
    let most = threshold(dump.cluster(&format!("outbound|{PORT}||{}", stage.host("httpbin"))), "max_retries");
    let seen = programmed(stage, "")?;
    ensure!(most == Some(1) && seen == Some((100.0, 1000)), "not both are programmed: {most:?}, {seen:?}");
    Ok(())
}

pub(super) fn interval(stage: &Stage) -> Result<()> {
    let without = budget(&json!({"percent": 20, "minRetryConcurrency": 1}));
    let with = budget(&json!({"percent": 20, "minRetryConcurrency": 1, "budgetInterval": "10s"}));
    let (fewer, refused) = retries(stage, Some(&without))?;
    let (more, refused_less) = retries(stage, Some(&with))?;
    // Measured: 15 and 395, 1113 and 29.
    ensure!(
        more > 2 * fewer && refused_less < refused / 2,
        "without a budgetInterval {fewer} retries were made and {refused} refused, with one {more} and {refused_less}"
    );
    Ok(())
}

pub(super) fn by_port(stage: &Stage) -> Result<()> {
    let with_port = |port: u16| {
        json!({"trafficPolicy": {
            "retryBudget": {"percent": 20, "minRetryConcurrency": 1},
            "portLevelSettings": [{"port": {"number": port}, "connectionPool": {"tcp": {"maxConnections": 1000}}}],
        }})
    };
    let (its_own, another) = (with_port(PORT), with_port(8001));
    expect_cut(retries(stage, Some(&another))?, &another)?;
    ensure!(programmed(stage, "")? == Some((20.0, 1)), "an entry for another port changes the budget");
    expect_all(retries(stage, Some(&its_own))?, &its_own)?;
    let seen = programmed(stage, "")?;
    ensure!(seen.is_none(), "the port with an entry has a budget: {seen:?}");
    Ok(())
}

pub(super) fn in_subsets(stage: &Stage) -> Result<()> {
    let labels = json!({"version": "v1"});
    let limits = json!({"tcp": {"maxConnections": 1000}});
    let subset = |name: &str, policy: Value| json!({"name": name, "labels": labels, "trafficPolicy": policy});
    stage.write(&[stage.destination_rule(
        "httpbin",
        &json!({
            "trafficPolicy": {"retryBudget": {"percent": 20, "minRetryConcurrency": 1}},
            "subsets": [
                {"name": "bare", "labels": labels},
                subset("limits", json!({"connectionPool": limits})),
                subset("port", json!({"portLevelSettings": [{"port": {"number": PORT}, "connectionPool": limits}]})),
                subset("own", json!({"retryBudget": {"percent": 50}})),
            ],
        }),
    )])?;
    for (subset, wanted) in [("bare", (20.0, 1)), ("limits", (20.0, 1)), ("port", (20.0, 1)), ("own", (50.0, 3))] {
        let seen = programmed(stage, subset)?;
        ensure!(seen == Some(wanted), "the subset {subset} has the budget {seen:?}, not {wanted:?}");
    }
    Ok(())
}
