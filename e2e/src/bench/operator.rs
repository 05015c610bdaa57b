//! `cargo lab bench`: the operator beside the bare writer and its peers, on API servers of its own; no lab need be
//! up. In: this checkout. Out: what was measured, beside what is wanted.
//!
//! ```text
//! tools (built as released) ─> stand (etcd, API server) ─> storm, filled ─> findings
//!                                        contenders ─────────────┘
//! ```
//!
//! It judges nothing: other work on the machine moves every figure. Ratios within a round move least.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::contenders::Contender;
use super::findings::{Found, Machine};
use super::stand::Stand;
use super::tools::Tools;
use super::{envoy, filled, offline, storm};
use crate::checkout::Checkout;
use crate::report::Report;
use crate::run::check;

/// What to measure, and how often.
#[derive(Debug, clap::Args)]
pub struct Comparison {
    /// What to measure; all of it if none is named
    #[arg(long = "scenario", value_enum)]
    scenarios: Vec<Scenario>,
    /// Policies in the cluster
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    policies: u32,
    /// Rounds of a storm, each contender once in each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Who takes part in a storm; all if none is named
    #[arg(long = "contender", value_enum)]
    contenders: Vec<Contender>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Also draw the storms, as SVG
    #[arg(long)]
    picture: Option<PathBuf>,
}

