//! From readings to rows.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Cause, CauseLine, Cluster, Ejected, History, Proxy, Refused, Row, Sample, State, Target, Top, Unread, Used,
    returns::Seen,
};

/// Readings that a row remembers.
const REMEMBERED: usize = 60;

/// One proxy, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Whose.
    pub proxy: Proxy,
    /// When, on a clock that never goes back and is the same for all readings.
    pub taken: Duration,
    /// What it said, or why it said nothing.
    pub sample: Result<Sample, String>,
}

/// What was read before, which the next reading is compared with.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last: BTreeMap<Proxy, (Duration, Sample)>,
    memories: BTreeMap<(Target, Proxy), Memory>,
}

#[derive(Clone, Debug, Default)]
struct Memory {
    seen: Seen,
    past: VecDeque<(Option<f64>, Option<f64>)>,
}

/// What was added between two readings.
struct Since<'a> {
    earlier: &'a Cluster,
    later: &'a Cluster,
    seconds: f64,
}

impl Watch {
    /// Takes one round of readings, of all proxies that there are, and tells it. `notes` say what was not looked at.
    pub fn take(&mut self, at: Timestamp, readings: Vec<Reading>, mut notes: Vec<String>) -> Top {
        let (mut rows, mut idle, mut unread) = (BTreeMap::new(), 0, Vec::new());
        let there: Vec<&Proxy> = readings.iter().map(|reading| &reading.proxy).collect();
        self.last.retain(|proxy, _| there.contains(&proxy));
        self.memories.retain(|(_, proxy), _| there.contains(&proxy));
        for Reading { proxy, taken, sample } in readings {
            let sample = match sample {
                Ok(sample) => sample,
                Err(why) => {
                    unread.push(Unread { client: proxy, why });
                    continue;
                }
            };
            let calls = sample.clusters.iter().filter(|(_, cluster)| has_called(cluster));
            let before = rows.len();
            for (target, cluster) in calls {
                let row = self.row(target, &proxy, cluster, taken);
                rows.insert((target.clone(), proxy.clone()), row);
            }
            idle += usize::from(rows.len() == before);
            self.last.insert(proxy, (taken, sample));
        }
        let rows: Vec<Row> = rows.into_values().collect();
        notes.extend(not_counted(&rows));
        Top { at, rows, idle, unread, notes }
    }

    fn row(&mut self, target: &Target, proxy: &Proxy, cluster: &Cluster, taken: Duration) -> Row {
        let last = self.last.get(proxy).and_then(|(when, sample)| Some((when, sample.clusters.get(target)?)));
        let earlier = last.map(|(_, earlier)| earlier);
        let since = last.and_then(|(when, earlier)| {
            let seconds = taken.checked_sub(*when)?.as_secs_f64();
            (seconds > 0.0).then_some(Since { earlier, later: cluster, seconds })
        });
        let memory = self.memories.entry((target.clone(), proxy.clone())).or_default();
        memory.seen.look(earlier, cluster, taken);
        let sent = since.as_ref().and_then(Since::sent);
        let requests_per_s = since.as_ref().zip(sent).map(|(since, sent)| since.per_s(sent));
        let refused = refused(since.as_ref(), cluster, sent);
        if memory.past.len() == REMEMBERED {
            memory.past.pop_front();
        }
        memory.past.push_back((requests_per_s, refused.per_s));
        let (requests, refusals) = memory.past.iter().copied().unzip();
        let ejected = cluster.endpoints.iter().filter(|(_, endpoint)| endpoint.ejected).map(|(address, _)| Ejected {
            endpoint: address.clone(),
            returns_within_s: memory.seen.at_most(address, cluster, taken).map(whole_seconds),
        });
        let ejected: Vec<Ejected> = ejected.collect();
        let of_limit = |used: Option<u64>, limit: &str| Used { used, allowed: cluster.limits.get(limit).copied() };
        let over_endpoints = |of: fn(&super::Endpoint) -> u64| Some(cluster.endpoints.values().map(of).sum::<u64>());
        let active = cluster.count("upstream_rq_active").or_else(|| over_endpoints(|endpoint| endpoint.active));
        let pending = cluster
            .count("upstream_rq_pending_active")
            .or_else(|| cluster.endpoints.values().map(|endpoint| endpoint.pending).sum());
        let connections =
            cluster.count("upstream_cx_active").or_else(|| over_endpoints(|endpoint| endpoint.connections));
        Row {
            host: target.host.clone(),
            port: target.port,
            subset: Some(target.subset.clone()).filter(|subset| !subset.is_empty()),
            client: proxy.clone(),
            states: states(since.as_ref(), &refused, &ejected, cluster),
            requests_per_s,
            active_requests: of_limit(active, "max_requests"),
            pending_requests: of_limit(pending, "max_pending_requests"),
            connections: of_limit(connections, "max_connections"),
            counted: !refused.by_cause.is_empty(),
            refused,
            endpoints: cluster.endpoints.len(),
            ejected,
            history: History { requests_per_s: requests, refused_per_s: refusals },
        }
    }
}

