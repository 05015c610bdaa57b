//! What the API server and Istio's webhook take and refuse.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bench::{rule, same, with_spec};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::run::{Finished, finish_with_input, tail};

const CLAIMS: &[Claim<Kubectl>] = &[
    Claim {
        ids: &["M77"],
        says: "an unknown field: refused when strict, dropped with a warning or in silence otherwise, and really gone",
        judge: an_unknown_field_is_dropped,
    },
    Claim {
        ids: &["M78"],
        says: "an unknown field in a server-side apply: refused whatever is asked, as a failure of the server",
        judge: an_unknown_field_is_refused_by_apply,
    },
    Claim {
        ids: &["M79"],
        says: "Istio's webhook is there under both names, must be asked, and answers dry runs",
        judge: the_webhook_must_be_asked,
    },
    Claim { ids: &["M80"], says: "what the schema refuses", judge: |kubectl| judge_rows(kubectl, &schema_refuses()) },
    Claim {
        ids: &["M81"],
        says: "what only Istio's webhook refuses",
        judge: |kubectl| judge_rows(kubectl, &webhook_refuses()),
    },
    Claim {
        ids: &["M82"],
        says: "what is taken although it does nothing, or harm",
        judge: |kubectl| judge_rows(kubectl, &taken()),
    },
    Claim {
        ids: &["M83"],
        says: "an apply of a status: whatever uid it has it is taken, and of another resourceVersion it is not",
        judge: a_status_is_taken_for_another_uid,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "admission", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-admission", |kubectl| {
        judge.all(kubectl, CLAIMS, |kubectl| kubectl.run(&["delete", "destinationrules", "--all", "--wait"]).map(drop));
        Ok(())
    })
}

/// With a condition of nobody's, which the operator leaves alone.
fn a_status_is_taken_for_another_uid(kubectl: &Kubectl) -> Result<()> {
    let policy = json!({"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": "a"},
        "spec": {"mode": "Observe", "targetRefs": [{"kind": "Service", "name": "a"}], "timeouts": {"request": "1s"}}});
    kubectl.apply(&policy.to_string())?;
    let status_for = |kind: &str, key: &str, value: &str| {
        let condition = json!({"type": kind, "status": "True", "reason": "Asked", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"apiVersion": policy["apiVersion"], "kind": "Resilience",
            "metadata": {"name": "a", key: value}, "status": {"conditions": [condition]}});
        let args = ["apply", "--server-side", "--subresource=status", "--field-manager=measured", "-f", "-"];
        asked(kubectl, &args, &status)
    };
    let taken = status_for("Foreign", "uid", "00000000-0000-4000-8000-000000000000")?;
    ensure!(taken.status.success(), "another uid was refused: {}", taken.all());
    let there = kubectl.json(&["get", "resilience", "a"])?;
    ensure!(there["status"].to_string().contains("\"Foreign\""), "it was taken and is not there: {}", there["status"]);
    let refused = status_for("Late", "resourceVersion", "1")?;
    let modified = !refused.status.success() && refused.all().contains("has been modified");
    ensure!(modified, "another version was taken: {}", refused.all());
    kubectl.run(&["delete", "resilience", "a"]).map(drop)
}

/// A field that a later Istio may know stands for an older schema, which does not know ours.
fn with_unknown_field(name: &str) -> Value {
    rule(name, "httpbin", json!({"connectionPool": {"http": {"http2MaxRequests": 7, "futureKnob": 1}}}))
}

fn an_unknown_field_is_dropped(kubectl: &Kubectl) -> Result<()> {
    let namespace = kubectl.current_namespace();
    let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destinationrules");
    // kubectl asks for Strict unless told otherwise; a raw request asks for nothing.
    let rows: [(&str, &[&str], bool, bool); 4] = [
        ("strict", &["create", "--validate=strict", "-f", "-"], false, false),
        ("warn", &["create", "--validate=warn", "-f", "-"], true, true),
        ("nothing", &["create", "--raw", &path, "-f", "-"], true, true),
        ("ignore", &["create", "--validate=ignore", "-f", "-"], true, false),
    ];
    for (name, command, taken, warned) in rows {
        let answer = asked(kubectl, command, &with_unknown_field(name))?;
        let said = answer.all();
        same(&format!("{name}: taken; it said {said}"), &answer.status.success(), &taken)?;
        same(&format!("{name}: warned; it said {said}"), &said.contains("Warning: unknown field"), &warned)?;
        if !taken {
            ensure!(said.contains("unknown field"), "{name}: refused for another reason: {said}");
            continue;
        }
        let stored = kubectl.json(&["get", "destinationrule", name])?;
        let http = stored.pointer("/spec/trafficPolicy/connectionPool/http");
        same(&format!("{name}: stored"), &http, &Some(&json!({"http2MaxRequests": 7})))?;
    }
    Ok(())
}

