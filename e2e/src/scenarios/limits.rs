//! Limits trip where they are declared, and nowhere without a policy.

use anyhow::{Result, ensure};
use serde_json::json;

use super::stage::{CONTAINER_PORT, PORT, Stage, on_stage};
use crate::checkout::Checkout;
use crate::envoy::Stats;

/// The talk's numbers: one connection, one request that waits. Without the object every answer is 200; with
/// it some are refused, each counted by an Envoy; after it is deleted every answer is 200 again.
///
/// # Errors
/// When one of these is not so.
pub fn trip_by_pending_requests(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "trips-by-pending", |stage| {
        all_pass(stage)?;
        stage.policy(
            &json!({"limits": {"perClient": {"connections": 1, "pendingRequests": 1, "requestsPerConnection": 1}}}),
        )?;
        stage.until_threshold("deploy/fortio", "max_pending_requests", 1)?;
        let (answers, client, server) = stage.counted(|| stage.call("/get", 3, 500))?;
        let refused = answers.status(503);
        ensure!(refused > 0 && answers.status(200) > 0, "the answers should be mixed: {answers:?}");
        let by_client = overflows(&client, |stats, counter| stats.outbound(&stage.host(), PORT, counter));
        let by_server = overflows(&server, |stats, counter| stats.inbound(CONTAINER_PORT, counter));
        ensure!(
            refused == by_client + by_server,
            "{refused} answers were 503, the client's Envoy refused {by_client}, the server's {by_server}"
        );
        ensure!(
            client.outbound(&stage.host(), PORT, "upstream_rq_pending_overflow") > 0,
            "no pending overflow was counted at the client"
        );
        stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
        stage.until_gone("destinationrule", "httpbin")?;
        stage.until_answers("every answer is 200 again", "/get", 3, 300, |answers| answers.status(200) == 300)
    })
}

/// Two requests may be under way; eight callers want to.
///
/// # Errors
/// When none is refused, or for another reason.
pub fn trip_by_active_requests(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "trips-by-active", |stage| {
        stage.policy(&json!({"limits": {"perClient": {"activeRequests": 2}}}))?;
        stage.until_threshold("deploy/fortio", "max_requests", 2)?;
        let (answers, client, server) = stage.counted(|| stage.call("/delay/0.01", 8, 400))?;
        let refused = answers.status(503);
        ensure!(refused > 0 && answers.status(200) > 0, "the answers should be mixed: {answers:?}");
        let active = client.outbound(&stage.host(), PORT, "upstream_rq_active_overflow");
        ensure!(active > 0, "no active overflow was counted at the client: {refused} were refused");
        let by_server = overflows(&server, |stats, counter| stats.inbound(CONTAINER_PORT, counter));
        ensure!(
            refused == active + by_server,
            "{refused} answers were 503, the client's Envoy refused {active}, the server's {by_server}"
        );
        Ok(())
    })
}

/// Eight callers, no policy: nothing is refused, and no Envoy counts an overflow.
///
/// # Errors
/// When something is.
pub fn nothing_is_limited_without_a_policy(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "no-policy-no-limit", |stage| {
        let (answers, client, server) = stage.counted(|| stage.call("/get", 8, 400))?;
        ensure!(answers.status(200) == 400, "not all answers are 200: {answers:?}");
        let by_client = overflows(&client, |stats, counter| stats.outbound(&stage.host(), PORT, counter));
        let by_server = overflows(&server, |stats, counter| stats.inbound(CONTAINER_PORT, counter));
        ensure!(
            by_client + by_server == 0,
            "overflows were counted: {by_client} at the client, {by_server} at the server"
        );
        Ok(())
    })
}

fn all_pass(stage: &Stage<'_>) -> Result<()> {
    let answers = stage.call("/get", 3, 300)?;
    ensure!(answers.status(200) == 300, "not all answers are 200 before there is a policy: {answers:?}");
    Ok(())
}

/// Requests refused by a limit. `upstream_cx_overflow` is not among them: over HTTP it refuses nothing.
fn overflows(stats: &Stats, counter: impl Fn(&Stats, &str) -> u64) -> u64 {
    ["upstream_rq_pending_overflow", "upstream_rq_active_overflow"].iter().map(|name| counter(stats, name)).sum()
}
