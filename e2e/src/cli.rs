//! In: the words after `cargo lab`. Out: an exit code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::checkout::Checkout;
use crate::cluster::DAEMONS;
use crate::doctor::{self, Finding};
use crate::lab::{Lab, Options};
use crate::report::Report;
use crate::sandbox;
use crate::{
    bench, chaos, current, demo, first_hour, guards, images, measured, operator, release, scenarios, suite, supply,
    workloads,
};

/// A real Kubernetes node with real Istio, in namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start the lab, building what is missing; nothing is done twice
    Up(Up),
    /// End the lab and leave nothing of it
    Down,
    /// What runs, and what does not
    Status,
    /// Our kubectl, as administrator of the lab: `cargo lab kubectl -- get pods -A`
    Kubectl(Words),
    /// Any command inside the lab, with KUBECONFIG set: `cargo lab exec -- bash`
    Exec(Words),
    /// What a component wrote
    Logs(Logs),
    /// Whether this machine can run the lab, and what to do if not
    Doctor,
    /// The main job as a story: a policy is declared, the breaker trips, and heals
    Demo {
        /// Also draw it, as SVG
        #[arg(long)]
        picture: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        on: current::Choice,
    },
    /// Write the images that the demo and the scenarios run, as `docker load` takes them, for another cluster
    Images {
        /// A folder for them
        folder: PathBuf,
    },
    /// What the shipped binary is made of, as a list in JSON for other tools
    Sbom,
    /// The documentation as a book, in target/book
    Book,
    /// Everything that a tag publishes, made here and not uploaded: archives, image, chart, manifests, sums
    Release(release::Wanted),
    /// The README and the tutorial, word for word, on a fresh clone with a lab of its own
    FirstHour(first_hour::Wanted),
    /// Everything that can be wrong: format, lints, unit tests, then scenarios on a lab; of another cluster what can be
    /// played there
    Test {
        /// Where
        #[command(flatten)]
        on: current::Choice,
    },
    /// Run scenarios by name, or list them
    Scenario {
        /// The scenarios to run, in this order
        names: Vec<String>,
        /// Where
        #[command(flatten)]
        on: current::Choice,
    },
    /// Judge what is claimed of Istio itself, on this lab; operator or not
    Measured {
        /// Numbers or families: `M27`, `retries`; all if none is named
        names: Vec<String>,
        /// Only list them
        #[arg(long)]
        list: bool,
    },
    /// Take each guard of the operator out of a copy of the tree, and see its tests fall; a build for each
    Guards {
        /// Only guards whose names contain this
        #[arg(default_value = "")]
        only: String,
    },
    /// The operator under faults drawn from a seed, while a watcher looks for what must never be
    Chaos(chaos::Chaos),
    /// Compare figures that a test must not judge; no lab need be up
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        /// What else to compare
        #[command(subcommand)]
        what: Option<Benchmark>,
        /// The operator beside the bare writer and its peers
        #[command(flatten)]
        operator: bench::operator::Comparison,
    },
    /// The proxy of chaos runs
    #[command(name = chaos::proxy::COMMAND, hide = true)]
    ChaosProxy {
        /// The folder of the lab's state
        state: PathBuf,
    },
    /// The lab's own process 1
    #[command(name = sandbox::INIT_COMMAND, hide = true)]
    SandboxInit {
        /// The checkout's id: what the process is found by
        id: String,
        /// The folder of the lab's state
        state: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Our load generator beside fortio and oha: requests per second of its own CPU, and percentiles
    Load {
        /// Each generator in turn, so many times
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
        rounds: u8,
        /// How long each of them runs, each time
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
        seconds: u32,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// Leave our operator out
    #[arg(long)]
    without_operator: bool,
    /// Only etcd, API server, controllers and CRDs: ready in seconds, without a node
    #[arg(long)]
    control_plane: bool,
}

#[derive(Debug, Args)]
struct Words {
    /// The command's words; `--` before them is optional
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Logs {
    /// A daemon (kubelet, containerd, …), or istiod, coredns, httpbin, fortio, operator
    component: String,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
}

/// Parses the command line and does what it says.
///
/// # Errors
/// What the task says.
pub fn main() -> Result<ExitCode> {
    let task = Cli::parse().command;
    if needs_a_lab(&task) {
        doctor::possible()?;
    }
    match task {
        Task::SandboxInit { state, .. } => sandbox::init::main(&state).map(|()| ExitCode::SUCCESS),
        Task::Up(up) => start(&up),
        Task::Down => {
            let checkout = Checkout::find()?;
            Lab::down(&checkout)?;
            eprintln!("no lab in {}", checkout.root().display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Status => status(),
        Task::Kubectl(words) => replace(Lab::attach()?.inside("kubectl")?.args(words.words)),
        Task::Exec(words) => exec(&words.words),
        Task::Logs(logs) => show_logs(&logs),
        Task::Doctor => examine(),
        Task::Demo { picture, on } => tell(picture.as_deref(), &on),
        Task::Images { folder } => {
            for (name, file) in images::write(&Checkout::find()?, &folder, &Report::new())? {
                println!("{name}  {}", file.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Sbom => {
            let list = supply::sbom(&Checkout::find()?, &supply::here(), None, &Report::new())?;
            println!("{}", list.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Book => {
            println!("{}", supply::book(&Checkout::find()?, &Report::new())?.join("index.html").display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Release(wanted) => release::run(&Checkout::find()?, &wanted).map(|()| ExitCode::SUCCESS),
        Task::FirstHour(wanted) => first_hour::run(&Checkout::find()?, &wanted).map(|()| ExitCode::SUCCESS),
        Task::Test { on } if on.is_elsewhere() => {
            let all: Vec<String> = scenarios::ANYWHERE.iter().map(|&name| name.to_owned()).collect();
            play(&all, &on)
        }
        Task::Test { .. } => suite::run(&Checkout::find()?),
        Task::Measured { list: true, .. } => {
            measured::list();
            Ok(ExitCode::SUCCESS)
        }
        Task::Measured { names, list: false } => measured::run(&Checkout::find()?, &names),
        Task::Guards { only } => guards::run(&Checkout::find()?, &only).map(|()| ExitCode::SUCCESS),
        Task::Chaos(chaos) => chaos::main(&chaos),
        Task::ChaosProxy { state } => chaos::proxy::server::main(&state).map(|()| ExitCode::SUCCESS),
        Task::Bench { what: Some(Benchmark::Load { rounds, seconds }), .. } => {
            bench::load(&Checkout::find()?, rounds.into(), seconds).map(|()| ExitCode::SUCCESS)
        }
        Task::Bench { what: None, operator } => {
            bench::operator::run(&Checkout::find()?, &operator).map(|()| ExitCode::SUCCESS)
        }
        Task::Scenario { names, on } => play(&names, &on),
    }
}

fn tell(picture: Option<&Path>, on: &current::Choice) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    if !on.is_elsewhere() {
        return demo::run(&checkout, picture).map(|()| ExitCode::SUCCESS);
    }
    let current = on.agreed("the demo")?;
    demo::run(&checkout.elsewhere(current.kubectl().clone()), picture).map(|()| ExitCode::SUCCESS)
}

fn play(names: &[String], on: &current::Choice) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    if !on.is_elsewhere() {
        return scenarios::run(&checkout, names);
    }
    if names.is_empty() {
        show(&(scenarios::ANYWHERE.join("\n") + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    current::may_be_played(names.iter().map(String::as_str), scenarios::ANYWHERE)?;
    let current = on.agreed("each scenario")?;
    scenarios::run(&checkout.elsewhere(current.kubectl().clone()), names)
}

/// What is refused at once where no lab can be.
fn needs_a_lab(task: &Task) -> bool {
    match task {
        Task::Doctor | Task::Release(_) | Task::Images { .. } => false,
        Task::Demo { on, .. } | Task::Scenario { on, .. } | Task::Test { on } => !on.is_elsewhere(),
        _ => true,
    }
}

fn start(up: &Up) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    let report = Report::new();
    let options = Options { operator: !up.without_operator && !up.control_plane, control_plane: up.control_plane };
    let (_, started) = Lab::up(&checkout, options, &report)?;
    let how = if started { "is up" } else { "was up already" };
    report.note(&format!("the lab {how} after {}; `cargo lab kubectl -- get pods -A` looks around", report.elapsed()));
    Ok(ExitCode::SUCCESS)
}

fn status() -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    let Ok(lab) = Lab::attach_to(&checkout) else {
        let half = sandbox::Sandbox::of(&checkout).running()?.is_some();
        show(if half {
            "half a lab: an `up` is under way or was killed; `cargo lab up` or `down` clears it\n"
        } else {
            "down\n"
        })?;
        return Ok(ExitCode::FAILURE);
    };
    let mut text = if lab.is_control_plane() { "up, a control plane without a node\n" } else { "up\n" }.to_owned();
    let mut whole = true;
    for (name, pid) in lab.daemons()? {
        whole &= pid.is_some();
        let pid = pid.map_or_else(|| format!("ended: see `cargo lab logs {name}`"), |pid| format!("process {pid}"));
        writeln!(text, "  {name:<24} {pid}")?;
    }
    if !lab.is_control_plane() {
        text += &lab.kubectl().try_run(&["get", "pods", "-A"])?.all();
    }
    show(&text)?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints; a reader that has seen enough (`| head`) is no failure.
fn show(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("nothing can be printed"),
        _ => Ok(()),
    }
}

fn exec(words: &[OsString]) -> Result<ExitCode> {
    let (program, args) = words.split_first().context("no command was given")?;
    let program = program.to_str().context("the command's name is no text")?;
    replace(Lab::attach()?.inside(program)?.args(args))
}

/// Becomes the command: its streams, signals and exit code are then the caller's own.
fn replace(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("`{}` cannot be started", crate::run::line(command)))
}

fn show_logs(logs: &Logs) -> Result<ExitCode> {
    let name = logs.component.as_str();
    let follow = if logs.follow { "--follow=true" } else { "--follow=false" };
    let pod = match name {
        "istiod" => Some(("istio-system", "deploy/istiod", "discovery")),
        "coredns" => Some(("kube-system", "deploy/coredns", "coredns")),
        "httpbin" | "fortio" => {
            Some((workloads::NAMESPACE, if name == "httpbin" { "deploy/httpbin" } else { "deploy/fortio" }, name))
        }
        "operator" => {
            let lab = Lab::attach()?;
            let args = [
                "logs",
                follow,
                "--all-containers",
                "--prefix",
                "-l",
                "app.kubernetes.io/name=resilience-operator",
                "--tail=-1",
            ];
            return replace(&mut lab.namespace(operator::NAMESPACE).command(&args)?);
        }
        _ => None,
    };
    if let Some((namespace, target, container)) = pod {
        return replace(&mut Lab::attach()?.namespace(namespace).command(&["logs", follow, target, "-c", container])?);
    }
    if name != "sandbox" && !DAEMONS.iter().any(|(daemon, _)| *daemon == name) {
        let daemons: Vec<&str> = DAEMONS.iter().map(|(daemon, _)| *daemon).collect();
        bail!(
            "no component is called {name}; there are {}, sandbox, istiod, coredns, httpbin, fortio, operator",
            daemons.join(", ")
        );
    }
    let path = Checkout::find()?.logs().join(format!("{name}.log"));
    if logs.follow {
        return replace(Command::new("tail").args(["-n", "+1", "-F"]).arg(&path));
    }
    print!(
        "{}",
        fs::read_to_string(&path).with_context(|| format!("{name} has written nothing yet ({})", path.display()))?
    );
    Ok(ExitCode::SUCCESS)
}

fn examine() -> Result<ExitCode> {
    let mut fit = true;
    let mut text = String::new();
    for (name, finding) in doctor::examine(&Checkout::find()?) {
        let (mark, words) = match finding {
            Finding::Works(words) => ("ok     ", words),
            Finding::Unknown(words) => ("unknown", words),
            Finding::Missing(words) => {
                fit = false;
                ("MISSING", words)
            }
        };
        writeln!(text, "  {mark}  {name:<14} {words}")?;
    }
    text += if fit { "this machine can run the lab\n" } else { "this machine cannot run the lab yet\n" };
    show(&text)?;
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fences;

    #[test]
    fn every_command_of_the_lab_on_a_page_is_one_that_it_takes() {
        let checkout = Checkout::find().unwrap();
        let (mut faults, mut count) = (Vec::new(), 0);
        for page in fences::pages(checkout.root()) {
            let text = fs::read_to_string(&page).unwrap();
            for fences::Command { line, words } in fences::commands(&text, &["cargo lab"]) {
                count += 1;
                let words = words[1..].iter().map(|word| fences::filled(word));
                let fault = match Cli::try_parse_from(words).map(|cli| cli.command) {
                    Ok(Task::Scenario { names, .. }) => {
                        let known = |name: &String| {
                            let mut all = scenarios::ON_THE_LAB.iter().chain(scenarios::OF_THE_LAB);
                            name == "name" || all.any(|scenario| scenario.name == name)
                        };
                        let unknown = names.into_iter().find(|name| !known(name));
                        unknown.map(|name| format!("no scenario is called {name}"))
                    }
                    Ok(_) => None,
                    Err(error) => Some(error.to_string()),
                };
                faults.extend(fault.map(|fault| format!("{}:{line}: {fault}", page.display())));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(count > 30, "only {count} commands were found");
    }
}
