//! Istio's objects: our port of its rules says what Istio says, in both directions; what we refuse on top
//! is a list.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample};
use resilience_operator::istio::{Kind, Source, Stricter, spec_faults};
use serde_json::Value;

use crate::{
    Verdict,
    draw::{COUNT, each},
    fitting::{Fitting, fitting},
    mutate::{Change, Vocabulary, changes},
    oracle, validate,
};

const WORDS: Vocabulary = Vocabulary {
    words: &[
        "",
        "x",
        "X",
        "*",
        "**",
        "*.y",
        "*x.y",
        "*-x.y",
        "*-",
        "x.y",
        "X.y",
        "x.y.",
        "x.",
        ".",
        "x..y",
        "-x.y",
        "x-.y",
        "x.*",
        "x.1",
        "1",
        "1.x",
        "x.99999999999999999999",
        "x y.z",
        "x_y.z",
        "ß.de",
        "192.0.2.1",
        "::1",
        "fe80::1",
        "x.default.svc.cluster.local",
        "httpbin.default",
        "a123456789b123456789c123456789d123456789e123456789f123456789g1234.y",
        "5xx",
        "5xx,reset",
        "5xx, reset",
        "reset,",
        ",",
        "foo",
        "503",
        "+503",
        "0503",
        "299",
        "101",
        "600",
        "-1",
        "503,504",
        "retriable-status-codes",
        "connect-failure,retriable-status-codes",
        "unavailable,cancelled",
        "GET",
        "get",
    ],
    fields: &[
        ("workloadSelector", r#"{"labels":{"app":"x"}}"#),
        ("workloadSelector", "{}"),
        ("workloadSelector/labels", "{}"),
        ("labels", r#"{"app":"x","tier":"*"}"#),
        ("labels/app", r#""y""#),
        ("inboundConnectionPool", r#"{"tcp":{"maxConnections":1}}"#),
        ("inboundConnectionPool/http", r#"{"http2MaxRequests":1}"#),
        ("http/http2MaxRequests", "1"),
        ("host", r#""x.default.svc.cluster.local""#),
        ("hosts", r#"["x.default.svc.cluster.local"]"#),
        ("exportTo", r#"["."]"#),
        ("exportTo", r#"["*","web"]"#),
        ("exportTo", r#"["web","web"]"#),
        ("exportTo", r#"["~"]"#),
        ("trafficPolicy", r#"{"connectionPool":{"tcp":{"maxConnections":1}}}"#),
        ("trafficPolicy/connectionPool", r#"{"http":{"http2MaxRequests":1}}"#),
        ("tcp", r#"{"maxConnections":1}"#),
        ("http", r#"{"maxRetries":1}"#),
        ("tcp/maxConnections", "1"),
        ("tcp/connectTimeout", r#""1s""#),
        ("tcp/idleTimeout", r#""0s""#),
        ("tcp/maxConnectionDuration", r#""1h""#),
        ("http/http1MaxPendingRequests", "1"),
        ("http/maxRequestsPerConnection", "1"),
        ("trafficPolicy/outlierDetection", "{}"),
        ("outlierDetection/consecutive5xxErrors", "5"),
        ("outlierDetection/consecutiveLocalOriginFailures", "1"),
        ("outlierDetection/splitExternalLocalOriginErrors", "true"),
        ("outlierDetection/interval", r#""10s""#),
        ("maxEjectionPercent", "100"),
        ("outlierDetection/minHealthPercent", "50"),
        ("trafficPolicy/loadBalancer", r#"{"localityLbSetting":{"enabled":true}}"#),
        ("localityLbSetting", "{}"),
        ("enabled", "false"),
        ("trafficPolicy/retryBudget", r#"{"percent":20.5,"minRetryConcurrency":3}"#),
        ("trafficPolicy/retryBudget", r#"{"percent":20,"minRetryConcurrency":3}"#),
        ("retryBudget/percent", "1.5"),
        ("retryBudget", r#"{"percent":20}"#),
        ("retries/retryOn", r#""retriable-status-codes""#),
        ("retries/retryOn", r#""101""#),
        ("minRetryConcurrency", "3"),
        // Twice: a budget beside it is rare.
        (
            "trafficPolicy/portLevelSettings",
            r#"[{"port":{"number":80},"connectionPool":{"tcp":{"maxConnections":1}}}]"#,
        ),
        (
            "trafficPolicy/portLevelSettings",
            r#"[{"port":{"number":80},"connectionPool":{"tcp":{"maxConnections":1}}}]"#,
        ),
        ("port", r#"{"number":80}"#),
        ("number", "80"),
        ("name", r#""a""#),
        ("match", r#"[{"port":80}]"#),
        ("method", r#"{"exact":"GET"}"#),
        ("exact", r#""GET""#),
        ("prefix", r#""G""#),
        ("route", r#"[{"destination":{"host":"x.default.svc.cluster.local"}}]"#),
        ("destination", r#"{"host":"x.default.svc.cluster.local"}"#),
        ("timeout", r#""1s""#),
        ("retries", r#"{"attempts":2,"retryOn":"reset"}"#),
        ("retries/attempts", "0"),
        ("retryOn", r#""reset""#),
        ("retries/perTryTimeout", r#""1s""#),
        ("retries/backoff", r#""25ms""#),
        ("what", "1"),
    ],
};

/// One object as it is rendered, with one or two changes.
fn near() -> impl Strategy<Value = (Kind, Value)> {
    let render = |(case, pick): (Fitting, sample::Index)| {
        let objects = case.render(&case.policy).expect("it fits");
        (!objects.is_empty()).then(|| objects[pick.index(objects.len())].clone())
    };
    let rendered = (fitting(), any::<sample::Index>()).prop_filter_map("nothing is rendered", render);
    (rendered, changes(WORDS)).prop_map(|(object, changes): (_, Vec<Change>)| {
        let mut json = object.json;
        for change in changes {
            change.apply(&mut json, "/spec", WORDS);
        }
        (object.kind, json)
    })
}

/// How a case ended, if we and Istio agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Taken,
    Refused,
    /// Taken by Istio and refused by us, on purpose.
    Ours(Stricter),
    /// We refuse for a field that no rule is ported for, and know nothing of Istio's verdict.
    Unported,
}

fn compare(kind: Kind, object: &Value, verdict: &Verdict) -> Result<Vec<End>, String> {
    let found = spec_faults(kind, &object["spec"]);
    let of_istio: Vec<String> =
        found.iter().filter(|fault| fault.source == Source::Istio).map(ToString::to_string).collect();
    let unported = found.iter().any(|fault| fault.source == Source::Unported);
    if verdict.accepts() && !of_istio.is_empty() {
        return Err(format!("Istio takes what our port says it refuses: {of_istio:?}: {object}"));
    }
    if unported {
        return Ok(vec![End::Unported]);
    }
    if !verdict.accepts() && of_istio.is_empty() {
        return Err(format!("Istio refuses what our port says it takes: {verdict:?}: {object}"));
    }
    if !verdict.accepts() {
        return Ok(vec![End::Refused]);
    }
    let ours = found.iter().filter_map(|fault| match fault.source {
        Source::Ours(why) => Some(End::Ours(why)),
        Source::Istio | Source::Unported => None,
    });
    let ours: Vec<End> = ours.collect();
    Ok(if ours.is_empty() { vec![End::Taken] } else { ours })
}

#[test]
fn ten_thousand_nearly_legal_istio_objects_get_istios_verdict_from_our_rules() {
    let mut oracle = oracle();
    let mut ends: BTreeMap<End, usize> = BTreeMap::new();
    each(&near(), |cases| {
        let objects: Vec<Value> = cases.iter().map(|(_, object)| object.clone()).collect();
        let verdicts = validate(&mut oracle, &objects);
        let mut judge = |(kind, object): &(Kind, Value), verdict: &Verdict| {
            let mut found = compare(*kind, object, verdict)?;
            found.sort();
            found.dedup();
            for end in found {
                *ends.entry(end).or_default() += 1;
            }
            Ok(())
        };
        cases.iter().zip(&verdicts).map(|(case, verdict)| judge(case, verdict)).collect()
    });
    println!("{COUNT} objects: {ends:?}");
    let of = |end: End| ends.get(&end).copied().unwrap_or_default();
    assert!(of(End::Refused) >= COUNT / 5, "too few are refused");
    let ours: usize = Stricter::ALL.into_iter().map(|why| of(End::Ours(why))).sum();
    assert!(of(End::Taken) + ours >= COUNT / 5, "too few are taken");
    assert!(of(End::Unported) <= COUNT / 3, "too few are compared at all");
    // The list of what we refuse on top has no entry that Istio would refuse anyway.
    for why in Stricter::ALL {
        assert!(of(End::Ours(why)) > 0, "{why:?} refuses nothing that Istio takes");
    }
}
