//! What the routes of a VirtualService do, and where.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::well;
use crate::envoy::Stats;
use crate::fortio::load;
use crate::measured::Claim;
use crate::measured::bench::{Bench, CLIENT, routes, same, service, with_spec};
use crate::scenarios::stage::SOON;
use crate::wait::Seen;

const HTTP: u16 = 80;

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R5.3"],
        says: "routes apply to ports of HTTP and to those that are sniffed, and not to TCP and TLS",
        judge: where_routes_apply,
    },
    Claim {
        ids: &["R5.4a"],
        says: "attempts 0 on the route that takes the rest leaves it without a retry policy",
        judge: attempts_zero_is_no_policy,
    },
    Claim {
        ids: &["R5.4b"],
        says: "a retry goes to another endpoint while there is one, nearly always",
        judge: a_retry_goes_to_another_endpoint,
    },
    Claim {
        ids: &["R5.4c"],
        says: "a timeout ends a call whose answer has begun, and so a stream, on gRPC ports as well",
        judge: a_timeout_ends_streams,
    },
];

/// A route as we write them: one port, and where to.
fn route(host: &str, port: u16, more: &Value) -> Value {
    let mut route = json!({
        "match": [{"port": port}],
        "route": [{"destination": {"host": host, "port": {"number": port}}}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        route[key] = value.clone();
    }
    route
}

fn where_routes_apply(bench: &Bench) -> Result<()> {
    let ports = [("http", 80), ("grpc", 81), ("web", 82), ("tcp", 83), ("https", 84)];
    let listed: Vec<Value> =
        ports.iter().map(|(name, port)| json!({"name": name, "port": port, "targetPort": 8080})).collect();
    bench.apply(&[service("carried", Some(well()), &json!(listed))])?;
    let host = bench.host("carried");
    let fault = json!({"fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}});
    let all: Vec<Value> = ports.iter().map(|(_, port)| route(&host, *port, &fault)).collect();
    bench.apply(&[with_spec("VirtualService", "r53", &json!({"hosts": [host], "http": all}))])?;
    bench.until_routes("r53", "carried", 80)?;
    bench.until_endpoints("carried", 84)?;
    let answer = |port: u16| -> Result<Option<i32>> {
        let answers = load(&bench.kubectl, &format!("http://carried:{port}/get"), 1, 1)?;
        Ok(answers.by_status.into_keys().next())
    };
    for (port, claimed) in [(80, 418), (82, 418), (83, 200), (84, 200)] {
        bench.kubectl.until(&format!("port {port} answers {claimed}"), SOON, |_| {
            let seen = answer(port)?;
            Ok(if seen == Some(claimed) { Seen::Done(()) } else { Seen::NotYet(format!("{seen:?}")) })
        })?;
    }
    bench.until_routes("r53", "carried", 81).map(drop)
}

fn attempts_zero_is_no_policy(bench: &Bench) -> Result<()> {
    bench.apply(&[service(
        "zero-tries",
        Some(well()),
        &json!([{"name": "http", "port": HTTP, "targetPort": 8080}]),
    )])?;
    let host = bench.host("zero-tries");
    let mut get = route(&host, HTTP, &json!({"retries": {"attempts": 2, "retryOn": "connect-failure,503"}}));
    get["match"] = json!([{"port": HTTP, "method": {"exact": "GET"}}]);
    let rest = route(&host, HTTP, &json!({"retries": {"attempts": 0}}));
    bench.apply(&[with_spec("VirtualService", "r54a", &json!({"hosts": [host], "http": [get, rest]}))])?;
    let dump = bench.until_routes("r54a", "zero-tries", HTTP)?;
    let policies: Vec<Option<Value>> =
        routes(&dump, &host, HTTP).iter().map(|route| route.pointer("/route/retry_policy").cloned()).collect();
    same("routes", &policies.len(), &2)?;
    let tries = policies[0].as_ref().map(|policy| policy["num_retries"].clone());
    same("retries of GET", &tries, &Some(json!(2)))?;
    same("retry policy of the rest", &policies[1], &None)
}

fn a_retry_goes_to_another_endpoint(bench: &Bench) -> Result<()> {
    // Of its two endpoints one answers 500 to everything.
    let ports = json!([{"name": "http", "port": HTTP, "targetPort": 8080}]);
    let calls = 200;
    let failed = |name: &str, more: Value| -> Result<u64> {
        bench.apply(&[service(name, Some(json!({"app": "httpbin"})), &ports)])?;
        let mut retries = json!({"attempts": 1, "retryOn": "5xx"});
        for (key, value) in more.as_object().into_iter().flatten() {
            retries[key] = value.clone();
        }
        let host = bench.host(name);
        let one = route(&host, HTTP, &json!({"retries": retries}));
        let routes = format!("routes-{name}");
        bench.apply(&[with_spec("VirtualService", &routes, &json!({"hosts": [host], "http": [one]}))])?;
        bench.until_routes(&routes, name, HTTP)?;
        let cluster = bench.cluster(name, HTTP);
        bench.until("the client has both endpoints", |dump| {
            let seen = crate::measured::bench::endpoints(dump, &cluster).len();
            if seen == 2 { Ok(()) } else { Err(format!("{seen}")) }
        })?;
        let answers = load(&bench.kubectl, &format!("http://{name}/get"), 1, calls)?;
        same("calls", &answers.total(), &u64::from(calls))?;
        Ok(answers.status(500))
    };
    let elsewhere = failed("elsewhere", json!({}))?;
    let anywhere = failed("anywhere", json!({"retryIgnorePreviousHosts": false}))?;
    // A half of the calls fails at first. To choose anew Envoy tries five times more (1 of 64 calls then
    // still fails twice); at random a half of the retries fails again.
    ensure!(elsewhere <= 15, "{elsewhere} of {calls} calls failed at the same endpoint twice");
    ensure!(anywhere >= 25, "only {anywhere} of {calls} calls failed twice at random");
    Ok(())
}

fn a_timeout_ends_streams(bench: &Bench) -> Result<()> {
    let ports = |name: &str| {
        json!([
            {"name": "http", "port": HTTP, "targetPort": 8080},
            {"name": name, "port": 81, "targetPort": 8080},
        ])
    };
    for name in ["stream-ended", "stream-free"] {
        bench.apply(&[service(name, Some(well()), &ports("grpc"))])?;
        bench.until_endpoints(name, HTTP)?;
    }
    let host = bench.host("stream-ended");
    let timeout = json!({"timeout": "1s"});
    let both = [route(&host, HTTP, &timeout), route(&host, 81, &timeout)];
    bench.apply(&[with_spec("VirtualService", "r54c", &json!({"hosts": [host], "http": both}))])?;
    bench.until_routes("r54c", "stream-ended", HTTP)?;
    let dump = bench.until_routes("r54c", "stream-ended", 81)?;
    let grpc = routes(&dump, &host, 81).first().and_then(|route| route.pointer("/route/timeout")).cloned();
    same("the timeout of a gRPC port", &grpc, &Some(json!("1s")))?;
    // A byte every tenth of a second, from the first moment.
    let timeouts = |name: &str| -> Result<u64> {
        let before = Stats::of(&bench.kubectl, CLIENT)?;
        load(&bench.kubectl, &format!("http://{name}/drip?duration=2s&numbytes=20"), 1, 1)?;
        Ok(Stats::of(&bench.kubectl, CLIENT)?.since(&before).outbound(&bench.host(name), HTTP, "upstream_rq_timeout"))
    };
    ensure!(timeouts("stream-ended")? >= 1, "a stream longer than the timeout was not ended");
    same("timeouts without one", &timeouts("stream-free")?, &0)
}
