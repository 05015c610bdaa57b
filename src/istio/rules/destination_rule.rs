//! Rules of a DestinationRule (istio `pkg/config/validation/validation.go`).

use serde_json::{Map, Value};

use super::{
    Fault, Stricter,
    check::{Check, INT32, MILLISECOND, UINT32, whole},
    words,
};

/// Faults of a DestinationRule's spec.
#[must_use]
pub fn destination_rule_faults(spec: &Value) -> Vec<Fault> {
    let mut check = Check::default();
    let Some(spec) = check.object("spec", spec, &["host", "trafficPolicy"]) else { return check.faults };
    let host = check.text("spec.host", spec.get("host"));
    check.host("spec.host", host);
    let path = "spec.trafficPolicy";
    // Taken, and does nothing (measured M82).
    check.ours(Stricter::DoesNothing, spec.contains_key("trafficPolicy"), path, "must be there");
    let known = ["connectionPool", "outlierDetection", "loadBalancer", "retryBudget", "portLevelSettings"];
    if let Some(policy) = spec.get("trafficPolicy").and_then(|policy| check.object(path, policy, &known)) {
        // istio `validateTrafficPolicy`: «traffic policy must have at least one field»; a list without
        // entries is none.
        let says = policy.values().any(|value| value.as_array().is_none_or(|list| !list.is_empty()));
        check.istio(says, path, "must have at least one field");
        check.blocks(path, &policy);
        check.retry_budget(&policy);
        check.port_level_settings(&policy);
    }
    check.faults
}

impl Check {
    /// What stands at the top level and for a port alike.
    fn blocks(&mut self, path: &str, policy: &Map<String, Value>) {
        self.connection_pool(&format!("{path}.connectionPool"), policy.get("connectionPool"));
        self.outlier_detection(&format!("{path}.outlierDetection"), policy.get("outlierDetection"));
        self.load_balancer(&format!("{path}.loadBalancer"), policy.get("loadBalancer"));
    }

    /// istio `validateConnectionPool`.
    pub(super) fn connection_pool(&mut self, path: &str, pool: Option<&Value>) {
        let Some(pool) = pool.and_then(|pool| self.object(path, pool, &["tcp", "http"])) else { return };
        self.istio(!pool.is_empty(), path, "must have at least one field");
        let tcp_path = format!("{path}.tcp");
        let known = ["maxConnections", "connectTimeout", "idleTimeout", "maxConnectionDuration"];
        if let Some(tcp) = pool.get("tcp").and_then(|tcp| self.filled(&tcp_path, tcp, &known)) {
            self.counter(&tcp_path, &tcp, "maxConnections");
            self.duration(&tcp_path, &tcp, "connectTimeout");
            self.duration(&tcp_path, &tcp, "maxConnectionDuration");
            self.tcp_idle_timeout(&tcp_path, &tcp);
        }
        let http_path = format!("{path}.http");
        let counters = ["http1MaxPendingRequests", "http2MaxRequests", "maxRequestsPerConnection", "maxRetries"];
        let known: Vec<&str> = counters.into_iter().chain(["idleTimeout"]).collect();
        if let Some(http) = pool.get("http").and_then(|http| self.filled(&http_path, http, &known)) {
            for field in counters {
                self.counter(&http_path, &http, field);
            }
            self.duration(&http_path, &http, "idleTimeout");
        }
    }

    /// As any duration, but what rounds to 0ms switches it off; the CRD has no rule for it.
    fn tcp_idle_timeout(&mut self, path: &str, tcp: &Map<String, Value>) {
        let Some(value) = tcp.get("idleTimeout") else { return };
        let nanos = value.as_str().and_then(words::go_nanos);
        if nanos.is_some_and(|nanos| nanos.abs() < MILLISECOND) {
            self.ours(Stricter::ZeroIsUnset, false, &format!("{path}.idleTimeout"), &format!("{value} is none"));
        } else {
            self.duration(path, tcp, "idleTimeout");
        }
    }

    /// istio `validateOutlierDetection`.
    fn outlier_detection(&mut self, path: &str, detection: Option<&Value>) {
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
        let Some(detection) = detection.and_then(|value| self.object(path, value, &known)) else { return };
        for field in
            ["consecutive5xxErrors", "consecutiveGatewayErrors", "interval", "baseEjectionTime", "maxEjectionPercent"]
        {
            // Unset means Envoy's hidden 5, 10s, 30s and 10 (semantics 4.1).
            self.ours(
                Stricter::DefaultUnseen,
                detection.contains_key(field),
                path,
                &format!("{field} must be written"),
            );
        }
        for field in ["consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveLocalOriginFailures"] {
            self.integer(&format!("{path}.{field}"), detection.get(field), UINT32);
        }
        self.duration(path, &detection, "interval");
        self.duration(path, &detection, "baseEjectionTime");
        for field in ["maxEjectionPercent", "minHealthPercent"] {
            let path = format!("{path}.{field}");
            if let Some(percent) = self.integer(&path, detection.get(field), INT32) {
                self.istio((0..=100).contains(&percent), &path, "must be from 0 to 100");
                let zero = field == "maxEjectionPercent" && percent == 0;
                self.ours(Stricter::ZeroIsUnset, !zero, &path, "0 is Envoy's 10");
            }
        }
        let split = detection.get("splitExternalLocalOriginErrors");
        let path_of = |field: &str| format!("{path}.{field}");
        self.istio(
            split.is_none_or(Value::is_boolean),
            &path_of("splitExternalLocalOriginErrors"),
            "must be true or false",
        );
        let local = detection.get("consecutiveLocalOriginFailures");
        let counts = local.and_then(whole).is_some_and(|number| number > 0);
        let path = path_of("consecutiveLocalOriginFailures");
        self.istio(!counts || split == Some(&Value::Bool(true)), &path, "only with the split");
        self.ours(Stricter::ZeroIsUnset, local.is_none() || counts, &path, "0 is off");
    }

