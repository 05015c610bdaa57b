//! Each way of a plan, and each sentence of a verdict.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Act, Answers, Asked, Caps, Cause, Conclusion, Evidence, Finding, Guard, Plan, Proxy, Reading, Report, Sign, Step,
    Stopped,
    counters::{ACTIVE, CALLS, CONNECTIONS, EJECTED, EJECTED_5XX, PENDING, RETRY, RETRY_SUCCESS, TIMEOUT},
    judge, plan,
};
use crate::{
    api::{LimitResult, Resilience},
    observed::{Endpoints, Observed, ServiceView, Target},
    validate::{Settings, validate},
};

const RULE: &str = "shop/a";

fn asked() -> Asked {
    Asked {
        port: 80,
        http2: false,
        path: "/".to_owned(),
        slow_path: Some("/slow".to_owned()),
        fail_path: Some("/fail".to_owned()),
        caps: Caps { callers: 200, rate_per_s: 200, duration_ms: 120_000, errors_percent: 10 },
    }
}

fn planned_as(spec: Value, endpoints: u32, asked: &Asked) -> Plan {
    let mut spec = spec;
    spec["targetRefs"] = json!([{"kind": "Service", "name": "a"}]);
    let object = json!({
        "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
        "metadata": {"name": "a", "namespace": "shop"}, "spec": spec,
    });
    let resilience: Resilience = serde_json::from_value(object).unwrap();
    let service = json!({
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80}]},
    });
    let observed = Observed {
        target: Target::Found(ServiceView::from(&serde_json::from_value(service).unwrap())),
        endpoints: Some(Endpoints::of(endpoints)),
        ..Observed::default()
    };
    let valid = validate(&resilience, &observed, &Settings::default()).unwrap();
    plan(&valid, asked, Some(RULE.to_owned()), Some(RULE.to_owned()))
}

fn planned(spec: Value, endpoints: u32) -> Plan {
    planned_as(spec, endpoints, &asked())
}

fn step<'a>(plan: &'a Plan, path: &str) -> &'a Step {
    &plan.lines.iter().find(|line| line.path == path).unwrap_or_else(|| panic!("{path} is not in {plan:#?}")).step
}

/// The cause of what is settled without a call.
fn settled(plan: &Plan, path: &str) -> (LimitResult, Cause) {
    match step(plan, path) {
        Step::Settled(finding) => (finding.result, finding.cause),
        Step::Drive(act) => panic!("{path} is driven by {act:?}"),
    }
}

