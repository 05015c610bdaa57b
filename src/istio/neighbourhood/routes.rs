//! Whose routes a client has (istio `pilot/pkg/model/virtualservice.go`, `SelectVirtualServices`;
//! `sidecar.go`, `computeWildcardHostVirtualServiceIndex`; `pilot/pkg/networking/core/route/route.go`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde_json::Value;

use super::{
    Callee, Client, GatewayRoute, Neighbourhood, Unobserved, Why, existing_strings, exports, is_same, labels,
    order::Age,
    pattern::{covers, is_wildcard, most_specific},
    scope::Listener,
    selects,
};
use crate::istio::{Existing, resolve_host};

/// Whose routes a client has on one port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutesInForce {
    /// Whose they are, the whole virtual host; `None`: Istio's own default route.
    pub owner: Option<RouteOwner>,
    /// Everything else that has routes for the host.
    pub shadowed: Vec<ShadowedRoutes>,
    /// What could not be decided; then `owner` is no answer.
    pub unobserved: Vec<Unobserved>,
}

/// What has routes.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteOwner {
    /// A VirtualService.
    VirtualService(Arc<Existing>),
    /// Gateway API routes of one namespace, which istiod puts together; the oldest first.
    GatewayRoutes(Vec<Arc<GatewayRoute>>),
}

impl fmt::Display for RouteOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualService(object) => f.write_str(&object.whole()),
            Self::GatewayRoutes(routes) => {
                for (index, route) in routes.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{route}")?;
                }
                Ok(())
            }
        }
    }
}

impl RouteOwner {
    /// Whether it is this VirtualService, in whatever version.
    #[must_use]
    pub fn is(&self, object: &Existing) -> bool {
        matches!(self, Self::VirtualService(own) if is_same(own, object))
    }
}

/// Routes that do not count for a client.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowedRoutes {
    /// Whose.
    pub owner: RouteOwner,
    /// What stands in their way, where something does.
    pub by: Option<RouteOwner>,
    /// Why.
    pub why: Why,
}

/// The groups in which a client has routes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Private,
    Exported,
    Public,
}

/// A VirtualService, or what istiod makes of Gateway API routes.
struct Candidate {
    owner: RouteOwner,
    name: String,
    namespace: String,
    /// As istiod compares them where a Sidecar imports: letter by letter.
    hosts: Vec<String>,
    export: BTreeSet<String>,
    /// The only port of Gateway API routes that name one.
    port: Option<u16>,
}

/// Whether a VirtualService has a route for a port and a client.
enum Yield {
    Yes,
    No,
    Unknown(Unobserved),
}

impl Candidate {
    fn of(object: &Arc<Existing>, domain: &str) -> Self {
        Self {
            name: object.name.clone(),
            namespace: object.namespace.clone(),
            hosts: object.hosts(domain),
            export: export_of(object),
            port: None,
            owner: RouteOwner::VirtualService(object.clone()),
        }
    }

    const fn is_gateway(&self) -> bool {
        matches!(self.owner, RouteOwner::GatewayRoutes(_))
    }

    fn age(&self) -> Age<'_> {
        let created = match &self.owner {
            RouteOwner::VirtualService(object) => object.created,
            RouteOwner::GatewayRoutes(routes) => routes.first().and_then(|route| route.created),
        };
        Age::new(created, &self.name, &self.namespace)
    }

    fn group(&self, client: &str) -> Option<Group> {
        if self.export.contains("*") {
            Some(Group::Public)
        } else if self.export.contains("~") || !self.export.contains(client) {
            None
        } else if self.namespace == client {
            Some(Group::Private)
        } else {
            Some(Group::Exported)
        }
    }

    /// Its place in the order in which a client's proxy tries them.
    fn order(&self, client: &str) -> Option<(Group, bool, Age<'_>)> {
        let group = self.group(client)?;
        Some((group, !(self.is_gateway() && self.namespace == client), self.age()))
    }

    /// Whether it claims the host itself; routes compare hosts in lower case (claim R1.1c).
    fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|one| one.eq_ignore_ascii_case(host))
    }

    fn covers(&self, host: &str) -> bool {
        let wild = |one: &String| is_wildcard(one) && covers(&one.to_ascii_lowercase(), host);
        self.names(host) || (!self.is_gateway() && self.hosts.iter().any(wild))
    }

    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.namespace == other.namespace
    }

    fn routes(&self, port: u16, client: &Client) -> Yield {
        match &self.owner {
            RouteOwner::GatewayRoutes(_) => {
                if self.port.is_none_or(|only| only == port) {
                    Yield::Yes
                } else {
                    Yield::No
                }
            }
            RouteOwner::VirtualService(object) => routes_of(object, port, client),
        }
    }
}

