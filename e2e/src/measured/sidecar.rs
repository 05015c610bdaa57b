//! The Sidecar that states the server's side.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::bench::{Bench, list, rule, same, threshold, with_spec};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::workloads::start_in;

/// The pod whose Sidecar it is.
const SERVER: &str = "deploy/httpbin";
/// A limit of the server's that only our Sidecar sets.
const RAISED: u64 = 4242;
/// Where a Sidecar without a selector is for the whole mesh.
const ROOT: &str = "istio-system";
/// Its name there.
const MESH_WIDE: &str = "measured-sidecar-mesh-wide";

struct Stage {
    bench: Bench,
    root: Kubectl,
    /// What the server's Envoy knew of the outside before any Sidecar was there.
    egress: BTreeMap<String, Value>,
}

const CLAIMS: &[Claim<Stage>] = &[
    Claim {
        ids: &["M68"],
        says: "a workload's Sidecar with inboundConnectionPool alone raises the server's limit and leaves egress as it was",
        judge: it_raises_the_limit_and_leaves_egress,
    },
    Claim {
        ids: &["M69"],
        says: "a workload's Sidecar takes the place of the namespace's and inherits nothing of it",
        judge: |stage| {
            stage.bench.apply(&[with_spec(
                "Sidecar",
                "namespace-wide",
                &json!({"egress": [{"hosts": ["istio-system/*"]}]}),
            )])?;
            it_opens_the_egress_again(stage)
        },
    },
    Claim {
        ids: &["M70"],
        says: "and of the mesh's",
        judge: |stage| {
            let sidecar = with_spec("Sidecar", MESH_WIDE, &json!({"egress": [{"hosts": ["istio-system/*"]}]}));
            let _gone_afterwards = MeshWide(&stage.root);
            stage.root.apply(&sidecar.to_string())?;
            it_opens_the_egress_again(stage)
        },
    },
    Claim {
        ids: &["M71"],
        says: "it opens the internet that the namespace's outboundTrafficPolicy REGISTRY_ONLY had closed",
        judge: it_opens_the_internet,
    },
    Claim {
        ids: &["M72"],
        says: "the older of two workload Sidecars counts; a Sidecar beats a rule, and a workload's the namespace's",
        judge: which_limit_counts,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "sidecar", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-sidecar", |kubectl| {
        let root = lab.namespace(ROOT);
        // One that a killed run left would spoil what is to be compared with.
        drop(MeshWide(&root));
        start_in(checkout, kubectl)?;
        let bench = Bench::new(kubectl);
        let own = bench.cluster("httpbin", 8000);
        let dump = bench.until_at(SERVER, "the server's Envoy knows its own Service", |dump| {
            dump.cluster(&own).map(drop).ok_or_else(|| "not yet".to_owned())
        })?;
        let egress = egress(&bench, &dump);
        judge.all(&Stage { bench, root, egress }, CLAIMS, |stage| {
            stage.bench.sweep()?;
            until_egress(stage, "the server's egress is as it was", |egress| *egress == stage.egress).map(drop)
        });
        Ok(())
    })
}

/// A Sidecar for every namespace, which must not outlive its claim: others come to the same lab.
struct MeshWide<'a>(&'a Kubectl);

impl Drop for MeshWide<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.run(&["delete", "sidecar", MESH_WIDE, "--ignore-not-found", "--wait"]) {
            eprintln!("the mesh-wide Sidecar {ROOT}/{MESH_WIDE} stays and spoils every other test: {error:#}");
        }
    }
}

fn it_raises_the_limit_and_leaves_egress(stage: &Stage) -> Result<()> {
    stage.bench.apply(&[for_server("m68", RAISED)])?;
    let dump = until_limit(stage, Some(RAISED))?;
    same("the server's egress", &egress(&stage.bench, &dump), &stage.egress)
}

/// Some Sidecar has closed the egress to all but Istio itself.
fn it_opens_the_egress_again(stage: &Stage) -> Result<()> {
    let own = format!(".{}.svc", stage.bench.kubectl.current_namespace());
    until_egress(stage, "the egress is closed", |egress| {
        !egress.is_empty() && egress.keys().all(|name| name.contains(".istio-system.svc") && !name.contains(&own))
    })?;
    stage.bench.apply(&[for_server("own", RAISED)])?;
    until_limit(stage, Some(RAISED))?;
    // Clusters that come back warm up first, and do not count as active until then.
    until_egress(stage, "the server's egress is as without any Sidecar", |egress| *egress == stage.egress).map(drop)
}

fn it_opens_the_internet(stage: &Stage) -> Result<()> {
    let closed = json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}});
    let unknown = |dump: &ConfigDump| unknown_goes_to(dump).unwrap_or_default();
    stage.bench.apply(&[with_spec("Sidecar", "namespace-wide", &closed)])?;
    stage.bench.until_at(SERVER, "what is unknown is refused", |dump| {
        if unknown(dump) == "BlackHoleCluster" { Ok(()) } else { Err(unknown(dump)) }
    })?;
    stage.bench.apply(&[for_server("m71", RAISED)])?;
    let dump = until_limit(stage, Some(RAISED))?;
    same("where what is unknown goes", &unknown(&dump).as_str(), &"PassthroughCluster")
}

