//! `why SERVICE`: why its calls fail, the likely cause first.

mod cluster;
pub mod page;
mod proxies;

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    Io, all_told, dns_label,
    live::{Chosen, Connection, block_on, patiently},
    neighbours::AskedClient,
    output::Output,
    top::proxies::Proxies,
};
use crate::{
    names,
    why::{ProxySeen, Seen, Why, callers, judge},
};
use proxies::{Looked, Reads};

/// Say why calls of a Service fail: the likely cause first, each with what was seen of it and what to do.
///
/// Reads the proxies of clients and of the Service's own pods twice, through the API server and with your own rights, by
/// port-forwards as top does, and compares what they counted; reads how they are configured; and reads the Service, its
/// endpoints and pods, the policy, and what else speaks of the host. What could not be read, or is not counted, is said,
/// and the rest is told all the same. It needs to list pods, and to get and create pods/portforward, in the namespaces of
/// clients and servers; the more it may read beside that, the more it tells. Writes nothing, and changes nothing in a
/// proxy.
///
/// Causes are ranked by evidence: what a proxy counted while it was looked, then what is configured so that calls cannot
/// but fail, then what was counted before, then what is possible; and within those by calls.
///
/// Exit codes: 0 nothing was found that fails calls, 1 a cause was found, or there is no such Service, 2 the question could
/// not be answered (bad usage, no cluster, no permission, no proxy that could be read).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Service, as NAME or svc/NAME.
    #[arg(value_parser = service_name)]
    service: String,
    /// Clients of this namespace alone, or this one of its workloads (or pods) [default: all that have called, of all
    /// whose pods you may list].
    #[arg(long, value_name = "NAMESPACE[/WORKLOAD]")]
    client: Option<AskedClient>,
    /// How long to look, such as 30s: up to 10m. 0: do not wait, and tell what was counted since the proxies began.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = looking)]
    looking: Duration,
    /// Read so many proxies of clients at most; those of the Service's own namespace come first.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_proxies: u16,
    #[command(flatten)]
    cluster: Connection,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn service_name(text: &str) -> Result<String, String> {
    let kinds = ["svc/", "service/", "services/"];
    dns_label(kinds.iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text))
}

fn looking(text: &str) -> Result<Duration, String> {
    let time = if text == "0" {
        Duration::ZERO
    } else {
        humantime::parse_duration(text).map_err(|error| error.to_string())?
    };
    let is_some = (Duration::from_secs(1)..=Duration::from_mins(10)).contains(&time);
    if time.is_zero() || is_some { Ok(time) } else { Err("must be 0, or 1s to 10m".to_owned()) }
}

/// Prints why.
///
/// # Errors
/// If the cluster cannot be read, or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    block_on(async {
        let chosen = args.cluster.choose().await?;
        let told = match Box::pin(ask(args, &chosen)).await {
            Ok(told) => told,
            Err(faults) => return all_told(&faults, io).map(|()| ExitCode::from(2)),
        };
        let Some(why) = told else {
            io.error(&format!(
                "there is no Service {} in namespace {}: -n says which namespace",
                args.service, chosen.namespace
            ));
            return Ok(ExitCode::FAILURE);
        };
        let paint = io.paint;
        let text = args.output.text(&why, |why| page::text(why, paint))?;
        io.out.write_all(text.as_bytes())?;
        // Nothing is known of calls where no proxy was read, and what is configured may yet tell.
        let is_answer = why.failing || why.clients > 0;
        Ok(match (is_answer, why.failing) {
            (false, _) => ExitCode::from(2),
            (true, false) => ExitCode::SUCCESS,
            (true, true) => ExitCode::FAILURE,
        })
    })
}

/// `None`: there is no such Service.
///
/// # Errors
/// Why nothing can be told; one line each.
async fn ask(args: &Args, chosen: &Chosen) -> Result<Option<Why>, Vec<String>> {
    let Chosen { reader, namespace, settings } = chosen;
    let Some(behind) = Box::pin(reader.behind(namespace, &args.service, settings)).await? else { return Ok(None) };
    let host = names::service_host(&args.service, namespace, &settings.cluster_domain);
    let from = args.client.iter().map(|client| client.namespace.clone()).collect();
    let found = Proxies::new(reader.clone(), namespace, from, usize::from(args.max_proxies)).find().await?;
    let mut not_seen = found.notes;
    let asked = |proxy: &crate::top::Proxy| match args.client.as_ref().and_then(|client| client.workload.as_ref()) {
        None => true,
        Some(workload) => proxy.workload.as_ref() == Some(workload) || proxy.pod == *workload,
    };
    let clients: Vec<_> = found.proxies.into_iter().filter(asked).collect();
    if clients.is_empty() && args.client.is_some() {
        let who =
            args.client.as_ref().map(|client| client.workload.clone().unwrap_or_else(|| client.namespace.clone()));
        return Err(vec![format!(
            "there is no running pod with a proxy of {}: clients need a sidecar",
            who.unwrap_or_default()
        )]);
    }
    let mut reads = Reads::new(reader.clone(), host, behind.target.ports.keys().copied().collect());
    let work = async {
        let start = Instant::now();
        let first = reads.read(&clients, &behind.servers).await;
        if args.looking.is_zero() {
            return (None, first, Duration::ZERO);
        }
        sleep(args.looking.saturating_sub(start.elapsed())).await;
        let looked = start.elapsed();
        (Some(first), reads.read(&clients, &behind.servers).await, looked)
    };
    let words = format!(
        "looking at the proxies of {} pods for {} s",
        clients.len() + behind.servers.len(),
        args.looking.as_secs()
    );
    let (first, last, looked) = patiently(&words, work).await;
    not_seen.extend(behind.not_seen);
    let (clients, mut unread) = pairs(first.as_ref().map(|first| &first.clients), last.clients);
    let (servers, of_servers) = pairs(first.as_ref().map(|first| &first.servers), last.servers);
    unread.extend(of_servers);
    unread.sort();
    unread.dedup();
    not_seen.extend(unread);
    let clients = callers(clients, args.client.is_some());
    let changes = reader.changes(namespace, behind.policy.as_ref(), &clients, behind.changes).await;
    let policy = behind.policy;
    let at = Timestamp::now();
    let seen =
        Seen { at, looked, target: behind.target, policy, clients, servers, peers: behind.peers, changes, not_seen };
    Ok(Some(judge(&seen)))
}

/// Readings of the same proxies, and which were not read.
fn pairs(first: Option<&Vec<Looked>>, last: Vec<Looked>) -> (Vec<ProxySeen>, Vec<String>) {
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for Looked { proxy, said } in last {
        let earlier = first.and_then(|first| first.iter().find(|one| one.proxy == proxy));
        match (said, earlier.map(|one| one.said.clone())) {
            (Err(why), _) | (Ok(_), Some(Err(why))) => {
                unread.push(format!("the proxy of {}/{}: {why}", proxy.namespace, proxy.pod));
            }
            (Ok(last), earlier) => read.push(ProxySeen { proxy, first: earlier.and_then(Result::ok), last }),
        }
    }
    (read, unread)
}
