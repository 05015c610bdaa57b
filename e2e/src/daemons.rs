//! In: a daemon of the lab that runs. Out: the same daemon killed, held up, or started again as it was.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::replicas::signal;
use crate::run::tail;
use crate::wait::{self, Seen};

/// A daemon as it was started.
#[derive(Debug, Clone)]
pub struct Daemon {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Daemon {
    /// How a daemon that runs was started: its words and its environment are in /proc.
    ///
    /// # Errors
    /// When it does not run.
    pub fn find(lab: &Lab, name: &'static str) -> Result<Self> {
        let pid = pid(lab, name)?.with_context(|| format!("{name} does not run: see `cargo lab logs {name}`"))?;
        let read = |file: &str| -> Result<Vec<String>> {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).with_context(|| format!("{name} ended meanwhile"))?;
            Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').split('\0').map(str::to_owned).collect())
        };
        let words = read("cmdline")?;
        let (program, args) = words.split_first().with_context(|| format!("{name} ended meanwhile"))?;
        let environment = read("environ")?;
        let environment = environment.iter().filter_map(|line| line.split_once('='));
        Ok(Self {
            name,
            program: PathBuf::from(program),
            args: args.to_vec(),
            environment: environment.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        })
    }

    /// Kills it, and waits until it has gone.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&self, lab: &Lab) -> Result<()> {
        self.send(lab, Signal::SIGKILL)?;
        wait::until_true(&format!("{} has gone", self.name), Duration::from_secs(20), || {
            Ok(pid(lab, self.name)?.is_none())
        })
    }

    /// Holds it up: it does nothing, and its connections stay.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&self, lab: &Lab) -> Result<()> {
        self.send(lab, Signal::SIGSTOP)
    }

    /// As it was, with `more` words at the end; also right when it was held up, or runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, lab: &Lab, more: &[String]) -> Result<()> {
        if pid(lab, self.name)?.is_some() {
            return self.send(lab, Signal::SIGCONT);
        }
        let args: Vec<String> = self.args.iter().chain(more).cloned().collect();
        lab.sandbox().spawn(self.name, &self.program, &args, &self.environment)
    }

    fn send(&self, lab: &Lab, what: Signal) -> Result<()> {
        let pid = pid(lab, self.name)?.with_context(|| format!("{} does not run", self.name))?;
        signal(pid, what)
    }
}

fn pid(lab: &Lab, name: &str) -> Result<Option<Pid>> {
    Ok(lab.daemons()?.into_iter().find(|(daemon, _)| *daemon == name).and_then(|(_, pid)| pid))
}

/// Waits until the API server is ready, and with it etcd.
///
/// # Errors
/// When it is not in time.
pub fn until_served(lab: &Lab) -> Result<()> {
    lab.kubectl().until("the API server is ready", Duration::from_mins(2), |kubectl| {
        let answer = kubectl.try_run(&["get", "--raw", "/readyz", "--request-timeout=5s"])?;
        Ok(if answer.stdout == "ok" { Seen::Done(()) } else { Seen::NotYet(tail(&answer.all(), 2)) })
    })
}
