//! What the admin interface of a proxy says of some hosts, as numbers.
//!
//! `/clusters` has limits, endpoints and what was sent to each, always; `/stats` has what was refused, if the proxy
//! is told to count it (M8); the configuration has for how long an endpoint is ejected.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::istio::{NO_LIMIT, Outbound, literal};

/// Envoy's own, where the configuration says nothing (envoy `config/cluster/v3/outlier_detection.proto`).
const BASE: Duration = Duration::from_secs(30);
const MAX: Duration = Duration::from_mins(5);
const INTERVAL: Duration = Duration::from_secs(10);

/// Counters and gauges of a cluster that rows, and the causes of `why`, are made of.
const COUNTED: [&str; 18] = [
    "lb_healthy_panic",
    "outlier_detection.ejections_enforced_total",
    "upstream_cx_active",
    "upstream_cx_connect_fail",
    "upstream_cx_destroy_remote_with_active_rq",
    "upstream_cx_none_healthy",
    "upstream_rq_503",
    "upstream_rq_5xx",
    "upstream_rq_active",
    "upstream_rq_active_overflow",
    "upstream_rq_pending_active",
    "upstream_rq_pending_overflow",
    "upstream_rq_per_try_timeout",
    "upstream_rq_retry",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_timeout",
    "upstream_rq_total",
];

/// What is called: a port of a host, or a subset of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Fully qualified.
    pub host: String,
    /// Of the Service, not of the pods.
    pub port: u16,
    /// The subset of a DestinationRule; empty: none.
    pub subset: String,
}

impl Target {
    /// From the name that istiod gives its cluster.
    #[must_use]
    pub fn of_cluster(name: &str) -> Option<Self> {
        let Outbound { port, subset, host } = Outbound::parse(name)?;
        Some(Self { host: host.to_owned(), port, subset: subset.to_owned() })
    }

    fn cluster(&self) -> String {
        Outbound { port: self.port, subset: &self.subset, host: &self.host }.to_string()
    }
}

/// Which hosts are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Host(String),
    /// All Services of a namespace; of both the name, and the cluster's domain.
    Namespace(String, String),
}

impl Wanted {
    fn takes(&self, host: &str) -> bool {
        match self {
            Self::Host(wanted) => host == wanted,
            Self::Namespace(namespace, domain) => host
                .split_once('.')
                .and_then(|(_, rest)| rest.strip_prefix(namespace.as_str()))
                .and_then(|rest| rest.strip_prefix(".svc."))
                .is_some_and(|rest| rest == domain),
        }
    }

    fn hosts(&self) -> String {
        match self {
            Self::Host(host) => literal(host),
            Self::Namespace(namespace, domain) => format!("[^.|]+{}", literal(&format!(".{namespace}.svc.{domain}"))),
        }
    }

    /// The `filter` of `/stats` that lets through what rows are made of, and nothing else.
    #[must_use]
    pub fn stats_filter(&self) -> String {
        stats_of(&format!(r"outbound\|[0-9]+\|[^|]*\|{}", self.hosts()))
    }

    /// The same, and what a proxy counts of the calls that it takes for its own pod.
    #[must_use]
    pub fn stats_filter_of_both_sides(&self) -> String {
        stats_of(&format!(r"(outbound\|[0-9]+\|[^|]*\|{}|inbound\|[0-9]+\|\|)", self.hosts()))
    }

    /// The `name_regex` of `/config_dump` that finds their clusters.
    #[must_use]
    pub fn name_regex(&self) -> String {
        format!(r"^outbound\|[0-9]+\|[^|]*\|{}$", self.hosts())
    }
}

fn stats_of(clusters: &str) -> String {
    let names: Vec<String> = COUNTED.iter().map(|name| literal(name)).collect();
    // Newer versions of Istio end a cluster's name with `;`.
    format!(r"^cluster\.{clusters};?\.({})$", names.join("|"))
}

/// One proxy at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// What it has of each target.
    pub clusters: BTreeMap<Target, Cluster>,
}

