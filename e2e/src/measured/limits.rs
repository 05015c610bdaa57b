//! Connection pools: what is limited, where, and what is refused.

mod delivery;
mod server;

use anyhow::{Result, ensure};
use serde_json::json;

use super::raw_stage::{CLIENT, RawStage, ensure_mixed};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::envoy::Stats;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::scenarios::stage::{PORT, SOON};
use crate::workloads::{start_in, with_images};

/// A client like [`CLIENT`].
const SECOND: &str = "deploy/second";
/// A client whose proxy has two worker threads and the statistics of any injected pod.
const QUIET: &str = "deploy/quiet";

const CLAIMS: &[Claim<RawStage>] = &[
    Claim {
        ids: &["M1"],
        says: "one connection, one waiting request: one caller is never refused, two and three are now and then",
        judge: the_sample_trips,
    },
    Claim {
        ids: &["M2"],
        says: "an edit reaches the Envoy by itself, and edits in quick succession reach it as fewer pushes",
        judge: delivery::edits_are_gathered,
    },
    Claim {
        ids: &["M3"],
        says: "of two DestinationRules with equal exportTo the oldest has the host; subsets of both are there",
        judge: delivery::the_oldest_wins,
    },
    Claim {
        ids: &["M4"],
        says: "of two DestinationRules with unequal exportTo the youngest has the host, whichever is the wider",
        judge: delivery::the_youngest_wins,
    },
    Claim { ids: &["M6"], says: "maxConnections alone makes calls wait and refuses none", judge: connections_queue },
    Claim {
        ids: &["M7"],
        says: "http2MaxRequests limits HTTP/1.1 too, and counts what it refuses as active overflow",
        judge: requests_are_refused,
    },
    Claim {
        ids: &["M8"],
        says: "a proxy without statsInclusionPrefixes tells nothing of overflows and ejections, and none tells what remains",
        judge: statistics_are_opted_into,
    },
    Claim {
        ids: &["M9"],
        says: "a connectionPool also limits the server's own sidecar, for all clients together",
        judge: server::is_limited_too,
    },
    Claim {
        ids: &["M10"],
        says: "what the server's sidecar refuses counts as 5xx at the clients: the only healthy endpoint is ejected",
        judge: server::is_ejected_for_its_limit,
    },
    Claim {
        ids: &["M11"],
        says: "a Sidecar that lifts the server's limit cures both, and each client still keeps its own",
        judge: server::is_cured_by_a_sidecar,
    },
    Claim {
        ids: &["M12"],
        says: "with three endpoints and 67 per cent, two healthy ones are ejected for their limit",
        judge: server::two_of_three_are_ejected,
    },
    Claim {
        ids: &["M13"],
        says: "two field managers share one DestinationRule, and what one gives up leaves the other's untouched",
        judge: delivery::two_managers_share_a_rule,
    },
    Claim {
        ids: &["M14"],
        says: "an EnvoyFilter merges into what a rule made, and always_eject_one_host goes beyond its percentage",
        judge: delivery::an_envoy_filter_merges,
    },
    Claim {
        ids: &["M15"],
        says: "istiod's debug interface tells the mesh to istio-system, and to others only of their own proxies",
        judge: delivery::debug_by_identity,
    },
    Claim {
        ids: &["M76"],
        says: "connections cannot be fewer than worker threads times endpoints",
        judge: connections_have_a_floor,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "limits", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-limits", |kubectl| {
        kubectl.apply(&with_images(&manifest(checkout, "measured-clients.yaml")?))?;
        start_in(checkout, kubectl)?;
        [SECOND, QUIET].iter().try_for_each(|client| kubectl.rolled_out(client, SOON * 2))?;
        let stage = RawStage::set(kubectl, "httpbin", &[CLIENT, SECOND, QUIET], true)?;
        judge.all(&stage, CLAIMS, RawStage::sweep);
        Ok(())
    })
}

/// With one caller the next call comes when the connection before is closed, and waits alone for the new
/// one. With two, one waits already.
fn the_sample_trips(stage: &RawStage) -> Result<()> {
    stage.rule(&json!({"connectionPool": {
        "tcp": {"maxConnections": 1},
        "http": {"http1MaxPendingRequests": 1, "maxRequestsPerConnection": 1},
    }}))?;
    stage.until_limit(CLIENT, "max_pending_requests", 1)?;
    let alone = stage.call(CLIENT, "/get", 1, 100)?;
    ensure!(alone.status(200) == 100, "one caller is refused: {alone:?}");
    for callers in [2, 3] {
        let (answers, counted) = stage.meanwhile(&[CLIENT], || stage.call(CLIENT, "/get", callers, 300))?;
        ensure_mixed(&answers)?;
        let overflows = counted[0].outbound(&stage.host(), PORT, "upstream_rq_pending_overflow");
        ensure!(
            overflows == answers.status(503),
            "{callers} callers: {answers:?}, but the client's Envoy counted {overflows} pending overflows"
        );
    }
    Ok(())
}

