//! `verify NAME`: drives a Service until each limit of its policy trips, and says whether it did.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    Io, Paint, Tone, all_told, dns_label,
    live::{Chosen, Connection, DEADLINE, Live, block_on},
    output::{Output, columns, count},
};
use crate::{
    api::{LimitResult, Resilience, Verification, VerificationResult, conditions::PROGRAMMED},
    istio::Kind,
    names,
    observed::Target,
    runtime::shutdown,
    translate::translate,
    validate::{Valid, validate},
    verification::{Asked, Caps, Conclusion, Evidence, Plan, Report, Step, plan, spec_hash},
    verify::job::{Running, job},
};

/// Drive a Service until each limit of its policy trips, and say whether it did.
///
/// NAME is that of a Resilience. Each limit is driven to its number, and past it. A Job in the namespace of --from calls the Service from behind a sidecar of its
/// own, as every client there does, with as many calls at a time as it takes and within the caps below; what it
/// says is judged by the answers and by what that sidecar counts. This is load on a live service: calls of other
/// clients may be refused meanwhile where servers limit, too. What will be done is said first, and asked, unless
/// --yes. Only GET is sent.
///
/// Each limit tripped as configured, did not trip, or was not tried; the last is neither good nor bad. The
/// result is written to status.verification, from which the condition Verified follows, unless a guard stopped
/// the run: too many errors, the time, Ctrl-C. The Job is deleted in any case; it also ends and goes by itself.
///
/// Exit codes: 0 all that was tried tripped as configured, 1 something did not, 2 it could not be run to its end
/// (bad usage, no cluster, no permission, not programmed, a guard, nothing to try).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Resilience.
    #[arg(value_parser = policy_name)]
    name: String,
    #[command(flatten)]
    cluster: Connection,
    /// Namespace to call from [default: that of the policy].
    #[arg(long, value_name = "NAMESPACE", value_parser = dns_label)]
    from: Option<String>,
    /// Port of the target [default: its first HTTP port].
    #[arg(long)]
    port: Option<u16>,
    /// Path that is answered below 400. An answer that takes some 100 ms shows limits best.
    #[arg(long, default_value = "/", value_parser = path)]
    path: String,
    /// Path whose answer takes longer than timeouts.request, to see calls cut off.
    #[arg(long, value_name = "PATH", value_parser = path)]
    slow_path: Option<String>,
    /// Path that fails at every endpoint, such as with 503, to see retries and ejection.
    #[arg(long, value_name = "PATH", value_parser = path)]
    fail_path: Option<String>,
    /// Send for so long at most, such as 90s or 5m. 5s to 1h.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Calls at a time at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    max_callers: u32,
    /// Calls a second at most, on average: bursts are followed by rests.
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10000))]
    max_rate: u32,
    /// Stop when more than this share of calls fails otherwise than a limit would have it.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    max_errors: u32,
    /// Image of the Job [default: that of the operator's Deployment].
    #[arg(long)]
    image: Option<String>,
    /// Namespace of the operator, whose Deployment tells the image.
    #[arg(long, value_name = "NAMESPACE", default_value = OPERATOR_NAMESPACE, value_parser = dns_label)]
    operator_namespace: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Where `deploy/` puts the operator.
const OPERATOR_NAMESPACE: &str = "resilience-system";

/// How to print what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// One object, for programs; docs/output.md names its fields.
    Json,
    /// The same object as YAML.
    Yaml,
    /// JUnit XML, a case a limit, for CI.
    Junit,
}

fn policy_name(text: &str) -> Result<String, String> {
    let name = ["resilience/", "resiliences/", "rsl/"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
    if name.is_empty() || name.contains('/') {
        return Err("must be the NAME of a Resilience, or resilience/NAME".to_owned());
    }
    Ok(name.to_owned())
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("must begin with /".to_owned()) }
}