/// Callers within and past a limit.
fn driven(plan: &Plan, path: &str) -> (Option<u32>, Vec<u32>) {
    match step(plan, path) {
        Step::Drive(Act::Callers { within, past, .. }) => (*within, past.clone()),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn bursts_are_followed_by_rests() {
    let caps = asked().caps;
    assert_eq!((caps.rest_after_ms(3), caps.rest_after_ms(800)), (15, 4_000));
}

const CONNECTIONS_LIMIT: &str = "limits.perClient.connections";
const PENDING_LIMIT: &str = "limits.perClient.pendingRequests";
const ACTIVE_LIMIT: &str = "limits.perClient.activeRequests";
const SERVER_LIMIT: &str = "limits.perServer.activeRequests";

#[test]
fn a_limit_on_calls_is_driven_to_its_number_and_then_past_it_step_by_step_up_to_the_cap() {
    let of = |requests: u32| planned(json!({"limits": {"perClient": {"activeRequests": requests}}}), 1);
    assert_eq!(driven(&of(1), ACTIVE_LIMIT), (Some(1), vec![2, 3, 6]));
    assert_eq!(driven(&of(100), ACTIVE_LIMIT), (Some(100), vec![125, 200]));
    assert_eq!(driven(&of(199), ACTIVE_LIMIT), (Some(199), vec![200]));
    assert_eq!(settled(&of(200), ACTIVE_LIMIT), (LimitResult::NotTripped, Cause::AboveCap));
    assert_eq!(of(100).most_callers(), 200);
}

#[test]
fn the_queue_is_full_when_the_connections_are_and_endpoints_add_theirs() {
    let spec = json!({"limits": {"perClient": {"connections": 1, "pendingRequests": 1, "requestsPerConnection": 1}}});
    let plan = planned(spec.clone(), 1);
    assert_eq!(driven(&plan, CONNECTIONS_LIMIT), (None, vec![2, 3, 6]));
    assert_eq!(driven(&plan, PENDING_LIMIT), (None, vec![3, 5, 10]));
    let Step::Drive(Act::Calm { calls, .. }) = step(&plan, "limits.perClient.requestsPerConnection") else { panic!() };
    assert_eq!(*calls, 4);
    // One connection for each endpoint, whatever the limit (M76).
    assert_eq!(driven(&planned(spec, 3), PENDING_LIMIT).1.first(), Some(&5));
}

#[test]
fn a_limit_behind_another_one_cannot_trip_and_says_so() {
    let plan = planned(json!({"limits": {"perClient": {"connections": 100, "activeRequests": 200}}}), 1);
    assert_eq!(settled(&plan, ACTIVE_LIMIT), (LimitResult::NotTripped, Cause::AnotherLimitFirst));
    let plan = planned(json!({"limits": {"perClient": {"connections": 100, "activeRequests": 20}}}), 1);
    assert_eq!(settled(&plan, CONNECTIONS_LIMIT), (LimitResult::NotTripped, Cause::AnotherLimitFirst));
    assert_eq!(driven(&plan, ACTIVE_LIMIT).0, Some(20));
}

#[test]
fn over_http2_connections_limit_nothing_that_a_call_could_see() {
    let http2 = Asked { http2: true, ..asked() };
    let spec = json!({"limits": {"perClient": {"connections": 1, "pendingRequests": 1, "activeRequests": 5}}});
    let plan = planned_as(spec, 1, &http2);
    assert_eq!(settled(&plan, CONNECTIONS_LIMIT), (LimitResult::NotTried, Cause::NotByCalls));
    assert_eq!(settled(&plan, PENDING_LIMIT), (LimitResult::NotTried, Cause::NotByCalls));
    assert_eq!(driven(&plan, ACTIVE_LIMIT).0, Some(5));
}

#[test]
fn a_servers_limit_takes_as_many_callers_as_its_endpoints_do_and_one_client_may_not_be_enough() {
    let limits =
        |client: Value| json!({"limits": {"perClient": client, "perServer": {"mode": "Limited", "activeRequests": 5}}});
    let plan = planned(limits(json!({"requestsPerConnection": 9})), 3);
    assert_eq!(driven(&plan, SERVER_LIMIT).1.first(), Some(&18));
    let plan = planned(limits(json!({"activeRequests": 15})), 3);
    assert_eq!(settled(&plan, SERVER_LIMIT), (LimitResult::NotTried, Cause::OneClientCannot));
}

#[test]
fn ten_percent_of_three_endpoints_ejects_none_and_nothing_is_sent_to_find_out() {
    let ejection = |percent: u32| json!({"ejection": {"consecutive5xx": 5, "maxPercent": percent, "baseTime": "5s", "interval": "1s"}});
    let plan = planned(ejection(10), 3);
    assert_eq!(settled(&plan, "ejection.consecutive5xx"), (LimitResult::NotTripped, Cause::NoneEjectable));
    let plan = planned(ejection(34), 3);
    let Step::Drive(Act::Fail { calls, back_within_ms }) = step(&plan, "ejection.consecutive5xx") else { panic!() };
    assert_eq!((*calls, *back_within_ms), (15, Some(11_000)));
    assert_eq!(step(&plan, "ejection.baseTime"), step(&plan, "ejection.consecutive5xx"));
    let short = Asked { caps: Caps { duration_ms: 10_000, ..asked().caps }, ..asked() };
    let plan = planned_as(ejection(34), 3, &short);
    assert_eq!(settled(&plan, "ejection.baseTime"), (LimitResult::NotTried, Cause::NoTime));
}

#[test]
fn what_takes_a_path_of_the_user_is_not_tried_without_one() {
    let none = Asked { slow_path: None, fail_path: None, ..asked() };
    let spec = json!({
        "timeouts": {"request": "1s", "connect": "1s"}, "ejection": {"consecutive5xx": 5},
        "retries": {"attempts": 2, "statusCodes": [503]},
    });
    let plan = planned_as(spec, 3, &none);
    for path in ["timeouts.request", "retries.attempts", "ejection.consecutive5xx", "ejection.baseTime"] {
        assert_eq!(settled(&plan, path), (LimitResult::NotTried, Cause::NoPath), "{path}");
    }
    assert_eq!(settled(&plan, "timeouts.connect"), (LimitResult::NotTried, Cause::NotByCalls));
}

fn reading(callers: u32, calls: u64, counters: &[(&str, u64)]) -> Reading {
    Reading {
        callers,
        calls,
        answers: Answers { statuses: BTreeMap::from([(200, calls)]), ..Answers::default() },
        counters: counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        ..Reading::default()
    }
}

fn failing(calls: u64, status: u16, counters: &[(&str, u64)]) -> Reading {
    let answers = Answers { statuses: BTreeMap::from([(status, calls)]), ..Answers::default() };
    Reading { answers, ..reading(1, calls, counters) }
}

/// What a caller saw whose proxy has the policy's own rule and routes.
fn evidence(readings: &[(usize, Vec<Reading>)]) -> Evidence {
    Evidence {
        proxy: Some(Proxy {
            knows_target: true,
            rule: Some(RULE.to_owned()),
            routes: Some(RULE.to_owned()),
            thresholds: BTreeMap::from([("max_requests".to_owned(), 2)]),
        }),
        calm: Some(reading(1, 3, &[(CALLS, 3)])),
        readings: readings.iter().cloned().collect(),
        stopped: None,
    }
}

fn two_at_a_time() -> Plan {
    planned(json!({"limits": {"perClient": {"activeRequests": 2}, "perServer": {"mode": "Unlimited"}}}), 1)
}

#[test]
fn a_server_without_a_limit_has_none_to_try() {
    let paths: Vec<String> = two_at_a_time().lines.into_iter().map(|line| line.path).collect();
    assert_eq!(paths, ["limits.perClient.activeRequests"]);
}

fn first(plan: &Plan, evidence: &Evidence) -> Finding {
    judge(plan, evidence).remove(0)
}

#[test]
fn a_limit_trips_if_nothing_is_refused_within_it_and_something_past_it() {
    let seen =
        evidence(&[(0, vec![reading(2, 8, &[]), reading(3, 12, &[(ACTIVE, 4)]), reading(3, 12, &[(ACTIVE, 5)])])]);
    let finding = first(&two_at_a_time(), &seen);
    assert_eq!(finding.result, LimitResult::Tripped);
    assert_eq!(
        finding.message,
        "none of 8 calls with 2 at a time; with 3 at a time, of 12 calls 4 were refused by the caller's own proxy; once more, 5 of 12"
    );
}

#[test]
fn a_limit_that_refuses_below_its_number_is_another_one() {
    let mut seen = evidence(&[(0, vec![reading(2, 8, &[(ACTIVE, 1)])])]);
    seen.proxy.as_mut().unwrap().thresholds.insert("max_requests".to_owned(), 1);
    let finding = first(&two_at_a_time(), &seen);
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::TooEarly));
    assert!(finding.message.ends_with("; the caller's proxy has 1, not 2"), "{}", finding.message);
}

