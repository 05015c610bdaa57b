//! `verify` on real proxies: it passes where limits act, and fails with the right sentence where something keeps
//! them from it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{CONTAINER_PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::operator;
use crate::report::Report;
use crate::run::{Finished, finish_with_input};
use crate::wait::Seen;

/// The program with the rights of the lab's administrator.
struct Cli<'a> {
    stage: &'a Stage<'a>,
    program: PathBuf,
    policy: &'a str,
}

/// One run's report.
struct Said(Value);

impl Said {
    /// What is said of a limit: its result, its cause, and the sentence.
    fn of(&self, path: &str) -> Result<(&str, &str, &str)> {
        let limits = self.0["limits"].as_array().into_iter().flatten();
        let limit = limits.into_iter().find(|limit| limit["path"] == path);
        let limit = limit.with_context(|| format!("nothing is said of {path}: {}", self.0))?;
        let text = |name: &str| limit[name].as_str().unwrap_or_default();
        Ok((text("result"), text("cause"), text("message")))
    }

    /// A limit tripped as configured.
    fn tripped(&self, path: &str) -> Result<()> {
        let (result, _, message) = self.of(path)?;
        println!("{path}: {result}: {message}");
        ensure!(result == "Tripped", "{path} should have tripped: {}", self.0);
        Ok(())
    }

    /// A limit was not tried, and it is said why.
    fn not_tried(&self, path: &str) -> Result<()> {
        let (result, _, message) = self.of(path)?;
        println!("{path}: {result}: {message}");
        ensure!(result == "NotTried" && !message.is_empty(), "{path} should not have been tried: {}", self.0);
        Ok(())
    }

    /// A limit did not trip, for this cause and with this in its sentence.
    fn did_not(&self, path: &str, why: &str, words: &str) -> Result<()> {
        let (result, cause, message) = self.of(path)?;
        println!("{path}: {result}: {message}");
        ensure!((result, cause) == ("NotTripped", why), "{path} should not have tripped by {why}: {}", self.0);
        ensure!(message.contains(words), "{words:?} is not in {message:?}");
        Ok(())
    }
}

impl<'a> Cli<'a> {
    fn new(checkout: &Checkout, stage: &'a Stage<'a>) -> Result<Self> {
        // The same file that the operator's image holds, and so the Job's.
        Ok(Self { stage, program: operator::build(checkout, &Report::new())?, policy: "httpbin" })
    }

    /// The same, for another policy.
    fn of(&self, policy: &'a str) -> Self {
        Self { stage: self.stage, program: self.program.clone(), policy }
    }

    fn command(&self, args: &[&str]) -> Result<std::process::Command> {
        let kubectl = self.stage.kubectl;
        let mut command = kubectl.inside(path(&self.program)?)?;
        command
            .args(["verify", self.policy, "--yes", "-o", "json", "--namespace", kubectl.current_namespace()])
            .args(args);
        Ok(command)
    }

    fn run(&self, code: i32, args: &[&str]) -> Result<Finished> {
        let finished = finish_with_input(&mut self.command(args)?, "")?;
        ensure!(
            finished.status.code() == Some(code),
            "verify {args:?} should end with {code}, not {}:\n{}",
            finished.status,
            finished.all()
        );
        self.no_job_is_left()?;
        Ok(finished)
    }

    fn says(&self, code: i32, args: &[&str]) -> Result<Said> {
        let text = self.run(code, args)?.stdout;
        Ok(Said(serde_json::from_str(&text).with_context(|| format!("verify printed no JSON: {text}"))?))
    }

