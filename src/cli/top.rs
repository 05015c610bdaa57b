//! `top [SERVICE]`: the breakers of clients, live.

pub(super) mod proxies;
mod screen;
pub mod table;
mod terminal;
mod web;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::bail;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use tokio::time::{sleep, timeout};

use super::{
    Io, all_told, dns_label, dns_name,
    live::{Chosen, Connection, DEADLINE, block_on},
    output::Output,
};
use crate::top::{Top, Wanted, Watch};
use proxies::Proxies;
pub use screen::Screen;
pub use web::router;

/// See the breaker of each client, live: who is limited, how close each limit is, and which endpoint is out.
///
/// Reads the proxies of clients, as istioctl does: through the API server and with your own rights, by a port-forward to
/// each one's admin interface. It needs to list pods, and to get and create pods/portforward in the namespaces of the
/// clients. A row is a client, which is a pod, and what it calls; who has called nothing is none. Rates are of the time
/// between two readings. What a proxy does not tell is a question mark. Writes nothing, and changes nothing in a proxy.
///
/// On a terminal: q ends, arrows move, s chooses by what rows are sorted, r turns them round, p or blank holds the
/// picture. Without a terminal, with --once or with -o json or yaml, it reads twice, prints once, and ends.
///
/// Exit codes: 0 shown, 1 there is no such Service, 2 the question could not be answered (bad usage, no cluster, no
/// permission, no proxy that could be read).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Service, as NAME or svc/NAME, or a fully qualified host [default: all Services of the namespace].
    service: Option<Asked>,
    #[command(flatten)]
    cluster: Connection,
    /// Clients of this namespace alone; may be repeated [default: all whose pods you may list].
    #[arg(long, value_name = "NAMESPACE", value_parser = dns_label)]
    from: Vec<String>,
    /// Read the proxies so often, such as 5s. 1s to 1m.
    #[arg(long, default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Read so many proxies at most; those of the Service's own namespace come first.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_proxies: u16,
    /// Read twice, print once, and end.
    #[arg(long)]
    once: bool,
    /// Serve a page on 127.0.0.1 that shows the same, and print its address.
    #[arg(long, conflicts_with_all = ["once", "output"])]
    web: bool,
    /// Port of the page [default: a free one].
    #[arg(long, requires = "web", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Service(String),
    Host(String),
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = ["svc/", "service/", "services/"];
        if let Some(name) = kinds.iter().find_map(|kind| text.strip_prefix(kind)) {
            return dns_label(name).map(Self::Service);
        }
        if text.contains('.') { dns_name(text).map(Self::Host) } else { dns_label(text).map(Self::Service) }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_mins(1)).contains(&interval) {
        Ok(interval)
    } else {
        Err("must be 1s to 1m".to_owned())
    }
}

const NO_PROXY: &str =
    "there is no pod with a proxy: clients need a sidecar, and --from says in which namespace they are";

/// Shows it.
///
/// # Errors
/// If the cluster or no proxy of it can be read, or what shows it fails.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    block_on(async {
        let chosen = args.cluster.choose().await?;
        if let Some(missing) = missing(args.service.as_ref(), &chosen, io).await? {
            io.error(&missing);
            return Ok(ExitCode::FAILURE);
        }
        let mut rounds = Rounds::new(args, chosen);
        let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        if args.web {
            web::serve(rounds, args.port, args.interval, io).await?;
        } else if terminal && !args.once && args.output == Output::Table {
            terminal::run(rounds, args.interval).await?;
        } else {
            let top = match rounds.twice(args.interval).await {
                Ok(top) => top,
                Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
            };
            for line in told(&top) {
                io.warning(&line);
            }
            if top.rows.is_empty() && top.idle == 0 {
                bail!("{}", if top.unread.is_empty() { NO_PROXY } else { "no proxy could be read" });
            }
            let text = args.output.text(&top, |top| table::table(top, &rounds.namespace, &rounds.domain))?;
            io.out.write_all(text.as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// That there is no such Service. Who may not read Services is told nothing.
async fn missing(asked: Option<&Asked>, chosen: &Chosen, io: &mut Io) -> anyhow::Result<Option<String>> {
    let Some(Asked::Service(name)) = asked else { return Ok(None) };
    let Chosen { reader, namespace, .. } = chosen;
    let api: Api<Service> = Api::namespaced(reader.client.clone(), namespace);
    match timeout(DEADLINE, api.get_opt(name)).await {
        Ok(Ok(Some(_))) => Ok(None),
        Ok(Ok(None)) => {
            Ok(Some(format!("there is no Service {name} in namespace {namespace}: -n says which namespace")))
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            io.note(&format!("whether Service {namespace}/{name} is there is not known: {}", status.message));
            Ok(None)
        }
        Ok(Err(error)) => bail!("{}", reader.explain(&error, "services", namespace)),
        Err(_) => bail!("{}", reader.silent()),
    }
}

/// What was not told, one line each.
fn told(top: &Top) -> impl Iterator<Item = String> {
    let unread = top.unread.iter().map(|unread| {
        format!("the proxy of {}/{} was not read: {}", unread.client.namespace, unread.client.pod, unread.why)
    });
    top.notes.iter().cloned().chain(unread)
}

/// Reads round after round, and compares.
struct Rounds {
    namespace: String,
    domain: String,
    wanted: Wanted,
    proxies: Proxies,
    watch: Watch,
    start: Instant,
}

impl Rounds {
    fn new(args: &Args, chosen: Chosen) -> Self {
        let Chosen { reader, namespace, settings } = chosen;
        let domain = settings.cluster_domain;
        let wanted = match &args.service {
            None => Wanted::Namespace(namespace.clone(), domain.clone()),
            Some(Asked::Host(host)) => Wanted::Host(host.clone()),
            Some(Asked::Service(name)) => Wanted::Host(format!("{name}.{namespace}.svc.{domain}")),
        };
        let proxies = Proxies::new(reader, &namespace, args.from.clone(), usize::from(args.max_proxies));
        Self { namespace, domain, wanted, proxies, watch: Watch::default(), start: Instant::now() }
    }

    /// What is looked at, in words.
    fn title(&self) -> String {
        match &self.wanted {
            Wanted::Host(host) => host.clone(),
            Wanted::Namespace(namespace, _) => format!("Services of namespace {namespace}"),
        }
    }

    /// # Errors
    /// Why it is not known which proxies there are; one line each.
    async fn next(&mut self) -> Result<Top, Vec<String>> {
        let (readings, notes) = self.proxies.read(&self.wanted, self.start).await?;
        Ok(self.watch.take(Timestamp::now(), readings, notes))
    }

    /// Two readings, since one has no rates.
    async fn twice(&mut self, apart: Duration) -> Result<Top, Vec<String>> {
        self.next().await?;
        sleep(apart).await;
        self.next().await
    }
}
