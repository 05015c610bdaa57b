//! What Envoy makes of what it is sent: two configurations that mean the same to it become one.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Envoy's own value of each field of an outlier detection that is left out (its API,
/// `envoy/config/cluster/v3/outlier_detection.proto`).
const DETECTION: [(&str, &str); 6] = [
    ("consecutive5xx", "5"),
    ("enforcingConsecutive5xx", "100"),
    ("enforcingConsecutiveGatewayFailure", "0"),
    ("interval", "\"10s\""),
    ("baseEjectionTime", "\"30s\""),
    ("maxEjectionPercent", "10"),
];

/// Makes a configuration one with all that means the same.
pub fn meant(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(meant);
            object(fields);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(meant);
            methods(items);
        }
        _ => {}
    }
}

fn object(fields: &mut Map<String, Value>) {
    if let Some(Value::Object(detection)) = fields.get_mut("outlierDetection") {
        for (name, value) in DETECTION {
            detection.entry(name).or_insert_with(|| value.parse().unwrap());
        }
        // What is not enforced is counted for nothing.
        if detection["enforcingConsecutiveGatewayFailure"] == 0 {
            detection.remove("consecutiveGatewayFailure");
        }
    }
    // A budget takes the place of the limit.
    if fields.contains_key("retryBudget") {
        fields.remove("maxRetries");
    }
    // So it is when nothing is said.
    if fields.get("caseSensitive") == Some(&json!(true)) {
        fields.remove("caseSensitive");
    }
    if fields.get("metadata") == Some(&json!({"filterMetadata": {"istio": {}}})) {
        fields.remove("metadata");
    }
    let has_codes = fields.contains_key("retriableStatusCodes");
    if let Some(Value::String(words)) = fields.get_mut("retryOn") {
        let means = |word: &&str| has_codes || *word != "retriable-status-codes";
        *words = words.split(',').filter(means).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
    }
}

/// Routes of one method each take different calls: side by side their order is nothing.
fn methods(routes: &mut [Value]) {
    let of_one_method = |route: &Value| -> Option<String> {
        let [header] = route.pointer("/match/headers")?.as_array()?.as_slice() else { return None };
        let all = route.pointer("/match/prefix").and_then(Value::as_str) == Some("/");
        let method = header.pointer("/stringMatch/exact")?.as_str()?;
        (all && header["name"] == ":method").then(|| method.to_owned())
    };
    for run in routes.chunk_by_mut(|one, other| of_one_method(one).is_some() && of_one_method(other).is_some()) {
        run.sort_by_key(of_one_method);
    }
}

#[test]
fn what_means_something_else_stays_apart() {
    let same = |one: Value, other: Value| {
        let (mut one, mut other) = (one, other);
        meant(&mut one);
        meant(&mut other);
        one == other
    };
    let detection = |fields: Value| json!({"outlierDetection": fields});
    assert!(same(detection(json!({})), detection(json!({"consecutive5xx": 5, "interval": "10s"}))));
    assert!(!same(detection(json!({})), detection(json!({"consecutive5xx": 6}))));
    assert!(!same(detection(json!({})), json!({})));
    assert!(!same(json!({"maxRetries": 1}), json!({"maxRetries": 2})));
    assert!(same(json!({"retryOn": "a,b"}), json!({"retryOn": "b,a,retriable-status-codes"})));
    assert!(!same(json!({"retryOn": "a,b"}), json!({"retryOn": "a"})));
    let route = |method: &str, to: &str| {
        let header = json!({"name": ":method", "stringMatch": {"exact": method}});
        json!({"match": {"prefix": "/", "headers": [header]}, "to": to})
    };
    let last = json!({"match": {"prefix": "/"}});
    assert!(same(
        json!([route("GET", "a"), route("PUT", "b"), last]),
        json!([route("PUT", "b"), route("GET", "a"), last])
    ));
    assert!(!same(json!([route("GET", "a"), last]), json!([last, route("GET", "a")])));
}