    fn no_job_is_left(&self) -> Result<()> {
        let selector = "app.kubernetes.io/name=resilience-verify";
        self.stage.kubectl.until("no Job of verify is left", SOON, |kubectl| {
            let jobs = kubectl.run(&["get", "jobs", "-A", "-l", selector, "-o", "name"])?;
            Ok(if jobs.trim().is_empty() { Seen::Done(()) } else { Seen::NotYet(jobs) })
        })
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is no text")
}

/// The sample of the breaker, and a policy with all that a path can show: each limit trips, the object says so,
/// and says that it is stale once the spec is another.
///
/// # Errors
/// When one of these is not so.
pub fn passes_where_limits_act(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "verify-passes", |stage| {
        let cli = Cli::new(checkout, stage)?;
        let sample = checkout.root().join("istio-samples/httpbin-circuit-breaker/resilience.yaml");
        stage.kubectl.apply(&std::fs::read_to_string(&sample)?)?;
        stage.until_condition("httpbin", "Programmed", "True")?;
        let said = cli.says(0, &["--path", "/get"])?;
        for limit in ["connections", "pendingRequests", "requestsPerConnection"] {
            said.tripped(&format!("limits.perClient.{limit}"))?;
        }
        stage.until_condition("httpbin", "Verified", "True")?;

        stage.kubectl.run(&["scale", "deployment/httpbin", "--replicas=2"])?;
        stage.kubectl.rolled_out("deployment/httpbin", SOON)?;
        stage.policy(&json!({
            "limits": {"perClient": {"activeRequests": 4}, "perServer": {"mode": "Unlimited"}},
            "ejection": {"consecutive5xx": 3, "interval": "1s", "baseTime": "3s", "maxPercent": 50},
            "timeouts": {"request": "1s"},
            "retries": {"attempts": 2, "statusCodes": [503], "backoff": "1ms"},
        }))?;
        stage.until_condition("httpbin", "Verified", "Unknown")?;
        let paths = ["--path", "/delay/0.05", "--slow-path", "/delay/3", "--fail-path", "/status/503"];
        let said = cli.says(0, &paths)?;
        let all = [
            "limits.perClient.activeRequests",
            "timeouts.request",
            "retries.attempts",
            "ejection.consecutive5xx",
            "ejection.baseTime",
        ];
        all.into_iter().try_for_each(|path| said.tripped(path))?;
        let object = stage.until_condition("httpbin", "Verified", "True")?;
        ensure!(
            object.pointer("/status/verification/specHash") == said.0.get("specHash"),
            "the status has another hash than the report: {object}"
        );

        stage.policy(&json!({"limits": {
            "perClient": {"requestsPerConnection": 50}, "perServer": {"mode": "Limited", "activeRequests": 1},
        }}))?;
        let said = cli.says(0, &["--path", "/delay/0.05"])?;
        said.tripped("limits.perServer.activeRequests")?;
        said.tripped("limits.perClient.requestsPerConnection")
    })
}

