//! Retries, timeouts and the retry budget.

mod budget;
mod overload;
mod timeouts;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::routes_stage::{CONTAINER_PORT, Counted, PORT, Stage};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::fortio::{Answers, load};
use crate::lab::Lab;
use crate::namespace::with_namespace;

const CLAIMS: &[Claim<Stage>] = &[
    Claim {
        ids: &["M16"],
        says: "without a VirtualService, and with one that has no retries, a call has two more tries by a list of its own, and no timeout",
        judge: defaults,
    },
    Claim {
        ids: &["M17"],
        says: "the default retries help against a dead endpoint without a sidecar, and against nothing that a sidecar answers",
        judge: defaults_in_traffic,
    },
    Claim {
        ids: &["M18"],
        says: "no attempts are retries off; attempts without retryOn have the default list",
        judge: shapes,
    },
    Claim { ids: &["M19"], says: "a call has attempts + 1 tries, whatever the backoff", judge: total_tries },
    Claim {
        ids: &["M20"],
        says: "codes in retryOn stand as numbers; the bare word retriable-status-codes retries nothing",
        judge: codes,
    },
    Claim {
        ids: &["M21"],
        says: "the webhook refuses a retryOn with a blank, an unknown word, or a code that HTTP has not",
        judge: bad_retry_on,
    },
    Claim {
        ids: &["M22"],
        says: "retryOn replaces the default list: 503 alone gives up connect-failure",
        judge: replaces,
    },
    Claim {
        ids: &["M23"],
        says: "no timeout below a millisecond, nor with a part of one, is taken",
        judge: bad_timeouts,
    },
    Claim {
        ids: &["M24"],
        says: "the overall timeout ends all tries; a perTryTimeout that does not fit into it is none",
        judge: timeouts::overall,
    },
    Claim {
        ids: &["M25"],
        says: "a try that perTryTimeout cut off is tried again for 5xx, gateway-error and reset only",
        judge: timeouts::per_try,
    },
    Claim {
        ids: &["M26"],
        says: "what the client's own limit refuses is never tried again",
        judge: overload::at_client,
    },
    Claim {
        ids: &["M27"],
        says: "what the server's limit refuses is tried again, each time, and so the load is multiplied",
        judge: overload::at_server,
    },
    Claim { ids: &["M28"], says: "every budget, and maxRetries, cuts retries", judge: budget::cuts },
    Claim {
        ids: &["M29"],
        says: "a budget without numbers has 20 percent and 3; percent 0 is 0, minRetryConcurrency 0 is 3; a budget decides before maxRetries",
        judge: budget::defaults,
    },
    Claim { ids: &["M30"], says: "a budgetInterval nearly removes the budget", judge: budget::interval },
    Claim {
        ids: &["M31"],
        says: "an entry in portLevelSettings loses the budget for its port",
        judge: budget::by_port,
    },
    Claim {
        ids: &["M32"],
        says: "subsets inherit the budget; one of their own replaces it whole",
        judge: budget::in_subsets,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "retries", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-retries", |kubectl| {
        let stage = Stage::set(checkout, kubectl, None)?;
        judge.all(&stage, CLAIMS, Stage::sweep);
        Ok(())
    })
}

