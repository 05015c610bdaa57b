//! Each rule of Istio (semantics 6) for a field that we write: an object that breaks it alone is a fault.
//!
//! Judged by what our port of the rules says, not by its source, so that the port may change its words.

use std::{collections::BTreeSet, fs};

use resilience_operator::{
    cli::yaml,
    istio::{Fault, destination_rule_faults, sidecar_faults, virtual_service_faults},
};
use serde_json::{Value, json};

use crate::support::files;

/// The rule and where it is from, the field, and values that break it. Null takes the field away.
type Row = (&'static str, &'static str, &'static [&'static str]);

const COUNTER: &[&str] = &["-1", "2147483648", "\"10\"", "1.5"];
/// Rule D: at least 1ms, and whole milliseconds.
const DURATION: &[&str] = &["\"0s\"", "\"0.5ms\"", "\"1.5ms\"", "\"1us\"", "\"-1s\"", "\"10\"", "10", "\"\""];
const PORT: &[&str] = &["0", "65536", "-1", "\"http\"", "null"];
const DOMAIN: &[&str] = &[
    "\"\"",
    "\"a..b\"",
    "\"-a.example.com\"",
    "\"a b.example.com\"",
    "\"example.1\"",
    "\"a_b.example.com\"",
    "5",
    "null",
];

/// Of a DestinationRule.
const RULE: &[Row] = &[
    ("6.1 ValidateWildcardDomain; 6.3 required", "/host", DOMAIN),
    ("6.1 traffic policy must have at least one field", "/trafficPolicy", &["{}", "null"]),
    ("6.1 connection pool must have at least one field", "/trafficPolicy/connectionPool", &["{}"]),
    ("6.1 must be non-negative; 6.3 int32", "/trafficPolicy/connectionPool/tcp/maxConnections", COUNTER),
    ("6.1 rule D", "/trafficPolicy/connectionPool/tcp/connectTimeout", DURATION),
    ("6.1 rule D", "/trafficPolicy/connectionPool/tcp/idleTimeout", DURATION),
    ("6.1 rule D", "/trafficPolicy/connectionPool/tcp/maxConnectionDuration", DURATION),
    ("6.1 must be non-negative; 6.3 int32", "/trafficPolicy/connectionPool/http/http1MaxPendingRequests", COUNTER),
    ("6.1 must be non-negative; 6.3 int32", "/trafficPolicy/connectionPool/http/http2MaxRequests", COUNTER),
    ("6.1 must be non-negative; 6.3 int32", "/trafficPolicy/connectionPool/http/maxRequestsPerConnection", COUNTER),
    ("6.1 must be non-negative; 6.3 int32", "/trafficPolicy/connectionPool/http/maxRetries", COUNTER),
    ("6.3 uint32", "/trafficPolicy/outlierDetection/consecutive5xxErrors", &["-1", "4294967296", "\"5\"", "null"]),
    ("6.3 uint32", "/trafficPolicy/outlierDetection/consecutiveGatewayErrors", &["-1", "4294967296", "\"5\"", "null"]),
    ("6.3 uint32", "/trafficPolicy/outlierDetection/consecutiveLocalOriginFailures", &["-1", "4294967296", "\"5\""]),
    (
        "6.1 only with the split",
        "/trafficPolicy/outlierDetection/splitExternalLocalOriginErrors",
        &["false", "null", "\"true\""],
    ),
    ("6.1 rule D", "/trafficPolicy/outlierDetection/interval", DURATION),
    ("6.1 rule D", "/trafficPolicy/outlierDetection/baseEjectionTime", DURATION),
    (
        "6.1 0..100; 4.1: 0 is 10",
        "/trafficPolicy/outlierDetection/maxEjectionPercent",
        &["-1", "0", "101", "150", "\"50\"", "null"],
    ),
    ("6.1 0..100", "/trafficPolicy/outlierDetection/minHealthPercent", &["-1", "101", "\"50\""]),
    (
        "6.1 validateLoadBalancer, of what we write",
        "/trafficPolicy/loadBalancer/localityLbSetting/enabled",
        &["\"false\"", "0"],
    ),
    ("6.1 port entry must have a port", "/trafficPolicy/portLevelSettings/0/port/number", PORT),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/connectionPool/tcp/maxConnections", COUNTER),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/connectionPool/tcp/connectTimeout", DURATION),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/connectionPool/tcp/maxConnectionDuration",
        DURATION,
    ),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/connectionPool/http/http1MaxPendingRequests",
        COUNTER,
    ),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/connectionPool/http/http2MaxRequests", COUNTER),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/connectionPool/http/maxRequestsPerConnection",
        COUNTER,
    ),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/connectionPool/http/maxRetries", COUNTER),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/connectionPool/http/idleTimeout", DURATION),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/outlierDetection/consecutive5xxErrors", &["-1"]),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/outlierDetection/consecutiveGatewayErrors",
        &["-1"],
    ),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/outlierDetection/consecutiveLocalOriginFailures",
        &["-1"],
    ),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/outlierDetection/splitExternalLocalOriginErrors",
        &["false"],
    ),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/outlierDetection/interval", DURATION),
    ("6.1 the same block rules", "/trafficPolicy/portLevelSettings/0/outlierDetection/baseEjectionTime", DURATION),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/outlierDetection/maxEjectionPercent",
        &["0", "101"],
    ),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/outlierDetection/minHealthPercent",
        &["-1", "101"],
    ),
    (
        "6.1 the same block rules",
        "/trafficPolicy/portLevelSettings/0/loadBalancer/localityLbSetting/enabled",
        &["\"false\""],
    ),
    (
        "6.1 entry of at least one block",
        "/trafficPolicy/portLevelSettings/0",
        &["null", "{\"port\": {\"number\": 80}}"],
    ),
    (
        "6.1 not validated by Istio: a second entry for a port",
        "/trafficPolicy/portLevelSettings/1/port/number",
        &["80"],
    ),
];

