//! What the API server holds beside it: the Service and what is behind it, the policy, what the servers take, and what
//! was changed. What may not be read is said, and stops nothing else.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;
use tokio::time::timeout;

use super::super::{
    explain::{Asked, explain},
    live::{DEADLINE, Reader},
    neighbours::resource,
    top::proxies::proxy_of,
};
use crate::{
    api::conditions,
    names,
    report::{Page, State},
    top::Proxy,
    validate::Settings,
    why::{Change, Peers, PolicySeen, ProxySeen, TargetSeen, changes_of, strictest},
};

/// Changes that are told.
const CHANGES: usize = 20;
/// Pods that are looked at one by one.
const PODS: usize = 50;
/// Conditions that say whether a policy is in force.
const IN_FORCE: [&str; 3] = [conditions::ACCEPTED, conditions::PROGRAMMED, conditions::IN_EFFECT];

/// A Service, and what is behind it.
pub(super) struct Behind {
    pub target: TargetSeen,
    /// Proxies of its pods.
    pub servers: Vec<Proxy>,
    pub policy: Option<PolicySeen>,
    pub peers: Option<Peers>,
    pub changes: Vec<Change>,
    pub not_seen: Vec<String>,
}

impl Reader {
    /// Reads it; `None`: there is no such Service.
    ///
    /// # Errors
    /// If the Service cannot be read.
    pub(super) async fn behind(
        &self,
        namespace: &str,
        name: &str,
        settings: &Settings,
    ) -> Result<Option<Behind>, Vec<String>> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let service = match timeout(DEADLINE, api.get_opt(name)).await {
            Ok(Ok(Some(service))) => service,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(vec![self.explain(&error, "services", namespace)]),
            Err(_) => return Err(vec![self.silent()]),
        };
        let mut behind = empty(&service, namespace, name, settings);
        let slices = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        // Without a selector it would be all pods, and none of them is behind it.
        let pods = match behind.target.selector.as_str() {
            "" => ListParams::default().limit(1),
            selector => ListParams::default().labels(selector),
        };
        let peers = resource("security.istio.io/v1", "PeerAuthentication", "peerauthentications");
        let asked: Asked = format!("svc/{name}").parse().map_err(|fault| vec![fault])?;
        let (slices, pods, own_peers, root_peers, page) = futures::join!(
            self.some::<EndpointSlice>(
                Api::namespaced(self.client.clone(), namespace),
                &slices,
                "endpointslices",
                namespace
            ),
            self.some::<Pod>(Api::namespaced(self.client.clone(), namespace), &pods, "pods", namespace),
            self.peers(&peers, namespace),
            self.peers(&peers, &settings.root_namespace),
            explain(self, (&asked, None), namespace, settings),
        );
        match slices {
            Ok(slices) => take_slices(&mut behind, &service, &slices),
            Err(fault) => behind.not_seen.push(fault),
        }
        let mut labels = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        match pods {
            // Without a selector the list was of all pods.
            Ok(_) if behind.target.selector.is_empty() => {}
            Ok(pods) => {
                if let Some(first) = pods.first() {
                    labels = first.metadata.labels.clone().unwrap_or_default();
                }
                take_pods(&mut behind, pods);
            }
            Err(fault) => behind.not_seen.push(fault),
        }
        match own_peers.and_then(|own| Ok((own, root_peers?))) {
            Ok((own, root)) => {
                let mut all = own;
                all.extend(root.into_iter().filter(|one| one.0 != namespace));
                behind.peers = Some(strictest(&all, namespace, &settings.root_namespace, &labels));
            }
            Err(fault) => behind.not_seen.push(format!("whether the servers take mutual TLS alone: {fault}")),
        }
        match page {
            Ok((page, notes)) => {
                behind.not_seen.extend(notes);
                behind.policy = page.and_then(|page| policy_of(&page));
            }
            Err(faults) => {
                behind.not_seen.extend(faults.into_iter().map(|fault| format!("policy and neighbours: {fault}")));
            }
        }
        behind.not_seen.dedup();
        Ok(Some(behind))
    }

    /// All objects of a list.
    ///
    /// # Errors
    /// Why they cannot be read, and what to do.
    async fn some<K>(&self, api: Api<K>, which: &ListParams, plural: &str, namespace: &str) -> Result<Vec<K>, String>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        match timeout(DEADLINE, api.list(which)).await {
            Ok(Ok(list)) => Ok(list.items),
            Ok(Err(error)) => Err(self.explain(&error, plural, namespace)),
            Err(_) => Err(self.silent()),
        }
    }

    /// `PeerAuthentications` of a namespace, the oldest first; none where there is no such kind.
    async fn peers(&self, kind: &ApiResource, namespace: &str) -> Result<Vec<(String, String, Value)>, String> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
        let mut list = match timeout(DEADLINE, api.list(&ListParams::default())).await {
            Ok(Ok(list)) => list.items,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
            Ok(Err(error)) => return Err(self.explain(&error, "peerauthentications", namespace)),
            Err(_) => return Err(self.silent()),
        };
        list.sort_by_key(|one| {
            (one.metadata.creation_timestamp.as_ref().map(|time| time.0), one.metadata.name.clone())
        });
        let plain = |one: DynamicObject| {
            let spec = one.data.get("spec").cloned().unwrap_or_default();
            (namespace.to_owned(), one.metadata.name.unwrap_or_default(), spec)
        };
        Ok(list.into_iter().map(plain).collect())
    }

    /// What was changed last of the policy and of the rules and routes that clients have, beside `known`; the newest
    /// first. What may not be read is left out: changes are no causes.
    pub(super) async fn changes(
        &self,
        namespace: &str,
        policy: Option<&PolicySeen>,
        clients: &[ProxySeen],
        known: Vec<Change>,
    ) -> Vec<Change> {
        let mut objects: BTreeSet<(String, String, String)> = BTreeSet::new();
        for configured in clients.iter().map(|client| &client.last.configured) {
            let rules = configured.clusters.values().filter_map(|cluster| cluster.rule.as_ref());
            let routes = configured.routes.iter().filter_map(|route| route.origin.as_ref());
            objects.extend(rules.chain(routes).map(|one| (one.kind.clone(), one.namespace.clone(), one.name.clone())));
        }
        if let Some(policy) = policy {
            objects.insert((names::KIND.to_owned(), namespace.to_owned(), policy.name.clone()));
            objects.extend(policy.generated.iter().filter_map(|whole| {
                let (kind, place) = whole.split_once(' ')?;
                let (namespace, name) = place.split_once('/')?;
                Some((kind.to_owned(), namespace.to_owned(), name.to_owned()))
            }));
        }
        let mut changes = known;
        for (kind, namespace, name) in objects {
            let Some(of) = kind_of(&kind) else { continue };
            let Ok(Some(object)) = self.get(&of, &namespace, &name).await else { continue };
            let whole = format!("{kind} {namespace}/{name}");
            changes.extend(changes_of(&whole, &object.metadata));
            changes.extend(turned(&whole, &object));
        }
        changes.sort_by(|one, other| other.at.cmp(&one.at).then_with(|| one.object.cmp(&other.object)));
        changes.truncate(CHANGES);
        changes
    }
}

