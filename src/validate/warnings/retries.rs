//! Retries and the time of a call.

use super::{
    Here, Warnings,
    ejection::count,
    limits::{Surplus, surplus},
    subject,
};
use crate::{
    api::{Duration, Method, RetryOn, warnings::Code},
    istio::Protocol,
    validate::valid::{ResolvedEjection, ResolvedRetries},
};

pub(super) fn warn(here: &Here<'_>, all: &mut Warnings) {
    // Where another object has the routes, or no port of the group gets one, nothing of this is generated.
    if here.service.is_some() && here.ports(|port| here.valid.routes.contains(&port.number)).is_empty() {
        return;
    }
    streams(here, all);
    let Some(retries) = here.policy().retries.as_ref().filter(|retries| retries.attempts > 0) else { return };
    times(here, retries, all);
    repeats(here, retries, all);
    poison(here, retries, all);
}

/// A stream is one call: a request timeout ends it however well it goes.
fn streams(here: &Here<'_>, all: &mut Warnings) {
    let grpc = here.ports(|port| port.protocol == Protocol::Grpc);
    if let Some(timeout) = here.policy().timeouts.request.as_ref().filter(|_| !grpc.is_empty()) {
        all.add(
            here,
            Code::TimeoutCutsStreams,
            format!(
                "{} gRPC, where a stream is one call: timeouts.request {timeout} ends streams that are well; leave it out if there are streams, and let clients set deadlines",
                subject(&grpc, "speaks", "speak")
            ),
        );
    }
}

fn times(here: &Here<'_>, retries: &ResolvedRetries, all: &mut Warnings) {
    let Some(per_try) = &retries.per_try_timeout else { return };
    let repeats_timeouts = |on: &RetryOn| matches!(on, RetryOn::Reset | RetryOn::Http5xx | RetryOn::GatewayError);
    if !retries.retry_on.iter().any(repeats_timeouts) {
        all.add(
            here,
            Code::PerTryTimeoutNotRetried,
            "a try that runs into perTryTimeout is not tried again, because retryOn has none of Reset, 5xx, GatewayError: it only shortens the call; add Reset if the calls may be repeated",
        );
    }
    let tries = u64::from(tries(retries));
    let request = here.policy().timeouts.request.as_ref();
    if let (Some(per_try_millis), Some(limit)) = (per_try.as_millis(), request.and_then(Duration::as_millis))
        && per_try_millis * tries > limit
    {
        all.add(
            here,
            Code::TriesOutlastRequest,
            format!(
                "{tries} tries of {per_try} take up to {}, and timeouts.request ends the call after {}: no more than {} of them can run in full; shorten perTryTimeout, or allow more",
                Duration::from_millis(per_try_millis * tries),
                Duration::from_millis(limit),
                limit / per_try_millis.max(1)
            ),
        );
    }
}

fn repeats(here: &Here<'_>, retries: &ResolvedRetries, all: &mut Warnings) {
    let policy = here.policy();
    let acted: Vec<String> = retries
        .retry_on
        .iter()
        .filter(|on| on.may_have_acted())
        .map(|on| on.name().to_owned())
        .chain(retries.status_codes.iter().filter(|code| **code >= 500).map(ToString::to_string))
        .collect();
    let twice: Vec<&str> = retries.methods.iter().filter(|m| !m.is_idempotent()).map(|m| m.name()).collect();
    if !acted.is_empty() && (retries.methods.is_empty() || !twice.is_empty()) {
        let who = if retries.methods.is_empty() { Method::Post.name().to_owned() } else { twice.join(", ") };
        let cure = if here.speaks_only_grpc() {
            "every gRPC call is a POST, so leave these out of retryOn and statusCodes unless each method may be repeated"
        } else {
            "set methods to [GET, HEAD], or to those that may be repeated"
        };
        all.add(
            here,
            Code::RepeatsUnsafeCalls,
            format!(
                "after {} the server may have acted already, and {who} calls are repeated too: what they do may be done twice; {cure}",
                listed(&acted)
            ),
        );
    }
    let bounded = policy.limits.concurrent_retries.is_some() || retries.budget.is_some();
    let amplified = here.servers_have_proxies() && surplus(here) == Some(Surplus::Refused);
    let refusal = repeated_refusal(here, retries).filter(|_| amplified && !bounded);
    if let Some(refusal) = refusal {
        all.add(
            here,
            Code::RetriesAmplifyOverflow,
            format!(
                "a server that refuses by its own limit answers {refusal}, and that is tried again: up to {} tries per call when it is busiest; bound them with limits.perClient.concurrentRetries{}",
                tries(retries),
                // Not beside ports.
                if here.valid.ports.is_empty() { " or retries.budget" } else { "" }
            ),
        );
    }
}

