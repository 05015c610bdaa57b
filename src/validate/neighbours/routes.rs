//! Routes for the host that are elsewhere, by wildcard, or of the Gateway API: whether ours are worth
//! writing, which clients do not get them, and whose they take away.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    super::Valid,
    rules::{callee, would_be},
};
use crate::istio::{
    Existing, Kind,
    neighbourhood::{Client, Deviation, Neighbourhood, RouteOwner, Why},
};

/// Whose the routes of the host are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct RoutesOwner {
    /// Kind and place.
    pub(in super::super) name: String,
    /// It is of the Gateway API.
    pub(in super::super) is_gateway_api: bool,
}

/// Where routes of others leave ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Routes {
    /// Who has them for clients that nothing else tells apart: then none are generated.
    pub(in super::super) owner: Option<RoutesOwner>,
    /// Clients that have other routes, and whose.
    pub(in super::super) others: BTreeSet<(String, String)>,
    /// Younger ones that Istio ignores beside ours.
    pub(in super::super) ignored: BTreeSet<String>,
    /// Ones for a wildcard, which ours hide for this host.
    pub(in super::super) hidden: BTreeSet<String>,
}

/// Looks as if ours were there; see [`super::rules::look`].
pub(super) fn look(valid: &Valid, name: &str, around: &Neighbourhood, ours: Option<&Existing>) -> Routes {
    // As it is for most.
    if around.virtual_services.is_empty() && around.routes.is_empty() {
        return Routes::default();
    }
    let namespace = &valid.owner.namespace;
    // A producer's routes go before any VirtualService here, whatever their age (measured M38).
    if let Some(route) = around.routes.iter().find(|route| route.namespace == *namespace && route.has_rules) {
        let owner = RoutesOwner { name: route.to_string(), is_gateway_api: true };
        return Routes { owner: Some(owner), ..Routes::default() };
    }
    let callee = callee(valid);
    let http: Vec<_> = valid.routes.iter().map(|port| json!({"match": [{"port": port}]})).collect();
    let spec = json!({"hosts": [valid.host], "exportTo": valid.export_to, "http": http});
    let own = would_be(Kind::VirtualService, valid, name, ours, spec);
    let around = around.with(own.clone());
    let mut routes = Routes::default();
    for port in &valid.routes {
        let deviations = around.other_routes(&callee, *port, &own);
        for deviation in &deviations {
            let Some(other) = &deviation.gets else { continue };
            // Those with these labels in one namespace were named with those of all.
            let everywhere = |wider: &Deviation<RouteOwner>| {
                wider.clients.namespace.is_none()
                    && wider.clients.labels == deviation.clients.labels
                    && wider.gets == deviation.gets
            };
            if deviation.clients.namespace.is_some() && deviations.iter().any(everywhere) {
                continue;
            }
            if deviation.clients.namespace.is_none() && deviation.clients.labels.is_empty() {
                let is_gateway_api = matches!(other, RouteOwner::GatewayRoutes(_));
                routes.owner = Some(RoutesOwner { name: other.to_string(), is_gateway_api });
                return routes;
            }
            routes.others.insert((deviation.clients.to_string(), other.to_string()));
        }
        let namespaces = around.virtual_services.iter().map(|other| &other.namespace).collect::<BTreeSet<_>>();
        let clients = namespaces.into_iter().cloned().chain([String::new()]);
        for client in clients.map(|namespace| Client { namespace, labels: Some(BTreeMap::new()) }) {
            let force = around.routes(&callee, *port, &client);
            for shadowed in force.shadowed.iter().filter(|one| one.by.as_ref().is_some_and(|by| by.is(&own))) {
                let RouteOwner::VirtualService(other) = &shadowed.owner else { continue };
                let is_exact = other.is_for(&valid.host, &around.cluster_domain);
                match shadowed.why {
                    // Whichever is older: a wildcard never counts beside the host itself.
                    Why::MoreSpecific | Why::OlderRoutesFirst if !is_exact => drop(routes.hidden.insert(other.whole())),
                    Why::OlderRoutesFirst => drop(routes.ignored.insert(other.whole())),
                    _ => {}
                }
            }
        }
    }
    routes
}