/// What a proxy has of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its limits by Envoy's names, as `max_requests`; one that is not there is none.
    pub limits: BTreeMap<String, u64>,
    /// Its endpoints by address.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Counters and gauges by their names in the cluster; empty: the proxy does not tell any.
    pub counted: BTreeMap<String, u64>,
    /// How long its ejections last; `None`: not read, or none is declared.
    pub ejection: Option<EjectionTimes>,
}

/// What a proxy has of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether outlier detection has ejected it.
    pub ejected: bool,
    /// Whether the proxy sends it nothing, for this or for any other reason.
    pub out: bool,
    /// Requests that were sent to it.
    pub requests: u64,
    /// Those of them that it answered, and not with a 5xx.
    pub successes: u64,
    /// Calls that ended with a 5xx while it was to take them, whoever gave it: also those that were never sent.
    pub errors: u64,
    /// Requests that it did not answer in time.
    pub timeouts: u64,
    /// Connections to it that failed.
    pub connect_failures: u64,
    /// Requests that it has not answered yet.
    pub active: u64,
    /// Requests that wait for a connection to it; `None`: an Envoy that does not tell.
    pub pending: Option<u64>,
    /// Connections to it.
    pub connections: u64,
}

/// How long an endpoint stays ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionTimes {
    /// For each time that it was ejected.
    pub base: Duration,
    /// At the longest, unless `base` is longer.
    pub max: Duration,
    /// By chance, up to so much longer.
    pub jitter: Duration,
    /// How often Envoy looks whose time is over.
    pub interval: Duration,
}

impl Sample {
    /// From what `/clusters` and `/stats` say.
    #[must_use]
    pub fn read(clusters: &str, stats: &str, wanted: &Wanted) -> Self {
        let mut sample = Self::default();
        for line in clusters.lines() {
            sample.cluster_line(line, wanted);
        }
        let by_name: BTreeMap<String, Target> =
            sample.clusters.keys().map(|target| (target.cluster(), target.clone())).collect();
        for (cluster, counter, value) in stats.lines().filter_map(stat) {
            if let Some(cluster) = by_name.get(cluster).and_then(|target| sample.clusters.get_mut(target)) {
                cluster.counted.insert(counter.to_owned(), value);
            }
        }
        sample
    }

    /// Adds how long ejections last, from what `/config_dump?resource=dynamic_active_clusters` says.
    pub fn add_ejection_times(&mut self, dump: &Value) {
        let configs = dump.get("configs").and_then(Value::as_array).into_iter().flatten();
        for cluster in configs.filter_map(|config| config.get("cluster")) {
            let target = cluster.get("name").and_then(Value::as_str).and_then(Target::of_cluster);
            let there = target.and_then(|target| self.clusters.get_mut(&target));
            if let (Some(there), Some(declared)) = (there, cluster.get("outlier_detection")) {
                let time = |field: &str, unset| declared.get(field).and_then(duration).unwrap_or(unset);
                there.ejection = Some(EjectionTimes {
                    base: time("base_ejection_time", BASE),
                    max: time("max_ejection_time", MAX),
                    jitter: time("max_ejection_time_jitter", Duration::ZERO),
                    interval: time("interval", INTERVAL),
                });
            }
        }
    }

    /// Whether any endpoint is ejected.
    #[must_use]
    pub fn ejects(&self) -> bool {
        self.clusters.values().flat_map(|cluster| cluster.endpoints.values()).any(|endpoint| endpoint.ejected)
    }

    /// `CLUSTER::SUBJECT::FIELD::VALUE`.
    fn cluster_line(&mut self, line: &str, wanted: &Wanted) {
        let Some((name, rest)) = line.split_once("::") else { return };
        let Some(target) = Target::of_cluster(name).filter(|target| wanted.takes(&target.host)) else { return };
        self.clusters.entry(target).or_default().line(rest);
    }
}