impl Comparison {
    /// Who takes part in a storm, in the order of a round.
    fn contenders(&self) -> Vec<Contender> {
        let all = if self.contenders.is_empty() { &ALL[..] } else { &self.contenders };
        let in_time = |who: &&Contender| **who != Contender::KroDefault || self.policies <= MOST_OF_KRO_DEFAULT;
        all.iter().filter(in_time).copied().collect()
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Policies are there, a contender starts: policies a second, writes, CPU, memory
    Storm,
    /// Policies are changed in what their rules alone carry: writes
    Change,
    /// One policy more, beside none and beside many: time until it is programmed
    One,
    /// What was generated is edited and deleted: time until it is repaired
    Drift,
    /// The operator starts with everything in place: writes, time until it is ready
    Restart,
    /// Likewise with as many objects of others beside: memory
    Memory,
    /// Others change theirs all the time: writes, CPU
    Churn,
    /// `render` from as many files
    Render,
    /// A decision without any call
    Pure,
    /// The binary, and its start on an empty cluster
    Image,
    /// A number of a policy is changed: time until a client's Envoy has it (on the lab, with its operator)
    Envoy,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// Everything, rounds included
    Json,
}

/// kro with its defaults takes minutes for a thousand.
const MOST_OF_KRO_DEFAULT: u32 = 1_000;

/// Everybody, in the order of a round.
const ALL: [Contender; 6] =
    [Contender::Floor, Contender::Ours, Contender::Go, Contender::Textbook, Contender::KroTuned, Contender::KroDefault];

/// Policies that are created one by one, in each block.
const SINGLE: u32 = 100;
/// Blocks of each.
const BLOCKS: u32 = 3;
/// Edits, and deletions.
const SPOILT: u32 = 200;
/// Changes of policies until an Envoy has them.
const TO_ENVOY: u32 = 100;
/// Seconds of others' changes.
const CHURN: u32 = 60;

/// Measures what is asked for.
///
/// # Errors
/// When something does not build or start, or a contender does another job than the others.
pub fn run(checkout: &Checkout, bench: &Comparison) -> Result<()> {
    let report = Report::new();
    let wanted = |scenario| bench.scenarios.is_empty() || bench.scenarios.contains(&scenario);
    let contenders = if wanted(Scenario::Storm) { bench.contenders() } else { Vec::new() };
    let tools = Tools::get(checkout, &contenders, &report)?;
    let folder = tempfile::tempdir()?;
    let mut found = Found { machine: machine(&tools)?, ..Found::default() };
    let with_template = [
        Scenario::Storm,
        Scenario::One,
        Scenario::Change,
        Scenario::Drift,
        Scenario::Restart,
        Scenario::Memory,
        Scenario::Churn,
    ];
    let template = folder.path().join("template");
    if with_template.into_iter().any(wanted) {
        report.step("learn what is written for one policy", || storm::learn(checkout, &tools, &template))?;
    }
    for number in 1..=bench.rounds {
        for who in &contenders {
            let what = format!("storm {number}, {} policies, {}", bench.policies, who.name());
            let round = || storm::round(checkout, &tools, &template, *who, bench.policies);
            found.storms.push(report.step(&what, round)?);
        }
    }
    if wanted(Scenario::Image) || wanted(Scenario::One) {
        let stand = Stand::start(checkout, &tools)?;
        if wanted(Scenario::Image) {
            found.image = Some(report.step("start on an empty cluster", || offline::image(&stand, &tools))?);
        }
        if wanted(Scenario::One) {
            storm::fill(&stand, &tools, 0, Contender::Ours)?;
            let one = || filled::one(&stand, &tools, &template, 0, SINGLE, BLOCKS);
            found.ones.push(report.step("one policy at a time", one)?);
        }
    }
    let on_filled =
        [Scenario::Change, Scenario::One, Scenario::Drift, Scenario::Restart, Scenario::Memory, Scenario::Churn];
    if on_filled.into_iter().any(wanted) {
        on_a_filled_stand(checkout, &tools, bench, &template, &report, &mut found)?;
    }
    if wanted(Scenario::Render) {
        found.render = Some(report.step("render from files", || offline::render(&tools, bench.policies))?);
    }
    if wanted(Scenario::Pure) {
        found.pure = report.step("decide", || offline::pure(checkout, &tools))?;
    }
    if wanted(Scenario::Envoy) {
        found.to_envoy = Some(envoy::measure(checkout, &tools, TO_ENVOY, &report)?);
    }
    if let Some(file) = &bench.picture {
        fs::write(file, found.picture()).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    match bench.output {
        Output::Table => println!("{}", found.table()),
        Output::Json => println!("{:#}", json!({"measured": found, "findings": found.findings()})),
    }
    Ok(())
}

fn on_a_filled_stand(
    checkout: &Checkout,
    tools: &Tools,
    bench: &Comparison,
    template: &std::path::Path,
    report: &Report,
    found: &mut Found,
) -> Result<()> {
    let wanted = |scenario| bench.scenarios.is_empty() || bench.scenarios.contains(&scenario);
    let mut there = bench.policies;
    let stand = Stand::start(checkout, tools)?;
    report.step(&format!("fill a cluster with {there} policies"), || {
        storm::fill(&stand, tools, there, Contender::Ours)?;
        storm::run(&stand, tools, template, Contender::Ours, there)
    })?;
    if wanted(Scenario::Change) {
        let change = || filled::change(&stand, tools, there, SPOILT.min(there));
        found.changes = Some(report.step("change policies", change)?);
    }
    if wanted(Scenario::Drift) {
        found.drift = Some(report.step("spoil what was generated", || filled::drift(&stand, tools, there, SPOILT))?);
    }
    if wanted(Scenario::One) {
        let one = || filled::one(&stand, tools, template, there, SINGLE, BLOCKS);
        found.ones.push(report.step("one policy at a time, beside all", one)?);
        there += 2 * SINGLE * BLOCKS;
    }
    if wanted(Scenario::Restart) {
        for _ in 0..bench.rounds {
            found.restarts.push(report.step("restart", || filled::restart(&stand, tools, there))?);
        }
    }
    if wanted(Scenario::Memory) || wanted(Scenario::Churn) {
        report.step("add objects of others", || filled::add_others(&stand, tools, bench.policies.max(2)))?;
    }
    if wanted(Scenario::Memory) {
        found.memory = Some(report.step("restart beside them", || filled::restart(&stand, tools, there))?);
    }
    if wanted(Scenario::Churn) {
        found.churn = Some(report.step("others change theirs", || filled::churn(&stand, tools, there, CHURN))?);
    }
    Ok(())
}

fn machine(tools: &Tools) -> Result<Machine> {
    let kubernetes = check(Command::new(tools.parts.bin("kubernetes", "kube-apiserver")?).arg("--version"))?;
    let cores = std::thread::available_parallelism()?.get();
    Ok(Machine { cores, kubernetes: kubernetes.trim().to_owned() })
}
