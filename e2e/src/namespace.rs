//! In: a lab, or another cluster, and the name of a scenario. Out: a namespace of its own with injection on, deleted
//! afterwards; when the scenario fails, what is in it is printed first.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::run::tail;

/// By which every namespace that is made here is known.
pub const LABEL: &str = "app.kubernetes.io/managed-by: resilience-lab";

/// Runs `work` in a fresh namespace. With `RESILIENCE_LAB_KEEP` set a failed one stays, to be looked at.
///
/// # Errors
/// What `work` says.
pub fn with_namespace<T>(lab: &Lab, scenario: &str, work: impl FnOnce(&Kubectl) -> Result<T>) -> Result<T> {
    // Its deletion is not waited for: nothing that comes later has this name.
    in_namespace(lab.kubectl(), scenario, "--wait=false", work)
}

/// As [`with_namespace`], on another cluster: nothing of it is left when this returns.
///
/// # Errors
/// What `work` says, or that the namespace does not go.
pub fn elsewhere<T>(cluster: &Kubectl, scenario: &str, work: impl FnOnce(&Kubectl) -> Result<T>) -> Result<T> {
    in_namespace(cluster, scenario, "--wait=true", work)
}

fn in_namespace<T>(
    cluster: &Kubectl,
    scenario: &str,
    wait: &str,
    work: impl FnOnce(&Kubectl) -> Result<T>,
) -> Result<T> {
    let name = unique(&scenario.replace('_', "-"));
    let manifest = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio-injection: enabled, {LABEL}}}}}\n"
    );
    cluster.apply(&manifest)?;
    let kubectl = cluster.namespace(&name);
    let result = work(&kubectl);
    if result.is_err() {
        eprintln!("state of {name}:\n{}", describe(&kubectl));
        if std::env::var_os("RESILIENCE_LAB_KEEP").is_some() {
            eprintln!("{name} is kept");
            return result;
        }
    }
    cluster.run(&["delete", "namespace", &name, wait])?;
    result
}

/// A name that nothing had before: a scenario that is run again finds the namespace of its first run on its way
/// out.
#[must_use]
pub fn unique(name: &str) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn describe(kubectl: &Kubectl) -> String {
    let looks: [&[&str]; 3] = [
        &["get", "pods,services,endpointslices", "-o", "wide"],
        &["get", "destinationrules,virtualservices,sidecars", "-o", "yaml"],
        &["get", "events", "--sort-by=.lastTimestamp"],
    ];
    let texts = looks
        .iter()
        .map(|look| kubectl.try_run(look).map_or_else(|error| format!("{error:#}"), |done| tail(&done.all(), 60)));
    texts.collect::<Vec<_>>().join("\n")
}
