//! From what was seen to what is said of each limit.

use std::fmt::Write as _;

use super::{
    Act, Cause, Evidence, Finding, HeldBy, Line, Plan, Proxy, Reading, Sign, Step,
    counters::{
        ACTIVE, CALLS, CONNECTIONS, EJECTED, EJECTED_5XX, EJECTED_GATEWAY, NOT_EJECTED, PENDING, PER_TRY_TIMEOUT,
        RETRIES, RETRY, RETRY_SUCCESS, SPENT, TIMEOUT,
    },
};
use crate::api::Duration;

/// What is said of each line of the plan, in its order.
#[must_use]
pub fn judge(plan: &Plan, evidence: &Evidence) -> Vec<Finding> {
    let past_by = evidence.calm.as_ref().is_some_and(|calm| calm.calls > 0 && calm.counted(CALLS) == 0);
    let lines = plan.lines.iter().enumerate().map(|(number, line)| {
        if let Some(finding) = withheld(plan, line, evidence.proxy.as_ref()) {
            return finding;
        }
        let act = match &line.step {
            Step::Settled(finding) => return finding.clone(),
            Step::Drive(act) => act,
        };
        if past_by {
            return Finding::not_tripped(
                Cause::NotThroughSidecar,
                "the caller's proxy counted none of its calls: the traffic goes past its sidecar",
            );
        }
        match evidence.readings.get(&number).map(Vec::as_slice) {
            Some(readings) if !readings.is_empty() => seen(plan, line, act, readings, evidence),
            _ => {
                let why = evidence.stopped.as_ref().map_or("the run ended before", |stopped| &stopped.message);
                Finding::not_tried(Cause::Stopped, why)
            }
        }
    });
    lines.collect()
}

/// What is known of a line before anything is sent for it, from what the caller's proxy holds.
#[must_use]
pub fn withheld(plan: &Plan, line: &Line, proxy: Option<&Proxy>) -> Option<Finding> {
    let Some(proxy) = proxy else {
        return Some(Finding::not_tripped(
            Cause::NoSidecar,
            "the traffic goes through no sidecar: the caller's pod has no proxy, and what no proxy carries no limit stops; nothing was sent (--from names a namespace whose pods get one)",
        ));
    };
    if !proxy.knows_target {
        return Some(Finding::not_tripped(
            Cause::NotThroughSidecar,
            format!(
                "the caller's proxy has no cluster for {}, port {}: the traffic would go past its limits; nothing was sent for it (a Sidecar or an exportTo hides the host)",
                plan.host, plan.asked.port
            ),
        ));
    }
    let (kind, ours, theirs, cause) = match line.held_by {
        HeldBy::Rule => ("DestinationRule", &plan.rule, &proxy.rule, Cause::AnotherRule),
        HeldBy::Routes => ("VirtualService", &plan.routes, &proxy.routes, Cause::AnotherRoute),
        HeldBy::Server => return None,
    };
    if ours.is_some() && ours == theirs {
        return None;
    }
    let has = match theirs {
        Some(theirs) => format!("{kind} {theirs}"),
        None => format!("no {kind}"),
    };
    let not = match ours {
        Some(ours) => format!("not that of the policy, {ours}"),
        None => "the policy generates none for it".to_owned(),
    };
    Some(Finding::not_tripped(
        cause,
        format!("the caller's proxy has {has} for the target, {not}: another object won; nothing was sent for it"),
    ))
}

fn seen(plan: &Plan, line: &Line, act: &Act, readings: &[Reading], evidence: &Evidence) -> Finding {
    match act {
        Act::Callers { sign, within, .. } => callers(plan, line, sign, *within, readings, evidence),
        Act::Calm { calls, .. } => {
            let spent: u64 = readings.iter().map(|reading| reading.counted(SPENT)).sum();
            if spent > 0 {
                Finding::tripped(format!(
                    "of {calls} calls one after another, {spent} time(s) a connection was closed for having carried its number"
                ))
            } else {
                Finding::not_tripped(
                    Cause::NotSeen,
                    format!(
                        "{calls} calls one after another, and no connection was closed for having carried its number"
                    ),
                )
            }
        }
        Act::Fail { .. } => ejection(line, readings, evidence),
        Act::Repeat { on, .. } => repeated(line, on, readings),
        Act::Slow { .. } => slow(line, readings),
    }
}

/// A threshold by its name in Envoy, and what its counter counts.
fn words(counter: &str) -> (&'static str, &'static str) {
    match counter {
        ACTIVE => ("max_requests", "were refused by the caller's own proxy"),
        PENDING => ("max_pending_requests", "were refused by the caller's own proxy"),
        CONNECTIONS => ("max_connections", "times a call waited for a connection, and none is refused by it"),
        RETRIES => ("max_retries", "times a call was not tried again, since too many were"),
        _ => ("", "were counted"),
    }
}

