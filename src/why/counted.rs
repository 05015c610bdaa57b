//! Signals that calls fail, out of whatever a proxy counts.

use super::{Reporter, Requests};
use crate::top::{Cluster, Endpoint};

/// What can be seen of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Calls that went to an endpoint, tries included.
    Sent,
    /// Calls that were above a limit of this proxy.
    Overflow,
    /// Retries that were above a limit of this proxy.
    RetryOverflow,
    /// Calls for which there was no endpoint that is well.
    NoHealthy,
    /// Calls or tries that were not answered in time.
    Timeout,
    /// Connections that did not come about.
    ConnectFail,
    /// Connections that ended under a call.
    Reset,
    /// Tries after the first one.
    Retry,
    /// Calls that failed after all their tries.
    RetryLimit,
    /// Answers with a 5xx, whoever gave them.
    Errors,
    /// Those of them that came from the other side of the call, and not from this proxy.
    Answered,
    /// Those of them that are 503.
    Unavailable,
    /// Calls for which no route leads anywhere.
    NoRoute,
    /// Calls that a fault of a route answered.
    Fault,
}

/// A counter, or a sum of some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// While it was looked; `None`: it was read once.
    pub added: Option<u64>,
    /// At the end.
    pub total: u64,
    /// Which.
    pub by: String,
}

impl Count {
    /// How far it moved, if it did.
    pub fn moved(&self) -> u64 {
        self.added.unwrap_or(0)
    }
}

/// What a proxy counts of one cluster.
pub(super) struct Tally<'a> {
    pub earlier: Option<&'a Cluster>,
    pub later: &'a Cluster,
    /// Of Istio's own metric, before and after, of the side of the call that the cluster is on.
    pub requests: Option<(&'a [Requests], &'a [Requests])>,
    pub reporter: Reporter,
    /// It was read twice.
    pub twice: bool,
}

/// A counter that every proxy has that tells all of a cluster: without it one that is not told is not 0, but unknown.
const TELLS_ALL: &str = "upstream_cx_destroy_remote_with_active_rq";

/// Calls that may end while a proxy prints its counters one after another, and so be in one of them and not in another.
const LITTLE: u64 = 50;

impl Signal {
    /// Envoy's counters of a cluster for it.
    const fn counters(self) -> &'static [&'static str] {
        match self {
            Self::Sent => &["upstream_rq_total"],
            Self::Overflow => &["upstream_rq_active_overflow", "upstream_rq_pending_overflow"],
            Self::RetryOverflow => &["upstream_rq_retry_overflow"],
            Self::NoHealthy => &["upstream_cx_none_healthy"],
            Self::Timeout => &["upstream_rq_timeout", "upstream_rq_per_try_timeout"],
            Self::ConnectFail => &["upstream_cx_connect_fail"],
            Self::Reset => &[TELLS_ALL],
            Self::Retry => &["upstream_rq_retry"],
            Self::RetryLimit => &["upstream_rq_retry_limit_exceeded"],
            Self::Errors => &["upstream_rq_5xx"],
            Self::Unavailable => &["upstream_rq_503"],
            Self::Answered | Self::NoRoute | Self::Fault => &[],
        }
    }

    /// Envoy makes some counters when they are needed first.
    const fn comes_late(self) -> bool {
        matches!(self, Self::Errors | Self::Unavailable)
    }

    /// Whether calls of that kind belong to it; flags of Envoy's access log.
    fn takes(self, requests: &Requests) -> bool {
        let flags: &[&str] = match self {
            Self::Sent => return requests.flags.is_empty(),
            Self::Errors => return requests.code >= 500,
            Self::Answered => return requests.code >= 500 && requests.flags.is_empty(),
            Self::Unavailable => return requests.code == 503,
            Self::Overflow => &["UO"],
            Self::NoHealthy => &["UH"],
            Self::Timeout => &["UT"],
            Self::ConnectFail => &["UF"],
            Self::Reset => &["UC", "UR"],
            Self::RetryLimit => &["URX"],
            Self::NoRoute => &["NR", "NC"],
            Self::Fault => &["FI"],
            Self::Retry | Self::RetryOverflow => return false,
        };
        requests.flags.split(',').any(|flag| flags.contains(&flag))
    }

    fn is_in_metric(self) -> bool {
        !matches!(self, Self::Retry | Self::RetryOverflow)
    }
}

