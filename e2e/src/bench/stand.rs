//! In: the lab's etcd and API server. Out: the two of them as plain processes on the loopback interface, with Istio's
//! CRDs and what `deploy/` brings, empty otherwise. No node, no controllers: what is written there is ours.
//!
//! Fresh for each round, in a folder of its own: an etcd that has seen another contender's objects is not the same.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::counts::Counts;
use super::process::Process;
use super::tools::Tools;
use crate::checkout::Checkout;
use crate::operator;
use crate::run::{check, check_with_input, finish, tail};
use crate::wait::{self, Seen};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// At rest is who asked nothing for so long.
const REST: Duration = Duration::from_secs(2);

/// An API server and its etcd.
#[derive(Debug)]
pub struct Stand {
    // In this order they end.
    api: Process,
    etcd: Process,
    folder: TempDir,
    kubectl: PathBuf,
}

impl Stand {
    /// Starts them, and puts there what a cluster with Istio and our operator has.
    ///
    /// # Errors
    /// When one of them does not get ready.
    pub fn start(checkout: &Checkout, tools: &Tools) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        crate::pki::write(folder.path())?;
        let [client, peer, secure] = [free_port()?, free_port()?, free_port()?];
        let pki = folder.path().join("pki");
        let mut etcd = Command::new(tools.parts.bin("etcd", "etcd")?);
        etcd.env_clear().arg("--data-dir").arg(folder.path().join("etcd"));
        let (clients, peers) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        etcd.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        // As in the lab: what a shared disk does is not what is measured.
        etcd.args(["--initial-cluster", &format!("default={peers}"), "--unsafe-no-fsync", "--log-level=warn"]);
        etcd.args(["--quota-backend-bytes=8589934592"]);
        let etcd = Process::start("etcd", folder.path(), &mut etcd)?;
        let mut api = Command::new(tools.parts.bin("kubernetes", "kube-apiserver")?);
        api.env_clear().args(api_server(&clients, secure, &pki));
        let api = Process::start("kube-apiserver", folder.path(), &mut api)?;
        let user =
            format!("{{client-certificate: '{0}/kubeconfig.crt', client-key: '{0}/kubeconfig.key'}}", pki.display());
        let server = format!("https://127.0.0.1:{secure}");
        let ca = pki.join("ca.crt");
        fs::write(folder.path().join("admin.kubeconfig"), kubeconfig(&server, &ca, &user))?;
        let mut stand = Self { api, etcd, folder, kubectl: tools.parts.bin("kubernetes", "kubectl")? };
        wait::until("the API server is ready", PATIENCE, || {
            stand.etcd.lives()?;
            stand.api.lives()?;
            let answer = finish(&mut stand.kubectl(&["get", "--raw", "/readyz"]))?;
            Ok(if answer.stdout == "ok" { Seen::Done(()) } else { Seen::NotYet(tail(&answer.all(), 2)) })
        })?;
        stand.furnish(checkout, tools, &server, &ca)?;
        Ok(stand)
    }

    fn furnish(&self, checkout: &Checkout, tools: &Tools, server: &str, ca: &Path) -> Result<()> {
        let apply = ["apply", "--server-side", "-f"];
        check(self.kubectl(&apply).arg(tools.parts.istio_file("crds.yaml")))?;
        let deploy = checkout.root().join("deploy").display().to_string();
        check(&mut self.kubectl(&["apply", "--server-side", "-k", &deploy]))?;
        check(&mut self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]))?;
        let words = ["create", "token", operator::ACCOUNT, "-n", operator::NAMESPACE, "--duration=12h"];
        let token = check(&mut self.kubectl(&words))?;
        let user = format!("{{token: '{}'}}", token.trim());
        fs::write(self.kubeconfig(), kubeconfig(server, ca, &user)).context("the kubeconfig cannot be written")
    }

    /// What is kept of this stand, logs included, as long as it stands.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The way of the operator's own account, with the rights that it is shipped with.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("operator.kubeconfig")
    }

    /// The administrator's way.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// A kubectl command of the administrator.
    #[must_use]
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.admin()).env("NO_PROXY", "*").args(args);
        command
    }

    /// Applies documents as the administrator.
    ///
    /// # Errors
    /// What the API server says.
    pub fn apply(&self, documents: &str) -> Result<()> {
        check_with_input(&mut self.kubectl(&["apply", "--server-side", "-f", "-"]), documents).map(drop)
    }

    /// As [`Stand::apply`], also where somebody else has the fields.
    ///
    /// # Errors
    /// What the API server says.
    pub fn apply_as_author(&self, documents: &str) -> Result<()> {
        let words = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        check_with_input(&mut self.kubectl(&words), documents).map(drop)
    }

    /// What the API server was asked since it began.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn counts(&self) -> Result<Counts> {
        Ok(Counts::read(&check(&mut self.kubectl(&["get", "--raw", "/metrics"]))?))
    }

    /// Waits until nothing is written any more, and gives what was asked by then.
    ///
    /// # Errors
    /// When that does not come.
    pub fn at_rest(&self) -> Result<Counts> {
        let mut last = (self.counts()?, Instant::now());
        wait::until("nothing is written any more", PATIENCE, || {
            let now = self.counts()?;
            if (now.writes(), now.events()) != (last.0.writes(), last.0.events()) {
                last = (now, Instant::now());
            }
            Ok(if last.1.elapsed() >= REST { Seen::Done(()) } else { Seen::NotYet(format!("{:?}", last.0)) })
        })?;
        Ok(last.0)
    }

    /// Seconds of CPU of the API server and of etcd.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn cpu(&self) -> Result<[f64; 2]> {
        Ok([self.api.usage()?.cpu_seconds, self.etcd.usage()?.cpu_seconds])
    }

    /// How many objects a collection has.
    ///
    /// # Errors
    /// What the API server says.
    pub fn number(&self, collection: &str) -> Result<u64> {
        let text = check(&mut self.kubectl(&["get", "--raw", &format!("{collection}?limit=1")]))?;
        let page: Value = serde_json::from_str(&text)?;
        let here = u64::from(page["items"].as_array().is_some_and(|items| !items.is_empty()));
        Ok(here + page.pointer("/metadata/remainingItemCount").and_then(Value::as_u64).unwrap_or_default())
    }

    /// An object.
    ///
    /// # Errors
    /// What the API server says.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&check(&mut self.kubectl(&["get", "--raw", path]))?)?)
    }
}

/// Free a moment ago; whoever takes it meanwhile makes the start fail.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn api_server(etcd: &str, port: u16, pki: &Path) -> Vec<String> {
    let pki = pki.display();
    let line = format!(
        "--etcd-servers={etcd} --secure-port={port} --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
         --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/12 --client-ca-file={pki}/ca.crt \
         --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key \
         --service-account-issuer=https://kubernetes.default.svc --service-account-key-file={pki}/service-accounts.pub \
         --service-account-signing-key-file={pki}/service-accounts.key --authorization-mode=RBAC"
    );
    line.split_whitespace().map(str::to_owned).collect()
}

fn kubeconfig(server: &str, ca: &Path, user: &str) -> String {
    let namespace = operator::NAMESPACE;
    format!(
        "apiVersion: v1
kind: Config
current-context: bench
clusters:
- name: bench
  cluster: {{server: '{server}', certificate-authority: '{}'}}
users:
- name: bench
  user: {user}
contexts:
- name: bench
  context: {{cluster: bench, user: bench, namespace: {namespace}}}
",
        ca.display()
    )
}
