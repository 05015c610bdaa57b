//! What a client gets of the rules and routes for a target, and who gets something else than the policy's.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Page, State};
use crate::{
    api::{TargetKind, TargetRef},
    istio::{
        Existing, Kind,
        neighbourhood::{Callee, Client, Deviation, Neighbourhood, RouteOwner, RoutesInForce, RulesInForce},
    },
    observed::{Observed, Target, host_of},
    validate::Settings,
};

/// What a client gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPart {
    /// Its namespace.
    pub namespace: String,
    /// Kind and name of its workload; null: any of the namespace that no selector selects.
    pub workload: Option<String>,
    /// Labels of its pods; null: not known.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether its Sidecar, if it has one, and the export of the target let it see the host.
    pub sees_host: bool,
    /// Namespace and name of the DestinationRule whose traffic policy counts, whole; null: none does.
    pub traffic_policy_of: Option<String>,
    /// Its HTTP ports.
    pub ports: Vec<ClientPort>,
    /// Rules and routes for the host that do not count for it.
    pub shadowed: Vec<ShadowedLine>,
}

/// Whose routes a port has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPort {
    /// Of the target.
    pub port: u16,
    /// Namespace and name of the VirtualService; null: none.
    pub virtual_service: Option<String>,
    /// Kind, namespace and name of each Gateway API route that has them instead.
    pub gateway_routes: Vec<String>,
    /// Whether that could be decided; why not stands in `notObserved`.
    pub observed: bool,
}

/// Something that does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShadowedLine {
    /// Kind, namespace and name.
    pub object: String,
    /// The only port that this is said of; null: all.
    pub port: Option<u16>,
    /// Kind, namespace and name of what stands in the way; null: nothing does.
    pub by: Option<String>,
    /// Why.
    pub why: String,
}

/// Clients that get something else than what is generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OthersLine {
    /// Who, in words.
    pub clients: String,
    /// What of the policy's they do not get: `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// The only port that this is said of; null: all.
    pub port: Option<u16>,
    /// Kind, namespace and name of what they get; null: nothing.
    pub gets: Option<String>,
    /// Why.
    pub why: String,
}

/// The target, as clients call it; none where its host is not known.
#[must_use]
pub fn callee(target: &TargetRef, namespace: &str, observed: &Observed, settings: &Settings) -> Option<Callee> {
    let Target::Found(service) = &observed.target else { return None };
    let host = host_of(target, namespace, Some(service), &settings.cluster_domain)?;
    let (http, other): (Vec<_>, Vec<_>) = service.ports.iter().partition(|port| port.protocol.is_http());
    let numbers = |ports: Vec<&crate::observed::PortView>| ports.iter().map(|port| port.number).collect();
    Some(Callee {
        host,
        namespace: namespace.to_owned(),
        name: target.name.clone(),
        is_entry: target.kind == TargetKind::ServiceEntry,
        export_to: service.export_to.clone(),
        http_ports: numbers(http),
        other_ports: numbers(other),
    })
}

impl Page {
    /// Adds who gets something else than what is generated, and what this page could not read of it.
    #[must_use]
    pub fn with_others(mut self, around: &Neighbourhood, callee: &Callee, unread: Vec<String>) -> Self {
        self.others = self.others(around, callee);
        self.not_observed.extend(unread);
        self
    }

    /// Adds that a client gets nothing, since there is no host to call.
    #[must_use]
    pub fn without_host(mut self, client: &Client, workload: Option<String>) -> Self {
        self.destination_rules = Some(Vec::new());
        self.virtual_services = Some(Vec::new());
        self.client = Some(ClientPart {
            namespace: client.namespace.clone(),
            workload,
            labels: client.labels.clone(),
            ..ClientPart::default()
        });
        self
    }