#[test]
fn a_limit_of_which_nothing_is_seen_did_not_trip() {
    let finding = first(&two_at_a_time(), &evidence(&[(0, vec![reading(2, 8, &[]), reading(10, 40, &[])])]));
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::NotSeen));
    assert!(finding.message.contains("try a slower --path"), "{}", finding.message);
}

#[test]
fn what_waits_only_while_connections_are_made_need_not_be_seen() {
    let plan = planned(json!({"limits": {"perClient": {"pendingRequests": 2}, "perServer": {"mode": "Unlimited"}}}), 1);
    let mut seen = evidence(&[(0, vec![reading(3, 12, &[])])]);
    seen.proxy.as_mut().unwrap().thresholds.insert("max_pending_requests".to_owned(), 2);
    let finding = first(&plan, &seen);
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTried, Cause::NotByCalls), "{}", finding.message);
    let refused = evidence(&[(0, vec![reading(3, 12, &[(PENDING, 1)])])]);
    assert_eq!(first(&plan, &refused).result, LimitResult::Tripped);
    // What the proxy has instead is known, whatever was seen.
    seen.proxy.as_mut().unwrap().thresholds.insert("max_pending_requests".to_owned(), 9);
    let finding = first(&plan, &seen);
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::NotSeen), "{}", finding.message);
}

