//! A limit that is meant for each client, and what it does to the server.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{QUIET, SECOND};
use crate::measured::raw_stage::{CLIENT, RawStage, ensure_mixed};
use crate::scenarios::stage::{CONTAINER_PORT, PORT, SOON};
use crate::wait::Seen;

/// Each of the clients stays within its own limit of two; together they are four.
pub(super) fn is_limited_too(stage: &RawStage) -> Result<()> {
    stage.rule_for_requests(2)?;
    stage.until_limit(SECOND, "max_requests", 2)?;
    stage.until_own_limit("max_requests", 2)?;
    let clients = [CLIENT, SECOND];
    let (answers, counted) =
        stage.meanwhile(&[CLIENT, SECOND, "deploy/httpbin"], || stage.call_together(&clients, "/get", 2, 1000))?;
    answers.iter().try_for_each(ensure_mixed)?;
    for (client, counted) in clients.iter().zip(&counted) {
        let own = counted.outbound(&stage.host(), PORT, "upstream_rq_active_overflow");
        ensure!(own == 0, "{client} exceeded its own limit {own} times");
    }
    let refused: u64 = answers.iter().map(|answers| answers.status(503)).sum();
    let by_server = counted[2].inbound(CONTAINER_PORT, "upstream_rq_active_overflow");
    ensure!(refused == by_server, "{refused} calls were refused, the server's Envoy counted {by_server}");
    Ok(())
}

/// A limit and an ejection that seem to have nothing to do with each other. Five in a row come too, but on a
/// busy machine only after thousands of calls.
fn limit_and_detection() -> Value {
    json!({
        "connectionPool": {"http": {"http2MaxRequests": 2}},
        "outlierDetection": {
            "consecutive5xxErrors": 3, "interval": "1s", "baseEjectionTime": "300s", "maxEjectionPercent": 100,
        },
    })
}

pub(super) fn is_ejected_for_its_limit(stage: &RawStage) -> Result<()> {
    stage.rule(&limit_and_detection())?;
    for client in [CLIENT, SECOND, QUIET] {
        stage.until_limit(client, "max_requests", 2)?;
    }
    stage.until_own_limit("max_requests", 2)?;
    let hit = stage.kubectl.until("a client ejects the only endpoint", SOON, |_| {
        let answers = stage.call_together(&[CLIENT, SECOND], "/get", 2, 500)?;
        for client in [CLIENT, SECOND] {
            if stage.counted(client, "outlier_detection.ejections_active")? == 1 {
                return Ok(Seen::Done(client));
            }
        }
        Ok(Seen::NotYet(format!("{answers:?}")))
    })?;
    stage.until_answers(hit, "every call of that client fails", "/get", 1, |answers| {
        answers.status(503) == answers.total()
    })?;
    let (answers, counted) = stage.meanwhile(&[hit, "deploy/httpbin"], || stage.call(hit, "/get", 1, 20))?;
    let without = counted[0].outbound(&stage.host(), PORT, "upstream_cx_none_healthy");
    let arrived = counted[1].inbound(CONTAINER_PORT, "upstream_rq_total");
    ensure!(
        answers.status(503) == 20 && without == 20 && arrived == 0,
        "one caller of {hit}: {answers:?}, {without} found no healthy endpoint, {arrived} arrived"
    );
    // Nothing is wrong with the endpoint: a client that has not met the limit gets what it asks for.
    let other = stage.call(QUIET, "/get", 1, 20)?;
    ensure!(other.status(200) == 20, "the endpoint is not healthy: {other:?}");
    Ok(())
}

pub(super) fn is_cured_by_a_sidecar(stage: &RawStage) -> Result<()> {
    stage.lift_the_servers_limit()?;
    stage.rule(&limit_and_detection())?;
    let clients = [CLIENT, SECOND];
    clients.iter().try_for_each(|client| stage.until_limit(client, "max_requests", 2))?;
    let (answers, counted) =
        stage.meanwhile(&[CLIENT, SECOND, "deploy/httpbin"], || stage.call_together(&clients, "/get", 2, 1000))?;
    ensure!(
        answers.iter().all(|answers| answers.status(200) == 1000),
        "calls within each client's limit are refused: {answers:?}"
    );
    let by_server = counted[2].inbound(CONTAINER_PORT, "upstream_rq_active_overflow");
    ensure!(by_server == 0, "the server's Envoy counted {by_server} overflows");
    for client in clients {
        let (answers, counted) = stage.meanwhile(&[client], || stage.call(client, "/get", 8, 400))?;
        ensure_mixed(&answers)?;
        let own = counted[0].outbound(&stage.host(), PORT, "upstream_rq_active_overflow");
        let ejected = stage.counted(client, "outlier_detection.ejections_active")?;
        ensure!(
            own == answers.status(503) && ejected == 0,
            "{client} beyond its limit: {answers:?}, of which it refused {own} itself; {ejected} endpoints ejected"
        );
    }
    Ok(())
}

pub(super) fn two_of_three_are_ejected(stage: &RawStage) -> Result<()> {
    stage.endpoints(3)?;
    stage.rule(&json!({
        "connectionPool": {"http": {"http2MaxRequests": 2}},
        "outlierDetection": {
            "consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": "300s", "maxEjectionPercent": 67,
        },
    }))?;
    for client in [CLIENT, SECOND] {
        stage.until_limit(client, "max_requests", 2)?;
    }
    stage.until_own_limit("max_requests", 2)?;
    let ejected = || [CLIENT, SECOND].map(|client| stage.counted(client, "outlier_detection.ejections_active"));
    stage.kubectl.until("a client ejects two of three", SOON, |_| {
        // Whoever meets only the limits: no path that is asked for fails.
        let answers = stage.call_together(&[CLIENT, SECOND], "/get", 2, 300)?;
        let [first, second] = ejected();
        let (first, second) = (first?, second?);
        ensure!(first <= 2 && second <= 2, "{first} and {second} of three are ejected at 67 per cent");
        let seen = format!("{first} and {second} ejected, {answers:?}");
        Ok(if first.max(second) == 2 { Seen::Done(()) } else { Seen::NotYet(seen) })
    })
}
