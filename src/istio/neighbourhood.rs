//! Who else speaks of a host, and what a client gets of it: istiod's lookup, by behaviour.
//!
//! In: everything that can touch one host, as plain data. Out: whose DestinationRule and whose routes a
//! client has, what is shadowed, by what and why. Held to istiod's own answers by `tests/judged`.
//!
//! What is taken for granted: the mesh exports everything by default (`defaultDestinationRuleExportTo` and
//! its sisters are unset), and no ServiceEntry of another namespace declares the same host.

mod clients;
mod gateway_api;
mod order;
mod pattern;
mod routes;
mod rules;
mod scope;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

use super::{Existing, Kind, existing::strings as existing_strings};
pub use clients::{Clients, Deviation, Hidden};
pub use gateway_api::{GatewayRoute, GatewayRouteKind, RouteParent};
pub use routes::{RouteOwner, RoutesInForce, ShadowedRoutes};
pub use rules::{RulesInForce, ShadowedRule};
pub use scope::{ClientSidecar, Egress};

use crate::names;

/// Everything that can touch one host, in all namespaces that are read.
///
/// Objects are shared with the index that hands this out. [`Neighbourhood::gather`] says what belongs in.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbourhood {
    /// The cluster's domain, which completes names without a dot.
    pub cluster_domain: String,
    /// Istio's root namespace.
    pub root_namespace: String,
    /// DestinationRules for the host, by whatever pattern.
    pub rules: Vec<Arc<Existing>>,
    /// VirtualServices for the host, by whatever pattern, and those that send calls to it.
    pub virtual_services: Vec<Arc<Existing>>,
    /// Gateway API routes whose parent is the Service or the ServiceEntry.
    pub routes: Vec<Arc<GatewayRoute>>,
    /// Sidecars of all namespaces: they say what their workloads see. The same for every host.
    pub sidecars: Arc<Vec<ClientSidecar>>,
}

impl Default for Neighbourhood {
    fn default() -> Self {
        Self {
            cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.to_owned(),
            root_namespace: names::DEFAULT_ROOT_NAMESPACE.to_owned(),
            rules: Vec::new(),
            virtual_services: Vec::new(),
            routes: Vec::new(),
            sidecars: Arc::default(),
        }
    }
}

/// What is called: a Service, or a host of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callee {
    /// Fully qualified, as istiod knows it.
    pub host: String,
    /// Namespace of the Service or the ServiceEntry.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A ServiceEntry, not a Service.
    pub is_entry: bool,
    /// Namespaces that may see it, as written (`.`, `*`, `~` or names); empty: all.
    pub export_to: Vec<String>,
    /// Ports that carry HTTP, or are sniffed for it: those that routes are for.
    pub http_ports: Vec<u16>,
    /// All other ports.
    pub other_ports: Vec<u16>,
}

/// Who calls: a workload behind a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its namespace.
    pub namespace: String,
    /// Labels of its pods; `None`: not known, and then it is taken for one that no selector selects.
    pub labels: Option<BTreeMap<String, String>>,
}

/// Why what an object says does not reach a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is in a namespace that is never looked at for this client: neither the client's, nor the
    /// service's, nor the root (istio `push_context.go`, `destinationRule`).
    NeverLookedAt,
    /// It is not exported to the client's namespace.
    NotExported,
    /// The client's Sidecar does not import it, or not the host.
    NotImported,
    /// The client's own namespace has one for the host, and the search ends there.
    ClientsNamespaceFirst,
    /// The service's namespace has one for the host, which comes before the root namespace's.
    ServicesNamespaceFirst,
    /// The other one is for a host that is more specific; that it does not reach the client changes nothing.
    /// A proxy that was connected before may keep the hidden one until istiod sends it everything anew:
    /// it is not told of rules that are not for it (seen on the lab; istio `sidecar.go`, `DependsOnConfig`).
    MoreSpecific,
    /// An older one has the same host and the same export: its traffic policy counts (measured M3).
    OlderFirst,
    /// A younger one for the same host is exported differently: then the youngest counts (measured M4).
    YoungerExportedDifferently,
    /// It is for other workloads than this one.
    OtherWorkloads,
    /// One that selects this workload comes first.
    SelectedFirst,
    /// It is merged into a rule for particular workloads, and lost for all others
    /// (<https://github.com/istio/istio/issues/58322>).
    MergedIntoSelected,
    /// It is merged into an older one that is exported to fewer namespaces, and lost for all others.
    MergedIntoNarrower,
    /// Routes that are private to the client's namespace come first (measured M35).
    PrivateFirst,
    /// Routes that are exported to the client's namespace by its name come before public ones (measured M36).
    ExportedByNameFirst,
    /// A Gateway API route of the client's namespace comes before other public routes (measured M38).
    GatewayRouteFirst,
    /// An older one has the routes (measured M33, M34).
    OlderRoutesFirst,
    /// It has no route for this port, or none for this client, and so does not claim it.
    NoRoute,
    /// It names the host by a wildcard with capitals, which matches nothing (claim R1.1c).
    Capitals,
    /// A Gateway API route counts for clients of its own namespace, and in the service's namespace for all.
    NeitherProducerNorConsumer,
}

