//! `why` names the cause of each of ten ways to fail, staged one after another, first of all that it tells.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::incident::{CLIENT, Calls, until_counted};
use super::stage::{CONTAINER_PORT, PORT, SOON, Stage, on_stage};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::kubectl::Kubectl;
use crate::operator;
use crate::report::Report;
use crate::run::{Finished, finish};
use crate::wait::Seen;

/// Few calls of short answers.
const CALMLY: (u32, u32) = (2, 20);
/// Enough for every limit here, at 50 ms each.
const TOO_OFTEN: (u32, u32) = (8, 80);

/// One way to fail.
type Act = fn(&Asking<'_>) -> Result<()>;

const ACTS: &[(&str, Act)] = &[
    ("nothing fails", nothing),
    ("a client's limit", client_limit),
    ("a server's limit", server_limit),
    ("a retry storm", retry_storm),
    ("all endpoints ejected", ejection),
    ("a timeout", timeout),
    ("the application's own 503", application),
    ("no endpoint", no_endpoint),
    ("another's routes", others_routes),
    ("another's limit", others_limit),
    ("mutual TLS on one side", mutual_tls),
    ("a missing route", missing_route),
];

/// Each cause is staged, called into, and named first.
///
/// # Errors
/// When another one is.
pub fn is_right(checkout: &Checkout) -> Result<()> {
    let report = Report::new();
    let program = operator::build(checkout, &report)?;
    on_stage(checkout, "why", |stage| {
        let asking = Asking { stage, program: &program };
        ACTS.iter().try_for_each(|(name, act)| report.step(name, || act(&asking).with_context(|| (*name).to_owned())))
    })
}

/// Our program on the lab's network.
struct Asking<'a> {
    stage: &'a Stage<'a>,
    program: &'a Path,
}