fn callers(
    plan: &Plan,
    line: &Line,
    sign: &Sign,
    within: Option<u32>,
    readings: &[Reading],
    evidence: &Evidence,
) -> Finding {
    let count = |reading: &Reading| match sign {
        Sign::Counter(counter) | Sign::WhileConnecting(counter) => reading.counted(counter),
        Sign::RefusedBehind => reading.answers.refused_behind,
    };
    let (calm, past): (Vec<&Reading>, Vec<&Reading>) =
        readings.iter().partition(|reading| within.is_some_and(|within| reading.callers <= within));
    let (threshold, meaning) = match sign {
        Sign::Counter(counter) | Sign::WhileConnecting(counter) => words(counter),
        Sign::RefusedBehind => ("", "were refused by the server's own proxy, and none by the caller's"),
    };
    if let Some(early) = calm.iter().find(|reading| count(reading) > 0) {
        return Finding::not_tripped(
            Cause::TooEarly,
            format!(
                "with {} calls at a time, which is within it, {} of {} {meaning}{}",
                early.callers,
                count(early),
                early.calls,
                another_number(line, threshold, evidence.proxy.as_ref())
            ),
        );
    }
    let own = |reading: &Reading| reading.counted(ACTIVE) + reading.counted(PENDING);
    let holds = |reading: &Reading| count(reading) > 0 && (*sign != Sign::RefusedBehind || own(reading) == 0);
    let tripped: Vec<&Reading> = past.iter().copied().filter(|reading| holds(reading)).collect();
    if let Some(first) = tripped.first() {
        let mut message = match calm.iter().map(|reading| reading.calls).sum::<u64>() {
            0 => String::new(),
            calls => format!("none of {calls} calls with {} at a time; ", within.unwrap_or_default()),
        };
        let _ =
            write!(message, "with {} at a time, of {} calls {} {meaning}", first.callers, first.calls, count(first));
        if let Some(again) = tripped.get(1) {
            let _ = write!(message, "; once more, {} of {}", count(again), again.calls);
        }
        let behind: u64 = past.iter().map(|reading| reading.answers.refused_behind).sum();
        if behind > 0 && *sign != Sign::RefusedBehind {
            let _ = write!(message, "; {behind} others were refused by the server's own proxy");
        }
        return Finding::tripped(message);
    }
    not_tripped(plan, line, sign, &past, threshold, evidence)
}

/// Why nothing was seen past a limit.
fn not_tripped(
    plan: &Plan,
    line: &Line,
    sign: &Sign,
    past: &[&Reading],
    threshold: &str,
    evidence: &Evidence,
) -> Finding {
    let all = |of: &dyn Fn(&Reading) -> u64| past.iter().map(|reading| of(reading)).sum::<u64>();
    let most = past.iter().map(|reading| reading.callers).max().unwrap_or(0);
    let (again, well) = (all(&|reading| reading.counted(RETRY)), all(&|reading| reading.counted(RETRY_SUCCESS)));
    let behind = all(&|reading| reading.answers.refused_behind);
    if *sign == Sign::RefusedBehind {
        let own = all(&|reading| reading.counted(ACTIVE) + reading.counted(PENDING));
        if behind > 0 && own > 0 {
            return Finding::not_tripped(
                Cause::AnotherLimitFirst,
                format!("the caller's own proxy refused {own} calls as well: which side was first is not known"),
            );
        }
        if again > 0 {
            let routes = evidence.proxy.as_ref().and_then(|proxy| proxy.routes.clone());
            let whose = match routes {
                Some(routes) if Some(&routes) == plan.routes.as_ref() => {
                    format!("VirtualService {routes}, the policy's own")
                }
                Some(routes) => format!("VirtualService {routes}"),
                None => "Istio's default".to_owned(),
            };
            return Finding::not_tripped(
                Cause::HiddenByRetries,
                format!(
                    "with up to {most} calls at a time no caller was refused: the retries of {whose} hid the errors, {again} tries again of which {well} went well"
                ),
            );
        }
    } else if behind > 0 {
        return Finding::not_tripped(
            Cause::AnotherLimitFirst,
            format!(
                "with up to {most} calls at a time the caller's own proxy refused none: the server's own refused {behind} first (limits.perServer says what a server takes)"
            ),
        );
    }
    let other = another_number(line, threshold, evidence.proxy.as_ref());
    if matches!(sign, Sign::WhileConnecting(_)) && other.is_empty() {
        return Finding::not_tried(
            Cause::NotByCalls,
            format!(
                "with up to {most} calls at a time not one too many waited: without a limit of connections that holds before, a call waits only while a connection is made for it, and those were made too fast to show it"
            ),
        );
    }
    let hint = if other.is_empty() {
        "; answers may come too fast for so many to be under way: try a slower --path"
    } else {
        ""
    };
    Finding::not_tripped(
        Cause::NotSeen,
        format!("with up to {most} calls at a time nothing of it was seen{other}{hint}"),
    )
}

/// What the caller's proxy has instead.
fn another_number(line: &Line, threshold: &str, proxy: Option<&Proxy>) -> String {
    let Some(proxy) = proxy.filter(|_| !threshold.is_empty()) else { return String::new() };
    match proxy.thresholds.get(threshold) {
        Some(has) if has.to_string() == line.value => String::new(),
        Some(has) => format!("; the caller's proxy has {has}, not {}", line.value),
        None => format!("; the caller's proxy has no such limit, not {}", line.value),
    }
}

