//! What is applied to a cluster: the CRD, all of `deploy/` in one file, and the chart, each with the released image.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::Release;
use crate::cache::Cache;
use crate::operator;
use crate::parts;
use crate::run::check;

/// All of `deploy/`.
const INSTALL: &str = "install.yaml";
/// The CRD alone.
const CRD: &str = "crd.yaml";

/// What the chart says of its image as long as none is published, and what a published one says.
const UNPUBLISHED: &str =
    "  # Required: no image is published. The README says how to build yours.\n  repository: \"\"\n";

/// Writes them.
///
/// # Errors
/// When kubectl or Helm does not take what is there, or the image is not in what they make.
pub(super) fn write(release: &Release<'_>) -> Result<()> {
    let crd = release.checkout.root().join("crds/resilience.yaml");
    release.put(CRD, &fs::read(&crd).with_context(|| format!("{} cannot be read", crd.display()))?)?;
    install(release)?;
    chart(release)
}

fn install(release: &Release<'_>) -> Result<()> {
    let kubectl = parts::kubectl(release.checkout, &Cache::open()?, release.report)?;
    let text = release.report.step("write the manifests", || {
        let folder = release.scratch("kustomize")?;
        let (unreleased, _) = tag_of(operator::IMAGE)?;
        let overlay = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../../../deploy]\nimages:\n- \
             {{name: {unreleased}, newName: {}, newTag: \"{}\"}}\n",
            release.image_name(),
            release.version
        );
        fs::write(folder.join("kustomization.yaml"), overlay)?;
        let text = check(Command::new(&kubectl).arg("kustomize").arg(&folder))?;
        ensure!(!text.contains(unreleased), "the image that is not released is still there");
        ensure!(text.contains(&format!("image: {}\n", release.image())), "the released image is not there");
        Ok(text)
    })?;
    let head =
        format!("# Resilience {}, whole: kubectl apply --server-side -f {}\n", release.version, release.url(INSTALL));
    release.put(INSTALL, (head + &text).as_bytes())
}

/// An image's name and tag.
fn tag_of(image: &str) -> Result<(&str, &str)> {
    image.rsplit_once(':').with_context(|| format!("{image} has no tag"))
}

fn chart(release: &Release<'_>) -> Result<()> {
    let helm = parts::helm(release.checkout, &Cache::open()?, release.report)?;
    release.report.step("package the chart", || {
        let copy = release.scratch("chart")?.join("resilience-operator");
        let from = release.checkout.root().join("deploy/chart");
        check(Command::new("cp").arg("-R").arg(&from).arg(&copy))?;
        let values = copy.join("values.yaml");
        let text = fs::read_to_string(&values)?;
        ensure!(text.contains(UNPUBLISHED), "deploy/chart/values.yaml does not say of the image that it is required");
        let published = format!("  # As released.\n  repository: {}\n", release.image_name());
        fs::write(&values, text.replace(UNPUBLISHED, &published))?;
        // Helm packs files with their times.
        for file in crate::cache::files_below(&copy)? {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(release.time);
            File::options().write(true).open(&file)?.set_modified(time)?;
        }
        let run = |args: &[&str]| {
            let home = release.work.join("helm");
            let mut command = Command::new(&helm);
            for folder in ["CACHE", "CONFIG", "DATA"] {
                command.env(format!("HELM_{folder}_HOME"), home.join(folder));
            }
            check(command.args(args))
        };
        let shown = |path: &Path| path.display().to_string();
        run(&["lint", "--strict", &shown(&copy)])?;
        run(&["package", &shown(&copy), "--destination", &shown(&release.folder)])?;
        let packed = release.folder.join(format!("resilience-operator-{}.tgz", release.version));
        let rendered = run(&["template", "resilience-operator", &shown(&packed), "--namespace", operator::NAMESPACE])?;
        ensure!(rendered.contains(&release.image()), "the chart does not name {}", release.image());
        Ok(())
    })
}
