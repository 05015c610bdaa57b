//! Who does the same job: our operator, the floor below it, and its peers.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::process::Process;
use super::stand::{Stand, free_port};
use super::tools::{Kro, Tools};
use crate::run::check;
use crate::wait::{self, Seen};

/// One that writes rules and routes for policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Writes and does nothing else: nobody is faster.
    Floor,
    /// Our operator.
    Ours,
    /// What a kube-rs tutorial ends with.
    Textbook,
    /// controller-runtime, with all that makes it fast.
    Go,
    /// kro as it comes.
    KroDefault,
    /// kro with workers and without limits.
    KroTuned,
}

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// kro serves its own kind, made from this.
const KRO_GRAPH: &str = include_str!("kro.yaml");

impl Contender {
    /// How it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "bare writer",
            Self::Ours => "resilience-operator",
            Self::Textbook => "textbook kube-rs",
            Self::Go => "controller-runtime, tuned",
            Self::KroDefault => "kro, defaults",
            Self::KroTuned => "kro, tuned",
        }
    }

    /// Whether its policies are instances of kro's kind.
    #[must_use]
    pub const fn is_kro(self) -> bool {
        matches!(self, Self::KroDefault | Self::KroTuned)
    }

    /// What the gauge looks for: the kind, and the condition that it sets last.
    #[must_use]
    pub const fn goal(self) -> [&'static str; 2] {
        if self.is_kro() {
            ["kro.run/v1alpha1/Breaker/breakers", "Ready"]
        } else {
            ["resilience.dev/v1alpha1/Resilience/resiliences", "Programmed"]
        }
    }

    /// What must be on the stand before it starts.
    ///
    /// # Errors
    /// When the API server does not take it, or kro does not make its kind of it in time.
    pub fn prepare(self, stand: &Stand, tools: &Tools) -> Result<()> {
        if matches!(self, Self::Floor | Self::Ours) {
            return Ok(());
        }
        // The account is the operator's for all; the peers need more than it may, so they may do all.
        stand.apply(PEERS)?;
        if !self.is_kro() {
            return Ok(());
        }
        let crds = kro(tools)?.crds.display().to_string();
        check(&mut stand.kubectl(&["apply", "--server-side", "-f", &crds]))?;
        check(&mut stand.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]))?;
        stand.apply(KRO_GRAPH)?;
        // The kind comes from kro itself, so it runs until there is one, and starts anew for the round.
        let mut kro = self.start(stand, tools, None)?;
        wait::until("kro has made its kind", PATIENCE, || {
            kro.lives()?;
            let words = ["get", "resourcegraphdefinition", "breaker", "-o", "jsonpath={.status.state}"];
            let state = check(&mut stand.kubectl(&words))?;
            Ok(if state == "Active" { Seen::Done(()) } else { Seen::NotYet(format!("{state}: {}", kro.last_words())) })
        })
    }

    /// Whether it writes what the operator does, byte for byte, and not only the same specs.
    #[must_use]
    pub const fn writes_the_same(self) -> bool {
        matches!(self, Self::Floor | Self::Ours | Self::Go)
    }

    /// Starts it. `template`: what the operator writes, for those who are given it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self, stand: &Stand, tools: &Tools, template: Option<&std::path::Path>) -> Result<Process> {
        let template = template.into_iter().flat_map(|file| ["--template".as_ref(), file.as_os_str()]);
        let mut command = match self {
            Self::Floor => {
                let mut command = Command::new(&tools.client);
                command.arg("floor").args(template);
                command
            }
            Self::Ours => return Ok(Operator::start(stand, tools)?.process),
            Self::Textbook => {
                let mut command = Command::new(&tools.client);
                command.arg("textbook");
                command
            }
            Self::Go => {
                let mut command = Command::new(tools.go_peer.as_ref().context("the operator in Go was not built")?);
                command.args(template);
                command
            }
            Self::KroDefault | Self::KroTuned => {
                let mut command = Command::new(&kro(tools)?.controller);
                let [metrics, probe] = [free_port()?, free_port()?];
                command.arg(format!("--metrics-bind-address=127.0.0.1:{metrics}"));
                command.arg(format!("--health-probe-bind-address=127.0.0.1:{probe}"));
                if self == Self::KroTuned {
                    command.args(KRO_TUNED);
                }
                command
            }
        };
        command.env("KUBECONFIG", stand.kubeconfig()).env("NO_PROXY", "*");
        let name = format!("{self:?}").to_lowercase();
        Process::start(&name, stand.folder(), &mut command)
    }
}

fn kro(tools: &Tools) -> Result<&Kro> {
    tools.kro.as_ref().context("kro was not built")
}

/// Our operator, and where it tells how it is.
#[derive(Debug)]
pub struct Operator {
    /// Its process.
    pub process: Process,
    port: u16,
}

impl Operator {
    /// Starts it. Nobody else could lead, and no istiod is there to be asked.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(stand: &Stand, tools: &Tools) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(&tools.operator);
        command.args(["run", "--leader-elect=false", "--istiod-address=", "--log-level=warn"]);
        command.arg(format!("--admin-address=127.0.0.1:{port}"));
        command.env("KUBECONFIG", stand.kubeconfig()).env("NO_PROXY", "*");
        Ok(Self { process: Process::start("operator", stand.folder(), &mut command)?, port })
    }

    /// Waits until it is ready, and tells how long it took from `since`. Looks every millisecond: what is waited for
    /// may take a few.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub fn ready(&mut self, since: Instant) -> Result<Duration> {
        while since.elapsed() < PATIENCE {
            self.process.lives()?;
            if self.ask("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(since.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("the operator is not ready: {}", self.ask("/readyz").unwrap_or_default())
    }

    /// Waits until it has looked at so many policies since it began.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn looked_at(&self, policies: u32) -> Result<()> {
        wait::until("every policy was looked at", PATIENCE, || {
            let text = self.ask("/metrics").unwrap_or_default();
            let counted = text.lines().filter_map(|line| {
                line.strip_prefix("resilience_operator_reconciles_total{")?.rsplit_once(' ')?.1.parse::<u32>().ok()
            });
            let counted: u32 = counted.sum();
            Ok(if counted >= policies { Seen::Done(()) } else { Seen::NotYet(format!("{counted} reconciles")) })
        })
    }

    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// As many workers as the others have, and none of the limits.
const KRO_TUNED: [&str; 5] = [
    "--dynamic-controller-concurrent-reconciles=16",
    "--client-qps=100000",
    "--client-burst=100000",
    "--dynamic-controller-rate-limiter-rate-limit=100000",
    "--dynamic-controller-rate-limiter-burst-limit=100000",
];

/// The peers run under the operator's account, and need more than it may: get, update, CRDs.
const PEERS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-peers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects:
- {kind: ServiceAccount, name: resilience-operator, namespace: resilience-system}
";
