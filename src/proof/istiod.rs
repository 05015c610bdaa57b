//! The istiods: where they are, and one question to one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, api::ListParams};

use super::{
    answers::{self, Connected},
    identity::Identity,
};
use crate::{observed::proxies::Proxy, runtime::metrics::Metrics};

/// The label of istiod's Services, which their EndpointSlices have too (istio
/// `manifests/charts/istio-control/istio-discovery/templates/service.yaml`).
const LABEL: &str = "istio=pilot";

/// The name of its port for metrics, which answers questions as well, and its usual number.
const PORT: (&str, u16) = ("http-monitoring", 15_014);

/// How long an istiod may take for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 16 << 20;

/// One istiod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Its pod, or its address.
    pub name: String,
    /// Where it answers.
    pub address: SocketAddr,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The proxy is not connected to it.
    NotConnected,
    /// Anything else, in words.
    Other(String),
}

/// All of them, and the identity that they answer to.
pub struct Istiods {
    client: Client,
    http: reqwest::Client,
    identity: Identity,
    namespace: String,
    metrics: Arc<Metrics>,
}

impl Istiods {
    /// Those of a root namespace.
    pub fn new(client: Client, identity: Identity, namespace: &str, metrics: Arc<Metrics>) -> Self {
        // In the cluster and next door: no proxy of anybody's environment, and no redirect, that would take
        // the token along.
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.timeout(DEADLINE).build().unwrap_or_default();
        Self { client, http, identity, namespace: namespace.to_owned(), metrics }
    }

    /// Where they are now: every one that may have proxies, of all revisions.
    pub async fn replicas(&self) -> Result<Vec<Replica>, String> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let how = ListParams::default().labels(LABEL);
        let slices = match tokio::time::timeout(DEADLINE, api.list(&how)).await {
            Ok(Ok(slices)) => slices,
            Ok(Err(kube::Error::Api(status))) => return Err(status.message),
            Ok(Err(error)) => return Err(format!("EndpointSlices of {}: {error}", self.namespace)),
            Err(_) => return Err(format!("EndpointSlices of {}: no answer in time", self.namespace)),
        };
        let replicas = replicas(&slices.items);
        if replicas.is_empty() {
            return Err(format!(
                "no EndpointSlice labelled {LABEL} in namespace {} has an address: is it the mesh's root namespace?",
                self.namespace
            ));
        }
        Ok(replicas)
    }

    /// The proxies that are connected to one.
    pub async fn connected(&self, replica: &Replica) -> Result<Vec<Connected>, String> {
        let lists = async {
            let proxies = self.ask(replica, "syncz", "/debug/syncz").await?;
            Ok::<_, Fault>((proxies, self.ask(replica, "connections", "/debug/connections").await?))
        };
        let (proxies, connections) = lists.await.map_err(|fault| match fault {
            Fault::NotConnected => format!("{}: it has no such list (404)", replica.name),
            Fault::Other(why) => format!("{}: {why}", replica.name),
        })?;
        answers::connected(&proxies, &connections)
            .map_err(|error| format!("{}: its lists of proxies cannot be read: {error}", replica.name))
    }

    /// What one generates for a proxy, of the hosts that are `wanted`.
    pub async fn generated(
        &self,
        replica: &Replica,
        proxy: &Connected,
        wanted: &BTreeSet<&str>,
    ) -> Result<Proxy, Fault> {
        let path = format!("/debug/config_dump?proxyID={}&types=cds,rds", proxy.connection);
        let body = self.ask(replica, "config_dump", &path).await?;
        answers::generated(&body, proxy, wanted)
            .map_err(|error| Fault::Other(format!("what {} says of it cannot be read: {error}", replica.name)))
    }

    async fn ask(&self, replica: &Replica, what: &'static str, path: &str) -> Result<Vec<u8>, Fault> {
        let answer = self.fetch(replica, path).await;
        let result = match &answer {
            Ok(_) => "answered",
            Err(Fault::NotConnected) => "not-connected",
            Err(Fault::Other(_)) => "failed",
        };
        self.metrics.asked_istiod(what, result);
        answer
    }

    async fn fetch(&self, replica: &Replica, path: &str) -> Result<Vec<u8>, Fault> {
        let bearer = self.identity.bearer().await.map_err(Fault::Other)?;
        let request = self.http.get(format!("http://{}{path}", replica.address));
        let failed = |error: reqwest::Error| Fault::Other(format!("no answer: {}", root(&error.without_url())));
        let mut answer = request.header(http::header::AUTHORIZATION, bearer).send().await.map_err(failed)?;
        match answer.status().as_u16() {
            200 => {}
            401 => {
                self.identity.forget().await;
                return Err(Fault::Other("it does not take the token (401): docs/in-effect.md".to_owned()));
            }
            403 => {
                return Err(Fault::Other(format!(
                    "it answers nobody of namespace {} (403): is that the mesh's root namespace?",
                    self.namespace
                )));
            }
            404 => return Err(Fault::NotConnected),
            other => return Err(Fault::Other(format!("it answers {other}"))),
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                let limit = ANSWER_LIMIT >> 20;
                return Err(Fault::Other(format!(
                    "its answer is longer than {limit} MiB: a Sidecar with fewer hosts helps"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// The innermost cause, which says what happened.
fn root(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root)
}

/// Each address once, whatever Services it is behind.
fn replicas(slices: &[EndpointSlice]) -> Vec<Replica> {
    let mut found = BTreeMap::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref() == Some(PORT.0));
        let port = port.and_then(|port| u16::try_from(port.port?).ok()).unwrap_or(PORT.1);
        for endpoint in &slice.endpoints {
            // One on its way out may still have proxies; one that is not ready yet has none.
            let said = endpoint.conditions.clone().unwrap_or_default();
            if said.ready == Some(false) && said.serving != Some(true) {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
                let replica =
                    Replica { name: pod.unwrap_or_else(|| address.to_string()), address: (address, port).into() };
                found.entry(replica.address).or_insert(replica);
            }
        }
    }
    // A pod has an address of each family.
    let mut names = BTreeSet::new();
    found.into_values().filter(|replica| names.insert(replica.name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_istiod_is_found_once_whatever_services_it_is_behind() {
        let slice = |name: &str, ports: serde_json::Value, endpoints: serde_json::Value| {
            serde_json::from_value::<EndpointSlice>(json!({
                "metadata": {"name": name}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
            }))
            .unwrap()
        };
        let ports = json!([{"name": "https-dns", "port": 15012}, {"name": "http-monitoring", "port": 9090}]);
        let pod = |name: &str| json!({"kind": "Pod", "name": name});
        let slices = [
            slice(
                "istiod-1",
                ports.clone(),
                json!([
                    {"addresses": ["10.0.0.1"], "targetRef": pod("istiod-a")},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true}},
                    {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
                ]),
            ),
            slice("istiod-tag", ports, json!([{"addresses": ["10.0.0.1"], "targetRef": pod("istiod-a")}])),
            slice("other", json!([]), json!([{"addresses": ["10.0.0.4"]}])),
        ];
        let found: Vec<String> = replicas(&slices).iter().map(|one| format!("{}@{}", one.name, one.address)).collect();
        assert_eq!(found, ["istiod-a@10.0.0.1:9090", "10.0.0.2@10.0.0.2:9090", "10.0.0.4@10.0.0.4:15014"]);
    }
}
