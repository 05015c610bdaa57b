//! Readings of Istio's source that a rule of ours rests on. Their numbers begin with the section of the
//! notes that they come from: 1 rules of one host, 3 pools, 4 ejection and endpoints, 5 routes, 8 names of
//! ports, 9 who has a proxy.

mod ejection;
mod endpoints;
mod gateways;
mod members;
mod pools;
mod protocols;
mod routes;
mod rules;
mod targets;

use anyhow::Result;
use serde_json::{Value, json};

use super::bench::{Bench, documents, service};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::images;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::scenarios::stage::SOON;
use crate::workloads::{add_failing_replica, start_in};

const ALL: &[&[Claim<Bench>]] = &[
    rules::CLAIMS,
    targets::CLAIMS,
    pools::CLAIMS,
    ejection::CLAIMS,
    endpoints::CLAIMS,
    routes::CLAIMS,
    gateways::CLAIMS,
    protocols::CLAIMS,
    members::CLAIMS,
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "readings", claims, play };

fn claims() -> Vec<(&'static [&'static str], &'static str)> {
    ALL.iter().flat_map(|claims| listed(claims)).collect()
}

/// A second client, in a zone of its own; it answers HTTP/2 as well.
const NEAR: &str = "near";
/// Its region and zone, as a locality.
const ZONE: &str = "eu/a";
/// A gateway, and what its Gateway objects select.
const GATEWAY: &str = "gateway";
/// The port on which it listens.
const GATEWAY_PORT: u16 = 8080;

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-readings", |kubectl| {
        kubectl.apply(&documents(&[near(), gateway(), gateway_service(), near_service()]))?;
        start_in(checkout, kubectl)?;
        add_failing_replica(checkout, kubectl)?;
        for workload in [NEAR, GATEWAY] {
            kubectl.rolled_out(&format!("deployment/{workload}"), SOON)?;
        }
        let bench = Bench::new(kubectl);
        for claims in ALL {
            judge.all(&bench, claims, Bench::sweep);
        }
        Ok(())
    })
}

/// Pods of the server that answers as it should.
fn well() -> Value {
    json!({"app": "httpbin", "version": "v1"})
}

fn deployment(name: &str, labels: &Value, annotations: Value, container: &Value) -> Value {
    let mut annotations = annotations;
    annotations["sidecar.istio.io/statsInclusionPrefixes"] = json!("cluster.outbound,cluster.inbound");
    annotations["readiness.status.sidecar.istio.io/initialDelaySeconds"] = json!("0");
    annotations["readiness.status.sidecar.istio.io/periodSeconds"] = json!("1");
    annotations["proxy.istio.io/config"] = json!("{concurrency: 1, terminationDrainDuration: 1s}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {"terminationGracePeriodSeconds": 2, "containers": [container]},
            },
        },
    })
}

fn near() -> Value {
    let container = json!({
        "name": "fortio", "image": images::FORTIO, "imagePullPolicy": "IfNotPresent", "args": ["server"],
        "resources": {"requests": {"cpu": "10m", "memory": "20Mi"}},
    });
    // With labels a pod says where it is, in place of its node; a dot stands for the slash.
    deployment(NEAR, &json!({"app": NEAR, "istio-locality": ZONE.replace('/', ".")}), json!({}), &container)
}

/// Older than what claims write: the oldest Service of a pod's port decides about its server's side.
fn near_service() -> Value {
    let mut all =
        service(NEAR, Some(json!({"app": NEAR})), &json!([{"name": "http2", "port": 80, "targetPort": 8080}]));
    all["metadata"]["labels"] = json!({});
    all
}

fn gateway() -> Value {
    let container = json!({
        "name": "istio-proxy", "image": "auto", "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "10m", "memory": "40Mi"}},
    });
    let injected = json!({"inject.istio.io/templates": "gateway"});
    deployment(GATEWAY, &json!({"app": GATEWAY, "sidecar.istio.io/inject": "true"}), injected, &container)
}

fn gateway_service() -> Value {
    let mut all = service(
        GATEWAY,
        Some(json!({"app": GATEWAY})),
        &json!([{"name": "http", "port": 80, "targetPort": GATEWAY_PORT}]),
    );
    all["metadata"]["labels"] = json!({});
    all
}

#[cfg(test)]
mod tests {
    use super::claims;
    use crate::measured::bench::each_once;

    #[test]
    fn every_reading_is_judged_once() {
        each_once(
            claims(),
            &[
                "R1.1a", "R1.1b", "R1.1c", "R1.1d", "R1.2a", "R1.2b", "R1.3a", "R1.3b", "R1.3c", "R1.4", "R1.5",
                "R3.1a", "R3.1b", "R3.1c", "R3.1d", "R3.3", "R3.4a", "R3.4b", "R3.4c", "R3.4d", "R10.1", "R4.1",
                "R4.2a", "R4.2b", "R4.2c", "R4.4a", "R4.4b", "R4.4c", "R4.5a", "R4.5b", "R2.1", "R4.6", "R5.1a",
                "R5.1b", "R5.3", "R5.4a", "R5.4b", "R5.4c", "R8a", "R8b", "R9.1",
            ],
        );
    }
}
