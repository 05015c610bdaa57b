//! Istio's own validity rules for the fields that we write, as pure checks of the JSON that goes over
//! the wire.
//!
//! Istio's webhook applies them too, but it may be absent, and what slips past it Envoy refuses for
//! every proxy at once (istio `pkg/config/validation`; semantics as of 1.31). A field that no rule
//! here knows is a fault: whoever writes it brings its rule along.

use serde_json::{Map, Value};

/// Longest host (istio `pkg/config/validation/agent`, `ValidateWildcardDomain`).
const HOST_LIMIT: usize = 255;
/// Largest counter (int32 in istio's `api/networking/v1alpha3`).
const COUNTER_LIMIT: u64 = 2_147_483_647;
/// Words of `retryOn` (istio `pkg/config/validation/validation.go`, `supportedRetryOnPolicies`), but
/// for `retriable-status-codes`, which alone retries nothing (measured M20).
const RETRY_ON: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// Status codes that Go's `net/http` has a name for, of those that can be an answer: what `retryOn`
/// takes (istio `validateHTTPRetry`, by `http.StatusText`).
const STATUS_CODES: [u16; 58] = [
    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404,
    405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431,
    451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

/// Faults of a DestinationRule's spec, each with its path.
#[must_use]
pub fn destination_rule_faults(spec: &Value) -> Vec<String> {
    let mut check = Check::default();
    let Some(spec) = check.object("spec", Some(spec), &["host", "trafficPolicy"]) else { return check.faults };
    check.host("spec.host", spec.get("host"));
    let path = "spec.trafficPolicy";
    // istio `validateTrafficPolicy`: «traffic policy must have at least one field».
    let known = ["connectionPool", "outlierDetection", "loadBalancer", "retryBudget", "portLevelSettings"];
    if let Some(policy) = check.object(path, spec.get("trafficPolicy"), &known) {
        check.blocks(path, policy);
        check.retry_budget(policy);
        check.port_level_settings(policy);
    }
    check.faults
}

/// Faults of a VirtualService's spec, each with its path.
#[must_use]
pub fn virtual_service_faults(spec: &Value) -> Vec<String> {
    let mut check = Check::default();
    let Some(spec) = check.object("spec", Some(spec), &["hosts", "http"]) else { return check.faults };
    let hosts = check.list("spec.hosts", spec.get("hosts"));
    for (index, host) in hosts.iter().enumerate() {
        check.host(&format!("spec.hosts[{index}]"), Some(host));
        check.rule(!hosts[..index].contains(host), &format!("spec.hosts[{index}]"), "is there twice");
    }
    let mut seen: Vec<(u64, Option<String>)> = Vec::new();
    for (index, route) in check.list("spec.http", spec.get("http")).iter().enumerate() {
        let path = format!("spec.http[{index}]");
        for one in check.route(&path, route) {
            // istio warns of a rule that an earlier one hides: «unreachable».
            let hidden = seen.iter().any(|(port, method)| *port == one.0 && (*method == one.1 || method.is_none()));
            check.rule(!hidden, &path, "matches what an earlier route has");
            seen.push(one);
        }
    }
    for (port, _) in &seen {
        // Whatever no route takes gets 404 (measured M45).
        let caught = seen.iter().any(|(other, method)| other == port && method.is_none());
        check.rule(caught, "spec.http", &format!("leaves calls of port {port} without a route"));
    }
    check.faults
}

#[derive(Default)]
struct Check {
    faults: Vec<String>,
}

impl Check {
    fn rule(&mut self, holds: bool, path: &str, fault: &str) {
        if !holds {
            self.faults.push(format!("{path}: {fault}"));
        }
    }

    /// An object with at least one field, and no field but `known`.
    fn object<'a>(&mut self, path: &str, value: Option<&'a Value>, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let object = value.and_then(Value::as_object);
        self.rule(object.is_some_and(|object| !object.is_empty()), path, "must have at least one field");
        for key in object.into_iter().flat_map(Map::keys) {
            self.rule(known.contains(&key.as_str()), path, &format!("no rule for {key} is ported"));
        }
        object
    }

    fn list<'a>(&mut self, path: &str, value: Option<&'a Value>) -> &'a [Value] {
        let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        self.rule(!list.is_empty(), path, "must have at least one entry");
        list
    }

    /// Fully qualified, of RFC 1123 labels (istio `agent.ValidateFQDN`), and no wildcard: none of
    /// ours is one.
    fn host(&mut self, path: &str, value: Option<&Value>) {
        let host = value.and_then(Value::as_str).unwrap_or_default();
        let fine = host.len() <= HOST_LIMIT && host.contains('.') && host.split('.').all(is_label);
        let top = host.rsplit('.').next().unwrap_or_default();
        self.rule(fine, path, &format!("{host:?} is no fully qualified host"));
        // istio `checkDNS1123Preconditions`: «top level domain cannot be all-numeric».
        self.rule(!top.bytes().all(|b| b.is_ascii_digit()), path, "ends in a number");
    }

    /// What stands at the top level and for a port alike.
    fn blocks(&mut self, path: &str, policy: &Map<String, Value>) {
        self.connection_pool(&format!("{path}.connectionPool"), policy.get("connectionPool"));
        self.outlier_detection(&format!("{path}.outlierDetection"), policy.get("outlierDetection"));
        self.load_balancer(&format!("{path}.loadBalancer"), policy.get("loadBalancer"));
    }

    /// istio `validateConnectionPool`.
    fn connection_pool(&mut self, path: &str, pool: Option<&Value>) {
        let Some(pool) = pool else { return };
        let Some(pool) = self.object(path, Some(pool), &["tcp", "http"]) else { return };
        if let Some(tcp) = pool.get("tcp") {
            let path = format!("{path}.tcp");
            let known = ["maxConnections", "connectTimeout", "idleTimeout", "maxConnectionDuration"];
            if let Some(tcp) = self.object(&path, Some(tcp), &known) {
                self.counter(&path, tcp, "maxConnections");
                for field in ["connectTimeout", "idleTimeout", "maxConnectionDuration"] {
                    self.duration(&path, tcp, field);
                }
            }
        }
        if let Some(http) = pool.get("http") {
            let path = format!("{path}.http");
            let counters = ["http1MaxPendingRequests", "http2MaxRequests", "maxRequestsPerConnection", "maxRetries"];
            let known: Vec<&str> = counters.into_iter().chain(["idleTimeout"]).collect();
            // An empty half passes the webhook and does nothing (measured M82): ours has a field.
            if let Some(http) = self.object(&path, Some(http), &known) {
                for field in counters {
                    self.counter(&path, http, field);
                }
                self.duration(&path, http, "idleTimeout");
            }
        }
    }

    /// istio `validateOutlierDetection`.
    fn outlier_detection(&mut self, path: &str, detection: Option<&Value>) {
        let Some(detection) = detection else { return };
        let known = [
            "consecutive5xxErrors",
            "consecutiveGatewayErrors",
            "splitExternalLocalOriginErrors",
            "consecutiveLocalOriginFailures",
            "interval",
            "baseEjectionTime",
            "maxEjectionPercent",
            "minHealthPercent",
        ];
        let Some(detection) = self.object(path, Some(detection), &known) else { return };
        for field in ["consecutive5xxErrors", "consecutiveGatewayErrors", "interval", "baseEjectionTime"] {
            // Unset means Envoy's hidden 5, 10s and 30s (semantics 4.1): always written.
            self.rule(detection.contains_key(field), path, &format!("{field} must be written"));
        }
        for field in ["consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveLocalOriginFailures"] {
            let fine =
                detection.get(field).is_none_or(|value| value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()));
            self.rule(fine, path, &format!("{field} must be a uint32"));
        }
        self.duration(path, detection, "interval");
        self.duration(path, detection, "baseEjectionTime");
        let percent = detection.get("maxEjectionPercent").and_then(Value::as_u64);
        // 0 passes Istio and means Envoy's 10 (semantics 4.1).
        self.rule(percent.is_some_and(|n| (1..=100).contains(&n)), path, "maxEjectionPercent must be from 1 to 100");
        let healthy = detection.get("minHealthPercent");
        let fine = healthy.is_none_or(|value| value.as_u64().is_some_and(|n| n <= 100));
        self.rule(fine, path, "minHealthPercent must be from 0 to 100");
        let local = detection.get("consecutiveLocalOriginFailures");
        let split = detection.get("splitExternalLocalOriginErrors");
        self.rule(split.is_none_or(Value::is_boolean), path, "splitExternalLocalOriginErrors must be true or false");
        let split = split == Some(&Value::Bool(true));
        self.rule(local.is_none() || split, path, "consecutiveLocalOriginFailures only with the split");
        self.rule(local.and_then(Value::as_u64) != Some(0), path, "consecutiveLocalOriginFailures must not be 0");
    }

    /// Of istio `validateLoadBalancer` only what we write: locality failover, off.
    fn load_balancer(&mut self, path: &str, balancer: Option<&Value>) {
        let Some(balancer) = balancer else { return };
        let Some(balancer) = self.object(path, Some(balancer), &["localityLbSetting"]) else { return };
        let path = format!("{path}.localityLbSetting");
        let Some(setting) = self.object(&path, balancer.get("localityLbSetting"), &["enabled"]) else { return };
        self.rule(setting.get("enabled") == Some(&Value::Bool(false)), &path, "enabled must be false");
    }

    /// The webhook has no rule for it, the CRD has `percent` from 0 to 100 (semantics 6.3). Both are
    /// always written (istio#59504), and 0 would be 3 for the least number (measured M29).
    fn retry_budget(&mut self, policy: &Map<String, Value>) {
        let path = "spec.trafficPolicy.retryBudget";
        let Some(budget) = policy.get("retryBudget") else { return };
        let Some(budget) = self.object(path, Some(budget), &["percent", "minRetryConcurrency"]) else { return };
        let within = |field: &str, limit: u64| {
            budget.get(field).and_then(Value::as_u64).is_some_and(|n| (1..=limit).contains(&n))
        };
        self.rule(within("percent", 100), path, "percent must be from 1 to 100");
        self.rule(within("minRetryConcurrency", COUNTER_LIMIT), path, "minRetryConcurrency must be at least 1");
        // Istio drops it for each such port (measured M31).
        self.rule(!policy.contains_key("portLevelSettings"), path, "not together with portLevelSettings");
    }

    /// istio `validatePortTrafficPolicies`, and what it leaves out: the range of the port, and that the
    /// first of two entries for one port counts alone (measured M55, M82).
    fn port_level_settings(&mut self, policy: &Map<String, Value>) {
        let path = "spec.trafficPolicy.portLevelSettings";
        let Some(entries) = policy.get("portLevelSettings") else { return };
        let mut ports = Vec::new();
        for (index, entry) in self.list(path, Some(entries)).iter().enumerate() {
            let path = format!("{path}[{index}]");
            let known = ["port", "connectionPool", "outlierDetection", "loadBalancer"];
            let Some(entry) = self.object(&path, Some(entry), &known) else { continue };
            self.rule(entry.len() > 1, &path, "must have at least one block");
            let number = entry.get("port").and_then(|port| port.get("number"));
            if let Some(port) = self.port(&format!("{path}.port.number"), number) {
                self.rule(!ports.contains(&port), &path, "is for a port that an earlier entry has");
                ports.push(port);
            }
            self.blocks(&path, entry);
        }
    }

    /// istio `validateHTTPRoute`; returns what it matches: a port, and a method or any.
    fn route(&mut self, path: &str, route: &Value) -> Vec<(u64, Option<String>)> {
        let known = ["name", "match", "route", "timeout", "retries"];
        let Some(route) = self.object(path, Some(route), &known) else { return Vec::new() };
        let mut found = Vec::new();
        for (index, one) in self.list(&format!("{path}.match"), route.get("match")).iter().enumerate() {
            let path = format!("{path}.match[{index}]");
            let Some(one) = self.object(&path, Some(one), &["port", "method"]) else { continue };
            let method = one.get("method").map(|method| {
                let exact = method.get("exact").and_then(Value::as_str).unwrap_or_default();
                self.rule(!exact.is_empty(), &path, "method must be exact");
                exact.to_owned()
            });
            found.extend(self.port(&path, one.get("port")).map(|port| (port, method)));
        }
        let port = found.first().map(|(port, _)| *port);
        self.rule(found.iter().all(|(one, _)| Some(*one) == port), path, "must match exactly one port");
        let destinations = self.list(&format!("{path}.route"), route.get("route"));
        // Several need weights (istio `validateWeights`); ours is one, without.
        self.rule(destinations.len() == 1, path, "must have exactly one destination");
        for weighted in destinations {
            let inner = format!("{path}.route[0].destination");
            let Some(weighted) = self.object(&inner, Some(weighted), &["destination"]) else { continue };
            let known = ["host", "port"];
            let Some(destination) = self.object(&inner, weighted.get("destination"), &known) else { continue };
            self.host(&format!("{inner}.host"), destination.get("host"));
            let number = destination.get("port").and_then(|port| port.get("number"));
            let number = self.port(&format!("{inner}.port.number"), number);
            // Another port's traffic would go astray (measured M43).
            self.rule(number == port, &inner, "goes to another port than it matches");
        }
        self.duration(path, route, "timeout");
        if let Some(retries) = route.get("retries") {
            self.retries(&format!("{path}.retries"), retries);
        }
        let acts = route.contains_key("timeout") || route.contains_key("retries");
        self.rule(acts, path, "changes nothing");
        found
    }

    /// istio `validateHTTPRetry`.
    fn retries(&mut self, path: &str, retries: &Value) {
        let known = ["attempts", "retryOn", "perTryTimeout", "backoff"];
        let Some(retries) = self.object(path, Some(retries), &known) else { return };
        let attempts = retries.get("attempts").and_then(Value::as_u64);
        self.rule(attempts.is_some(), path, "attempts must be a number from 0");
        if attempts == Some(0) {
            self.rule(retries.len() == 1, path, "attempts 0 stands alone");
        } else {
            // Without a list of its own Istio's default acts, which a reader does not see.
            self.rule(retries.contains_key("retryOn"), path, "retryOn must be written");
        }
        self.duration(path, retries, "perTryTimeout");
        self.duration(path, retries, "backoff");
        let list = retries.get("retryOn").and_then(Value::as_str);
        // Split without trimming, so a blank is part of the word (measured M21).
        for word in list.into_iter().flat_map(|list| list.split(',')) {
            let code = word.parse::<u16>().ok().filter(|code| code.to_string() == word);
            let known = RETRY_ON.contains(&word) || code.is_some_and(|code| STATUS_CODES.contains(&code));
            self.rule(known, path, &format!("{word:?} is not a valid retryOn policy"));
        }
    }

    fn port(&mut self, path: &str, value: Option<&Value>) -> Option<u64> {
        let port = value.and_then(Value::as_u64);
        self.rule(port.is_some_and(|port| (1..=65_535).contains(&port)), path, "must be a port from 1 to 65535");
        port
    }

    /// Istio refuses below 0, and reads 0 as unset: ours is never 0.
    fn counter(&mut self, path: &str, object: &Map<String, Value>, field: &str) {
        let fine = object.get(field).is_none_or(|n| n.as_u64().is_some_and(|n| (1..=COUNTER_LIMIT).contains(&n)));
        self.rule(fine, path, &format!("{field} must be from 1 to {COUNTER_LIMIT}"));
    }

    /// istio `agent.ValidateDuration`: at least 1ms, and a whole number of milliseconds.
    fn duration(&mut self, path: &str, object: &Map<String, Value>, field: &str) {
        let Some(value) = object.get(field) else { return };
        let nanos = value.as_str().and_then(go_nanos);
        let fine = nanos.is_some_and(|nanos| nanos >= 1_000_000 && nanos.is_multiple_of(1_000_000));
        self.rule(fine, path, &format!("{field} {value} must be a whole number of milliseconds, at least one"));
    }
}

