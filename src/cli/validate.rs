//! `validate -f`: every fault of every Resilience in the files, without a cluster.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Files, Io, Paint, Tone,
    output::{Output, count},
    world::World,
};
use crate::report::{Fault, WarningLine};

/// Check Resiliences without a cluster, as strictly as the cluster would and no stricter.
///
/// Runs the rules of the CRD and the operator's own over all files together: Services, other
/// Resiliences, Sidecars, DestinationRules and VirtualServices beside a Resilience count. A target that is
/// not in the files is no fault. Warnings are printed and change nothing else.
///
/// Exit codes: 0 no faults, 1 faults, 2 bad usage or unreadable files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// All that is printed.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether there are no faults: exit code 0.
    pub valid: bool,
    /// In the order of the files.
    pub resiliences: Vec<FileReport>,
}

/// What is to be said of one Resilience.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileReport {
    /// The file, or -.
    pub file: String,
    /// Its number in the file, from 1.
    pub document: usize,
    /// Namespace of the policy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Every fault, by path.
    pub faults: Vec<Fault>,
    /// What is legal but will surprise.
    pub warnings: Vec<WarningLine>,
    #[serde(skip)]
    place: String,
}

/// Prints every fault.
///
/// # Errors
/// If the files cannot be read or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    let world = args.files.read(io)?;
    let report = report(&world, &args.files);
    let paint = io.paint;
    let text = args.output.text(&report, |report| text(report, paint))?;
    io.out.write_all(text.as_bytes())?;
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(world: &World, files: &Files) -> Report {
    let resiliences = world.policies.iter().map(|policy| {
        let (faults, warnings) = match world.decide(policy, files.endpoints) {
            Ok(valid) => (Vec::new(), valid.warnings),
            Err(faults) => (faults, Vec::new()),
        };
        FileReport {
            file: policy.place.file.clone(),
            document: policy.place.document,
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            faults: faults.iter().map(Fault::from).collect(),
            warnings: warnings.iter().map(WarningLine::from).collect(),
            place: policy.place.to_string(),
        }
    });
    let resiliences: Vec<FileReport> = resiliences.collect();
    Report { valid: resiliences.iter().all(|report| report.faults.is_empty()), resiliences }
}

/// For people. Writing to a String cannot fail.
fn text(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    let reports = &report.resiliences;
    for report in reports {
        let whose = format!("{}: Resilience {}/{}", report.place, report.namespace, report.name);
        for fault in &report.faults {
            let _ = writeln!(text, "{}: {whose}: {fault}", paint.word(Tone::Error, "error"));
        }
        for warning in &report.warnings {
            let word = paint.word(Tone::Warning, "warning");
            let _ = writeln!(text, "{word}: {whose}: {}: {}", warning.code, warning.message);
        }
    }
    let warnings: usize = reports.iter().map(|report| report.warnings.len()).sum();
    let whole = if reports.len() == 1 { "1 Resilience".to_owned() } else { format!("{} Resiliences", reports.len()) };
    let faults: usize = reports.iter().map(|report| report.faults.len()).sum();
    let bad = reports.iter().filter(|report| !report.faults.is_empty()).count();
    let verdict = match bad {
        0 => paint.word(Tone::Good, "no faults"),
        _ => format!("{} in {bad} of them", paint.word(Tone::Error, &count(faults, "fault"))),
    };
    let _ = writeln!(text, "{whole}: {verdict}, {}", count(warnings, "warning"));
    text
}
