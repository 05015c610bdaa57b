//! The caller's own proxy, asked by its admin interface: what it holds for the target, and what it counts.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use url::Url;

use crate::{
    istio::{NO_LIMIT, Outbound, literal},
    observed::proxies::Origin,
    verification::Proxy,
};

/// One answer takes this long at most.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where the proxy and its agent answer.
#[derive(Clone, Debug)]
pub struct Places {
    /// Envoy's admin interface.
    pub admin: Url,
    /// The agent's readiness.
    pub ready: Url,
    /// Where the agent is told to end: a sidecar that is no native one would keep the Job's pod alive.
    pub quit: Url,
}

impl Places {
    /// Where Istio's sidecar has them.
    ///
    /// # Errors
    /// Never.
    pub fn of_istio() -> Result<Self, url::ParseError> {
        Ok(Self {
            admin: Url::parse("http://127.0.0.1:15000/")?,
            ready: Url::parse("http://127.0.0.1:15021/healthz/ready")?,
            quit: Url::parse("http://127.0.0.1:15020/quitquitquit")?,
        })
    }
}

/// A proxy, asked about one target.
#[derive(Clone, Debug)]
pub struct OwnProxy {
    http: reqwest::Client,
    places: Places,
    host: String,
    port: u16,
}

impl OwnProxy {
    /// The proxy at these places, about this target.
    ///
    /// # Errors
    /// If there is no HTTP client.
    pub fn about(places: Places, host: &str, port: u16) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?;
        Ok(Self { http, places, host: host.to_owned(), port })
    }

    /// Whether it is ready; `None`: nobody answers, so there is none.
    pub async fn is_ready(&self) -> Option<bool> {
        let answer = self.http.get(self.places.ready.clone()).send().await.ok()?;
        Some(answer.status().is_success())
    }

    /// Tells its agent to end. Where it ends by itself, or is not there, nothing answers.
    pub async fn quit(&self) {
        let _nobody = self.http.post(self.places.quit.clone()).send().await;
    }

    /// What it holds for the target.
    ///
    /// # Errors
    /// If it does not answer, or not with its configuration.
    pub async fn held(&self) -> anyhow::Result<Proxy> {
        let name = cluster(&self.host, self.port);
        let clusters = self.dump("dynamic_active_clusters", &format!("^{}$", literal(&name))).await?;
        let routes = self.dump("dynamic_route_configs", &format!("(^|:){}$", self.port)).await?;
        Ok(held(&clusters, &routes, &self.host, self.port))
    }

    /// Counters and gauges of the target's cluster, by their names in it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn counted(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let name = cluster(&self.host, self.port);
        let url = self.at("stats", &[("filter", &format!("^cluster\\.{}", literal(&name)))])?;
        Ok(counted(&self.text(url).await?, &name))
    }

    async fn dump(&self, resource: &str, name_regex: &str) -> anyhow::Result<Value> {
        let url = self.at("config_dump", &[("resource", resource), ("name_regex", name_regex)])?;
        Ok(serde_json::from_str(&self.text(url).await?)?)
    }

    fn at(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Url> {
        let mut url = self.places.admin.join(path)?;
        url.query_pairs_mut().extend_pairs(query);
        Ok(url)
    }

    async fn text(&self, url: Url) -> anyhow::Result<String> {
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(String::from_utf8_lossy(&answer.bytes().await?).into_owned())
    }
}

/// The cluster of all endpoints of a target.
fn cluster(host: &str, port: u16) -> String {
    Outbound { port, subset: "", host }.to_string()
}

