//! Policies: legal ones give objects that Istio takes, nearly legal ones get one verdict from us and from
//! the API server.

use futures::{StreamExt, stream};
use kube::Client;
use proptest::prelude::*;
use resilience_operator::{
    api::{Resilience, schema::decode},
    istio::{Kind, spec_faults},
    names,
    runtime::client::connect,
};
use serde_json::{Value, json};

use crate::{
    draw::{COUNT, each},
    fitting::{Fitting, NAMESPACE, fitting},
    legal::UID,
    lines::Oracle,
    mutate::{Change, Vocabulary, changes},
    oracle, validate,
};

/// What is rendered from each policy must pass our port and both layers of Istio; which policies and which
/// objects those are, the callers count.
fn all_pass(oracle: &mut Oracle, rendered: &[Result<Vec<(Kind, Value)>, String>]) -> Vec<Result<(), String>> {
    let objects: Vec<Value> = rendered.iter().flatten().flatten().map(|(_, object)| object.clone()).collect();
    let mut verdicts = validate(oracle, &objects).into_iter();
    let judge = |one: &Result<Vec<(Kind, Value)>, String>| {
        let mut failed = Vec::new();
        for (kind, object) in one.as_ref().map_err(Clone::clone)? {
            let verdict = verdicts.next().expect("a verdict for each object");
            if !verdict.accepts() {
                failed.push(format!("Istio refuses what we render: {verdict:?}: {object}"));
            }
            for fault in spec_faults(*kind, &object["spec"]) {
                failed.push(format!("our own rules refuse what we render: {fault}: {object}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
    };
    rendered.iter().map(judge).collect()
}

fn render(case: &Fitting, policy: &Resilience) -> Result<Vec<(Kind, Value)>, String> {
    let objects = case.render(policy).map_err(|refusal| format!("{refusal:?}"))?;
    Ok(objects.into_iter().map(|object| (object.kind, object.json)).collect())
}

#[test]
fn ten_thousand_legal_policies_are_taken_by_istios_own_validators() {
    let mut oracle = oracle();
    let (mut sidecars, mut rules, mut routes, mut entries) = (0, 0, 0, 0);
    each(&fitting(), |cases| {
        // A target that Istio would not take itself would prove nothing.
        let targets: Vec<Value> =
            cases.iter().map(|case| case.target.clone()).filter(|target| target["kind"] == "ServiceEntry").collect();
        entries += targets.len();
        for (target, verdict) in targets.iter().zip(validate(&mut oracle, &targets)) {
            assert!(verdict.accepts(), "the ServiceEntry itself is refused: {verdict:?}: {target}");
        }
        let rendered: Vec<_> = cases
            .iter()
            .map(|case| {
                render(case, &case.policy).map_err(|refusal| {
                    format!("we refuse a legal policy: {refusal}: {} for {}", json!(case.policy), case.target)
                })
            })
            .collect();
        for (kind, _) in rendered.iter().flatten().flatten() {
            *match kind {
                Kind::Sidecar => &mut sidecars,
                Kind::DestinationRule => &mut rules,
                Kind::VirtualService => &mut routes,
            } += 1;
        }
        all_pass(&mut oracle, &rendered)
    });
    println!(
        "{COUNT} policies ({entries} for ServiceEntries): {sidecars} Sidecars, {rules} DestinationRules and {routes} VirtualServices, none refused"
    );
    assert!(rules > COUNT / 2 && routes > COUNT / 4 && entries > COUNT / 5, "too few of a kind to prove anything");
    assert!(sidecars > COUNT / 20, "too few Sidecars to prove anything");
}

/// What a policy may say, at the right place or at a wrong one.
const WORDS: Vocabulary = Vocabulary {
    words: &[
        "",
        "Service",
        "ServiceEntry",
        "Deployment",
        "networking.istio.io",
        "apps",
        "resilience.dev/v1alpha1",
        "resilience.dev/v1",
        "Resilience",
        "Resiliences",
        "x",
        "a-b",
        "-a",
        "a.b",
        "A",
        "a_b",
        "1",
        "a123456789b123456789c123456789d123456789e123456789f123456789g12",
        "a123456789b123456789c123456789d123456789e123456789f123456789g1234",
        "Enforce",
        "Observe",
        "Suspend",
        "Off",
        "5xx",
        "Reset",
        "reset",
        "ConnectFailure",
        "RefusedStream",
        "GatewayError",
        "gateway-error",
        "Unavailable",
        "GET",
        "get",
        "POST",
        "CONNECT",
        "Inherit",
        "Disabled",
        "Limited",
        "Unlimited",
        "503",
        "1s",
        "ß",
        "a b",
    ],
    fields: &[
        ("spec", "{}"),
        ("metadata", r#"{"name":"x","namespace":"default"}"#),
        ("name", r#""x""#),
        ("group", r#""""#),
        ("kind", r#""Service""#),
        ("mode", r#""Observe""#),
        ("limits", r#"{"perClient":{"connections":5}}"#),
        ("perClient", r#"{"connections":5}"#),
        ("perServer", r#"{"mode":"Unlimited"}"#),
        ("perServer", r#"{"mode":"Limited","activeRequests":5}"#),
        ("perServer/mode", r#""Limited""#),
        ("activeRequests", "9"),
        ("connections", "5"),
        ("pendingRequests", "1"),
        ("concurrentRetries", "3"),
        ("ejection", r#"{"consecutive5xx":5}"#),
        ("consecutive5xx", "5"),
        ("consecutiveGateway", "0"),
        ("consecutiveLocalOrigin", "1"),
        ("interval", r#""10s""#),
        ("baseTime", r#""30s""#),
        ("maxPercent", "100"),
        ("minHealthyPercent", "0"),
        ("localityFailover", r#""Disabled""#),
        ("timeouts", r#"{"request":"1s"}"#),
        ("connect", r#""1s""#),
        ("request", r#""5s""#),
        ("idle", r#""1h""#),
        ("retries", r#"{"attempts":2}"#),
        ("attempts", "0"),
        ("retryOn", r#"["Reset"]"#),
        ("statusCodes", "[503]"),
        ("methods", r#"["GET"]"#),
        ("perTryTimeout", r#""1s""#),
        ("backoff", r#""25ms""#),
        ("budget", r#"{"percent":20}"#),
        ("percent", "20"),
        ("minConcurrency", "3"),
        ("ports", r#"[{"port":80,"timeouts":{"request":"1s"}}]"#),
        ("port", "80"),
        ("labels", r#"{"a":"b"}"#),
        ("annotations", r#"{"a":"b"}"#),
        ("what", "1"),
    ],
};

/// A policy that was legal before one or two changes.
#[derive(Clone, Debug)]
struct Near {
    case: Fitting,
    object: Value,
}

fn near() -> impl Strategy<Value = Near> {
    let wide = any::<proptest::sample::Index>().prop_map(|index| index.index(10) == 0);
    (fitting(), changes(WORDS), wide).prop_map(|(case, changes, wide): (Fitting, Vec<Change>, bool)| {
        let mut object = serde_json::to_value(&case.policy).expect("it is JSON");
        for change in changes {
            change.apply(&mut object, if wide { "" } else { "/spec" }, WORDS);
        }
        // The request's path says the namespace; another one in the object is a fault of the request.
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.insert("namespace".to_owned(), json!(NAMESPACE));
        }
        Near { case, object }
    })
}

/// The object as kubectl and every other client in Go sends it: `5.0` as `5`. The API server itself takes
/// 5.0 where no CEL rule reads the field, and has no verdict where one does.
fn as_sent(value: &Value) -> Value {
    match value {
        Value::Number(number) => {
            #[expect(clippy::cast_possible_truncation, reason = "checked: no fraction, and it fits")]
            let whole = number
                .as_f64()
                .filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 9e18)
                .map(|float| float as i64);
            whole.map_or_else(|| value.clone(), Value::from)
        }
        Value::Array(list) => list.iter().map(as_sent).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), as_sent(value))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

/// The API server's verdict on a create that is not kept.
async fn create(client: Client, object: &Value) -> Result<(), String> {
    let path =
        format!("/apis/{}/namespaces/{NAMESPACE}/resiliences?dryRun=All&fieldValidation=Strict", names::API_VERSION);
    let request = http::Request::post(path).header("Content-Type", "application/json");
    let request = request.body(as_sent(object).to_string().into_bytes()).expect("a request");
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Err(status.message.clone()),
        Err(other) => panic!("no verdict on {object}: {other}"),
    }
}

/// Requests under way at a time.
const AT_A_TIME: usize = 16;

#[test]
fn ten_thousand_nearly_legal_policies_get_the_api_servers_verdict_from_us() {
    let mut oracle = oracle();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client =
        runtime.block_on(connect()).expect("KUBECONFIG names an API server: run `cargo lab scenario`, which has one");
    let (mut accepted, mut refused, mut rendered_objects) = (0, 0, 0);
    each(&near(), |cases| {
        let theirs: Vec<Result<(), String>> = runtime.block_on(
            stream::iter(cases).map(|near| create(client.clone(), &near.object)).buffered(AT_A_TIME).collect(),
        );
        let ours: Vec<_> = cases.iter().map(|near| decode(&near.object)).collect();
        // What neither refuses is rendered, unless only the target speaks against it.
        let rendered: Vec<Result<Vec<(Kind, Value)>, String>> = cases
            .iter()
            .zip(&ours)
            .map(|(near, ours)| {
                let Ok(policy) = ours else { return Ok(Vec::new()) };
                // As the API server keeps it: the uid is its own.
                let mut policy = policy.clone();
                policy.metadata.uid = Some(UID.to_owned());
                Ok(render(&near.case, &policy).unwrap_or_default())
            })
            .collect();
        rendered_objects += rendered.iter().flatten().flatten().count();
        let pass = all_pass(&mut oracle, &rendered);
        let verdicts = cases.iter().zip(theirs).zip(ours).zip(pass);
        verdicts
            .map(|(((near, theirs), ours), pass)| {
                *(if theirs.is_ok() { &mut accepted } else { &mut refused }) += 1;
                match (theirs, ours) {
                    (Ok(()), Err(faults)) => {
                        Err(format!("we refuse what the API server takes: {faults:?}: {}", near.object))
                    }
                    (Err(why), Ok(_)) => Err(format!("we take what the API server refuses: {why}: {}", near.object)),
                    _ => pass,
                }
            })
            .collect()
    });
    println!(
        "{COUNT} policies: {accepted} taken, {refused} refused, by both alike; {rendered_objects} objects of them taken by Istio"
    );
    assert!(accepted >= COUNT / 5 && refused >= COUNT / 5 && rendered_objects >= COUNT / 5, "too few of a kind");
}
