//! The command line: one file a subcommand; each reads, calls the library, prints.
//!
//! In: arguments, files, standard input, a cluster. Out: standard output, standard error, an exit code:
//! 0 done, 1 the answer is no, 2 the question could not be answered. Decides nothing: what `render`,
//! `validate`, `diff` and `explain` say is what the operator's own functions say.

pub mod completion;
pub mod crd;
pub mod diff;
pub mod explain;
pub mod import;
pub mod input;
mod io;
pub mod live;
pub mod load;
pub mod log_level;
mod neighbours;
pub mod output;
pub mod render;
pub mod run;
pub mod status;
pub mod top;
pub mod validate;
pub mod verify;
pub mod verify_worker;
pub mod why;
pub mod world;
pub mod yaml;

use std::{ffi::OsString, io::Write as _, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use io::{Io, Paint, Tone};

use crate::{names, validate::Settings};
use world::World;

/// Circuit breaking for a Service, declared once, generated for Istio.
#[derive(Debug, Parser)]
#[command(name = "resilience-operator", version, propagate_version = true)]
struct Cli {
    /// Say more, such as which objects were passed over.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Render(render::Args),
    Validate(validate::Args),
    Diff(diff::Args),
    Explain(explain::Args),
    #[command(visible_alias = "get")]
    Status(status::Args),
    Import(import::Args),
    Top(top::Args),
    Why(why::Args),
    Verify(verify::Args),
    #[command(hide = true)]
    VerifyWorker(verify_worker::Args),
    Load(load::LoadArgs),
    LogLevel(log_level::Args),
    Crd(crd::Args),
    Completion(completion::Args),
}

/// Runs the command line `args`, the program's name first.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way as well, with exit code 0.
            let _closed_pipe = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let mut io = Io::of_process(cli.verbose);
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Load(args) => load::run(args),
        Command::LogLevel(args) => log_level::run(&args, &mut io),
        Command::Render(args) => render::run(&args, &mut io),
        Command::Validate(args) => validate::run(&args, &mut io),
        Command::Diff(args) => diff::run(&args, &mut io),
        Command::Explain(args) => explain::run(&args, &mut io),
        Command::Status(args) => status::run(&args, &mut io),
        Command::Import(args) => import::run(&args, &mut io),
        Command::Top(args) => top::run(&args, &mut io),
        Command::Why(args) => why::run(&args, &mut io),
        Command::Verify(args) => verify::run(&args, &mut io),
        Command::VerifyWorker(args) => verify_worker::run(&args),
        Command::Crd(args) => crd::run(&args, &mut io.out),
        Command::Completion(args) => completion::run(&args, &mut io.out),
    };
    match result.and_then(|code| Ok(io.out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // Whoever closed the pipe, as `head` does, has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            io.error(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// The command line as it is declared: every subcommand with its arguments and their words.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// As `kubectl-resilience` the program is a plugin, and its help speaks of `kubectl resilience`.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let called = args.first().map(PathBuf::from).unwrap_or_default();
    let plugin = called.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("kubectl-"));
    let command = if plugin { command().bin_name("kubectl resilience") } else { command() };
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Which files to read, and how to take what they leave open.
#[derive(Clone, Debug, clap::Args)]
pub struct Files {
    /// A file, a folder with all below it, or - for standard input; YAML or JSON. May be repeated.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    filenames: Vec<PathBuf>,
    /// Where objects without a namespace belong.
    #[arg(short, long, default_value = "default", value_parser = dns_label)]
    namespace: String,
    /// Endpoints of every target, whatever the files say.
    #[arg(long, value_name = "N")]
    endpoints: Option<u32>,
    /// The cluster's domain; a wrong one makes every rule silently dead.
    #[arg(long, default_value = names::DEFAULT_CLUSTER_DOMAIN, value_parser = dns_name)]
    cluster_domain: String,
    /// Istio's root namespace (meshConfig.rootNamespace), whose rules concern every client.
    #[arg(long, default_value = names::DEFAULT_ROOT_NAMESPACE, value_parser = dns_label)]
    istio_root_namespace: String,
}

impl Files {
    fn settings(&self) -> Settings {
        Settings { cluster_domain: self.cluster_domain.clone(), root_namespace: self.istio_root_namespace.clone() }
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// If one of them cannot be read, or if none holds a Resilience.
    fn read(&self, io: &mut Io) -> anyhow::Result<World> {
        read(&self.filenames, &self.namespace, &self.settings(), io)
    }
}

/// Reads files; what names no namespace belongs to `namespace`.
fn read(filenames: &[PathBuf], namespace: &str, settings: &Settings, io: &mut Io) -> anyhow::Result<World> {
    let world = World::new(input::read(filenames, &mut std::io::stdin()), namespace, settings);
    for line in &world.passed_over {
        io.note(&format!("passed over {line}"));
    }
    all_told(&world.unreadable, io)?;
    if world.policies.is_empty() {
        let names: Vec<String> = filenames.iter().map(|path| path.display().to_string()).collect();
        anyhow::bail!("no Resilience in {}", names.join(", "));
    }
    Ok(world)
}

/// Tells every fault; the last one ends the command.
fn all_told(faults: &[String], io: &mut Io) -> anyhow::Result<()> {
    let Some((last, before)) = faults.split_last() else { return Ok(()) };
    for line in before {
        io.error(line);
    }
    anyhow::bail!("{last}")
}

fn dns_label(text: &str) -> Result<String, String> {
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if inner && !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-') {
        Ok(text.to_owned())
    } else {
        Err("at most 63 of a-z, 0-9 and -, with a letter or digit at both ends".to_owned())
    }
}

fn dns_name(text: &str) -> Result<String, String> {
    text.split('.').try_for_each(|part| dns_label(part).map(drop))?;
    // A host of two labels of 63 and `.svc.` must stay below Istio's 255 characters.
    if text.len() <= 122 { Ok(text.to_owned()) } else { Err("at most 122 characters".to_owned()) }
}
