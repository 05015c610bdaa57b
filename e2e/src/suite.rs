//! `cargo lab test`: everything that can be wrong, in the order in which it is cheap to learn. In: a
//! checkout. Out: an exit code, and minutes per stage.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::lab::{Lab, Options};
use crate::measured;
use crate::release;
use crate::report::{Report, seconds};
use crate::run;
use crate::scenarios::{self, Scenario};
use crate::supply;

/// So many checks on the lab may pass at a second try only. They drive real load through a real node, on a
/// machine that may be busy with something else, and there are some two hundred: one that is late once is no
/// proof of a fault. It is told at the end all the same, and more than a few are one.
const SECOND_TRIES: usize = 3;

/// One stage: its name, how long it took, how many of its parts passed and failed.
struct Stage {
    name: &'static str,
    took: std::time::Duration,
    passed: usize,
    failed: usize,
}

/// Runs all stages. One that fails ends the run before the lab is started; scenarios all run.
///
/// # Errors
/// When the lab cannot be started or ended.
pub fn run(checkout: &Checkout) -> Result<ExitCode> {
    let report = Report::new().with_second_tries(SECOND_TRIES);
    let mut stages = Vec::new();
    for (name, args) in CARGO {
        let stage = timed(name, &report, || cargo(checkout, args));
        let broken = stage.failed > 0;
        stages.push(stage);
        if broken {
            return Ok(conclude(&report, &stages));
        }
    }
    let supplied = timed("supply", &report, || {
        let mut failed = 0;
        let mut judge = |what: &str, judged: Result<()>| {
            if let Err(error) = judged {
                report.failed(what, &error);
                failed += 1;
            }
        };
        judge("licences, bans and sources", supply::deny(checkout, &report));
        judge("list of what is shipped", supply::sbom(checkout, &supply::here(), None, &report).map(drop));
        judge("release", release::judge(checkout, &report));
        (3 - failed, failed)
    });
    report.note("advisories are not asked for here: `cargo deny check advisories` needs the way to their repository");
    stages.push(supplied);
    stages.push(timed("book", &report, || match supply::book(checkout, &report) {
        Ok(_) => (1, 0),
        Err(error) => {
            report.failed("the documentation as a book", &error);
            (0, 1)
        }
    }));
    let options = Options { operator: true, control_plane: false };
    let begun = Instant::now();
    let (lab, started) = match Lab::up(checkout, options, &report) {
        Ok(up) => up,
        Err(error) => {
            report.failed("the lab does not start", &error);
            stages.push(Stage { name: "lab", took: begun.elapsed(), passed: 0, failed: 1 });
            return Ok(conclude(&report, &stages));
        }
    };
    stages.push(Stage { name: "lab", took: begun.elapsed(), passed: 1, failed: 0 });
    stages.push(play(checkout, &report, "scenarios", scenarios::ON_THE_LAB));
    stages.push(timed("measured", &report, || {
        measured::judge(checkout, &report, &[]).unwrap_or_else(|error| {
            report.failed("measured", &error);
            (0, 1)
        })
    }));
    drop(lab);
    if started {
        let begun = Instant::now();
        let gone = report.step("end the lab", || Lab::down(checkout)).inspect_err(|error| report.failed("down", error));
        stages.push(Stage {
            name: "down",
            took: begun.elapsed(),
            passed: usize::from(gone.is_ok()),
            failed: usize::from(gone.is_err()),
        });
    } else {
        report.note("the lab was up before and stays up");
    }
    stages.push(play(checkout, &report, "labs beside it", scenarios::OF_THE_LAB));
    Ok(conclude(&report, &stages))
}

/// What cargo judges.
const CARGO: &[(&str, &[&str])] = &[
    ("format", &["fmt", "--all", "--check"]),
    ("clippy", &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]),
    // What only the lab runs is no target of all targets.
    ("clippy, judged", &["clippy", "--workspace", "--test=judged", "--locked", "--quiet", "--", "-D", "warnings"]),
    ("tests", &["test", "--workspace", "--locked", "--quiet"]),
];

fn cargo(checkout: &Checkout, args: &[&str]) -> (usize, usize) {
    let passed = run::cargo(checkout.root()).args(args).status().is_ok_and(|status| status.success());
    (usize::from(passed), usize::from(!passed))
}

fn timed(name: &'static str, report: &Report, work: impl FnOnce() -> (usize, usize)) -> Stage {
    report.note(&format!("{name}:"));
    let begun = Instant::now();
    let (passed, failed) = work();
    Stage { name, took: begun.elapsed(), passed, failed }
}

fn play(checkout: &Checkout, report: &Report, name: &'static str, scenarios: &[Scenario]) -> Stage {
    timed(name, report, || {
        let mut failed = 0;
        for scenario in scenarios {
            if !report.check(scenario.name, scenario.name, || (scenario.run)(checkout)) {
                failed += 1;
            }
        }
        (scenarios.len() - failed, failed)
    })
}

fn conclude(report: &Report, stages: &[Stage]) -> ExitCode {
    let unsteady = report.unsteady();
    for check in &unsteady {
        println!("unsteady: {check}");
    }
    for failure in report.failures() {
        println!("failed: {failure}");
    }
    println!("{:<16} {:>14} {:>7} {:>7}", "stage", "took", "passed", "failed");
    for stage in stages {
        println!("{:<16} {:>14} {:>7} {:>7}", stage.name, seconds(stage.took), stage.passed, stage.failed);
    }
    let (passed, failed) =
        stages.iter().fold((0, 0), |(passed, failed), stage| (passed + stage.passed, failed + stage.failed));
    println!("all {:>27}", report.elapsed());
    let second = if unsteady.is_empty() {
        String::new()
    } else {
        format!("; {} of those that passed did at a second try", unsteady.len())
    };
    println!("{passed} passed, {failed} failed{second}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
