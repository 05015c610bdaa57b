//! Retries and the time of a call.

use super::{
    Here, Warnings,
    ejection::count,
    limits::{Surplus, surplus},
    named,
};
use crate::{
    api::{Duration, Method, RetryOn, warnings::Code},
    istio::Protocol,
    validate::{arithmetic::ejectable, valid::ResolvedRetries},
};

pub(super) fn warn(here: &Here<'_>, all: &mut Warnings) {
    // Where another object has the routes, nothing of this is generated.
    if here.service.is_some() && here.valid.routes.is_empty() {
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
                "{} speaks gRPC, where a stream is one call: timeouts.request {timeout} ends streams that are well; leave it out if there are streams, and let clients set deadlines",
                named(&grpc)
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
                "{tries} tries of {per_try} take up to {}, and timeouts.request ends the call after {}: at most {} of them run their time; shorten perTryTimeout, or allow more",
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
        all.add(
            here,
            Code::RepeatsUnsafeCalls,
            format!(
                "after {} the server may have acted already, and {who} calls are repeated too: what they do may be done twice; set methods to [GET, HEAD], or to those that may be repeated",
                listed(&acted)
            ),
        );
    }
    let repeats_503 = retries.retry_on.iter().any(|on| matches!(on, RetryOn::Http5xx | RetryOn::GatewayError))
        || retries.status_codes.contains(&503);
    let bounded = policy.limits.concurrent_retries.is_some() || retries.budget.is_some();
    let amplified = here.servers_have_proxies() && surplus(policy, here.speaks_http()) == Some(Surplus::Refused);
    if repeats_503 && amplified && !bounded {
        all.add(
            here,
            Code::RetriesAmplifyOverflow,
            format!(
                "a server that refuses by its own limit answers 503, and 503 is tried again: up to {} tries per call when it is busiest; bound them with limits.perClient.concurrentRetries or retries.budget",
                tries(retries)
            ),
        );
    }
}

/// One call that fails wherever it goes, and what it does to the endpoints on its way.
fn poison(here: &Here<'_>, retries: &ResolvedRetries, all: &mut Warnings) {
    let Some(ejection) = &here.policy().ejection else { return };
    let repeats_answers = retries.retry_on.iter().any(|on| matches!(on, RetryOn::Http5xx | RetryOn::GatewayError))
        || retries.status_codes.iter().any(|code| *code >= 500);
    let detectors = [ejection.consecutive_5xx, ejection.consecutive_gateway];
    let Some(threshold) = detectors.into_iter().filter(|n| *n > 0).min() else { return };
    let Some(endpoints) = here.valid.endpoints.filter(|endpoints| *endpoints > 0) else { return };
    let out = ejectable(endpoints, ejection.max_percent);
    let tries = tries(retries);
    // Each try goes to an endpoint that has not been tried while there is one (`previous_hosts`).
    if repeats_answers && out > 0 && u64::from(threshold) * u64::from(endpoints) <= u64::from(tries) {
        all.add(
            here,
            Code::PoisonCallEjects,
            format!(
                "a single call that fails everywhere is tried {tries} times over {}, and {threshold} in a row eject: it takes {out} of them out by itself; set attempts below {}, or the detector higher",
                count(endpoints),
                u64::from(threshold) * u64::from(endpoints) - 1,
            ),
        );
    }
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
