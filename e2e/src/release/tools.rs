//! Programs of others that a release is made or judged by, pinned and cached like the lab's parts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::parts;
use crate::report::Report;
use crate::run::check;
use crate::supply::{self, Tool};

/// cargo with Zig as the C compiler and linker.
const ZIGBUILD: Tool = Tool { name: "cargo-zigbuild", version: "0.24.1", features: &[] };

/// Finds or builds it.
///
/// # Errors
/// What cargo says.
pub(super) fn zigbuild(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    supply::tool(checkout, ZIGBUILD, report)
}

/// Finds or fetches Zig.
///
/// # Errors
/// What pip says.
pub(super) fn zig(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    let requirements = checkout.e2e().join("parts/zig/requirements.txt");
    let pin = fs::read(&requirements).with_context(|| format!("{} cannot be read", requirements.display()))?;
    let key = Key::new("zig").with(pin).with(std::env::consts::ARCH);
    let cache = Cache::open()?;
    let fetch = || {
        cache.get("tools", "zig", &key, |folder| {
            parts::wheel(&requirements, folder)?;
            let program = folder.join(ZIG);
            // Unpacking loses the bit.
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("the wheel has no {ZIG}"))
        })
    };
    let place = cache.path("tools", "zig", &key);
    let folder = if place.is_dir() { place } else { report.step("fetch Zig", fetch)? };
    Ok(folder.join(ZIG))
}

const ZIG: &str = "ziglang/zig";

/// Judges all workflows: by actionlint, and each action that they use is pinned by its commit.
///
/// # Errors
/// What is wrong with them.
pub(super) fn lint(checkout: &Checkout, report: &Report) -> Result<()> {
    let folder = checkout.root().join(".github/workflows");
    let mut files = crate::cache::files_below(&folder)?;
    files.retain(|file| file.extension().is_some_and(|end| end == "yml" || end == "yaml"));
    ensure!(!files.is_empty(), "{} has no workflow", folder.display());
    let program = parts::actionlint(checkout, &Cache::open()?, report)?;
    // Its own tools alone: what else is installed on a machine must not decide.
    let mut command = Command::new(program);
    check(command.current_dir(checkout.root()).args(["-shellcheck=", "-pyflakes=", "-no-color"]).args(&files))
        .context("actionlint does not take the workflows")?;
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let loose = unpinned(&text);
        ensure!(loose.is_empty(), "{}: not pinned by commit: {}", file.display(), loose.join(", "));
    }
    Ok(())
}

/// Actions that are not named by a whole commit.
fn unpinned(workflow: &str) -> Vec<&str> {
    let used = workflow.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: "));
    let used = used.map(|action| action.split_whitespace().next().unwrap_or_default());
    let is_commit = |of: &str| of.len() == 40 && of.chars().all(|one| one.is_ascii_hexdigit());
    used.filter(|action| !action.split_once('@').is_some_and(|(_, commit)| is_commit(commit))).collect()
}

/// krew's own validator, and krew.
#[derive(Debug)]
pub(super) struct Krew {
    place: PathBuf,
}

impl Krew {
    /// Finds or builds both.
    ///
    /// # Errors
    /// What Go says.
    pub(super) fn of(checkout: &Checkout, report: &Report) -> Result<Self> {
        Ok(Self { place: parts::krew(checkout, &Cache::open()?, report)? })
    }

    /// Whether it is a manifest, by the rules of krew's index.
    ///
    /// # Errors
    /// What krew says.
    pub(super) fn validates(&self, manifest: &Path) -> Result<()> {
        let mut command = Command::new(self.place.join("bin/validate-krew-manifest"));
        check(command.arg("-skip-install").arg("-manifest").arg(manifest)).map(drop)
    }

    /// Installs an archive by a manifest, as if on that machine, into a folder of its own.
    ///
    /// # Errors
    /// What krew says.
    pub(super) fn installs(
        &self,
        manifest: &Path,
        archive: &Path,
        (os, arch): (&str, &str),
        root: &Path,
    ) -> Result<()> {
        let mut command = Command::new(self.place.join("bin/krew"));
        command.env("KREW_ROOT", root).env("KREW_OS", os).env("KREW_ARCH", arch);
        command.env("KREW_NO_UPGRADE_CHECK", "1").arg("install").arg("--manifest").arg(manifest);
        check(command.arg("--archive").arg(archive)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_is_named_by_a_tag_or_half_a_commit_is_found() {
        let whole = "0123456789abcdef0123456789abcdef01234567";
        let workflow = format!(
            "steps:\n- uses: a/b@v7\n- name: x\n  uses: c/d@{whole} # v7.0.1\n- uses: e/f@0123456\n- uses: ./g\n"
        );
        assert_eq!(unpinned(&workflow), ["a/b@v7", "e/f@0123456", "./g"]);
    }
}