/// What a proxy has of the ports of its own pod, by the port of the container.
#[must_use]
pub fn inbound(clusters: &str, stats: &str) -> BTreeMap<u16, Cluster> {
    let port = |cluster: &str| cluster.strip_prefix("inbound|")?.strip_suffix("||")?.parse::<u16>().ok();
    let mut ports: BTreeMap<u16, Cluster> = BTreeMap::new();
    for (cluster, rest) in clusters.lines().filter_map(|line| line.split_once("::")) {
        if let Some(port) = port(cluster) {
            ports.entry(port).or_default().line(rest);
        }
    }
    for (cluster, counter, value) in stats.lines().filter_map(stat) {
        if let Some(there) = port(cluster).and_then(|port| ports.get_mut(&port)) {
            there.counted.insert(counter.to_owned(), value);
        }
    }
    ports
}

impl Cluster {
    /// `SUBJECT::FIELD::VALUE`; an IPv6 address has `::` in it as well.
    fn line(&mut self, line: &str) {
        let mut parts = line.rsplitn(3, "::");
        let (Some(value), Some(field), Some(subject)) = (parts.next(), parts.next(), parts.next()) else { return };
        let number = value.parse::<u64>().ok();
        match subject {
            "default_priority" => {
                if let Some(limit) = number.filter(|limit| *limit < NO_LIMIT) {
                    self.limits.insert(field.to_owned(), limit);
                }
            }
            "high_priority" | "outlier" => {}
            address => {
                let endpoint = self.endpoints.entry(address.to_owned()).or_default();
                match (field, number) {
                    ("health_flags", _) => {
                        endpoint.ejected = value.contains("/failed_outlier_check");
                        endpoint.out = value.contains("/failed");
                    }
                    ("rq_total", Some(number)) => endpoint.requests = number,
                    ("rq_success", Some(number)) => endpoint.successes = number,
                    ("rq_error", Some(number)) => endpoint.errors = number,
                    ("rq_timeout", Some(number)) => endpoint.timeouts = number,
                    ("cx_connect_fail", Some(number)) => endpoint.connect_failures = number,
                    ("rq_active", Some(number)) => endpoint.active = number,
                    ("rq_pending_active", number) => endpoint.pending = number,
                    ("cx_active", Some(number)) => endpoint.connections = number,
                    _ => {}
                }
            }
        }
    }

    /// A counter or gauge, if the proxy tells it.
    #[must_use]
    pub fn count(&self, name: &str) -> Option<u64> {
        self.counted.get(name).copied()
    }

    /// Requests that were sent to endpoints that are there now.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.endpoints.values().map(|endpoint| endpoint.requests).sum()
    }
}

/// The cluster, the counter and the number of a line of `/stats`.
fn stat(line: &str) -> Option<(&str, &str, u64)> {
    let (name, value) = line.strip_prefix("cluster.")?.rsplit_once(": ")?;
    let (cluster, counter) = counter(name)?;
    Some((cluster, counter, value.trim().parse().ok()?))
}

/// The cluster and the counter of a name of `/stats`, without its `cluster.`.
fn counter(name: &str) -> Option<(&str, &str)> {
    COUNTED.iter().find_map(|counter| {
        let cluster = name.strip_suffix(counter)?.strip_suffix('.')?;
        Some((cluster.strip_suffix(';').unwrap_or(cluster), *counter))
    })
}