#[test]
fn refusals_of_the_server_are_not_taken_for_the_callers_own() {
    let mut behind = reading(10, 40, &[]);
    behind.answers.refused_behind = 30;
    let finding = first(&two_at_a_time(), &evidence(&[(0, vec![reading(2, 8, &[]), behind])]));
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::AnotherLimitFirst));
    assert!(finding.message.contains("the server's own refused 30 first"), "{}", finding.message);
}

#[test]
fn without_a_proxy_nothing_passes() {
    let none = Evidence::default();
    let finding = first(&two_at_a_time(), &none);
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::NoSidecar));
    assert!(finding.message.starts_with("the traffic goes through no sidecar"), "{}", finding.message);
    let blind = Evidence { proxy: Some(Proxy::default()), ..Evidence::default() };
    assert_eq!(first(&two_at_a_time(), &blind).cause, Cause::NotThroughSidecar);
    // It has a cluster, and none of the calls went by it.
    let mut past = evidence(&[(0, vec![reading(2, 8, &[]), reading(10, 40, &[])])]);
    past.calm = Some(reading(1, 3, &[]));
    assert_eq!(first(&two_at_a_time(), &past).cause, Cause::NotThroughSidecar);
}

#[test]
fn the_object_that_won_is_named() {
    let plan = planned(json!({"limits": {"perClient": {"activeRequests": 2}}, "timeouts": {"request": "1s"}}), 1);
    let mut seen = evidence(&[]);
    let proxy = seen.proxy.as_mut().unwrap();
    (proxy.rule, proxy.routes) = (Some("cli/theirs".to_owned()), None);
    let findings = judge(&plan, &seen);
    let causes: Vec<Cause> = findings.iter().map(|finding| finding.cause).collect();
    assert_eq!(causes, [Cause::AnotherRule, Cause::AnotherRoute]);
    assert!(findings[0].message.contains("DestinationRule cli/theirs for the target, not that of the policy, shop/a"));
    assert!(findings[1].message.contains("has no VirtualService for the target"), "{}", findings[1].message);
}

fn behind_a_server() -> Plan {
    let spec = json!({"limits": {"perServer": {"mode": "Limited", "activeRequests": 1}}});
    let plan = planned(spec, 1);
    assert_eq!(driven(&plan, SERVER_LIMIT).1, [2, 3, 6]);
    plan
}

#[test]
fn a_servers_refusals_count_while_the_callers_own_counters_rest() {
    let mut refused = reading(2, 8, &[]);
    refused.answers.refused_behind = 3;
    let finding = first(&behind_a_server(), &evidence(&[(0, vec![refused.clone()])]));
    assert_eq!(finding.result, LimitResult::Tripped, "{}", finding.message);
    refused.counters.insert(PENDING.to_owned(), 2);
    let finding = first(&behind_a_server(), &evidence(&[(0, vec![refused])]));
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::AnotherLimitFirst));
}