impl Asking<'_> {
    fn run(&self, args: &[&str]) -> Result<Finished> {
        let kubectl = self.stage.kubectl;
        let mut command = kubectl.inside(self.program.to_str().context("the path is no text")?)?;
        finish(command.arg("why").args(args).args(["--namespace", kubectl.current_namespace()]))
    }

    /// What it says of fortio's calls, and with which code it ends.
    fn ask(&self, time: &str) -> Result<(Value, Option<i32>)> {
        let client = format!("{}/fortio", self.stage.kubectl.current_namespace());
        let said = self.run(&["httpbin", "--client", &client, "--for", time, "-o", "json"])?;
        let why = serde_json::from_str(&said.stdout).with_context(|| format!("no JSON: {}", said.all()))?;
        Ok((why, said.status.code()))
    }

    /// Looks until what is told, and the code that it ends with, are right: what was staged has begun, and a look may
    /// still straddle its beginning.
    fn until(&self, what: &str, time: &str, right: impl Fn(&Value, Option<i32>) -> bool) -> Result<Value> {
        self.stage.kubectl.until(what, SOON, |_| {
            Ok(match self.ask(time) {
                Ok((why, code)) if right(&why, code) => Seen::Done(why),
                Ok((why, code)) => Seen::NotYet(format!("{code:?}: {why}")),
                // On a busy machine a proxy may not answer in time.
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Looks until the first cause is this one, of this class, and gives all that was told.
    fn first(&self, cause: &str, class: &str) -> Result<Value> {
        self.until(&format!("why names {cause} first"), "5s", |why, code| {
            let first = &why["causes"][0];
            first["cause"] == cause && first["class"] == class && why["failing"] == true && code == Some(1)
        })
    }

    /// Stages calls, waits until they have begun to fail, and looks for the cause while they go on.
    fn while_calling(
        &self,
        path: &str,
        (callers, rate): (u32, u32),
        begun: impl FnOnce() -> Result<()>,
        look: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let calls = Calls::start(self.stage.kubectl, path, callers, rate)?;
        begun()?;
        look()?;
        calls.stop(self.stage.kubectl)
    }

    /// Waits until fortio's Envoy counts more of something than now.
    fn until_more(&self, counter: &str) -> Result<()> {
        let now = Stats::of(self.stage.kubectl, CLIENT)?.outbound(&self.stage.host(), PORT, counter);
        until_counted(self.stage, &format!("more {counter}"), counter, |count| count > now)
    }

    /// Waits until the server's Envoy counts more of something than now.
    fn until_served(&self, counter: &str) -> Result<()> {
        let look = |kubectl: &Kubectl| {
            Ok::<_, anyhow::Error>(Stats::of(kubectl, "deploy/httpbin")?.inbound(CONTAINER_PORT, counter))
        };
        let before = look(self.stage.kubectl)?;
        self.stage.kubectl.until(&format!("more {counter} at the server"), SOON, |kubectl| {
            Ok(match look(kubectl) {
                Ok(now) if now > before => Seen::Done(()),
                Ok(now) => Seen::NotYet(format!("{counter} is {now}")),
                // On a busy machine a proxy may not answer in time.
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Waits until every call is answered so.
    fn until_all(&self, status: i32) -> Result<()> {
        self.stage
            .until_answers(&format!("every answer is {status}"), "/get", 1, 4, |answers| answers.status(status) == 4)
    }

    fn put(&self, object: &Value) -> Result<()> {
        self.stage.kubectl.apply(&object.to_string()).map(drop)
    }

    fn remove(&self, kind: &str, name: &str) -> Result<()> {
        self.stage.kubectl.run(&["delete", kind, name, "--wait"]).map(drop)
    }
}

fn summary(why: &Value) -> &str {
    why["causes"][0]["summary"].as_str().unwrap_or_default()
}

/// All causes.
fn told(why: &Value) -> Vec<&str> {
    why["causes"].as_array().into_iter().flatten().filter_map(|cause| cause["cause"].as_str()).collect()
}

/// The evidence of the first cause that a counter is.
fn counted(why: &Value) -> Result<(u64, u64, String)> {
    let mut all = why["causes"][0]["evidence"].as_array().into_iter().flatten();
    let of = |one: &Value| Some((one["added"].as_u64()?, one["total"].as_u64()?, one["counter"].as_str()?.to_owned()));
    all.find_map(of).with_context(|| format!("no counter is the evidence: {why}"))
}

fn limits(active: u32) -> Value {
    json!({"limits": {"perClient": {"activeRequests": active}, "perServer": {"mode": "Unlimited"}}})
}

fn nothing(asking: &Asking<'_>) -> Result<()> {
    asking.stage.policy(&limits(3))?;
    asking.stage.until_threshold(CLIENT, "max_requests", 3)?;
    asking.while_calling(
        "/get",
        CALMLY,
        || asking.until_more("upstream_rq_total"),
        || {
            let calm = |why: &Value, code| {
                let says = why["headline"].as_str().is_some_and(|line| line.starts_with("nobody was refused in "));
                says && why["failing"] == false && code == Some(0) && why["sent"].as_u64() > Some(0)
            };
            asking.until("why says that nothing fails", "5s", calm).map(drop)
        },
    )
}

fn client_limit(asking: &Asking<'_>) -> Result<()> {
    let refused = "upstream_rq_active_overflow";
    asking.while_calling(
        "/delay/0.05",
        TOO_OFTEN,
        || asking.until_more(refused),
        || {
            let before = Stats::of(asking.stage.kubectl, CLIENT)?.outbound(&asking.stage.host(), PORT, refused);
            let why = asking.first("ClientLimit", "SeenNow")?;
            let after = Stats::of(asking.stage.kubectl, CLIENT)?.outbound(&asking.stage.host(), PORT, refused);
            let (added, total, counter) = counted(&why)?;
            ensure!(counter == refused && (before..=after).contains(&total), "Envoy had {before}, then {after}: {why}");
            ensure!(added > 0 && added <= after - before, "{added} of {} are told: {why}", after - before);
            ensure!(summary(&why).contains("3 activeRequests"), "the limit is not told: {why}");
            // Whoever looks without saying which client is told the same.
            asking.stage.kubectl.until("the page names it too", SOON, |_| {
                let said = asking.run(&["svc/httpbin", "--for", "2s"])?;
                let names = ["1. a client's limit (seen now): ", refused].iter().all(|one| said.stdout.contains(one));
                let right = said.status.code() == Some(1) && names;
                Ok(if right { Seen::Done(()) } else { Seen::NotYet(said.all()) })
            })
        },
    )
}

fn server_limit(asking: &Asking<'_>) -> Result<()> {
    let spec = json!({
        "limits": {"perServer": {"mode": "Limited", "activeRequests": 1}},
        "retries": {"attempts": 0},
    });
    asking.stage.policy(&spec)?;
    asking.while_calling(
        "/delay/0.05",
        TOO_OFTEN,
        || asking.until_served("upstream_rq_active_overflow"),
        || {
            let why = asking.first("ServerLimit", "SeenNow")?;
            ensure!(summary(&why).contains("1 activeRequests"), "the limit is not told: {why}");
            Ok(())
        },
    )
}

fn retry_storm(asking: &Asking<'_>) -> Result<()> {
    let spec = json!({
        "limits": {"perServer": {"mode": "Limited", "activeRequests": 1}},
        "retries": {"attempts": 3, "statusCodes": [503]},
    });
    asking.stage.policy(&spec)?;
    asking.while_calling(
        "/delay/0.05",
        TOO_OFTEN,
        || asking.until_more("upstream_rq_retry"),
        || {
            let why = asking.first("RetryStorm", "SeenNow")?;
            ensure!(told(&why).contains(&"ServerLimit"), "what is full is told as well: {why}");
            Ok(())
        },
    )
}

fn ejection(asking: &Asking<'_>) -> Result<()> {
    let spec = json!({"ejection": {"consecutive5xx": 3, "interval": "1s", "baseTime": "300s", "maxPercent": 100}});
    let stage = asking.stage;
    stage.policy(&spec)?;
    stage.kubectl.until("the only endpoint is ejected", SOON, |kubectl| {
        stage.call("/status/500", 1, 5)?;
        let out = Stats::of(kubectl, CLIENT)?.outbound(&stage.host(), PORT, "outlier_detection.ejections_active");
        Ok(if out == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{out} are")) })
    })?;
    asking.while_calling(
        "/get",
        CALMLY,
        || asking.until_more("upstream_cx_none_healthy"),
        || asking.first("Ejection", "SeenNow").map(drop),
    )
}

fn timeout(asking: &Asking<'_>) -> Result<()> {
    asking.stage.policy(&json!({"timeouts": {"request": "200ms"}}))?;
    asking.while_calling(
        "/delay/0.5",
        CALMLY,
        || asking.until_more("upstream_rq_timeout"),
        || {
            let why = asking.first("Timeout", "SeenNow")?;
            ensure!(summary(&why).contains("0.200s of VirtualService "), "whose time it is is not told: {why}");
            Ok(())
        },
    )
}

fn application(asking: &Asking<'_>) -> Result<()> {
    asking.stage.policy(&json!({"timeouts": {"request": "5s"}}))?;
    asking.while_calling(
        "/status/503",
        CALMLY,
        || asking.until_served("upstream_rq_503"),
        || asking.first("Application", "SeenNow").map(drop),
    )?;
    let all = ["ServerLimit", "ClientLimit", "Timeout"];
    asking
        .until("without waiting all that was counted so far is told", "0", |why, code| {
            code == Some(1) && all.iter().all(|cause| told(why).contains(cause))
        })
        .map(drop)
}

fn no_endpoint(asking: &Asking<'_>) -> Result<()> {
    let kubectl = asking.stage.kubectl;
    let select = |app: &str| {
        let patch = json!({"spec": {"selector": {"app": app}}}).to_string();
        kubectl.run(&["patch", "service", "httpbin", "--type=merge", "-p", &patch]).map(drop)
    };
    select("nobody")?;
    asking.while_calling(
        "/get",
        CALMLY,
        || asking.until_more("upstream_cx_none_healthy"),
        || {
            let why = asking.first("NoEndpoints", "SeenNow")?;
            ensure!(summary(&why).contains("no pod has the labels app=nobody"), "why there is none is not told: {why}");
            Ok(())
        },
    )?;
    select("httpbin")?;
    asking.until_all(200)
}

fn routes(destination: &Value, fault: &Value) -> Value {
    let mut route = json!({"route": [{"destination": destination}]});
    if fault.is_object() {
        route["fault"] = fault.clone();
    }
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "theirs"}, "spec": {"hosts": ["httpbin"], "http": [route]},
    })
}

fn others_routes(asking: &Asking<'_>) -> Result<()> {
    // Of limits alone there are no routes of ours.
    asking.stage.policy(&limits(100))?;
    asking.stage.until_gone("virtualservice", "httpbin")?;
    let fault = json!({"abort": {"httpStatus": 503, "percentage": {"value": 100.0}}});
    asking.put(&routes(&json!({"host": "httpbin"}), &fault))?;
    asking.until_all(503)?;
    asking.while_calling(
        "/get",
        CALMLY,
        || Ok(()),
        || {
            let why = asking.first("OtherRule", "MustFail")?;
            let right = summary(&why).contains("/theirs") && summary(&why).contains("100 % of calls with 503");
            ensure!(right, "whose fault it is is not told: {why}");
            Ok(())
        },
    )?;
    asking.remove("virtualservice", "theirs")?;
    asking.until_all(200)
}

fn rule(policy: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "theirs"}, "spec": {"host": "httpbin", "trafficPolicy": policy},
    })
}

fn others_limit(asking: &Asking<'_>) -> Result<()> {
    asking.remove("resilience", "httpbin")?;
    asking.stage.until_gone("destinationrule", "httpbin")?;
    asking.put(&rule(&json!({"connectionPool": {"http": {"http2MaxRequests": 1}}})))?;
    asking.stage.apply_policy("httpbin", &limits(100))?;
    asking.stage.until_condition("httpbin", "Accepted", "False")?;
    asking.while_calling(
        "/delay/0.05",
        TOO_OFTEN,
        || asking.until_more("upstream_rq_active_overflow"),
        || {
            let why = asking.first("OtherRule", "SeenNow")?;
            ensure!(
                summary(&why).contains("/theirs, which counts instead of Resilience"),
                "whose limit is not told: {why}"
            );
            Ok(())
        },
    )
}

fn mutual_tls(asking: &Asking<'_>) -> Result<()> {
    asking.put(&rule(&json!({"tls": {"mode": "DISABLE"}})))?;
    asking.put(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "strict"}, "spec": {"mtls": {"mode": "STRICT"}},
    }))?;
    asking.until_all(503)?;
    asking.while_calling("/get", CALMLY, || Ok(()), || asking.first("MutualTls", "SeenNow").map(drop))?;
    asking.remove("peerauthentication", "strict")?;
    asking.remove("destinationrule", "theirs")?;
    asking.until_all(200)
}

fn missing_route(asking: &Asking<'_>) -> Result<()> {
    asking.put(&routes(&json!({"host": "httpbin", "subset": "v9"}), &Value::Null))?;
    asking.until_all(503)?;
    asking.while_calling(
        "/get",
        CALMLY,
        || Ok(()),
        || {
            let why = asking.first("MissingRoute", "MustFail")?;
            ensure!(summary(&why).contains("|v9|httpbin."), "where it leads is not told: {why}");
            Ok(())
        },
    )
}
