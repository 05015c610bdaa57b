//! Which endpoints clients are sent, and in which order of zones.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};

use super::targets::{entry, entry_cluster};
use super::{NEAR, ZONE};
use crate::config_dump::ConfigDump;
use crate::measured::Claim;
use crate::measured::bench::{Bench, by_rule, endpoints, list, rule, same, service, slice};

const PORT: u16 = 80;

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R4.4a"],
        says: "endpoints are sent ready or not, unless they are on their way out, or may be for all that is said",
        judge: |bench| which_are_sent(bench, "sent-all", None, &[1, 2, 3, 6, 8, 9]),
    },
    Claim {
        ids: &["R4.4b"],
        says: "with minHealthPercent above 0 only those that are ready",
        judge: |bench| which_are_sent(bench, "sent-ready", Some(50), &[1, 2, 6, 8, 9]),
    },
    Claim {
        ids: &["R4.4c"],
        says: "addresses of both families are sent, also to a client of one, unless istiod runs with ISTIO_DUAL_STACK",
        judge: of_two_families,
    },
    Claim {
        ids: &["R4.5a"],
        says: "outlierDetection puts the endpoints of a client's own zone first; without it all zones are alike",
        judge: |bench| zones(bench, "zones-detected", json!({"outlierDetection": detection()}), true),
    },
    Claim {
        ids: &["R4.5b"],
        says: "localityLbSetting.enabled false makes all zones alike again",
        judge: |bench| {
            zones(bench, "zones-alike", json!({"outlierDetection": detection(), "loadBalancer": alike()}), false)
        },
    },
    Claim {
        ids: &["R2.1"],
        says: "and is lost for a port whose entry does not repeat it",
        judge: |bench| {
            let entry = json!([{"port": {"number": PORT}, "outlierDetection": detection()}]);
            let top = json!({"outlierDetection": detection(), "loadBalancer": alike(), "portLevelSettings": entry});
            zones(bench, "zones-entry", top, true)
        },
    },
];

/// Endpoints by hand: the last number of the address, and what is said of it.
fn by_hand() -> Value {
    let one = |last: u8, conditions: Value| json!({"addresses": [address(last)], "conditions": conditions});
    json!([
        {"addresses": [address(1)]},
        one(2, json!({"ready": true})),
        one(3, json!({"ready": false, "serving": false, "terminating": false})),
        one(4, json!({"ready": false, "serving": true, "terminating": true})),
        one(5, json!({"ready": false, "serving": false, "terminating": true})),
        // As of a Service that publishes addresses that are not ready.
        one(6, json!({"ready": true, "serving": true, "terminating": true})),
        one(7, json!({"ready": false})),
        {"addresses": [address(8), address(9)]},
    ])
}

fn address(last: u8) -> String {
    format!("192.0.2.{last}")
}

fn addresses(dump: &ConfigDump, cluster: &str) -> Vec<String> {
    let of = |one: &Value| Some(one.pointer("/endpoint/address/socket_address/address")?.as_str()?.to_owned());
    endpoints(dump, cluster).iter().filter_map(of).collect()
}

