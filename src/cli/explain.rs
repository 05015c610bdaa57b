//! `explain NAME|SERVICE`: one page on what is in force.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _, process::ExitCode, str::FromStr};

use super::{
    Io, Paint, Tone, all_told,
    diff::short,
    live::{Connection, Live, Reader, block_on},
    neighbours::AskedClient,
    output::{Output, columns, count},
};
use crate::{
    api::{Ownership, Resilience, ResilienceSpec, TargetKind, TargetRef},
    controller::world::Policy,
    istio::neighbourhood::Neighbourhood,
    names,
    observed::Observed,
    report::{
        ClientPart, EjectionLine, OthersLine, Page, PolicyPart, State, TargetPart, ValueLine, ValuesAre, bare, callee,
        page,
    },
    validate::Settings,
};

/// Show on one page what is in force for a policy or a Service, and who chose each value.
///
/// NAME is that of a Resilience; if there is none of that name, of a Service, then of a ServiceEntry.
/// resilience/NAME, svc/NAME and serviceentry/NAME say which. Reads the namespace by list calls and with
/// your own rights, and runs the operator's own functions. Where the policy says nothing, the page
/// tells what Istio or Envoy do by default, and marks it so. It speaks of what the API server holds;
/// of what proxies have it knows what the condition InEffect says. Writes nothing.
///
/// With --client it names the rules and routes that this client gets, as istiod looks them up, and what
/// does not count for it, by which object and why; without, who gets something else than the policy's.
/// Other namespaces are read for that, as far as you may.
///
/// Exit codes: 0 explained, 1 there is nothing of that name, 2 the question could not be answered (bad
/// usage, no cluster, no permission).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Resilience, a Service or a ServiceEntry: NAME or KIND/NAME.
    name: Asked,
    /// What this client gets: any workload of a namespace, or one of that name.
    #[arg(long, value_name = "NAMESPACE[/WORKLOAD]")]
    client: Option<AskedClient>,
    #[command(flatten)]
    cluster: Connection,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which kind; `None`: whichever has the name.
    kind: Option<AskedKind>,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedKind {
    Policy,
    Target(TargetKind),
}

impl FromStr for Asked {
    type Err = String;