impl Tally<'_> {
    /// What is counted of it; `None`: it is not counted there.
    pub fn count(&self, signal: Signal) -> Option<Count> {
        self.by_counters(signal).or_else(|| self.by_metric(signal)).or_else(|| self.by_endpoints(signal))
    }

    /// Answers with a 5xx that this proxy did not give itself; `own` are the signals that it does so by. Of one source
    /// alone: others are read at another instant. Nor are the counters of one reading of one instant: what is left of many
    /// is nothing, if it is [`LITTLE`].
    pub fn answered(&self, own: &[Signal]) -> Option<Count> {
        let Some(mut errors) = self.by_counters(Signal::Errors) else {
            return self.by_metric(Signal::Answered).or_else(|| self.by_endpoints(Signal::Answered));
        };
        let own: Vec<Count> = own.iter().filter_map(|signal| self.by_counters(*signal)).collect();
        let rest = |all: u64, own: u64| {
            let rest = all.saturating_sub(own);
            if rest > own / 20 || rest > LITTLE { rest } else { 0 }
        };
        errors.added = errors.added.map(|added| rest(added, own.iter().map(Count::moved).sum()));
        // What is little beside all that was ever refused may be much of now.
        errors.total = rest(errors.total, own.iter().map(|one| one.total).sum()).max(errors.moved());
        Some(errors)
    }

    fn by_counters(&self, signal: Signal) -> Option<Count> {
        let tells_all = self.later.count(TELLS_ALL).is_some();
        let told: Vec<&str> =
            signal.counters().iter().copied().filter(|name| self.later.count(name).is_some()).collect();
        if told.is_empty() {
            let is_none_yet = signal.comes_late() && tells_all;
            return is_none_yet.then(|| self.sum(0, 0, signal.counters().join(" + ")));
        }
        // An Envoy before 1.38 has no `upstream_rq_active_overflow`; one that tells a part of them tells no sum.
        if told.len() < signal.counters().len() && !tells_all {
            return None;
        }
        let of = |cluster: &Cluster| told.iter().filter_map(|name| cluster.count(name)).sum::<u64>();
        let not_zero = |name: &&str| self.later.count(name) != Some(0);
        let moved = |name: &&str| self.earlier.and_then(|earlier| earlier.count(name)) != self.later.count(name);
        let some: Vec<&str> = told.iter().copied().filter(not_zero).collect();
        let now: Vec<&str> = some.iter().copied().filter(moved).collect();
        // Those that tell it: what moved, or else what ever did.
        let by = [now, some, told.clone()].into_iter().find(|names| !names.is_empty()).unwrap_or_default().join(" + ");
        Some(self.sum(self.earlier.map_or(0, of), of(self.later), by))
    }

    fn by_metric(&self, signal: Signal) -> Option<Count> {
        let (before, after) = self.requests?;
        if !signal.is_in_metric() || after.is_empty() {
            return None;
        }
        let of = |all: &[Requests]| {
            let own = all.iter().filter(|one| one.reporter == self.reporter && signal.takes(one));
            own.map(|one| one.number).sum::<u64>()
        };
        let mut flags: Vec<&str> = after
            .iter()
            .filter(|one| signal.takes(one))
            .map(|one| one.flags.as_str())
            .filter(|flags| !flags.is_empty())
            .collect();
        flags.sort_unstable();
        flags.dedup();
        let flags = if flags.is_empty() { String::new() } else { format!(", response_flags {}", flags.join(" ")) };
        Some(self.sum(of(before), of(after), format!("istio_requests_total{flags}")))
    }

    /// Of what `/clusters` says of each endpoint, which every proxy tells. A call that a limit refused is an error of
    /// an endpoint that it never got.
    fn by_endpoints(&self, signal: Signal) -> Option<Count> {
        let (of, by): (fn(&Endpoint, &Endpoint) -> u64, _) = match signal {
            Signal::Sent => (|before, after| more(before.requests, after.requests), "rq_total of its endpoints"),
            Signal::Timeout => (|before, after| more(before.timeouts, after.timeouts), "rq_timeout of its endpoints"),
            Signal::ConnectFail => (
                |before, after| more(before.connect_failures, after.connect_failures),
                "cx_connect_fail of its endpoints",
            ),
            Signal::Errors => (|before, after| more(before.errors, after.errors), "rq_error of its endpoints"),
            Signal::Overflow => (never_sent, "rq_error of its endpoints without rq_total"),
            Signal::Answered => (answered_badly, "rq_total of its endpoints without rq_success"),
            _ => return None,
        };
        // Endpoints that went took their numbers with them.
        let new = Endpoint::default();
        let total = self.later.endpoints.values().map(|after| of(&new, after)).sum();
        let added = self.later.endpoints.iter().map(|(address, after)| {
            let before = self.earlier.and_then(|earlier| earlier.endpoints.get(address)).unwrap_or(&new);
            of(before, after)
        });
        let added: u64 = added.sum();
        Some(Count { added: self.twice.then_some(added), total, by: by.to_owned() })
    }

    fn sum(&self, before: u64, after: u64, by: String) -> Count {
        Count { added: self.twice.then_some(more(before, after)), total: after, by }
    }
}

/// What a counter went up by: one that is smaller than before began anew.
fn more(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

/// Calls that were an endpoint's and that it never got: neither answered, nor late, nor without a connection. At the
/// least: what was under way before may have ended since.
fn never_sent(before: &Endpoint, after: &Endpoint) -> u64 {
    let unwell = more(before.requests, after.requests).saturating_sub(more(before.successes, after.successes));
    let lost = unwell + more(before.connect_failures, after.connect_failures) + before.active;
    more(before.errors, after.errors).saturating_sub(lost)
}

/// Calls that it got and did not answer well in time. At the least: what is under way may still be.
fn answered_badly(before: &Endpoint, after: &Endpoint) -> u64 {
    let well = more(before.successes, after.successes) + more(before.timeouts, after.timeouts) + after.active;
    more(before.requests, after.requests).saturating_sub(well)
}