fn held(clusters: &Value, routes: &Value, host: &str, port: u16) -> Proxy {
    let name = cluster(host, port);
    let cluster = list(clusters, "configs").filter_map(|config| config.get("cluster")).find(|one| one["name"] == *name);
    let Some(cluster) = cluster else { return Proxy::default() };
    let thresholds = cluster.pointer("/circuit_breakers/thresholds/0").and_then(Value::as_object);
    let thresholds = thresholds.into_iter().flatten().filter_map(|(name, value)| {
        let value = value.as_u64().filter(|value| *value < NO_LIMIT)?;
        Some((name.clone(), u32::try_from(value).ok()?))
    });
    Proxy {
        knows_target: true,
        rule: source(cluster, "DestinationRule"),
        routes: list(routes, "configs")
            .filter_map(|config| config.get("route_config"))
            .flat_map(|config| list(config, "virtual_hosts"))
            .filter(|virtual_host| list(virtual_host, "domains").any(|domain| domain == host))
            .flat_map(|virtual_host| list(virtual_host, "routes"))
            .find_map(|route| source(route, "VirtualService")),
        thresholds: thresholds.collect(),
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Namespace and name of the object that istiod made this from:
/// `/apis/networking.istio.io/v1/namespaces/NAMESPACE/destination-rule/NAME`
/// (istio `pilot/pkg/networking/util/util.go`, `BuildConfigInfoMetadata`).
fn source(of: &Value, kind: &str) -> Option<String> {
    let origin = Origin::parse(of.pointer("/metadata/filter_metadata/istio/config")?.as_str()?)?;
    (origin.kind == kind).then(|| format!("{}/{}", origin.namespace, origin.name))
}

fn counted(text: &str, cluster: &str) -> BTreeMap<String, u64> {
    let prefix = format!("cluster.{cluster}");
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        // Newer versions of Istio end a cluster's name with `;`.
        let name = name.strip_prefix(&prefix)?;
        let name = name.strip_prefix(';').unwrap_or(name).strip_prefix('.')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn from(kind: &str, name: &str) -> Value {
        json!({"filter_metadata": {"istio": {"config": format!("/apis/networking.istio.io/v1/namespaces/shop/{kind}/{name}")}}})
    }

    #[test]
    fn it_is_read_whose_rule_and_whose_routes_the_proxy_has() {
        let clusters = json!({"configs": [
            {"cluster": {"name": "outbound|80||b.shop.svc.cluster.local"}},
            {"cluster": {
                "name": "outbound|80||a.shop.svc.cluster.local", "metadata": from("destination-rule", "a"),
                "circuit_breakers": {"thresholds": [
                    {"max_requests": 5, "max_connections": 4_294_967_295_u64, "track_remaining": true},
                ]},
            }},
        ]});
        let routes = json!({"configs": [{"route_config": {"name": "80", "virtual_hosts": [
            {"domains": ["b.shop.svc.cluster.local"], "routes": [{"metadata": from("virtual-service", "b")}]},
            {"domains": ["a.shop.svc.cluster.local", "a"], "routes": [{"metadata": from("virtual-service", "other")}]},
        ]}}]});
        let proxy = held(&clusters, &routes, "a.shop.svc.cluster.local", 80);
        assert_eq!(proxy.rule.as_deref(), Some("shop/a"));
        assert_eq!(proxy.routes.as_deref(), Some("shop/other"));
        assert_eq!(proxy.thresholds, BTreeMap::from([("max_requests".to_owned(), 5)]));
        assert_eq!(held(&clusters, &routes, "c.shop.svc.cluster.local", 80), Proxy::default());
    }

    #[test]
    fn counters_are_read_with_and_without_the_mark_at_the_clusters_end() {
        let text = "cluster.outbound|80||a.b;.upstream_rq_timeout: 7\n\
                    cluster.outbound|80||a.b.upstream_rq_retry: 2\n\
                    cluster.outbound|80||a.bc;.upstream_rq_retry: 9\n\
                    cluster.outbound|80||a.b;.upstream_rq_time: P0(nan,1)\n";
        let counted = counted(text, "outbound|80||a.b");
        assert_eq!(
            counted,
            BTreeMap::from([("upstream_rq_timeout".to_owned(), 7), ("upstream_rq_retry".to_owned(), 2)])
        );
    }
}
