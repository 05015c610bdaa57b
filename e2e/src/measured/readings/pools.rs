//! What connection pools and times of connections do, by protocol.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{NEAR, well};
use crate::config_dump::ConfigDump;
use crate::envoy::Stats;
use crate::fortio::{Answers, load, load_at};
use crate::measured::Claim;
use crate::measured::bench::{Bench, CLIENT, cluster, http_options, list, rule, same, service, slice, with_spec};

/// An HTTP port.
const HTTP: u16 = 80;
/// A port of TCP.
const TCP: u16 = 9000;

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R3.1a"],
        says: "tcp.idleTimeout is taken for HTTP as well, unless http.idleTimeout is set",
        judge: the_idle_time_of_tcp_is_taken_for_http,
    },
    Claim {
        ids: &["R3.1b"],
        says: "for TCP, idle time and lifetime of a connection are read from the top level alone",
        judge: listeners_read_the_top_level_alone,
    },
    Claim {
        ids: &["R3.1c"],
        says: "maxRequestsPerConnection 1 opens a connection for each call",
        judge: one_request_per_connection,
    },
    Claim {
        ids: &["R3.1d"],
        says: "maxConnectionDuration lets an HTTP call end and cuts TCP at once",
        judge: a_lifetime_drains_http_and_cuts_tcp,
    },
    Claim {
        ids: &["R3.4a"],
        says: "on TCP a limit of requests does nothing, and a connection too many is closed at once",
        judge: limits_on_tcp,
    },
    Claim {
        ids: &["R3.4b"],
        says: "on TCP pending limits the connections that are being opened",
        judge: pending_on_tcp,
    },
    Claim {
        ids: &["R3.4c", "R10.1"],
        says: "on HTTP/2 limits of connections refuse nothing; http2MaxRequests does, and upstream_rq_active_overflow counts it",
        judge: limits_on_http2,
    },
    Claim { ids: &["R3.4d"], says: "http1MaxPendingRequests acts on HTTP/2 as well", judge: pending_on_http2 },
];

/// Both ports, of the same server.
fn both(bench: &Bench, name: &str) -> Result<()> {
    let ports = json!([
        {"name": "http", "port": HTTP, "targetPort": 8080},
        {"name": "tcp", "port": TCP, "targetPort": 8080},
    ]);
    bench.apply(&[service(name, Some(well()), &ports)])?;
    bench.until_endpoints(name, TCP).map(drop)
}

fn url(service: &str, port: u16, path: &str) -> String {
    format!("http://{service}:{port}{path}")
}

/// What the client's Envoy counted while `work` ran.
fn counted<T>(bench: &Bench, work: impl FnOnce() -> Result<T>) -> Result<(T, Stats)> {
    let before = Stats::of(&bench.kubectl, CLIENT)?;
    let value = work()?;
    Ok((value, Stats::of(&bench.kubectl, CLIENT)?.since(&before)))
}

/// The filter of a client's that carries TCP to a cluster.
fn tcp_proxy(dump: &ConfigDump, cluster: &str) -> Option<Value> {
    let filters = dump.listeners().iter().flat_map(|listener| list(listener, "filter_chains"));
    let configs =
        filters.flat_map(|chain| list(&chain, "filters")).filter_map(|filter| filter.get("typed_config").cloned());
    configs.into_iter().find(|config| config["cluster"] == cluster)
}

fn idle(dump: &ConfigDump, name: &str) -> Result<Option<String>> {
    let options = http_options(cluster(dump, name)?);
    Ok(options.pointer("/common_http_protocol_options/idle_timeout").and_then(Value::as_str).map(str::to_owned))
}

fn the_idle_time_of_tcp_is_taken_for_http(bench: &Bench) -> Result<()> {
    both(bench, "idle-tcp")?;
    both(bench, "idle-both")?;
    bench.apply(&[rule("r31a-tcp", "idle-tcp", json!({"connectionPool": {"tcp": {"idleTimeout": "7s"}}}))])?;
    let policy = json!({"connectionPool": {"tcp": {"idleTimeout": "7s"}, "http": {"idleTimeout": "9s"}}});
    let dump = bench.rule("r31a-both", "idle-both", HTTP, policy)?;
    same("by tcp alone", &idle(&dump, &bench.cluster("idle-tcp", HTTP))?.as_deref(), &Some("7s"))?;
    same("by both", &idle(&dump, &bench.cluster("idle-both", HTTP))?.as_deref(), &Some("9s"))?;
    let tcp = bench.cluster("idle-both", TCP);
    bench.until("TCP has its own idle time", |dump| times(dump, &tcp, Some("7s"), None)).map(drop)
}

