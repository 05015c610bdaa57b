//! In: a pod with a sidecar. Out: what its Envoy was told by istiod and holds: clusters, routes, endpoints.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kubectl::Kubectl;

/// The configuration of one Envoy at one moment (its admin interface, `/config_dump?include_eds`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfigDump {
    clusters: Vec<Value>,
    routes: Vec<Value>,
    listeners: Vec<Value>,
    endpoints: Vec<Value>,
    warming: Vec<Value>,
}

impl ConfigDump {
    /// Asks the Envoy beside a workload, `deploy/fortio` or `pod/fortio-…`, in the client's namespace.
    ///
    /// # Errors
    /// When the proxy does not answer, or not with a configuration.
    pub fn of(kubectl: &Kubectl, target: &str) -> Result<Self> {
        let request = ["pilot-agent", "request", "GET", "config_dump?include_eds"];
        let text = kubectl
            .exec(target, "istio-proxy", &request)
            .with_context(|| format!("the Envoy of {target} tells no configuration"))?;
        // The agent's own log stands in front of the answer.
        let json = text.find('{').map_or("", |start| &text[start..]);
        let dump = serde_json::from_str(json).with_context(|| format!("the Envoy of {target} printed no JSON"))?;
        Ok(Self::parse(&dump))
    }

    /// Sorts what a dump holds. What istiod sent stands beside what Envoy was started with.
    #[must_use]
    pub fn parse(dump: &Value) -> Self {
        let mut sorted = Self::default();
        for config in list(dump, "configs") {
            for (fields, inner, into) in [
                (&["dynamic_active_clusters", "static_clusters"][..], "cluster", &mut sorted.clusters),
                (&["dynamic_warming_clusters"], "cluster", &mut sorted.warming),
                (&["dynamic_route_configs", "static_route_configs"], "route_config", &mut sorted.routes),
                (&["dynamic_endpoint_configs", "static_endpoint_configs"], "endpoint_config", &mut sorted.endpoints),
            ] {
                let entries = fields.iter().flat_map(|field| list(config, field));
                into.extend(entries.filter_map(|entry| entry.get(inner)).cloned());
            }
            let active = list(config, "dynamic_listeners").filter_map(|entry| entry.pointer("/active_state/listener"));
            sorted.listeners.extend(active.cloned());
        }
        sorted
    }

    /// Every cluster.
    #[must_use]
    pub fn clusters(&self) -> &[Value] {
        &self.clusters
    }

    /// Names of the clusters that Envoy was sent and does not use yet: it waits for their endpoints or for DNS,
    /// and until then the one before, if there is one, takes the calls.
    pub fn warming(&self) -> impl Iterator<Item = &str> {
        self.warming.iter().filter_map(|cluster| cluster["name"].as_str())
    }

    /// Every table of routes.
    #[must_use]
    pub fn routes(&self) -> &[Value] {
        &self.routes
    }

    /// Every listener that takes calls now.
    #[must_use]
    pub fn listeners(&self) -> &[Value] {
        &self.listeners
    }

    /// A cluster by its name, such as `outbound|8000||httpbin.demo.svc.cluster.local` or `inbound|8080||`.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Value> {
        self.clusters.iter().find(|cluster| cluster["name"] == name)
    }

    /// The endpoints that istiod sent for a cluster.
    #[must_use]
    pub fn endpoints(&self, cluster: &str) -> Option<&Value> {
        self.endpoints.iter().find(|endpoints| endpoints["cluster_name"] == cluster)
    }

    /// The virtual host for a domain, such as `httpbin.demo.svc.cluster.local`, in the routes of a port; its
    /// routes stand in `routes`, in order.
    #[must_use]
    pub fn virtual_host(&self, port: u16, domain: &str) -> Option<&Value> {
        let routes = self.routes.iter().filter(|routes| {
            // A port that is sniffed has routes of its own, named `host:port`.
            routes["name"]
                .as_str()
                .is_some_and(|name| name.rsplit(':').next().and_then(|last| last.parse().ok()) == Some(port))
        });
        routes
            .flat_map(|routes| list(routes, "virtual_hosts"))
            .find(|host| list(host, "domains").any(|one| one == domain))
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::ConfigDump;

    #[test]
    fn clusters_and_virtual_hosts_are_found_by_name() {
        let dump = ConfigDump::parse(&json!({"configs": [
            {
                "dynamic_active_clusters": [{"cluster": {"name": "outbound|80||a.b", "circuit_breakers": {}}}],
                "dynamic_warming_clusters": [{"cluster": {"name": "outbound|81||a.b"}}],
            },
            {"dynamic_route_configs": [
                {"route_config": {"name": "80", "virtual_hosts": [{"name": "a.b:80", "domains": ["a.b", "a"]}]}},
                {"route_config": {"name": "a.b:81", "virtual_hosts": [{"name": "sniffed", "domains": ["*"]}]}},
            ]},
        ]}));
        assert!(dump.cluster("outbound|80||a.b").is_some() && dump.cluster("outbound|81||a.b").is_none());
        assert_eq!(dump.warming().collect::<Vec<_>>(), ["outbound|81||a.b"]);
        assert_eq!(dump.virtual_host(80, "a.b").map(|host| host["name"].clone()), Some(json!("a.b:80")));
        assert_eq!(dump.virtual_host(81, "*").map(|host| host["name"].clone()), Some(json!("sniffed")));
        assert!(dump.virtual_host(80, "*").is_none());
    }
}
