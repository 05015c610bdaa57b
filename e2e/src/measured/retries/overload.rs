//! Retries of what a limit refused.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::envoy::Stats;
use crate::measured::routes_stage::{CONTAINER_PORT, PORT, SOON, Stage, pool};
use crate::wait::Seen;

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
        (json!({"http": {"http2MaxRequests": 1}}), "upstream_rq_active_overflow"),
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
        // Under load some calls pass; a quarter more tries than calls is far below what was ever seen (2.4 times).
        let seen = stage.call_at_once(&format!("/delay/0.01?case={case}"), 8, 200)?;
        let (refused, retries) = (seen.server.inbound(CONTAINER_PORT, OVERFLOW), seen.retries(stage));
        let tries = seen.by_client(stage, "httpbin", "upstream_rq_total");
        ensure!(
            tries == 200 + retries && tries == refused + seen.tries(),
            "{on}: 200 calls and {retries} retries made {tries} tries, {refused} refused and {} admitted",
            seen.tries()
        );
        ensure!(tries >= 250, "{on}: 200 calls of which the server refused {refused} made {tries} tries only");
    }
    let held = Held::start(stage)?;
    // While the one request that it admits is under way, the server refuses every try.
    let seen = stage.counted("deploy/httpbin", || {
        for (case, on) in lists {
            let url = stage.url("httpbin", PORT, &format!("/get?case={case}"));
            let answer = stage.kubectl.try_exec("deploy/fortio", "fortio", &["fortio", "curl", "-quiet", &url])?.all();
            // The header that asks clients to keep away does not stop the retries.
            let overloaded = answer.contains(" 503 ") && answer.to_lowercase().contains("x-envoy-overloaded: true");
            ensure!(overloaded, "{on}: the server admits nothing, and the answer does not say so: {answer}");
        }
        Ok(())
    })?;
    ensure!(held.lasts(), "the machine is too slow: the held request ended before the calls");
    let refused = seen.server.inbound(CONTAINER_PORT, OVERFLOW);
    ensure!(
        refused == 3 * 4 && seen.retries(stage) == 3 * 3,
        "of 3 calls the server refused {refused} tries, and the client tried {} again",
        seen.retries(stage)
    );
    held.end()
}

const OVERFLOW: &str = "upstream_rq_active_overflow";

/// A request that the server is busy with.
struct Held(std::cell::RefCell<Child>);

impl Held {
    /// Sends it, and waits until the server has it.
    fn start(stage: &Stage) -> Result<Self> {
        let url = stage.url("httpbin", PORT, "/delay/10?case=code");
        let mut command = stage.kubectl.command(&[
            "exec",
            "deploy/fortio",
            "-c",
            "fortio",
            "--",
            "fortio",
            "curl",
            "-timeout",
            "30s",
            &url,
        ])?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let held = Self(child.context("the request to hold cannot be sent")?.into());
        stage.kubectl.until("the server is busy", SOON, |kubectl| {
            let active = Stats::of(kubectl, "deploy/httpbin")?.inbound(CONTAINER_PORT, "upstream_rq_active");
            Ok(if active == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{active} requests")) })
        })?;
        Ok(held)
    }

    fn lasts(&self) -> bool {
        matches!(self.0.borrow_mut().try_wait(), Ok(None))
    }

    /// Waits until the server is free again.
    fn end(self) -> Result<()> {
        self.0.borrow_mut().wait().context("the held request was lost")?;
        Ok(())
    }
}
