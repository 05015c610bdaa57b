//! A policy reaches what is declared in its own namespace, and nobody else's: judged at what the Envoys of
//! clients elsewhere have.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::SOON;
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::wait::Seen;
use crate::workloads::start_client_in;

/// What the policy says, as Envoy has it.
const OURS: &str = "1.700s";

/// A host that two namespaces declare: routes of one's policy are not for the other's clients; and a Service
/// that is exported to its own namespace has its routes there alone.
///
/// # Errors
/// When a client has what is not its own.
pub fn is_its_own_namespace(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    with_namespace(&lab, "reach-home", |home| {
        with_namespace(&lab, "reach-away", |away| {
            start_client_in(checkout, home)?;
            start_client_in(checkout, away)?;
            entry_of_two(home, away).context("a host of two namespaces")?;
            exported_home(home, away).context("a Service that is exported to its own namespace")
        })
    })
}

fn entry_of_two(home: &Kubectl, away: &Kubectl) -> Result<()> {
    let host = format!("far.{}.example", home.current_namespace());
    let entry = |name: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name},
            "spec": {"hosts": [host], "location": "MESH_EXTERNAL", "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "endpoints": [{"address": "192.0.2.7"}]}})
        .to_string()
    };
    home.apply(&entry("ours"))?;
    home.apply(&for_target("ours", &json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "ours"})))?;
    // The host is declared at home alone, and exported to all.
    until_timeout(home, &host, |timeout| timeout == Some(OURS))?;
    until_timeout(away, &host, |timeout| timeout == Some(OURS))?;
    // Who declares it himself calls what is his.
    away.apply(&entry("theirs"))?;
    until_timeout(away, &host, |timeout| timeout.is_some_and(|timeout| timeout != OURS))?;
    until_timeout(home, &host, |timeout| timeout == Some(OURS))?;
    let warnings = home.json(&["get", "resilience", "ours"])?["status"]["warnings"].to_string();
    ensure!(warnings.contains("RES036") && warnings.contains("/theirs"), "the policy does not say whose: {warnings}");
    away.run(&["delete", "serviceentry", "theirs"])?;
    until_timeout(away, &host, |timeout| timeout == Some(OURS))
}

fn exported_home(home: &Kubectl, away: &Kubectl) -> Result<()> {
    let host = format!("private.{}.svc.cluster.local", home.current_namespace());
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "private", "annotations": {"networking.istio.io/exportTo": "."}},
        "spec": {"ports": [{"name": "http", "port": 80}]}});
    home.apply(&service.to_string())?;
    home.apply(&for_target("private", &json!({"kind": "Service", "name": "private"})))?;
    until_timeout(home, &host, |timeout| timeout == Some(OURS))?;
    // As before: a client away does not know the host at all.
    until_timeout(away, &host, |timeout| timeout.is_none())?;
    let routes = home.json(&["get", "virtualservice", "private"])?;
    ensure!(routes["spec"]["exportTo"] == json!(["."]), "the routes are for all: {}", routes["spec"]);
    Ok(())
}

fn for_target(name: &str, target: &Value) -> String {
    json!({"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": name},
        "spec": {"targetRefs": [target], "timeouts": {"request": "1700ms"}}})
    .to_string()
}

/// Waits until the Envoy of a namespace's client has a timeout for a host that is right; `None`: it has no
/// routes for it.
fn until_timeout(client: &Kubectl, host: &str, right: impl Fn(Option<&str>) -> bool) -> Result<()> {
    let what = format!("the client of {} has its own timeout for {host}", client.current_namespace());
    client.until(&what, SOON, |client| {
        let dump = ConfigDump::of(client, "deploy/fortio")?;
        let table = dump.routes().iter().find(|table| table["name"] == "80");
        let hosts = table.and_then(|table| table["virtual_hosts"].as_array());
        let names =
            |one: &&Value| one["domains"].as_array().is_some_and(|domains| domains.iter().any(|domain| domain == host));
        let route = hosts.into_iter().flatten().find(names).map(|one| &one["routes"][0]["route"]);
        let timeout = route.map(|route| route["timeout"].as_str().unwrap_or("unset"));
        Ok(if right(timeout) { Seen::Done(()) } else { Seen::NotYet(format!("{timeout:?}")) })
    })
}
