//! From a valid policy to its plan, line by line. What no call can show is settled here.

use super::{
    Cause, Finding, counters,
    plan::{Act, Asked, HeldBy, Line, Plan, Sign, Step},
};
use crate::{
    api::{Duration, Method, RetryOn, ServerMode},
    validate::{Policy, ResolvedRetries, ServerLimits, Valid},
};

/// Between the end of an ejection's time and its being seen: the sweep, and a proxy that is busy.
const SLACK_MS: u64 = 5_000;

/// Most calls in a round on the path that fails.
const MOST_FAILING: u64 = 1_000;

/// The plan for one port of a policy.
#[must_use]
pub fn plan(valid: &Valid, asked: &Asked, rule: Option<String>, routes: Option<String>) -> Plan {
    let policy = valid.of_port(asked.port);
    // Unlimited is no limit that could trip.
    let server = valid.server.as_ref().filter(|server| server.mode == ServerMode::Limited);
    let planner = Planner { policy, server, endpoints: valid.endpoints, asked };
    let mut lines = Vec::new();
    planner.client(&mut lines);
    // What needs few callers comes first: nobody is driven harder than it takes.
    lines.sort_by_key(|line| match &line.step {
        Step::Drive(Act::Callers { past, .. }) => past.first().copied().unwrap_or(0),
        _ => 0,
    });
    planner.server(&mut lines);
    planner.times(&mut lines);
    planner.retries(&mut lines);
    let mut ejection = Vec::new();
    planner.ejection(&mut ejection);
    // First, so that no other failing call has ejected already; but what would not be back in time comes last.
    let is_back = |line: &Line| matches!(&line.step, Step::Drive(Act::Fail { back_within_ms: Some(_), .. }));
    let at = if ejection.iter().any(is_back) { 0 } else { lines.len() };
    lines.splice(at..at, ejection);
    Plan { host: valid.host.clone(), asked: asked.clone(), rule, routes, lines }
}

/// Statuses for which a call is tried again.
fn tried_again(retries: &ResolvedRetries) -> Vec<u16> {
    let mut on = retries.status_codes.clone();
    for condition in &retries.retry_on {
        match condition {
            RetryOn::Http5xx => on.extend(500..=599),
            RetryOn::GatewayError => on.extend(502..=504),
            RetryOn::Retriable4xx => on.push(409),
            // Of connections, or of gRPC, which answers 200.
            _ => {}
        }
    }
    on
}

struct Planner<'a> {
    policy: &'a Policy,
    server: Option<&'a ServerLimits>,
    endpoints: Option<u32>,
    asked: &'a Asked,
}

fn line(path: &str, value: &(impl ToString + ?Sized), held_by: HeldBy, step: Step) -> Line {
    Line { path: path.to_owned(), value: value.to_string(), held_by, step }
}

fn not_tried(cause: Cause, message: impl Into<String>) -> Step {
    Step::Settled(Finding::not_tried(cause, message))
}

fn not_tripped(cause: Cause, message: impl Into<String>) -> Step {
    Step::Settled(Finding::not_tripped(cause, message))
}

