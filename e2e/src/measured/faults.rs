//! Injected faults.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::routes_stage::{CONTAINER_PORT, Counted, PORT, SOON, Stage};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::fortio::{Answers, load};
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::wait::Seen;

const CLAIMS: &[Claim<Stage>] = &[
    Claim {
        ids: &["M48"],
        says: "a fault without a percentage does nothing, and is taken without a warning",
        judge: without_percentage,
    },
    Claim { ids: &["M49"], says: "an injected abort is not tried again", judge: abort_is_not_retried },
    Claim {
        ids: &["M50"],
        says: "an injected delay is outside of timeout and retries, which run as ever after it",
        judge: delay_is_outside_timeouts,
    },
    Claim { ids: &["M51"], says: "delay and abort of one route both happen", judge: delay_and_abort },
    Claim { ids: &["M52"], says: "an injected abort ejects nobody", judge: abort_ejects_nobody },
    Claim {
        ids: &["M53"],
        says: "abort.httpStatus 600 is taken, and freezes the routes of its port number for all who see it",
        judge: status_600,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "faults", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-faults", |kubectl| {
        let stage = Stage::set(checkout, kubectl, None)?;
        judge.all(&stage, CLAIMS, Stage::sweep);
        Ok(())
    })
}

/// A VirtualService for a Service with these faults, and whatever else.
fn faulty(stage: &Stage, service: &str, fault: &Value, more: &Value) -> Value {
    let mut route = more.clone();
    route["fault"] = fault.clone();
    route["route"] = stage.to(service);
    stage.virtual_service(service, service, &json!([route]))
}

fn abort(status: u16, percent: u32) -> Value {
    json!({"abort": {"httpStatus": status, "percentage": {"value": percent}}})
}

fn delay(time: &str) -> Value {
    json!({"delay": {"fixedDelay": time, "percentage": {"value": 100}}})
}

/// What the client's Envoy counted of its listener for the port of the Services.
fn by_listener(stats: &Stats, counter: &str) -> u64 {
    stats.value(&format!("http.outbound_0.0.0.0_{PORT};.{counter}"))
}

/// Aborts and delays that the client's Envoy injected.
fn injected(seen: &Counted<Answers>) -> (u64, u64) {
    (by_listener(&seen.client, "fault.aborts_injected"), by_listener(&seen.client, "fault.delays_injected"))
}

fn expect_injected(seen: &Counted<Answers>, expected: (u64, u64)) -> Result<()> {
    let counted = injected(seen);
    ensure!(counted == expected, "aborts and delays injected: {counted:?}, not {expected:?}");
    Ok(())
}

fn without_percentage(stage: &Stage) -> Result<()> {
    for fault in [json!({"abort": {"httpStatus": 503}}), json!({"delay": {"fixedDelay": "5s"}})] {
        let answer = stage.kubectl.try_apply(&faulty(stage, "httpbin", &fault, &json!({})).to_string())?;
        ensure!(answer.status.success(), "{fault} was refused: {}", answer.all());
        ensure!(!answer.all().contains("Warning"), "{fault} was taken with a warning: {}", answer.all());
        stage.settle()?;
        let seen = stage.call("/get", 20)?;
        seen.expect(200, 20)?;
        expect_injected(&seen, (0, 0))?;
    }
    // The control: with one, it does.
    stage.write(&[faulty(stage, "httpbin", &abort(503, 100), &json!({}))])?;
    stage.call("/get", 20)?.expect(503, 0)
}

fn abort_is_not_retried(stage: &Stage) -> Result<()> {
    let retries = json!({"retries": {"attempts": 3, "retryOn": "503,5xx"}});
    stage.write(&[faulty(stage, "httpbin", &abort(503, 100), &retries)])?;
    let all = stage.call("/get", 20)?;
    all.expect(503, 0)?;
    ensure!(all.retries(stage) == 0, "of 20 aborted calls {} were tried again", all.retries(stage));
    stage.write(&[faulty(stage, "httpbin", &abort(503, 50), &retries)])?;
    let half = stage.call("/get", 200)?;
    let (passed, aborted) = (half.value.status(200), half.value.status(503));
    // Five standard deviations of 200 coins are 35; a retry would leave one sixteenth.
    ensure!(passed + aborted == 200 && (60..=140).contains(&aborted), "aborts of one half: {:?}", half.value);
    ensure!(
        half.tries() == passed && half.retries(stage) == 0,
        "{passed} calls passed and made {} tries; {} were tried again",
        half.tries(),
        half.retries(stage)
    );
    expect_injected(&half, (aborted, 0))
}

