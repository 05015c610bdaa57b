//! What a client takes a port for.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::config_dump::ConfigDump;
use crate::measured::Claim;
use crate::measured::bench::{Bench, http_options, list, service, with_spec};

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R8a"],
        says: "a Service's port: appProtocol beats the name, the name counts up to its dash, servers that speak first are TCP",
        judge: ports_of_services,
    },
    Claim { ids: &["R8b"], says: "a ServiceEntry's port: one word of Istio's", judge: ports_of_entries },
];

/// What a client does with calls to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// Routes, HTTP/1 to the server.
    Http,
    /// Routes, HTTP/2 to the server.
    Http2,
    /// Looks at each connection: routes for what speaks HTTP.
    Sniffed,
    /// Connections only.
    Tcp,
    /// Not known to it.
    Not,
}

use Taken::{Http, Http2, Not, Sniffed, Tcp};

fn taken(dump: &ConfigDump, host: &str, port: u16) -> Taken {
    let name = format!("outbound|{port}||{host}");
    let Some(cluster) = dump.cluster(&name) else { return Not };
    let http2 = http_options(cluster).pointer("/explicit_http_config/http2_protocol_options").is_some();
    let listeners: Vec<&Value> = dump
        .listeners()
        .iter()
        .filter(|listener| listener["name"].as_str().is_some_and(|name| name.ends_with(&format!("_{port}"))))
        .collect();
    let chains = |listener: &&Value| list(listener, "filter_chains");
    let filters = |chain: Value| list(&chain, "filters");
    let configs: Vec<Value> = listeners
        .iter()
        .flat_map(chains)
        .flat_map(filters)
        .filter_map(|filter| filter.get("typed_config").cloned())
        .collect();
    // A port that is sniffed has a table of routes for its host alone.
    let table =
        |name: &str| configs.iter().any(|config| config.pointer("/rds/route_config_name") == Some(&json!(name)));
    if table(&format!("{host}:{port}")) {
        Sniffed
    } else if table(&port.to_string()) {
        if http2 { Http2 } else { Http }
    } else {
        Tcp
    }
}

/// Waits until each port is taken for what is claimed, and names those that are not.
fn all_taken(bench: &Bench, host: &str, rows: &[(u16, &str, Taken)]) -> Result<()> {
    let what = format!("the ports of {host} are taken for what is claimed");
    bench
        .until(&what, |dump| {
            let seen = rows.iter().map(|(port, name, claimed)| (port, name, claimed, taken(dump, host, *port)));
            let wrong: Vec<String> = seen
                .filter(|(_, _, claimed, seen)| *claimed != seen)
                .map(|(port, name, claimed, seen)| format!("{port} ({name}): claimed {claimed:?}, seen {seen:?}"))
                .collect();
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
        })
        .map(drop)
}

fn ports_of_services(bench: &Bench) -> Result<()> {
    // (name, appProtocol, taken for)
    let rows = [
        ("http", None, Http),
        ("http-web", None, Http),
        ("http2", None, Http2),
        ("http2-web", None, Http2),
        ("grpc", None, Http2),
        ("grpc-calls", None, Http2),
        ("grpc-web", None, Http2),
        ("grpc-web-calls", None, Http2),
        ("https", None, Tcp),
        ("tls-own", None, Tcp),
        ("tcp-raw", None, Tcp),
        ("mongo", None, Tcp),
        ("redis", None, Tcp),
        ("mysql", None, Tcp),
        ("web-http", None, Sniffed),
        ("httpx", None, Sniffed),
        ("a-a", Some("http"), Http),
        ("a-b", Some("HTTP"), Http),
        ("http-a-c", Some("tcp"), Tcp),
        ("tcp-a-d", Some("kubernetes.io/h2c"), Http2),
        ("tcp-a-e", Some("kubernetes.io/ws"), Http),
        ("http-a-f", Some("kubernetes.io/wss"), Tcp),
        ("http-a-g", Some("example.org/own"), Sniffed),
        ("tcp-a-h", Some("http-web"), Http),
        ("tcp-a-i", Some("http_proxy"), Http),
    ];
    let ports: Vec<Value> = (20_001_u16..)
        .zip(&rows)
        .map(|(port, (name, app, _))| {
            let mut all = json!({"name": name, "port": port});
            if let Some(app) = app {
                all["appProtocol"] = json!(app);
            }
            all
        })
        .collect();
    let claimed: Vec<(u16, &str, Taken)> =
        (20_001_u16..).zip(&rows).map(|(port, (name, _, taken))| (port, *name, *taken)).collect();
    let special = [
        (25, "x-mail", Tcp),
        (53, "x-names", Tcp),
        (3306, "x-mysql", Tcp),
        (27017, "x-mongo", Tcp),
        (20_100, "x-sniffed", Sniffed),
    ];
    let mut other: Vec<Value> = special.iter().map(|(port, name, _)| json!({"name": name, "port": port})).collect();
    other.push(json!({"name": "http-udp", "port": 20_101, "protocol": "UDP"}));
    let mut special = special.to_vec();
    special.push((20_101, "http-udp", Not));
    bench.apply(&[
        service("ports", None, &json!(ports)),
        service("special", None, &json!(other)),
        // Without a name, as one port may be.
        service("unnamed", None, &json!([{"port": 20_102}])),
    ])?;
    all_taken(bench, &bench.host("ports"), &claimed)?;
    all_taken(bench, &bench.host("special"), &special)?;
    all_taken(bench, &bench.host("unnamed"), &[(20_102, "", Sniffed)])?;
    // HTTP has one listener for a port, whoever else has it: alone, so that it is not taken for another's.
    bench.kubectl.run(&["delete", "service", "special", "--wait"])?;
    bench.apply(&[service("declared-first", None, &json!([{"name": "http", "port": 27017}]))])?;
    all_taken(bench, &bench.host("declared-first"), &[(27017, "http", Http)])
}

fn ports_of_entries(bench: &Bench) -> Result<()> {
    let rows = BTreeMap::from([
        ("HTTP", Http),
        ("http", Http),
        ("HTTP_PROXY", Http),
        ("HTTP2", Http2),
        ("GRPC", Http2),
        ("gRPC-Web", Http2),
        ("HTTPS", Tcp),
        ("TLS", Tcp),
        ("TCP", Tcp),
        ("Mongo", Tcp),
        ("Redis", Tcp),
        ("MySQL", Tcp),
        ("", Sniffed),
    ]);
    let ports: Vec<Value> = (20_201_u16..)
        .zip(rows.keys())
        .map(|(port, protocol)| json!({"name": format!("p{port}"), "number": port, "protocol": protocol}))
        .collect();
    let spec = json!({
        "hosts": ["words.example.org"], "addresses": ["198.51.100.1"], "resolution": "STATIC",
        "endpoints": [{"address": "192.0.2.1"}], "ports": ports,
    });
    bench.apply(&[with_spec("ServiceEntry", "words", &spec)])?;
    let claimed: Vec<(u16, &str, Taken)> =
        (20_201_u16..).zip(&rows).map(|(port, (protocol, taken))| (port, *protocol, *taken)).collect();
    all_taken(bench, "words.example.org", &claimed)?;
    let mut unknown = spec;
    unknown["ports"] = json!([{"name": "http", "number": 80, "protocol": "http-web"}]);
    let answer = bench.kubectl.try_apply(&with_spec("ServiceEntry", "unknown-word", &unknown).to_string())?;
    ensure!(!answer.status.success(), "another word was taken: {}", answer.all());
    Ok(())
}
