//! The operator and its command line, in one binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use resilience_operator::cli;

/// Circuit breaking for a Service, declared once, generated for Istio.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Load(cli::load::LoadArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Load(args) => cli::load::run(args).await,
    }
}