fn which_are_sent(bench: &Bench, name: &str, healthy: Option<u32>, lasts: &[u8]) -> Result<()> {
    let more = json!([{"addresses": [address(1)]}]);
    bench.apply(&[service(name, None, &json!([{"name": "http", "port": PORT}]))])?;
    let cluster = bench.cluster(name, PORT);
    // An endpoint that istiod hears of before the Service is unhealthy to it, never terminating, and is sent
    // (istio pilot/pkg/serviceregistry/kube/controller/endpointslice.go, `endpointHealthStatus`).
    bench.until("the client knows the Service", |dump| {
        if dump.cluster(&cluster).is_some() { Ok(()) } else { Err("no cluster".to_owned()) }
    })?;
    bench.apply(&[
        slice(&format!("{name}-1"), name, "IPv4", 8080, &by_hand()),
        // The same endpoint in a second slice, as while one is moved.
        slice(&format!("{name}-2"), name, "IPv4", 8080, &more),
    ])?;
    let mut detection = detection();
    if let Some(percent) = healthy {
        detection["minHealthPercent"] = json!(percent);
    }
    bench.rule(&format!("rule-{name}"), name, PORT, json!({"outlierDetection": detection}))?;
    let claimed: Vec<String> = lasts.iter().map(|last| address(*last)).collect();
    // Endpoints follow the cluster by a message of their own.
    let claimed: BTreeSet<&str> = claimed.iter().map(String::as_str).collect();
    bench
        .until("the client has the endpoints that are claimed, and each once", |dump| {
            let seen = addresses(dump, &cluster);
            let unique: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
            if unique == claimed && seen.len() == claimed.len() { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .map(drop)
}

fn of_two_families(bench: &Bench) -> Result<()> {
    let name = "two-families";
    let (four, six) = (
        json!([{"addresses": [address(1)]}, {"addresses": [address(2)]}]),
        |last: u8| json!({"addresses": [format!("2001:db8::{last}")]}),
    );
    bench.apply(&[
        service(name, None, &json!([{"name": "http", "port": PORT}])),
        slice("two-families-6", name, "IPv6", 8080, &json!([six(1), six(2), six(3)])),
        slice("two-families-4", name, "IPv4", 8080, &four),
    ])?;
    let cluster = bench.cluster(name, PORT);
    bench
        .until("the client has the endpoints of both families", |dump| {
            let seen = addresses(dump, &cluster);
            let six = seen.iter().filter(|address| address.contains(':')).count();
            if (six, seen.len()) == (3, 5) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .map(drop)
}

fn detection() -> Value {
    json!({"consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s", "maxEjectionPercent": 50})
}

fn alike() -> Value {
    json!({"localityLbSetting": {"enabled": false}})
}

/// A host with endpoints in three zones, seen by a client in the first.
fn zones(bench: &Bench, name: &str, policy: Value, ordered: bool) -> Result<()> {
    let places = [ZONE, "eu/b", "us/a"];
    let listed: Vec<Value> =
        (1..).zip(places).map(|(last, zone)| json!({"address": address(last), "locality": zone})).collect();
    let undetected = format!("{name}-undetected");
    let pool = json!({"connectionPool": {"http": {"http2MaxRequests": 100}}});
    bench.apply(&[
        entry(&undetected, &json!({"resolution": "STATIC", "endpoints": listed})),
        entry(name, &json!({"resolution": "STATIC", "endpoints": listed})),
        rule(&format!("rule-{undetected}"), &format!("{undetected}.example.org"), pool),
        rule(&format!("rule-{name}"), &format!("{name}.example.org"), policy),
    ])?;
    let (cluster, undetected) = (entry_cluster(name), entry_cluster(&undetected));
    let claimed: Vec<u64> = if ordered { vec![0, 1, 2] } else { vec![0, 0, 0] };
    let near = format!("deploy/{NEAR}");
    let dump = bench.until_at(&near, "the endpoints are in the order that is claimed", |dump| {
        by_rule(dump, &cluster, &format!("rule-{name}"))?;
        let seen = priorities(dump, &cluster);
        let right = places.iter().zip(&claimed).all(|(zone, priority)| seen.get(*zone) == Some(priority));
        if right { Ok(()) } else { Err(format!("{seen:?}")) }
    })?;
    let seen: Vec<u64> = priorities(&dump, &undetected).into_values().collect();
    same("priorities without detection", &seen, &vec![0, 0, 0])
}

/// The priority of each zone.
fn priorities(dump: &ConfigDump, cluster: &str) -> BTreeMap<String, u64> {
    let groups = dump.endpoints(cluster).map(|all| list(all, "endpoints")).unwrap_or_default();
    let of = |group: &Value| {
        let part = |name: &str| group["locality"][name].as_str().unwrap_or_default().to_owned();
        (format!("{}/{}", part("region"), part("zone")), group["priority"].as_u64().unwrap_or(0))
    };
    groups.iter().map(of).collect()
}
