//! Policies that are there already when a contender starts: how fast they are all programmed, and what it costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::contenders::Contender;
use super::counts::Counts;
use super::fixtures;
use super::process::{Process, Usage};
use super::stand::Stand;
use super::tools::Tools;
use crate::checkout::Checkout;
use crate::run::check;

/// What one round of one contender gave.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Who.
    pub contender: Contender,
    /// How many policies.
    pub policies: u32,
    /// From its start until the last one was programmed.
    pub seconds: f64,
    /// Likewise until the first one was.
    pub first_after: f64,
    /// Seconds of CPU of the API server, until it was at rest.
    pub api_cpu_seconds: f64,
    /// Seconds of CPU of etcd.
    pub etcd_cpu_seconds: f64,
    /// What the contender itself used.
    pub usage: Usage,
    /// What it asked.
    pub calls: Counts,
}

impl Round {
    /// Policies a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        f64::from(self.policies) / self.seconds
    }

    /// Of a number in all, that for each policy.
    #[must_use]
    pub fn each(&self, number: u64) -> f64 {
        u32::try_from(number).map_or(f64::INFINITY, f64::from) / f64::from(self.policies)
    }
}

/// What the bare writer is to write, from what the operator of this checkout writes for one policy.
///
/// # Errors
/// When the operator does not program it.
pub fn learn(checkout: &Checkout, tools: &Tools, to: &Path) -> Result<PathBuf> {
    let stand = Stand::start(checkout, tools)?;
    fill(&stand, tools, 1, Contender::Ours)?;
    let mut gauge = gauge(&stand, tools, 1, Contender::Ours)?;
    let _operator = Contender::Ours.start(&stand, tools, None)?;
    gauge.line()?;
    let [rule, routes, policy] = fixtures::paths(0);
    let made = [stand.get(&rule)?, stand.get(&routes)?, stand.get(&policy)?];
    fs::write(to, fixtures::template(0, &made).to_string())?;
    Ok(to.to_owned())
}

/// One round on a stand of its own.
///
/// # Errors
/// When the contender does not program all policies, or not as the others do.
pub fn round(checkout: &Checkout, tools: &Tools, template: &Path, who: Contender, policies: u32) -> Result<Round> {
    let stand = Stand::start(checkout, tools)?;
    if who != Contender::Ours {
        who.prepare(&stand, tools)?;
    }
    fill(&stand, tools, policies, who)?;
    run(&stand, tools, template, who, policies)
}

/// Puts policies and their Services there.
///
/// # Errors
/// When the API server refuses one.
pub fn fill(stand: &Stand, tools: &Tools, policies: u32, who: Contender) -> Result<()> {
    stand.apply(&fixtures::namespaces())?;
    let all = (0..policies).map(fixtures::service);
    seed(stand, tools, &fixtures::write_lines(&stand.folder().join("services"), all)?)?;
    let policy = if who.is_kro() { fixtures::kro_instance } else { fixtures::policy };
    seed(stand, tools, &fixtures::write_lines(&stand.folder().join("policies"), (0..policies).map(policy))?)
}

/// Creates the objects of a file.
///
/// # Errors
/// When the API server refuses one.
pub fn seed(stand: &Stand, tools: &Tools, file: &Path) -> Result<()> {
    check(client(stand, tools).arg("seed").arg(file)).map(drop)
}

/// The bench's client, as the administrator.
#[must_use]
pub fn client(stand: &Stand, tools: &Tools) -> Command {
    let mut command = Command::new(&tools.client);
    command.env("KUBECONFIG", stand.admin()).env("NO_PROXY", "*");
    command
}

fn gauge(stand: &Stand, tools: &Tools, policies: u32, who: Contender) -> Result<Process> {
    let [kind, condition] = who.goal();
    let mut command = client(stand, tools);
    command.args(["gauge", "--kind", kind, "--condition", condition, "--count", &policies.to_string()]);
    let mut gauge = Process::talking("gauge", stand.folder(), &mut command)?;
    gauge.line().context("the gauge does not see the policies")?;
    Ok(gauge)
}

/// Starts the contender on a stand that is filled, and waits until it is through.
///
/// # Errors
/// When the contender does not program all policies, or not as the others do.
pub fn run(stand: &Stand, tools: &Tools, template: &Path, who: Contender, policies: u32) -> Result<Round> {
    let mut gauge = gauge(stand, tools, policies, who)?;
    let (calls, [api, etcd], begun) = (stand.counts()?, stand.cpu()?, now());
    let process = who.start(stand, tools, Some(template))?;
    let seen = gauge.line().with_context(|| format!("{} said last: {}", who.name(), process.last_words()))?;
    let after = |key: &str| seen[key].as_f64().map(|at| at - begun).context("the gauge tells no time");
    let (seconds, first_after) = (after("last")?, after("first")?);
    let calls = stand.at_rest()?.since(&calls);
    let [api_after, etcd_after] = stand.cpu()?;
    let usage = process.usage()?;
    same(stand, policies, template, who).with_context(|| format!("{} does another job", who.name()))?;
    Ok(Round {
        contender: who,
        policies,
        seconds,
        first_after,
        api_cpu_seconds: api_after - api,
        etcd_cpu_seconds: etcd_after - etcd,
        usage,
        calls,
    })
}

/// Whoever is compared has written as many objects, and the same; some of them to the byte, but for times.
fn same(stand: &Stand, policies: u32, template: &Path, who: Contender) -> Result<()> {
    for plural in ["destinationrules", "virtualservices"] {
        let number = stand.number(&format!("/apis/networking.istio.io/v1/{plural}"))?;
        ensure!(number == u64::from(policies), "{number} {plural} for {policies} policies");
    }
    let template: Value = serde_json::from_str(&fs::read_to_string(template)?)?;
    let last = policies - 1;
    let mut compared = vec![("rule", vec!["/spec"]), ("routes", vec!["/spec"])];
    if who.writes_the_same() {
        for (_, parts) in &mut compared {
            parts.extend(["/metadata/labels", "/metadata/annotations", "/metadata/ownerReferences"]);
        }
        compared.push(("status", vec!["/status"]));
    }
    let paths = fixtures::paths(last);
    let policy = if who.writes_the_same() { stand.get(&paths[2])? } else { Value::Null };
    let uid = policy.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    for (path, (key, parts)) in paths.iter().zip(compared) {
        let wanted = fixtures::filled(template[key].as_str().unwrap_or_default(), last, uid);
        let (wanted, there) = (serde_json::from_str(&wanted)?, stand.get(path)?);
        for part in parts {
            let [wanted, there] = [&wanted, &there].map(|object| comparable(object, part));
            ensure!(there == wanted, "{path}, {part} is {there}, not {wanted}");
        }
    }
    Ok(())
}

/// A part of an object, without when its conditions changed.
fn comparable(object: &Value, part: &str) -> Value {
    let mut object = object.pointer(part).cloned().unwrap_or_default();
    let conditions = object.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
    for condition in conditions.filter_map(Value::as_object_mut) {
        condition.remove("lastTransitionTime");
    }
    object
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