    /// Kinds as kubectl takes them: in any case, short, in the plural, with their group.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            None => (None, text),
            Some((kind, name)) => {
                let kind = match kind.to_ascii_lowercase().as_str() {
                    "resilience" | "resiliences" | "rsl" | "resiliences.resilience.dev" => AskedKind::Policy,
                    "service" | "services" | "svc" => AskedKind::Target(TargetKind::Service),
                    "serviceentry" | "serviceentries" | "se" | "serviceentries.networking.istio.io" => {
                        AskedKind::Target(TargetKind::ServiceEntry)
                    }
                    _ => return Err(format!("{kind} is none of resilience, service and serviceentry")),
                };
                (Some(kind), name)
            }
        };
        if name.is_empty() || name.contains('/') {
            return Err("must be NAME or KIND/NAME".to_owned());
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// Prints the page.
///
/// # Errors
/// If the cluster cannot be read, or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    block_on(async {
        let chosen = args.cluster.choose().await?;
        let asked = (&args.name, args.client.as_ref());
        let (page, notes) = match explain(&chosen.reader, asked, &chosen.namespace, &chosen.settings).await {
            Ok(answer) => answer,
            Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
        };
        for note in notes {
            io.warning(&note);
        }
        let Some(page) = page else {
            let kind = match args.name.kind {
                None => "Resilience, Service or ServiceEntry",
                Some(AskedKind::Policy) => names::KIND,
                Some(AskedKind::Target(kind)) => kind.as_str(),
            };
            io.error(&format!(
                "there is no {kind} {} in namespace {}: -n says which namespace",
                args.name.name, chosen.namespace
            ));
            return Ok(ExitCode::FAILURE);
        };
        let paint = io.paint;
        let text = args.output.text(&page, |page| text(page, paint))?;
        io.out.write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The page, if there is something of that name, and notes on what could not be read without harm.
///
/// # Errors
/// What could not be read of the cluster, one line each.
pub async fn explain(
    reader: &Reader,
    (asked, client): (&Asked, Option<&AskedClient>),
    namespace: &str,
    settings: &Settings,
) -> Result<(Option<Page>, Vec<String>), Vec<String>> {
    let of_client = client.map(|client| client.namespace.as_str());
    let live = reader.read(&BTreeSet::from([namespace.to_owned()]), of_client, settings).await?;
    let page = match find(&live, asked, namespace, settings)? {
        Some(found) => Some(with_clients(reader, &live, found, client, namespace, settings).await?),
        None => None,
    };
    Ok((page, live.notes))
}

/// A page, and what it rests on.
struct Found {
    page: Page,
    target: Option<TargetRef>,
    observed: Observed,
}

/// The page with what clients get.
async fn with_clients(
    reader: &Reader,
    live: &Live,
    found: Found,
    client: Option<&AskedClient>,
    namespace: &str,
    settings: &Settings,
) -> Result<Page, Vec<String>> {
    let Found { page, target, observed } = found;
    let Some(target) = target else { return Ok(page) };
    let asked = match client {
        Some(client) => Some(reader.client_of(client).await.map_err(|fault| vec![fault])?),
        None => None,
    };
    let Some(callee) = callee(&target, namespace, &observed, settings) else {
        return Ok(match asked {
            Some((client, workload)) => page.without_host(&client, workload),
            None => page,
        });
    };
    let around = Neighbourhood { sidecars: live.sidecars(), ..observed.neighbourhood };
    let page = page.with_others(&around, &callee, live.unread.clone());
    Ok(match asked {
        Some((client, workload)) => page.with_client(&around, &callee, &client, workload),
        None => page,
    })
}

fn find(live: &Live, asked: &Asked, namespace: &str, settings: &Settings) -> Result<Option<Found>, Vec<String>> {
    let world = &live.world;
    if matches!(asked.kind, None | Some(AskedKind::Policy)) {
        match world.policies.get(namespace, &asked.name).as_ref().map(|policy| &policy.view) {
            Some(Policy::Readable(policy)) => {
                return Ok(Some(of_policy(live, policy, settings)));
            }
            Some(Policy::Unreadable(_, error)) => {
                return Err(vec![format!(
                    "this version cannot read Resilience {namespace}/{} ({error}): use the one that belongs to the CRD",
                    asked.name
                )]);
            }
            None => {}
        }
    }
    let kinds: &[TargetKind] = match asked.kind {
        None => &[TargetKind::Service, TargetKind::ServiceEntry],
        Some(AskedKind::Policy) => &[],
        Some(AskedKind::Target(TargetKind::Service)) => &[TargetKind::Service],
        Some(AskedKind::Target(TargetKind::ServiceEntry)) => &[TargetKind::ServiceEntry],
    };
    for kind in kinds {
        let group = if *kind == TargetKind::Service { "" } else { names::ISTIO_GROUP };
        let target = TargetRef { group: group.to_owned(), kind: *kind, name: asked.name.clone() };
        if world.target(namespace, &target).is_some() {
            return Ok(Some(of_target(live, &target, namespace, settings)));
        }
    }
    Ok(None)
}

fn of_policy(live: &Live, policy: &Resilience, settings: &Settings) -> Found {
    let observed = live.observe(policy);
    let target = policy.spec.target_refs.first().cloned();
    Found { page: page(policy, &observed, settings), target, observed }
}

/// The page of the policy that has the target; of several that is the oldest.
fn of_target(live: &Live, target: &TargetRef, namespace: &str, settings: &Settings) -> Found {
    let policies = live.world.policies.within(namespace);
    let for_it = policies.iter().filter_map(|policy| policy.view.readable()).filter(|policy| {
        policy.spec.target_refs.first() == Some(target) && policy.metadata.deletion_timestamp.is_none()
    });
    let age = |policy: &&Resilience| {
        (policy.metadata.creation_timestamp.as_ref().map(|time| time.0), policy.metadata.name.clone())
    };
    if let Some(policy) = for_it.min_by_key(age) {
        return of_policy(live, policy, settings);
    }
    // Nobody's policy, to look at the world from where the target stands.
    let mut nobody = Resilience::new("", ResilienceSpec::unread());
    nobody.metadata.namespace = Some(namespace.to_owned());
    nobody.spec.target_refs = vec![target.clone()];
    let observed = live.observe(&nobody);
    Found { page: bare(target, namespace, &observed, settings), target: Some(target.clone()), observed }
}

/// For people. Writing to a String cannot fail.
fn text(page: &Page, paint: Paint) -> String {
    let mut text = String::new();
    let heading = |text: &mut String, words: &str| {
        let _ = writeln!(text, "\n{words}");
    };
    text.push_str(&columns(0, &head(page, paint)));
    if let Some(policy) = &page.policy {
        heading(&mut text, "Conditions");
        text.push_str(&conditions(policy, paint));
        let faults = policy.outcome.faults.iter().map(|fault| vec![fault.path.clone(), fault.message.clone()]);
        let faults: Vec<Vec<String>> = faults.collect();
        if !faults.is_empty() {
            heading(&mut text, "Faults");
            text.push_str(&columns(2, &faults));
        }
    }
    heading(&mut text, values_heading(page.values_are));
    if page.values.is_empty() && page.values_are != ValuesAre::Others {
        text.push_str("  nothing\n");
    }
    text.push_str(&values(&page.values));
    if page.policy.is_some() {
        heading(&mut text, "Generated");
        text.push_str(&generated(page, paint));
    }
    heading(&mut text, "Beside it in the namespace");
    let beside = page.beside.iter().map(|other| vec![format!("{} {}", other.kind, other.name), other.concern.clone()]);
    let rivals =
        page.rivals.iter().map(|rival| vec![format!("Resilience {rival}"), "is for the same target".to_owned()]);
    let beside: Vec<Vec<String>> = beside.chain(rivals).collect();
    text.push_str(&or_nothing(&beside, "no other DestinationRule, VirtualService or Resilience speaks of it"));
    if !page.others.is_empty() {
        heading(&mut text, "Who gets something else");
        text.push_str(&columns(2, &page.others.iter().map(others).collect::<Vec<_>>()));
    }
    if let Some(client) = &page.client {
        heading(&mut text, &client_heading(client));
        text.push_str(&client_rows(page, client));
    }
    if page.policy.is_some() {
        heading(&mut text, "Warnings");
        let warnings = page.warnings.iter().map(|warning| {
            let code = paint.word(Tone::Warning, &warning.code.to_string());
            vec![code, format!("{} ({})", warning.message, warning.page)]
        });
        text.push_str(&or_nothing(&warnings.collect::<Vec<_>>(), "none"));
    }
    heading(&mut text, "Not observed");
    text.push_str(&columns(2, &page.not_observed.iter().map(|line| vec![line.clone()]).collect::<Vec<_>>()));
    text
}

fn others(line: &OthersLine) -> Vec<String> {
    let port = line.port.map(|port| format!(", port {port}")).unwrap_or_default();
    let gets = line.gets.clone().unwrap_or_else(|| format!("no {}", line.kind));
    vec![format!("{}{port}", line.clients), gets, line.why.clone()]
}

fn client_heading(client: &ClientPart) -> String {
    match &client.workload {
        Some(workload) => format!("For {workload} in namespace {}", client.namespace),
        None => format!("For clients in namespace {}", client.namespace),
    }
}

fn client_rows(page: &Page, client: &ClientPart) -> String {
    if !client.sees_host {
        return "  the host is not there for it: neither rules nor routes of it\n".to_owned();
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = Vec::new();
    for rule in page.destination_rules.iter().flatten() {
        let part = if client.traffic_policy_of.as_ref() == Some(rule) { "its traffic policy" } else { "its subsets" };
        rows.push(row("DestinationRule", format!("{rule}, {part}")));
    }
    if rows.is_empty() {
        rows.push(row("DestinationRule", "none".to_owned()));
    }
    for port in &client.ports {
        let whose = match (&port.virtual_service, port.observed) {
            (_, false) => "not observed".to_owned(),
            (Some(routes), true) => format!("VirtualService {routes}"),
            (None, true) if port.gateway_routes.is_empty() => "Istio's own".to_owned(),
            (None, true) => port.gateway_routes.join(", "),
        };
        rows.push(row(&format!("routes of port {}", port.port), whose));
    }
    let mut text = columns(2, &rows);
    if !client.shadowed.is_empty() {
        text.push_str("  and not:\n");
        let rows = client.shadowed.iter().map(|line| {
            let port = line.port.map(|port| format!(", port {port}")).unwrap_or_default();
            vec![format!("{}{port}", line.object), line.why.clone()]
        });
        text.push_str(&columns(4, &rows.collect::<Vec<_>>()));
    }
    text
}

fn or_nothing(rows: &[Vec<String>], nothing: &str) -> String {
    if rows.is_empty() { format!("  {nothing}\n") } else { columns(2, rows) }
}

fn head(page: &Page, paint: Paint) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = Vec::new();
    match &page.policy {
        None => rows.push(row("Policy", format!("none in namespace {}", page.namespace))),
        Some(policy) => {
            let tone = if policy.outcome.is_accepted() { Tone::Good } else { Tone::Error };
            let reason = paint.word(tone, &policy.outcome.reason);
            let mode = policy.mode;
            rows.push(row("Policy", format!("{}/{}: {reason}, mode {mode:?}", page.namespace, policy.name)));
            if policy.outcome.faults.is_empty() && !policy.outcome.message.is_empty() {
                rows.push(row("", policy.outcome.message.clone()));
            }
        }
    }
    let Some(target) = &page.target else { return rows };
    let there = if target.found { "" } else { ", which does not exist" };
    rows.push(row("Target", format!("{} {}{there}", target.kind, target.name)));
    if !target.host.is_empty() {
        rows.push(row("Host", target.host.clone()));
    }
    if target.found {
        let ports = target.ports.iter().map(|port| format!("{} {}", port.number, port.protocol));
        rows.push(row("Ports", ports.collect::<Vec<_>>().join(", ")));
        rows.push(row("Endpoints", endpoints(target)));
    }
    for line in &page.ejection {
        rows.push(row("Ejectable", ejectable(line)));
    }
    rows
}

fn endpoints(target: &TargetPart) -> String {
    let (Some(all), Some(ready)) = (target.endpoints, target.ready_endpoints) else {
        let how = target.discovery.as_deref().unwrap_or("unknown");
        return format!("cannot be counted ({how})");
    };
    match target.zones {
        Some(zones) if zones > 0 => format!("{all}, {ready} ready, in {}", count(zones as usize, "zone")),
        _ => format!("{all}, {ready} ready"),
    }
}

fn ejectable(line: &EjectionLine) -> String {
    let port = line.port.map(|port| format!(", port {port}")).unwrap_or_default();
    match (line.endpoints, line.ejectable) {
        (Some(endpoints), Some(ejectable)) => {
            format!("{ejectable} at a time{port}: {} % of {endpoints}, rounded down", line.max_percent)
        }
        _ => format!("{} % of what each proxy resolves{port}, rounded down", line.max_percent),
    }
}

fn conditions(policy: &PolicyPart, paint: Paint) -> String {
    if policy.conditions.is_empty() {
        return "  none: the operator has not looked at it yet\n".to_owned();
    }
    let rows = policy.conditions.iter().map(|condition| {
        // Of all conditions Stalled alone is good news when it is False.
        let good = (condition.status == "True") != (condition.kind == crate::api::conditions::STALLED);
        let tone = match condition.status.as_str() {
            "Unknown" => Tone::Warning,
            _ if good => Tone::Good,
            _ => Tone::Error,
        };
        let status = paint.word(tone, &condition.status);
        vec![condition.kind.clone(), status, condition.reason.clone(), condition.message.clone()]
    });
    let mut text = columns(2, &rows.collect::<Vec<_>>());
    let accepted = policy.conditions.iter().find(|condition| condition.kind == crate::api::conditions::ACCEPTED);
    if accepted.is_some_and(|accepted| accepted.reason != policy.outcome.reason) {
        let _ = writeln!(text, "  they lag behind: the operator has not said {} yet", policy.outcome.reason);
    }
    if policy.observed_generation != policy.generation {
        let number = |generation: Option<i64>| generation.map_or("none".to_owned(), |number| number.to_string());
        let (of, now) = (number(policy.observed_generation), number(policy.generation));
        let _ = writeln!(text, "  they speak of generation {of}, and the spec is at {now}");
    }
    text
}

const fn values_heading(are: ValuesAre) -> &'static str {
    match are {
        ValuesAre::Held => "In force, as the API server holds it",
        ValuesAre::Wanted => "Wanted; not all of it is in the API server",
        ValuesAre::Left => "Left in force by the last version that was accepted",
        ValuesAre::Unset => "In force, for nobody says otherwise",
        ValuesAre::Others => "In force is what the objects below say; they are not read here",
    }
}

