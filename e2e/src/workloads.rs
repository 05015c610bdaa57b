//! In: a node with Istio. Out: the demo's client and server, each behind a sidecar, and the proof that one
//! reaches the other by mutual TLS.

use std::time::Duration;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::fortio;
use crate::images;
use crate::kubectl::Kubectl;
use crate::operator;
use crate::report::Report;
use crate::wait::{self, Seen};

/// The namespace of the demo.
pub const NAMESPACE: &str = "resilience-demo";

/// What the client calls.
pub const TARGET: &str = "http://httpbin:8000";

/// Starts client and server in the demo's namespace, and waits until both are available.
///
/// # Errors
/// When one does not get available in time.
pub fn start(checkout: &Checkout, kubectl: &Kubectl, report: &Report) -> Result<()> {
    report.step("start httpbin and fortio", || {
        kubectl.apply(&with_images(&manifest(checkout, "demo.yaml")?))?;
        available(&kubectl.namespace(NAMESPACE), &["deployment/httpbin", "deployment/fortio"])
    })
}

/// The same client and server in the client's own namespace; ends when one has answered the other.
///
/// # Errors
/// When they do not get there in time.
pub fn start_in(checkout: &Checkout, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&moved(&manifest(checkout, "demo.yaml")?, kubectl))?;
    available(kubectl, &["deployment/httpbin", "deployment/fortio"])?;
    // Available pods are not yet known to every proxy.
    kubectl.until("httpbin answers", Duration::from_secs(30), |kubectl| {
        let answers = fortio::load(kubectl, &format!("{TARGET}/get"), 1, 1)?;
        Ok(if answers.status(200) == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
    })
}

/// The client alone, in the client's own namespace.
///
/// # Errors
/// When it does not get available in time.
pub fn start_client_in(checkout: &Checkout, kubectl: &Kubectl) -> Result<()> {
    let demo = moved(&manifest(checkout, "demo.yaml")?, kubectl);
    let documents: Vec<&str> = demo.split("\n---\n").filter(|document| document.contains("name: fortio,")).collect();
    kubectl.apply(&documents.join("\n---\n"))?;
    available(kubectl, &["deployment/fortio"])
}

/// Adds a replica that answers every request with 500 to the server in the client's own namespace.
///
/// # Errors
/// When it does not get available in time.
pub fn add_failing_replica(checkout: &Checkout, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&moved(&manifest(checkout, "failing-replica.yaml")?, kubectl))?;
    available(kubectl, &["deployment/httpbin-failing"])
}

/// Starts our own load generator behind a sidecar in the client's own namespace.
///
/// # Errors
/// When it does not get available in time.
pub fn add_loader(checkout: &Checkout, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&kubectl.with_its_images(&with_images(&manifest(checkout, "loader.yaml")?)))?;
    available(kubectl, &["deployment/loader"])
}

fn available(kubectl: &Kubectl, workloads: &[&str]) -> Result<()> {
    workloads.iter().try_for_each(|name| kubectl.rolled_out(name, Duration::from_mins(2)))
}

/// A manifest of the demo for another namespace, which is there already.
fn moved(manifest: &str, kubectl: &Kubectl) -> String {
    let to = format!("namespace: {}", kubectl.current_namespace());
    let manifest = kubectl.with_its_images(&with_images(manifest)).replace(&format!("namespace: {NAMESPACE}"), &to);
    let documents = manifest.split("\n---\n").filter(|document| !document.contains("kind: Namespace"));
    documents.collect::<Vec<_>>().join("\n---\n")
}

/// Fills in the images that a manifest of `e2e/manifests` names.
#[must_use]
pub fn with_images(manifest: &str) -> String {
    manifest
        .replace("${HTTPBIN_IMAGE}", images::HTTPBIN)
        .replace("${FORTIO_IMAGE}", images::FORTIO)
        .replace("${STATUS500_IMAGE}", images::STATUS500)
        .replace("${LOADER_IMAGE}", operator::LOADER_IMAGE)
}

/// Waits until a request passes from client to server by mutual TLS: the server's sidecar then tells the
/// server who called.
///
/// # Errors
/// When none does in time.
pub fn mutual_tls(kubectl: &Kubectl, report: &Report) -> Result<()> {
    report.step("a request passes from fortio to httpbin by mutual TLS", || {
        let demo = kubectl.namespace(NAMESPACE);
        wait::until("a request passes by mutual TLS", Duration::from_mins(1), || {
            let url = format!("{TARGET}/headers");
            let answer = demo.try_exec("deploy/fortio", "fortio", &["fortio", "curl", "-quiet", &url])?;
            let seen = answer.status.success() && answer.stdout.contains("X-Forwarded-Client-Cert");
            let named = answer.stdout.contains("spiffe://cluster.local/ns/resilience-demo/sa/fortio");
            Ok(if seen && named { Seen::Done(()) } else { Seen::NotYet(answer.all()) })
        })
    })
}
