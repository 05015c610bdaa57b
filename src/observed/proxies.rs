//! What istiod says of one proxy: what it generates for it, and what the proxy acknowledged of what was sent.

use std::{collections::BTreeMap, fmt, hash::Hasher as _};

use serde_json::Value;

use crate::istio::{NO_LIMIT, Outbound};

/// Values by the words of the API, as text; times in milliseconds.
pub type Values = BTreeMap<&'static str, String>;

/// One proxy that is connected to an istiod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// `POD.NAMESPACE`, as istiod calls it.
    pub name: String,
    /// A gateway: the routes of the mesh are not for it.
    pub is_gateway: bool,
    /// Of the hosts that were asked for, the clusters that istiod generates for it.
    pub clusters: Vec<Cluster>,
    /// Likewise the routes of those hosts.
    pub routes: Vec<Routes>,
    /// What it said to the clusters that it was sent last.
    pub told_clusters: Told,
    /// Likewise to the routes.
    pub told_routes: Told,
    /// Clusters that it refused, as they still are, and that istiod has no word of any more; with its text.
    pub refused_before: BTreeMap<String, String>,
}

/// What a proxy said to the last configuration of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Nonce of what was sent last; empty: nothing was.
    pub sent: String,
    /// Nonce that was acknowledged last.
    pub acknowledged: String,
    /// Why it refused what was sent last; empty: it did not.
    pub refusal: String,
}

impl Told {
    /// The last was taken. An empty one was never sent, so nothing is known.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        !self.sent.is_empty() && self.sent == self.acknowledged && self.refusal.is_empty()
    }
}

/// The Istio object that a cluster or route was made from (istio `pilot/pkg/networking/util/util.go`,
/// `AddConfigInfoMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Its kind, as it is spelled in an object.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Origin {
    /// From `/apis/GROUP/VERSION/namespaces/NAMESPACE/destination-rule/NAME`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
        let (namespace, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        let capital = |word: &str| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
        };
        let kind = kind.split('-').map(capital).collect();
        Some(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn of(holder: &Value) -> Option<Self> {
        Self::parse(holder.pointer("/metadata/filterMetadata/istio/config")?.as_str()?)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A cluster by which a proxy calls a port of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `outbound|PORT||HOST`.
    pub name: String,
    /// Port of the target.
    pub port: u16,
    /// Fully qualified host.
    pub host: String,
    /// The rule that it was made from; `None`: no rule.
    pub origin: Option<Origin>,
    /// What it limits and ejects by.
    pub values: Values,
    /// Of all that it holds, to see whether it is still the same.
    pub fingerprint: u64,
}

impl Cluster {
    /// Port and host of a cluster's name; `None` if it is of a subset, or leads to no host.
    #[must_use]
    pub fn parse_name(name: &str) -> Option<(u16, &str)> {
        let Outbound { port, subset, host } = Outbound::parse(name)?;
        subset.is_empty().then_some((port, host))
    }

    /// A cluster as istiod prints it; `None` as with [`Cluster::parse_name`].
    #[must_use]
    pub fn read(cluster: &Value) -> Option<Self> {
        let name = cluster.get("name")?.as_str()?;
        let (port, host) = Self::parse_name(name)?;
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(cluster.to_string().as_bytes());
        Some(Self {
            name: name.to_owned(),
            port,
            host: host.to_owned(),
            origin: Origin::of(cluster),
            values: cluster_values(cluster),
            fingerprint: hasher.finish(),
        })
    }
}

/// The routes of a host on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Port of the target.
    pub port: u16,
    /// Fully qualified host.
    pub host: String,
    /// What its first route was made from; `None`: no VirtualService.
    pub origin: Option<Origin>,
    /// What its first route does.
    pub values: Values,
}

impl Routes {
    /// Of one table of routes those of the hosts that are `wanted`.
    #[must_use]
    pub fn read(table: &Value, wanted: impl Fn(&str) -> bool) -> Vec<Self> {
        let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
        // `8000`, or `HOST:8000` where the protocol of the port is found out; a gateway's is neither.
        let Some(port) = name.rsplit(':').next().and_then(|port| port.parse().ok()) else { return Vec::new() };
        let hosts = table.get("virtualHosts").and_then(Value::as_array).into_iter().flatten();
        let routes = hosts.filter_map(|host| {
            let domain = domains(host).find(|domain| wanted(domain)).or_else(|| {
                // One that is found out alone has `*` for a domain.
                name.rsplit_once(':').map(|(host, _)| host).filter(|host| wanted(host))
            })?;
            let first = host.get("routes").and_then(Value::as_array).and_then(|routes| routes.first())?;
            let mut values = Values::new();
            put_time(&mut values, "timeouts.request", first.pointer("/route/timeout"));
            let attempts = first.pointer("/route/retryPolicy/numRetries").or(host.pointer("/retryPolicy/numRetries"));
            values.insert("retries.attempts", number(attempts).unwrap_or(0).to_string());
            Some(Self { port, host: domain.to_owned(), origin: Origin::of(first), values })
        });
        routes.collect()
    }
}