/// Runs it.
///
/// # Errors
/// If it cannot be run, or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    if !(Duration::from_secs(5)..=Duration::from_hours(1)).contains(&args.duration) {
        bail!("--duration {}: must be 5s to 1h", humantime::format_duration(args.duration));
    }
    block_on(async {
        let chosen = args.cluster.choose().await?;
        let of_client = args.from.as_deref();
        let namespaces = BTreeSet::from([chosen.namespace.clone()]);
        let live = match chosen.reader.read(&namespaces, of_client, &chosen.settings).await {
            Ok(live) => live,
            Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
        };
        for note in &live.notes {
            io.warning(note);
        }
        let subject = Subject::find(args, &live, &chosen)?;
        eprint!("{}", subject.announcement(args));
        if !args.yes && !io.agreed()? {
            bail!("nothing was done");
        }
        let image = match &args.image {
            Some(image) => image.clone(),
            None => operators_image(&chosen, &args.operator_namespace).await?,
        };
        let evidence = subject.carry_out(&chosen, &image).await?;
        let report = subject.report(&evidence);
        let paint = io.paint;
        let text = match args.output {
            Format::Table => table(&report, paint),
            Format::Json => Output::Json.text(&report, |_| String::new())?,
            Format::Yaml => Output::Yaml.text(&report, |_| String::new())?,
            Format::Junit => report.junit(),
        };
        io.out.write_all(text.as_bytes())?;
        io.out.flush()?;
        subject.write_down(&chosen, &report, io).await?;
        Ok(match report.result {
            Conclusion::Passed => ExitCode::SUCCESS,
            Conclusion::Failed => ExitCode::FAILURE,
            Conclusion::NothingTried | Conclusion::Stopped => ExitCode::from(2),
        })
    })
}

/// What is verified, and how.
struct Subject {
    policy: Resilience,
    namespace: String,
    from: String,
    hash: String,
    plan: Plan,
}

impl Subject {
    fn find(args: &Args, live: &Live, chosen: &Chosen) -> anyhow::Result<Self> {
        let Chosen { namespace, settings, reader: _ } = chosen;
        let entry = live.world.policies.get(namespace, &args.name);
        let Some(entry) = entry else {
            bail!("there is no Resilience {} in namespace {namespace}: -n says which namespace", args.name);
        };
        let Some(policy) = entry.view.readable() else {
            bail!("this version cannot read Resilience {namespace}/{}: use the one that belongs to the CRD", args.name);
        };
        programmed(policy)?;
        let observed = live.observe(policy);
        let valid = match validate(policy, &observed, settings) {
            Ok(valid) => valid,
            Err(refusal) => {
                bail!(
                    "Resilience {namespace}/{} is refused: {}",
                    args.name,
                    crate::status::Outcome::from(refusal).message()
                );
            }
        };
        let asked = asked(args, &observed.target)?;
        let (rule, routes) = held_in(&valid);
        let plan = plan(&valid, &asked, rule, routes);
        if plan.lines.is_empty() {
            bail!("Resilience {namespace}/{} has no limit for port {}", args.name, asked.port);
        }
        Ok(Self {
            policy: policy.clone(),
            namespace: namespace.clone(),
            from: args.from.clone().unwrap_or_else(|| namespace.clone()),
            hash: spec_hash(&policy.spec),
            plan,
        })
    }

    /// What will be done to a live service.
    fn announcement(&self, args: &Args) -> String {
        let Plan { host, asked: Asked { port, caps, .. }, lines, .. } = &self.plan;
        let mut text = format!(
            "verify Resilience {}/{}: calls {host}, port {port}, from a Job in namespace {}\n",
            self.namespace, args.name, self.from
        );
        let rows = lines.iter().map(|line| {
            let what = match &line.step {
                Step::Drive(_) => "is driven until it trips, and once past it",
                Step::Settled(finding) if finding.result == LimitResult::NotTripped => "cannot trip",
                Step::Settled(_) => "is not tried",
            };
            vec![line.path.clone(), line.value.clone(), what.to_owned()]
        });
        text.push_str(&columns(2, &rows.collect::<Vec<_>>()));
        let _ = write!(
            text,
            "This is load on a live service: up to {} at a time and {} a second on average, for {} at the longest;\nit stops by itself when more than {} % of the calls fail otherwise than a limit would have it.\n",
            count(usize::try_from(self.plan.most_callers()).unwrap_or(usize::MAX), "call"),
            count(usize::try_from(caps.rate_per_s).unwrap_or(usize::MAX), "call"),
            humantime::format_duration(args.duration),
            caps.errors_percent
        );
        text
    }