/// Values of all ports, then of each port what differs.
fn values(values: &[ValueLine]) -> String {
    let row = |line: &ValueLine| vec![line.path.clone(), line.value.clone(), line.origin.words().to_owned()];
    let common: Vec<&ValueLine> = values.iter().filter(|line| line.port.is_none()).collect();
    let mut text = columns(2, &common.iter().map(|line| row(line)).collect::<Vec<_>>());
    let ports: BTreeSet<u16> = values.iter().filter_map(|line| line.port).collect();
    for port in ports {
        let same = |line: &ValueLine| common.iter().any(|one| one.path == line.path && one.value == line.value);
        let own = values.iter().filter(|line| line.port == Some(port) && !same(line)).map(row);
        let own: Vec<Vec<String>> = own.collect();
        let _ = writeln!(text, "  on port {port}, and the rest as above:");
        text.push_str(&columns(4, &own));
    }
    text
}

fn generated(page: &Page, paint: Paint) -> String {
    if page.generated.is_empty() {
        return "  nothing\n".to_owned();
    }
    let suspended = page.policy.as_ref().is_some_and(|policy| policy.mode == crate::api::Mode::Suspend);
    let mut text = String::new();
    for object in &page.generated {
        let (tone, words) = match object.state {
            State::AsWanted => (Tone::Good, "as it should be"),
            State::Drifted if suspended => (Tone::Warning, "drifted; mode Suspend leaves it so"),
            State::Drifted => (Tone::Error, "drifted; the operator has not put it right yet"),
            State::Missing if suspended => (Tone::Warning, "missing; mode Suspend leaves it so"),
            State::Missing => (Tone::Error, "missing; the operator has not written it yet"),
            State::Unwanted => (Tone::Error, "should not be there"),
            State::Left => (Tone::Warning, "of the last version that was accepted"),
        };
        let shared = match object.ownership {
            Ownership::Created => "",
            Ownership::CoOwned => ", our blocks in it",
        };
        let _ = writeln!(text, "  {} {}{shared}: {}", object.kind, object.name, paint.word(tone, words));
        for change in &object.changes {
            let (have, want) = (short(change.before.as_ref()), short(change.after.as_ref()));
            let _ = writeln!(text, "    {}: {have}, should be {want} ({})", change.path, change.reason);
        }
    }
    text
}
