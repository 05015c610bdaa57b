//! `cargo lab chaos`: the operator under faults drawn from a seed, while a user goes on editing and a watcher looks for what
//! must never be.
//!
//! ```text
//! seed ─> plan ─> step: edits ─┐
//!                  └─> fault ──┴─> settle: actual = desired, at rest, nothing foreign touched
//!                                        watcher, terms: never two rules, an orphan, a false claim, a second writer
//! ```
//!
//! See docs/chaos.md.

mod daemons;
pub mod faults;
mod invariants;
mod plan;
mod proof;
pub mod proxy;
mod run;
mod settle;
mod stage;
mod summary;
mod terms;
mod watcher;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::checkout::Checkout;
use crate::cluster::CONTAINERD_SOCKET;
use crate::lab::Lab;
use crate::operator;
use crate::report::Report;
use crate::run::check;
use faults::{FAULTS, Fault};

pub use proof::guards_see;

/// What a run is to be.
#[derive(Debug, Clone, clap::Args)]
pub struct Chaos {
    /// What everything is drawn from: the same seed draws the same steps
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No step begins after so many minutes
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only these faults; may be repeated, and belongs to what the seed draws
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<String>,
    /// Begin with this step of the seed, from 0
    #[arg(long, default_value_t = 0, value_name = "STEP")]
    from: u32,
    /// Also roll out the operator as it was at this commit, and the present one again
    #[arg(long, value_name = "REV")]
    previous: Option<String>,
    /// List the faults, with their numbers in docs/faults.md
    #[arg(long)]
    list: bool,
    /// How to print what came of it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Runs, or lists.
///
/// # Errors
/// When there is no lab, or no such fault; what the run finds is an exit code.
pub fn main(chaos: &Chaos) -> Result<ExitCode> {
    if chaos.list {
        for fault in FAULTS {
            println!("{:<48} {}", fault.name, fault.covers.join(" "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&chaos.faults, chaos.previous.is_some())?;
    let lab = Lab::attach()?;
    let report = Report::new();
    if let Some(revision) = &chaos.previous {
        let tar = operator::build_previous(lab.checkout(), revision, &report)?;
        let mut import = lab.inside("ctr")?;
        import.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import", "--local"]).arg(tar);
        check(&mut import).context("containerd does not take the earlier operator")?;
    }
    let limits = run::Limits { seed: chaos.seed, from: chaos.from, time: Duration::from_mins(chaos.minutes) };
    let summary = run::run(&lab, &chosen, limits, &report)?;
    match chaos.output {
        Output::Table => println!("{}", summary.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&summary)?),
    }
    if !summary.passed() {
        let faults: Vec<String> = chaos.faults.iter().map(|name| format!(" --fault {name}")).collect();
        let step = summary.steps.last().map_or(chaos.from, |step| step.number);
        let previous = chaos.previous.iter().map(|revision| format!(" --previous {revision}"));
        let more: String = faults.into_iter().chain(previous).collect();
        let again = format!("cargo lab chaos --seed {} --from {step}{more}", chaos.seed);
        report.note(&format!("again from where it failed: {again}"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(names: &[String], previous: bool) -> Result<Vec<&'static Fault>> {
    if names.is_empty() {
        return Ok(FAULTS.iter().filter(|fault| previous || fault.name != faults::DOWNGRADE).collect());
    }
    ensure!(
        previous || !names.iter().any(|name| name == faults::DOWNGRADE),
        "{} needs --previous REV",
        faults::DOWNGRADE
    );
    let find = |name: &String| match FAULTS.iter().find(|fault| fault.name == *name) {
        Some(fault) => Ok(fault),
        None => bail!("no fault is called {name}; `cargo lab chaos --list` lists them"),
    };
    names.iter().map(find).collect()
}

/// The scenario of `cargo lab test`: the quick faults, each once.
///
/// # Errors
/// What the run finds.
pub fn quick(checkout: &Checkout) -> Result<()> {
    let faults: Vec<&'static Fault> = FAULTS.iter().filter(|fault| fault.quick).collect();
    let lab = Lab::attach_to(checkout)?;
    let limits = run::Limits { seed: 1, from: 0, time: Duration::from_secs(100) };
    let summary = run::run(&lab, &faults, limits, &Report::new())?;
    println!("{}", summary.table());
    match summary.failure() {
        Some(failure) => bail!("{failure}"),
        None => Ok(()),
    }
}