fn number(value: Option<i32>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

impl Planner<'_> {
    /// Connections that the caller's proxy may have at a time: it opens one for each endpoint in any case
    /// (measured M76; the caller's proxy has one thread).
    fn connections(&self) -> Option<u32> {
        let limit = number(self.policy.limits.connections)?;
        Some(limit.saturating_add(self.endpoints.unwrap_or(1).saturating_sub(1)))
    }

    /// Calls that one client can have under way.
    fn client_most(&self) -> Option<u32> {
        let active = number(self.policy.limits.active_requests);
        let connections = if self.asked.http2 { None } else { self.connections() };
        active.into_iter().chain(connections).min()
    }

    /// Callers that are needed to go past `limit` calls at a time.
    fn past(&self, limit: u32) -> Result<Vec<u32>, Step> {
        let cap = self.asked.caps.callers;
        if limit >= cap {
            return Err(not_tripped(
                Cause::AboveCap,
                format!(
                    "it takes more than {limit} calls at a time, and at most {cap} are made: the limit is higher than what the cap can reach; nothing was sent for it (--max-callers)"
                ),
            ));
        }
        let steps = [
            limit.saturating_add((limit / 4).max(1)),
            limit.saturating_mul(2).saturating_add(1),
            limit.saturating_mul(4).saturating_add(2),
        ];
        let mut past: Vec<u32> = steps.into_iter().map(|step| step.min(cap)).collect();
        past.dedup();
        Ok(past)
    }

    fn callers(&self, limit: u32, within: Option<u32>, sign: Sign) -> Step {
        match self.past(limit) {
            Ok(past) => Step::Drive(Act::Callers { sign, within, past, failing: false }),
            Err(settled) => settled,
        }
    }

    fn client(&self, lines: &mut Vec<Line>) {
        let limits = &self.policy.limits;
        let http2 = self.asked.http2;
        let (active, connections) = (number(limits.active_requests), self.connections());
        let counter = |name: &str| Sign::Counter(name.to_owned());
        if let Some(value) = number(limits.requests_per_connection) {
            let calls = value.saturating_add(1);
            let most = self.calls_of_one();
            let step = if calls > most {
                not_tripped(
                    Cause::AboveCap,
                    format!(
                        "it takes {calls} calls one after another, and at most {most} can be made: the limit is higher than what the caps can reach; nothing was sent for it (--max-rate, --duration)"
                    ),
                )
            } else {
                // Twice, so that a connection that was there before does not matter.
                Step::Drive(Act::Calm { calls: (2 * calls).min(most), counter: counters::SPENT.to_owned() })
            };
            lines.push(line("limits.perClient.requestsPerConnection", &value, HeldBy::Rule, step));
        }
        if let (Some(value), Some(most)) = (number(limits.connections), connections) {
            let step = match active {
                _ if http2 => not_tried(Cause::NotByCalls, "over HTTP/2 all calls share a connection"),
                Some(active) if active < most => not_tripped(
                    Cause::AnotherLimitFirst,
                    format!("limits.perClient.activeRequests {active} refuses before so many connections are needed"),
                ),
                _ => self.callers(most, None, counter(counters::CONNECTIONS)),
            };
            lines.push(line("limits.perClient.connections", &value, HeldBy::Rule, step));
        }
        if let Some(value) = number(limits.pending_requests) {
            let step = match (connections, active) {
                _ if http2 => {
                    not_tried(Cause::NotByCalls, "over HTTP/2 calls wait only until the first connection stands")
                }
                (Some(most), None) => self.callers(most.saturating_add(value), None, counter(counters::PENDING)),
                (Some(most), Some(active)) if active >= most => {
                    self.callers(most.saturating_add(value), None, counter(counters::PENDING))
                }
                // Calls wait while a connection is made for them: many new callers at once do.
                _ => self.callers(value, None, Sign::WhileConnecting(counters::PENDING.to_owned())),
            };
            lines.push(line("limits.perClient.pendingRequests", &value, HeldBy::Rule, step));
        }
        if let Some(value) = active {
            let step = match connections {
                Some(most) if !http2 && most <= value => not_tripped(
                    Cause::AnotherLimitFirst,
                    format!(
                        "limits.perClient.connections lets at most {most} calls be under way over HTTP/1.1: it is never reached"
                    ),
                ),
                _ => self.callers(value, Some(value), counter(counters::ACTIVE)),
            };
            lines.push(line("limits.perClient.activeRequests", &value, HeldBy::Rule, step));
        }
        if let Some(value) = number(limits.concurrent_retries) {
            let retries = self.policy.retries.as_ref().is_some_and(|retries| retries.attempts > 0);
            let step = match (&self.asked.fail_path, retries) {
                (_, false) => not_tried(Cause::NotByCalls, "the policy declares no retries"),
                (None, true) => not_tried(Cause::NoPath, "no path that fails was given (--fail-path)"),
                (Some(_), true) => match self.past(value) {
                    Ok(past) => {
                        let sign = counter(counters::RETRIES);
                        Step::Drive(Act::Callers { sign, within: None, past, failing: true })
                    }
                    Err(settled) => settled,
                },
            };
            lines.push(line("limits.perClient.concurrentRetries", &value, HeldBy::Rule, step));
        }
    }

    /// Calls that one caller may make one after another: half of the time at the highest rate.
    fn calls_of_one(&self) -> u32 {
        let caps = self.asked.caps;
        u32::try_from(u64::from(caps.rate_per_s).saturating_mul(caps.duration_ms) / 2_000).unwrap_or(u32::MAX)
    }

    fn server(&self, lines: &mut Vec<Line>) {
        let Some(server) = self.server else { return };
        let unseen = "what waits in the server's own proxy is not seen by a client";
        let connections = number(server.connections);
        if let Some(value) = connections {
            let step = not_tried(Cause::NotByCalls, unseen);
            lines.push(line("limits.perServer.connections", &value, HeldBy::Server, step));
        }
        if let Some(value) = number(server.pending_requests) {
            let step = match connections {
                Some(most) => self.behind(most.saturating_add(value)),
                None => not_tried(Cause::NotByCalls, "limits.perServer.connections is not set: calls hardly wait"),
            };
            lines.push(line("limits.perServer.pendingRequests", &value, HeldBy::Server, step));
        }
        if let Some(value) = number(server.active_requests) {
            let step = match connections {
                Some(most) if most <= value => not_tripped(
                    Cause::AnotherLimitFirst,
                    format!("limits.perServer.connections lets at most {most} calls be under way: it is never reached"),
                ),
                _ => self.behind(value),
            };
            lines.push(line("limits.perServer.activeRequests", &value, HeldBy::Server, step));
        }
        if let Some(value) = number(server.requests_per_connection) {
            let step = not_tried(Cause::NotByCalls, "the connections to the application are not seen by a client");
            lines.push(line("limits.perServer.requestsPerConnection", &value, HeldBy::Server, step));
        }
    }

    /// Callers until servers that take so many each refuse.
    fn behind(&self, each: u32) -> Step {
        let Some(endpoints) = self.endpoints else {
            return not_tried(Cause::NotByCalls, "the endpoints cannot be counted");
        };
        let all = each.saturating_mul(endpoints.max(1));
        match self.client_most() {
            Some(most) if most <= all => not_tried(
                Cause::OneClientCannot,
                format!(
                    "it takes more than {all} calls at a time to {endpoints} endpoint(s), and this one client keeps within {most} by limits.perClient: it takes several clients"
                ),
            ),
            _ => self.callers(all, None, Sign::RefusedBehind),
        }
    }

    fn times(&self, lines: &mut Vec<Line>) {
        let times = &self.policy.timeouts;
        if let Some(connect) = &times.connect {
            let step = not_tried(Cause::NotByCalls, "no call can make an endpoint unreachable");
            lines.push(line("timeouts.connect", connect.as_str(), HeldBy::Rule, step));
        }
        if let Some(request) = &times.request {
            lines.push(line("timeouts.request", request.as_str(), HeldBy::Routes, self.slow()));
        }
        for (path, time) in [("timeouts.idle", &times.idle), ("timeouts.lifetime", &times.lifetime)] {
            if let Some(time) = time {
                let step = not_tried(Cause::NotByCalls, "it takes a connection that is watched for so long");
                lines.push(line(path, time.as_str(), HeldBy::Rule, step));
            }
        }
    }

    /// One call on the slow path, with more patience than the policy has.
    fn slow(&self) -> Step {
        if self.asked.slow_path.is_none() {
            return not_tried(Cause::NoPath, "no path that answers late was given (--slow-path)");
        }
        let request = self.policy.timeouts.request.as_ref().and_then(Duration::as_millis);
        let tries = self.policy.retries.as_ref().and_then(|retries| {
            let each = retries.per_try_timeout.as_ref()?.as_millis()?;
            Some(each.saturating_mul(u64::from(retries.attempts.unsigned_abs()) + 1))
        });
        let longest = request.or(tries).unwrap_or_default();
        let patience_ms = longest.saturating_add(SLACK_MS);
        if patience_ms > self.asked.caps.duration_ms {
            return not_tried(Cause::NoTime, format!("it takes {patience_ms} ms, more than the run may (--duration)"));
        }
        Step::Drive(Act::Slow { patience_ms })
    }

    fn retries(&self, lines: &mut Vec<Line>) {
        let Some(retries) = &self.policy.retries else { return };
        let step = if self.asked.fail_path.is_some() {
            if retries.attempts > 0 && !retries.methods.is_empty() && !retries.methods.contains(&Method::Get) {
                not_tried(Cause::NotByCalls, "only GET is sent, and retries.methods is without it")
            } else {
                Step::Drive(Act::Repeat { calls: 3, on: tried_again(retries) })
            }
        } else {
            not_tried(Cause::NoPath, "no path that fails was given (--fail-path)")
        };
        lines.push(line("retries.attempts", &retries.attempts, HeldBy::Routes, step));
        if let Some(time) = &retries.per_try_timeout {
            lines.push(line("retries.perTryTimeout", time.as_str(), HeldBy::Routes, self.slow()));
        }
        if let Some(budget) = &retries.budget {
            let step = not_tried(Cause::NotByCalls, "a share of calls under way is not measured");
            lines.push(line("retries.budget.percent", &budget.percent, HeldBy::Rule, step));
        }
    }

    fn ejection(&self, lines: &mut Vec<Line>) {
        let Some(ejection) = &self.policy.ejection else { return };
        let millis = |time: &Duration| time.as_millis().unwrap_or_default();
        let none = ejection.ejectable == Some(0);
        let back_within_ms = millis(&ejection.base_time) + millis(&ejection.interval) + SLACK_MS;
        let too_long = back_within_ms > self.asked.caps.duration_ms;
        let in_a_row = ejection.consecutive_5xx.max(ejection.consecutive_gateway);
        let calls = u64::from(in_a_row) * u64::from(self.endpoints.unwrap_or(1).max(1));
        let step = || {
            if none {
                let endpoints = ejection.endpoints.unwrap_or_default();
                return not_tripped(
                    Cause::NoneEjectable,
                    format!(
                        "maxPercent {} of {endpoints} endpoint(s), rounded down, is none: nothing is ever ejected; nothing was sent for it",
                        ejection.max_percent
                    ),
                );
            }
            if self.asked.fail_path.is_none() {
                return not_tried(Cause::NoPath, "no path that fails was given (--fail-path)");
            }
            if calls > MOST_FAILING {
                let message = format!(
                    "it takes {calls} failing calls, and at most {MOST_FAILING} are made: the limit is higher than what the cap can reach"
                );
                return not_tripped(Cause::AboveCap, message);
            }
            let calls = u32::try_from(calls).unwrap_or(u32::MAX);
            Step::Drive(Act::Fail { calls, back_within_ms: (!too_long).then_some(back_within_ms) })
        };
        for (path, value) in [
            ("ejection.consecutive5xx", ejection.consecutive_5xx),
            ("ejection.consecutiveGateway", ejection.consecutive_gateway),
        ] {
            if value > 0 {
                lines.push(line(path, &value, HeldBy::Rule, step()));
            }
        }
        if let Some(value) = ejection.consecutive_local_origin {
            let step = if none { step() } else { not_tried(Cause::NotByCalls, "no path can make a connection fail") };
            lines.push(line("ejection.consecutiveLocalOrigin", &value, HeldBy::Rule, step));
        }
        if in_a_row > 0 && !none {
            let step = match step() {
                Step::Drive(_) if too_long => {
                    let message = format!("it takes up to {back_within_ms} ms, more than the run may (--duration)");
                    not_tried(Cause::NoTime, message)
                }
                step => step,
            };
            lines.push(line("ejection.baseTime", ejection.base_time.as_str(), HeldBy::Rule, step));
        }
    }
}