impl Neighbourhood {
    /// Whose routes a client has for what it calls on one of its HTTP ports.
    ///
    /// Whether the client sees the host and the port at all is [`Neighbourhood::sees`].
    #[must_use]
    pub fn routes(&self, callee: &Callee, port: u16, client: &Client) -> RoutesInForce {
        let scope = self.scope(client);
        let mut force = RoutesInForce { unobserved: scope.unobserved.clone(), ..RoutesInForce::default() };
        let listener = scope.listener(port);
        if let Some(sidecar) = scope.sidecar.as_ref().filter(|_| listener.is_some_and(|one| one.is_other)) {
            force.unobserved.push(Unobserved::Listener(sidecar.clone()));
        }
        let host = &callee.host;
        let candidates: Vec<Candidate> = self.candidates(callee).into_iter().filter(|one| one.covers(host)).collect();
        let tried = in_order(&candidates, listener, client);
        // A listener that does not import the service has no virtual host for it, but for what names it.
        let is_imported = listener.is_some_and(|listener| listener.imports(callee));
        let counts = closest(&tried, host);
        let mut chosen: Option<&Candidate> = None;
        let mut passed: Vec<(&Candidate, Why)> = Vec::new();
        for one in &tried {
            if chosen.is_some() {
                break;
            }
            if one.is_gateway() && one.namespace != callee.namespace && one.namespace != client.namespace {
                passed.push((one, Why::NeitherProducerNorConsumer));
            } else if !one.names(host) && !counts.is_some_and(|closest| closest.is(one)) {
                let is_read = one.hosts.iter().any(|pattern| covers(pattern, host));
                passed.push((one, if is_read { Why::MoreSpecific } else { Why::Capitals }));
            } else {
                match one.routes(port, client) {
                    Yield::No => passed.push((one, Why::NoRoute)),
                    Yield::Unknown(what) => {
                        force.unobserved.push(what);
                        passed.push((one, Why::NoRoute));
                    }
                    Yield::Yes if !is_imported => {
                        force.unobserved.extend(scope.sidecar.clone().map(Unobserved::Listener));
                        passed.push((one, Why::NotImported));
                    }
                    Yield::Yes => chosen = Some(one),
                }
            }
        }
        force.owner = chosen.map(|one| one.owner.clone());
        for one in &candidates {
            if chosen.is_some_and(|chosen| chosen.is(one)) {
                continue;
            }
            let known = passed.iter().find(|(other, _)| other.is(one)).map(|(_, why)| *why);
            let why = known.unwrap_or_else(|| why_not(one, chosen, &tried, client));
            let by = match why {
                Why::MoreSpecific => counts,
                Why::NotExported
                | Why::NotImported
                | Why::NoRoute
                | Why::Capitals
                | Why::NeitherProducerNorConsumer => None,
                _ => chosen,
            };
            let by = by.map(|other| other.owner.clone());
            force.shadowed.push(ShadowedRoutes { owner: one.owner.clone(), by, why });
        }
        force
    }

    /// Everything that binds sidecars and names hosts, by age.
    fn candidates(&self, callee: &Callee) -> Vec<Candidate> {
        let bound = self.virtual_services.iter().filter(|object| object.binds_mesh());
        let mut candidates: Vec<_> = bound.map(|object| Candidate::of(object, &self.cluster_domain)).collect();
        candidates.retain(|one| !one.hosts.is_empty());
        candidates.extend(self.gateway_candidates(callee));
        candidates.sort_by(|one, other| one.age().cmp(&other.age()));
        candidates
    }

