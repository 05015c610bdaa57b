//! What a DestinationRule means to istiod, port by port, hidden defaults filled in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::words::{Words, duration, items, leaves, text};
use crate::{
    istio::{Protocol, resolve_host},
    observed::ServiceView,
};

/// What a rule means: of each port of the target, of every other one, and of the host as such.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Meaning {
    /// By port; `None`: every port without an entry that the target has not.
    pub(super) ports: BTreeMap<Option<u16>, Words>,
    /// What is not of a port.
    pub(super) whole: Words,
}

/// One thing that two specs mean differently.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) port: Option<u16>,
    pub(super) path: String,
    pub(super) theirs: Option<Value>,
    pub(super) ours: Option<Value>,
}

/// The policy that holds for a port: an entry takes the place of all that stands above it (measured M55), the
/// first one if there are several (measured M55).
pub(super) fn of_port(spec: &Value, port: Option<u16>) -> Value {
    let policy = spec.get("trafficPolicy").cloned().unwrap_or_default();
    let entries = items(&policy, "portLevelSettings");
    let number = |entry: &&Value| entry.pointer("/port/number").and_then(Value::as_u64) == port.map(u64::from);
    if let Some(entry) = port.and_then(|_| entries.iter().find(number)) {
        let blocks = ["connectionPool", "outlierDetection", "loadBalancer", "tls"];
        return blocks.into_iter().filter_map(|block| Some((block.to_owned(), entry.get(block)?.clone()))).collect();
    }
    let mut top = policy;
    if let Some(fields) = top.as_object_mut() {
        fields.remove("portLevelSettings");
    }
    top
}

impl Meaning {
    /// Of a rule in `namespace`, for a target.
    pub(super) fn of(spec: &Value, namespace: &str, service: &ServiceView, cluster_domain: &str) -> Self {
        let known = service.ports.iter().map(|port| (Some(port.number), Some(port.protocol)));
        let top = spec.pointer("/trafficPolicy/connectionPool").cloned().unwrap_or_default();
        let ports = known.chain([(None, None)]).map(|(port, protocol)| {
            let mut words = meaning(&of_port(spec, port));
            // The listener's times are read at the top alone (istio `pilot/pkg/networking/core/networkfilter.go`;
            // claim R3.1b), and matter where something else than HTTP may come.
            if !protocol.is_some_and(|protocol| matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc)) {
                for field in ["idleTimeout", "maxConnectionDuration"] {
                    if let Some(value) = top.pointer(&format!("/tcp/{field}")) {
                        words.insert(format!("connectionPool.tcp.{field} (of listeners)"), duration(value));
                    }
                }
            }
            (port, words)
        });
        let ports = ports.collect();
        let mut whole = Words::new();
        for (key, value) in super::words::fields(Some(spec)) {
            match key.as_str() {
                "trafficPolicy" => {}
                "host" => {
                    let host = resolve_host(value.as_str().unwrap_or_default(), namespace, cluster_domain);
                    whole.insert(key.clone(), host.into());
                }
                // As unset, unless the mesh's own default is another (meshConfig.defaultDestinationRuleExportTo).
                "exportTo" if *value == json!(["*"]) || *value == json!([]) => {}
                "subsets" if *value == json!([]) => {}
                _ => drop(whole.insert(key.clone(), value.clone())),
            }
        }
        Self { ports, whole }
    }

    /// What is not the same.
    pub(super) fn differences(&self, ours: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        compare(None, &self.whole, &ours.whole, &mut found);
        let none = Words::new();
        let mut ports: Vec<&Option<u16>> = self.ports.keys().chain(ours.ports.keys()).collect();
        ports.sort();
        ports.dedup();
        for port in ports {
            let (theirs, ours) = (self.ports.get(port).unwrap_or(&none), ours.ports.get(port).unwrap_or(&none));
            compare(*port, theirs, ours, &mut found);
        }
        found
    }
}

