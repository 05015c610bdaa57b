//! `import`: policies from the DestinationRules and VirtualServices that there are.

mod adopt;

use std::{collections::BTreeSet, io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Io, all_told, input,
    live::{Chosen, Connection, Live, block_on},
    output::{Manifests, count},
    world::{Beyond, World},
    yaml,
};
use crate::{
    api::{Resilience, TargetKind, TargetRef},
    controller::world::Policy,
    import::{Fate, Imported, SourceFate, Sources, import},
    istio::{Existing, Kind},
    observed::Observed,
    validate::Settings,
};

/// Turn existing DestinationRules and VirtualServices into Resiliences that do the same.
///
/// Reads one namespace of the cluster with your own rights or, with -f, files: give the Services and
/// ServiceEntries too, whose ports are needed. For each host it looks for the policy whose generated objects
/// mean the same to Istio as what is there, hidden defaults included, and prints it for `kubectl apply`. What
/// has no counterpart goes to standard error, by path, with what to do; what a policy would change is not
/// imported. Where a rule must stay, for subsets or tls, the policy shares it (coexistence: Merge).
///
/// With --adopt it hands the objects over: says what it will do, asks, and writes in an order in which each
/// moment has the old policy in full or the new one in full. Run it again if it was interrupted.
///
/// Exit codes: 0 all is imported, 1 something stays where it is, 2 the question could not be answered or the
/// hand-over not be ended (bad usage, unreadable files, no cluster, no permission, somebody else's object).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, a folder with all below it, or - for standard input; YAML or JSON. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_hint = clap::ValueHint::AnyPath)]
    filenames: Vec<PathBuf>,
    /// Hand the live objects over to the policies.
    #[arg(long, conflicts_with = "filenames")]
    adopt: bool,
    /// Do not ask before writing.
    #[arg(short, long, requires = "adopt")]
    yes: bool,
    #[command(flatten)]
    cluster: Connection,
    /// yaml: the policies; json: the whole answer, whose fields docs/output.md names.
    #[arg(short, long, value_enum, default_value_t)]
    output: Manifests,
}

/// All that is printed with `-o json`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether all is imported and nothing stays: exit code 0.
    pub whole: bool,
    /// Host by host.
    pub hosts: Vec<Imported>,
}

