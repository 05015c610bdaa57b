//! What a client sees at all: its Sidecar (istio `pilot/pkg/model/push_context.go`, `initSidecarScopes` and
//! `doGetSidecarScope`; `sidecar.go`, `convertIstioListenerToWrapper`, `selectServices` and
//! `collectImportedServices`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{
    super::{Existing, Kind},
    Callee, Client, Neighbourhood, Unobserved, existing_strings, labels,
    order::Age,
    pattern::{covers, is_wildcard, overlap},
    selects,
};

/// A Sidecar, as far as it says what its workloads see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSidecar {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// The oldest of several counts.
    pub created: Option<Timestamp>,
    /// Labels of the workloads that it is for; `None`: all of the namespace, or of the mesh if it stands in
    /// the root namespace.
    pub selector: Option<BTreeMap<String, String>>,
    /// Its listeners for calls, in order; none: one that imports everything.
    pub egress: Vec<Egress>,
}

/// A listener for calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// The port that it has for itself; `None`: all others.
    pub port: Option<u16>,
    /// It is a proxy for every host (`HTTP_PROXY`), or listens on a socket.
    pub is_other: bool,
    /// What is imported: `namespace/host`, with `~` before what is left out.
    pub hosts: Vec<String>,
}

impl ClientSidecar {
    /// From metadata and spec as they were read.
    #[must_use]
    pub fn new(meta: &ObjectMeta, spec: &Value) -> Self {
        Self::of(&Existing::new(Kind::Sidecar, meta, spec.clone()))
    }

    /// From a Sidecar as it is kept.
    #[must_use]
    pub fn of(object: &Existing) -> Self {
        let spec = &object.spec;
        let egress = spec.get("egress").and_then(Value::as_array).into_iter().flatten().map(|listener| {
            let port = listener.pointer("/port/number").and_then(Value::as_u64);
            let protocol = listener.pointer("/port/protocol").and_then(Value::as_str).unwrap_or_default();
            let has_port = listener.get("port").is_some_and(|port| !port.is_null());
            Egress {
                port: port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
                is_other: has_port && (port.unwrap_or_default() == 0 || protocol.eq_ignore_ascii_case("HTTP_PROXY")),
                hosts: existing_strings(listener.get("hosts")),
            }
        });
        let selector = spec.get("workloadSelector").filter(|selector| !selector.is_null());
        Self {
            name: object.name.clone(),
            namespace: object.namespace.clone(),
            created: object.created,
            selector: selector.map(|selector| labels(selector.get("labels"))),
            egress: egress.collect(),
        }
    }

    fn age(&self) -> (bool, Age<'_>) {
        (self.selector.is_none(), Age::new(self.created, &self.name, &self.namespace))
    }
}

/// One listener's imports, by namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub(super) port: Option<u16>,
    pub(super) is_other: bool,
    imported: BTreeMap<String, Vec<String>>,
    excluded: BTreeMap<String, Vec<String>>,
}

impl Listener {
    fn new(egress: &Egress, client: &str) -> Self {
        let mut listener = Self { port: egress.port, is_other: egress.is_other, ..Self::default() };
        for written in &egress.hosts {
            let Some((namespace, host)) = written.split_once('/').filter(|(_, host)| !host.contains('/')) else {
                continue;
            };
            let (list, namespace) = match namespace.strip_prefix('~') {
                None => (&mut listener.imported, namespace),
                Some("") => (&mut listener.excluded, "*"),
                Some(namespace) => (&mut listener.excluded, namespace),
            };
            let namespace = if namespace == "." { client } else { namespace };
            list.entry(namespace.to_owned()).or_default().push(host.to_owned());
        }
        listener
    }

    fn all() -> Self {
        Self::new(&Egress { hosts: vec!["*/*".to_owned()], ..Egress::default() }, "")
    }

    fn of<'a>(lists: &'a BTreeMap<String, Vec<String>>, namespace: &str) -> impl Iterator<Item = &'a String> {
        lists.get(namespace).into_iter().chain(lists.get("*")).flatten()
    }

    fn excludes(&self, namespace: &str, host: &str) -> bool {
        Self::of(&self.excluded, namespace).any(|pattern| covers(pattern, host))
    }

    /// Whether it imports the service, whose visibility is another question.
    pub(super) fn imports(&self, callee: &Callee) -> bool {
        !self.excludes(&callee.namespace, &callee.host)
            && Self::of(&self.imported, &callee.namespace).any(|pattern| covers(pattern, &callee.host))
    }

    /// Whether it imports routes for one of these hosts; those of the Gateway API only where the host falls
    /// under what is imported, others also the other way round.
    pub(super) fn imports_routes(&self, namespace: &str, hosts: &[String], is_gateway: bool) -> bool {
        let imported: Vec<_> = Self::of(&self.imported, namespace).collect();
        hosts.iter().any(|host| {
            let matches = |pattern: &&String| match is_wildcard(host) || is_wildcard(pattern) {
                false => *pattern == host,
                true if is_gateway => covers(pattern, host),
                true => overlap(pattern, host),
            };
            imported.iter().copied().any(|pattern| matches(&pattern)) && !self.excludes(namespace, host)
        })
    }
}