/// The other samples, word for word, each for a Service of its name: what calls can show of them trips, and what
/// they cannot show is told as not tried.
///
/// # Errors
/// When one of these is not so.
pub fn passes_on_the_other_samples(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "verify-samples", |stage| {
        let cli = Cli::new(checkout, stage)?;
        // Longer than the sample's timeout of 10 s: the server must be able to be that slow.
        stage.kubectl.run(&["set", "env", "deployment/httpbin", "MAX_DURATION=30s"])?;
        for server in ["deployment/httpbin", "deployment/fortio"] {
            // Of fewer, the samples' maxPercent 34 ejects none, and verify says so.
            stage.kubectl.run(&["scale", server, "--replicas=3"])?;
            stage.kubectl.rolled_out(server, SOON)?;
        }

        let sample = |name: &str, dir: &str, service: (&str, u16, &str)| {
            let (port_name, port, app) = service;
            stage.kubectl.apply(
                &json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                    "spec": {
                        "selector": {"app": app},
                        "ports": [{"name": port_name, "port": port, "targetPort": CONTAINER_PORT}],
                    },
                })
                .to_string(),
            )?;
            let file = checkout.root().join(format!("istio-samples/{dir}/resilience.yaml"));
            stage.kubectl.apply(&std::fs::read_to_string(file)?)?;
            stage.until_condition(name, "Programmed", "True")
        };
        let tripped = |said: &Said, tripped: &[&str], not_tried: &[&str]| -> Result<()> {
            tripped.iter().try_for_each(|path| said.tripped(path))?;
            not_tried.iter().try_for_each(|path| said.not_tried(path))
        };

        sample("orders", "http-api", ("http", 80, "httpbin"))?;
        // Too short for the endpoints to come back after 30 s; that they do is shown elsewhere.
        let paths = ["--path", "/get", "--slow-path", "/delay/14", "--fail-path", "/status/503", "--duration", "40s"];
        let said = cli.of("orders").says(0, &paths)?;
        // No path can make a connection fail, which is all that the sample tries again.
        let not = ["timeouts.connect", "ejection.baseTime", "retries.attempts"];
        tripped(&said, &["ejection.consecutiveGateway", "timeouts.request"], &not)?;
        stage.until_condition("orders", "Verified", "True")?;
        stage.kubectl.run(&["delete", "resilience", "orders", "--wait"])?;

        // Its limits are of the server's pods: those may be of no other Service.
        stage.kubectl.run(&["delete", "service", "orders", "httpbin", "--wait"])?;
        sample("checkout", "limits-on-both-sides", ("http", 80, "httpbin"))?;
        let said = cli.of("checkout").says(0, &["--path", "/delay/0.1"])?;
        // Whether calls wait for connections is the speed of the machine: limits.perClient.pendingRequests is seen or
        // not tried.
        let not = ["limits.perServer.activeRequests", "ejection.consecutiveLocalOrigin"];
        tripped(&said, &["limits.perClient.activeRequests"], &not)?;
        stage.until_condition("checkout", "Verified", "True")?;

        // fortio answers on one port what is sent by HTTP/1.1 or by HTTP/2, as gRPC is.
        sample("greeter", "grpc-service", ("grpc", 50051, "fortio"))?;
        let said = cli.of("greeter").says(0, &["--path", "/", "--slow-path", "/?delay=8s"])?;
        let not = ["ejection.consecutiveLocalOrigin", "timeouts.connect", "retries.attempts"];
        tripped(&said, &["timeouts.request"], &not)?;
        stage.until_condition("greeter", "Verified", "True").map(drop)
    })
}

/// Five policies that do not do what they say, each for a reason of its own, and each is told by its sentence.
///
/// # Errors
/// When one passes, or fails for another reason.
pub fn fails_with_the_right_sentence(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "verify-fails", |stage| {
        let cli = Cli::new(checkout, stage)?;
        let active = |requests: u32| json!({"limits": {"perClient": {"activeRequests": requests}, "perServer": {"mode": "Unlimited"}}});
        let limit = "limits.perClient.activeRequests";
        stage.policy(&active(100_000))?;
        let said = cli.says(1, &["--path", "/get"])?;
        said.did_not(limit, "AboveCap", "the limit is higher than what the cap can reach")?;
        stage.until_condition("httpbin", "Verified", "False")?;

        stage.policy(&active(2))?;
        another_rule(&cli, limit)?;
        no_sidecar(&cli, limit)?;
        hidden_by_retries(&cli)?;

        stage.kubectl.run(&["scale", "deployment/httpbin", "--replicas=3"])?;
        stage.kubectl.rolled_out("deployment/httpbin", SOON)?;
        stage.policy(&json!({"ejection": {"consecutive5xx": 3, "maxPercent": 10}}))?;
        let said = cli.says(1, &["--path", "/get", "--fail-path", "/status/500"])?;
        said.did_not(
            "ejection.consecutive5xx",
            "NoneEjectable",
            "maxPercent 10 of 3 endpoint(s), rounded down, is none",
        )
    })
}

/// A rule for the same host in the client's own namespace wins for that client.
fn another_rule(cli: &Cli<'_>, limit: &str) -> Result<()> {
    let stage = cli.stage;
    let from = format!("{}-cli", stage.kubectl.current_namespace());
    in_namespace(stage, &from, "enabled", || {
        let rule = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "theirs", "namespace": from},
            "spec": {"host": stage.host(), "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 77}}}},
        });
        stage.kubectl.namespace(&from).apply(&rule.to_string())?;
        let said = cli.says(1, &["--path", "/get", "--from", &from])?;
        said.did_not(limit, "AnotherRule", &format!("has DestinationRule {from}/theirs for the target"))
    })
}