fn connections_queue(stage: &RawStage) -> Result<()> {
    stage.rule(&json!({"connectionPool": {"tcp": {"maxConnections": 1}}}))?;
    stage.until_limit(CLIENT, "max_connections", 1)?;
    let (answers, counted) = stage.meanwhile(&[CLIENT], || stage.call(CLIENT, "/get", 8, 200))?;
    ensure!(answers.status(200) == 200, "some calls were refused: {answers:?}");
    let count = |counter: &str| counted[0].outbound(&stage.host(), PORT, counter);
    ensure!(count("upstream_cx_overflow") > 0, "no call had to wait for the connection");
    let refused = count("upstream_rq_pending_overflow") + count("upstream_rq_active_overflow");
    ensure!(refused == 0, "the client's Envoy counted {refused} refused calls");
    Ok(())
}

fn requests_are_refused(stage: &RawStage) -> Result<()> {
    stage.lift_the_servers_limit()?;
    stage.rule_for_requests(2)?;
    let (answers, counted) = stage.meanwhile(&[CLIENT], || stage.call(CLIENT, "/get", 8, 400))?;
    ensure_mixed(&answers)?;
    let count = |counter: &str| counted[0].outbound(&stage.host(), PORT, counter);
    let (active, pending) = (count("upstream_rq_active_overflow"), count("upstream_rq_pending_overflow"));
    ensure!(
        active == answers.status(503) && pending == 0,
        "{answers:?}, but the client's Envoy counted {active} active and {pending} pending overflows"
    );
    Ok(())
}

fn statistics_are_opted_into(stage: &RawStage) -> Result<()> {
    stage.rule(&json!({
        "connectionPool": {"http": {"http2MaxRequests": 1}},
        "outlierDetection": {"consecutive5xxErrors": 100},
    }))?;
    let names = |client: &str| -> Result<Vec<String>> {
        let text = stage.kubectl.exec(client, "istio-proxy", &["pilot-agent", "request", "GET", "stats"])?;
        Ok(text.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name.to_owned()).collect())
    };
    let host = stage.host();
    let tells = |names: &[String], part: &str| names.iter().any(|name| name.contains(&host) && name.contains(part));
    for client in [CLIENT, QUIET] {
        stage.until_limit(client, "max_requests", 1)?;
        ensure_mixed(&stage.call(client, "/get", 4, 200)?)?;
    }
    let (loud, quiet) = (names(CLIENT)?, names(QUIET)?);
    ensure!(quiet.iter().any(|name| name == "server.concurrency"), "the quiet proxy tells no statistics at all");
    for part in ["upstream_rq_active_overflow", "outlier_detection.ejections_active"] {
        ensure!(tells(&loud, part), "the proxy with statsInclusionPrefixes does not tell {part}");
        ensure!(!tells(&quiet, part), "the proxy without statsInclusionPrefixes tells {part}");
    }
    let remaining = loud.iter().chain(&quiet).find(|name| name.contains(".remaining_"));
    ensure!(remaining.is_none(), "a proxy tells what remains: {remaining:?}");
    Ok(())
}

/// Each worker thread has a pool of its own for each endpoint, and a pool's first connection is always
/// granted. Above that a thread does not see the connection that another is just opening.
fn connections_have_a_floor(stage: &RawStage) -> Result<()> {
    let workers = Stats::of(&stage.kubectl, QUIET)?.value("server.concurrency");
    ensure!(workers == 2, "the client has {workers} worker threads, not 2");
    for (endpoints, limit) in [(1, 1), (1, 2), (1, 4), (3, 1), (3, 4)] {
        stage.endpoints(endpoints)?;
        stage.rule(&json!({"connectionPool": {"tcp": {"maxConnections": limit}}}))?;
        stage.until_limit(QUIET, "max_connections", limit)?;
        let answers = stage.call(QUIET, "/delay/0.02", 16, 160)?;
        ensure!(answers.status(200) == 160, "maxConnections refuses calls: {answers:?}");
        // They stay open: nothing closes an idle one so soon.
        let open: u64 = stage.open_connections(QUIET)?.iter().sum();
        let floor = workers * endpoints;
        let most = if limit > 1 { limit + floor - 1 } else { floor };
        ensure!(
            (floor.max(limit)..=most).contains(&open),
            "maxConnections {limit}, {workers} threads, {endpoints} endpoints: {open} connections, not between {} and {most}",
            floor.max(limit)
        );
    }
    Ok(())
}
