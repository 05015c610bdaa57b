//! `crd`: prints the CRD, from the types that the operator runs with.

use std::{io, process::ExitCode};

use super::yaml;
use crate::api::schema;

/// Print the custom resource definition, as crds/resilience.yaml holds it.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it.
///
/// # Errors
/// If standard output cannot be written to.
pub fn run(Args {}: &Args, out: &mut impl io::Write) -> anyhow::Result<ExitCode> {
    writeln!(out, "# Printed by `resilience-operator crd`. Not edited by hand: a test compares.")?;
    out.write_all(yaml::print(&schema::crd_json())?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
