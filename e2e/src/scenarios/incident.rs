//! One incident, staged for whoever watches breakers: calm, then more calls than the limit takes, then a
//! replica that fails, then all is well again. It judges nothing but that the act has begun, at the client's
//! own Envoy; the watcher judges what it is there to judge while the act goes on.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::stage::{PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::kubectl::Kubectl;
use crate::wait::Seen;
use crate::workloads::{TARGET, add_failing_replica};

/// `limits.perClient.activeRequests` of the incident's policy.
pub const ACTIVE_REQUESTS: u32 = 3;
/// Callers of the acts that the limit is wide enough for.
pub const FEW: u32 = 2;
/// Calls a second of them all.
const CALMLY: u32 = 20;
/// Callers of [`Act::Overload`].
pub const MANY: u32 = 8;
/// Calls a second of them all: at 50 ms each, five are under way at a time.
const TOO_OFTEN: u32 = 100;
/// The workload whose Envoy is the client's.
pub const CLIENT: &str = "deploy/fortio";

/// What goes on, all the while that the watcher looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// [`FEW`] callers, two replicas that answer: every answer is 200.
    Calm,
    /// [`MANY`] callers, each call of 50 ms: the client's Envoy refuses what is above [`ACTIVE_REQUESTS`].
    Overload,
    /// [`FEW`] callers, and a third replica that answers every call with 500: the client's Envoy has ejected it.
    FailingEndpoint,
    /// [`FEW`] callers, and the third replica has gone: nothing is refused, nothing is ejected.
    Recovery,
}

/// Plays the acts one after another in a namespace of its own; `watch` is called once in each, with its calls
/// under way.
///
/// # Errors
/// When an act does not begin, or what `watch` says.
pub fn play(checkout: &Checkout, name: &str, watch: impl FnMut(Act, &Stage<'_>) -> Result<()>) -> Result<()> {
    play_after(checkout, name, |_| Ok(()), watch)
}

/// As [`play`], with a stage that `prepare` may change before anything happens on it.
///
/// # Errors
/// As [`play`], or what `prepare` says.
pub fn play_after(
    checkout: &Checkout,
    name: &str,
    prepare: impl FnOnce(&Stage<'_>) -> Result<()>,
    mut watch: impl FnMut(Act, &Stage<'_>) -> Result<()>,
) -> Result<()> {
    on_stage(checkout, name, |stage| {
        prepare(stage)?;
        let kubectl = stage.kubectl;
        kubectl.run(&["scale", "deployment/httpbin", "--replicas=2"])?;
        kubectl.rolled_out("deployment/httpbin", SOON)?;
        stage.policy(&json!({
            "limits": {"perClient": {"activeRequests": ACTIVE_REQUESTS}, "perServer": {"mode": "Unlimited"}},
            // Long enough to be looked at: the replica goes before its time is over.
            "ejection": {"consecutive5xx": 3, "interval": "1s", "baseTime": "300s", "maxPercent": 50},
        }))?;
        stage.until_threshold(CLIENT, "max_requests", ACTIVE_REQUESTS.into())?;

        let few = Calls::start(kubectl, "/get", FEW, CALMLY)?;
        until_counted(stage, "calls pass", "upstream_rq_total", |calls| calls > 0)?;
        watch(Act::Calm, stage)?;
        few.stop(kubectl)?;

        let many = Calls::too_often(kubectl)?;
        until_counted(stage, "calls are refused", "upstream_rq_active_overflow", |refused| refused > 0)?;
        watch(Act::Overload, stage)?;
        many.stop(kubectl)?;

        let few = Calls::start(kubectl, "/get", FEW, CALMLY)?;
        add_failing_replica(checkout, kubectl)?;
        until_counted(stage, "the failing replica is ejected", EJECTED, |ejected| ejected == 1)?;
        watch(Act::FailingEndpoint, stage)?;

        kubectl.run(&["delete", "deployment", "httpbin-failing", "--wait"])?;
        until_counted(stage, "two endpoints are left", "membership_total", |endpoints| endpoints == 2)?;
        until_counted(stage, "nothing is ejected", EJECTED, |ejected| ejected == 0)?;
        watch(Act::Recovery, stage)?;
        few.stop(kubectl)
    })
}

/// The gauge of endpoints that are ejected now.
const EJECTED: &str = "outlier_detection.ejections_active";

/// Waits until the client's Envoy has counted something for `httpbin`.
///
/// # Errors
/// When it does not in time.
pub(super) fn until_counted(stage: &Stage<'_>, what: &str, counter: &str, holds: impl Fn(u64) -> bool) -> Result<()> {
    stage.kubectl.until(what, SOON, |kubectl| {
        let now = match Stats::of(kubectl, CLIENT) {
            Ok(stats) => stats.outbound(&stage.host(), PORT, counter),
            // On a busy machine a proxy may not answer in time.
            Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
        };
        Ok(if holds(now) { Seen::Done(()) } else { Seen::NotYet(format!("{counter} is {now}")) })
    })
}

/// Calls that fortio's own server makes until it is told to stop: a `kubectl exec` that is killed leaves its
/// command running.
pub(super) struct Calls(u64);

impl Calls {
    /// Those of [`Act::Overload`].
    ///
    /// # Errors
    /// When fortio does not start them.
    pub(super) fn too_often(kubectl: &Kubectl) -> Result<Self> {
        Self::start(kubectl, "/delay/0.05", MANY, TOO_OFTEN)
    }

    /// So many a second of a path of `httpbin`, by so many callers.
    ///
    /// # Errors
    /// When fortio does not start them.
    pub(super) fn start(kubectl: &Kubectl, path: &str, callers: u32, rate: u32) -> Result<Self> {
        // `t=on`: until stopped.
        let query = format!("run?async=on&t=on&qps={rate}&c={callers}&uniform=on&url={TARGET}{path}");
        let answer = ask(kubectl, &query)?;
        let id = answer["RunID"].as_u64().with_context(|| format!("fortio started nothing: {answer}"))?;
        Ok(Self(id))
    }

    /// Ends when the last answer has come.
    ///
    /// # Errors
    /// When fortio does not stop them.
    pub(super) fn stop(self, kubectl: &Kubectl) -> Result<()> {
        let answer = ask(kubectl, &format!("stop?wait=true&runid={}", self.0))?;
        ensure!(answer["Count"] == 1, "fortio did not stop: {answer}");
        Ok(())
    }
}

fn ask(kubectl: &Kubectl, query: &str) -> Result<serde_json::Value> {
    let url = format!("http://localhost:8080/fortio/rest/{query}");
    let text = kubectl.exec(CLIENT, "fortio", &["fortio", "curl", "-quiet", "-timeout", "30s", &url])?;
    // fortio prints the head of the answer as well.
    let body = text.find('{').and_then(|begin| text.get(begin..)).unwrap_or_default();
    serde_json::from_str(body).with_context(|| format!("fortio answered no JSON but: {text}"))
}