/// As the Service itself says.
fn empty(service: &Service, namespace: &str, name: &str, settings: &Settings) -> Behind {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref()).into_iter().flatten();
    let selector: Vec<String> = selector.map(|(key, value)| format!("{key}={value}")).collect();
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let target = TargetSeen {
        host: names::service_host(name, namespace, &settings.cluster_domain),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ports: ports.filter_map(|port| Some((u16::try_from(port.port).ok()?, true))).collect(),
        selector: selector.join(","),
        ..TargetSeen::default()
    };
    Behind {
        changes: changes_of(&target.whole(), &service.metadata),
        target,
        servers: Vec::new(),
        policy: None,
        peers: None,
        not_seen: Vec::new(),
    }
}

fn kind_of(kind: &str) -> Option<ApiResource> {
    let (api_version, plural) = match kind {
        names::KIND => (names::API_VERSION, "resiliences"),
        "DestinationRule" => (names::ISTIO_API_VERSION, "destinationrules"),
        "VirtualService" => (names::ISTIO_API_VERSION, "virtualservices"),
        "Sidecar" => (names::ISTIO_API_VERSION, "sidecars"),
        _ => return None,
    };
    Some(resource(api_version, kind, plural))
}

/// When conditions of a policy turned.
fn turned(whole: &str, object: &DynamicObject) -> Vec<Change> {
    let conditions = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    // The others follow from these, or say nothing of what is in force.
    let matter = |condition: &Condition| IN_FORCE.contains(&condition.type_.as_str());
    let turned = conditions.into_iter().filter(matter).map(|condition| Change {
        at: condition.last_transition_time.0,
        object: whole.to_owned(),
        what: format!("{} became {} ({})", condition.type_, condition.status, condition.reason),
    });
    turned.collect()
}

