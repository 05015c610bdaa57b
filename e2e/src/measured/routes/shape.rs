//! What the shape of one VirtualService does to calls.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Routes;
use crate::fortio::{Answers, load};
use crate::measured::routes_stage::{CONTAINER_PORT, Counted, PORT, Stage};

/// The second port of `two`, and its container's.
const MORE: u16 = 8001;
const MORE_CONTAINER_PORT: u16 = 8081;

/// Calls `two` 5 times on its first port and 7 times on its second.
fn call_both(stage: &Stage) -> Result<Counted<(Answers, Answers)>> {
    stage.counted("deploy/two", || {
        let first = load(&stage.kubectl, &stage.url("two", PORT, "/get"), 1, 5)?;
        Ok((first, load(&stage.kubectl, &stage.url("two", MORE, "/get"), 1, 7)?))
    })
}

/// That this status answered the first port, and 200 the second; and what arrived at each container.
fn expect(seen: &Counted<(Answers, Answers)>, status: i32, arrived: (u64, u64)) -> Result<()> {
    let (first, second) = &seen.value;
    ensure!(
        first.status(status) == 5 && second.status(200) == 7,
        "{PORT} was answered {first:?}, not {status}; {MORE} {second:?}"
    );
    let count = |port| seen.server.inbound(port, "upstream_rq_total");
    let at = (count(CONTAINER_PORT), count(MORE_CONTAINER_PORT));
    ensure!(at == arrived, "of 5 calls on {PORT} and 7 on {MORE}, {at:?} arrived at the containers, not {arrived:?}");
    Ok(())
}

fn write(stage: &Stage, http: &Value) -> Result<()> {
    stage.write(&[stage.virtual_service("two", "two", http)])
}

/// A `route` to a port of `two`, or to none.
fn to_two(stage: &Stage, port: Option<u16>) -> Value {
    let mut destination = json!({"host": stage.host("two")});
    if let Some(port) = port {
        destination["port"] = json!({"number": port});
    }
    json!([{"destination": destination}])
}

pub(super) fn matched_port(routes: &Routes) -> Result<()> {
    let stage = &routes.stage;
    let fault = json!({"abort": {"httpStatus": 461, "percentage": {"value": 100}}});
    write(stage, &json!([{"match": [{"port": PORT}], "fault": fault, "route": to_two(stage, Some(PORT))}]))?;
    expect(&call_both(stage)?, 461, (0, 7))
}

pub(super) fn fixed_destination(routes: &Routes) -> Result<()> {
    let stage = &routes.stage;
    write(stage, &json!([{"route": to_two(stage, Some(PORT))}]))?;
    expect(&call_both(stage)?, 200, (12, 0))
}

pub(super) fn every_port_its_own(routes: &Routes) -> Result<()> {
    let stage = &routes.stage;
    write(stage, &json!([{"route": to_two(stage, None)}]))?;
    expect(&call_both(stage)?, 200, (5, 7))?;
    let each = [PORT, MORE].map(|port| json!({"match": [{"port": port}], "route": to_two(stage, Some(port))}));
    write(stage, &json!(each))?;
    expect(&call_both(stage)?, 200, (5, 7))
}

pub(super) fn no_catch_all(routes: &Routes) -> Result<()> {
    let stage = &routes.stage;
    let get = json!([{"port": PORT, "method": {"exact": "GET"}}]);
    write(stage, &json!([{"match": get, "route": to_two(stage, Some(PORT))}]))?;
    expect(&call_both(stage)?, 200, (5, 7))?;
    let post = stage.call_by("POST", "deploy/two", &stage.url("two", PORT, "/post"), 5)?;
    post.expect(404, 0)?;
    // The client's own Envoy answered: it had no route.
    let no_route = post.client.value(&format!("http.outbound_0.0.0.0_{PORT};.no_route"));
    ensure!(no_route == 5, "5 calls by POST were 404, and the client's Envoy missed a route {no_route} times");
    let more = stage.call_by("POST", "deploy/two", &stage.url("two", MORE, "/post"), 5)?;
    ensure!(more.value.status(200) == 5, "POST on the other port was answered {:?}", more.value);
    Ok(())
}

pub(super) fn by_method(routes: &Routes) -> Result<()> {
    let stage = &routes.stage;
    let split = |method: Value| {
        let to = stage.to("httpbin");
        let retried = json!({"attempts": 2, "retryOn": "503"});
        json!([
            {"match": [{"method": method}], "route": to, "retries": retried},
            {"route": to, "retries": {"attempts": 0}},
        ])
    };
    let url = stage.url("httpbin", PORT, "/status/503");
    // A match, and the tries at the server of so many calls by each method.
    for (method, calls) in [
        (json!({"exact": "GET"}), [("GET", 10, 30), ("POST", 10, 10), ("PUT", 3, 3), ("HEAD", 3, 3)]),
        (json!({"regex": "GET|HEAD|OPTIONS"}), [("GET", 3, 9), ("POST", 3, 3), ("PUT", 3, 3), ("HEAD", 3, 9)]),
    ] {
        stage.write(&[stage.virtual_service("httpbin", "httpbin", &split(method.clone()))])?;
        for (by, calls, tries) in calls {
            let seen = stage.call_by(by, "deploy/httpbin", &url, calls)?;
            seen.expect(503, tries).map_err(|error| error.context(format!("{by} with a route for {method}")))?;
        }
    }
    Ok(())
}

pub(super) fn subset_without_rule(routes: &Routes) -> Result<()> {
    let stage = &routes.stage;
    let destination = json!({"host": stage.host("httpbin"), "subset": "v1", "port": {"number": PORT}});
    let to_subset = stage.virtual_service("httpbin", "httpbin", &json!([{"route": [{"destination": destination}]}]));
    stage.write(&[to_subset])?;
    let without = stage.call("/get", 5)?;
    without.expect(503, 0)?;
    let no_cluster = without.client.value(&format!("http.outbound_0.0.0.0_{PORT};.no_cluster"));
    ensure!(no_cluster == 5, "5 calls were 503, and the client's Envoy missed a cluster {no_cluster} times");
    let subsets = json!({"subsets": [{"name": "v1", "labels": {"version": "v1"}}]});
    stage.write(&[stage.destination_rule("httpbin", &subsets)])?;
    stage.call("/get", 5)?.expect(200, 5)
}
