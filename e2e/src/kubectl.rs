//! In: a running lab, or the cluster of somebody's kubeconfig. Out: what its API server says to the administrator:
//! by our own kubectl inside the sandbox, or by that person's.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::checkout::Checkout;
use crate::run::{Finished, check, check_with_input, finish, finish_with_input, tail};
use crate::sandbox::Sandbox;
use crate::wait::{self, Seen};

/// A client for one cluster, in one namespace or in none.
#[derive(Debug, Clone)]
pub struct Kubectl {
    reach: Reach,
    namespace: Option<String>,
}

/// How a cluster is reached.
#[derive(Debug, Clone)]
enum Reach {
    /// Inside a lab's sandbox; kubectl is in one of the folders of the path.
    Lab { sandbox: Sandbox, kubeconfig: PathBuf, path: String },
    /// From here, as the kubeconfig says, by the kubectl on PATH. Its nodes have the lab's images under another name.
    Here { kubeconfig: PathBuf, images: String },
}

impl Kubectl {
    /// The administrator's client. `path` goes in front of PATH: kubectl is in one of these folders.
    #[must_use]
    pub fn new(checkout: &Checkout, sandbox: &Sandbox, path: &[PathBuf]) -> Self {
        let inherited = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let mut folders: Vec<String> = path.iter().map(|folder| folder.display().to_string()).collect();
        folders.push(inherited);
        let reach = Reach::Lab { sandbox: sandbox.clone(), kubeconfig: checkout.kubeconfig(), path: folders.join(":") };
        Self { reach, namespace: None }
    }

    /// A client of the cluster that this kubeconfig names, whose nodes have the lab's images as `IMAGES/NAME`.
    #[must_use]
    pub fn here(kubeconfig: PathBuf, images: String) -> Self {
        Self { reach: Reach::Here { kubeconfig, images }, namespace: None }
    }

    /// A manifest that names the lab's images, with the names that they have on this cluster.
    #[must_use]
    pub fn with_its_images(&self, manifest: &str) -> String {
        match &self.reach {
            Reach::Lab { .. } => manifest.to_owned(),
            Reach::Here { images, .. } => manifest.replace(IMAGES, images),
        }
    }

    /// The same client in this namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// The namespace that this client works in; `default` when none was chosen.
    #[must_use]
    pub fn current_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// Any command where the cluster is reached, with KUBECONFIG and, of a lab, PATH set.
    ///
    /// # Errors
    /// When no lab runs.
    pub fn inside(&self, program: &str) -> Result<Command> {
        match &self.reach {
            Reach::Lab { sandbox, .. } => Ok(self.with_environment(sandbox.enter("env")?, program)),
            Reach::Here { .. } => Ok(self.with_environment(Command::new("env"), program)),
        }
    }

    fn with_environment(&self, mut env: Command, program: &str) -> Command {
        match &self.reach {
            Reach::Lab { kubeconfig, path, .. } => {
                env.arg(format!("KUBECONFIG={}", kubeconfig.display())).arg(format!("PATH={path}"));
            }
            Reach::Here { kubeconfig, .. } => {
                env.arg(format!("KUBECONFIG={}", kubeconfig.display()));
            }
        }
        env.arg(program);
        env
    }

    /// A kubectl command that is not started yet.
    ///
    /// # Errors
    /// When no lab runs.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.inside("kubectl")?;
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(args);
        Ok(command)
    }

    /// A kubectl command that runs until it is killed.
    ///
    /// # Errors
    /// When no lab runs.
    pub fn endless(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.beside("kubectl")?;
        command.args(args);
        Ok(command)
    }

    /// Any command on the cluster's network, as [`Kubectl::inside`], that runs until it is killed.
    ///
    /// # Errors
    /// When no lab runs.
    pub fn beside(&self, program: &str) -> Result<Command> {
        match &self.reach {
            Reach::Lab { sandbox, .. } => Ok(self.with_environment(sandbox.enter_network("env")?, program)),
            Reach::Here { .. } => Ok(self.with_environment(Command::new("env"), program)),
        }
    }

    /// Runs kubectl; it must succeed.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        check(&mut self.command(args)?)
    }

    /// Runs kubectl; any end is an answer.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_run(&self, args: &[&str]) -> Result<Finished> {
        finish(&mut self.command(args)?)
    }

    /// Gets as JSON: `json(&["get", "pods"])`.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {} printed no JSON", args.join(" ")))
    }

    /// Applies these YAML documents on the server's side; it must succeed.
    ///
    /// # Errors
    /// What the API server or a webhook says.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        check_with_input(&mut self.command(APPLY)?, yaml)
    }

    /// Applies these YAML documents; a refusal is an answer.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn try_apply(&self, yaml: &str) -> Result<Finished> {
        finish_with_input(&mut self.command(APPLY)?, yaml)
    }

    /// Deletes what these YAML documents name, if it is there, and waits until it is gone.
    ///
    /// # Errors
    /// What the API server says.
    pub fn delete(&self, yaml: &str) -> Result<String> {
        check_with_input(&mut self.command(&["delete", "--ignore-not-found", "--wait", "-f", "-"])?, yaml)
    }

    /// Runs a command in a container: `exec("deploy/fortio", "fortio", &["fortio", "version"])`.
    ///
    /// # Errors
    /// When it cannot be started, or the command ends with another code than 0.
    pub fn exec(&self, target: &str, container: &str, args: &[&str]) -> Result<String> {
        self.run(&[&["exec", target, "-c", container, "--"], args].concat())
    }

    /// As [`Kubectl::exec`], with any end of the command as an answer.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_exec(&self, target: &str, container: &str, args: &[&str]) -> Result<Finished> {
        self.try_run(&[&["exec", target, "-c", container, "--"], args].concat())
    }

    /// Waits until a Deployment has all its pods, of the present template, available. On a failure the
    /// error tells what the pods say.
    ///
    /// # Errors
    /// When it is not so in time.
    pub fn rolled_out(&self, workload: &str, limit: Duration) -> Result<()> {
        let limit_argument = format!("--timeout={}s", limit.as_secs());
        let answer = self.try_run(&["rollout", "status", workload, &limit_argument])?;
        if answer.status.success() {
            return Ok(());
        }
        let pods = self.try_run(&["get", "pods", "-o", "wide"])?;
        let events = self.try_run(&["get", "events", "--sort-by=.lastTimestamp"])?;
        bail!("{workload} is not available: {}\n{}\n{}", tail(&answer.all(), 3), pods.all(), tail(&events.all(), 12));
    }

    /// Waits until a look at the cluster holds.
    ///
    /// # Errors
    /// As [`wait::until`].
    pub fn until<T>(&self, what: &str, limit: Duration, mut look: impl FnMut(&Self) -> Result<Seen<T>>) -> Result<T> {
        let start = Instant::now();
        wait::until(what, limit, || look(self))
            .with_context(|| format!("waited {:.1} s", start.elapsed().as_secs_f64()))
    }
}

/// What the names of the lab's images begin with.
pub const IMAGES: &str = "docker.io/lab";

/// As the operator does; a field of ours that someone else changed is taken back.
const APPLY: &[&str] = &["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", "-"];
