//! The operator and its command line, in one binary.

use std::process::ExitCode;

/// The same for every C library that a binary is linked with (ADR 30).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    resilience_operator::cli::run(std::env::args_os())
}
