//! What counts as a failure, and which detector decides.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::well;
use crate::envoy::Stats;
use crate::fortio::{Answers, load};
use crate::measured::Claim;
use crate::measured::bench::{Bench, CLIENT, cluster, same, service, slice};

const HTTP: u16 = 80;
const TCP: u16 = 9000;
/// The node, at a port where nobody listens: connections are refused.
const REFUSING: &str = "10.200.0.1";

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim { ids: &["R4.1"], says: "a detector of 0 is off, and one that is unset is not", judge: zero_is_off },
    Claim {
        ids: &["R4.2a"],
        says: "consecutiveGatewayErrors at or above consecutive5xxErrors changes nothing",
        judge: gateway_errors_are_5xx,
    },
    Claim {
        ids: &["R4.2b"],
        says: "split: refused connections count apart, and answers are no local failure; not split: as 5xx",
        judge: the_split,
    },
    Claim {
        ids: &["R4.2c"],
        says: "on TCP and TLS ports answers count for nothing, refused connections do",
        judge: on_tcp_only_connections_count,
    },
];

/// Detectors, with everything else so that they decide alone.
fn detectors(detectors: &Value) -> Value {
    let mut all = json!({"interval": "60s", "baseEjectionTime": "60s", "maxEjectionPercent": 100});
    for (key, value) in detectors.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    json!({"outlierDetection": all})
}

fn zero_is_off(bench: &Bench) -> Result<()> {
    let port = json!([{"name": "http", "port": HTTP, "targetPort": 8080}]);
    bench.apply(&[service("zero", Some(well()), &port), service("unset", Some(well()), &port)])?;
    let zero = json!({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 3});
    bench.rule("r41-zero", "zero", HTTP, detectors(&zero))?;
    let dump = bench.rule("r41-unset", "unset", HTTP, detectors(&json!({})))?;
    let detection =
        |name: &str| Ok::<_, anyhow::Error>(cluster(&dump, &bench.cluster(name, HTTP))?["outlier_detection"].clone());
    let zero = detection("zero")?;
    same("enforcing of 5xx at 0", &zero["enforcing_consecutive_5xx"], &json!(0))?;
    let gateway = (&zero["consecutive_gateway_failure"], &zero["enforcing_consecutive_gateway_failure"]);
    same("gateway errors at 3", &gateway, &(&json!(3), &json!(100)))?;
    let unset = detection("unset")?;
    // Without a word Envoy takes five, and enforces them.
    ensure!(unset.get("enforcing_consecutive_5xx").is_none(), "unset 5xx is {unset}");
    Ok(())
}

/// Ejections, by detector.
#[derive(Debug, PartialEq, Eq)]
struct Ejected {
    errors: u64,
    gateway: u64,
    local_origin: u64,
}

const NOT: Ejected = Ejected { errors: 0, gateway: 0, local_origin: 0 };

/// Calls one after the other and reads who ejected.
fn calls(bench: &Bench, service: &str, port: u16, path: &str, requests: u32) -> Result<(Answers, Ejected)> {
    let before = Stats::of(&bench.kubectl, CLIENT)?;
    let answers = load(&bench.kubectl, &format!("http://{service}:{port}{path}"), 1, requests)?;
    let after = Stats::of(&bench.kubectl, CLIENT)?.since(&before);
    let by = |detector: &str| {
        after.outbound(
            &bench.host(service),
            port,
            &format!("outlier_detection.ejections_enforced_consecutive_{detector}"),
        )
    };
    let ejected =
        Ejected { errors: by("5xx"), gateway: by("gateway_failure"), local_origin: by("local_origin_failure") };
    Ok((answers, ejected))
}

/// A Service of the server that answers, with a rule.
fn answering(bench: &Bench, name: &str, port_name: &str, port: u16, detection: &Value) -> Result<()> {
    let ports = json!([{"name": port_name, "port": port, "targetPort": 8080}]);
    bench.apply(&[service(name, Some(well()), &ports)])?;
    bench.rule(&format!("rule-{name}"), name, port, detectors(detection))?;
    bench.until_endpoints(name, port).map(drop)
}

