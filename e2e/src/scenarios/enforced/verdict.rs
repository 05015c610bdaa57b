//! In: a golden, its policies as the cluster has them, a client's Envoy before the operator came and now.
//! Out: every sentence of how status, Envoy and golden differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::expect::{self, Difference, Values, differences};
use super::golden::{Golden, Target, each_text, text};
use super::reading;
use crate::config_dump::ConfigDump;

/// Methods with a meaning of their own, and one that nobody has heard of.
const METHODS: [&str; 10] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT", "BREW"];

/// How much was compared, so that it cannot be nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Policies in force.
    pub in_force: usize,
    /// Policies that are not.
    pub idle: usize,
    /// Values that `status.effective` declares.
    pub declared: usize,
    /// Clusters.
    pub clusters: usize,
    /// Chains of filters that hand on bytes.
    pub chains: usize,
    /// Virtual hosts.
    pub hosts: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_force, idle, declared, clusters, chains, hosts } = self;
        write!(
            f,
            "{in_force} policies in force and {idle} not, {declared} declared values, judged at {clusters} clusters, {hosts} virtual hosts and {chains} chains of bytes"
        )
    }
}

impl Tally {
    /// Most goldens are of policies in force, at a cluster and a virtual host each.
    ///
    /// # Errors
    /// When so little was compared that the comparison means nothing.
    pub fn says_something(&self, goldens: usize) -> Result<()> {
        let enough = self.in_force * 2 > goldens && self.clusters >= goldens / 2 && self.hosts >= goldens / 2;
        ensure!(
            enough && self.idle > 0 && self.chains > 0 && self.declared > self.in_force,
            "hardly anything was compared: {self}"
        );
        Ok(())
    }
}

/// Every difference, as a sentence without the golden's name.
#[must_use]
pub fn judge(
    golden: &Golden,
    policies: &[Value],
    before: &ConfigDump,
    now: &ConfigDump,
    tally: &mut Tally,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut targets: BTreeMap<Target, Vec<&Value>> = BTreeMap::new();
    for (name, target) in golden.policies() {
        let Some(policy) = policies.iter().find(|policy| policy["metadata"]["name"] == name.as_str()) else {
            wrong.push(format!("the cluster has no policy {name}"));
            continue;
        };
        wrong.extend(said(golden, &name, policy));
        targets.entry(target).or_default().push(policy);
    }
    for (target, policies) in targets {
        let force = Force::of(golden, &policies);
        tally.in_force += usize::from(matches!(force, Force::Declared { .. }));
        tally.idle += policies.iter().filter(|policy| !is_in_force(policy)).count();
        tally.declared += force.effective().as_array().map_or(0, Vec::len);
        wrong.extend(enforced(&target, &force, before, now, tally));
    }
    wrong
}

/// What decides about a host.
enum Force {
    /// A policy, with its `status.effective`; and whether others' rules or routes stand where it has none.
    Declared { effective: Value, others_rule: bool, others_routes: bool },
    /// Nobody any more: what an operator had generated is to be gone.
    Removed,
    /// What was there before.
    Unchanged,
}

impl Force {
    fn of(golden: &Golden, policies: &[&Value]) -> Self {
        if let Some(policy) = policies.iter().find(|policy| is_in_force(policy)) {
            let generates = |kind: &str| {
                let generated = policy.pointer("/status/targets/0/generated").and_then(Value::as_array);
                generated.into_iter().flatten().any(|object| object["kind"] == kind)
            };
            let others = |kind: &str| !generates(kind) && golden.has_foreign(kind);
            return Self::Declared {
                effective: policy.pointer("/status/effective").cloned().unwrap_or_else(|| json!([])),
                others_rule: others("DestinationRule"),
                others_routes: others("VirtualService"),
            };
        }
        let removes = |policy: &&Value| {
            let programmed = condition(policy, "Programmed");
            programmed["reason"] == "Observing" || text(programmed, "/message").ends_with("is removed")
        };
        if policies.iter().any(removes) { Self::Removed } else { Self::Unchanged }
    }

    fn effective(&self) -> Value {
        match self {
            Self::Declared { effective, .. } => effective.clone(),
            Self::Removed | Self::Unchanged => json!([]),
        }
    }

