//! portLevelSettings and TLS.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, CLIENT, cluster, endpoints, same, service, threshold};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::scenarios::stage::SOON;
use crate::wait::Seen;
use crate::workloads::start_in;

/// A Service with two ports, [`ONE`] and [`OTHER`], both of httpbin.
const TWO: &str = "two";
const ONE: u16 = 8000;
const OTHER: u16 = 8001;

const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["M54"],
        says: "a rule without tls keeps automatic mutual TLS on every port",
        judge: a_rule_without_tls_keeps_mutual_tls,
    },
    Claim {
        ids: &["M55"],
        says: "an entry takes the place of the whole top level for its port; of two entries the first counts",
        judge: an_entry_takes_the_place_of_the_top_level,
    },
    Claim {
        ids: &["M56"],
        says: "top tls DISABLE, an entry without tls: its cluster would use mutual TLS, its endpoints do not",
        judge: |bench| an_entry_without_tls_falls_to_plaintext(bench, "m56", &json!({"mode": "DISABLE"})),
    },
    Claim {
        ids: &["M57"],
        says: "top tls SIMPLE, an entry without tls: plaintext to that port although TLS was demanded",
        judge: |bench| an_entry_without_tls_falls_to_plaintext(bench, "m57", &json!({"mode": "SIMPLE"})),
    },
    Claim {
        ids: &["M58"],
        says: "top tls ISTIO_MUTUAL, an entry without tls: mutual TLS is found out for that port, not demanded",
        judge: istio_mutual_is_no_longer_demanded,
    },
    Claim {
        ids: &["M59"],
        says: "an entry with tls DISABLE: plaintext and no pool there, mutual TLS and the pool elsewhere",
        judge: an_entry_that_disables_tls_loses_the_pool,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "ports", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-ports", |kubectl| {
        start_in(checkout, kubectl)?;
        let bench = Bench::new(kubectl);
        let ports = json!([
            {"name": "http-one", "port": ONE, "targetPort": 8080},
            {"name": "http-other", "port": OTHER, "targetPort": 8080},
        ]);
        bench.apply(&[service(TWO, Some(json!({"app": "httpbin"})), &ports)])?;
        // Not swept, as the stage is.
        bench.kubectl.run(&["label", "service", TWO, "claim-"])?;
        bench.until_endpoints(TWO, OTHER)?;
        judge.all(&bench, CLAIMS, Bench::sweep);
        Ok(())
    })
}

fn a_rule_without_tls_keeps_mutual_tls(bench: &Bench) -> Result<()> {
    let policy = json!({
        "connectionPool": {"http": {"http2MaxRequests": 100}},
        "outlierDetection": {"consecutive5xxErrors": 5},
    });
    let dump = both(bench, "m54", policy)?;
    for port in [ONE, OTHER] {
        let name = bench.cluster(TWO, port);
        same(&name, &tls(cluster(&dump, &name)?), &Tls::Automatic)?;
        same(&name, &told_mutual(&dump, &name), &Some(true))?;
        same(&format!("a call to {port} by mutual TLS"), &called_by_mutual_tls(bench, port)?, &true)?;
    }
    Ok(())
}

fn an_entry_takes_the_place_of_the_top_level(bench: &Bench) -> Result<()> {
    let policy = json!({
        "connectionPool": {"http": {"http2MaxRequests": 77}},
        "outlierDetection": {"consecutive5xxErrors": 7},
        "portLevelSettings": [
            {"port": {"number": ONE}, "connectionPool": {"tcp": {"maxConnections": 5}}},
            {"port": {"number": ONE}, "connectionPool": {"tcp": {"maxConnections": 6}}},
        ],
    });
    let dump = both(bench, "m55", policy)?;
    let one = cluster(&dump, &bench.cluster(TWO, ONE))?;
    same("max_connections of the entry", &threshold(one, "max_connections"), &Some(5))?;
    same("max_requests beside the entry", &threshold(one, "max_requests"), &None)?;
    ensure!(one.get("outlier_detection").is_none(), "the entry's port has {}", one["outlier_detection"]);
    let other = cluster(&dump, &bench.cluster(TWO, OTHER))?;
    same("max_requests of the other port", &threshold(other, "max_requests"), &Some(77))?;
    same("detection of the other port", &other.pointer("/outlier_detection/consecutive_5xx"), &Some(&json!(7)))
}

fn an_entry_without_tls_falls_to_plaintext(bench: &Bench, name: &str, top: &Value) -> Result<()> {
    let dump = both(bench, name, with_entry(top, &json!({"http": {"http2MaxRequests": 100}})))?;
    let (one, other) = (bench.cluster(TWO, ONE), bench.cluster(TWO, OTHER));
    let demanded = if top["mode"] == "DISABLE" { Tls::None } else { Tls::Demanded };
    same(&other, &tls(cluster(&dump, &other)?), &demanded)?;
    same(&one, &tls(cluster(&dump, &one)?), &Tls::Automatic)?;
    // Endpoints follow the cluster by a message of their own.
    bench.until("the endpoints are told without mutual TLS", |dump| told(dump, &one, Some(false)))?;
    bench.kubectl.until("a call passes in plaintext", SOON, |_| {
        let mutual = called_by_mutual_tls(bench, ONE)?;
        Ok(if mutual { Seen::NotYet("by mutual TLS".to_owned()) } else { Seen::Done(()) })
    })
}