/// Pods of a namespace without injection have no proxy.
fn no_sidecar(cli: &Cli<'_>, limit: &str) -> Result<()> {
    let from = format!("{}-bare", cli.stage.kubectl.current_namespace());
    in_namespace(cli.stage, &from, "disabled", || {
        let said = cli.says(1, &["--path", "/get", "--from", &from])?;
        ensure!(said.0["calls"] == 0, "calls were made all the same: {}", said.0);
        said.did_not(limit, "NoSidecar", "the traffic goes through no sidecar")
    })
}

fn in_namespace(stage: &Stage<'_>, name: &str, injection: &str, play: impl FnOnce() -> Result<()>) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"istio-injection": injection}},
    });
    stage.kubectl.apply(&namespace.to_string())?;
    let played = play();
    stage.kubectl.run(&["delete", "namespace", name, "--wait=false"])?;
    played
}

/// A VirtualService of somebody else tries again what the server refuses, until it goes well.
fn hidden_by_retries(cli: &Cli<'_>) -> Result<()> {
    let stage = cli.stage;
    stage.policy(&json!({"limits": {"perServer": {"mode": "Limited", "activeRequests": 1}}}))?;
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "hider"},
        "spec": {"hosts": [stage.host()], "http": [{
            "route": [{"destination": {"host": stage.host()}}],
            "retries": {"attempts": 100, "retryOn": "503", "backoff": "10ms"},
        }]},
    });
    stage.kubectl.apply(&routes.to_string())?;
    let hider = format!("VirtualService {}/hider", stage.kubectl.current_namespace());
    let said = cli.says(1, &["--path", "/delay/0.01", "--max-callers", "3"])?;
    said.did_not(
        "limits.perServer.activeRequests",
        "HiddenByRetries",
        &format!("the retries of {hider} hid the errors"),
    )?;
    stage.kubectl.run(&["delete", "virtualservice", "hider", "--wait"]).map(drop)
}

/// A run that is stopped leaves no Job and no verdict: by a signal amid its calls, by its time, and by errors that
/// no limit explains.
///
/// # Errors
/// When one of these is not so.
pub fn stops_on_each_guard(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "verify-stops", |stage| {
        let cli = Cli::new(checkout, stage)?;
        stage.policy(&json!({"limits": {"perClient": {"activeRequests": 2}, "perServer": {"mode": "Unlimited"}}}))?;
        // Half of the calls that are under way fail in a way that no limit has.
        let said = cli.says(2, &["--path", "/unstable?failure_rate=0.5"]);
        let guard = |said: Result<Said>| Ok::<_, anyhow::Error>(said?.0["stopped"]["guard"].to_string());
        let by_errors = guard(said)?;
        ensure!(by_errors.contains("Errors") || by_errors.contains("Path"), "stopped by {by_errors}");
        let by_time = guard(cli.says(2, &["--path", "/delay/4", "--duration", "14s"]))?;
        ensure!(by_time.contains("Deadline"), "stopped by {by_time}");

        let mut command = cli.command(&["--path", "/delay/2"])?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let selector = "app.kubernetes.io/name=resilience-verify";
        stage.kubectl.until("the caller calls", SOON, |kubectl| {
            let log = kubectl.try_run(&["logs", "-l", selector, "-c", "verify"])?;
            Ok(if log.stdout.contains("activeRequests") { Seen::Done(()) } else { Seen::NotYet(log.all()) })
        })?;
        interrupt(child.id())?;
        let output = child.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(2) && words.contains("nothing is concluded"),
            "{}: {words}",
            output.status
        );
        cli.no_job_is_left()?;
        let object = stage.until_condition("httpbin", "Verified", "Unknown")?;
        ensure!(object.pointer("/status/verification").is_none(), "a verdict was written: {object}");
        Ok(())
    })
}

/// As Ctrl-C: to the program itself, which `nsenter` may stand before.
fn interrupt(id: u32) -> Result<()> {
    let mut targets = vec![id];
    // Its only child, as long as it has one.
    while let Some(child) = targets.last().and_then(|parent| child_of(*parent)) {
        targets.push(child);
    }
    let last = targets.last().copied().unwrap_or(id).to_string();
    crate::run::check(std::process::Command::new("kill").args(["-INT", &last])).map(drop)
}

fn child_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