    fn leaves_rule(&self) -> bool {
        matches!(self, Self::Unchanged | Self::Declared { others_rule: true, .. })
    }

    fn leaves_routes(&self) -> bool {
        matches!(self, Self::Unchanged | Self::Declared { others_routes: true, .. })
    }
}

/// Programmed, also where it is suspended and everything is as it wants it.
fn is_in_force(policy: &Value) -> bool {
    condition(policy, "Programmed")["status"] == "True"
}

fn condition<'a>(policy: &'a Value, kind: &str) -> &'a Value {
    let conditions = policy.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// How what Envoy holds for a host differs from what should be.
fn enforced(target: &Target, force: &Force, before: &ConfigDump, now: &ConfigDump, tally: &mut Tally) -> Vec<String> {
    let effective = force.effective();
    let mut ports = ports_of(now, &target.host);
    ports.extend(&target.ports);
    let hosts = tally.hosts;
    let mut wrong = Vec::new();
    for port in ports {
        let port = Port { host: &target.host, number: port, declared: &expect::declared(&effective, port), force };
        let name = port.cluster();
        let Some(found) = reading::cluster(now, &name) else {
            wrong.push(format!("port {}: the client's Envoy has no cluster {name}", port.number));
            continue;
        };
        tally.clusters += 1;
        wrong.extend(port.in_cluster(before, &found));
        wrong.extend(port.in_bytes(before, now, tally));
        wrong.extend(port.in_routes(before, now, tally));
    }
    let routed = expect::declared_for_all(&effective);
    let routed: Vec<&str> =
        ["timeouts.request", "retries.attempts"].into_iter().filter(|path| routed.contains_key(*path)).collect();
    if tally.hosts == hosts && !routed.is_empty() {
        wrong.push(format!(
            "{} declared, and the client's Envoy has no routes for {}",
            routed.join(" and "),
            target.host
        ));
    }
    wrong
}

/// A port of a host, and what is declared for it.
struct Port<'a> {
    host: &'a str,
    number: u16,
    declared: &'a Values,
    force: &'a Force,
}

impl Port<'_> {
    fn cluster(&self) -> String {
        format!("outbound|{}||{}", self.number, self.host)
    }

    fn in_cluster(&self, before: &ConfigDump, found: &Values) -> Vec<String> {
        let earlier = reading::cluster(before, &self.cluster()).unwrap_or_default();
        let mut expected = if self.force.leaves_rule() { earlier } else { self.beside_others(&earlier) };
        if !found.contains_key("ejection.localityFailover") {
            // Nobody sees it: all endpoints are in one place.
            expected.remove("ejection.localityFailover");
        }
        self.sentences("", &differences(&expected, found))
    }

    /// What is declared, and what was there before the operator came that the API has no word for: such as
    /// a Service's own preference for near endpoints.
    fn beside_others(&self, earlier: &Values) -> Values {
        let theirs = earlier.iter().filter(|(path, _)| path.starts_with("envoy."));
        let theirs = theirs.map(|(path, value)| (path.clone(), value.clone()));
        expect::cluster(self.declared).into_iter().chain(theirs).collect()
    }

    fn in_bytes(&self, before: &ConfigDump, now: &ConfigDump, tally: &mut Tally) -> Vec<String> {
        let (chains, earlier) = (reading::bytes(now, &self.cluster()), reading::bytes(before, &self.cluster()));
        tally.chains += chains.len();
        let differing = chains.iter().enumerate().flat_map(|(index, found)| {
            let expected = match earlier.get(index) {
                Some(values) if self.force.leaves_rule() => values.clone(),
                _ => expect::bytes(self.declared),
            };
            self.sentences(" as bytes", &differences(&expected, found))
        });
        differing.collect()
    }

    fn in_routes(&self, before: &ConfigDump, now: &ConfigDump, tally: &mut Tally) -> Vec<String> {
        let Some(host) = virtual_host(now, self.number, self.host) else { return Vec::new() };
        tally.hosts += 1;
        let earlier = virtual_host(before, self.number, self.host).filter(|_| self.force.leaves_routes());
        let mut by_method: BTreeMap<Difference, Vec<&str>> = BTreeMap::new();
        for method in METHODS {
            let expected = earlier.map_or_else(
                || {
                    let mut values = expect::route(self.declared, method);
                    values.insert("envoy.destination".to_owned(), self.cluster());
                    values
                },
                |earlier| reading::route(earlier, method),
            );
            for difference in differences(&expected, &reading::route(host, method)) {
                by_method.entry(difference).or_default().push(method);
            }
        }
        let sentences = by_method.into_iter().flat_map(|(difference, methods)| {
            let all = methods.len() == METHODS.len();
            let of = if all { String::new() } else { format!(" for {}", methods.join(", ")) };
            self.sentences(&of, &[difference])
        });
        sentences.collect()
    }

    fn sentences(&self, place: &str, differences: &[Difference]) -> Vec<String> {
        differences.iter().map(|difference| format!("port {}{place}: {difference}", self.number)).collect()
    }
}