/// Of a DestinationRule with a retry budget.
const BUDGET: &[Row] = &[
    ("6.3 percent 0..100; ours 1..100", "/trafficPolicy/retryBudget/percent", &["-1", "101", "\"20\"", "null"]),
    ("6.3 uint32; 3.1: 0 is 3", "/trafficPolicy/retryBudget/minRetryConcurrency", &["-1", "0", "4294967296", "null"]),
    (
        "2.1 dropped at a port with an entry",
        "/trafficPolicy/portLevelSettings",
        &["[{\"port\": {\"number\": 80}, \"connectionPool\": {\"tcp\": {\"maxConnections\": 1}}}]"],
    ),
];

/// Of a VirtualService.
const SERVICE: &[Row] = &[
    ("6.2 at least one host", "/hosts", &["[]", "null"]),
    (
        "6.2 each a valid domain",
        "/hosts/0",
        &["\"\"", "\"a..b\"", "\"a b.example.com\"", "\"example.1\"", "\"*\"", "5"],
    ),
    (
        "validateExportTo: names, each once, and * alone",
        "/exportTo/0",
        &["\"~\"", "\"no name\"", "\"\"", "\"web\"", "\"*\"", "5"],
    ),
    ("6.2 at least one of http, tcp, tls", "/http", &["[]", "null"]),
    ("6.2 route not null", "/http/0", &["null", "{}"]),
    ("6.2 exactly one of route, redirect, directResponse", "/http/0/route", &["[]", "null"]),
    (
        "6.2 destination: a valid host, not *",
        "/http/0/route/0/destination/host",
        &["\"\"", "\"*\"", "\"a..b\"", "null"],
    ),
    ("6.2 port 1..65535", "/http/0/route/0/destination/port/number", PORT),
    ("6.2 port 0 or 1..65535", "/http/0/match/0/port", &["65536", "-1", "\"http\""]),
    ("6.2 StringMatch", "/http/0/match/0/method/exact", &["5", "null"]),
    ("6.2 rule D", "/http/0/timeout", DURATION),
    ("6.2 attempts >= 0, and 0 alone", "/http/0/retries/attempts", &["-1", "0", "\"2\""]),
    ("6.2 rule D", "/http/0/retries/perTryTimeout", DURATION),
    ("6.2 rule D", "/http/0/retries/backoff", DURATION),
    (
        "6.2 split on commas without trimming, each a word or a known status",
        "/http/0/retries/retryOn",
        &["\"5xx, reset\"", "\"foo\"", "\"299\"", "\"520\"", "\"1000\""],
    ),
];