fn an_unknown_field_is_refused_by_apply(kubectl: &Kubectl) -> Result<()> {
    for validate in ["strict", "warn", "ignore"] {
        let option = format!("--validate={validate}");
        let command = ["apply", "--server-side", &option, "-v=6", "-f", "-"];
        let answer = asked(kubectl, &command, &with_unknown_field("applied"))?;
        let said = answer.all();
        ensure!(!answer.status.success(), "{validate}: taken: {said}");
        ensure!(said.contains("field not declared in schema"), "{validate}: refused for another reason: {said}");
        ensure!(said.contains("500 Internal Server Error"), "{validate}: with another code: {said}");
    }
    Ok(())
}

fn the_webhook_must_be_asked(kubectl: &Kubectl) -> Result<()> {
    for (configuration, webhook) in [
        ("istio-validator-istio-system", "rev.validation.istio.io"),
        ("istiod-default-validator", "validation.istio.io"),
    ] {
        let object = kubectl.json(&["get", "validatingwebhookconfiguration", configuration])?;
        let hooks = object["webhooks"].as_array().cloned().unwrap_or_default();
        let hook = hooks.iter().find(|hook| hook["name"] == webhook);
        let hook = hook.with_context(|| format!("{configuration} has no webhook {webhook}"))?;
        same(webhook, &(&hook["failurePolicy"], &hook["timeoutSeconds"]), &(&json!("Fail"), &json!(10)))?;
    }
    let bad = rule("bad", "httpbin", json!({"outlierDetection": {"maxEjectionPercent": 150}}));
    let answer = asked(kubectl, DRY_RUN, &bad)?;
    same(&tail(&answer.all(), 3), &layer(&answer), &Layer::Webhook)
}

const DRY_RUN: &[&str] = &["create", "--dry-run=server", "--validate=strict", "-f", "-"];

/// Who has the last word on a document.
#[derive(Debug, PartialEq, Eq)]
enum Layer {
    /// The API server refuses it by the schema.
    Schema,
    /// Istio's webhook refuses it.
    Webhook,
    /// Taken without a word.
    Taken,
    /// Taken with a warning.
    Warned,
}

fn layer(answer: &Finished) -> Layer {
    let warned = answer.stderr.contains("Warning:");
    match (answer.status.success(), answer.stderr.contains("validation.istio.io")) {
        (true, _) if warned => Layer::Warned,
        (true, _) => Layer::Taken,
        (false, true) => Layer::Webhook,
        (false, false) => Layer::Schema,
    }
}

