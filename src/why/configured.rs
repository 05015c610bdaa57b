//! How a client's proxy is configured for a host, as its own `/config_dump` says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{istio::literal, observed::proxies::Origin, top::Target};

/// What matters here of a proxy's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Its clusters of the host.
    pub clusters: BTreeMap<Target, ClusterConfig>,
    /// Its routes for the host.
    pub routes: Vec<Route>,
    /// Ports of the host for which it has a table of routes, and whether the host is in it.
    pub tables: BTreeMap<u16, bool>,
    /// Whether it lets calls to hosts that it does not know out.
    pub lets_unknown_out: bool,
}

/// A cluster by which it calls the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The DestinationRule that it was made from; `None`: no rule.
    pub rule: Option<Origin>,
    /// How it encrypts.
    pub encryption: Encryption,
}

/// How a client's proxy encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    Plain,
    /// By mutual TLS to each endpoint that has a proxy: Istio's own way.
    WhereBothCan,
    /// By Istio's mutual TLS, to whatever endpoint.
    Mutual,
    /// By TLS of another kind.
    Other,
}

/// A route for the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Port of the host.
    pub port: u16,
    /// Its name; empty: it has none.
    pub name: String,
    /// The object that it was made from; `None`: Istio's own.
    pub origin: Option<Origin>,
    /// Clusters that it leads to.
    pub clusters: Vec<String>,
    /// Those of them that the proxy does not have.
    pub missing: Vec<String>,
    /// Status that it answers by itself, and for how many of a million calls.
    pub abort: Option<(u16, u32)>,
    /// When it gives up on a call, as protobuf writes it; `None` or `0s`: never.
    pub timeout: Option<String>,
    /// How often it tries again.
    pub retries: u64,
    /// Takes every call.
    pub takes_all: bool,
}

/// The `name_regex` of `/config_dump` that finds the tables of routes for the ports of a host: `PORT`, or `HOST:PORT`
/// where the protocol of the port is found out.
#[must_use]
pub fn route_tables(host: &str, ports: impl IntoIterator<Item = u16>) -> String {
    let ports: Vec<String> = ports.into_iter().map(|port| port.to_string()).collect();
    format!("^({}:)?({})$", literal(host), ports.join("|"))
}

impl Configured {
    /// From the dumps of clusters and of tables of routes; `/clusters` says which clusters there are.
    #[must_use]
    pub fn read(clusters: &Value, routes: &Value, names: &str, host: &str) -> Self {
        let mut configured = Self::default();
        for cluster in of_dump(clusters, "cluster") {
            let target = text(cluster, "/name").and_then(Target::of_cluster).filter(|target| target.host == host);
            if let Some(target) = target {
                configured.clusters.insert(target, ClusterConfig::read(cluster));
            }
        }
        let there: BTreeSet<&str> = names.lines().filter_map(|line| Some(line.split_once("::")?.0)).collect();
        for table in of_dump(routes, "route_config") {
            configured.table(table, host, &there);
        }
        configured
    }

    fn table(&mut self, table: &Value, host: &str, there: &BTreeSet<&str>) {
        let name = text(table, "/name").unwrap_or_default();
        let Some(port) = name.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()) else { return };
        // A table of a port whose protocol is found out is the host's alone, and takes `*`.
        let is_its_own = name.rsplit_once(':').is_some_and(|(own, _)| own == host);
        let mut found = false;
        for virtual_host in list(table, "/virtual_hosts") {
            if text(virtual_host, "/name") == Some("allow_any") {
                self.lets_unknown_out = true;
            }
            let mut domains = list(virtual_host, "/domains").filter_map(Value::as_str);
            if is_its_own || domains.any(|domain| domain.eq_ignore_ascii_case(host)) {
                found = true;
                self.routes.extend(list(virtual_host, "/routes").map(|route| Route::read(route, port, there)));
            }
        }
        let known = self.tables.entry(port).or_default();
        *known |= found;
    }
}

