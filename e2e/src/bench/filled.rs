//! A cluster that has its policies already: restart, memory, others' changes, one more policy, drift.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::contenders::{Contender, Operator};
use super::fixtures;
use super::process::{Process, Usage};
use super::stand::Stand;
use super::storm;
use super::tools::Tools;
use crate::run::check;

/// A start with everything in place.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    /// From the start of the process until it was ready.
    pub ready_seconds: f64,
    /// Three raw lists of the same objects.
    pub lists_seconds: f64,
    /// What it wrote after having looked at every policy.
    pub writes: u64,
    /// Events that it wrote.
    pub events: u64,
    /// What it held then.
    pub usage: Usage,
}

impl Restart {
    /// How many times three raw lists.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ready_seconds / self.lists_seconds
    }
}

/// Starts the operator, and waits until it has looked at everything.
///
/// # Errors
/// When it does not get so far.
pub fn restart(stand: &Stand, tools: &Tools, policies: u32) -> Result<Restart> {
    let lists: Value = serde_json::from_str(&check(storm::client(stand, tools).arg("lists"))?)?;
    let before = stand.at_rest()?;
    let begun = Instant::now();
    let mut operator = Operator::start(stand, tools)?;
    let ready = operator.ready(begun)?;
    operator.looked_at(policies)?;
    let calls = stand.at_rest()?.since(&before);
    Ok(Restart {
        ready_seconds: ready.as_secs_f64(),
        lists_seconds: lists["seconds"].as_f64().context("the lists tell no time")?,
        writes: calls.writes(),
        events: calls.events(),
        usage: operator.process.usage()?,
    })
}

/// Puts as many rules and routes of others there.
///
/// # Errors
/// When the API server refuses one.
pub fn add_others(stand: &Stand, tools: &Tools, count: u32) -> Result<()> {
    let file = fixtures::write_lines(&stand.folder().join("others"), fixtures::others(count))?;
    storm::seed(stand, tools, &file)
}

/// Others change their objects.
#[derive(Debug, Clone, Serialize)]
pub struct Churn {
    /// Their changes a second.
    pub rate: f64,
    /// What the operator wrote meanwhile.
    pub writes: u64,
    /// Of a core, what it used.
    pub core: f64,
}

/// Fifty changes a second.
///
/// # Errors
/// When the API server refuses one, or the operator ends.
pub fn churn(stand: &Stand, tools: &Tools, policies: u32, seconds: u32) -> Result<Churn> {
    let mut operator = Operator::start(stand, tools)?;
    operator.ready(Instant::now())?;
    operator.looked_at(policies)?;
    let before = stand.at_rest()?;
    let cpu = operator.process.usage()?.cpu_seconds;
    let mut command = storm::client(stand, tools);
    command.args(["churn", "--rate", "50", "--seconds", &seconds.to_string()]);
    let done: Value = serde_json::from_str(&check(&mut command)?)?;
    let used = operator.process.usage()?.cpu_seconds - cpu;
    let took = done["seconds"].as_f64().context("the churn tells no time")?;
    let made = done["writes"].as_u64().context("the churn tells no number")?;
    let writes = stand.at_rest()?.since(&before).writes();
    ensure!(writes >= made, "of {made} changes the API server counts {writes}");
    let rate = u32::try_from(made).map(f64::from)? / took;
    Ok(Churn { rate, writes: writes - made, core: used / took })
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
}

impl Percentiles {
    /// As the bench's client prints them.
    ///
    /// # Errors
    /// When one is not there.
    pub fn read(report: &Value) -> Result<Self> {
        let at = |key: &str| report[key].as_f64().with_context(|| format!("no {key} in {report}"));
        Ok(Self { p50: at("p50_ms")?, p90: at("p90_ms")?, p99: at("p99_ms")? })
    }
}

/// One policy more, by the bare writer and by the operator; each block of them in turn.
#[derive(Debug, Clone, Serialize)]
pub struct One {
    /// Policies that were there before.
    pub beside: u32,
    /// A block each.
    pub floor: Vec<Percentiles>,
    /// A block each.
    pub ours: Vec<Percentiles>,
}

/// Creates `count` policies each, in each of the blocks.
///
/// # Errors
/// When one is not programmed in time.
pub fn one(stand: &Stand, tools: &Tools, template: &Path, beside: u32, count: u32, blocks: u32) -> Result<One> {
    let mut found = One { beside, floor: Vec::new(), ours: Vec::new() };
    let mut next = beside;
    for _ in 0..blocks {
        for who in [Contender::Floor, Contender::Ours] {
            let numbers = next..next + count;
            next += count;
            let services = numbers.clone().map(fixtures::service);
            storm::seed(stand, tools, &fixtures::write_lines(&stand.folder().join("services"), services)?)?;
            let policies =
                fixtures::write_lines(&stand.folder().join("policies"), numbers.clone().map(fixtures::policy))?;
            let mut command = storm::client(stand, tools);
            command.arg("one").arg(&policies);
            let _operator = if who == Contender::Ours {
                Some(at_work(stand, tools, numbers.start)?)
            } else {
                command.arg("--template").arg(template);
                None
            };
            stand.at_rest()?;
            let report = Percentiles::read(&serde_json::from_str(&check(&mut command)?)?)?;
            if who == Contender::Ours { &mut found.ours } else { &mut found.floor }.push(report);
        }
    }
    Ok(found)
}

fn at_work(stand: &Stand, tools: &Tools, policies: u32) -> Result<Process> {
    let mut operator = Operator::start(stand, tools)?;
    operator.ready(Instant::now())?;
    operator.looked_at(policies)?;
    Ok(operator.process)
}

/// From the event of a foreign edit or deletion to that of its repair.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// Of a rule that was edited.
    pub edits: Percentiles,
    /// Of routes that were deleted.
    pub deletions: Percentiles,
}

/// Spoils what was generated, one object after the other.
///
/// # Errors
/// When one is not repaired in time.
pub fn drift(stand: &Stand, tools: &Tools, policies: u32, count: u32) -> Result<Drift> {
    let _operator = at_work(stand, tools, policies)?;
    stand.at_rest()?;
    let mut command: Command = storm::client(stand, tools);
    let report: Value = serde_json::from_str(&check(command.args(["drift", "--count", &count.to_string()]))?)?;
    Ok(Drift { edits: Percentiles::read(&report["edits"])?, deletions: Percentiles::read(&report["deletions"])? })
}

/// Writes for one change that concerns a rule alone, of every policy.
#[derive(Debug, Clone, Serialize)]
pub struct Changes {
    /// Policies that were changed.
    pub policies: u32,
    /// What the operator wrote.
    pub writes: u64,
    /// Events that it wrote.
    pub events: u64,
}

/// Changes a number of each of the first policies, which only their rules carry.
///
/// # Errors
/// When the API server refuses it, or the operator ends.
pub fn change(stand: &Stand, tools: &Tools, policies: u32, count: u32) -> Result<Changes> {
    let _operator = at_work(stand, tools, policies)?;
    let before = stand.at_rest()?;
    let documents: Vec<String> = (0..count)
        .map(|number| {
            let mut policy = fixtures::policy(number);
            policy["spec"]["ejection"]["consecutive5xx"] = 9.into();
            policy.to_string()
        })
        .collect();
    stand.apply_as_author(&documents.join("\n---\n"))?;
    let calls = stand.at_rest()?.since(&before);
    let made = u64::from(count);
    ensure!(calls.writes() >= made, "of {made} changes the API server counts {}", calls.writes());
    Ok(Changes { policies: count, writes: calls.writes() - made, events: calls.events() })
}
