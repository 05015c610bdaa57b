//! The manifest that krew installs the command line by, as `kubectl resilience`. In: `deploy/krew/resilience.yaml` and
//! the archives. Out: the manifest with their sums, judged by krew's own validator, and each archive installed by it.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::binaries::{PROGRAM, TARGETS, Target};
use super::tools::Krew;
use super::{Release, sums};
use crate::checkout::Checkout;
use crate::report::Report;
use crate::run::check;

/// Where it is kept, and, as krew wants, named after the plug-in.
const TEMPLATE: &str = "deploy/krew/resilience.yaml";
const FILE: &str = "resilience.yaml";

/// One of its platforms.
struct Platform<'a> {
    target: &'a Target,
    url: String,
    sum: String,
}

/// Writes it, and installs every archive by it.
///
/// # Errors
/// When krew does not take it, or what it installs is not the program.
pub(super) fn write(release: &Release<'_>, archives: &[(&Target, String)]) -> Result<()> {
    let mut platforms = Vec::new();
    for (target, archive) in archives {
        let sum = sums::of(&release.folder.join(archive))?;
        platforms.push(Platform { target, url: release.url(archive), sum });
    }
    let template = read(release.checkout)?;
    release.put(FILE, filled(&template, release.version, release.repository, &platforms)?.as_bytes())?;
    let krew = Krew::of(release.checkout, release.report)?;
    release.report.step("install each archive by krew", || {
        let manifest = release.folder.join(FILE);
        krew.validates(&manifest)?;
        for (target, archive) in archives {
            let root = release.scratch("krew")?;
            krew.installs(&manifest, &release.folder.join(archive), (target.os, target.arch), &root)
                .with_context(|| format!("krew does not install {archive}"))?;
            let installed = root.join("store/resilience").join(format!("v{}", release.version));
            ensure!(installed.join("LICENSE").is_file(), "krew installs no licence from {archive}");
            let link = root.join("bin/kubectl-resilience");
            let program = fs::read(&link).with_context(|| format!("krew makes no {}", link.display()))?;
            ensure!(program == fs::read(installed.join(PROGRAM))?, "{} is another program", link.display());
            if target.runs_here() {
                let said = check(Command::new(&link).arg("--version"))?;
                ensure!(said.contains(release.version), "as krew installs it, it says that it is {said}");
            }
        }
        Ok(())
    })
}

/// Has krew's validator judge it with sums that stand for those of a release.
///
/// # Errors
/// What krew says.
pub(super) fn judge(checkout: &Checkout, report: &Report) -> Result<()> {
    let platforms = TARGETS.iter().map(|target| Platform {
        target,
        url: format!("https://example.com/{}", target.archive("1.0.0")),
        sum: "0".repeat(64),
    });
    let text = filled(&read(checkout)?, "1.0.0", super::NO_REPOSITORY, &platforms.collect::<Vec<_>>())?;
    let folder = tempfile::tempdir().context("there is no place for the manifest")?;
    let manifest = folder.path().join(FILE);
    fs::write(&manifest, text)?;
    Krew::of(checkout, report)?.validates(&manifest).with_context(|| format!("{TEMPLATE} makes no manifest"))
}

fn read(checkout: &Checkout) -> Result<String> {
    let path = checkout.root().join(TEMPLATE);
    fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
}

/// The template with its blanks filled in, and these platforms.
fn filled(template: &str, version: &str, repository: &str, platforms: &[Platform<'_>]) -> Result<String> {
    let is_told_to_readers = |line: &&str| !line.starts_with('#');
    let mut text = template.lines().filter(is_told_to_readers).collect::<Vec<_>>().join("\n");
    text = text.replace("${VERSION}", version).replace("${REPOSITORY}", repository);
    ensure!(!text.contains('$'), "{TEMPLATE} has a blank that nothing fills in");
    ensure!(text.lines().last() == Some("  platforms:"), "{TEMPLATE} does not end where the platforms go");
    text.push('\n');
    for Platform { target, url, sum } in platforms {
        // Quoted: a sum without letters, or with a single e, is a number to YAML.
        let Target { os, arch, .. } = target;
        write!(
            text,
            "  - selector:\n      matchLabels: {{os: {os}, arch: {arch}}}\n    uri: {url}\n    sha256: \"{sum}\"\n    \
             bin: {PROGRAM}\n"
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_manifest_has_each_platform_with_the_sum_of_its_archive() {
        let template = read(&Checkout::find().unwrap()).unwrap();
        let platform =
            |target, digit: &str| Platform { target, url: format!("https://x/{digit}"), sum: digit.repeat(64) };
        let text =
            filled(&template, "1.2.3", "o/n", &[platform(&TARGETS[0], "a"), platform(&TARGETS[3], "b")]).unwrap();
        let manifest: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(manifest["metadata"]["name"], Path::new(FILE).file_stem().unwrap().to_str().unwrap());
        assert_eq!(manifest["spec"]["version"], "v1.2.3");
        assert_eq!(manifest["spec"]["homepage"], "https://github.com/o/n");
        let one = |os, arch, digit: &str| {
            json!({"selector": {"matchLabels": {"os": os, "arch": arch}}, "uri": format!("https://x/{digit}"),
                "sha256": digit.repeat(64), "bin": PROGRAM})
        };
        assert_eq!(manifest["spec"]["platforms"], json!([one("linux", "amd64", "a"), one("darwin", "arm64", "b")]));
    }

    #[test]
    fn a_blank_that_nothing_fills_in_is_an_error() {
        let wrong = filled("spec:\n  version: ${VERSOIN}\n  platforms:\n", "1.2.3", "o/n", &[]).unwrap_err();
        assert!(wrong.to_string().contains("blank"), "{wrong}");
        let wrong = filled("spec:\n  platforms:\n  more: 1\n", "1.2.3", "o/n", &[]).unwrap_err();
        assert!(wrong.to_string().contains("where the platforms go"), "{wrong}");
    }
}
