//! What a client's own proxy counts of what it does to calls: limits, timeouts, retries.

use super::super::{
    Cause, Class, Evidence, Kind,
    calls::{Call, Calls},
    counted::Signal,
    judge::{Counted, Found},
};

/// What makes a sidecar count what limits refuse (M8).
pub(super) const COUNT_IT: &str = "sidecar.istio.io/statsInclusionPrefixes: cluster.outbound,cluster.inbound";

/// Calls above a limit, which the client's own proxy answers with 503 and the flag UO.
pub(super) fn limits(calls: &Calls<'_>) -> Found {
    // By the rule whose limit it is.
    let mut rules: Vec<Option<String>> = calls.made.iter().map(Call::rule).collect();
    rules.sort();
    rules.dedup();
    let mut found = Found::default();
    for rule in rules {
        let mut counted = Counted::default();
        let mut limits = Vec::new();
        for call in calls.made.iter().filter(|call| call.rule() == rule) {
            let before = counted.evidence.len();
            counted.take(call.tally.count(Signal::Overflow), |count| call.counted(count, "calls refused by a limit"));
            if counted.evidence.len() > before {
                limits.extend(limits_of(call));
            }
        }
        limits.sort();
        limits.dedup();
        found.causes.extend(limit(calls, rule.as_deref(), &limits, counted));
    }
    if found.causes.is_empty() && !calls.made.is_empty() {
        found = found.and(Found::nothing("limits of clients", "their proxies refused nothing"));
    }
    found
}

fn limit(calls: &Calls<'_>, rule: Option<&str>, limits: &[String], mut counted: Counted) -> Option<Cause> {
    let which = if limits.is_empty() { "a limit".to_owned() } else { limits.join(" and ") };
    let whose = rule.unwrap_or("the mesh's default");
    let (policy, others) = (calls.policy(), rule.is_some_and(|rule| !calls.is_the_policys(rule)));
    if let (Some(policy), Some(rule), true) = (&policy, rule, others) {
        let says = format!("counts for these clients, and not what {policy} says");
        counted.evidence.push(Evidence::fact(rule, says));
        let summary = format!("{rule}, which counts instead of {policy}, lets each client have {which}");
        let next = vec![
            format!("see why it counts: {}", explain(calls)),
            format!("delete {rule}, share it (coexistence: Merge), or raise its trafficPolicy.connectionPool"),
        ];
        return counted.cause(Kind::OtherRule, summary, next);
    }
    let summary = format!("clients ask for more than their own proxies let through: {which}, of {whose}");
    let next = match policy {
        Some(policy) => vec![
            format!("raise limits.perClient of {policy}, or run more clients: each has a limit of its own"),
            format!("watch it: kubectl resilience top {} -n {}", calls.seen.target.name, calls.seen.target.namespace),
        ],
        None => vec![format!("raise trafficPolicy.connectionPool of {whose}, or run more clients")],
    };
    counted.cause(Kind::ClientLimit, summary, next)
}

/// The limits that refuse, by the policy's words.
fn limits_of(call: &Call<'_>) -> Vec<String> {
    let words = [("max_requests", "activeRequests"), ("max_pending_requests", "pendingRequests")];
    let limits = words.into_iter().filter_map(|(limit, word)| Some((call.cluster.limits.get(limit)?, word)));
    limits.map(|(number, word)| format!("{number} {word}")).collect()
}

pub(super) fn explain(calls: &Calls<'_>) -> String {
    format!("kubectl resilience explain svc/{} -n {}", calls.seen.target.name, calls.seen.target.namespace)
}

/// Calls and tries that were not answered in time: 504, with the flag UT.
pub(super) fn timeouts(calls: &Calls<'_>) -> Found {
    let mut counted = Counted::default();
    for call in &calls.made {
        counted.take(call.tally.count(Signal::Timeout), |count| call.counted(count, "calls or tries cut off (504)"));
    }
    let mut routes: Vec<(String, String)> =
        calls.routes().filter_map(|(_, route)| Some((route.whose(), route.timeout.clone()?))).collect();
    routes.sort();
    routes.dedup();
    let whose = routes.iter().map(|(whose, timeout)| format!("{timeout} of {whose}")).collect::<Vec<_>>().join(", ");
    let whose = if whose.is_empty() { "the time for a try".to_owned() } else { whose };
    let summary = format!("the servers do not answer in the time that clients' proxies give them: {whose}");
    let policy = calls.policy().map_or_else(
        || "the VirtualService's timeout".to_owned(),
        |policy| format!("timeouts.request, or retries.perTryTimeout, of {policy}"),
    );
    let next = vec![
        "find what is slow: the servers' own latency, or calls that wait for a connection (top, column PENDING)"
            .to_owned(),
        format!("if the answer may take so long: raise {policy}"),
    ];
    match counted.cause(Kind::Timeout, summary, next) {
        Some(cause) => Found::cause(cause),
        None if calls.made.is_empty() => Found::default(),
        None if calls.is_counted(Signal::Timeout) => Found::nothing("timeouts", "no call was cut off"),
        None => Found::default(),
    }
}

/// Tries after the first: a storm where they are at least as many as the calls themselves, so that the load is doubled.
pub(super) fn retries(calls: &Calls<'_>) -> Found {
    if calls.made.is_empty() {
        return Found::default();
    }
    if !calls.is_counted(Signal::Retry) {
        let says = format!("retries: not every client's proxy counts them; annotate the clients' pods with {COUNT_IT}");
        return Found { not_seen: vec![says], ..Found::default() };
    }
    let of = |signal: Signal| -> u64 {
        let counts = calls.made.iter().filter_map(|call| call.tally.count(signal));
        counts.map(|count| if calls.has_now() { count.moved() } else { count.total }).sum()
    };
    let (sent, again) = (of(Signal::Sent), of(Signal::Retry));
    let asked = sent.saturating_sub(again);
    // Each call but one was made at least twice.
    if again == 0 || again < asked {
        return Found::nothing("retries", format!("{again} of {sent} tries were repeated ones"));
    }
    let mut counted = Counted::default();
    for call in &calls.made {
        counted.take(call.tally.count(Signal::Retry), |count| call.counted(count, "tries after the first"));
    }
    for call in &calls.made {
        for (signal, says) in [
            (Signal::RetryLimit, "calls failed after all their tries"),
            (Signal::RetryOverflow, "retries not made: too many were under way"),
        ] {
            let count = call
                .tally
                .count(signal)
                .filter(|count| if calls.has_now() { count.moved() > 0 } else { count.total > 0 });
            counted.evidence.extend(count.map(|count| call.counted(&count, says)));
        }
    }
    for (_, route) in calls.routes().filter(|(_, route)| route.retries > 0) {
        let fact = Evidence::fact(route.whose(), format!("tries each call up to {} times more", route.retries));
        if !counted.evidence.contains(&fact) {
            counted.evidence.push(fact);
        }
    }
    let summary = format!("retries multiply the load: {sent} tries were sent for {asked} calls");
    let whose = calls.policy().unwrap_or_else(|| "the VirtualService".to_owned());
    let next = vec![
        format!("stop the multiplication first: retries.attempts: 0 in {whose}, or a retries.budget"),
        "then look at what fails without them: the causes below".to_owned(),
    ];
    counted.cause(Kind::RetryStorm, summary, next).map_or_else(Found::default, |cause| {
        // One that is over is none.
        if cause.class == Class::SeenBefore && calls.has_now() { Found::default() } else { Found::cause(cause) }
    })
}