fn which_limit_counts(stage: &Stage) -> Result<()> {
    let bench = &stage.bench;
    let namespace_wide = json!({"inboundConnectionPool": {"http": {"http2MaxRequests": 11}}});
    bench.apply(&[rule("limits", "httpbin", json!({"connectionPool": {"http": {"http2MaxRequests": 5}}}))])?;
    until_limit(stage, Some(5))?;
    bench.apply(&[with_spec("Sidecar", "namespace-wide", &namespace_wide)])?;
    until_limit(stage, Some(11))?;
    // By name the younger one would come first.
    bench.apply(&[for_server("second-by-name", RAISED)])?;
    until_limit(stage, Some(RAISED))?;
    bench.apply_younger(("sidecar", "second-by-name"), &for_server("first-by-name", 99))?;
    // The younger one is heeded when the older is gone; until then nothing of it may be seen.
    bench.apply(&[rule("later", "httpbin-later", json!({"connectionPool": {"http": {"http2MaxRequests": 1}}}))])?;
    stage.bench.apply(&[super::bench::service("httpbin-later", None, &json!([{"name": "http", "port": 80}]))])?;
    let later = bench.cluster("httpbin-later", 80);
    let dump = bench.until_at(SERVER, "the server's Envoy has what came later", |dump| {
        super::bench::by_rule(dump, &later, "later")
    })?;
    same("the server's limit beside a younger Sidecar", &limit(&dump), &Some(RAISED))?;
    bench.kubectl.run(&["delete", "sidecar", "second-by-name", "--wait"])?;
    until_limit(stage, Some(99)).map(drop)
}

/// A Sidecar for the server's pods that states their limit.
fn for_server(name: &str, requests: u64) -> Value {
    let spec = json!({
        "workloadSelector": {"labels": {"app": "httpbin"}},
        "inboundConnectionPool": {"http": {"http2MaxRequests": requests}},
    });
    with_spec("Sidecar", name, &spec)
}

/// Requests that the server's own proxy lets in at a time.
fn limit(dump: &ConfigDump) -> Option<u64> {
    threshold(dump.cluster("inbound|8080||")?, "max_requests")
}

fn until_limit(stage: &Stage, limit_wanted: Option<u64>) -> Result<ConfigDump> {
    stage.bench.until_at(SERVER, &format!("the server lets in {limit_wanted:?}"), |dump| {
        let seen = limit(dump);
        if seen == limit_wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
}

fn until_egress(stage: &Stage, what: &str, right: impl Fn(&BTreeMap<String, Value>) -> bool) -> Result<ConfigDump> {
    stage.bench.until_at(SERVER, what, |dump| {
        let seen = egress(&stage.bench, dump);
        if right(&seen) { Ok(()) } else { Err(format!("{:?}", seen.keys().collect::<Vec<_>>())) }
    })
}

/// Outbound clusters, whole, of namespaces that no other scenario comes and goes in.
fn egress(bench: &Bench, dump: &ConfigDump) -> BTreeMap<String, Value> {
    let lasting = [bench.kubectl.current_namespace(), ROOT, "kube-system", "default", "resilience-demo"];
    let clusters = dump.clusters().iter().filter_map(|cluster| {
        let name = cluster["name"].as_str()?;
        let host = name.strip_prefix("outbound|")?.rsplit('|').next()?;
        let namespace = host.split('.').nth(1)?;
        lasting.contains(&namespace).then(|| (name.to_owned(), cluster.clone()))
    });
    clusters.collect()
}

/// The cluster for TCP to an address that no listener of the server's Envoy has.
fn unknown_goes_to(dump: &ConfigDump) -> Result<String> {
    let listener = dump.listeners().iter().find(|listener| listener["name"] == "virtualOutbound");
    let listener = listener.context("there is no listener virtualOutbound")?;
    let chains = [list(listener, "filter_chains"), listener.get("default_filter_chain").cloned().into_iter().collect()];
    let filters = chains.iter().flatten().flat_map(|chain| list(chain, "filters"));
    let clusters = filters.filter_map(|filter| Some(filter.pointer("/typed_config/cluster")?.as_str()?.to_owned()));
    clusters.collect::<Vec<_>>().pop().context("virtualOutbound ends nowhere")
}

#[cfg(test)]
mod tests {
    use super::{CLAIMS, listed};
    use crate::measured::bench::each_once;

    #[test]
    fn every_measurement_of_the_family_is_judged_once() {
        each_once(listed(CLAIMS), &["M68", "M69", "M70", "M71", "M72"]);
    }
}
