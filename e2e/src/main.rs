//! `lab`: parses the command line, calls the library, maps the result to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match resilience_lab::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