    /// Makes the Job, follows it, and takes it away whatever comes of it.
    async fn carry_out(&self, chosen: &Chosen, image: &str) -> anyhow::Result<Evidence> {
        // From here on a signal must not leave the Job behind.
        let stop = shutdown::on_signal()?;
        let suffix = format!("{:x}", Timestamp::now().as_millisecond());
        let job = job(&self.policy, &self.plan, &self.from, image, &suffix)?;
        let running = Running::create(chosen.reader.client.clone(), &job).await?;
        let progress = Progress::new();
        progress.show(&format!("{} was made", running.called()));
        let ended = tokio::select! {
            ended = running.follow(|words| progress.show(words)) => ended,
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped: nothing is concluded, and nothing was written to the status")),
        };
        progress.clear();
        let deleted = running.delete().await;
        let evidence = ended?;
        deleted?;
        Ok(evidence)
    }

    fn report(&self, evidence: &Evidence) -> Report {
        let name = self.policy.name_any();
        Report::new((&self.namespace, &name, &self.hash), &self.from, &self.plan, evidence)
    }

    /// To the status, under a field manager of its own, and as an event.
    async fn write_down(&self, chosen: &Chosen, report: &Report, io: &mut Io) -> anyhow::Result<()> {
        let Some((result, limits)) = report.conclusion() else { return Ok(()) };
        let name = self.policy.name_any();
        let at = Timestamp::from_second(Timestamp::now().as_second())?;
        let verification = Verification {
            spec_hash: self.hash.clone(),
            result,
            at: Time(at),
            from: self.from.clone(),
            port: self.plan.asked.port,
            limits,
        };
        let body = json!({
            "apiVersion": names::API_VERSION,
            "kind": names::KIND,
            "metadata": {"name": name, "namespace": self.namespace, "uid": self.policy.uid()},
            "status": {"verification": verification},
        });
        let client = chosen.reader.client.clone();
        let api: Api<Resilience> = Api::namespaced(client.clone(), &self.namespace);
        let how = PatchParams::apply(names::VERIFY_MANAGER).force().validation_strict();
        let written = timeout(DEADLINE, api.patch_status(&name, &how, &Patch::Apply(&body))).await;
        written.context("no answer from the API server")?.with_context(|| {
            format!(
                "the result could not be written to the status of Resilience {}/{name}: `kubectl auth can-i patch resiliences/status -n {}` tells whether you may",
                self.namespace, self.namespace
            )
        })?;
        let event = event(report, result);
        let recorder = Recorder::new(client, Reporter::from(names::VERIFY_MANAGER));
        let about = self.policy.object_ref(&());
        let failure = match timeout(DEADLINE, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer from the API server".to_owned(),
        };
        io.warning(&format!("the result is in the status, but no event says so: {failure}"));
        Ok(())
    }
}

fn event(report: &Report, result: VerificationResult) -> Event {
    let (type_, reason) = match result {
        VerificationResult::Passed => (EventType::Normal, "Verified"),
        VerificationResult::Failed => (EventType::Warning, "NotVerified"),
    };
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(format!("{}, from namespace {}", summary(report), report.from)),
        action: "Verify".to_owned(),
        secondary: None,
    }
}

/// What is not in the API server cannot be shown to act.
fn programmed(policy: &Resilience) -> anyhow::Result<()> {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    let programmed = conditions.into_iter().find(|condition| condition.type_ == PROGRAMMED);
    let name = policy.name_any();
    match programmed {
        Some(condition) if condition.observed_generation != policy.metadata.generation => {
            bail!("the operator has not looked at this version of Resilience {name} yet: try again")
        }
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => {
            bail!("Resilience {name} is not programmed ({}): {}", condition.reason, condition.message)
        }
        None => bail!("the operator has not looked at Resilience {name} yet: does it run?"),
    }
}

