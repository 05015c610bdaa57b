//! In: a namespace with a client. Out: raw Istio objects in it, and what a client's Envoy was told of them.
//!
//! Claims give what they write names of their own: an Envoy says of a cluster and of a route which rule it
//! comes from, so waiting for that name is waiting for the rule.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::config_dump::ConfigDump;
use crate::kubectl::Kubectl;
use crate::scenarios::stage::SOON;
use crate::wait::Seen;

/// The pod that calls, and whose Envoy is asked.
pub(super) const CLIENT: &str = "deploy/fortio";

/// A namespace to write raw objects into.
pub(super) struct Bench {
    /// The client in this namespace.
    pub(super) kubectl: Kubectl,
}

impl Bench {
    /// Works in the client's namespace.
    pub(super) fn new(kubectl: &Kubectl) -> Self {
        Self { kubectl: kubectl.clone() }
    }

    /// The FQDN of a Service here.
    pub(super) fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.kubectl.current_namespace())
    }

    /// The name of a client's cluster for a Service here.
    pub(super) fn cluster(&self, service: &str, port: u16) -> String {
        format!("outbound|{port}||{}", self.host(service))
    }

    /// Applies objects, in this order.
    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        self.kubectl.apply(&documents(objects)).map(drop)
    }

    /// Deletes what claims write, and waits until the API server has it no more.
    pub(super) fn sweep(&self) -> Result<()> {
        self.kubectl.run(&[
            "delete",
            "destinationrules,virtualservices,serviceentries,sidecars,gateways.networking.istio.io",
            "--all",
            "--wait",
        ])?;
        self.kubectl.run(&["delete", "services,endpointslices", "-l", "claim", "--wait"]).map(drop)
    }

    /// Waits until a look at the client's Envoy holds and no cluster that it was sent is warming any more: one
    /// push brings many, and they come into use one by one. Gives the configuration in which that was so.
    pub(super) fn until(&self, what: &str, look: impl Fn(&ConfigDump) -> Result<(), String>) -> Result<ConfigDump> {
        self.until_at(CLIENT, what, look)
    }

    /// As [`Bench::until`], of another pod's Envoy.
    pub(super) fn until_at(
        &self,
        target: &str,
        what: &str,
        look: impl Fn(&ConfigDump) -> Result<(), String>,
    ) -> Result<ConfigDump> {
        self.kubectl.until(what, SOON, |kubectl| {
            let dump = ConfigDump::of(kubectl, target)?;
            let warming: Vec<&str> = dump.warming().collect();
            Ok(match look(&dump) {
                Ok(()) if warming.is_empty() => Seen::Done(dump),
                Ok(()) => Seen::NotYet(format!("still warming: {warming:?}")),
                Err(seen) => Seen::NotYet(seen),
            })
        })
    }

    /// Applies the traffic policy of a new rule for a Service here, and waits until the client's Envoy has it
    /// on this port.
    pub(super) fn rule(&self, name: &str, service: &str, port: u16, policy: Value) -> Result<ConfigDump> {
        self.apply(&[rule(name, service, policy)])?;
        self.until_rule(name, service, port)
    }

    /// Waits until the client's cluster of this port comes from this rule.
    pub(super) fn until_rule(&self, name: &str, service: &str, port: u16) -> Result<ConfigDump> {
        let cluster = self.cluster(service, port);
        self.until(&format!("the client has {cluster} by {name}"), |dump| by_rule(dump, &cluster, name))
    }

    /// Waits until the client's routes of this port come from this VirtualService.
    pub(super) fn until_routes(&self, name: &str, service: &str, port: u16) -> Result<ConfigDump> {
        let host = self.host(service);
        self.until(&format!("the client has the routes of {host}:{port} by {name}"), |dump| {
            let all = routes(dump, &host, port);
            let from: Vec<String> = all.iter().map(source).collect();
            let there = !from.is_empty() && from.iter().all(|one| one.ends_with(&format!("/virtual-service/{name}")));
            if there { Ok(()) } else { Err(format!("routes by {from:?}")) }
        })
    }

    /// Waits until the client was sent at least one endpoint for this port.
    pub(super) fn until_endpoints(&self, service: &str, port: u16) -> Result<ConfigDump> {
        let cluster = self.cluster(service, port);
        self.until(&format!("the client has endpoints of {cluster}"), |dump| {
            if endpoints(dump, &cluster).is_empty() { Err("none".to_owned()) } else { Ok(()) }
        })
    }

    /// Creates an object that is younger than one that is there: istiod tells ages by the second.
    pub(super) fn apply_younger(&self, than: (&str, &str), object: &Value) -> Result<()> {
        let created = |kind: &str, name: &str| -> Result<Value> {
            Ok(self.kubectl.json(&["get", kind, name])?["metadata"]["creationTimestamp"].clone())
        };
        let name = object["metadata"]["name"].as_str().context("the object has no name")?;
        let (kind, older) = than;
        let first = created(kind, older)?;
        self.kubectl.until(&format!("{name} is younger than {older}"), SOON, |_| {
            self.apply(std::slice::from_ref(object))?;
            if created(kind, name)? != first {
                return Ok(Seen::Done(()));
            }
            self.kubectl.run(&["delete", kind, name, "--wait"])?;
            Ok(Seen::NotYet("as old".to_owned()))
        })
    }
}

