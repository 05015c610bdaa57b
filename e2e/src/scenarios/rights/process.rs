//! The operator as a process of the lab, under an account of our choice, with its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde_json::json;

use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::operator;
use crate::report::Report;
use crate::run::{cargo, check};
use crate::sandbox::NODE_ADDRESS;

/// Builds the binary as tests do: after them, cargo only looks.
pub(super) fn build(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    report.step("build the operator as a process", || {
        let mut cargo = cargo(checkout.root());
        cargo.args(["build", "--locked", "--workspace", "--bin", "resilience-operator"]);
        check(&mut cargo).context("the operator does not build")?;
        Ok(checkout.root().join("target/debug/resilience-operator"))
    })
}

/// Ended when it is dropped.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `binary run` with these arguments, as this account of the operator's namespace.
    pub(super) fn start(lab: &Lab, binary: &Path, account: &str, args: &[String]) -> Result<Self> {
        let token = lab.namespace(operator::NAMESPACE).run(&["create", "token", account])?;
        let checkout = lab.checkout();
        let kubeconfig = checkout.state().join(format!("{account}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("https://{NODE_ADDRESS}:6443"),
                "certificate-authority": checkout.state().join("pki/ca.crt")}}],
            "users": [{"name": account, "user": {"token": token.trim()}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": account, "namespace": operator::NAMESPACE}}],
        });
        fs::write(&kubeconfig, config.to_string())
            .with_context(|| format!("{} cannot be written", kubeconfig.display()))?;
        let log = checkout.logs().join(format!("{account}.log"));
        let file = File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = lab.sandbox().enter_network("env")?;
        command.args(["-i", &format!("KUBECONFIG={}", kubeconfig.display())]).arg(binary).arg("run").args(args);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("the operator cannot be started")?;
        Ok(Self { child, log })
    }

    /// All that it said.
    pub(super) fn said(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("{} cannot be read", self.log.display()))
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("the operator cannot be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and that is well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