impl ClusterConfig {
    fn read(cluster: &Value) -> Self {
        let is_tls = |socket: &Value| text(socket, "/name") == Some("envoy.transport_sockets.tls");
        let own = cluster.get("transport_socket").filter(|socket| is_tls(socket));
        let by_endpoint =
            list(cluster, "/transport_socket_matches").any(|one| one.get("transport_socket").is_some_and(is_tls));
        let encryption = match own {
            Some(socket) => {
                let mut secrets = list(socket, "/typed_config/common_tls_context/tls_certificate_sds_secret_configs");
                let is_istios = secrets.any(|secret| text(secret, "/name") == Some("default"));
                if is_istios { Encryption::Mutual } else { Encryption::Other }
            }
            None if by_endpoint => Encryption::WhereBothCan,
            None => Encryption::Plain,
        };
        Self { rule: origin(cluster), encryption }
    }
}

impl Route {
    fn read(route: &Value, port: u16, there: &BTreeSet<&str>) -> Self {
        let weighted = list(route, "/route/weighted_clusters/clusters").filter_map(|one| text(one, "/name"));
        let clusters: Vec<String> =
            text(route, "/route/cluster").into_iter().chain(weighted).map(str::to_owned).collect();
        let matches = route.get("match").and_then(Value::as_object);
        Self {
            port,
            name: text(route, "/name").unwrap_or_default().to_owned(),
            origin: origin(route),
            missing: clusters.iter().filter(|name| !there.contains(name.as_str())).cloned().collect(),
            clusters,
            abort: abort(route),
            timeout: text(route, "/route/timeout").filter(|timeout| *timeout != "0s").map(str::to_owned),
            retries: route.pointer("/route/retry_policy/num_retries").and_then(Value::as_u64).unwrap_or_default(),
            takes_all: matches.is_some_and(|all| {
                all.get("prefix").and_then(Value::as_str) == Some("/")
                    && all.keys().all(|key| key == "prefix" || key == "case_sensitive")
            }),
        }
    }

    /// How it is named to people.
    #[must_use]
    pub fn whose(&self) -> String {
        self.origin.as_ref().map_or_else(|| "Istio's own route".to_owned(), ToString::to_string)
    }
}

/// A fault that answers instead of the endpoint (envoy `extensions/filters/http/fault/v3/fault.proto`).
fn abort(route: &Value) -> Option<(u16, u32)> {
    let abort = route.pointer("/typed_per_filter_config/envoy.filters.http.fault/abort")?;
    let code = u16::try_from(abort.get("http_status")?.as_u64()?).ok()?;
    let share = abort.pointer("/percentage/numerator").and_then(Value::as_u64).unwrap_or_default();
    let of_a_million = match text(abort, "/percentage/denominator") {
        Some("MILLION") => share,
        Some("TEN_THOUSAND") => share.saturating_mul(100),
        // HUNDRED, which is left out.
        _ => share.saturating_mul(10_000),
    };
    let of_a_million = u32::try_from(of_a_million.min(1_000_000)).unwrap_or(1_000_000);
    (of_a_million > 0).then_some((code, of_a_million))
}

fn origin(holder: &Value) -> Option<Origin> {
    Origin::parse(text(holder, "/metadata/filter_metadata/istio/config")?)
}