/// Objects as YAML documents.
pub(super) fn documents(objects: &[Value]) -> String {
    objects.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")
}

/// A DestinationRule for a host with this traffic policy.
pub(super) fn rule(name: &str, host: &str, policy: Value) -> Value {
    let mut spec = json!({"host": host});
    spec["trafficPolicy"] = policy;
    with_spec("DestinationRule", name, &spec)
}

/// An Istio networking object.
pub(super) fn with_spec(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "labels": {"claim": "raw"}},
        "spec": spec,
    })
}

/// A Service for these pods with these ports; without a selector its endpoints are written by hand.
pub(super) fn service(name: &str, selector: Option<Value>, ports: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"claim": "raw"}},
        "spec": {"ports": ports},
    });
    if let Some(selector) = selector {
        service["spec"]["selector"] = selector;
    }
    service
}

/// Endpoints of a Service, written by hand, for its port `http`.
pub(super) fn slice(name: &str, service: &str, family: &str, port: u16, endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"claim": "raw", "kubernetes.io/service-name": service}},
        "addressType": family, "endpoints": endpoints, "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    })
}

/// The rule that a cluster comes from.
pub(super) fn by_rule(dump: &ConfigDump, cluster: &str, name: &str) -> Result<(), String> {
    let Some(cluster) = dump.cluster(cluster) else { return Err("no such cluster".to_owned()) };
    let from = source(cluster);
    if from.ends_with(&format!("/destination-rule/{name}")) { Ok(()) } else { Err(format!("by {from:?}")) }
}

/// The object that a cluster or a route comes from, as istiod names it.
pub(super) fn source(of: &Value) -> String {
    of.pointer("/metadata/filter_metadata/istio/config").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A cluster; an error if there is none.
pub(super) fn cluster<'a>(dump: &'a ConfigDump, name: &str) -> Result<&'a Value> {
    dump.cluster(name).with_context(|| format!("the client has no cluster {name}"))
}

/// A threshold of a cluster, such as `max_requests`; `None` where Istio says nothing or «no limit».
pub(super) fn threshold(cluster: &Value, name: &str) -> Option<u64> {
    let value = cluster.pointer("/circuit_breakers/thresholds/0")?.get(name)?.as_u64()?;
    (value != u64::from(u32::MAX)).then_some(value)
}

/// Endpoints that istiod sent for a cluster, over all localities.
pub(super) fn endpoints(dump: &ConfigDump, cluster: &str) -> Vec<Value> {
    let groups = dump.endpoints(cluster).map(|all| list(all, "endpoints")).unwrap_or_default();
    groups.iter().flat_map(|group| list(group, "lb_endpoints")).collect()
}

/// Routes that a client has for a host on a port.
pub(super) fn routes(dump: &ConfigDump, host: &str, port: u16) -> Vec<Value> {
    dump.virtual_host(port, host).map(|host| list(host, "routes")).unwrap_or_default()
}

/// HTTP options of a cluster, such as `common_http_protocol_options`; null where there are none.
pub(super) fn http_options(cluster: &Value) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster.get("typed_extension_protocol_options").and_then(|all| all.get(options)).cloned().unwrap_or_default()
}

/// A list of an object; empty where there is none.
pub(super) fn list(value: &Value, field: &str) -> Vec<Value> {
    value.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Compares, and says what differs.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, claimed: &T) -> Result<()> {
    if seen != claimed {
        bail!("{what}: claimed {claimed:?}, seen {seen:?}");
    }
    Ok(())
}

/// Every number is there exactly once.
#[cfg(test)]
pub(super) fn each_once(claims: Vec<(&'static [&'static str], &'static str)>, ids: &[&str]) {
    let listed: Vec<&str> = claims.into_iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
    for id in ids {
        assert_eq!(listed.iter().filter(|one| *one == id).count(), 1, "{id} of {listed:?}");
    }
    assert_eq!(listed.len(), ids.len(), "{listed:?} holds more than {ids:?}");
}
