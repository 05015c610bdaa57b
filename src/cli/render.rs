//! `render -f`: what the operator would generate, printed and not applied.

use std::{io::Write, process::ExitCode};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Files, Io, output::Manifests, yaml};
use crate::translate::translate;

/// Print the Istio objects that the operator would generate.
///
/// Nothing is read but the files: give the Services too where timeouts.request or retries need
/// their ports, and EndpointSlices (or --endpoints) where ejection.maxPercent follows the number of
/// endpoints. What cannot be known is refused by name, never guessed; if one Resilience is refused,
/// nothing is printed. Warnings go to standard error.
///
/// Exit codes: 0 done, 1 a Resilience is refused, 2 bad usage or unreadable files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Manifests,
}

/// Prints what would be generated.
///
/// # Errors
/// If the files cannot be read or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    let world = args.files.read(io)?;
    let mut objects = Vec::new();
    let mut refused = false;
    for policy in world.repeated() {
        refused = true;
        io.error(&format!(
            "{}: Resilience {}/{} is in the files twice: keep one of the two",
            policy.place, policy.namespace, policy.name
        ));
    }
    let verdicts = world.policies.par_iter().map(|policy| {
        let valid = world.decide(policy, args.files.endpoints)?;
        if valid.unknowns.is_empty() { Ok((translate(&valid).objects(), valid.warnings)) } else { Err(valid.unknowns) }
    });
    let verdicts: Vec<_> = verdicts.collect();
    for (policy, verdict) in world.policies.iter().zip(verdicts) {
        let whose = format!("{}: Resilience {}/{}", policy.place, policy.namespace, policy.name);
        match verdict {
            Ok((generated, warnings)) => {
                for warning in &warnings {
                    io.warning(&format!("{whose}: {}: {}", warning.code, warning.message));
                }
                objects.extend(generated.into_iter().map(|object| object.json));
            }
            Err(faults) => {
                refused = true;
                for fault in faults {
                    io.error(&format!("{whose}: {fault}"));
                }
            }
        }
    }
    if refused {
        return Ok(ExitCode::FAILURE);
    }
    print(args.output, &objects, io)?;
    Ok(ExitCode::SUCCESS)
}

fn print(format: Manifests, objects: &[Value], io: &mut Io) -> anyhow::Result<()> {
    match format {
        Manifests::Yaml => {
            let texts: Vec<_> = objects.par_iter().map(yaml::print).collect();
            for (index, text) in texts.into_iter().enumerate() {
                if index > 0 {
                    writeln!(io.out, "---")?;
                }
                io.out.write_all(text?.as_bytes())?;
            }
        }
        Manifests::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            writeln!(io.out, "{list:#}")?;
        }
    }
    Ok(())
}