/// As protobuf writes it in JSON: seconds with an `s`.
fn duration(value: &Value) -> Option<Duration> {
    let seconds: f64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "a.shop.svc.cluster.local";

    fn target() -> Target {
        Target { host: HOST.to_owned(), port: 80, subset: String::new() }
    }

    #[test]
    fn limits_endpoints_and_counters_are_read_of_what_is_wanted_alone() {
        let clusters = "outbound|80||a.shop.svc.cluster.local::default_priority::max_requests::5\n\
            outbound|80||a.shop.svc.cluster.local::default_priority::max_retries::4294967295\n\
            outbound|80||a.shop.svc.cluster.local::high_priority::max_requests::1024\n\
            outbound|80||a.shop.svc.cluster.local::outlier::success_rate_average::-1\n\
            outbound|80||a.shop.svc.cluster.local::added_via_api::true\n\
            outbound|80||a.shop.svc.cluster.local::10.0.0.1:8080::rq_total::7\n\
            outbound|80||a.shop.svc.cluster.local::10.0.0.1:8080::hostname::\n\
            outbound|80||a.shop.svc.cluster.local::10.0.0.1:8080::health_flags::healthy\n\
            outbound|80||a.shop.svc.cluster.local::[fd00::2]:8080::rq_active::2\n\
            outbound|80||a.shop.svc.cluster.local::[fd00::2]:8080::rq_pending_active::4\n\
            outbound|80||a.shop.svc.cluster.local::[fd00::2]:8080::cx_active::1\n\
            outbound|80||a.shop.svc.cluster.local::[fd00::2]:8080::health_flags::/failed_outlier_check/degraded\n\
            outbound|80||b.shop.svc.cluster.local::10.0.0.9:8080::rq_total::1\n\
            inbound|8080||::10.0.0.1:8080::rq_total::1\n";
        let stats = "cluster.outbound|80||a.shop.svc.cluster.local;.upstream_rq_total: 9\n\
            cluster.outbound|80||a.shop.svc.cluster.local.upstream_rq_pending_overflow: 3\n\
            cluster.outbound|80||b.shop.svc.cluster.local;.upstream_rq_total: 9\n";
        let sample = Sample::read(clusters, stats, &Wanted::Host(HOST.to_owned()));
        assert_eq!(sample.clusters.len(), 1);
        let cluster = &sample.clusters[&target()];
        assert_eq!(cluster.limits, BTreeMap::from([("max_requests".to_owned(), 5)]));
        let first = Endpoint { requests: 7, ..Endpoint::default() };
        let second =
            Endpoint { ejected: true, out: true, active: 2, pending: Some(4), connections: 1, ..Endpoint::default() };
        assert_eq!(
            cluster.endpoints,
            BTreeMap::from([("10.0.0.1:8080".to_owned(), first), ("[fd00::2]:8080".to_owned(), second)])
        );
        assert_eq!(cluster.count("upstream_rq_total"), Some(9));
        assert_eq!(cluster.count("upstream_rq_pending_overflow"), Some(3));
        assert_eq!(cluster.count("upstream_rq_active_overflow"), None);
        assert!(sample.ejects());
    }

    #[test]
    fn all_services_of_a_namespace_are_wanted_and_none_of_another() {
        let wanted = Wanted::Namespace("shop".to_owned(), "cluster.local".to_owned());
        assert!(wanted.takes(HOST));
        for other in ["a.shop2.svc.cluster.local", "a.b.shop.svc.cluster.local", "a.shop.svc.cluster.local.x", "shop"] {
            assert!(!wanted.takes(other), "{other}");
        }
        assert_eq!(wanted.name_regex(), r"^outbound\|[0-9]+\|[^|]*\|[^.|]+\.shop\.svc\.cluster\.local$");
    }

    #[test]
    fn ejection_times_are_those_of_the_configuration_and_envoys_own_where_it_is_silent() {
        let mut sample = Sample { clusters: BTreeMap::from([(target(), Cluster::default())]) };
        let dump = |declared: Value| json!({"configs": [{"cluster": {"name": target().cluster(), "outlier_detection": declared}}]});
        sample.add_ejection_times(&dump(json!({"interval": "1s", "base_ejection_time": "0.500s"})));
        let half = Duration::from_millis(500);
        let read = EjectionTimes { base: half, max: MAX, jitter: Duration::ZERO, interval: Duration::from_secs(1) };
        assert_eq!(sample.clusters[&target()].ejection, Some(read));
        sample.add_ejection_times(&dump(json!({})));
        let unset = EjectionTimes { base: BASE, max: MAX, jitter: Duration::ZERO, interval: INTERVAL };
        assert_eq!(sample.clusters[&target()].ejection, Some(unset));
    }
}
