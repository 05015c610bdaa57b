//! What was read, as plain data.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use super::{Change, Configured, Reporter, Requests};
use crate::top::{Cluster, Proxy, Target};

/// Everything that the answer rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When proxies were read for the last time.
    pub at: Timestamp,
    /// How long was looked; zero: read once.
    pub looked: Duration,
    /// What is called.
    pub target: TargetSeen,
    /// The policy for it; `None`: there is none, or it may not be read.
    pub policy: Option<PolicySeen>,
    /// Proxies of clients.
    pub clients: Vec<ProxySeen>,
    /// Proxies of the Service's own pods.
    pub servers: Vec<ProxySeen>,
    /// What those take; `None`: not read.
    pub peers: Option<Peers>,
    /// What was changed last.
    pub changes: Vec<Change>,
    /// What could not be read, one line each.
    pub not_seen: Vec<String>,
}

/// The Service, and what is behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSeen {
    /// Fully qualified.
    pub host: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Ports, and whether an EndpointSlice has them.
    pub ports: BTreeMap<u16, bool>,
    /// Labels that select its pods, as `app=shop`; empty: none do.
    pub selector: String,
    /// Endpoints that are ready; `None`: not read.
    pub ready: Option<usize>,
    /// Endpoints that are not ready, those on their way out included.
    pub not_ready: usize,
    /// Pods that the selector selects, each with what keeps it from being ready; empty text: it is. `None`: not read.
    pub pods: Option<BTreeMap<String, String>>,
    /// Those of them that have no proxy.
    pub without_proxy: usize,
}

impl TargetSeen {
    /// How it is named to people.
    #[must_use]
    pub fn whole(&self) -> String {
        format!("Service {}/{}", self.namespace, self.name)
    }
}

/// The policy, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySeen {
    /// Its name, in the namespace of the Service.
    pub name: String,
    /// Kind, namespace and name of what it generated, or has blocks in.
    pub generated: Vec<String>,
    /// Its conditions that say that something is wrong.
    pub complaints: Vec<String>,
}

/// A proxy, read once or twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySeen {
    /// Whose.
    pub proxy: Proxy,
    /// At the beginning; `None`: it was read once.
    pub first: Option<Snapshot>,
    /// At the end.
    pub last: Snapshot,
}

impl ProxySeen {
    /// How it is named to people.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}", self.proxy.namespace, self.proxy.pod)
    }
}

/// What a proxy said at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What it has of the host.
    pub outbound: BTreeMap<Target, Cluster>,
    /// What it has of its own pod's ports.
    pub inbound: BTreeMap<u16, Cluster>,
    /// What Istio's own metrics count of the host; empty: nothing, or it does not export them.
    pub requests: Vec<Requests>,
    /// How it is configured for the host.
    pub configured: Configured,
}

impl Snapshot {
    /// Whether it has called the host, as far as it tells, or cannot: then nothing is counted of its calls.
    fn calls(&self) -> bool {
        let sent = |cluster: &Cluster| {
            let counted = [
                "upstream_rq_total",
                "upstream_cx_none_healthy",
                "upstream_rq_active_overflow",
                "upstream_rq_pending_overflow",
            ];
            cluster.endpoints.values().any(|endpoint| endpoint.requests > 0 || endpoint.errors > 0)
                || counted.into_iter().filter_map(|name| cluster.count(name)).any(|count| count > 0)
        };
        self.outbound.values().any(sent)
            || self.requests.iter().any(|one| one.reporter == Reporter::Source)
            || self.configured.routes.iter().any(|route| route.abort.is_some() || !route.missing.is_empty())
    }
}

/// Of all proxies those that are looked at: who was asked for; else who has called the host; else who has it.
#[must_use]
pub fn callers(all: Vec<ProxySeen>, asked_for: bool) -> Vec<ProxySeen> {
    if asked_for {
        return all;
    }
    let (calling, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|proxy| proxy.last.calls());
    if calling.is_empty() {
        others.into_iter().filter(|proxy| !proxy.last.outbound.is_empty()).collect()
    } else {
        calling
    }
}

/// What the proxies of servers take: `PeerAuthentications`, as Istio reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// `STRICT`, `PERMISSIVE` or `DISABLE`.
    pub mode: String,
    /// Kind, namespace and name of the object that says so; `None`: the mesh's own default.
    pub object: Option<String>,
    /// It says something else for some ports.
    pub differs_by_port: bool,
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{object} says {}", self.mode),
            None => write!(f, "no PeerAuthentication speaks of the servers, which is {}", self.mode),
        }
    }
}

/// What `PeerAuthentications` make of the pods with these labels: the one that selects them counts, then that of the
/// namespace, then that of the root namespace; each that leaves the mode open hands it on (istio
/// `pilot/pkg/model/authentication.go`, `getWorkloadMutualTLSMode`). `all` has namespace, name and spec, the oldest
/// first.
#[must_use]
pub fn strictest(
    all: &[(String, String, Value)],
    namespace: &str,
    root: &str,
    labels: &BTreeMap<String, String>,
) -> Peers {
    let selector = |spec: &Value| spec.pointer("/selector/matchLabels").and_then(Value::as_object).cloned();
    let selects = |spec: &Value| {
        selector(spec).is_some_and(|wanted| {
            !wanted.is_empty()
                && wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        })
    };
    let is_for_all = |spec: &Value| selector(spec).is_none_or(|wanted| wanted.is_empty());
    let own = |one: &&(String, String, Value)| one.0 == namespace && selects(&one.2);
    let of_namespace = |one: &&(String, String, Value)| one.0 == namespace && is_for_all(&one.2);
    let of_root = |one: &&(String, String, Value)| one.0 == root && is_for_all(&one.2);
    let found = [all.iter().find(own), all.iter().find(of_namespace), all.iter().find(of_root)];
    let mut differs_by_port = false;
    for (namespace, name, spec) in found.into_iter().flatten() {
        differs_by_port |= spec.get("portLevelMtls").and_then(Value::as_object).is_some_and(|ports| !ports.is_empty());
        let mode = spec.pointer("/mtls/mode").and_then(Value::as_str).filter(|mode| *mode != "UNSET");
        if let Some(mode) = mode {
            let object = Some(format!("PeerAuthentication {namespace}/{name}"));
            return Peers { mode: mode.to_owned(), object, differs_by_port };
        }
    }
    Peers { mode: "PERMISSIVE".to_owned(), object: None, differs_by_port }
}
