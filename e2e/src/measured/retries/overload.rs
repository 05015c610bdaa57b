//! Retries of what a limit refused.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::envoy::Stats;
use crate::measured::routes_stage::{CONTAINER_PORT, PORT, SOON, Stage, pool};
use crate::wait::Seen;

/// What a limit on requests at once refuses.
const OVERFLOW: &str = "upstream_rq_active_overflow";
/// Everything that could be meant by an overload.
const ANY: &str = "5xx,503,reset,gateway-error";

pub(super) fn at_client(stage: &Stage) -> Result<()> {
    // The rule limits the server's sidecar as well (M9), and what that refuses is another claim.
    stage.limit_server(10_000)?;
    let retries = stage.virtual_service(
        "httpbin",
        "httpbin",
        &json!([{"route": stage.to("httpbin"), "retries": {"attempts": 3, "retryOn": ANY}}]),
    );
    for (limits, counter) in [
        (json!({"http": {"http2MaxRequests": 1}}), OVERFLOW),
        (json!({"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}}), "upstream_rq_pending_overflow"),
    ] {
        stage.write(&[retries.clone(), stage.destination_rule("httpbin", &pool(&limits))])?;
        let seen = stage.call_at_once("/delay/0.01", 8, 200)?;
        let (refused, retries) = (seen.value.status(503), seen.retries(stage));
        let counted = seen.by_client(stage, "httpbin", counter);
        ensure!(refused > 0 && refused == counted, "{limits}: {:?}, of which the client refused {counted}", seen.value);
        ensure!(retries == 0, "{limits}: {refused} calls were refused by the client, and {retries} tried again");
    }
    Ok(())
}

pub(super) fn at_server(stage: &Stage) -> Result<()> {
    let lists = [("all", "5xx"), ("code", "503"), ("gateway", "gateway-error")];
    stage.limit_server(1)?;
    let cases = lists.map(|(name, on)| (name, json!({"retries": {"attempts": 3, "retryOn": on}})));
    stage.write(&[stage.cases("httpbin", &cases)])?;
    for (case, on) in lists {
        // Under load some calls pass; a quarter more tries than calls is far below what was ever seen (2.3 times).
        let seen = stage.call_at_once(&format!("/delay/0.01?case={case}"), 8, 200)?;
        let (refused, retries) = (seen.server.inbound(CONTAINER_PORT, OVERFLOW), seen.retries(stage));
        let arrived = refused + seen.tries();
        ensure!(
            arrived >= 250 && refused >= 50 && retries >= 50,
            "{on}: of 200 calls with {retries} retries {arrived} tries arrived at the server, which refused {refused}"
        );
    }
    let mut held = None;
    // While the one request that it admits is under way, none passes.
    let seen = stage.counted("deploy/httpbin", || {
        let held = held.insert(Held::start(stage)?);
        let answers = lists.iter().map(|(case, _)| head(stage, &format!("/get?case={case}")));
        let answers = answers.collect::<Result<Vec<_>>>()?;
        ensure!(held.lasts(), "the machine is too slow: the server was free before three calls ended");
        Ok(answers)
    })?;
    // It refuses every try, and the header that asks clients to keep away does not stop the next.
    for answer in &seen.value {
        let overloaded = answer.contains(" 503 ") && answer.to_lowercase().contains("x-envoy-overloaded: true");
        ensure!(overloaded, "the server admits nothing, and an answer does not say so: {answer}");
    }
    let refused = seen.server.inbound(CONTAINER_PORT, OVERFLOW);
    ensure!(
        refused == 3 * 4 && seen.retries(stage) == 3 * 3,
        "of 3 calls the server refused {refused} tries, and the client tried {} again",
        seen.retries(stage)
    );
    Ok(())
}

/// Calls a path of `httpbin` once, and gives the answer with its headers.
fn head(stage: &Stage, path: &str) -> Result<String> {
    let url = stage.url("httpbin", PORT, path);
    Ok(stage.kubectl.try_exec("deploy/fortio", "fortio", &["fortio", "curl", "-quiet", &url])?.all())
}

/// A request that the server is busy with, for two minutes at most.
struct Held(Child);

impl Held {
    /// Sends it, and waits until the server has it.
    fn start(stage: &Stage) -> Result<Self> {
        let url = stage.url("httpbin", PORT, "/delay/120?case=code");
        let exec = ["exec", "deploy/fortio", "-c", "fortio", "--"];
        let mut command =
            stage.kubectl.command(&[&exec, ["fortio", "curl", "-timeout", "3m", &url].as_slice()].concat())?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let held = Self(child.context("the request to hold cannot be sent")?);
        stage.kubectl.until("the server is busy", SOON, |kubectl| {
            let active = Stats::of(kubectl, "deploy/httpbin")?.inbound(CONTAINER_PORT, "upstream_rq_active");
            Ok(if active == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{active} requests")) })
        })?;
        Ok(held)
    }

    fn lasts(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Should the request itself outlive its sender, it is in nobody's way once the limit is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