/// What of a full server's answer is repeated: to gRPC, Envoy answers with the status that stands for 503
/// (`httpToGrpcStatus`).
fn repeated_refusal(here: &Here<'_>, retries: &ResolvedRetries) -> Option<&'static str> {
    let on = |wanted: &[RetryOn]| retries.retry_on.iter().any(|on| wanted.contains(on));
    if on(&[RetryOn::Http5xx, RetryOn::GatewayError]) || retries.status_codes.contains(&503) {
        Some("503")
    } else {
        let grpc = !here.ports(|port| port.protocol == Protocol::Grpc).is_empty();
        (grpc && on(&[RetryOn::Unavailable])).then_some("Unavailable")
    }
}

/// One call that fails wherever it goes, and what it does to the endpoints on its way.
fn poison(here: &Here<'_>, retries: &ResolvedRetries, all: &mut Warnings) {
    let Some(ejection) = here.policy().ejection.as_ref().filter(|_| !here.client_picks()) else { return };
    let Some((detector, threshold)) = first_detector(ejection, retries) else { return };
    let (Some(endpoints @ 1..), Some(out)) = (ejection.endpoints, ejection.ejectable) else { return };
    let tries = tries(retries);
    // With so many tries each endpoint may get one less than ejects; with one more, some endpoint gets it.
    let harmless = (u64::from(threshold) - 1) * u64::from(endpoints);
    let most = out.min(tries / threshold);
    // A detector of 1 says itself that one failure ejects one endpoint.
    if u64::from(tries) <= harmless || most == 0 || (threshold == 1 && most == 1) {
        return;
    }
    let fewer = harmless.checked_sub(1).map(|attempts| format!("attempts to at most {attempts}, or "));
    all.add(
        here,
        Code::PoisonCallEjects,
        format!(
            "a single call that fails everywhere is tried {tries} times over {}, and {detector} is {threshold}: it takes {} of them out by itself; set {}{detector} to at least {}",
            count(endpoints),
            if most == 1 { "one".to_owned() } else { format!("up to {most}") },
            fewer.unwrap_or_default(),
            tries.div_ceil(endpoints) + 1,
        ),
    );
}

/// The detector that failures of the kinds that are repeated reach first. Resets and timed-out tries count
/// for all detectors of answers, unless the split counts them apart (semantics 4.2).
fn first_detector(ejection: &ResolvedEjection, retries: &ResolvedRetries) -> Option<(&'static str, u32)> {
    let on = |wanted: &[RetryOn]| retries.retry_on.iter().any(|on| wanted.contains(on));
    let code = |such: fn(&u16) -> bool| retries.status_codes.iter().any(such);
    let all_5xx = on(&[RetryOn::Http5xx, RetryOn::GatewayError]);
    let resets = all_5xx || on(&[RetryOn::Reset]);
    let split = ejection.consecutive_local_origin;
    let answers = resets && split.is_none();
    let detectors = [
        ("consecutive5xx", ejection.consecutive_5xx, answers || all_5xx || code(|code| *code >= 500)),
        (
            "consecutiveGateway",
            ejection.consecutive_gateway,
            answers || all_5xx || code(|code| (502..=504).contains(code)),
        ),
        ("consecutiveLocalOrigin", split.unwrap_or(0), resets),
    ];
    let fed = detectors.into_iter().filter(|(_, threshold, fed)| *fed && *threshold > 0);
    fed.map(|(name, threshold, _)| (name, threshold)).min_by_key(|(_, threshold)| *threshold)
}

/// The first few: the rest says nothing more.
fn listed(words: &[String]) -> String {
    const FEW: usize = 4;
    match words.get(FEW..) {
        None | Some([]) => words.join(", "),
        Some(_) => format!("{} and others", words[..FEW].join(", ")),
    }
}

fn tries(retries: &ResolvedRetries) -> u32 {
    u32::try_from(retries.attempts).unwrap_or(0) + 1
}