/// A DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !text.is_empty() && text.len() <= 63 && inner && !text.starts_with('-') && !text.ends_with('-')
}

/// Nanoseconds of a duration as Go's `time.ParseDuration` reads it, if it fits Go's 64 bits.
fn go_nanos(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (whole, fraction) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        let units = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
        let minutes = [("m", 60_000_000_000), ("h", 3_600_000_000_000)];
        rest = &rest[end..];
        let (unit, nanos): (&str, u128) = units.into_iter().chain(minutes).find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        if fraction.len() > 15 || fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        total += digits.checked_mul(nanos)? / scale;
    }
    u64::try_from(total).ok().filter(|total| !text.is_empty() && i64::try_from(*total).is_ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{destination_rule_faults, go_nanos, virtual_service_faults};

    fn rule(policy: &serde_json::Value) -> Vec<String> {
        destination_rule_faults(&json!({"host": "x.default.svc.cluster.local", "trafficPolicy": policy}))
    }

    fn retries(retries: &serde_json::Value) -> Vec<String> {
        virtual_service_faults(&json!({
            "hosts": ["x.default.svc.cluster.local"],
            "http": [{
                "name": "port-80", "match": [{"port": 80}], "retries": retries,
                "route": [{"destination": {"host": "x.default.svc.cluster.local", "port": {"number": 80}}}]
            }]
        }))
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(go_nanos("1h1m1s1ms"), Some(3_661_001_000_000));
        assert_eq!(go_nanos("1.5s"), Some(1_500_000_000));
        assert_eq!(go_nanos("1.5ms"), Some(1_500_000));
        for text in ["", "10", "1d", "s", ".s", "-1s", "9999999h", "1 s"] {
            assert_eq!(go_nanos(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_the_webhook_refuses_is_a_fault() {
        // measured M81, of the fields that we write.
        let outlier = |extra: serde_json::Value| {
            let mut block = json!({
                "consecutive5xxErrors": 5, "consecutiveGatewayErrors": 0, "interval": "10s",
                "baseEjectionTime": "30s", "maxEjectionPercent": 50
            });
            block.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            rule(&json!({ "outlierDetection": block }))
        };
        assert_eq!(outlier(json!({})), Vec::<String>::new());
        for bad in [
            json!({"maxEjectionPercent": 150}),
            json!({"maxEjectionPercent": -1}),
            json!({"maxEjectionPercent": 0}),
            json!({"interval": "1.5ms"}),
            json!({"interval": "0s"}),
            json!({"consecutiveLocalOriginFailures": 1}),
            json!({"futureKnob": 1}),
        ] {
            assert_eq!(outlier(bad.clone()).len(), 1, "{bad}");
        }
        for bad in [
            json!({}),
            json!({"connectionPool": {}}),
            json!({"connectionPool": {"http": {}}}),
            json!({"connectionPool": {"tcp": {"maxConnections": -5}}}),
            json!({"connectionPool": {"http": {"http1MaxPendingRequests": 0}}}),
            json!({"connectionPool": {"tcp": {"maxConnections": 1}}, "tls": {"mode": "DISABLE"}}),
        ] {
            assert_eq!(rule(&bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn retries_that_istio_refuses_are_faults() {
        assert_eq!(retries(&json!({"attempts": 0})), Vec::<String>::new());
        assert_eq!(retries(&json!({"attempts": 2, "retryOn": "connect-failure,503"})), Vec::<String>::new());
        // measured M18, M20, M21.
        for bad in [
            json!({"attempts": -1, "retryOn": "reset"}),
            json!({"attempts": 0, "retryOn": "reset"}),
            json!({"attempts": 2}),
            json!({"attempts": 2, "retryOn": "5xx, reset"}),
            json!({"attempts": 2, "retryOn": "foo"}),
            json!({"attempts": 2, "retryOn": "299"}),
            json!({"attempts": 2, "retryOn": ""}),
            json!({"attempts": 2, "retryOn": "retriable-status-codes"}),
            json!({"attempts": 2, "retryOn": "reset", "perTryTimeout": "0s"}),
        ] {
            assert_eq!(retries(&bad).len(), 1, "{bad}: {:?}", retries(&bad));
        }
    }

    #[test]
    fn a_short_host_or_a_number_for_a_domain_is_a_fault() {
        let policy = json!({"connectionPool": {"tcp": {"maxConnections": 1}}});
        for host in ["x", "", "*", "x..y", "x.svc.1", "X.default.svc.cluster.local"] {
            let faults = destination_rule_faults(&json!({"host": host, "trafficPolicy": policy}));
            assert!(!faults.is_empty(), "{host:?}");
        }
    }
}