/// Idle time and lifetime that a client's listener has for TCP to a cluster.
fn times(dump: &ConfigDump, cluster: &str, idle: Option<&str>, lifetime: Option<&str>) -> Result<(), String> {
    let proxy = tcp_proxy(dump, cluster).ok_or_else(|| "no TCP to it".to_owned())?;
    let seen = [proxy["idle_timeout"].as_str(), proxy["max_downstream_connection_duration"].as_str()];
    if seen == [idle, lifetime] { Ok(()) } else { Err(format!("{seen:?}")) }
}

fn listeners_read_the_top_level_alone(bench: &Bench) -> Result<()> {
    let pool = |idle: &str, lifetime: &str| json!({"tcp": {"idleTimeout": idle, "maxConnectionDuration": lifetime}});
    let entry = |port: u16| json!({"port": {"number": port}, "connectionPool": pool("3s", "4s")});
    both(bench, "entry-alone")?;
    both(bench, "entry-and-top")?;
    let alone = json!({"portLevelSettings": [entry(TCP), entry(HTTP)]});
    let dump = bench.rule("r31b-alone", "entry-alone", HTTP, alone)?;
    let http = http_options(cluster(&dump, &bench.cluster("entry-alone", HTTP))?);
    let common = http["common_http_protocol_options"].clone();
    same("an HTTP port's idle time", &common["idle_timeout"].as_str(), &Some("3s"))?;
    same("an HTTP port's lifetime", &common["max_connection_duration"].as_str(), &Some("4s"))?;
    let top = json!({"connectionPool": pool("7s", "8s"), "portLevelSettings": [entry(TCP)]});
    bench.rule("r31b-top", "entry-and-top", TCP, top)?;
    let (alone, topped) = (bench.cluster("entry-alone", TCP), bench.cluster("entry-and-top", TCP));
    // The second rule came later: its times are there, so the first's would be.
    let dump = bench.until("the top level's times are there", |dump| times(dump, &topped, Some("7s"), Some("8s")))?;
    times(&dump, &alone, None, None).map_err(|seen| anyhow::anyhow!("times of an entry alone: {seen}"))
}

fn one_request_per_connection(bench: &Bench) -> Result<()> {
    both(bench, "one-shot")?;
    let policy = json!({"connectionPool": {"http": {"maxRequestsPerConnection": 1}}});
    bench.rule("r31c", "one-shot", HTTP, policy)?;
    let (answers, client) = counted(bench, || load(&bench.kubectl, &url("one-shot", HTTP, "/get"), 1, 20))?;
    same("answers 200", &answers.status(200), &20)?;
    let opened = client.outbound(&bench.host("one-shot"), HTTP, "upstream_cx_total");
    same("connections opened", &opened, &20)
}

fn a_lifetime_drains_http_and_cuts_tcp(bench: &Bench) -> Result<()> {
    both(bench, "mortal")?;
    let policy = json!({"connectionPool": {"tcp": {"maxConnectionDuration": "1s"}}});
    bench.rule("r31d", "mortal", HTTP, policy)?;
    let tcp = bench.cluster("mortal", TCP);
    bench.until("TCP has the lifetime", |dump| times(dump, &tcp, None, Some("1s")))?;
    let long = |port: u16| load(&bench.kubectl, &url("mortal", port, "/delay/2"), 1, 1);
    let (answers, client) = counted(bench, || {
        let slow = long(HTTP)?;
        let many = load_at(&bench.kubectl, &url("mortal", HTTP, "/get"), 1, 30, 10)?;
        Ok((slow, many))
    })?;
    same("HTTP: a call longer than the lifetime", &answers.0.status(200), &1)?;
    same("HTTP: calls through several lifetimes", &answers.1.status(200), &30)?;
    let ended = client.outbound(&bench.host("mortal"), HTTP, "upstream_cx_max_duration_reached");
    ensure!(ended >= 2, "{ended} connections of HTTP came to their end");
    let cut = long(TCP)?;
    ensure!(cut.total() >= 1 && cut.status(200) == 0, "TCP: a call longer than the lifetime was answered: {cut:?}");
    Ok(())
}

fn limits_on_tcp(bench: &Bench) -> Result<()> {
    both(bench, "tcp-requests")?;
    both(bench, "tcp-connections")?;
    let http = json!({"http2MaxRequests": 1, "maxRequestsPerConnection": 1, "maxRetries": 1});
    bench.rule("r34a-requests", "tcp-requests", TCP, json!({"connectionPool": {"http": http}}))?;
    let call = |service: &str, requests: u32| load(&bench.kubectl, &url(service, TCP, "/delay/0.02"), 4, requests);
    let (answers, client) = counted(bench, || call("tcp-requests", 80))?;
    same("answers 200 with a limit of one request", &answers.status(200), &80)?;
    let opened = client.outbound(&bench.host("tcp-requests"), TCP, "upstream_cx_total");
    same("connections with a limit of one request each", &opened, &4)?;

    bench.rule(
        "r34a-connections",
        "tcp-connections",
        TCP,
        json!({"connectionPool": {"tcp": {"maxConnections": 1}}}),
    )?;
    let (answers, client) = counted(bench, || call("tcp-connections", 40))?;
    let closed = closed(&answers);
    ensure!(closed > 0 && answers.status(200) > 0, "some should be closed: {answers:?}");
    let counted = client.outbound(&bench.host("tcp-connections"), TCP, "upstream_cx_overflow");
    ensure!(counted > 0, "{closed} calls were cut and no overflow was counted");
    Ok(())
}

