//! What a client makes of the kinds of targets.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::well;
use crate::measured::Claim;
use crate::measured::bench::{Bench, cluster, endpoints, rule, same, service, threshold, with_spec};

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R1.1b"],
        says: "an ExternalName has no cluster of its own, so a rule for it acts nowhere",
        judge: an_external_name_has_no_cluster,
    },
    Claim {
        ids: &["R4.6"],
        says: "how clients find endpoints, by the resolution of a ServiceEntry: which balance, and over what",
        judge: resolutions,
    },
    Claim {
        ids: &["R3.3"],
        says: "a rule's pool is put on the servers of a headless Service and of a ServiceEntry that selects pods, too",
        judge: servers_of_every_kind_get_the_pool,
    },
];

fn an_external_name_has_no_cluster(bench: &Bench) -> Result<()> {
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let mut alias = service("alias", None, &port);
    alias["spec"]["type"] = json!("ExternalName");
    alias["spec"]["externalName"] = json!(bench.host("aliased"));
    bench.apply(&[service("aliased", Some(well()), &port), alias])?;
    let pool = |number: u32| json!({"connectionPool": {"http": {"http2MaxRequests": number}}});
    bench.apply(&[rule("r11b-alias", "alias", pool(1))])?;
    let dump = bench.rule("r11b-aliased", "aliased", 80, pool(2))?;
    ensure!(dump.cluster(&bench.cluster("alias", 80)).is_none(), "the alias has a cluster");
    let limit = threshold(cluster(&dump, &bench.cluster("aliased", 80))?, "max_requests");
    same("the limit of what it is an alias of", &limit, &Some(2))
}

/// A ServiceEntry with one host, `NAME.example.org`, and an HTTP port.
pub(super) fn entry(name: &str, more: &Value) -> Value {
    let mut spec = json!({
        "hosts": [format!("{name}.example.org")],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    with_spec("ServiceEntry", name, &spec)
}

/// The name of a client's cluster for it.
pub(super) fn entry_cluster(name: &str) -> String {
    format!("outbound|80||{name}.example.org")
}

fn resolutions(bench: &Bench) -> Result<()> {
    let two = json!([{"address": "192.0.2.1"}, {"address": "192.0.2.2"}]);
    let names = json!([{"address": "one.example.net"}, {"address": "two.example.net"}]);
    let pods = json!({"labels": well()});
    let headless = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let mut headless = service("headless", Some(well()), &headless);
    headless["spec"]["clusterIP"] = json!("None");
    bench.apply(&[
        entry("static", &json!({"resolution": "STATIC", "endpoints": two})),
        entry("selected", &json!({"resolution": "STATIC", "workloadSelector": pods, "location": "MESH_INTERNAL"})),
        entry("dns", &json!({"resolution": "DNS", "endpoints": names})),
        entry("dns-host", &json!({"resolution": "DNS"})),
        entry("round-robin", &json!({"resolution": "DNS_ROUND_ROBIN"})),
        entry("none", &json!({"resolution": "NONE"})),
        entry("unset", &json!({})),
        headless,
    ])?;
    let last = bench.cluster("headless", 80);
    let selected = entry_cluster("selected");
    let dump = bench.until("the client knows all of them", |dump| {
        let known = dump.cluster(&last).is_some() && endpoints(dump, &selected).len() == 1;
        if known { Ok(()) } else { Err(format!("{:?}", endpoints(dump, &selected))) }
    })?;
    for (name, kind) in [
        (entry_cluster("static"), "EDS"),
        (selected, "EDS"),
        (entry_cluster("dns"), "STRICT_DNS"),
        (entry_cluster("dns-host"), "STRICT_DNS"),
        (entry_cluster("round-robin"), "LOGICAL_DNS"),
        (entry_cluster("none"), "ORIGINAL_DST"),
        (entry_cluster("unset"), "ORIGINAL_DST"),
        (last, "ORIGINAL_DST"),
    ] {
        same(&name, &cluster(&dump, &name)?["type"].as_str(), &Some(kind))?;
    }
    let listed = endpoints(&dump, &entry_cluster("static")).len();
    same("endpoints of a static one", &listed, &2)
}

fn servers_of_every_kind_get_the_pool(bench: &Bench) -> Result<()> {
    // Nobody listens there: the server's proxy has a cluster for each such port all the same, and no other
    // Service has a say in it.
    let mut headless =
        service("headless-server", Some(well()), &json!([{"name": "http", "port": 80, "targetPort": 9999}]));
    headless["spec"]["clusterIP"] = json!("None");
    // A container's port of the same name would come before targetPort.
    let ports = json!([{"number": 80, "name": "http-selected", "protocol": "HTTP", "targetPort": 9998}]);
    let selecting = json!({"resolution": "STATIC", "workloadSelector": {"labels": well()}, "ports": ports});
    let policy = |number: u32| {
        json!({
            "connectionPool": {"http": {"http2MaxRequests": number}},
            "outlierDetection": {"consecutive5xxErrors": 5},
        })
    };
    bench.apply(&[
        headless,
        entry("selected-server", &selecting),
        rule("r33-headless", "headless-server", policy(5)),
        rule("r33-selected", "selected-server.example.org", policy(6)),
    ])?;
    let limits = [("inbound|9999||", 5), ("inbound|9998||", 6)];
    let dump = bench.until_at("deploy/httpbin", "the server's proxy has both limits", |dump| {
        let of = |name: &str| dump.cluster(name).and_then(|cluster| threshold(cluster, "max_requests"));
        let seen = limits.map(|(name, _)| of(name));
        if seen == limits.map(|(_, limit)| Some(limit)) { Ok(()) } else { Err(format!("{seen:?}")) }
    })?;
    for (name, _) in limits {
        ensure!(cluster(&dump, name)?.get("outlier_detection").is_none(), "{name} has outlier detection");
    }
    Ok(())
}