    /// Of istio `validateLoadBalancer` only what we write: locality failover, off.
    fn load_balancer(&mut self, path: &str, balancer: Option<&Value>) {
        let Some(balancer) = balancer.and_then(|value| self.filled(path, value, &["localityLbSetting"])) else {
            return;
        };
        let path = format!("{path}.localityLbSetting");
        let Some(setting) = balancer.get("localityLbSetting") else { return };
        let Some(setting) = self.filled(&path, setting, &["enabled"]) else { return };
        let Some(enabled) = setting.get("enabled") else { return };
        self.istio(enabled.is_boolean(), &path, "enabled must be true or false");
        self.ours(Stricter::FailoverOn, enabled == &Value::Bool(false), &path, "enabled must be false");
    }

    /// The webhook has no rule for it, the CRD has `percent` from 0 to 100 (semantics 6.3). Both are
    /// always written (istio#59504), and 0 would be 3 for the least number (measured M29).
    fn retry_budget(&mut self, policy: &Map<String, Value>) {
        let path = "spec.trafficPolicy.retryBudget";
        let known = ["percent", "minRetryConcurrency"];
        let Some(budget) = policy.get("retryBudget").and_then(|value| self.object(path, value, &known)) else { return };
        for field in known {
            self.ours(Stricter::DefaultUnseen, budget.contains_key(field), path, &format!("{field} must be written"));
        }
        if let Some(value) = budget.get("percent") {
            let percent = value.as_f64();
            let path = format!("{path}.percent");
            self.istio(percent.is_some_and(|n| (0.0..=100.0).contains(&n)), &path, "must be from 0 to 100");
            self.ours(Stricter::ZeroIsUnset, percent != Some(0.0), &path, "0 is no budget");
            let is_whole = percent.is_none_or(|n| n.fract() == 0.0);
            self.ours(Stricter::NotWhole, is_whole, &path, "must be a whole number");
        }
        let path_of_least = format!("{path}.minRetryConcurrency");
        if let Some(least) = self.integer(&path_of_least, budget.get("minRetryConcurrency"), UINT32) {
            self.ours(Stricter::ZeroIsUnset, least != 0, &path_of_least, "0 is Envoy's 3");
        }
        let alone = !policy.contains_key("portLevelSettings");
        self.ours(Stricter::BudgetWithPorts, alone, path, "not together with portLevelSettings");
    }

    /// istio `validatePortTrafficPolicies`, and what it leaves out: the range of the port, and that the
    /// first of two entries for one port counts alone (measured M55, M82).
    fn port_level_settings(&mut self, policy: &Map<String, Value>) {
        /// The CRD's `maxItems`.
        const MOST: usize = 4096;
        let path = "spec.trafficPolicy.portLevelSettings";
        let entries = self.list(path, policy.get("portLevelSettings"));
        self.istio(entries.len() <= MOST, path, "must have at most 4096 entries");
        let filled = !policy.contains_key("portLevelSettings") || !entries.is_empty();
        self.ours(Stricter::DoesNothing, filled, path, "must have at least one entry");
        let mut ports = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let blocks = ["connectionPool", "outlierDetection", "loadBalancer"];
            let known: Vec<&str> = blocks.into_iter().chain(["port"]).collect();
            let Some(entry) = self.object(&path, entry, &known) else { continue };
            let has_block = entry.keys().any(|key| key != "port");
            self.istio(has_block, &path, "must have at least one block");
            self.blocks(&path, &entry);
            let path = format!("{path}.port");
            self.istio(entry.contains_key("port"), &path, "must be there");
            let Some(port) = entry.get("port").and_then(|port| self.object(&path, port, &["number"])) else { continue };
            let number = self.integer(&path, port.get("number"), UINT32);
            if number.is_none() && port.contains_key("number") {
                continue;
            }
            let fine = number.is_some_and(|n| (1..=65_535).contains(&n)) && !ports.contains(&number);
            self.ours(Stricter::PortUnused, fine, &path, "must be a port from 1 to 65535 that no earlier entry has");
            ports.push(number);
        }
    }
}