/// Calls without an answer.
fn closed(answers: &Answers) -> u64 {
    answers.status(-1)
}

/// A Service whose only endpoint answers nobody: what wants to connect waits until `connectTimeout`.
fn nobody(bench: &Bench, name: &str, port_name: &str, port: u16) -> Result<()> {
    let mut endpoints = slice(name, name, "IPv4", 8080, &json!([{"addresses": ["192.0.2.1"]}]));
    endpoints["ports"][0]["name"] = json!(port_name);
    bench.apply(&[service(name, None, &json!([{"name": port_name, "port": port}])), endpoints])?;
    bench.until_endpoints(name, port).map(drop)
}

/// One may wait for a connection.
fn one_waits() -> Value {
    json!({"connectionPool": {"tcp": {"connectTimeout": "2s"}, "http": {"http1MaxPendingRequests": 1}}})
}

fn pending_on_tcp(bench: &Bench) -> Result<()> {
    nobody(bench, "tcp-nobody", "tcp", TCP)?;
    bench.rule("r34b", "tcp-nobody", TCP, one_waits())?;
    let (answers, client) = counted(bench, || load(&bench.kubectl, &url("tcp-nobody", TCP, "/get"), 4, 4))?;
    same("calls without an answer", &closed(&answers), &4)?;
    let refused = client.outbound(&bench.host("tcp-nobody"), TCP, "upstream_rq_pending_overflow");
    ensure!(refused >= 1, "no pending overflow was counted");
    Ok(())
}

fn limits_on_http2(bench: &Bench) -> Result<()> {
    for name in ["h2-connections", "h2-requests"] {
        let port = json!([{"name": "http2", "port": HTTP, "targetPort": 8080}]);
        bench.apply(&[service(name, Some(json!({"app": NEAR})), &port)])?;
        bench.until_endpoints(name, HTTP)?;
    }
    let call = |service: &str, callers: u32, requests: u32| {
        load(&bench.kubectl, &url(service, HTTP, "/echo?delay=20ms"), callers, requests)
    };
    let one = json!({"connectionPool": {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}}});
    bench.rule("r34c-connections", "h2-connections", HTTP, one)?;
    // A first call opens the connection; without one requests have to wait, and one may.
    let first = call("h2-connections", 1, 1)?;
    same("the first call", &first.status(200), &1)?;
    let (answers, client) = counted(bench, || call("h2-connections", 8, 160))?;
    same("answers 200 through one connection", &answers.status(200), &160)?;
    let opened = client.outbound(&bench.host("h2-connections"), HTTP, "upstream_cx_total");
    same("connections opened for them", &opened, &0)?;

    bench.rule("r34c-requests", "h2-requests", HTTP, json!({"connectionPool": {"http": {"http2MaxRequests": 2}}}))?;
    let (answers, client) = counted(bench, || call("h2-requests", 8, 160))?;
    let refused = answers.status(503);
    ensure!(refused > 0 && answers.status(200) > 0, "the answers should be mixed: {answers:?}");
    let counted = client.outbound(&bench.host("h2-requests"), HTTP, "upstream_rq_active_overflow");
    same("active overflows beside answers 503", &counted, &refused)?;
    let pending = client.outbound(&bench.host("h2-requests"), HTTP, "upstream_rq_pending_overflow");
    same("pending overflows", &pending, &0)
}

fn pending_on_http2(bench: &Bench) -> Result<()> {
    nobody(bench, "h2-nobody", "http2", HTTP)?;
    let route = json!([{"destination": {"host": "h2-nobody", "port": {"number": HTTP}}}]);
    let spec = json!({"hosts": ["h2-nobody"], "http": [{"route": route, "retries": {"attempts": 0}}]});
    bench.apply(&[with_spec("VirtualService", "r34d-routes", &spec)])?;
    bench.rule("r34d", "h2-nobody", HTTP, one_waits())?;
    bench.until_routes("r34d-routes", "h2-nobody", HTTP)?;
    let (answers, client) = counted(bench, || load(&bench.kubectl, &url("h2-nobody", HTTP, "/get"), 4, 4))?;
    same("answers 503", &answers.status(503), &4)?;
    let refused = client.outbound(&bench.host("h2-nobody"), HTTP, "upstream_rq_pending_overflow");
    same("pending overflows", &refused, &3)
}