fn domains(host: &Value) -> impl Iterator<Item = &str> {
    host.get("domains").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn cluster_values(cluster: &Value) -> Values {
    let mut values = Values::new();
    // Priority DEFAULT stands first; Istio sets no other.
    let thresholds = cluster.pointer("/circuitBreakers/thresholds/0");
    for (word, path) in [
        ("maxConnections", "limits.perClient.connections"),
        ("maxPendingRequests", "limits.perClient.pendingRequests"),
        ("maxRequests", "limits.perClient.activeRequests"),
        ("maxRetries", "limits.perClient.concurrentRetries"),
    ] {
        let limit = number(thresholds.and_then(|thresholds| thresholds.get(word)));
        put(&mut values, path, limit.filter(|limit| *limit != NO_LIMIT));
    }
    let budget = thresholds.and_then(|thresholds| thresholds.pointer("/retryBudget/budgetPercent/value"));
    put(&mut values, "retries.budget.percent", number(budget));
    let options = "/typedExtensionProtocolOptions/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let served = cluster.pointer(&format!("{options}/commonHttpProtocolOptions/maxRequestsPerConnection"));
    put(&mut values, "limits.perClient.requestsPerConnection", number(served));
    put_time(&mut values, "timeouts.connect", cluster.get("connectTimeout"));
    let Some(detection) = cluster.get("outlierDetection") else { return values };
    for (word, path) in [
        ("consecutive5xx", "ejection.consecutive5xx"),
        ("consecutiveGatewayFailure", "ejection.consecutiveGateway"),
        ("consecutiveLocalOriginFailure", "ejection.consecutiveLocalOrigin"),
        ("maxEjectionPercent", "ejection.maxPercent"),
    ] {
        put(&mut values, path, number(detection.get(word)));
    }
    put_time(&mut values, "ejection.interval", detection.get("interval"));
    put_time(&mut values, "ejection.baseTime", detection.get("baseEjectionTime"));
    values
}

/// Numbers of 64 bits are printed as text.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(|number| number as u64)),
        _ => None,
    }
}

fn put(values: &mut Values, path: &'static str, number: Option<u64>) {
    values.extend(number.map(|number| (path, number.to_string())));
}

fn put_time(values: &mut Values, path: &'static str, time: Option<&Value>) {
    let millis = time.and_then(Value::as_str).and_then(millis);
    values.extend(millis.map(|millis| (path, format!("{millis}ms"))));
}

/// Of a duration as protobuf prints it: `10s`, `0.500s`. What is finer than a millisecond is cut.
fn millis(text: &str) -> Option<u64> {
    let (seconds, rest) = text.strip_suffix('s')?.split_once('.').unwrap_or((text.strip_suffix('s')?, ""));
    let thousandths: String = rest.chars().chain("000".chars()).take(3).collect();
    seconds.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(thousandths.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cluster_is_read_in_the_words_of_the_api() {
        let cluster = json!({
            "name": "outbound|8000||web.ns.svc.cluster.local", "connectTimeout": "0.250s",
            "circuitBreakers": {"thresholds": [{"maxConnections": 4_294_967_295_u32, "maxRequests": 5,
                "retryBudget": {"budgetPercent": {"value": 20.0}}}]},
            "outlierDetection": {"consecutive5xx": 0, "interval": "10s", "maxEjectionPercent": 50},
            "metadata": {"filterMetadata": {"istio": {"config":
                "/apis/networking.istio.io/v1/namespaces/ns/destination-rule/web"}}},
        });
        let read = Cluster::read(&cluster).unwrap();
        assert_eq!((read.port, read.host.as_str()), (8000, "web.ns.svc.cluster.local"));
        assert_eq!(read.origin.unwrap().to_string(), "DestinationRule ns/web");
        let values: Vec<String> = read.values.iter().map(|(path, value)| format!("{path}={value}")).collect();
        assert_eq!(
            values,
            [
                "ejection.consecutive5xx=0",
                "ejection.interval=10000ms",
                "ejection.maxPercent=50",
                "limits.perClient.activeRequests=5",
                "retries.budget.percent=20",
                "timeouts.connect=250ms",
            ]
        );
    }

    #[test]
    fn clusters_of_subsets_and_of_servers_are_not_those_that_calls_without_a_route_take() {
        assert_eq!(Cluster::parse_name("outbound|80||a.b"), Some((80, "a.b")));
        for other in ["outbound|80|v1|a.b", "inbound|80||", "BlackHoleCluster", "outbound_.80_._.a.b"] {
            assert_eq!(Cluster::parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn routes_are_those_of_the_host_on_the_port_of_the_table() {
        let host = |domains: Value| {
            json!({"domains": domains, "routes": [{
                "route": {"timeout": "3s", "retryPolicy": {"numRetries": 2}},
                "metadata": {"filterMetadata": {"istio": {"config":
                    "/apis/networking.istio.io/v1/namespaces/ns/virtual-service/web"}}},
            }]})
        };
        let table = |name: &str, domains: Value| json!({"name": name, "virtualHosts": [host(domains)]});
        let read = |table: &Value| Routes::read(table, |host| host == "web.ns");
        let shared = read(&table("8000", json!(["web.ns", "web"])));
        assert_eq!((shared[0].port, shared[0].values["timeouts.request"].as_str()), (8000, "3000ms"));
        assert_eq!(shared[0].origin.as_ref().unwrap().to_string(), "VirtualService ns/web");
        assert_eq!(read(&table("web.ns:8001", json!(["*"])))[0].port, 8001);
        assert_eq!(read(&table("http.8080", json!(["web.ns"]))), []);
        assert_eq!(read(&table("8000", json!(["other.ns"]))), []);
    }

    #[test]
    fn what_was_never_sent_is_not_acknowledged() {
        let told = |sent: &str, acknowledged: &str, refusal: &str| Told {
            sent: sent.into(),
            acknowledged: acknowledged.into(),
            refusal: refusal.into(),
        };
        assert!(told("1", "1", "").is_acknowledged());
        for not in [told("", "", ""), told("2", "1", ""), told("1", "1", "bad")] {
            assert!(!not.is_acknowledged(), "{not:?}");
        }
    }
}