fn delay_is_outside_timeouts(stage: &Stage) -> Result<()> {
    // Longer than the timeout: if it counted, no call would pass.
    stage.write(&[faulty(stage, "httpbin", &delay("2s"), &json!({"timeout": "1s"}))])?;
    let passed = stage.call("/get", 2)?;
    passed.expect(200, 2)?;
    expect_injected(&passed, (0, 2))?;
    let cut_off = stage.call("/delay/3", 2)?;
    cut_off.expect(504, 2)?;
    let retries = json!({"retries": {"attempts": 2, "retryOn": "5xx", "perTryTimeout": "500ms"}});
    stage.write(&[faulty(stage, "httpbin", &delay("1s"), &retries)])?;
    let tried = stage.call("/delay/3", 2)?;
    tried.expect(504, 6)?;
    // Once for a call, not for a try.
    expect_injected(&tried, (0, 2))
}

fn delay_and_abort(stage: &Stage) -> Result<()> {
    let mut both = abort(503, 100);
    both["delay"] = delay("100ms")["delay"].clone();
    stage.write(&[faulty(stage, "httpbin", &both, &json!({}))])?;
    let seen = stage.call("/get", 5)?;
    seen.expect(503, 0)?;
    expect_injected(&seen, (5, 5))
}

fn abort_ejects_nobody(stage: &Stage) -> Result<()> {
    let detection = json!({"trafficPolicy": {"outlierDetection": {
        "consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": "60s", "maxEjectionPercent": 100,
    }}});
    stage.write(&[
        faulty(stage, "httpbin", &abort(503, 100), &json!({})),
        stage.destination_rule("httpbin", &detection),
    ])?;
    let aborted = stage.call("/get", 50)?;
    aborted.expect(503, 0)?;
    expect_injected(&aborted, (50, 0))?;
    let ejections = |seen: &Counted<Answers>| {
        seen.by_client(stage, "httpbin", "outlier_detection.ejections_enforced_consecutive_5xx")
    };
    ensure!(ejections(&aborted) == 0, "50 aborts made {} ejections", ejections(&aborted));
    stage.kubectl.run(&["delete", "virtualservice", "httpbin", "--wait"])?;
    stage.settle()?;
    stage.call("/get", 10)?.expect(200, 10)?;
    // The control: an error of the server's own ejects it.
    let real = stage.call("/status/503", 1)?;
    ensure!(ejections(&real) == 1, "a 503 of the server made {} ejections", ejections(&real));
    Ok(())
}

fn status_600(stage: &Stage) -> Result<()> {
    for fault in [abort(601, 100), json!({"abort": {"httpStatus": 503, "percentage": {"value": 0.00001}}})] {
        let says = stage.refusal(&faulty(stage, "httpbin", &fault, &json!({})))?;
        ensure!(says.contains("admission webhook"), "{fault} was not refused by the webhook, but: {says}");
    }
    let rejected = || Ok::<_, anyhow::Error>(by_listener(&Stats::of(&stage.kubectl, "deploy/fortio")?, REJECTED));
    let until_rejected = |what: &str, before: u64| {
        stage.kubectl.until(what, SOON, |_| {
            let now = rejected()?;
            Ok(if now > before { Seen::Done(now) } else { Seen::NotYet(format!("{now} rejected updates")) })
        })
    };
    let before = rejected()?;
    let mut bad = faulty(stage, "httpbin", &abort(600, 100), &json!({}));
    // Whoever else calls on this port is none of ours.
    bad["spec"]["exportTo"] = json!(["."]);
    stage.kubectl.apply(&bad.to_string())?;
    let frozen = until_rejected("the client's Envoy rejects the routes with status 600", before)?;
    // Another Service with the same port number: there, its rule is rejected with the bad one. (The routes of
    // other ports in the same response of istiod may be lost as well: seen once, asserted nowhere.)
    stage.kubectl.apply(&faulty(stage, "two", &abort(461, 100), &json!({})).to_string())?;
    until_rejected("the client's Envoy rejects the routes again", frozen)?;
    let two = stage.url("two", PORT, "/get");
    let unchanged = stage.counted("deploy/two", || load(&stage.kubectl, &two, 1, 10))?;
    ensure!(
        unchanged.value.status(200) == 10 && unchanged.server.inbound(CONTAINER_PORT, "upstream_rq_total") == 10,
        "the routes of port {PORT} are not frozen: {:?}",
        unchanged.value
    );
    stage.kubectl.run(&["delete", "virtualservice", "httpbin", "--wait"])?;
    stage.settle()?;
    let healed = load(&stage.kubectl, &two, 1, 10)?;
    ensure!(healed.status(461) == 10, "the bad rule is gone, and the other not in force: {healed:?}");
    Ok(())
}

/// Updates of the routes of the port that were not taken.
const REJECTED: &str = "rds.8000.update_rejected";

#[cfg(test)]
mod tests {
    use super::super::routes_stage::each_is_claimed_once;

    #[test]
    fn each_measurement_of_faults_is_claimed_once() {
        each_is_claimed_once(&super::FAMILY, 48..=53);
    }
}