/// What the client's Sidecar says.
pub(super) struct Scope {
    pub(super) listeners: Vec<Listener>,
    /// `Sidecar namespace/name`; none: Istio's own, which imports everything.
    pub(super) sidecar: Option<String>,
    pub(super) unobserved: Vec<Unobserved>,
}

impl Scope {
    /// Which listener has the routes of a port.
    pub(super) fn listener(&self, port: u16) -> Option<&Listener> {
        self.listeners
            .iter()
            .find(|listener| (listener.port.is_none() && !listener.is_other) || listener.port == Some(port))
    }
}

impl Neighbourhood {
    pub(super) fn scope(&self, client: &Client) -> Scope {
        let mut own: Vec<_> = self.sidecars.iter().filter(|sidecar| sidecar.namespace == client.namespace).collect();
        own.sort_by_key(|sidecar| sidecar.age());
        let none = BTreeMap::new();
        let labels = client.labels.as_ref().unwrap_or(&none);
        let mut unobserved = Vec::new();
        if client.labels.is_none() {
            let selecting = own.iter().filter(|sidecar| sidecar.selector.is_some());
            unobserved.extend(selecting.map(|sidecar| Unobserved::Labels(shown(sidecar))));
        }
        let is_for =
            |sidecar: &&ClientSidecar| sidecar.selector.as_ref().is_none_or(|selector| selects(selector, labels));
        let root = || {
            let root = self.sidecars.iter().filter(|sidecar| sidecar.namespace == self.root_namespace);
            root.filter(|sidecar| sidecar.selector.is_none()).min_by_key(|sidecar| sidecar.age())
        };
        let sidecar = own.into_iter().find(is_for).or_else(root);
        let egress = sidecar.map(|sidecar| sidecar.egress.as_slice()).unwrap_or_default();
        let mut listeners: Vec<_> = egress.iter().map(|egress| Listener::new(egress, &client.namespace)).collect();
        if listeners.is_empty() {
            listeners.push(Listener::all());
        }
        Scope { listeners, sidecar: sidecar.map(shown), unobserved }
    }

    /// The HTTP ports of what is called that the client can see, as far as its Sidecar and the export of
    /// the service let it; `None`: it does not know the host at all, and has neither rule nor route for it.
    #[must_use]
    pub fn sees(&self, callee: &Callee, client: &Client) -> Option<BTreeSet<u16>> {
        let scope = self.scope(client);
        let all: BTreeSet<u16> = callee.http_ports.iter().chain(&callee.other_ports).copied().collect();
        let visible = is_visible(callee, &client.namespace);
        let mut seen = None;
        for listener in &scope.listeners {
            let own_port = listener.port.filter(|_| !listener.is_other);
            if visible && listener.imports(callee) {
                let ports = match own_port {
                    None => Some(all.clone()),
                    Some(port) if all.contains(&port) => Some(BTreeSet::from([port])),
                    Some(_) => None,
                };
                if let Some(ports) = ports {
                    seen.get_or_insert_with(BTreeSet::new).extend(ports);
                }
            }
            // Where imported routes lead is seen too.
            if !visible && callee.namespace != client.namespace {
                continue;
            }
            for ports in self.led_to(listener, callee, client) {
                let led: BTreeSet<u16> = match own_port {
                    Some(port) => all.iter().copied().filter(|one| *one == port).collect(),
                    None if ports.contains(&0) => all.clone(),
                    None => all.intersection(&ports).copied().collect(),
                };
                if !led.is_empty() {
                    seen.get_or_insert_with(BTreeSet::new).extend(led);
                }
            }
        }
        seen.map(|seen: BTreeSet<u16>| seen.into_iter().filter(|port| callee.http_ports.contains(port)).collect())
    }
}

fn shown(sidecar: &ClientSidecar) -> String {
    format!("Sidecar {}/{}", sidecar.namespace, sidecar.name)
}

/// Whether the service is exported to the namespace.
fn is_visible(callee: &Callee, namespace: &str) -> bool {
    callee.export_to.is_empty()
        || callee.export_to.iter().any(|export| match export.as_str() {
            "*" => true,
            "." => callee.namespace == namespace,
            other => other == namespace,
        })
}