    /// istiod makes one VirtualService of all routes of a namespace for a host and a port.
    fn gateway_candidates(&self, callee: &Callee) -> Vec<Candidate> {
        let mut together: BTreeMap<(&str, Option<u16>), Vec<&Arc<GatewayRoute>>> = BTreeMap::new();
        for route in self.routes.iter().filter(|route| route.has_rules) {
            let ports: BTreeSet<_> =
                route.parents.iter().filter(|parent| parent.is(callee)).map(|parent| parent.port).collect();
            for port in ports {
                together.entry((&route.namespace, port)).or_default().push(route);
            }
        }
        let candidate = |((namespace, port), mut routes): ((&str, Option<u16>), Vec<&Arc<GatewayRoute>>)| {
            routes.sort_by_key(|route| Age::new(route.created, &route.name, &route.namespace));
            let port_part = port.map(|port| format!("{port}~")).unwrap_or_default();
            Candidate {
                name: format!("{namespace}~{port_part}{}", callee.host),
                namespace: namespace.to_owned(),
                hosts: vec![callee.host.clone()],
                export: BTreeSet::from(["*".to_owned()]),
                port,
                owner: RouteOwner::GatewayRoutes(routes.into_iter().cloned().collect()),
            }
        };
        together.into_iter().map(candidate).collect()
    }

    /// Ports of what is called to which routes lead that a listener imports, one set for each; 0 is any.
    pub(super) fn led_to(&self, listener: &Listener, callee: &Callee, client: &Client) -> Vec<BTreeSet<u16>> {
        let candidates = self.candidates(callee);
        let tried = in_order(&candidates, Some(listener), client);
        let led = tried.iter().filter_map(|one| match &one.owner {
            RouteOwner::VirtualService(object) => {
                destinations_for(object, &self.cluster_domain, Some(&client.namespace)).remove(&callee.host)
            }
            RouteOwner::GatewayRoutes(_) => None,
        });
        led.collect()
    }

    /// Namespaces whose clients may have routes of their own.
    pub(super) fn namespaces_of_routes(&self, callee: &Callee) -> BTreeSet<String> {
        let objects = &self.virtual_services;
        let named = objects.iter().flat_map(|object| exports(&object.spec));
        let named = named.filter(|name| !matches!(name.as_str(), "." | "*" | "~"));
        let sources = objects.iter().flat_map(|object| matches_of(&object.spec)).filter_map(source_namespace);
        let own = objects.iter().map(|object| object.namespace.clone());
        let routes = self.routes.iter().map(|route| route.namespace.clone());
        named.chain(sources.map(str::to_owned)).chain(own).chain(routes).chain([callee.namespace.clone()]).collect()
    }

    /// Labels of clients that some routes are for.
    pub(super) fn labels_of_routes(&self) -> BTreeSet<BTreeMap<String, String>> {
        let matches = self.virtual_services.iter().flat_map(|object| matches_of(&object.spec));
        matches.map(|one| labels(one.get("sourceLabels"))).filter(|labels| !labels.is_empty()).collect()
    }
}

/// The candidates that a client's listener imports, in the order in which its proxy tries them.
fn in_order<'a>(candidates: &'a [Candidate], listener: Option<&Listener>, client: &Client) -> Vec<&'a Candidate> {
    let imports = |one: &&Candidate| {
        listener.is_some_and(|listener| listener.imports_routes(&one.namespace, &one.hosts, one.is_gateway()))
    };
    let seen = candidates.iter().filter(|one| one.group(&client.namespace).is_some()).filter(imports);
    let mut tried: Vec<_> = seen.collect();
    tried.sort_by_key(|one| one.order(&client.namespace));
    tried
}

/// Of several patterns the most specific counts, letter by letter, and of several objects for it the first;
/// whether that one has a route for the port does not matter.
fn closest<'a>(tried: &[&'a Candidate], host: &str) -> Option<&'a Candidate> {
    let patterns = tried.iter().flat_map(|one| &one.hosts).map(String::as_str);
    let pattern = most_specific(host, patterns)?;
    tried.iter().find(|one| one.hosts.iter().any(|one| one == pattern)).copied()
}

