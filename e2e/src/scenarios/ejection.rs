//! An endpoint that fails is left out, and comes back.

use anyhow::{Result, ensure};
use serde_json::json;

use super::stage::{PORT, SOON, on_stage};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::wait::Seen;
use crate::workloads::add_failing_replica;

/// Three endpoints, of which one answers every call with 500. The policy ejects it, then every answer is
/// 200; when its time is over it is tried again.
///
/// # Errors
/// When one of these is not so.
pub fn ejects_and_returns(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "ejects-and-returns", |stage| {
        let kubectl = stage.kubectl;
        kubectl.run(&["scale", "deployment/httpbin", "--replicas=2"])?;
        kubectl.rolled_out("deployment/httpbin", SOON)?;
        add_failing_replica(checkout, kubectl)?;
        stage.until_answers("one of three fails", "/get", 3, 60, |answers| {
            answers.status(500) > 0 && answers.status(200) > 0
        })?;
        stage.policy(
            &json!({"ejection": {"consecutive5xx": 3, "interval": "1s", "baseTime": "10s", "maxPercent": 50}}),
        )?;
        let policy = stage.until_condition("httpbin", "Ready", "True")?;
        ensure!(
            policy.pointer("/status/targets/0/endpoints") == Some(&json!(3)),
            "the status counts other endpoints than 3: {}",
            policy["status"]
        );
        ensure!(
            policy.pointer("/status/targets/0/ejectableEndpoints") == Some(&json!(1)),
            "50 % of 3 is 1: {}",
            policy["status"]
        );
        let active = |stats: &Stats| stats.outbound(&stage.host(), PORT, "outlier_detection.ejections_active");
        stage.kubectl.until("an endpoint is ejected", SOON, |kubectl| {
            stage.call("/get", 3, 60)?;
            let ejected = active(&Stats::of(kubectl, "deploy/fortio")?);
            Ok(if ejected == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{ejected} ejected")) })
        })?;
        let answers = stage.call("/get", 3, 300)?;
        let still = active(&Stats::of(kubectl, "deploy/fortio")?);
        // Were its time over meanwhile, a 500 would be right.
        ensure!(
            still == 0 || answers.status(200) == 300,
            "the failing endpoint is ejected and still answers: {answers:?}"
        );
        ensure!(still == 1, "the endpoint came back before {answers:?} were counted; give it a longer baseTime");
        stage.kubectl.until("the endpoint returns", SOON, |kubectl| {
            let ejected = active(&Stats::of(kubectl, "deploy/fortio")?);
            Ok(if ejected == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{ejected} ejected")) })
        })?;
        stage.until_answers("it is tried again", "/get", 1, 30, |answers| answers.status(500) > 0)
    })
}
