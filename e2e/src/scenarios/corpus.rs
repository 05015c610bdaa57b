//! The API server's verdict on every document of the corpora, and on every YAML of the repository: the
//! command line is neither kinder nor stricter than the cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::gateway_api::with_gateway_api;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::run::tail;
use crate::workloads::with_images;

/// Documents that only the cluster can refuse, by what it knows of the target.
const SEMANTIC: &str = "# layer: semantic";

/// What `validate` refuses by schema or CEL the API server refuses; what it accepts, or refuses for what
/// only the controller knows, the API server takes.
///
/// # Errors
/// When they disagree on a file.
pub fn agrees(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let tests = checkout.root().join("tests");
    with_namespace(&lab, "corpus", |kubectl| {
        let mut wrong = Vec::new();
        let mut judge = |file: &Path, taken: bool| -> Result<()> {
            let answer = kubectl.try_run(&dry_run(file))?;
            if answer.status.success() != taken {
                let verdict = if taken { "refused" } else { "took" };
                wrong.push(format!("the API server {verdict} {}: {}", file.display(), tail(&answer.all(), 3)));
            }
            Ok(())
        };
        let (accepted, refused) = (yaml_files(&tests.join("accept"))?, yaml_files(&tests.join("reject"))?);
        ensure!(
            !accepted.is_empty() && !refused.is_empty(),
            "the corpora are empty: tests/accept and tests/reject hold no YAML"
        );
        for file in &accepted {
            judge(file, true)?;
        }
        for file in &refused {
            judge(file, read(file)?.contains(SEMANTIC))?;
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} verdicts differ:\n{}",
            wrong.len(),
            accepted.len() + refused.len(),
            wrong.join("\n")
        );
        Ok(())
    })
}

/// Samples, manifests and CRD go through kubectl's own YAML and the API server's schemas.
///
/// # Errors
/// When one is refused.
pub fn every_yaml(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let kubectl = lab.kubectl();
    for file in yaml_files(&checkout.root().join("istio-samples"))? {
        // Some name the namespace that they are rendered for.
        taken(kubectl, &file)?;
    }
    for folder in kustomizations(&checkout.root().join("deploy"))? {
        let shown = folder.display().to_string();
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-k", &shown];
        kubectl.run(&apply).with_context(|| format!("the API server refuses {shown}"))?;
    }
    // Their status stands without a spec: to be read, not to be stored.
    let golden = checkout.root().join("tests/translate").display().to_string();
    with_gateway_api(checkout, &lab, || {
        kubectl.run(&["create", "--dry-run=client", "--validate=false", "-o", "name", "-f", &golden]).map(drop)
    })?;
    for file in yaml_files(&checkout.e2e().join("manifests"))? {
        if file.file_name().is_some_and(|name| name != "refused.yaml") {
            let text = with_images(&read(&file)?);
            let answer = parsed(kubectl, &text).with_context(|| format!("kubectl does not read {}", file.display()))?;
            ensure!(!answer.is_empty(), "{} holds no object", file.display());
        }
    }
    Ok(())
}

fn taken(kubectl: &Kubectl, file: &Path) -> Result<()> {
    kubectl.run(&dry_run(file)).map(drop).with_context(|| format!("the API server refuses {}", file.display()))
}

fn parsed(kubectl: &Kubectl, text: &str) -> Result<String> {
    let mut command = kubectl.command(&["create", "--dry-run=client", "-o", "name", "-f", "-"])?;
    crate::run::check_with_input(&mut command, text)
}

/// A creation: an apply on the client's side hides fields that are null, one on the server's side refuses
/// them.
fn dry_run(file: &Path) -> [&str; 5] {
    ["create", "--dry-run=server", "--validate=strict", "-f", file.to_str().unwrap_or_default()]
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// The folder, and every one below it that kustomize builds.
fn kustomizations(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in yaml_files(folder)?.into_iter().filter(|file| file.ends_with("kustomization.yaml")) {
        // A component is a part of another, and builds nothing by itself.
        if !read(&file)?.contains("kind: Component") {
            found.extend(file.parent().map(Path::to_owned));
        }
    }
    Ok(found)
}

/// Every `*.yaml` below a folder, in order.
fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        bail!("{} is no folder", folder.display());
    }
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} cannot be listed", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
