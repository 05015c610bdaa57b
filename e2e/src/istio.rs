//! In: a node. Out: istiod with sidecar injection, mutual TLS and its validating webhook, by Istio's own
//! installer and its own charts.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::kubectl::Kubectl;
use crate::parts::{ISTIO_VERSION, Parts};
use crate::report::Report;
use crate::run::{check, tail};
use crate::wait::{self, Seen};

/// Installs Istio and waits until istiod is available.
///
/// # Errors
/// What the installer says.
pub fn install(checkout: &Checkout, kubectl: &Kubectl, report: &Report) -> Result<()> {
    report.step("install Istio", || {
        let from = checkout.e2e().join("config/istio.yaml");
        let text = fs::read_to_string(&from).with_context(|| format!("{} cannot be read", from.display()))?;
        let to = checkout.state().join("config/istio.yaml");
        fs::write(&to, text.replace("${ISTIO_TAG}", ISTIO_VERSION))?;
        let mut command = kubectl.inside("istioctl")?;
        command.args(["install", "--skip-confirmation", "--readiness-timeout=180s", "-f"]).arg(&to);
        if let Err(error) = check(&mut command) {
            let pods = kubectl.namespace("istio-system").try_run(&["describe", "pods"])?;
            bail!("{error:#}\n{}", tail(&pods.all(), 15));
        }
        Ok(())
    })
}

/// Puts Istio's CRDs, and ours when there are any, into a control plane that has no node.
///
/// # Errors
/// What the API server says.
pub fn crds(checkout: &Checkout, kubectl: &Kubectl, parts: &Parts, report: &Report) -> Result<()> {
    report.step("apply the CRDs", || {
        kubectl.apply(&fs::read_to_string(parts.istio_file("crds.yaml"))?)?;
        own_crds(checkout, kubectl)?;
        kubectl.run(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        Ok(())
    })
}

fn own_crds(checkout: &Checkout, kubectl: &Kubectl) -> Result<()> {
    for entry in fs::read_dir(checkout.root().join("crds")).into_iter().flatten().filter_map(Result::ok) {
        if entry.path().extension().is_some_and(|end| end == "yaml") {
            kubectl.apply(&fs::read_to_string(entry.path())?)?;
        }
    }
    Ok(())
}

/// Waits until a rule that cannot be right is refused, and by Istio's webhook: before that, anything
/// that is applied proves nothing.
///
/// # Errors
/// When it is still taken after a while, or refused by someone else.
pub fn webhook_refuses(checkout: &Checkout, kubectl: &Kubectl, report: &Report) -> Result<()> {
    report.step("a bad DestinationRule is refused by Istio's webhook", || {
        let bad = manifest(checkout, "refused.yaml")?;
        wait::until("Istio's webhook refuses a bad DestinationRule", Duration::from_mins(1), || {
            let mut command = kubectl.namespace("default").command(&["create", "--dry-run=server", "-f", "-"])?;
            let answer = crate::run::finish_with_input(&mut command, &bad)?;
            let refused = !answer.status.success() && answer.all().contains("validation.istio.io");
            Ok(if refused && answer.all().contains("denied the request") {
                Seen::Done(())
            } else {
                Seen::NotYet(answer.all())
            })
        })
    })
}
