//! `HTTPRoutes` against VirtualServices. An HTTPRoute here answers every call with 302.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Routes, write_younger};
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::measured::routes_stage::{SOON, http_route};
use crate::parts::gateway_api_crds;
use crate::wait::Seen;

const VIRTUAL_SERVICE: i32 = 461;
const HTTP_ROUTE: i32 = 302;

/// Puts the CRDs into the cluster for the time of `work`. istiod notices them when they come (its informers of
/// optional kinds wait for the CRD: pkg/kube/kclient/delayed.go); that it has, the fences of the stage prove.
///
/// # Errors
/// When they are refused or do not go away again, or what `work` says.
pub(super) fn with_crds(
    checkout: &Checkout,
    cluster: &Kubectl,
    routes: &mut Routes,
    work: impl FnOnce(&Routes) -> Result<()>,
) -> Result<()> {
    let file = gateway_api_crds(checkout)?;
    let crds = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let result = cluster.apply(&crds).and_then(|_| {
        let kinds = ["crd/httproutes.gateway.networking.k8s.io", "crd/gateways.gateway.networking.k8s.io"];
        cluster.run(&[&["wait", "--for=condition=Established", "--timeout=60s"], kinds.as_slice()].concat())?;
        routes.stage.gateway_api = true;
        // Where they were before and went, istiod looks for them with pauses of up to a minute.
        routes.stage.settle_within(Duration::from_mins(3))?;
        work(routes).and(routes.sweep())
    });
    // What else runs on this lab counts on their absence.
    routes.stage.gateway_api = false;
    let gone = cluster.delete(&crds);
    result.and(gone.map(drop))
}

/// Writes an HTTPRoute for `httpbin` that is younger than all before it.
fn redirecting(routes: &Routes, kubectl: &Kubectl, name: &str) -> Result<()> {
    let rule = json!({"filters": [{
        "type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.invalid", "statusCode": HTTP_ROUTE},
    }]});
    let of = routes.stage.kubectl.current_namespace();
    write_younger(kubectl, &http_route(name, "httpbin", of, &rule)).map(drop)
}

pub(super) fn beside_virtual_service(routes: &Routes) -> Result<()> {
    let home = &routes.stage.kubectl;
    routes.answering(home, "b", VIRTUAL_SERVICE, &[])?;
    redirecting(routes, home, "a")?;
    routes.expect(HTTP_ROUTE, VIRTUAL_SERVICE)?;
    routes.sweep()?;
    redirecting(routes, home, "b")?;
    routes.answering(home, "a", VIRTUAL_SERVICE, &[])?;
    routes.expect(HTTP_ROUTE, HTTP_ROUTE)
}

pub(super) fn of_the_consumer(routes: &Routes) -> Result<()> {
    routes.answering(&routes.stage.kubectl, "a", VIRTUAL_SERVICE, &[])?;
    redirecting(routes, routes.stage.away()?, "b")?;
    routes.expect(VIRTUAL_SERVICE, HTTP_ROUTE)
}

pub(super) fn against_the_consumers(routes: &Routes) -> Result<()> {
    let (home, away) = (&routes.stage.kubectl, routes.stage.away()?);
    for (export_to, answer) in [(["."].as_slice(), VIRTUAL_SERVICE), (&[], HTTP_ROUTE)] {
        redirecting(routes, home, "b")?;
        routes.answering(away, "a", VIRTUAL_SERVICE, export_to)?;
        routes.expect(HTTP_ROUTE, answer)?;
        routes.sweep()?;
    }
    routes.answering(away, "b", VIRTUAL_SERVICE, &[])?;
    redirecting(routes, home, "a")?;
    routes.expect(HTTP_ROUTE, VIRTUAL_SERVICE)
}

pub(super) fn status_tells_nothing(routes: &Routes) -> Result<()> {
    let home = &routes.stage.kubectl;
    routes.answering(home, "b", VIRTUAL_SERVICE, &[])?;
    redirecting(routes, home, "a")?;
    routes.expect(HTTP_ROUTE, VIRTUAL_SERVICE)?;
    let conditions = home.until("the HTTPRoute has a status", SOON, |kubectl| {
        let route = kubectl.json(&["get", "httproute", "a"])?;
        let conditions = route.pointer("/status/parents/0/conditions").and_then(Value::as_array).cloned();
        Ok(conditions
            .filter(|all| !all.is_empty())
            .map_or_else(|| Seen::NotYet(route["status"].to_string()), Seen::Done))
    })?;
    for kind in ["Accepted", "ResolvedRefs"] {
        let holds = conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True");
        ensure!(holds, "an HTTPRoute that loses for a client has no {kind}=True: {conditions:?}");
    }
    let unhappy = conditions.iter().find(|condition| condition["status"] != "True");
    ensure!(unhappy.is_none(), "the status does tell: {unhappy:?}");
    Ok(())
}
