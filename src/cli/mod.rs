//! The command line: one file a subcommand; each reads, calls the library, prints.

pub mod crd;
pub mod run;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{Parser, Subcommand};

/// Circuit breaking for a Service, declared once, generated for Istio.
#[derive(Debug, Parser)]
#[command(name = "resilience-operator", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Crd(crd::Args),
}

/// Runs the command line `args`, the program's name first.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Cli::parse_from(args).command {
        Command::Run(args) => run::run(args),
        Command::Crd(args) => crd::run(&args, &mut io::stdout()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