impl Since<'_> {
    /// What a counter went up by; `None`: it is not told, or began anew.
    fn added(&self, counter: &str) -> Option<u64> {
        // One that is told from now on began at 0 in between: Envoy makes some of them only when they are needed.
        let before = self.earlier.count(counter).or_else(|| self.earlier.sent().eq(&0).then_some(0))?;
        self.later.count(counter)?.checked_sub(before)
    }

    /// Requests that went to an endpoint.
    fn sent(&self) -> Option<u64> {
        if self.later.count("upstream_rq_total").is_some() {
            return self.added("upstream_rq_total");
        }
        let added = self.later.endpoints.iter().map(|(address, endpoint)| {
            let before = self.earlier.endpoints.get(address).map_or(0, |endpoint| endpoint.requests);
            endpoint.requests.checked_sub(before)
        });
        added.sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "requests of some seconds")]
    fn per_s(&self, number: u64) -> f64 {
        number as f64 / self.seconds
    }
}

fn has_called(cluster: &Cluster) -> bool {
    let counted = Cause::ALL.iter().map(|cause| cause.counter()).chain(["upstream_rq_total"]);
    cluster.sent() > 0 || counted.filter_map(|counter| cluster.count(counter)).any(|count| count > 0)
}

#[expect(clippy::cast_precision_loss, reason = "requests of some seconds")]
fn refused(since: Option<&Since<'_>>, cluster: &Cluster, sent: Option<u64>) -> Refused {
    let told = Cause::ALL.iter().filter_map(|cause| Some((*cause, cluster.count(cause.counter())?)));
    let added = |cause: Cause| since.and_then(|since| since.added(cause.counter()));
    let by_cause: Vec<CauseLine> = told
        .map(|(cause, total)| CauseLine {
            cause,
            per_s: since.zip(added(cause)).map(|(since, added)| since.per_s(added)),
            total,
        })
        .collect();
    let requests = by_cause.iter().map(|line| line.cause).filter(|cause| cause.is_request());
    // A part that is not known makes the sum unknown.
    let all: Option<u64> = if by_cause.is_empty() { None } else { requests.map(added).sum() };
    let percent = all.zip(sent).filter(|(all, sent)| all + sent > 0);
    Refused {
        per_s: since.zip(all).map(|(since, all)| since.per_s(all)),
        percent: percent.map(|(all, sent)| all as f64 * 100.0 / (all + sent) as f64),
        by_cause,
    }
}

fn states(since: Option<&Since<'_>>, refused: &Refused, ejected: &[Ejected], cluster: &Cluster) -> Vec<State> {
    let above_zero = |rate: Option<f64>| rate.is_some_and(|rate| rate > 0.0);
    let mut limits = refused.by_cause.iter().filter(|line| line.cause.is_limit());
    // Of no endpoint at all Envoy counts it as well, and sends nothing.
    let panics = !cluster.endpoints.is_empty()
        && since.and_then(|since| since.added("lb_healthy_panic")).is_some_and(|added| added > 0);
    let does = [
        (limits.clone().any(|line| above_zero(line.per_s)), State::Limiting),
        (!ejected.is_empty(), State::Ejecting),
        (panics, State::Panic),
    ];
    let mut states: Vec<State> = does.into_iter().filter(|(is_so, _)| *is_so).map(|(_, state)| state).collect();
    if states.is_empty() {
        // Without the counters of limits nobody knows that it is closed.
        let known = limits.clone().next().is_some() && limits.all(|line| line.per_s.is_some());
        states.push(if known { State::Closed } else { State::Unknown });
    }
    states
}

/// For whom what limits refuse is not known, and what to do about it (M8).
fn not_counted(rows: &[Row]) -> Option<String> {
    let mut pods: Vec<String> = rows
        .iter()
        .filter(|row| !row.counted)
        .map(|row| format!("{}/{}", row.client.namespace, row.client.pod))
        .collect();
    pods.sort();
    pods.dedup();
    let first = pods.first()?;
    let others = if pods.len() > 1 { format!(" and of {} others", pods.len() - 1) } else { String::new() };
    Some(format!(
        "the proxy of {first}{others} does not count what limits refuse: annotate the clients' pods with {SNIPPET}"
    ))
}

/// What makes a sidecar count what rows are made of.
const SNIPPET: &str = "sidecar.istio.io/statsInclusionPrefixes: cluster.outbound";

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