impl Why {
    /// The reason in words, of the one that does not count; `by` names what stands in the way.
    #[must_use]
    pub fn because(self, by: Option<&str>) -> String {
        let by = by.unwrap_or("another one");
        match self {
            Self::NeverLookedAt => {
                "is neither in the client's namespace, nor in the service's, nor in the root namespace".to_owned()
            }
            Self::NotExported => "is not exported to the client's namespace".to_owned(),
            Self::NotImported => "is not imported by the client's Sidecar".to_owned(),
            Self::ClientsNamespaceFirst => format!("{by} is in the client's own namespace, where the search ends"),
            Self::ServicesNamespaceFirst => {
                format!("{by} is in the service's namespace, which comes before the root namespace")
            }
            Self::MoreSpecific => format!("{by} names the host more exactly"),
            Self::OlderFirst => format!("{by} is older, and of rules with the same exportTo the oldest counts"),
            Self::YoungerExportedDifferently => {
                format!("{by} is younger, and of rules that differ in exportTo the youngest counts")
            }
            Self::OtherWorkloads => "is for other workloads".to_owned(),
            Self::SelectedFirst => format!("{by} selects the client"),
            Self::MergedIntoSelected => {
                format!("Istio merges it into {by}, which is for certain workloads, and all others lose it")
            }
            Self::MergedIntoNarrower => {
                format!("Istio merges it into {by}, which is exported to fewer namespaces, and all others lose it")
            }
            Self::PrivateFirst => format!("{by} is private to the client's namespace, and so comes first"),
            Self::ExportedByNameFirst => {
                format!("{by} is exported to the client's namespace by name, and so comes before public routes")
            }
            Self::GatewayRouteFirst => {
                format!("{by} is of the client's namespace, where routes of the Gateway API come first")
            }
            Self::OlderRoutesFirst => format!("{by} is older, and its routes are taken whole"),
            Self::NoRoute => "has no route for this client and port".to_owned(),
            Self::Capitals => "names the host by a wildcard with capitals, which matches nothing".to_owned(),
            Self::NeitherProducerNorConsumer => {
                "is neither of the client's namespace nor of the service's, as Gateway API routes must be".to_owned()
            }
        }
    }
}

/// What could not be decided from what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unobserved {
    /// The client's labels, and this object is for workloads with certain labels.
    Labels(String),
    /// Routes of this VirtualService stand in others (`delegate`), which are not read.
    Delegates(String),
    /// The client's Sidecar has a listener of its own for the port, whose routes are not told.
    Listener(String),
}

impl fmt::Display for Unobserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels(object) => {
                write!(f, "{object} is for workloads with certain labels, and those of the client are not known")
            }
            Self::Delegates(object) => write!(f, "{object} delegates routes, and those were not read"),
            Self::Listener(object) => write!(f, "{object} has a listener whose routes cannot be told from here"),
        }
    }
}

impl Neighbourhood {
    /// Picks out of everything what can touch `callee`.
    pub fn gather<'a>(
        callee: &Callee,
        objects: impl IntoIterator<Item = &'a Arc<Existing>>,
        routes: impl IntoIterator<Item = &'a Arc<GatewayRoute>>,
        cluster_domain: &str,
        root_namespace: &str,
    ) -> Self {
        let mut gathered = Self {
            cluster_domain: cluster_domain.to_owned(),
            root_namespace: root_namespace.to_owned(),
            ..Self::default()
        };
        for object in objects {
            if !reach(object, cluster_domain).iter().any(|reached| pattern::covers(reached, &callee.host)) {
                continue;
            }
            match object.kind {
                // Reaches no host.
                Kind::Sidecar => {}
                Kind::DestinationRule => gathered.rules.push(object.clone()),
                Kind::VirtualService => gathered.virtual_services.push(object.clone()),
            }
        }
        gathered.routes.extend(routes.into_iter().filter(|route| route.is_for(callee)).cloned());
        gathered
    }

    /// The same with one more object, or with another version of one.
    #[must_use]
    pub fn with(&self, object: Existing) -> Self {
        let mut changed = self.without(&object);
        match object.kind {
            Kind::Sidecar => {}
            Kind::DestinationRule => changed.rules.push(Arc::new(object)),
            Kind::VirtualService => changed.virtual_services.push(Arc::new(object)),
        }
        changed
    }

    /// The same without an object.
    #[must_use]
    pub fn without(&self, object: &Existing) -> Self {
        let mut changed = self.clone();
        match object.kind {
            Kind::Sidecar => {}
            Kind::DestinationRule => changed.rules.retain(|other| !is_same(other, object)),
            Kind::VirtualService => changed.virtual_services.retain(|other| !is_same(other, object)),
        }
        changed
    }
}

/// Patterns of the hosts that an object can touch, fully qualified: a host, or a wildcard that begins with
/// `*`. Those of a VirtualService are in lower case, and its destinations are among them: a Sidecar that
/// imports it lets its workloads see where it leads.
#[must_use]
pub fn reach(object: &Existing, cluster_domain: &str) -> Vec<String> {
    let mut reached = object.hosts(cluster_domain);
    if object.kind == Kind::VirtualService {
        for host in &mut reached {
            host.make_ascii_lowercase();
        }
        reached.extend(leads_to(object, cluster_domain));
        reached.sort();
        reached.dedup();
    }
    reached
}

/// Hosts that an object sends calls or connections to, mirrors of them included, fully qualified.
pub fn leads_to(object: &Existing, cluster_domain: &str) -> impl Iterator<Item = String> {
    routes::destinations(object, cluster_domain).into_keys()
}

/// Whether both are the same object, in whatever version.
fn is_same(one: &Existing, other: &Existing) -> bool {
    one.kind == other.kind && one.namespace == other.namespace && one.name == other.name
}

/// Labels that stand in a spec.
fn labels(selector: Option<&Value>) -> BTreeMap<String, String> {
    let entries = selector.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Whether a workload with these labels is selected.
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Where an object is seen, as written.
fn exports(spec: &Value) -> Vec<String> {
    existing_strings(spec.get("exportTo"))
}

#[cfg(test)]
mod tests;