fn ejection(line: &Line, readings: &[Reading], evidence: &Evidence) -> Finding {
    let all = |counter: &str| readings.iter().map(|reading| reading.counted(counter)).sum::<u64>();
    let calls: u64 = readings.iter().map(|reading| reading.calls).sum();
    let (ejected, kept) = (all(EJECTED), all(NOT_EJECTED));
    let worst = readings.iter().find_map(|reading| reading.answers.worst());
    if ejected == 0 {
        return match worst {
            _ if kept > 0 => Finding::not_tripped(
                Cause::NoneEjectable,
                format!(
                    "after {calls} failing calls an endpoint would have been ejected {kept} time(s), and maxPercent of so few endpoints lets none go"
                ),
            ),
            None if all(RETRY) > 0 => Finding::not_tripped(
                Cause::HiddenByRetries,
                format!("{calls} calls on the failing path were answered well: retries hid the errors"),
            ),
            None => Finding::not_tried(Cause::WrongPath, format!("none of {calls} calls on the path failed: it must")),
            Some(status) if status < 500 => {
                Finding::not_tried(Cause::WrongPath, format!("the path answers {status}: it takes 500 to 599"))
            }
            Some(status) if line.path.ends_with("Gateway") && !(502..=504).contains(&status) => {
                Finding::not_tried(Cause::WrongPath, format!("the path answers {status}: it takes 502, 503 or 504"))
            }
            Some(status) => Finding::not_tripped(
                Cause::NotSeen,
                format!("{calls} calls answered {status}, and no endpoint was ejected"),
            ),
        };
    }
    if line.path == "ejection.baseTime" {
        return match readings.iter().find_map(|reading| reading.back_after_ms) {
            Some(millis) => Finding::tripped(format!(
                "the endpoint came back after {}.{} s, of which up to one interval is the sweep",
                millis / 1_000,
                millis % 1_000 / 100
            )),
            None if evidence.stopped.is_some() => {
                Finding::not_tried(Cause::Stopped, "the run was stopped before the endpoint could come back")
            }
            None => Finding::not_tripped(Cause::NotSeen, "the endpoint did not come back in time"),
        };
    }
    let own = all(if line.path.ends_with("Gateway") { EJECTED_GATEWAY } else { EJECTED_5XX });
    if own > 0 {
        let after = if calls == 0 { "the calls before".to_owned() } else { format!("{calls} failing calls") };
        return Finding::tripped(format!("after {after} {own} endpoint(s) were ejected"));
    }
    Finding::not_tried(
        Cause::AnotherLimitFirst,
        format!("another detector of the policy came first: {ejected} endpoint(s) were ejected by it"),
    )
}

fn repeated(line: &Line, on: &[u16], readings: &[Reading]) -> Finding {
    let tries: Vec<u64> = readings.iter().map(|reading| reading.counted(RETRY)).collect();
    let most = tries.iter().max().copied().unwrap_or(0);
    let told = tries.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let Some(status) = readings.iter().find_map(|reading| reading.answers.worst()) else {
        return Finding::not_tried(Cause::WrongPath, "no call on the path failed: it must, at every endpoint");
    };
    let wanted: u64 = line.value.parse().unwrap_or(0);
    if most > wanted {
        let message = format!("calls answered {status} were tried again {told} times, more than {wanted}");
        return Finding::not_tripped(Cause::TooEarly, message);
    }
    if wanted == 0 {
        return Finding::tripped(format!("{} calls answered {status} were not tried again", readings.len()));
    }
    if !on.contains(&status) {
        let message = format!(
            "the path answers {status}, for which the policy tries nothing again: it takes one for which it does"
        );
        return Finding::not_tried(Cause::WrongPath, message);
    }
    if most == wanted {
        return Finding::tripped(format!("single calls answered {status} were tried again {told} times"));
    }
    let limited: u64 = readings.iter().map(|reading| reading.counted(RETRIES)).sum();
    let why = if limited > 0 { "; the limit or the budget of retries kept some from being made" } else { "" };
    Finding::not_tripped(
        Cause::NotSeen,
        format!("single calls answered {status} were tried again {told} times, never {wanted}{why}"),
    )
}

fn slow(line: &Line, readings: &[Reading]) -> Finding {
    let longest = readings.iter().map(|reading| reading.longest_ms).max().unwrap_or(0);
    let counter = if line.path == "retries.perTryTimeout" { PER_TRY_TIMEOUT } else { TIMEOUT };
    let cut: u64 = readings.iter().map(|reading| reading.counted(counter)).sum();
    if cut > 0 {
        return Finding::tripped(format!(
            "the call on the slow path was cut off by the caller's own proxy after {longest} ms"
        ));
    }
    let value = Duration::new(line.value.clone()).as_millis().unwrap_or_default();
    if longest < value {
        let message = format!("the slow path answers within {longest} ms: it takes one that takes longer");
        return Finding::not_tried(Cause::WrongPath, message);
    }
    Finding::not_tripped(Cause::NotSeen, format!("the call on the slow path took {longest} ms, and was not cut off"))
}
