//! In: a node with Istio. Out: the demo's client and server, each behind a sidecar, and the proof that one
//! reaches the other by mutual TLS.

use std::time::Duration;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::images;
use crate::kubectl::Kubectl;
use crate::report::Report;
use crate::wait::{self, Seen};

/// The namespace of the demo.
pub const NAMESPACE: &str = "resilience-demo";

/// What the client calls.
pub const TARGET: &str = "http://httpbin:8000";

/// Fills in the images that a manifest of `e2e/manifests` names.
#[must_use]
pub fn with_images(manifest: &str) -> String {
    manifest
        .replace("${HTTPBIN_IMAGE}", images::HTTPBIN)
        .replace("${FORTIO_IMAGE}", images::FORTIO)
        .replace("${STATUS500_IMAGE}", images::STATUS500)
}

/// Starts client and server, and waits until both are available.
///
/// # Errors
/// When one does not get available in time.
pub fn start(checkout: &Checkout, kubectl: &Kubectl, report: &Report) -> Result<()> {
    report.step("start httpbin and fortio", || {
        kubectl.apply(&with_images(&manifest(checkout, "demo.yaml")?))?;
        let demo = kubectl.namespace(NAMESPACE);
        ["deployment/httpbin", "deployment/fortio"]
            .iter()
            .try_for_each(|name| demo.rolled_out(name, Duration::from_mins(2)))
    })
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
