//! Who does the same job: our operator, the floor below it, and its peers.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::process::Process;
use super::stand::{Stand, free_port};
use super::tools::Tools;
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
}

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

impl Contender {
    /// How it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "bare writer",
            Self::Ours => "resilience-operator",
            Self::Textbook => "textbook kube-rs",
            Self::Go => "controller-runtime, tuned",
        }
    }

    /// What must be on the stand before it starts.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub fn prepare(self, stand: &Stand) -> Result<()> {
        match self {
            Self::Floor | Self::Ours => Ok(()),
            // The account is the operator's for all; the peers need more than it may, so they may do all.
            Self::Textbook | Self::Go => stand.apply(PEERS),
        }
    }

    /// Starts it. `template`: what the bare writer writes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self, stand: &Stand, tools: &Tools, template: Option<&std::path::Path>) -> Result<Process> {
        let mut command = match self {
            Self::Floor => {
                let mut command = Command::new(&tools.client);
                command
                    .arg("floor")
                    .args(template.into_iter().flat_map(|file| ["--template".as_ref(), file.as_os_str()]));
                command
            }
            Self::Ours => return Ok(Operator::start(stand, tools)?.process),
            Self::Textbook => {
                let mut command = Command::new(&tools.client);
                command.arg("textbook");
                command
            }
            Self::Go => Command::new(&tools.go_peer),
        };
        command.env("KUBECONFIG", stand.kubeconfig()).env("NO_PROXY", "*");
        let name = format!("{self:?}").to_lowercase();
        Process::start(&name, stand.folder(), &mut command)
    }
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

/// The peers run under the operator's account, and read single objects as well, which it may not.
const PEERS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-peers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects:
- {kind: ServiceAccount, name: resilience-operator, namespace: resilience-system}
";