/// Of a Sidecar.
const SIDECAR: &[Row] = &[
    ("6.1 empty configuration provided", "/inboundConnectionPool", &["null", "{}"]),
    ("ValidateAlphaWorkloadSelector; without labels it is for all pods", "/workloadSelector", &["null", "{}"]),
    (
        "ValidateAlphaWorkloadSelector; the CRD's maxLength",
        "/workloadSelector/labels/app",
        &["\"*\"", "5", "\"a123456789b123456789c123456789d123456789e123456789f123456789g1234\""],
    ),
    ("6.1 must be non-negative; 6.3 int32", "/inboundConnectionPool/tcp/maxConnections", COUNTER),
    ("6.1 rule D", "/inboundConnectionPool/tcp/connectTimeout", DURATION),
    ("6.1 rule D", "/inboundConnectionPool/tcp/idleTimeout", DURATION),
    ("6.1 rule D", "/inboundConnectionPool/tcp/maxConnectionDuration", DURATION),
    ("6.1 must be non-negative; 6.3 int32", "/inboundConnectionPool/http/http1MaxPendingRequests", COUNTER),
    ("6.1 must be non-negative; 6.3 int32", "/inboundConnectionPool/http/http2MaxRequests", COUNTER),
    ("6.1 must be non-negative; 6.3 int32", "/inboundConnectionPool/http/maxRequestsPerConnection", COUNTER),
];

/// Fields that Istio has no rule for.
const FREE: [&str; 2] = ["/http/0/name", "/workloadSelector/labels/tier"];

fn rule() -> Value {
    let pool = |idle: &str| {
        json!({
            "tcp": {"maxConnections": 1, "connectTimeout": "1s", "maxConnectionDuration": "1h"},
            "http": {
                "http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1, "maxRetries": 1,
                "idleTimeout": idle,
            },
        })
    };
    let mut top = pool("1m");
    top["http"].as_object_mut().expect("an object").remove("idleTimeout");
    top["tcp"]["idleTimeout"] = json!("1m");
    let detection = json!({
        "consecutive5xxErrors": 5, "consecutiveGatewayErrors": 3, "consecutiveLocalOriginFailures": 2,
        "splitExternalLocalOriginErrors": true, "interval": "10s", "baseEjectionTime": "30s",
        "maxEjectionPercent": 50, "minHealthPercent": 10,
    });
    let balancer = json!({"localityLbSetting": {"enabled": false}});
    let entry = |port: u16| {
        json!({
            "port": {"number": port}, "connectionPool": pool("1m"), "outlierDetection": detection,
            "loadBalancer": balancer,
        })
    };
    json!({
        "host": "x.default.svc.cluster.local",
        "trafficPolicy": {
            "connectionPool": top, "outlierDetection": detection, "loadBalancer": balancer,
            "portLevelSettings": [entry(80), entry(81)],
        },
    })
}

fn budget() -> Value {
    json!({
        "host": "x.default.svc.cluster.local",
        "trafficPolicy": {"retryBudget": {"percent": 20, "minRetryConcurrency": 3}},
    })
}

fn sidecar() -> Value {
    json!({
        "workloadSelector": {"labels": {"app": "x"}},
        "inboundConnectionPool": {
            "tcp": {
                "maxConnections": 1, "connectTimeout": "1s", "idleTimeout": "1m", "maxConnectionDuration": "1h",
            },
            "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1},
        },
    })
}