/// A Service whose endpoint refuses connections, with a rule.
fn refusing(bench: &Bench, name: &str, port_name: &str, port: u16, detection: &Value) -> Result<()> {
    let mut endpoints = slice(name, name, "IPv4", 1, &json!([{"addresses": [REFUSING]}]));
    endpoints["ports"][0]["name"] = json!(port_name);
    bench.apply(&[service(name, None, &json!([{"name": port_name, "port": port}])), endpoints])?;
    bench.rule(&format!("rule-{name}"), name, port, detectors(detection))?;
    bench.until_endpoints(name, port).map(drop)
}

fn gateway_errors_are_5xx(bench: &Bench) -> Result<()> {
    for (name, gateway) in [("gateway-above", 5), ("gateway-equal", 3), ("gateway-off", 0)] {
        let detection = json!({"consecutive5xxErrors": 3, "consecutiveGatewayErrors": gateway});
        answering(bench, name, "http", HTTP, &detection)?;
        let (_, early) = calls(bench, name, HTTP, "/status/503", 2)?;
        same(&format!("{name}: after two"), &early, &NOT)?;
        let (_, third) = calls(bench, name, HTTP, "/status/503", 1)?;
        same(&format!("{name}: ejections by the third"), &(third.errors + third.gateway), &1)?;
        if gateway != 3 {
            same(&format!("{name}: by 5xx"), &third.errors, &1)?;
        }
    }
    // Below, it decides.
    answering(
        bench,
        "gateway-below",
        "http",
        HTTP,
        &json!({"consecutive5xxErrors": 3, "consecutiveGatewayErrors": 2}),
    )?;
    let (_, ejected) = calls(bench, "gateway-below", HTTP, "/status/503", 2)?;
    same("gateway-below", &ejected, &Ejected { gateway: 1, ..NOT })
}

fn the_split(bench: &Bench) -> Result<()> {
    let local = json!({
        "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 2,
        "consecutive5xxErrors": 0, "consecutiveGatewayErrors": 0,
    });
    let with_5xx = json!({
        "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 100,
        "consecutive5xxErrors": 1, "consecutiveGatewayErrors": 0,
    });
    refusing(bench, "split-refusing", "http", HTTP, &local)?;
    let (_, ejected) = calls(bench, "split-refusing", HTTP, "/get", 5)?;
    same("split, refused connections", &ejected, &Ejected { local_origin: 1, ..NOT })?;
    answering(bench, "split-answering", "http", HTTP, &local)?;
    let (answers, ejected) = calls(bench, "split-answering", HTTP, "/status/503", 10)?;
    same("split, answers 503", &(answers.status(503), ejected), &(10, NOT))?;
    // Ten calls of three tries each are less than a hundred failures of its own.
    refusing(bench, "split-5xx", "http", HTTP, &with_5xx)?;
    let (_, ejected) = calls(bench, "split-5xx", HTTP, "/get", 10)?;
    same("split, refused connections against 5xx", &ejected, &NOT)?;
    refusing(bench, "together", "http", HTTP, &json!({"consecutive5xxErrors": 1, "consecutiveGatewayErrors": 0}))?;
    let (_, ejected) = calls(bench, "together", HTTP, "/get", 5)?;
    same("not split, refused connections", &ejected, &Ejected { errors: 1, ..NOT })
}

fn on_tcp_only_connections_count(bench: &Bench) -> Result<()> {
    let first = json!({"consecutive5xxErrors": 1, "consecutiveGatewayErrors": 0});
    for (name, port) in [("tcp", TCP), ("tls", TCP + 1)] {
        let (well, refused) = (format!("{name}-answering"), format!("{name}-refusing"));
        answering(bench, &well, name, port, &first)?;
        let (answers, ejected) = calls(bench, &well, port, "/status/500", 10)?;
        same(&format!("{well}: answers 500"), &(answers.status(500), ejected), &(10, NOT))?;
        refusing(bench, &refused, name, port, &first)?;
        let (_, ejected) = calls(bench, &refused, port, "/get", 5)?;
        same(&refused, &ejected, &Ejected { errors: 1, ..NOT })?;
    }
    Ok(())
}