fn compare(port: Option<u16>, theirs: &Words, ours: &Words, found: &mut Vec<Difference>) {
    let mut paths: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (theirs, ours) = (theirs.get(path), ours.get(path));
        if theirs != ours {
            found.push(Difference { port, path: path.clone(), theirs: theirs.cloned(), ours: ours.cloned() });
        }
    }
}

/// What a traffic policy means: leaves in one form, without what says nothing, with what acts unsaid.
pub(super) fn meaning(policy: &Value) -> Words {
    let mut words = Words::new();
    leaves("", policy, &mut words);
    words.retain(|path, value| !says_nothing(path, value));
    for (path, value) in &mut words {
        if path.starts_with("connectionPool.") || path.starts_with("outlierDetection.") {
            *value = duration(value);
        }
    }
    idle(&mut words);
    if policy.get("outlierDetection").is_some_and(|block| !block.is_null()) {
        detection(&mut words);
    }
    if policy.get("retryBudget").is_some_and(|block| !block.is_null()) {
        words.remove("retryBudget");
        fill(&mut words, "retryBudget.percent", json!(20));
        if words.get("retryBudget.minRetryConcurrency").is_none_or(|least| *least == json!(0)) {
            words.insert("retryBudget.minRetryConcurrency".to_owned(), json!(3));
        }
        // Envoy takes the budget (measured M29).
        words.remove("connectionPool.http.maxRetries");
    }
    words
}

/// Istio reads 0 as unset in the whole pool (semantics 3.1), and some words are the default.
fn says_nothing(path: &str, value: &Value) -> bool {
    match path {
        // Empty blocks, and what is deprecated and read by nobody (semantics 4.1).
        "" | "connectionPool" | "connectionPool.tcp" | "connectionPool.http" | "outlierDetection.consecutiveErrors" => {
            true
        }
        "connectionPool.http.h2UpgradePolicy" => *value == json!("DEFAULT"),
        "connectionPool.http.useClientProtocol" => *value == json!(false),
        "loadBalancer.simple" => matches!(text(value).as_str(), "LEAST_REQUEST" | "UNSPECIFIED"),
        "retryBudget.budgetInterval" => text(value) == "0s",
        _ if path.starts_with("connectionPool.") => *value == json!(0),
        _ => false,
    }
}

/// The time of HTTP is that of TCP where it has none of its own (claim R3.1a).
fn idle(words: &mut Words) {
    if let Some(time) = words.remove("connectionPool.tcp.idleTimeout") {
        words.entry("connectionPool.http.idleTimeout".to_owned()).or_insert(time);
    }
}

/// What acts once the block is there, be it empty (semantics 4.1).
fn detection(words: &mut Words) {
    words.remove("outlierDetection");
    let at = |field: &str| format!("outlierDetection.{field}");
    fill(words, &at("consecutive5xxErrors"), json!(5));
    fill(words, &at("consecutiveGatewayErrors"), json!(0));
    fill(words, &at("interval"), json!("10000ms"));
    fill(words, &at("baseEjectionTime"), json!("30000ms"));
    fill(words, &at("minHealthPercent"), json!(0));
    if words.get(&at("maxEjectionPercent")).is_none_or(|percent| *percent == json!(0)) {
        words.insert(at("maxEjectionPercent"), json!(10));
    }
    let split = words.remove(&at("splitExternalLocalOriginErrors")) == Some(json!(true));
    let failures = words.remove(&at("consecutiveLocalOriginFailures"));
    if split {
        let failures = failures.filter(|failures| *failures != json!(0)).unwrap_or(json!(5));
        words.insert(at("splitExternalLocalOriginErrors"), json!(true));
        words.insert(at("consecutiveLocalOriginFailures"), failures);
    }
}

fn fill(words: &mut Words, path: &str, value: Value) {
    words.entry(path.to_owned()).or_insert(value);
}
