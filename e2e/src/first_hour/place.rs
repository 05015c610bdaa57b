//! Where the pages are played: a clone outside of this checkout, and a PATH on which kubectl, Helm and kustomize are,
//! the first two speaking to the clone's lab.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::parts;
use crate::report::Report;
use crate::run::{Finished, check, finish, of_no_package, tail};

/// The clone, and what is beside it.
#[derive(Debug)]
pub(super) struct Place {
    checkout: Checkout,
    path: String,
    log: PathBuf,
}

impl Place {
    /// Clones this checkout's commit into the folder, or brings a clone that is there to it, but for what was built.
    ///
    /// # Errors
    /// When git, or the building of a program, fails.
    pub(super) fn clone_of(from: &Checkout, folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("{} cannot be read", folder.display()))?;
        ensure!(!folder.starts_with(from.root()), "{} is within this checkout: choose another", folder.display());
        let (clone, bin) = (folder.join("resilience"), folder.join("bin"));
        let git = |at: &Path, args: &[&str]| check(Command::new("git").arg("-C").arg(at).args(args));
        let commit = git(from.root(), &["rev-parse", "HEAD"])?;
        let source = from.root().display().to_string();
        if clone.join(".git").exists() {
            git(&clone, &["fetch", "--quiet", &source, "HEAD"])?;
        } else {
            git(&folder, &["clone", "--quiet", "--no-checkout", &source, "resilience"])?;
        }
        git(&clone, &["checkout", "--quiet", "--force", "--detach", commit.trim()])?;
        git(&clone, &["clean", "-dffxq", "--exclude=/target"])?;
        fs::create_dir_all(&bin)?;
        let lab = clone.join("target/debug/lab");
        let cache = Cache::open()?;
        let report = Report::new();
        let helm = parts::helm(from, &cache, &report)?;
        let home = folder.join("helm");
        write_program(&bin.join("kubectl"), &format!("exec '{}' exec -- kubectl \"$@\"", lab.display()))?;
        let homes =
            ["CACHE", "CONFIG", "DATA"].map(|one| format!("export HELM_{one}_HOME='{}/{one}'\n", home.display()));
        let helm = format!("{}exec '{}' exec -- '{}' \"$@\"", homes.concat(), lab.display(), helm.display());
        write_program(&bin.join("helm"), &helm)?;
        link(&parts::kustomize(from, &cache, &report)?, &bin.join("kustomize"))?;
        let program = clone.join("target/debug/resilience-operator");
        link(&program, &bin.join("resilience-operator"))?;
        link(&program, &bin.join("kubectl-resilience"))?;
        let inherited = std::env::var("PATH").context("PATH is not set")?;
        let log = from.root().join("target/first-hour.log");
        fs::write(&log, "").with_context(|| format!("{} cannot be written", log.display()))?;
        Ok(Self { checkout: Checkout::at(&clone)?, path: format!("{}:{inherited}", bin.display()), log })
    }

    /// The clone.
    pub(super) fn checkout(&self) -> &Checkout {
        &self.checkout
    }

    /// Its folder.
    pub(super) fn root(&self) -> &Path {
        self.checkout.root()
    }

    /// The file with everything that was run and printed.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Runs a line as a person types it in the clone; any end is an answer.
    ///
    /// # Errors
    /// When there is no shell.
    pub(super) fn run(&self, line: &str) -> Result<Finished> {
        let mut shell = Command::new("bash");
        of_no_package(&mut shell).current_dir(self.root()).env("PATH", &self.path).args(["-c", line]);
        let answer = finish(&mut shell)?;
        let mut log = OpenOptions::new().append(true).open(&self.log)?;
        writeln!(log, "$ {line}\n{}[{}]", answer.all(), answer.status)?;
        Ok(answer)
    }

    /// As [`Place::run`], for what must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn must_run(&self, line: &str) -> Result<()> {
        let answer = self.run(line)?;
        ensure!(answer.status.success(), "`{line}` ended with {}:\n{}", answer.status, tail(&answer.all(), 15));
        Ok(())
    }
}

fn write_program(path: &Path, line: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{line}\n")).with_context(|| format!("{} cannot be written", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    symlink(to, at).with_context(|| format!("{} cannot be made", at.display()))
}