fn of_dump<'a>(dump: &'a Value, what: &'static str) -> impl Iterator<Item = &'a Value> {
    list(dump, "/configs").filter_map(move |config| config.get(what))
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "a.shop.svc.cluster.local";
    const CLUSTER: &str = "outbound|80||a.shop.svc.cluster.local";

    fn clusters(cluster: Value) -> Value {
        let mut cluster = cluster;
        cluster["name"] = json!(CLUSTER);
        json!({"configs": [{"cluster": cluster}]})
    }

    fn encryption(cluster: Value) -> Encryption {
        let configured = Configured::read(&clusters(cluster), &json!({}), "", HOST);
        configured.clusters.values().next().unwrap().encryption
    }

    #[test]
    fn how_a_cluster_encrypts_is_told_by_its_transport_sockets() {
        let tls = |secret: &str| {
            json!({"name": "envoy.transport_sockets.tls", "typed_config": {"common_tls_context": {
                "tls_certificate_sds_secret_configs": [{"name": secret}],
            }}})
        };
        let raw = json!({"name": "envoy.transport_sockets.raw_buffer"});
        assert_eq!(encryption(json!({})), Encryption::Plain);
        assert_eq!(encryption(json!({"transport_socket": raw})), Encryption::Plain);
        let matches = json!([{"transport_socket": tls("default")}, {"transport_socket": raw}]);
        assert_eq!(encryption(json!({"transport_socket_matches": matches})), Encryption::WhereBothCan);
        assert_eq!(encryption(json!({"transport_socket": tls("default")})), Encryption::Mutual);
        assert_eq!(encryption(json!({"transport_socket": tls("file-cert:x")})), Encryption::Other);
    }

    #[test]
    fn routes_are_those_of_the_host_with_where_they_lead_and_what_they_answer_themselves() {
        let origin = |name: &str| json!({"filter_metadata": {"istio": {"config": format!("/apis/networking.istio.io/v1/namespaces/shop/virtual-service/{name}")}}});
        let table = json!({"configs": [{"route_config": {"name": "80", "virtual_hosts": [
            {"name": "allow_any", "domains": ["*"], "routes": [{"route": {"cluster": "PassthroughCluster"}}]},
            {"name": "b", "domains": ["b.shop.svc.cluster.local"], "routes": [{"route": {"cluster": "none"}}]},
            {"name": "a", "domains": ["a", HOST], "routes": [
                {"match": {"prefix": "/", "headers": []}, "route": {"cluster": CLUSTER, "timeout": "0s"}},
                {"match": {"prefix": "/", "case_sensitive": true}, "name": "first", "metadata": origin("web"),
                 "route": {"timeout": "0.100s", "retry_policy": {"num_retries": 3},
                           "weighted_clusters": {"clusters": [{"name": CLUSTER}, {"name": "outbound|80|v9|a"}]}},
                 "typed_per_filter_config": {"envoy.filters.http.fault": {"abort": {
                    "http_status": 503, "percentage": {"numerator": 500_000, "denominator": "MILLION"}}}}},
            ]},
        ]}}]});
        let configured = Configured::read(&json!({}), &table, &format!("{CLUSTER}::added_via_api::true\n"), HOST);
        assert_eq!((&configured.tables, configured.lets_unknown_out), (&BTreeMap::from([(80, true)]), true));
        let [matching, all] = configured.routes.as_slice() else { panic!("{configured:?}") };
        assert_eq!(
            (matching.takes_all, &matching.timeout, matching.whose()),
            (false, &None, "Istio's own route".into())
        );
        assert_eq!((all.takes_all, all.retries, all.timeout.as_deref()), (true, 3, Some("0.100s")));
        assert_eq!(all.whose(), "VirtualService shop/web");
        assert_eq!(
            (all.missing.as_slice(), all.abort),
            (["outbound|80|v9|a".to_owned()].as_slice(), Some((503, 500_000)))
        );
        assert_eq!(
            abort(
                &json!({"typed_per_filter_config": {"envoy.filters.http.fault": {"abort": {"http_status": 500, "percentage": {"numerator": 1}}}}})
            ),
            Some((500, 10_000))
        );
    }

    #[test]
    fn a_table_of_a_port_that_is_sniffed_is_the_hosts_own() {
        let name = format!("{HOST}:80");
        let table = json!({"configs": [{"route_config": {"name": name, "virtual_hosts": [
            {"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}]},
        ]}}]});
        let configured = Configured::read(&json!({}), &table, "", HOST);
        assert_eq!((configured.routes.len(), configured.routes[0].port), (1, 80));
        assert_eq!(route_tables(HOST, [80, 8080]), r"^(a\.shop\.svc\.cluster\.local:)?(80|8080)$");
    }
}