fn asked(args: &Args, target: &Target) -> anyhow::Result<Asked> {
    let Target::Found(service) = target else { bail!("the target is not there") };
    let http = service.ports.iter().filter(|port| port.protocol.is_http());
    let port = match args.port {
        Some(number) => service.ports.iter().find(|port| port.number == number),
        None => http.clone().next(),
    };
    let Some(port) = port else {
        let ports: Vec<String> = http.map(|port| port.number.to_string()).collect();
        bail!(
            "there is no such HTTP port: the target has {}",
            if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
        );
    };
    if !port.protocol.is_http() {
        bail!("port {} is no HTTP port: only calls over HTTP can be told apart", port.number);
    }
    Ok(Asked {
        port: port.number,
        http2: port.protocol.is_http2(),
        path: args.path.clone(),
        slow_path: args.slow_path.clone(),
        fail_path: args.fail_path.clone(),
        caps: Caps {
            callers: args.max_callers,
            rate_per_s: args.max_rate,
            duration_ms: u64::try_from(args.duration.as_millis()).unwrap_or(u64::MAX),
            errors_percent: args.max_errors,
        },
    })
}

/// Namespace and name of the rule and the routes that hold the policy.
fn held_in(valid: &Valid) -> (Option<String>, Option<String>) {
    let objects = translate(valid).objects();
    let of = |kind: Kind| {
        let object = objects.iter().find(|object| object.kind == kind)?;
        Some(format!("{}/{}", valid.owner.namespace, object.name))
    };
    (of(Kind::DestinationRule), of(Kind::VirtualService))
}

/// The operator's image, which holds the same program.
async fn operators_image(chosen: &Chosen, namespace: &str) -> anyhow::Result<String> {
    let api: Api<Deployment> = Api::namespaced(chosen.reader.client.clone(), namespace);
    let unknown =
        || format!("the operator's image is not known, from Deployment {namespace}/{}: say --image", names::OPERATOR);
    let deployment = timeout(DEADLINE, api.get(names::OPERATOR)).await.with_context(unknown)?.with_context(unknown)?;
    let containers = deployment.spec.and_then(|spec| spec.template.spec).map(|pod| pod.containers);
    let image = containers.into_iter().flatten().find_map(|container| container.image);
    image.with_context(unknown)
}

/// How far it is, on standard error: one line that changes on a terminal, a line each elsewhere.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    fn show(&self, words: &str) {
        // Where standard error is gone, nobody looks.
        let _lost =
            if self.terminal { write!(io::stderr(), "\r{words} …\x1b[K") } else { writeln!(io::stderr(), "{words}") };
    }

    fn clear(&self) {
        if self.terminal {
            let _lost = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn summary(report: &Report) -> String {
    let number = |result| report.count(result);
    format!(
        "{} tripped as configured, {} did not trip, {} not tried",
        number(LimitResult::Tripped),
        number(LimitResult::NotTripped),
        number(LimitResult::NotTried)
    )
}

/// For people.
fn table(report: &Report, paint: Paint) -> String {
    let rows = report.limits.iter().map(|limit| {
        let (tone, word) = match limit.finding.result {
            LimitResult::Tripped => (Tone::Good, "tripped"),
            LimitResult::NotTripped => (Tone::Error, "did not trip"),
            LimitResult::NotTried => (Tone::Warning, "not tried"),
        };
        // A colour takes no place on a terminal, so the column is filled up before.
        vec![
            limit.path.clone(),
            limit.value.clone(),
            paint.word(tone, &format!("{word:12}")),
            limit.finding.message.clone(),
        ]
    });
    let mut text = columns(0, &rows.collect::<Vec<_>>());
    if let Some(stopped) = &report.stopped {
        let _ = write!(text, "\nstopped: {}\n", stopped.message);
    }
    let (tone, word) = match report.result {
        Conclusion::Passed => (Tone::Good, "passed"),
        Conclusion::Failed => (Tone::Error, "failed"),
        Conclusion::NothingTried => (Tone::Warning, "nothing could be tried"),
        Conclusion::Stopped => (Tone::Warning, "nothing is concluded"),
    };
    let calls = usize::try_from(report.calls).unwrap_or(usize::MAX);
    let _ = write!(text, "\n{}: {}; {}\n", paint.word(tone, word), summary(report), count(calls, "call"));
    text
}
