//! The operator and its command line, in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    resilience_operator::cli::run(std::env::args_os())
}
