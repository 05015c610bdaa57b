//! Documents whose verdict a real cluster gave (measured-2 M80 to M82), each with the layer that refuses it:
//! the oracle is worth as much as it says the same. And Sidecars, which we do not render yet.

use serde_json::{Value, json};

use crate::{Verdict, oracle, validate};

/// Who refuses a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// The CRD. The webhook may agree; on a cluster it is not asked.
    Crd,
    /// The webhook alone.
    Webhook,
    /// Nobody.
    Nobody,
}

fn layer(verdict: &Verdict) -> Layer {
    match (verdict.crd.is_empty(), verdict.webhook.is_empty()) {
        (false, _) => Layer::Crd,
        (true, false) => Layer::Webhook,
        (true, true) => Layer::Nobody,
    }
}

fn object(kind: &str, spec: &Value) -> Value {
    let metadata = json!({"name": "x", "namespace": "default"});
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// A DestinationRule of this traffic policy.
fn rule(policy: &Value) -> Value {
    object("DestinationRule", &json!({"host": "x.default.svc.cluster.local", "trafficPolicy": policy}))
}

fn ejection(block: &Value) -> Value {
    rule(&json!({ "outlierDetection": block }))
}

fn tcp(block: &Value) -> Value {
    rule(&json!({"connectionPool": {"tcp": block}}))
}

fn http(block: &Value) -> Value {
    rule(&json!({"connectionPool": {"http": block}}))
}

/// A VirtualService whose one route has these retries.
fn retries(block: &Value) -> Value {
    object(
        "VirtualService",
        &json!({"hosts": ["x"], "http": [{"route": [{"destination": {"host": "x"}}], "retries": block}]}),
    )
}

fn measured() -> Vec<(Layer, Value)> {
    use Layer::{Crd, Nobody, Webhook};
    let whole = |spec: Value| object("DestinationRule", &spec);
    vec![
        // M80
        (Crd, ejection(&json!({"interval": "0s"}))),
        (Crd, tcp(&json!({"connectTimeout": "0s"}))),
        (Crd, http(&json!({"idleTimeout": "0s"}))),
        (Crd, rule(&json!({"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "0s"}}}))),
        (Crd, ejection(&json!({"interval": 10}))),
        (Crd, ejection(&json!({"baseEjectionTime": "abc"}))),
        (Crd, ejection(&json!({"consecutive5xxErrors": -1}))),
        (Crd, ejection(&json!({"consecutive5xxErrors": 4_294_967_296_u64}))),
        (Crd, tcp(&json!({"maxConnections": 2_147_483_648_u64}))),
        (Crd, tcp(&json!({"maxConnections": "10"}))),
        (Crd, rule(&json!({"retryBudget": {"percent": 101}}))),
        (Crd, rule(&json!({"retryBudget": {"percent": 150}}))),
        // M81
        (Webhook, ejection(&json!({"maxEjectionPercent": 150}))),
        (Webhook, ejection(&json!({"maxEjectionPercent": -1}))),
        (Webhook, ejection(&json!({"minHealthPercent": 101}))),
        (Webhook, tcp(&json!({"maxConnections": -5}))),
        (Webhook, ejection(&json!({"interval": "1.5ms"}))),
        (Webhook, ejection(&json!({"consecutiveLocalOriginFailures": 5}))),
        (Webhook, rule(&json!({"connectionPool": {}}))),
        (Webhook, rule(&json!({}))),
        (Webhook, rule(&json!({"portLevelSettings": [{"port": {"number": 80}}]}))),
        (Webhook, http(&json!({"http2KeepAlive": {"interval": "1s"}}))),
        (Webhook, whole(json!({"host": "x y"}))),
        (Webhook, whole(json!({"host": "x", "subsets": [{"name": "a"}, {"name": "a"}]}))),
        (Webhook, whole(json!({"host": "x", "exportTo": ["~"]}))),
        (Webhook, whole(json!({"host": "x", "exportTo": ["a", "a"]}))),
        // M82
        (Nobody, ejection(&json!({"consecutive5xxErrors": 5, "outlierDetectionHttpErrorCodes": [500]}))),
        (Nobody, ejection(&json!({"consecutive5xxErrors": 3, "consecutiveGatewayErrors": 5}))),
        (Nobody, http(&json!({}))),
        (Nobody, http(&json!({"http1MaxPendingRequests": 0}))),
        (Nobody, tcp(&json!({"idleTimeout": "0s"}))),
        (Nobody, rule(&json!({"retryBudget": {"percent": 20, "budgetInterval": "0.5ms"}}))),
        (
            Nobody,
            rule(
                &json!({"portLevelSettings": [{"port": {"number": 70000}, "connectionPool": {"tcp": {"maxConnections": 1}}}]}),
            ),
        ),
        (Nobody, whole(json!({"host": "nobody.nowhere.example"}))),
        (Nobody, whole(json!({"host": "httpbin.default"}))),
        (Nobody, ejection(&json!({"consecutiveErrors": 5}))),
        // M18 to M21
        (Webhook, retries(&json!({"attempts": -1}))),
        (Webhook, retries(&json!({"attempts": 0, "retryOn": "reset"}))),
        (Webhook, retries(&json!({"attempts": 2, "retryOn": "5xx, reset"}))),
        (Nobody, retries(&json!({"attempts": 2, "retryOn": "retriable-status-codes"}))),
        // M77: strict field validation.
        (Crd, rule(&json!({"connectionPool": {"tcp": {"maxConnections": 1}}, "futureKnob": 1}))),
    ]
}

#[test]
fn documents_are_refused_by_the_layer_that_refused_them_on_a_cluster() {
    let documents = measured();
    let objects: Vec<Value> = documents.iter().map(|(_, object)| object.clone()).collect();
    let verdicts = validate(&mut oracle(), &objects);
    let wrong: Vec<String> = documents
        .iter()
        .zip(&verdicts)
        .filter(|((wanted, _), verdict)| layer(verdict) != *wanted)
        .map(|((wanted, object), verdict)| format!("{wanted:?} should refuse {object}: {verdict:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let warned: Vec<&Value> = objects
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| !verdict.warnings.is_empty())
        .map(|(object, _)| object)
        .collect();
    assert_eq!(warned, [&ejection(&json!({"consecutiveErrors": 5}))], "the only one that M82 has a warning for");
}

#[test]
fn sidecars_are_judged_as_istio_judges_them() {
    use Layer::{Crd, Nobody, Webhook};
    let egress = json!([{"hosts": ["./*", "istio-system/*"]}]);
    let selector = json!({"labels": {"app": "x"}});
    let ingress = |pool: Value| {
        let port = json!({"number": 9080, "protocol": "HTTP", "name": "http"});
        json!({"workloadSelector": selector, "ingress": [{"port": port, "defaultEndpoint": "127.0.0.1:8080", "connectionPool": pool}]})
    };
    let documents = [
        (Nobody, json!({ "egress": egress })),
        (
            Nobody,
            json!({"workloadSelector": selector, "egress": egress, "outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}),
        ),
        (Nobody, json!({"inboundConnectionPool": {"http": {"http2MaxRequests": 100}}})),
        (Nobody, ingress(json!({"http": {"http2MaxRequests": 10}}))),
        (Webhook, json!({"egress": [{"hosts": ["x"]}]})),
        (Webhook, json!({"egress": [{"hosts": []}]})),
        (Webhook, json!({"inboundConnectionPool": {}})),
        (Webhook, json!({"inboundConnectionPool": {"tcp": {"maxConnections": -1}}})),
        (Webhook, ingress(json!({}))),
        (Crd, json!({"workloadSelector": {"labels": {"app": "*"}}, "egress": egress})),
        (Crd, json!({"egress": [{"hosts": "*/*"}]})),
        (Crd, json!({"egress": egress, "outboundTrafficPolicy": {"mode": "SOMETIMES"}})),
        (Crd, json!({"inboundConnectionPool": {"tcp": {"connectTimeout": "0s"}}})),
        (Crd, json!({ "egres": egress })),
    ];
    let objects: Vec<Value> = documents.iter().map(|(_, spec)| object("Sidecar", spec)).collect();
    let verdicts = validate(&mut oracle(), &objects);
    let wrong: Vec<String> = documents
        .iter()
        .zip(&verdicts)
        .filter(|((wanted, _), verdict)| layer(verdict) != *wanted)
        .map(|((wanted, spec), verdict)| format!("{wanted:?} should refuse {spec}: {verdict:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
