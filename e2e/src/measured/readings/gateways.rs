//! What acts at a gateway, and what a gateway's VirtualService does to the mesh.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{GATEWAY, GATEWAY_PORT, well};
use crate::fortio::load;
use crate::measured::Claim;
use crate::measured::bench::{Bench, by_rule, cluster, rule, same, service, threshold, with_spec};
use crate::scenarios::stage::SOON;
use crate::wait::Seen;

const HTTP: u16 = 80;

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R5.1a"],
        says: "at a gateway a rule acts, and routes of the mesh do not",
        judge: a_rule_acts_at_a_gateway_and_routes_of_the_mesh_do_not,
    },
    Claim {
        ids: &["R5.1b"],
        says: "a VirtualService of a gateway alone does not take the host in the mesh; with mesh among its gateways it does",
        judge: a_gateways_routes_do_not_take_the_host,
    },
];

/// The Gateway object, and a VirtualService that brings calls for any host to a Service.
fn brings_in(name: &str, service: &str) -> [Value; 2] {
    let server = json!({"port": {"number": GATEWAY_PORT, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
    let route = json!([{"destination": {"host": service, "port": {"number": HTTP}}}]);
    [
        with_spec("Gateway", name, &json!({"selector": {"app": GATEWAY}, "servers": [server]})),
        with_spec("VirtualService", name, &json!({"hosts": ["*"], "gateways": [name], "http": [{"route": route}]})),
    ]
}

fn target(bench: &Bench, name: &str) -> Result<()> {
    bench.apply(&[service(name, Some(well()), &json!([{"name": "http", "port": HTTP, "targetPort": 8080}]))])
}

/// Routes of the mesh for the host, with a timeout that tells them.
fn mesh(name: &str, host: &str, timeout: &str) -> Value {
    let route = json!([{"destination": {"host": host, "port": {"number": HTTP}}}]);
    with_spec("VirtualService", name, &json!({"hosts": [host], "http": [{"route": route, "timeout": timeout}]}))
}

fn a_rule_acts_at_a_gateway_and_routes_of_the_mesh_do_not(bench: &Bench) -> Result<()> {
    target(bench, "brought")?;
    bench.apply(&brings_in("r51a", "brought"))?;
    let slow = |url: &str| load(&bench.kubectl, &format!("{url}/delay/0.3"), 1, 1);
    let through = format!("http://{GATEWAY}");
    bench.kubectl.until("a call passes the gateway", SOON, |_| {
        let answers = slow(&through)?;
        Ok(if answers.status(200) == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
    })?;
    bench.apply(&[
        mesh("r51a-mesh", "brought", "0.1s"),
        rule("r51a-rule", "brought", json!({"connectionPool": {"http": {"http2MaxRequests": 1}}})),
    ])?;
    bench.until_routes("r51a-mesh", "brought", HTTP)?;
    let name = bench.cluster("brought", HTTP);
    let dump =
        bench.until_at("deploy/gateway", "the gateway has the rule", |dump| by_rule(dump, &name, "r51a-rule"))?;
    same("the gateway's limit", &threshold(cluster(&dump, &name)?, "max_requests"), &Some(1))?;
    same("a slow call in the mesh", &slow("http://brought")?.status(504), &1)?;
    same("a slow call through the gateway", &slow(&through)?.status(200), &1)?;
    let answers = load(&bench.kubectl, &format!("{through}/delay/0.05"), 4, 40)?;
    ensure!(answers.status(503) > 0 && answers.status(200) > 0, "the gateway should refuse some: {answers:?}");
    Ok(())
}

fn a_gateways_routes_do_not_take_the_host(bench: &Bench) -> Result<()> {
    for (service, gateways, mesh_wins) in [("aside", json!(["r51b"]), true), ("taken", json!(["mesh", "r51b"]), false)]
    {
        target(bench, service)?;
        let host = bench.host(service);
        let theirs = format!("r51b-{service}-gateway");
        let mut older = mesh(&theirs, &host, "5s");
        older["spec"]["gateways"] = gateways;
        bench.apply(&brings_in("r51b", service)[..1])?;
        bench.apply(&[older])?;
        let ours = format!("r51b-{service}-mesh");
        bench.apply_younger(("virtualservice", &theirs), &mesh(&ours, &host, "7s"))?;
        if mesh_wins {
            bench.until_routes(&ours, service, HTTP)?;
        } else {
            // Something later is there, and the host is still theirs.
            target(bench, "later")?;
            bench.apply(&[mesh("r51b-later", "later", "9s")])?;
            bench.until_routes("r51b-later", "later", HTTP)?;
            bench.until_routes(&theirs, service, HTTP)?;
        }
    }
    Ok(())
}