    /// Adds what a client gets.
    #[must_use]
    pub fn with_client(
        mut self,
        around: &Neighbourhood,
        callee: &Callee,
        client: &Client,
        workload: Option<String>,
    ) -> Self {
        let seen = around.sees(callee, client);
        let rules = if seen.is_some() { around.rules(callee, client) } else { RulesInForce::default() };
        let ports: Vec<_> =
            callee.http_ports.iter().filter(|port| seen.as_ref().is_some_and(|seen| seen.contains(port))).collect();
        let routes: Vec<(u16, RoutesInForce)> =
            ports.into_iter().map(|port| (*port, around.routes(callee, *port, client))).collect();
        let mut unobserved: Vec<String> = Vec::new();
        for what in rules.unobserved.iter().chain(routes.iter().flat_map(|(_, force)| &force.unobserved)) {
            let line = what.to_string();
            if !unobserved.contains(&line) {
                unobserved.push(line);
            }
        }
        let mut virtual_services: Vec<String> = Vec::new();
        for (_, force) in routes.iter().filter(|(_, force)| force.unobserved.is_empty()) {
            if let Some(RouteOwner::VirtualService(object)) = &force.owner
                && !virtual_services.contains(&object.place())
            {
                virtual_services.push(object.place());
            }
        }
        self.destination_rules = Some(rules.merged.iter().map(|rule| rule.place()).collect());
        self.virtual_services = Some(virtual_services);
        self.client = Some(ClientPart {
            namespace: client.namespace.clone(),
            workload,
            labels: client.labels.clone(),
            sees_host: seen.is_some(),
            traffic_policy_of: rules.policy_of.as_ref().map(|rule| rule.place()),
            ports: routes.iter().map(|(port, force)| port_line(*port, force)).collect(),
            shadowed: shadowed(&rules, &routes),
        });
        self.not_observed.extend(unobserved);
        self.not_observed.push("whether the client has a sidecar, without which no rule acts on its calls".to_owned());
        self
    }

    fn others(&self, around: &Neighbourhood, callee: &Callee) -> Vec<OthersLine> {
        let there = self.generated.iter().filter(|line| matches!(line.state, State::AsWanted | State::Drifted));
        let named: BTreeSet<(&str, &str)> = there.map(|line| (line.kind.as_str(), line.name.as_str())).collect();
        let is_ours = |object: &&std::sync::Arc<Existing>| {
            object.namespace == self.namespace && named.contains(&(object.kind.as_str(), object.name.as_str()))
        };
        let mut lines = Vec::new();
        if let Some(rule) = around.rules.iter().find(is_ours) {
            let others = around.other_rules(callee, rule);
            lines.extend(others.iter().map(|one| others_line(Kind::DestinationRule, None, one, |rule| rule.whole())));
        }
        if let Some(routes) = around.virtual_services.iter().find(is_ours) {
            let of_ports = callee.http_ports.iter().map(|port| (*port, around.other_routes(callee, *port, routes)));
            let of_ports: Vec<_> = of_ports.collect();
            let alike = of_ports.windows(2).all(|pair| pair[0].1 == pair[1].1);
            for (port, others) in of_ports.iter().take(if alike { 1 } else { usize::MAX }) {
                let port = (!alike).then_some(*port);
                let line = |one| others_line(Kind::VirtualService, port, one, ToString::to_string);
                lines.extend(others.iter().map(line));
            }
        }
        lines
    }
}

fn port_line(port: u16, force: &RoutesInForce) -> ClientPort {
    let observed = force.unobserved.is_empty();
    let (mut virtual_service, mut gateway_routes) = (None, Vec::new());
    match force.owner.as_ref().filter(|_| observed) {
        Some(RouteOwner::VirtualService(object)) => virtual_service = Some(object.place()),
        Some(RouteOwner::GatewayRoutes(routes)) => {
            gateway_routes.extend(routes.iter().map(ToString::to_string));
        }
        None => {}
    }
    ClientPort { port, virtual_service, gateway_routes, observed }
}

/// Of routes what is said of all ports alike is said once.
fn shadowed(rules: &RulesInForce, routes: &[(u16, RoutesInForce)]) -> Vec<ShadowedLine> {
    let of_rules = rules.shadowed.iter().map(|one| {
        let by = one.by.as_ref().map(|by| by.whole());
        ShadowedLine { object: one.object.whole(), port: None, why: one.why.because(by.as_deref()), by }
    });
    let mut lines: Vec<ShadowedLine> = of_rules.collect();
    let mut of_routes: BTreeMap<ShadowedLine, Vec<u16>> = BTreeMap::new();
    for (port, force) in routes {
        for one in &force.shadowed {
            let by = one.by.as_ref().map(ToString::to_string);
            let why = one.why.because(by.as_deref());
            let line = ShadowedLine { object: one.owner.to_string(), port: None, by, why };
            of_routes.entry(line).or_default().push(*port);
        }
    }
    for (line, ports) in of_routes {
        if ports.len() == routes.len() {
            lines.push(line);
        } else {
            lines.extend(ports.into_iter().map(|port| ShadowedLine { port: Some(port), ..line.clone() }));
        }
    }
    lines
}

fn others_line<T>(kind: Kind, port: Option<u16>, one: &Deviation<T>, name: impl Fn(&T) -> String) -> OthersLine {
    let by = one.by.as_ref().map(&name);
    OthersLine {
        clients: one.clients.to_string(),
        kind: kind.to_string(),
        port,
        gets: one.gets.as_ref().map(name),
        why: one.why.because(by.as_deref()),
    }
}
