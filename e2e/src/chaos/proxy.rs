//! A proxy between the operator's pods and the API server. In: rules. Out: calls that fail as rules say.
//!
//! ```text
//! operator's pods ── TLS, their own tokens ──> proxy (inside the sandbox) ── TLS ──> API server
//!                                                ^
//!                              rules, counts: a pipe of this process
//! ```
//!
//! The pods are deploy/'s own; two variables of theirs name another address. See docs/adr/0018.

mod lines;
pub mod rules;
pub mod server;
pub mod webhook;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::run::own_program;
use rules::Rule;
use server::{Counts, Order};
use webhook::Verdict;

/// Where it serves for the API server.
pub const PORT: u16 = 7443;

/// Where it serves as a webhook.
pub const WEBHOOK_PORT: u16 = 7444;

/// The hidden subcommand that its process runs.
pub const COMMAND: &str = "chaos-proxy";

/// The proxy, running. It ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Proxy {
    /// Starts it in the lab, without rules.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.sandbox().enter(own_program()?)?;
        command.arg(COMMAND).arg(lab.checkout().state());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the proxy cannot be started")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the proxy has no standard output")?);
        let mut proxy = Self { child, orders, answers };
        proxy.set(Vec::new())?;
        Ok(proxy)
    }

    /// These rules from now on, and no others.
    ///
    /// # Errors
    /// When the proxy has gone.
    pub fn set(&mut self, rules: Vec<Rule>) -> Result<()> {
        self.order(&Order::Rules(rules)).map(drop)
    }

    /// What the webhook says from now on.
    ///
    /// # Errors
    /// When the proxy has gone.
    pub fn webhook(&mut self, verdict: Verdict) -> Result<()> {
        self.order(&Order::Webhook(verdict)).map(drop)
    }

    /// How often each rule has bitten.
    ///
    /// # Errors
    /// When the proxy has gone.
    pub fn counts(&mut self) -> Result<Counts> {
        self.order(&Order::Count)
    }

    /// Puts a question to etcd.
    ///
    /// # Errors
    /// When the proxy has gone.
    pub fn etcd(&mut self, path: &str, question: &str) -> Result<String> {
        let order = Order::Etcd { path: path.to_owned(), question: question.to_owned() };
        Ok(self.order(&order)?.etcd)
    }

    fn order(&mut self, order: &Order) -> Result<Counts> {
        let orders = self.orders.as_mut().context("the proxy has gone")?;
        writeln!(orders, "{}", serde_json::to_string(order)?).context("the proxy has gone")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the proxy ended; its last words are above");
        serde_json::from_str(&line).with_context(|| format!("the proxy says: {line}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its process inside ends with its input; the one here only entered the namespaces.
        self.orders = None;
        let _ = self.child.wait();
    }
}
