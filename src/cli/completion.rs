//! `completion SHELL`: the script that completes our command line.

use std::{io, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script, to be sourced by the shell.
///
/// For bash: source <(resilience-operator completion bash)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// If standard output cannot be written to.
pub fn run(args: &Args, out: &mut impl io::Write) -> anyhow::Result<ExitCode> {
    let mut command = super::Cli::command();
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