/// What Istio retries on when nobody says (pilot/pkg/networking/core/route/retry/retry.go).
const DEFAULT_LIST: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// A route's number of retries, what for, and on which codes; none when it has no retry policy.
fn policy(route: &Value) -> Option<(u64, &str, Vec<u64>)> {
    let policy = route.pointer("/route/retry_policy")?;
    let codes = policy["retriable_status_codes"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    Some((policy["num_retries"].as_u64()?, policy["retry_on"].as_str()?, codes.collect()))
}

fn defaults(stage: &Stage) -> Result<()> {
    let [bare] = stage.routes("httpbin", ["default"])?;
    ensure!(policy(&bare) == Some((2, DEFAULT_LIST, vec![])), "without a VirtualService: {bare}");
    let predicate = bare.pointer("/route/retry_policy/retry_host_predicate/0/name");
    ensure!(predicate == Some(&json!("envoy.retry_host_predicates.previous_hosts")), "no previous_hosts: {bare}");
    ensure!(bare["route"]["timeout"] == "0s", "a timeout without a VirtualService: {bare}");
    stage.write(&[stage.cases("httpbin", &[("nothing", json!({})), ("timeout", json!({"timeout": "7s"}))])])?;
    let [nothing, timeout] = stage.routes("httpbin", ["nothing", "timeout"])?;
    for route in [&nothing, &timeout] {
        let (here, there) = (&route["route"]["retry_policy"], &bare["route"]["retry_policy"]);
        ensure!(here == there, "a VirtualService without retries changes them: {here}, not {there}");
    }
    let times = [&nothing["route"]["timeout"], &timeout["route"]["timeout"]];
    ensure!(times == ["0s", "7s"], "timeouts of a VirtualService without one, and with 7s: {times:?}");
    Ok(())
}

fn defaults_in_traffic(stage: &Stage) -> Result<()> {
    for status in [503, 500] {
        let seen = stage.call(&format!("/status/{status}"), 20)?;
        seen.expect(status, 20)?;
        ensure!(seen.retries(stage) == 0, "{status} of the server was tried again: {} times", seen.retries(stage));
    }
    let bare = dead(stage, "plaindead", "/get", 20)?;
    let (connects, retries, exhausted) = (
        bare.by_client(stage, "plaindead", "upstream_cx_connect_fail"),
        bare.by_client(stage, "plaindead", "upstream_rq_retry"),
        bare.by_client(stage, "plaindead", "upstream_rq_retry_limit_exceeded"),
    );
    ensure!(
        (connects, retries, exhausted) == (60, 40, 20),
        "20 calls to a dead endpoint without a sidecar: {connects} connects, {retries} retries, {exhausted} calls at their end"
    );
    let behind = dead(stage, "dead", "/get", 20)?;
    let retries = behind.by_client(stage, "dead", "upstream_rq_retry");
    let answers = behind.by_client(stage, "dead", "upstream_rq_503");
    ensure!(
        retries == 0 && answers == 20,
        "behind a sidecar the client saw {answers} answers 503 and tried {retries} again"
    );
    // The server's own sidecar does retry; it answers 503 when it has.
    let by_server = behind.server.inbound(9999, "upstream_rq_retry");
    let exhausted = behind.server.inbound(9999, "upstream_rq_retry_limit_exceeded");
    ensure!(
        by_server == 40 && exhausted == 20,
        "the server's sidecar retried {by_server} times for 20 calls, {exhausted} of them to the end"
    );
    Ok(())
}

/// Calls a Service whose target nobody listens on; every answer must be 503.
fn dead(stage: &Stage, service: &str, path: &str, calls: u32) -> Result<Counted<Answers>> {
    let url = stage.url(service, PORT, path);
    let seen = stage.counted("deploy/httpbin", || load(&stage.kubectl, &url, 1, calls))?;
    ensure!(seen.value.status(503) == u64::from(calls), "{service} is dead, and answered {:?}", seen.value);
    Ok(seen)
}

fn shapes(stage: &Stage) -> Result<()> {
    stage.write(&[stage.cases(
        "httpbin",
        &[
            ("absent", json!({})),
            ("empty", json!({"retries": {}})),
            ("zero", json!({"retries": {"attempts": 0}})),
            ("three", json!({"retries": {"attempts": 3}})),
            ("for-nothing", json!({"retries": {"attempts": 3, "retryOn": ""}})),
        ],
    )])?;
    let [absent, empty, zero, three, for_nothing] =
        stage.routes("httpbin", ["absent", "empty", "zero", "three", "for-nothing"])?;
    ensure!(policy(&absent) == Some((2, DEFAULT_LIST, vec![])), "no retries: {}", absent["route"]);
    for off in [empty, zero] {
        ensure!(policy(&off).is_none(), "retries that are off: {}", off["route"]);
    }
    for on in [three, for_nothing] {
        ensure!(policy(&on) == Some((3, DEFAULT_LIST, vec![])), "three attempts: {}", on["route"]);
    }
    stage.call("/status/503?case=zero", 10)?.expect(503, 10)?;
    for retries in [json!({"attempts": 0, "retryOn": "5xx"}), json!({"attempts": -1})] {
        by_webhook(&stage.refusal(&stage.cases("httpbin", &[("bad", json!({"retries": retries}))]))?)?;
    }
    Ok(())
}

fn total_tries(stage: &Stage) -> Result<()> {
    stage.write(&[stage.cases(
        "httpbin",
        &[
            ("three", json!({"retries": {"attempts": 3, "retryOn": "503"}})),
            ("two", json!({"retries": {"attempts": 2, "retryOn": "503"}})),
            ("slow", json!({"retries": {"attempts": 3, "retryOn": "503", "backoff": "100ms"}})),
        ],
    )])?;
    let [slow] = stage.routes("httpbin", ["slow"])?;
    let backoff = slow.pointer("/route/retry_policy/retry_back_off/base_interval");
    ensure!(backoff == Some(&json!("0.100s")), "backoff 100ms: {slow}");
    for (case, tries) in [("three", 40), ("two", 30), ("slow", 40)] {
        stage.call(&format!("/status/503?case={case}"), 10)?.expect(503, tries)?;
    }
    Ok(())
}

fn codes(stage: &Stage) -> Result<()> {
    // A retryOn, and the tries that a call has when the server answers 503, 500 and 404.
    let lists = [
        ("code", "503", [3, 1, 1]),
        ("codes", "404,503", [3, 1, 3]),
        ("word", "retriable-status-codes", [1, 1, 1]),
        ("word-and-code", "retriable-status-codes,503", [3, 1, 1]),
        ("all", "5xx", [3, 3, 1]),
        ("gateway", "gateway-error", [3, 1, 1]),
    ];
    let cases = lists.map(|(name, on, _)| (name, json!({"retries": {"attempts": 2, "retryOn": on}})));
    stage.write(&[stage.cases("httpbin", &cases)])?;
    let [code] = stage.routes("httpbin", ["code"])?;
    ensure!(policy(&code) == Some((2, ",retriable-status-codes", vec![503])), "retryOn 503: {}", code["route"]);
    for (name, on, tries) in lists {
        let statuses = [503, 500, 404];
        let seen = stage.counted("deploy/httpbin", || {
            for status in statuses {
                let url = stage.url("httpbin", PORT, &format!("/status/{status}?case={name}"));
                let answers = load(&stage.kubectl, &url, 1, 5)?;
                ensure!(answers.status(status) == 5, "retryOn {on}: the server's {status} became {answers:?}");
            }
            Ok(())
        })?;
        let counted = statuses.map(|status| seen.server.inbound(CONTAINER_PORT, &format!("upstream_rq_{status}")));
        let expected = tries.map(|tries| 5 * tries);
        ensure!(
            counted == expected,
            "retryOn {on}: 5 calls each made {counted:?} tries of {statuses:?}, not {expected:?}"
        );
    }
    Ok(())
}

fn bad_retry_on(stage: &Stage) -> Result<()> {
    for (on, word) in [("5xx, reset", " reset"), ("foo", "foo"), ("299", "299"), ("499", "499")] {
        let object = stage.cases("httpbin", &[("bad", json!({"retries": {"attempts": 2, "retryOn": on}}))]);
        let says = stage.refusal(&object)?;
        by_webhook(&says)?;
        // It quotes the word, some of them escaped.
        ensure!(
            says.contains(word) && says.contains("is not a valid retryOn policy"),
            "for {on:?} the webhook says: {says}"
        );
    }
    Ok(())
}

fn replaces(stage: &Stage) -> Result<()> {
    stage.write(&[stage.cases(
        "plaindead",
        &[
            ("code", json!({"retries": {"attempts": 2, "retryOn": "503"}})),
            ("both", json!({"retries": {"attempts": 2, "retryOn": "503,connect-failure"}})),
        ],
    )])?;
    for (case, expected) in [("code", (10, 0)), ("both", (30, 20))] {
        let seen = dead(stage, "plaindead", &format!("/get?case={case}"), 10)?;
        let connects = seen.by_client(stage, "plaindead", "upstream_cx_connect_fail");
        let retries = seen.by_client(stage, "plaindead", "upstream_rq_retry");
        ensure!((connects, retries) == expected, "{case}: {connects} connects, {retries} retries, not {expected:?}");
    }
    Ok(())
}

fn bad_timeouts(stage: &Stage) -> Result<()> {
    let timeout = |time: &str| json!({"timeout": time});
    let per_try = |time: &str| json!({"retries": {"attempts": 2, "perTryTimeout": time}});
    for route in [timeout("0s"), timeout("0.5ms"), per_try("0s"), per_try("0.5ms")] {
        let says = stage.refusal(&stage.cases("httpbin", &[("bad", route.clone())]))?;
        let by_schema =
            says.contains("must be a valid duration greater than 1ms") && !says.contains("admission webhook");
        ensure!(by_schema, "{route} was not refused by the schema, but: {says}");
    }
    for route in [timeout("1.5ms"), per_try("1.5ms")] {
        let says = stage.refusal(&stage.cases("httpbin", &[("bad", route.clone())]))?;
        by_webhook(&says)?;
        ensure!(says.contains("only durations to ms precision"), "{route}: {says}");
    }
    Ok(())
}

/// That it was Istio's webhook that refused.
fn by_webhook(says: &str) -> Result<()> {
    ensure!(says.contains("admission webhook") && says.contains("istio.io"), "not refused by Istio's webhook: {says}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::routes_stage::each_is_claimed_once;

    #[test]
    fn each_measurement_of_retries_is_claimed_once() {
        each_is_claimed_once(&super::FAMILY, 16..=32);
    }
}