fn service() -> Value {
    let host = "x.default.svc.cluster.local";
    let route = json!([{"destination": {"host": host, "port": {"number": 80}}}]);
    json!({
        "hosts": [host],
        "exportTo": [".", "web"],
        "http": [
            {
                "name": "port-80-retried", "match": [{"port": 80, "method": {"exact": "GET"}}], "route": route,
                "timeout": "7s",
                "retries": {"attempts": 2, "retryOn": "reset,503", "perTryTimeout": "2s", "backoff": "25ms"},
            },
            {"name": "port-80", "match": [{"port": 80}], "route": route, "retries": {"attempts": 0}},
        ],
    })
}

/// The object with one value changed; null takes it away.
fn broken(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} is not in the object"));
    match (parent, value) {
        (Value::Object(map), Value::Null) => drop(map.remove(key).unwrap_or_else(|| panic!("{pointer} is not there"))),
        (Value::Object(map), value) => drop(map.insert(key.to_owned(), value)),
        (Value::Array(list), value) => list[key.parse::<usize>().expect("an index")] = value,
        _ => panic!("{pointer} is in nothing"),
    }
    object
}

#[test]
fn every_rule_of_istio_is_a_fault_by_itself() {
    type Judge = fn(&Value) -> Vec<Fault>;
    let tables: [(&[Row], Value, Judge); 4] = [
        (SIDECAR, sidecar(), sidecar_faults),
        (RULE, rule(), destination_rule_faults),
        (BUDGET, budget(), destination_rule_faults),
        (SERVICE, service(), virtual_service_faults),
    ];
    let mut passed = Vec::new();
    for (rows, whole, judge) in tables {
        assert_eq!(judge(&whole), Vec::<Fault>::new(), "what the table starts from breaks no rule");
        for (rule, pointer, values) in rows {
            for value in *values {
                let bad = broken(whole.clone(), pointer, serde_json::from_str(value).expect("it is JSON"));
                if judge(&bad).is_empty() {
                    passed.push(format!("{pointer}: {value} ({rule})"));
                }
            }
        }
    }
    assert!(passed.is_empty(), "no fault by our port of the rules:\n{}", passed.join("\n"));
}

/// Pointers to every field of an object that holds no others, lists by their first entry.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| fields(inner, &format!("{at}/{key}"), found)),
        Value::Array(list) => list.iter().for_each(|inner| fields(inner, &format!("{at}/0"), found)),
        _ => drop(found.insert(at.to_owned())),
    }
}

#[test]
fn every_field_that_we_write_has_its_rules() {
    let mut written = BTreeSet::new();
    for path in files("tests/translate", ".out.yaml") {
        let text = fs::read_to_string(&path).expect("it can be read");
        for object in yaml::documents(&text).into_iter().map(|document| document.expect("it is YAML")) {
            if object["apiVersion"] == "networking.istio.io/v1" {
                fields(&object["spec"], "", &mut written);
            }
        }
    }
    assert!(written.len() > 40, "only {} fields: are they still read?", written.len());
    let known: BTreeSet<String> =
        [SIDECAR, RULE, BUDGET, SERVICE].concat().iter().map(|(_, pointer, _)| (*pointer).to_owned()).collect();
    let without: Vec<&String> =
        written.iter().filter(|field| !known.contains(*field) && !FREE.contains(&field.as_str())).collect();
    assert!(without.is_empty(), "no rule is listed for {without:?}");
    let leaf = |pointer: &&Row| {
        ![
            "/inboundConnectionPool",
            "/workloadSelector",
            "/trafficPolicy",
            "/trafficPolicy/connectionPool",
            "/trafficPolicy/portLevelSettings",
            "/hosts",
            "/http",
        ]
        .contains(&pointer.1)
            && !pointer.1.ends_with("/0")
            && !pointer.1.contains("/1/")
            && !pointer.1.ends_with("/route")
    };
    let all = [SIDECAR, RULE, BUDGET, SERVICE].concat();
    let gone: Vec<&str> =
        all.iter().filter(leaf).map(|row| row.1).filter(|pointer| !written.contains(*pointer)).collect();
    assert!(gone.is_empty(), "no golden file writes {gone:?}");
}
