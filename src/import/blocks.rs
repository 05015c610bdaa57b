//! The words of a policy for what a traffic policy or the routes of a port say. Says what it can; whether that
//! means the same is judged elsewhere.

use serde_json::{Map, Value};

use super::{
    routes::{Calls, Retry, Route},
    words::millis,
};
use crate::api::{
    Blocks, Duration, Ejection, Limits, LocalityFailover, Method, PerClientLimits, Retries, RetryBudget, RetryOn,
    Timeouts,
};

/// Of a traffic policy, which is one for a port or for all.
pub(super) fn of_policy(policy: &Value) -> Blocks {
    let pool = policy.get("connectionPool").unwrap_or(&Value::Null);
    let count = |pointer: &str| {
        let number = pool.pointer(pointer).and_then(Value::as_i64).filter(|number| *number != 0);
        number.and_then(|number| i32::try_from(number).ok())
    };
    let limits = PerClientLimits {
        connections: count("/tcp/maxConnections"),
        pending_requests: count("/http/http1MaxPendingRequests"),
        active_requests: count("/http/http2MaxRequests"),
        requests_per_connection: count("/http/maxRequestsPerConnection"),
        concurrent_retries: count("/http/maxRetries").filter(|_| policy.get("retryBudget").is_none_or(Value::is_null)),
    };
    let timeouts = Timeouts {
        connect: time(pool.pointer("/tcp/connectTimeout")),
        request: None,
        idle: time(pool.pointer("/http/idleTimeout").or_else(|| pool.pointer("/tcp/idleTimeout"))),
        lifetime: time(pool.pointer("/tcp/maxConnectionDuration")),
    };
    let detection = policy.get("outlierDetection").filter(|block| !block.is_null());
    Blocks {
        limits: (limits != PerClientLimits::default()).then_some(Limits { per_client: Some(limits), per_server: None }),
        ejection: detection.map(|detection| ejection(detection, policy)),
        timeouts: (timeouts != Timeouts::default()).then_some(timeouts),
        retries: None,
    }
}

/// What acts unsaid is said (semantics 4.1).
fn ejection(detection: &Value, policy: &Value) -> Ejection {
    let count = |field: &str| {
        let number = detection.get(field).and_then(Value::as_u64);
        number.map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    };
    let positive = |field: &str| count(field).filter(|number| *number > 0);
    let split = detection.get("splitExternalLocalOriginErrors").and_then(Value::as_bool).unwrap_or(false);
    let failover = policy.pointer("/loadBalancer/localityLbSetting/enabled").and_then(Value::as_bool);
    Ejection {
        consecutive_5xx: Some(count("consecutive5xxErrors").unwrap_or(5)),
        consecutive_gateway: Some(count("consecutiveGatewayErrors").unwrap_or(0)),
        consecutive_local_origin: split.then(|| positive("consecutiveLocalOriginFailures").unwrap_or(5)),
        interval: Some(time(detection.get("interval")).unwrap_or_else(|| Duration::new("10s"))),
        base_time: Some(time(detection.get("baseEjectionTime")).unwrap_or_else(|| Duration::new("30s"))),
        max_percent: Some(positive("maxEjectionPercent").unwrap_or(10)),
        min_healthy_percent: Some(count("minHealthPercent").unwrap_or(0)),
        locality_failover: Some(match failover {
            Some(false) => LocalityFailover::Disabled,
            _ => LocalityFailover::Inherit,
        }),
    }
}

/// Of a retry budget; `None` for one that cannot be said.
pub(super) fn budget(policy: &Value) -> Option<RetryBudget> {
    let said = policy.get("retryBudget").filter(|block| !block.is_null())?;
    let percent = match said.get("percent") {
        None => 20,
        // Istio's is a fraction.
        Some(percent) => (1..=100).find(|whole| percent.as_f64() == Some(f64::from(*whole)))?,
    };
    let least = said.get("minRetryConcurrency").and_then(Value::as_u64).filter(|least| *least > 0);
    Some(RetryBudget { percent, min_concurrency: least.and_then(|least| u32::try_from(least).ok()) })
}