fn why_not(one: &Candidate, chosen: Option<&Candidate>, tried: &[&Candidate], client: &Client) -> Why {
    if one.group(&client.namespace).is_none() {
        return Why::NotExported;
    }
    let (Some(chosen), true) = (chosen, tried.iter().any(|other| other.is(one))) else { return Why::NotImported };
    match (chosen.group(&client.namespace), one.group(&client.namespace)) {
        (Some(Group::Private), Some(Group::Exported | Group::Public)) => Why::PrivateFirst,
        (Some(Group::Exported), Some(Group::Public)) => Why::ExportedByNameFirst,
        _ if chosen.is_gateway() && chosen.namespace == client.namespace && !one.is_gateway() => Why::GatewayRouteFirst,
        _ => Why::OlderRoutesFirst,
    }
}

/// `.` is its own namespace; the mesh's default is everybody.
fn export_of(object: &Existing) -> BTreeSet<String> {
    let written = exports(&object.spec);
    if written.is_empty() {
        return BTreeSet::from(["*".to_owned()]);
    }
    let own = |one: String| if one == "." { object.namespace.clone() } else { one };
    written.into_iter().map(own).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn matches_of(spec: &Value) -> impl Iterator<Item = &Value> {
    list(spec, "http").flat_map(|route| list(route, "match"))
}

fn source_namespace(one: &Value) -> Option<&str> {
    text(one, "sourceNamespace")
}

/// Whether one of the HTTP routes is for this port and this client.
fn routes_of(object: &Existing, port: u16, client: &Client) -> Yield {
    let mut unknown = None;
    for route in list(&object.spec, "http") {
        if route.get("delegate").is_some_and(|delegate| !delegate.is_null()) {
            unknown.get_or_insert_with(|| Unobserved::Delegates(object.whole()));
            continue;
        }
        let mut matches = list(route, "match").peekable();
        if matches.peek().is_none() {
            return Yield::Yes;
        }
        for one in matches {
            match admits(one, port, client) {
                Some(true) => return Yield::Yes,
                Some(false) => {}
                None => unknown = Some(Unobserved::Labels(object.whole())),
            }
        }
    }
    unknown.map_or(Yield::No, Yield::Unknown)
}

/// Whether a match is for this port and this client; `None`: its labels decide, and are not known.
fn admits(one: &Value, port: u16, client: &Client) -> Option<bool> {
    let only = one.get("port").and_then(Value::as_u64).filter(|port| *port != 0);
    if only.is_some_and(|only| only != u64::from(port)) {
        return Some(false);
    }
    let gateways = existing_strings(one.get("gateways"));
    if !gateways.is_empty() {
        // Where gateways are named, labels and namespace are not looked at.
        return Some(gateways.iter().any(|gateway| gateway == "mesh"));
    }
    if source_namespace(one).is_some_and(|source| source != client.namespace) {
        return Some(false);
    }
    let wanted = labels(one.get("sourceLabels"));
    match &client.labels {
        _ if wanted.is_empty() => Some(true),
        Some(labels) => Some(selects(&wanted, labels)),
        None => None,
    }
}

/// Hosts that a VirtualService sends calls to, and their ports; 0 where none is said.
pub(super) fn destinations(object: &Existing, domain: &str) -> BTreeMap<String, BTreeSet<u16>> {
    destinations_for(object, domain, None)
}

/// The same, but for HTTP routes that are for other namespaces alone.
fn destinations_for(object: &Existing, domain: &str, client: Option<&str>) -> BTreeMap<String, BTreeSet<u16>> {
    let mut found: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    let mut add = |destination: Option<&Value>| {
        let Some(host) = destination.and_then(|one| text(one, "host")) else { return };
        let port = destination.and_then(|one| one.pointer("/port/number")).and_then(Value::as_u64).unwrap_or_default();
        let port = u16::try_from(port).unwrap_or_default();
        found.entry(resolve_host(host, &object.namespace, domain)).or_default().insert(port);
    };
    for route in list(&object.spec, "http") {
        let mut sources = list(route, "match").filter_map(source_namespace).peekable();
        if let Some(client) = client.filter(|_| sources.peek().is_some())
            && !sources.any(|source| source == client)
        {
            continue;
        }
        list(route, "route").for_each(|one| add(one.get("destination")));
        add(route.get("mirror"));
        list(route, "mirrors").for_each(|one| add(one.get("destination")));
    }
    for key in ["tcp", "tls"] {
        for route in list(&object.spec, key) {
            list(route, "route").for_each(|one| add(one.get("destination")));
        }
    }
    found
}