#[test]
fn errors_that_retries_hide_are_told_with_whose_retries_they_are() {
    let mut seen = evidence(&[(0, vec![reading(6, 24, &[(RETRY, 30), (RETRY_SUCCESS, 18)])])]);
    seen.proxy.as_mut().unwrap().routes = Some("shop/hider".to_owned());
    let finding = first(&behind_a_server(), &seen);
    assert_eq!((finding.result, finding.cause), (LimitResult::NotTripped, Cause::HiddenByRetries));
    assert!(finding.message.contains("the retries of VirtualService shop/hider hid the errors"), "{}", finding.message);
}

#[test]
fn a_limit_on_connections_lets_calls_wait_and_trips_all_the_same() {
    let plan = planned(json!({"limits": {"perClient": {"connections": 1}}}), 1);
    let finding = first(&plan, &evidence(&[(0, vec![reading(2, 8, &[(CONNECTIONS, 5)])])]));
    assert_eq!(finding.result, LimitResult::Tripped);
    assert!(finding.message.contains("none is refused by it"), "{}", finding.message);
}

fn failing_plan() -> Plan {
    planned(
        json!({
            "ejection": {"consecutive5xx": 2, "maxPercent": 50, "baseTime": "5s", "interval": "1s"},
            "retries": {"attempts": 2, "statusCodes": [503]}, "timeouts": {"request": "1s"},
        }),
        2,
    )
}

/// What is said of a line, by its path.
fn said(plan: &Plan, evidence: &Evidence, path: &str) -> (LimitResult, Cause) {
    let at = plan.lines.iter().position(|line| line.path == path).unwrap();
    let finding = judge(plan, evidence).remove(at);
    (finding.result, finding.cause)
}

/// All lines read the same.
fn all_read(plan: &Plan, readings: &[Reading]) -> Evidence {
    evidence(&(0..plan.lines.len()).map(|line| (line, readings.to_vec())).collect::<Vec<_>>())
}

#[test]
fn ejection_is_told_by_the_proxys_counters_and_return_by_its_gauge() {
    let plan = failing_plan();
    let (detector, base) = ("ejection.consecutive5xx", "ejection.baseTime");
    let mut ejected = failing(4, 500, &[(EJECTED, 1), (EJECTED_5XX, 1)]);
    assert_eq!(said(&plan, &all_read(&plan, &[ejected.clone()]), base).1, Cause::NotSeen);
    ejected.back_after_ms = Some(5_400);
    let seen = all_read(&plan, &[ejected]);
    assert_eq!(said(&plan, &seen, detector).0, LimitResult::Tripped);
    assert_eq!(said(&plan, &seen, base).0, LimitResult::Tripped);
    let other = all_read(&plan, &[failing(4, 503, &[(EJECTED, 1)])]);
    assert_eq!(said(&plan, &other, detector), (LimitResult::NotTried, Cause::AnotherLimitFirst));
    let kept = all_read(&plan, &[failing(4, 500, &[(super::counters::NOT_EJECTED, 1)])]);
    assert_eq!(said(&plan, &kept, detector), (LimitResult::NotTripped, Cause::NoneEjectable));
    for (status, expected) in [(200, Cause::WrongPath), (404, Cause::WrongPath), (500, Cause::NotSeen)] {
        let seen = all_read(&plan, &[failing(4, status, &[])]);
        assert_eq!(said(&plan, &seen, detector).1, expected, "{status}");
    }
}

#[test]
fn retries_are_counted_call_by_call() {
    let plan = failing_plan();
    for (status, tries, expected) in [
        (503, 2, (LimitResult::Tripped, Cause::AsConfigured)),
        (503, 1, (LimitResult::NotTripped, Cause::NotSeen)),
        (503, 3, (LimitResult::NotTripped, Cause::TooEarly)),
        (500, 0, (LimitResult::NotTried, Cause::WrongPath)),
        (200, 0, (LimitResult::NotTried, Cause::WrongPath)),
    ] {
        let seen = all_read(&plan, &[failing(1, status, &[(RETRY, tries)])]);
        assert_eq!(said(&plan, &seen, "retries.attempts"), expected, "{status}, {tries}");
    }
}