/// The ports of a host that an Envoy has clusters for.
fn ports_of(dump: &ConfigDump, host: &str) -> BTreeSet<u16> {
    let names = dump.clusters().iter().filter_map(|cluster| cluster["name"].as_str());
    let ports =
        names.filter_map(|name| name.strip_prefix("outbound|")?.strip_suffix(&format!("||{host}"))?.parse().ok());
    ports.collect()
}

/// The virtual host of a host at a port. That of a port that is sniffed is the only one of its routes, and
/// takes whatever name the caller uses.
fn virtual_host<'a>(dump: &'a ConfigDump, port: u16, host: &str) -> Option<&'a Value> {
    dump.virtual_host(port, host).or_else(|| {
        let routes = dump.routes().iter().find(|routes| routes["name"] == format!("{host}:{port}"))?;
        routes.pointer("/virtual_hosts/0")
    })
}

/// How the status of a policy differs from what the golden says.
fn said(golden: &Golden, name: &str, policy: &Value) -> Vec<String> {
    let Some(says) = golden.says.get(name) else {
        return vec![format!("the second half has no policy {name}")];
    };
    // Words may name the policy by its uid, which is another in every cluster.
    let uid = |policy: &Value| Some(text(policy, "/metadata/uid")).filter(|uid| !uid.is_empty());
    let own = golden.of_kind("Resilience").find(|one| text(one, "/metadata/name") == name).and_then(uid);
    let live = match (uid(policy), own) {
        (Some(real), Some(own)) => each_text(policy["status"].clone(), &|text| text.replace(&real, &own)),
        _ => policy["status"].clone(),
    };
    let (says, live) = (told(says.clone()), told(golden.back(live)));
    let mut wrong = Vec::new();
    unlike("status", &says, &live, &mut wrong);
    wrong
}

/// What a golden says of: nothing that files cannot tell, as when something changed, whether proxies have it, and
/// whether it was tried.
fn told(mut status: Value) -> Value {
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|condition| condition["type"] != "InEffect" && condition["type"] != "Verified");
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
    }
    status
}

