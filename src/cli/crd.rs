//! `crd`: prints the CRD, from the types that the operator runs with.

use std::{io, process::ExitCode};

use super::{output::Manifests, yaml};
use crate::api::schema;

/// Print the custom resource definition, as crds/resilience.yaml holds it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Manifests,
}

/// Prints it.
///
/// # Errors
/// If standard output cannot be written to.
pub fn run(args: &Args, out: &mut impl io::Write) -> anyhow::Result<ExitCode> {
    let crd = schema::crd_json();
    match args.output {
        Manifests::Yaml => {
            writeln!(out, "# Printed by `resilience-operator crd`. Not edited by hand: a test compares.")?;
            out.write_all(yaml::print(&crd)?.as_bytes())?;
        }
        Manifests::Json => writeln!(out, "{crd:#}")?,
    }
    Ok(ExitCode::SUCCESS)
}