#[test]
fn a_call_that_is_not_late_proves_nothing_and_one_that_is_late_and_answered_does() {
    let plan = failing_plan();
    let slow = |status, longest_ms, counted| Reading { longest_ms, ..failing(1, status, &[(TIMEOUT, counted)]) };
    for (reading, expected) in [
        (slow(504, 1_001, 1), (LimitResult::Tripped, Cause::AsConfigured)),
        (slow(200, 400, 0), (LimitResult::NotTried, Cause::WrongPath)),
        (slow(200, 3_000, 0), (LimitResult::NotTripped, Cause::NotSeen)),
    ] {
        assert_eq!(said(&plan, &all_read(&plan, &[reading]), "timeouts.request"), expected);
    }
}

#[test]
fn a_run_that_was_stopped_concludes_nothing_and_says_so_of_what_was_left() {
    let plan = failing_plan();
    let message = "its 5 s were over (--duration)".to_owned();
    let seen = Evidence { stopped: Some(Stopped { guard: Guard::Deadline, message }), ..evidence(&[]) };
    let report = Report::new(("shop", "a", "hash"), "shop", &plan, &seen);
    assert_eq!(report.result, Conclusion::Stopped);
    assert!(report.limits.iter().all(|limit| limit.finding.cause == Cause::Stopped));
    assert!(report.conclusion().is_none());
}

#[test]
fn one_limit_that_did_not_trip_fails_the_whole_and_untried_ones_do_not() {
    let none = Asked { fail_path: None, ..asked() };
    let spec = json!({"limits": {"perClient": {"activeRequests": 2}}, "ejection": {"consecutive5xx": 2}});
    let plan = planned_as(spec, 2, &none);
    let report = |readings| Report::new(("shop", "a", "hash"), "shop", &plan, &evidence(&[(0, readings)]));
    let passed = report(vec![reading(2, 8, &[]), reading(3, 12, &[(ACTIVE, 4)])]);
    assert_eq!(passed.result, Conclusion::Passed);
    assert_eq!((passed.count(LimitResult::Tripped), passed.count(LimitResult::NotTried)), (1, 2));
    assert_eq!(passed.calls, 23);
    assert_eq!(report(vec![reading(2, 8, &[]), reading(3, 12, &[])]).result, Conclusion::Failed);
    let nothing = planned_as(json!({"timeouts": {"connect": "1s"}}), 2, &none);
    let report = Report::new(("shop", "a", "hash"), "shop", &nothing, &evidence(&[]));
    assert_eq!(report.result, Conclusion::NothingTried);
    assert!(report.conclusion().is_none());
}

#[test]
fn junit_has_a_case_a_limit_and_holds_any_text() {
    let none = Asked { fail_path: None, ..asked() };
    let spec = json!({"limits": {"perClient": {"activeRequests": 2}}, "ejection": {"consecutive5xx": 2}});
    let plan = planned_as(spec, 2, &none);
    let mut seen = evidence(&[(0, vec![reading(2, 8, &[]), reading(3, 12, &[])])]);
    seen.stopped = Some(Stopped { guard: Guard::Failed, message: "a < b & \"c\" \u{1b}".to_owned() });
    let xml = Report::new(("shop", "a", "hash"), "shop", &plan, &seen).junit();
    assert!(xml.contains("tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"2\""), "{xml}");
    assert!(xml.contains("<failure type=\"NotSeen\""), "{xml}");
    assert!(xml.contains("<error message=\"a &lt; b &amp; &quot;c&quot;  \"/>"), "{xml}");
}

#[test]
fn the_sign_of_a_server_is_another_one_than_that_of_a_client() {
    let Step::Drive(Act::Callers { sign, .. }) = step(&behind_a_server(), SERVER_LIMIT).clone() else { panic!() };
    assert_eq!(sign, Sign::RefusedBehind);
}