/// A document, what is the matter with it, and who decides.
type Row = (&'static str, Value, Layer);

fn judge_rows(kubectl: &Kubectl, rows: &[Row]) -> Result<()> {
    let mut wrong = Vec::new();
    for (matter, document, claimed) in rows {
        let answer = asked(kubectl, DRY_RUN, document)?;
        let seen = layer(&answer);
        if seen != *claimed {
            wrong.push(format!("{matter}: claimed {claimed:?}, seen {seen:?}: {}", tail(&answer.all(), 3)));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    Ok(())
}

fn asked(kubectl: &Kubectl, command: &[&str], document: &Value) -> Result<Finished> {
    finish_with_input(&mut kubectl.command(command)?, &document.to_string())
}

/// A row for a rule with this traffic policy.
fn policy(matter: &'static str, policy: Value, layer: Layer) -> Row {
    (matter, rule("row", "httpbin", policy), layer)
}

fn detection(matter: &'static str, detection: &Value, layer: Layer) -> Row {
    policy(matter, json!({"outlierDetection": detection}), layer)
}

fn http(matter: &'static str, http: &Value, layer: Layer) -> Row {
    policy(matter, json!({"connectionPool": {"http": http}}), layer)
}

fn tcp(matter: &'static str, tcp: &Value, layer: Layer) -> Row {
    policy(matter, json!({"connectionPool": {"tcp": tcp}}), layer)
}

/// A row for a rule with this whole spec.
fn spec(matter: &'static str, spec: &Value, layer: Layer) -> Row {
    (matter, with_spec("DestinationRule", "row", spec), layer)
}

fn schema_refuses() -> Vec<Row> {
    use Layer::Schema;
    vec![
        detection("interval 0s", &json!({"interval": "0s"}), Schema),
        tcp("connectTimeout 0s", &json!({"connectTimeout": "0s"}), Schema),
        http("http.idleTimeout 0s", &json!({"idleTimeout": "0s"}), Schema),
        policy("warmup 0s", json!({"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "0s"}}}), Schema),
        detection("interval 10, a number", &json!({"interval": 10}), Schema),
        detection("baseEjectionTime abc", &json!({"baseEjectionTime": "abc"}), Schema),
        detection("consecutive5xxErrors -1", &json!({"consecutive5xxErrors": -1}), Schema),
        detection("consecutive5xxErrors 2^32", &json!({"consecutive5xxErrors": 4_294_967_296_u64}), Schema),
        tcp("maxConnections 2^31", &json!({"maxConnections": 2_147_483_648_u64}), Schema),
        tcp("maxConnections \"10\", a text", &json!({"maxConnections": "10"}), Schema),
        policy("a budget of 101 %", json!({"retryBudget": {"percent": 101}}), Schema),
        policy("a budget of 150 %", json!({"retryBudget": {"percent": 150}}), Schema),
    ]
}

fn webhook_refuses() -> Vec<Row> {
    use Layer::Webhook;
    let fine = json!({"outlierDetection": {"interval": "10s"}});
    let to = |export: Value| json!({"host": "httpbin", "exportTo": export, "trafficPolicy": fine.clone()});
    let subsets = json!([{"name": "v1"}, {"name": "v1"}]);
    vec![
        detection("maxEjectionPercent 150", &json!({"maxEjectionPercent": 150}), Webhook),
        detection("maxEjectionPercent -1", &json!({"maxEjectionPercent": -1}), Webhook),
        detection("minHealthPercent 101", &json!({"minHealthPercent": 101}), Webhook),
        tcp("maxConnections -5", &json!({"maxConnections": -5}), Webhook),
        detection("interval 1.5ms", &json!({"interval": "1.5ms"}), Webhook),
        detection("local origin without the split", &json!({"consecutiveLocalOriginFailures": 5}), Webhook),
        policy("an empty connectionPool", json!({"connectionPool": {}}), Webhook),
        policy("an empty traffic policy", json!({}), Webhook),
        policy("an entry without a block", json!({"portLevelSettings": [{"port": {"number": 8000}}]}), Webhook),
        http("http2KeepAlive without timeout", &json!({"http2KeepAlive": {"interval": "10s"}}), Webhook),
        spec("a host with a blank", &json!({"host": "http bin", "trafficPolicy": fine.clone()}), Webhook),
        spec("a subset twice", &json!({"host": "httpbin", "subsets": subsets}), Webhook),
        spec("exportTo ~", &to(json!(["~"])), Webhook),
        spec("exportTo twice the same", &to(json!(["default", "default"])), Webhook),
    ]
}

fn taken() -> Vec<Row> {
    use Layer::{Taken, Warned};
    let pool = json!({"http": {"http2MaxRequests": 5}});
    let beyond = json!({"portLevelSettings": [{"port": {"number": 70000}, "connectionPool": pool.clone()}]});
    let host = |host: &str| json!({"host": host, "trafficPolicy": {"connectionPool": pool.clone()}});
    let never_first = json!({"consecutiveGatewayErrors": 5, "consecutive5xxErrors": 3});
    vec![
        detection("codes, which istiod ignores", &json!({"outlierDetectionHttpErrorCodes": [500]}), Taken),
        detection("gateway 5 with 5xx 3", &never_first, Taken),
        policy("an empty half of the pool", json!({"connectionPool": {"http": {}}}), Taken),
        http("http1MaxPendingRequests 0", &json!({"http1MaxPendingRequests": 0}), Taken),
        tcp("tcp.idleTimeout 0s", &json!({"idleTimeout": "0s"}), Taken),
        policy("a budget interval of 0.5ms", json!({"retryBudget": {"budgetInterval": "0.5ms"}}), Taken),
        policy("port 70000", beyond, Taken),
        spec("a host that nobody has", &host("nobody.example.org"), Taken),
        spec("a dotted short host", &host("httpbin.default"), Taken),
        spec("no traffic policy", &json!({"host": "httpbin"}), Taken),
        detection("consecutiveErrors", &json!({"consecutiveErrors": 5}), Warned),
    ]
}

#[cfg(test)]
mod tests {
    use super::{CLAIMS, listed};
    use crate::measured::bench::each_once;

    #[test]
    fn every_measurement_of_the_family_is_judged_once() {
        each_once(listed(CLAIMS), &["M77", "M78", "M79", "M80", "M81", "M82", "M83"]);
    }
}
