//! In: the pinned Helm (`e2e/parts/helm`) and a lab. Out: what Helm says when it is run as a person runs it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::lab::Lab;
use crate::parts;
use crate::report::Report;
use crate::run::{Finished, check, finish};

/// Real Helm, for one lab.
#[derive(Debug)]
pub struct Helm<'a> {
    lab: &'a Lab,
    program: PathBuf,
    home: PathBuf,
}

impl<'a> Helm<'a> {
    /// Builds it when the cache does not have it: no lab needs it, only those who ask.
    ///
    /// # Errors
    /// What Go says.
    pub fn of(lab: &'a Lab) -> Result<Self> {
        let program = parts::helm(lab.checkout(), &Cache::open()?, &Report::new())?;
        Ok(Self { lab, program, home: lab.checkout().state().join("helm") })
    }

    /// Runs it; it must succeed.
    ///
    /// # Errors
    /// What Helm says.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        check(&mut self.command(args)?)
    }

    /// Runs it; any end is an answer.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_run(&self, args: &[&str]) -> Result<Finished> {
        finish(&mut self.command(args)?)
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.lab.inside(self.program.to_str().context("Helm's path is no text")?)?;
        // Nothing of the person's own: neither repositories nor plug-ins nor where releases are kept.
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.home.join(folder));
        }
        command.env_remove("HELM_NAMESPACE").env_remove("HELM_DRIVER").args(args);
        Ok(command)
    }
}