/// Every place where two values differ.
fn unlike(path: &str, golden: &Value, live: &Value, wrong: &mut Vec<String>) {
    match (golden, live) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let of = |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or_default();
                unlike(&format!("{path}.{key}"), &of(one), &of(other), wrong);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                unlike(&format!("{path}[{index}]"), one, other, wrong);
            }
        }
        (one, other) if one == other => {}
        (one, other) => wrong.push(format!("{path}: the golden says {one}, the cluster {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: u64 = 4_294_967_295;

    fn golden(status: &Value) -> Golden {
        let policy = json!({"kind": "Resilience", "metadata": {"name": "p"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "x"}]}});
        let service = json!({"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}});
        let says = json!({"kind": "Resilience", "metadata": {"name": "p"}, "status": status});
        Golden::of("g", "1", &[policy, service], &[says]).unwrap()
    }

    fn status(programmed: &str, effective: &Value) -> Value {
        json!({"conditions": [{"type": "Programmed", "status": programmed, "reason": "Any", "lastTransitionTime": "now"}],
            "effective": effective, "targets": [{"generated": [{"kind": "DestinationRule"}, {"kind": "VirtualService"}]}]})
    }

    fn dump(connections: u64, timeout: &str) -> ConfigDump {
        let threshold = json!({"max_connections": connections, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT, "max_retries": NO_LIMIT});
        let cluster = json!({"name": "outbound|80||x.g-1.svc.cluster.local", "connect_timeout": "10s", "circuit_breakers": {"thresholds": [threshold]}});
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster["name"], "timeout": timeout, "retry_policy": {
            "num_retries": 2, "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"}}});
        let host = json!({"domains": ["x.g-1.svc.cluster.local"], "routes": [route]});
        ConfigDump::parse(&json!({"configs": [
            {"dynamic_active_clusters": [{"cluster": cluster}]},
            {"dynamic_route_configs": [{"route_config": {"name": "80", "virtual_hosts": [host]}}]},
        ]}))
    }

    fn sentences(status: &Value, before: &ConfigDump, now: &ConfigDump) -> Vec<String> {
        let live = json!({"metadata": {"name": "p"}, "status": status});
        judge(&golden(status), &[live], before, now, &mut Tally::default())
    }

    fn hundred() -> Value {
        json!([{"path": "limits.perClient.connections", "value": "100"}, {"path": "timeouts.request", "value": "7s"}])
    }

    #[test]
    fn what_is_enforced_as_declared_is_no_difference() {
        assert_eq!(sentences(&status("True", &hundred()), &dump(NO_LIMIT, "0s"), &dump(100, "7s")), [""; 0]);
    }

    #[test]
    fn a_difference_names_port_path_and_both_values() {
        let found = sentences(&status("True", &hundred()), &dump(NO_LIMIT, "0s"), &dump(99, "0s"));
        let expected = [
            "port 80: limits.perClient.connections: declared 100, enforced 99",
            "port 80: timeouts.request: declared 7s, enforced nothing",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_nobody_declared_is_a_difference() {
        let found = sentences(&status("True", &json!([])), &dump(NO_LIMIT, "0s"), &dump(NO_LIMIT, "7s"));
        assert_eq!(found, ["port 80: timeouts.request: declared nothing, enforced 7s"]);
    }

    #[test]
    fn a_policy_that_is_not_in_force_has_changed_nothing() {
        let refused = status("False", &hundred());
        assert_eq!(sentences(&refused, &dump(5, "3s"), &dump(5, "3s")), [""; 0]);
        let found = sentences(&refused, &dump(5, "3s"), &dump(6, "3s"));
        assert_eq!(found, ["port 80: limits.perClient.connections: declared 5, enforced 6"]);
    }

    #[test]
    fn a_status_that_the_golden_does_not_know_is_said_but_for_its_times() {
        let says = status("True", &json!([]));
        let mut live = json!({"metadata": {"name": "p"}, "status": says});
        live["status"]["conditions"][0]["lastTransitionTime"] = "later".into();
        live["status"]["conditions"][0]["reason"] = "Other".into();
        let untouched = dump(NO_LIMIT, "0s");
        let found = judge(&golden(&says), &[live], &untouched, &untouched, &mut Tally::default());
        assert_eq!(found, ["status.conditions[0].reason: the golden says \"Any\", the cluster \"Other\""]);
    }

    #[test]
    fn what_the_api_has_no_word_for_was_there_before_or_is_a_difference() {
        let with = |connection_pools: Value| {
            let threshold = json!({"max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT,
                "max_retries": NO_LIMIT, "max_connection_pools": connection_pools});
            let cluster = json!({"name": "outbound|80||x.g-1.svc.cluster.local", "connect_timeout": "10s",
                "circuit_breakers": {"thresholds": [threshold]}});
            ConfigDump::parse(&json!({"configs": [{"dynamic_active_clusters": [{"cluster": cluster}]}]}))
        };
        let status = status("True", &json!([]));
        assert_eq!(sentences(&status, &with(json!(5)), &with(json!(5))), [""; 0]);
        let found = sentences(&status, &with(json!(5)), &with(json!(6)));
        assert_eq!(found, ["port 80: envoy.circuit_breakers.max_connection_pools: declared 5, enforced 6"]);
    }

    #[test]
    fn a_tally_of_nothing_is_no_proof() {
        assert!(Tally::default().says_something(60).is_err());
        let much = Tally { in_force: 50, idle: 9, declared: 200, clusters: 60, chains: 3, hosts: 55 };
        assert!(much.says_something(60).is_ok());
    }
}
