//! `validate -f`: every fault of every Resilience in the files, without a cluster.

use std::{io::Write, process::ExitCode};

use serde::Serialize;
use serde_json::json;

use super::{Files, Io, Tone, world::World};
use crate::api::{Warning, schema::Violation};

/// Check Resiliences without a cluster, as strictly as the cluster would and no stricter.
///
/// Runs the rules of the CRD and the operator's own over all files together: Services, other
/// Resiliences, DestinationRules and VirtualServices beside a Resilience count. A target that is
/// not in the files is no fault. Warnings are printed and change nothing else.
///
/// Exit codes: 0 no faults, 1 faults, 2 bad usage or unreadable files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A line for each fault and warning, then the count.
    Text,
    /// One object, for tools.
    Json,
}

/// What is to be said of one Resilience.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    document: usize,
    namespace: String,
    name: String,
    faults: Vec<Violation>,
    warnings: Vec<Warning>,
    #[serde(skip)]
    place: String,
}

/// Prints every fault.
///
/// # Errors
/// If the files cannot be read or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    let world = args.files.read(io)?;
    let reports = reports(&world, &args.files);
    let bad = reports.iter().filter(|report| !report.faults.is_empty()).count();
    match args.output {
        Format::Text => text(&reports, bad, io)?,
        Format::Json => writeln!(io.out, "{:#}", json!({"valid": bad == 0, "resiliences": reports}))?,
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn reports(world: &World, files: &Files) -> Vec<Report> {
    let settings = files.settings();
    let reports = world.policies.iter().map(|policy| {
        let (faults, warnings) = match world.decide(policy, &settings, files.endpoints) {
            Ok(valid) => (Vec::new(), valid.warnings),
            Err(faults) => (faults, Vec::new()),
        };
        Report {
            file: policy.place.file.clone(),
            document: policy.place.document,
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            faults,
            warnings,
            place: policy.place.to_string(),
        }
    });
    reports.collect()
}

fn text(reports: &[Report], bad: usize, io: &mut Io) -> anyhow::Result<()> {
    for report in reports {
        let whose = format!("{}: Resilience {}/{}", report.place, report.namespace, report.name);
        for fault in &report.faults {
            writeln!(io.out, "{}: {whose}: {fault}", io.paint.word(Tone::Error, "error"))?;
        }
        for warning in &report.warnings {
            let word = io.paint.word(Tone::Warning, "warning");
            writeln!(io.out, "{word}: {whose}: {}: {}", warning.code, warning.message)?;
        }
    }
    let count = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let warnings: usize = reports.iter().map(|report| report.warnings.len()).sum();
    let whole = if reports.len() == 1 { "1 Resilience".to_owned() } else { format!("{} Resiliences", reports.len()) };
    let faults: usize = reports.iter().map(|report| report.faults.len()).sum();
    let verdict = match bad {
        0 => io.paint.word(Tone::Good, "no faults"),
        _ => format!("{} in {bad} of them", io.paint.word(Tone::Error, &count(faults, "fault"))),
    };
    writeln!(io.out, "{whole}: {verdict}, {}", count(warnings, "warning"))?;
    Ok(())
}