fn take_slices(behind: &mut Behind, service: &Service, slices: &[EndpointSlice]) {
    let (mut ready, mut others) = (BTreeSet::new(), BTreeSet::new());
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for slice in slices {
        let with_number = slice.ports.iter().flatten().filter(|port| port.port.is_some());
        named.extend(with_number.map(|port| port.name.as_deref().unwrap_or_default()));
        for endpoint in &slice.endpoints {
            let is_ready = endpoint.conditions.as_ref().and_then(|said| said.ready).unwrap_or(true);
            let of = if is_ready { &mut ready } else { &mut others };
            // A pod with two families of addresses is one endpoint.
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            of.extend(pod.or_else(|| endpoint.addresses.first().map(String::as_str)));
        }
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let whole = format!("EndpointSlice {}/{name}", behind.target.namespace);
        behind.changes.extend(changes_of(&whole, &slice.metadata));
    }
    behind.target.ready = Some(ready.len());
    behind.target.not_ready = others.len();
    // Who writes slices by hand may leave ports out.
    let any = slices.iter().any(|slice| slice.ports.is_none());
    for port in service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten() {
        let there = any || named.contains(port.name.as_deref().unwrap_or_default());
        if let Some(port) = u16::try_from(port.port).ok().and_then(|port| behind.target.ports.get_mut(&port)) {
            *port = there;
        }
    }
}

fn take_pods(behind: &mut Behind, pods: Vec<Pod>) {
    let is_there = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods: Vec<Pod> = pods.into_iter().filter(is_there).collect();
    let mut told = BTreeMap::new();
    for pod in pods.iter().take(PODS) {
        told.insert(pod.metadata.name.clone().unwrap_or_default(), unready(pod));
        let whole = format!("Pod {}/{}", behind.target.namespace, pod.metadata.name.as_deref().unwrap_or_default());
        // Its fields are changed by the kubelet all the while.
        let meta = ObjectMeta { managed_fields: None, ..pod.metadata.clone() };
        behind.changes.extend(changes_of(&whole, &meta));
    }
    behind.target.pods = Some(told);
    behind.servers = pods.iter().filter(|pod| is_running(pod)).filter_map(|pod| proxy_of(&pod.metadata)).collect();
    behind.target.without_proxy = pods
        .iter()
        .filter(|pod| proxy_of(&pod.metadata).is_none() && pod.metadata.deletion_timestamp.is_none())
        .count();
    if behind.servers.len() > PODS {
        let line = format!("of {} servers' proxies {PODS} are read", behind.servers.len());
        behind.not_seen.push(line);
        behind.servers.truncate(PODS);
    }
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Why a pod is not ready; empty: it is.
fn unready(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "is on its way out".to_owned();
    }
    let Some(status) = &pod.status else { return "has no status yet".to_owned() };
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    if ready.is_some_and(|ready| ready.status == "True") {
        return String::new();
    }
    let containers = status.container_statuses.iter().flatten().filter(|container| !container.ready);
    let waiting = containers.map(|container| {
        let state = container.state.as_ref();
        let waits = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
        format!("container {}: {}", container.name, waits.unwrap_or_else(|| "its readiness probe fails".to_owned()))
    });
    let waiting: Vec<String> = waiting.collect();
    let said = ready.and_then(|ready| ready.message.clone()).unwrap_or_else(|| "is not ready".to_owned());
    if waiting.is_empty() { said } else { format!("is not ready: {}", waiting.join("; ")) }
}

fn policy_of(page: &Page) -> Option<PolicySeen> {
    let policy = page.policy.as_ref()?;
    let there =
        page.generated.iter().filter(|line| matches!(line.state, State::AsWanted | State::Drifted | State::Left));
    let wrong = policy
        .conditions
        .iter()
        .filter(|condition| IN_FORCE.contains(&condition.kind.as_str()) && condition.status == "False");
    Some(PolicySeen {
        name: policy.name.clone(),
        generated: there.map(|line| format!("{} {}/{}", line.kind, page.namespace, line.name)).collect(),
        complaints: wrong
            .map(|condition| format!("{}=False, {}: {}", condition.kind, condition.reason, condition.message))
            .collect(),
    })
}
