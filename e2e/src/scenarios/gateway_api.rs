//! In: a lab. Out: the same with the Gateway API installed, for as long as something is judged.

use std::fs;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::parts::gateway_api_crds;

/// Installs the CRDs of the Gateway API, judges, and takes them away again: what else runs on this lab counts
/// on their absence.
///
/// # Errors
/// When they are not taken, or what `judge` says.
pub fn with_gateway_api(checkout: &Checkout, lab: &Lab, judge: impl FnOnce() -> Result<()>) -> Result<()> {
    let file = gateway_api_crds(checkout)?;
    let crds = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let installed = || {
        lab.kubectl().apply(&crds)?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s"];
        let kinds = ["crd/httproutes.gateway.networking.k8s.io", "crd/grpcroutes.gateway.networking.k8s.io"];
        lab.kubectl().run(&[&established[..], &kinds[..]].concat())?;
        judge()
    };
    let judged = installed();
    let gone = lab.kubectl().delete(&crds);
    judged.and(gone.map(drop))
}
