//! In: this checkout's sources and `deploy/`. Out: our operator running in the lab, under the manifests and
//! the service account that everyone else gets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::checkout::Checkout;
use crate::cluster::Cluster;
use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::report::Report;
use crate::run::{cargo, check};

/// The image that `deploy/` names when it is applied in the lab.
pub const IMAGE: &str = "docker.io/lab/resilience-operator:dev";

/// Our load generator in a pod that otherwise only waits; the operator's image holds nothing that waits.
pub const LOADER_IMAGE: &str = "docker.io/lab/loader:dev";

/// The operator as it was at another commit: the same image under another tag.
pub const PREVIOUS_IMAGE: &str = "docker.io/lab/resilience-operator:previous";

/// Where the operator lives.
pub const NAMESPACE: &str = "resilience-system";

/// Its service account.
pub const ACCOUNT: &str = "resilience-operator";

/// The user that the image runs as, as in the Dockerfile.
pub const USER: u32 = 65532;

/// Builds the binary with everything linked in, so that an image needs nothing else. In a target folder of
/// its own: in the common one a build that goes on elsewhere would hold this one up.
///
/// # Errors
/// What cargo says.
pub fn build(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    build_in(checkout, checkout.root(), "build the operator", report)
}

/// Builds the operator as it was at a commit, and puts it into an image under another tag. Beside the present
/// one's files, whose dependencies it shares, so whoever wants the present one builds it afterwards.
///
/// # Errors
/// When there is no such commit, or what cargo or the image says.
pub fn build_previous(checkout: &Checkout, revision: &str, report: &Report) -> Result<PathBuf> {
    let folder = checkout.root().join("target/previous");
    let sources = folder.join("sources");
    if sources.exists() {
        fs::remove_dir_all(&sources).with_context(|| format!("{} cannot be removed", sources.display()))?;
    }
    fs::create_dir_all(&sources)?;
    let archive = folder.join("sources.tar");
    let mut git = Command::new("git");
    git.arg("-C").arg(checkout.root()).args(["archive", "--output"]).arg(&archive).arg(revision);
    check(&mut git).with_context(|| format!("there is no commit {revision}"))?;
    tar::Archive::new(fs::File::open(&archive)?).unpack(&sources)?;
    let binary = build_in(checkout, &sources, "build the operator as it was", report)?;
    let tar = folder.join("operator.tar");
    Image::new(PREVIOUS_IMAGE, &["/resilience-operator"], USER).file("resilience-operator", binary).write(&tar)?;
    Ok(tar)
}

fn build_in(checkout: &Checkout, sources: &Path, what: &str, report: &Report) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    report.step(what, || {
        let mut cargo = cargo(sources);
        let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
        cargo.env_remove("RUSTFLAGS").env(variable, "-C target-feature=+crt-static");
        cargo.args(["build", "--locked", "--package", "resilience-operator", "--bin", "resilience-operator"]);
        cargo
            .args(["--profile", "lab", "--target", &target, "--target-dir"])
            .arg(checkout.root().join("target/operator"));
        check(&mut cargo).context("the operator does not build")?;
        Ok(())
    })?;
    Ok(checkout.root().join("target/operator").join(&target).join("lab/resilience-operator"))
}

/// The image of our load generator.
#[must_use]
pub fn loader(pause: PathBuf, binary: PathBuf) -> Image {
    Image::new(LOADER_IMAGE, &["/pause"], USER).file("pause", pause).file("resilience-operator", binary)
}

/// Puts the binary into an image, gives it to the node, applies `deploy/` and waits until it is available.
/// Gives the image's digest; with the digest of an earlier one the pods change only when the image did.
///
/// # Errors
/// When `deploy/` is not there, or the operator does not get available in time.
pub fn deploy(
    checkout: &Checkout,
    cluster: &Cluster<'_>,
    kubectl: &Kubectl,
    pause: PathBuf,
    binary: PathBuf,
    before: Option<String>,
    report: &Report,
) -> Result<String> {
    let manifests = checkout.root().join("deploy");
    if !manifests.join("kustomization.yaml").is_file() {
        bail!(
            "{} has no kustomization.yaml: `cargo lab up --without-operator` leaves the operator out",
            manifests.display()
        );
    }
    report.step("deploy the operator", || {
        let tar = checkout.state().join("operator.tar");
        Image::new(IMAGE, &["/resilience-operator"], USER).file("resilience-operator", binary.clone()).write(&tar)?;
        let digest = hex::encode(Sha256::digest(fs::read(&tar)?));
        let system = kubectl.namespace(NAMESPACE);
        if before.as_ref() != Some(&digest) {
            cluster.import(&tar)?;
            let loader_tar = checkout.state().join("loader.tar");
            loader(pause, binary).write(&loader_tar)?;
            cluster.import(&loader_tar)?;
        }
        let folder = manifests.display().to_string();
        kubectl.run(&["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-k", &folder])?;
        if before.is_some_and(|before| before != digest) {
            // The tag is the same for every build: only new pods take the new image.
            system.run(&["rollout", "restart", "deployment"])?;
        }
        system.rolled_out("deployment", Duration::from_mins(2))?;
        Ok(digest)
    })
}
