//! What was made, on a real node: the image is given to the lab, `install.yaml` applied as a user does, and a breaker
//! seen to trip under it. Afterwards the lab has the operator of `deploy/` again.

use std::time::Duration;

use super::Release;
use super::binaries::PROGRAM;
use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::operator::NAMESPACE;
use crate::parts::Parts;
use crate::scenarios::{leaving, limits};
use anyhow::{Context, Result, ensure};

/// Tries it on the lab of this checkout.
///
/// # Errors
/// When none is up, the node does not take the image, or it does not do what it is for.
pub(super) fn on_the_lab(release: &Release<'_>) -> Result<()> {
    let lab = Lab::attach_to(release.checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let parts = Parts::get(release.checkout, &Cache::open()?, false, release.report)?;
    let image = release.folder.join(format!("{PROGRAM}_{}_oci.tar", release.version));
    release.report.step("try it on the lab", || {
        Cluster::new(release.checkout, lab.sandbox(), &parts).import(&image)?;
        let tried = run(release, &lab.namespace(NAMESPACE));
        // Whatever came of it.
        let restored = leaving::install(release.checkout, &lab);
        tried.and(restored)
    })
}

fn run(release: &Release<'_>, system: &Kubectl) -> Result<()> {
    let manifest = release.folder.join("install.yaml").display().to_string();
    system.run(&["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", &manifest])?;
    system.rolled_out("deployment/resilience-operator", Duration::from_mins(2))?;
    let pods = system.json(&["get", "pods", "-l", "app.kubernetes.io/name=resilience-operator"])?;
    let image = release.image();
    let mut pods = pods["items"].as_array().into_iter().flatten();
    let runs = pods.any(|pod| pod["spec"]["containers"][0]["image"].as_str() == Some(&image));
    ensure!(runs, "no pod runs {image}");
    limits::trip_by_pending_requests(release.checkout).context("as released")
}
