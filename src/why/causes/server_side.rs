//! What the servers' own proxies count, and what clients' proxies count of what came from there.

use super::{
    super::{
        Class, Kind,
        calls::{Calls, Served},
        counted::Signal,
        judge::{Counted, Found},
    },
    client_side::COUNT_IT,
    configuration::mismatch,
};

/// Calls above a limit of a server's own proxy, which their clients get as any other 503 of an endpoint.
pub(super) fn limits(calls: &Calls<'_>) -> Found {
    if calls.served.is_empty() {
        let says = "the servers' own proxies: none was read, so whether they or the application refuse is not known";
        return Found { not_seen: vec![says.to_owned()], ..Found::default() };
    }
    let mut counted = Counted::default();
    let mut limits = Vec::new();
    for served in &calls.served {
        let before = counted.evidence.len();
        counted.take(served.tally.count(Signal::Overflow), |count| {
            served.counted(count, format!("calls refused by a limit for port {}", served.port))
        });
        if counted.evidence.len() > before {
            let words = [("max_requests", "activeRequests"), ("max_pending_requests", "pendingRequests")];
            let set = words.into_iter().filter_map(|(limit, word)| Some((served.cluster.limits.get(limit)?, word)));
            limits.extend(set.map(|(number, word)| format!("{number} {word}")));
        }
    }
    limits.sort();
    limits.dedup();
    let which = if limits.is_empty() { "a limit".to_owned() } else { limits.join(" and ") };
    let summary = format!("all clients together ask for more than each server's own proxy takes: {which}");
    let policy = calls.policy();
    let target = &calls.seen.target;
    let next = match &policy {
        Some(policy) => format!(
            "raise limits.perServer of {policy}, or run more servers; if it says nothing of perServer, its limits.perClient limit the servers as well (RES010): state limits.perServer: {{mode: Unlimited}}"
        ),
        None => format!(
            "raise connectionPool of the DestinationRule, which limits servers too, or inboundConnectionPool of the Sidecar of the pods of {}",
            target.whole()
        ),
    };
    match counted.cause(Kind::ServerLimit, summary, vec![next]) {
        Some(cause) => Found::cause(cause),
        None => Found::nothing("limits of servers", "their proxies refused nothing"),
    }
}

/// Connections that do not come about, or end under calls: from clients to servers, and from a server's proxy to the
/// application beside it.
pub(super) fn connections(calls: &Calls<'_>) -> Found {
    let mut found = Found::default();
    let mut counted = Counted::default();
    for call in calls.made.iter().filter(|call| mismatch(calls, call).is_none()) {
        counted.take(call.tally.count(Signal::ConnectFail), |count| {
            call.counted(count, format!("connections to port {} failed (503 UF)", call.target.port))
        });
        counted.take(call.tally.count(Signal::Reset), |count| {
            call.counted(count, "connections ended under a call (503 UC)")
        });
    }
    let target = &calls.seen.target;
    let next = vec![
        format!(
            "does anything listen on targetPort? kubectl get pods,service {} -n {} -o wide",
            target.name, target.namespace
        ),
        "did pods restart or go away under calls? kubectl get events --sort-by=.lastTimestamp".to_owned(),
    ];
    let summary = "clients' proxies get no connection to endpoints, or lose it under a call";
    found.causes.extend(counted.cause(Kind::Connection, summary, next));

    let mut counted = Counted::default();
    for served in &calls.served {
        counted.take(served.tally.count(Signal::ConnectFail), |count| {
            served.counted(count, format!("connections to the application's port {} failed", served.port))
        });
    }
    let ports: Vec<String> = calls.served.iter().map(|served| served.port.to_string()).collect();
    let summary = "the servers' proxies get no connection to the application beside them: nothing listens there";
    let next = vec![format!(
        "is one of {} the port that the application listens on? Compare targetPort of {} with it",
        unique(ports).join(", "),
        target.whole()
    )];
    found.causes.extend(counted.cause(Kind::Connection, summary, next));
    if found.causes.is_empty() && !calls.made.is_empty() {
        let ended = if calls.is_counted(Signal::Reset) {
            "none ended under a call"
        } else {
            "whether any ended under a call is not counted"
        };
        found = found.and(Found::nothing("connections", format!("none failed, and {ended}")));
    }
    found
}

/// Answers with a 5xx that are nobody else's but the application's.
pub(super) fn answers(calls: &Calls<'_>) -> Found {
    let mut counted = Counted::default();
    let mut is_counted = !calls.served.is_empty();
    for served in &calls.served {
        // Its proxy answers so by itself where it refuses, or gets no connection or no answer in time.
        let own = [Signal::Overflow, Signal::ConnectFail, Signal::Timeout];
        let Some(count) = served.tally.answered(&own) else {
            is_counted = false;
            continue;
        };
        let unavailable = served.tally.count(Signal::Unavailable);
        counted.take(Some(count), |count| served.counted(count, says_of(served, unavailable.map(|one| one.moved()))));
    }
    let target = &calls.seen.target;
    let next = vec![format!(
        "it is the application's: kubectl logs -n {} -l {} --all-containers --since=5m",
        target.namespace,
        if target.selector.is_empty() { "LABELS" } else { &target.selector }
    )];
    let summary = format!("the application behind {} answers so itself", target.whole());
    if let Some(cause) = counted.cause(Kind::Application, summary, next) {
        return Found::cause(cause);
    }
    if is_counted {
        return Found::nothing("answers of the application", "none was a 5xx");
    }
    unknown_side(calls)
}

fn says_of(served: &Served<'_>, unavailable: Option<u64>) -> String {
    let port = served.port;
    match unavailable {
        Some(unavailable) if unavailable > 0 => {
            format!("answers with a 5xx from the application on port {port}, in all {unavailable} of 503")
        }
        _ => format!("answers with a 5xx from the application on port {port}"),
    }
}

/// What clients got from the servers' side, where no server's proxy tells whose it is.
fn unknown_side(calls: &Calls<'_>) -> Found {
    let mut counted = Counted::default();
    for call in &calls.made {
        let own = [Signal::Overflow, Signal::NoHealthy, Signal::Timeout, Signal::ConnectFail, Signal::Reset];
        let Some(count) = call.tally.answered(&own) else { continue };
        counted.take(Some(count), |count| {
            call.counted(count, "answers with a 5xx that the client's proxy did not give itself")
        });
    }
    let summary = "a 5xx comes from the servers' side; whether from the application or from its proxy is not known";
    let next = vec![format!(
        "let the servers' proxies count it: annotate their pods with {COUNT_IT}; or look at the servers' logs"
    )];
    match counted.cause(Kind::ServersSide, summary, next) {
        Some(cause) if cause.class == Class::SeenNow || !calls.has_now() => Found::cause(cause),
        _ => Found::default(),
    }
}

fn unique(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words.dedup();
    words
}