fn istio_mutual_is_no_longer_demanded(bench: &Bench) -> Result<()> {
    let policy = with_entry(&json!({"mode": "ISTIO_MUTUAL"}), &json!({"http": {"http2MaxRequests": 100}}));
    let dump = both(bench, "m58", policy)?;
    let (one, other) = (bench.cluster(TWO, ONE), bench.cluster(TWO, OTHER));
    same(&other, &tls(cluster(&dump, &other)?), &Tls::Demanded)?;
    same(&one, &tls(cluster(&dump, &one)?), &Tls::Automatic)?;
    bench.until("the endpoints are told with mutual TLS", |dump| told(dump, &one, Some(true)))?;
    same("a call by mutual TLS", &called_by_mutual_tls(bench, ONE)?, &true)
}

fn an_entry_that_disables_tls_loses_the_pool(bench: &Bench) -> Result<()> {
    let policy = json!({
        "connectionPool": {"http": {"http2MaxRequests": 77}},
        "portLevelSettings": [{"port": {"number": ONE}, "tls": {"mode": "DISABLE"}}],
    });
    let dump = both(bench, "m59", policy)?;
    let (one, other) = (bench.cluster(TWO, ONE), bench.cluster(TWO, OTHER));
    same(&one, &tls(cluster(&dump, &one)?), &Tls::None)?;
    same(&one, &threshold(cluster(&dump, &one)?, "max_requests"), &None)?;
    same(&other, &tls(cluster(&dump, &other)?), &Tls::Automatic)?;
    same(&other, &threshold(cluster(&dump, &other)?, "max_requests"), &Some(77))?;
    same("a call to the entry's port by mutual TLS", &called_by_mutual_tls(bench, ONE)?, &false)?;
    same("a call to the other port by mutual TLS", &called_by_mutual_tls(bench, OTHER)?, &true)
}

/// Applies a rule, and waits until the client's Envoy has it on both ports: a cluster that is warming takes the
/// place of the one before it when it has its endpoints, each port in its own time.
fn both(bench: &Bench, name: &str, policy: Value) -> Result<ConfigDump> {
    bench.rule(name, TWO, ONE, policy)?;
    bench.until_rule(name, TWO, OTHER)
}

/// TLS at the top level, and an entry for [`ONE`] that has only a pool.
fn with_entry(tls: &Value, pool: &Value) -> Value {
    json!({"tls": tls, "portLevelSettings": [{"port": {"number": ONE}, "connectionPool": pool}]})
}

/// What a cluster does about TLS.
#[derive(Debug, PartialEq, Eq)]
enum Tls {
    /// By the endpoint: mutual TLS to those that are marked.
    Automatic,
    /// To every endpoint.
    Demanded,
    /// To none.
    None,
}

fn tls(cluster: &Value) -> Tls {
    match (cluster.get("transport_socket_matches"), cluster.get("transport_socket")) {
        (Some(_), _) => Tls::Automatic,
        (None, Some(_)) => Tls::Demanded,
        (None, None) => Tls::None,
    }
}

/// Whether a client was told to use mutual TLS with the endpoints of a cluster; `None` without endpoints.
fn told_mutual(dump: &ConfigDump, cluster: &str) -> Option<bool> {
    let mark = "/metadata/filter_metadata/envoy.transport_socket_match/tlsMode";
    let marks: Vec<bool> = endpoints(dump, cluster).iter().map(|one| one.pointer(mark).is_some()).collect();
    (!marks.is_empty()).then(|| marks.iter().all(|mark| *mark))
}

fn told(dump: &ConfigDump, cluster: &str, mutual: Option<bool>) -> Result<(), String> {
    let seen = told_mutual(dump, cluster);
    if seen == mutual { Ok(()) } else { Err(format!("{seen:?}")) }
}

/// Calls the server; its proxy names the client's certificate if there was one.
fn called_by_mutual_tls(bench: &Bench, port: u16) -> Result<bool> {
    let url = format!("http://{TWO}:{port}/headers");
    bench.kubectl.until(&format!("{url} answers"), SOON, |kubectl| {
        let answer = kubectl.try_exec(CLIENT, "fortio", &["fortio", "curl", "-quiet", &url])?;
        let answered = answer.status.success() && answer.stdout.contains("\"headers\"");
        Ok(if answered {
            Seen::Done(answer.stdout.contains("X-Forwarded-Client-Cert"))
        } else {
            Seen::NotYet(answer.all())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{CLAIMS, listed};
    use crate::measured::bench::each_once;

    #[test]
    fn every_measurement_of_the_family_is_judged_once() {
        each_once(listed(CLAIMS), &["M54", "M55", "M56", "M57", "M58", "M59"]);
    }
}
