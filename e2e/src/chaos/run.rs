//! Step after step until the time is over or one fails. In: a lab and a seed. Out: what came of each step.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::faults::{self, Fault};
use super::plan::{self, NAMESPACES, Step};
use super::settle::{Settled, judged, settle};
use super::stage::{SOON, Stage};
use super::summary::{Outcome, Summary};
use super::terms;
use crate::audit::Request;
use crate::lab::Lab;
use crate::replicas;
use crate::report::Report;

/// How much of a seed is played.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The seed.
    pub seed: u64,
    /// The first step.
    pub from: u32,
    /// No step begins later.
    pub time: Duration,
}

/// Containers that ended twice are started again only after 20 s and then 40 s; new pods have no such past.
const RESTARTS: u64 = 2;

/// Plays the steps.
///
/// # Errors
/// When the stage cannot be set or cleared; what a step finds is in the summary.
pub fn run(lab: &Lab, faults: &[&'static Fault], limits: Limits, report: &Report) -> Result<Summary> {
    let Limits { seed, from, time } = limits;
    let stage = Stage::set(lab, plan::wishes(seed, from, faults), report)?;
    let begun = Instant::now();
    let played = play(&stage, faults, limits, report);
    let mut summary = Summary { seed, from, ..Summary::default() };
    match played {
        Ok(steps) => summary.steps = steps,
        Err(error) => summary.at_the_end.push(format!("before the first step: {error:#}")),
    }
    summary.seconds = begun.elapsed().as_secs();
    summary.events = stage.watcher.events();
    summary.in_a_stall = stage.with_log(|writes| terms::judge(writes, stage.since, &stage.stalls()).in_a_stall)?;
    summary.writes = stage.with_log(|writes| ours(writes, stage.since))?;
    summary.judge_memory(time);
    summary.at_the_end.extend(
        summary
            .steps
            .iter()
            .all(|step| step.failure.is_none())
            .then(|| judged(&stage))
            .transpose()?
            .into_iter()
            .flatten(),
    );
    if !summary.passed() {
        let folder = keep(&stage, &summary).unwrap_or_else(|error| format!("nowhere: {error:#}"));
        report.note(&format!("what was there is kept in {folder}"));
        faults::heal(&stage).context("the lab cannot be healed: `cargo lab down`")?;
    }
    report.step("put the operator back", || stage.restore())?;
    Ok(summary)
}

fn ours(writes: &[Request], since: jiff::Timestamp) -> usize {
    writes.iter().filter(|write| write.from >= since && write.pod.is_some() && !write.is_about_leading()).count()
}

fn play(stage: &Stage, faults: &[&'static Fault], limits: Limits, report: &Report) -> Result<Vec<Outcome>> {
    let first = report.step("everything is as wanted", || settle(stage, SOON * 2))?;
    let mut steps = vec![];
    let (begun, mut number) = (Instant::now(), limits.from);
    let mut at_first = Some(first.resident);
    while begun.elapsed() < limits.time {
        let step = plan::step(limits.seed, number, faults);
        let mut outcome = one(stage, &step, report);
        outcome.resident_before = at_first.take();
        let failed = outcome.failure.is_some();
        steps.push(outcome);
        if failed {
            break;
        }
        number += 1;
    }
    Ok(steps)
}

fn one(stage: &Stage, step: &Step, report: &Report) -> Outcome {
    let mut outcome =
        Outcome { number: step.number, fault: step.fault.name, edits: step.edits.len(), ..Outcome::default() };
    let before = stage.with_log(|writes| ours(writes, stage.since)).unwrap_or(0);
    let begun = Instant::now();
    let label = format!("{:>3} {}", step.number, step.fault.name);
    let result = report.step(&label, || {
        let bites = under_fault(stage, step)?;
        outcome.bites = bites;
        outcome.seconds = begun.elapsed().as_secs_f64();
        anyhow::ensure!(bites > 0, "the fault bit nothing, so nothing was shown");
        let settled = settle(stage, step.fault.limit)?;
        fresh(stage)?;
        Ok::<Settled, anyhow::Error>(settled)
    });
    match result {
        Ok(Settled { converged, resident }) => {
            outcome.converged = converged.as_secs_f64();
            outcome.resident = resident;
        }
        Err(error) => {
            report.failed(&label, &error);
            outcome.failure = Some(format!("{error:#}"));
        }
    }
    outcome.writes = stage.with_log(|writes| ours(writes, stage.since)).unwrap_or(before) - before;
    outcome
}

/// The fault, while the user edits.
fn under_fault(stage: &Stage, step: &Step) -> Result<u64> {
    stage.expect(step.edits.len());
    let mut random = fastrand::Rng::with_seed(step.seed);
    std::thread::scope(|scope| {
        let user = scope.spawn(|| stage.edit(&step.edits));
        let bites = (step.fault.play)(stage, &mut random);
        user.join().map_err(|_| anyhow!("the user's thread panicked"))?;
        bites
    })
}

/// New pods for those whose container ended too often.
fn fresh(stage: &Stage) -> Result<()> {
    let pods = replicas::pods(&stage.lab)?;
    let tired = |pod: &&serde_json::Value| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64().is_some_and(|count| count >= RESTARTS)
    };
    let tired: Vec<&str> = pods.iter().filter(tired).filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    if !tired.is_empty() {
        let words: Vec<&str> = ["delete", "pod"].into_iter().chain(tired).collect();
        replicas::system(&stage.lab).run(&words)?;
        replicas::ready(&stage.lab)?;
    }
    Ok(())
}

/// Writes down what was there when a step failed, and gives the folder.
fn keep(stage: &Stage, summary: &Summary) -> Result<String> {
    let number = summary.steps.last().map_or(summary.from, |step| step.number);
    let folder = stage.lab.checkout().logs().join("chaos").join(format!("seed-{}-step-{number}", summary.seed));
    fs::create_dir_all(&folder)?;
    let kubectl = stage.kubectl();
    let kinds = "resiliences,destinationrules,virtualservices,services";
    for namespace in NAMESPACES {
        let words = ["get", kinds, "-n", namespace, "-o", "yaml", "--show-managed-fields"];
        fs::write(folder.join(format!("{namespace}.yaml")), kubectl.try_run(&words)?.all())?;
    }
    let system = replicas::system(&stage.lab);
    fs::write(folder.join("replicas.yaml"), system.try_run(&["get", "pods,leases", "-o", "yaml"])?.all())?;
    for pod in replicas::pods(&stage.lab).unwrap_or_default() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        for (which, more) in [("present", None), ("before", Some("--previous"))] {
            let words: Vec<&str> = ["logs", name].into_iter().chain(more).collect();
            fs::write(folder.join(format!("{name}.{which}.log")), system.try_run(&words)?.all())?;
        }
    }
    let wishes = format!("{:#?}\n", stage.wishes());
    fs::write(folder.join("wishes"), wishes)?;
    fs::write(folder.join("summary.json"), serde_json::to_string_pretty(summary)?)?;
    let log = stage.with_log(|writes| {
        let since = writes.iter().filter(|write| write.from >= stage.since);
        since.map(Request::to_string).collect::<Vec<_>>().join("\n")
    })?;
    fs::write(folder.join("writes.log"), log)?;
    Ok(folder.display().to_string())
}