/// Prints what can be imported, and hands it over if asked to.
///
/// # Errors
/// If files or the cluster cannot be read, a hand-over cannot be ended, or standard output be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    if !args.filenames.is_empty() {
        let (namespace, settings) = args.cluster.offline();
        let world = World::new(input::read(&args.filenames, &mut std::io::stdin()), &namespace, &settings);
        for line in &world.passed_over {
            io.note(&format!("passed over {line}"));
        }
        all_told(&world.unreadable, io)?;
        return print(args, &of_files(&world, &settings), io);
    }
    block_on(async {
        let chosen = args.cluster.choose().await?;
        let live = match read(&chosen).await {
            Ok(live) => live,
            Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
        };
        for note in live.notes.iter().chain(&live.unread) {
            io.warning(note);
        }
        let hosts = of_cluster(&live, &chosen.namespace, &chosen.settings);
        let report = Report { whole: hosts.iter().all(Imported::is_whole), hosts };
        if !args.adopt {
            return print(args, &report, io);
        }
        tell(&report, io);
        let plan = match adopt::plan(&live, &chosen.namespace, &report.hosts, &chosen.settings) {
            Ok(plan) => plan,
            Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
        };
        let lines = plan.lines();
        if lines.is_empty() {
            anyhow::bail!("there is nothing to hand over in namespace {}", chosen.namespace);
        }
        for line in lines {
            writeln!(io.out, "{line}")?;
        }
        if !args.yes && !io.agreed()? {
            anyhow::bail!("nothing was written");
        }
        plan.run(&chosen, io).await?;
        Ok(if report.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

async fn read(chosen: &Chosen) -> Result<Live, Vec<String>> {
    chosen.reader.read(&BTreeSet::from([chosen.namespace.clone()]), None, &chosen.settings).await
}

/// What files hold, namespace by namespace.
#[must_use]
pub fn of_files(world: &World, settings: &Settings) -> Report {
    let observe = |policy: &Resilience| world.observe(policy, Beyond::Unknown);
    let mut hosts = Vec::new();
    for namespace in world.namespaces_of_rules() {
        let policies = world.policies.iter().filter(|policy| policy.namespace == namespace);
        let sources = Sources {
            objects: world.rules_within(&namespace),
            targets: world.targets_within(&namespace),
            policies: policies.filter_map(|policy| policy.object.as_ref().ok()).collect(),
            observe: &observe,
        };
        hosts.extend(import(&namespace, &sources, settings));
    }
    Report { whole: hosts.iter().all(Imported::is_whole), hosts }
}

fn of_cluster(live: &Live, namespace: &str, settings: &Settings) -> Vec<Imported> {
    let world = &live.world;
    let observe = |policy: &Resilience| -> Observed { live.observe(policy) };
    let policies = world.policies.within(namespace);
    let targets = |kind: TargetKind| {
        let cache = if kind == TargetKind::Service { &world.services } else { &world.entries };
        let found = cache.within(namespace).into_iter();
        found.map(move |entry| (TargetRef::new(kind, &entry.name), entry.view.clone()))
    };
    let sources = Sources {
        objects: objects(live, namespace),
        targets: targets(TargetKind::Service).chain(targets(TargetKind::ServiceEntry)).collect(),
        policies: policies.iter().filter_map(|policy| Policy::readable(&policy.view)).collect(),
        observe: &observe,
    };
    import(namespace, &sources, settings)
}

/// DestinationRules and VirtualServices of a namespace.
fn objects(live: &Live, namespace: &str) -> Vec<Arc<Existing>> {
    let kinds = [Kind::DestinationRule, Kind::VirtualService].into_iter();
    kinds.flat_map(|kind| live.world.istio(kind).within(namespace)).map(|entry| entry.view.clone()).collect()
}

fn print(args: &Args, report: &Report, io: &mut Io) -> anyhow::Result<ExitCode> {
    if report.hosts.is_empty() {
        anyhow::bail!("no DestinationRule or VirtualService is there to import");
    }
    match args.output {
        Manifests::Json => writeln!(io.out, "{}", serde_json::to_string_pretty(report)?)?,
        Manifests::Yaml => {
            for (index, host) in report.hosts.iter().filter(|host| host.resilience.is_some()).enumerate() {
                if index > 0 {
                    writeln!(io.out, "---")?;
                }
                io.out.write_all(manifest(host)?.as_bytes())?;
            }
            tell(report, io);
        }
    }
    Ok(if report.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A policy, and in comments where it comes from.
fn manifest(host: &Imported) -> anyhow::Result<String> {
    let mut text = String::new();
    for source in &host.from {
        let fate = match source.fate {
            SourceFate::Replaced => "whose place it takes: delete it, or let import --adopt hand it over",
            SourceFate::Shared => "which stays and is shared",
            SourceFate::Stays => "which stays as it is",
        };
        text.extend(["# From ", &source.kind, " ", &source.name, ", ", fate, ".\n"]);
    }
    let mut explicit: Vec<String> = host.explicit.iter().map(|line| format!("{} {}", line.path, line.value)).collect();
    explicit.sort();
    explicit.dedup();
    if !explicit.is_empty() {
        text.extend(["# Said here, and so before by default: ", &explicit.join(", "), ".\n"]);
    }
    if let Some(object) = &host.resilience {
        text.push_str(&yaml::print(object)?);
    }
    Ok(text)
}

/// What has no counterpart.
fn tell(report: &Report, io: &mut Io) {
    for left in report.hosts.iter().flat_map(|host| &host.left) {
        let value = if left.value.is_empty() { String::new() } else { format!(" ({})", short(&left.value)) };
        let text = format!("{}: {}{value}: {}: {}", left.object, left.path, left.fate.words(), left.message);
        if left.fate == Fate::Ignored {
            io.note(&text);
        } else {
            io.warning(&text);
        }
    }
    let imported = report.hosts.iter().filter(|host| host.resilience.is_some()).count();
    let same: usize = report.hosts.iter().map(|host| host.same.len()).sum();
    io.note(&format!(
        "{} of {} imported; {} compared and the same before and after",
        imported,
        count(report.hosts.len(), "host"),
        count(same, "value")
    ));
}

/// A value that fits a line.
fn short(value: &str) -> String {
    if value.chars().count() <= 60 { value.to_owned() } else { value.chars().take(57).chain("...".chars()).collect() }
}