/// Of the routes of a port: request timeout and retries; `None` for a shape that no policy has.
pub(super) fn of_routes(routes: &[Route]) -> Option<Blocks> {
    let (last, methods) = routes.split_last()?;
    if last.calls != Calls::All || routes.iter().any(|route| route.timeout != last.timeout) {
        return None;
    }
    let retry = match methods.first() {
        None => last.retries.clone(),
        // Calls with another method are not tried again at all.
        Some(first) if last.retries.attempts == 0 && methods.iter().all(|route| route.retries == first.retries) => {
            first.retries.clone()
        }
        Some(_) => return None,
    };
    let names = methods.iter().map(|route| match &route.calls {
        Calls::Method(method) => serde_json::from_value::<Method>(Value::String(method.clone())).ok(),
        Calls::All | Calls::Selected(_) => None,
    });
    let names: Vec<Method> = names.collect::<Option<_>>()?;
    let mut blocks = Blocks::default();
    if let Some(timeout) = &last.timeout {
        blocks.timeouts = Some(Timeouts { request: Some(written(&timeout.text)), ..Timeouts::default() });
    }
    if retry != Retry::unsaid() || !names.is_empty() {
        let mut retries = retries(&retry)?;
        retries.methods = (!names.is_empty()).then_some(names);
        blocks.retries = Some(retries);
    }
    Some(blocks)
}

/// `None` if a word of it has no counterpart.
pub(super) fn retries(retry: &Retry) -> Option<Retries> {
    let attempts = Some(i32::try_from(retry.attempts).ok()?);
    if retry.attempts == 0 {
        return Some(Retries { attempts, ..Retries::default() });
    }
    let words: Vec<RetryOn> = retry.on.iter().map(|word| retry_on(word)).collect::<Option<_>>()?;
    let codes: Vec<u16> = retry.codes.iter().map(|code| u16::try_from(*code).ok()).collect::<Option<_>>()?;
    Some(Retries {
        attempts,
        // Unset, it is not nothing but two words: the proof says so.
        retry_on: (!words.is_empty()).then_some(words),
        status_codes: (!codes.is_empty()).then_some(codes),
        methods: None,
        per_try_timeout: retry.per_try_timeout.as_ref().map(|time| written(&time.text)),
        backoff: retry.backoff.as_ref().map(|time| written(&time.text)),
        budget: None,
    })
}

fn retry_on(word: &str) -> Option<RetryOn> {
    RetryOn::ALL.into_iter().find(|on| crate::translate::retry_word(*on) == word)
}

/// As it is written, where a policy may be written so.
fn time(value: Option<&Value>) -> Option<Duration> {
    Some(written(value?.as_str()?))
}

fn written(text: &str) -> Duration {
    let written = Duration::new(text);
    match (written.as_millis(), millis(text)) {
        (None, Some(millis)) => Duration::from_millis(millis),
        _ => written,
    }
}

/// Without what is the same unsaid where nothing is inherited.
pub(super) fn without_defaults(blocks: &mut Blocks) {
    let Some(ejection) = &mut blocks.ejection else { return };
    ejection.consecutive_gateway = ejection.consecutive_gateway.filter(|count| *count > 0);
    ejection.min_healthy_percent = ejection.min_healthy_percent.filter(|percent| *percent > 0);
    ejection.locality_failover = ejection.locality_failover.filter(|failover| *failover != LocalityFailover::Inherit);
}

/// What of `full` is not in `base`.
pub(super) fn beyond(full: &Blocks, base: &Blocks) -> Blocks {
    let (full, base) = (serde_json::to_value(full).unwrap_or_default(), serde_json::to_value(base).unwrap_or_default());
    serde_json::from_value(less(&full, &base)).unwrap_or_default()
}

fn less(full: &Value, base: &Value) -> Value {
    let (Value::Object(full), Value::Object(base)) = (full, base) else { return full.clone() };
    let mut left = Map::new();
    for (key, value) in full {
        match base.get(key) {
            Some(same) if same == value => {}
            Some(other) => {
                let value = less(value, other);
                if value.as_object().is_none_or(|fields| !fields.is_empty()) {
                    left.insert(key.clone(), value);
                }
            }
            None => drop(left.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(left)
}
