//! What else speaks of a host, in all namespaces that may be read, and who calls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::Arc,
};

use futures::future::{join, join_all};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    dns_label,
    live::{CHUNK, DEADLINE, Reader, patiently},
};
use crate::{
    api::{TargetKind, TargetRef},
    controller::world::{self, istio_resource},
    istio::{
        Kind,
        neighbourhood::{
            Callee, Client, ClientSidecar, GATEWAY_API_VERSION, GatewayRoute, GatewayRouteKind, Neighbourhood,
        },
    },
    validate::Settings,
};

/// The client that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedClient {
    pub(super) namespace: String,
    pub(super) workload: Option<String>,
}

impl FromStr for AskedClient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, workload) = match text.split_once('/') {
            None => (text, None),
            Some((namespace, workload)) => (namespace, Some(workload)),
        };
        if workload.is_some_and(|workload| workload.is_empty() || workload.contains('/')) {
            return Err("must be NAMESPACE or NAMESPACE/WORKLOAD".to_owned());
        }
        Ok(Self { namespace: dns_label(namespace)?, workload: workload.map(str::to_owned) })
    }
}

/// What was read around a host.
pub struct Around {
    pub(super) neighbourhood: Neighbourhood,
    /// What was not, one line each.
    pub(super) unread: Vec<String>,
}

/// Kinds of workloads, in the order in which a name is looked for.
const WORKLOADS: [(&str, &str, &str); 4] = [
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("v1", "Pod", "pods"),
];

fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

impl Reader {
    /// Everything that can touch `callee`. Where it may not be listed in all namespaces, only those that
    /// are `near` are read, and that is said.
    ///
    /// # Errors
    /// What could not be read for another reason, and what to do; one line each.
    pub async fn around(
        &self,
        callee: &Callee,
        near: &BTreeSet<String>,
        settings: &Settings,
    ) -> Result<Around, Vec<String>> {
        let istio = Kind::ALL.map(|kind| istio_resource(kind.as_str(), kind.plural()));
        let gateway = GatewayRouteKind::ALL.map(|kind| resource(GATEWAY_API_VERSION, kind.as_str(), kind.plural()));
        let sidecar = istio_resource("Sidecar", "sidecars");
        let resources: Vec<_> = istio.into_iter().chain(gateway).chain([sidecar]).collect();
        let lists = join_all(resources.iter().map(|resource| self.everywhere(resource, near)));
        let lists = patiently(&format!("reading {}", self.address), lists).await;
        let (mut objects, mut routes, mut sidecars) = (Vec::new(), Vec::new(), Vec::new());
        let (mut unread, mut faults) = (Vec::new(), Vec::new());
        for (resource, list) in resources.iter().zip(lists) {
            let found = match list {
                Ok((found, note)) => {
                    unread.extend(note);
                    found
                }
                Err(fault) => {
                    if !faults.contains(&fault) {
                        faults.push(fault);
                    }
                    continue;
                }
            };
            let kind = Kind::ALL.into_iter().find(|kind| kind.plural() == resource.plural);
            let route = GatewayRouteKind::ALL.into_iter().find(|kind| kind.plural() == resource.plural);
            for object in found {
                let spec = object.data.get("spec").unwrap_or(&Value::Null);
                match (kind, route) {
                    (Some(kind), _) => objects.push(world::existing(kind, object).view),
                    (_, Some(kind)) => routes.push(Arc::new(GatewayRoute::new(kind, &object.metadata, spec))),
                    _ => sidecars.push(ClientSidecar::new(&object.metadata, spec)),
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (domain, root) = (&settings.cluster_domain, &settings.root_namespace);
        let gathered = Neighbourhood::gather(callee, &objects, &routes, domain, root);
        Ok(Around { neighbourhood: Neighbourhood { sidecars: Arc::new(sidecars), ..gathered }, unread })
    }

    /// All objects of a kind. One that is not installed has none.
    async fn everywhere(
        &self,
        resource: &ApiResource,
        near: &BTreeSet<String>,
    ) -> Result<(Vec<DynamicObject>, Option<String>), String> {
        let plural = &resource.plural;
        match self.all(Api::all_with(self.client.clone(), resource)).await {
            Some(Ok(found)) => return Ok((found, None)),
            Some(Err(kube::Error::Api(status))) if status.code == 404 => return Ok((Vec::new(), None)),
            Some(Err(kube::Error::Api(status))) if status.code == 403 => {}
            Some(Err(error)) => return Err(self.explain(&error, plural, "")),
            None => return Err(self.silent()),
        }
        let lists = near.iter().map(|namespace| async move {
            (namespace, self.all(Api::namespaced_with(self.client.clone(), namespace, resource)).await)
        });
        let (mut found, mut read) = (Vec::new(), Vec::new());
        for (namespace, list) in join_all(lists).await {
            match list {
                Some(Ok(list)) => {
                    found.extend(list);
                    read.push(namespace.as_str());
                }
                Some(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {}
                Some(Err(error)) => return Err(self.explain(&error, plural, namespace)),
                None => return Err(self.silent()),
            }
        }
        let but =
            if read.is_empty() { "none was".to_owned() } else { format!("only those of {} were", read.join(", ")) };
        let kind = &resource.kind;
        Ok((found, Some(format!("{kind}s of all namespaces: you may not list them, and {but} read"))))
    }

    /// In chunks; `None`: no answer in time.
    async fn all(&self, api: Api<DynamicObject>) -> Option<Result<Vec<DynamicObject>, kube::Error>> {
        let (mut chunk, mut found) = (ListParams::default().limit(CHUNK), Vec::new());
        loop {
            let answer = match timeout(DEADLINE, api.list(&chunk)).await.ok()? {
                Ok(answer) => answer,
                Err(error) => return Some(Err(error)),
            };
            found.extend(answer.items);
            match answer.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => chunk = chunk.continue_token(&token),
                None => return Some(Ok(found)),
            }
        }
    }

    /// The namespaces that a target is exported to, and the client as far as it is known, with the kind of
    /// its workload.
    ///
    /// # Errors
    /// What could not be read, and what to do; one line each. That there is no such workload is one of them.
    pub async fn both_sides(
        &self,
        target: &TargetRef,
        namespace: &str,
        client: Option<&AskedClient>,
    ) -> Result<(Vec<String>, Option<(Client, Option<String>)>), Vec<String>> {
        let asked = async {
            match client {
                None => Ok(None),
                Some(asked) => self.client_of(asked).await.map(Some),
            }
        };
        match join(self.export_to(target, namespace), asked).await {
            (Ok(exports), Ok(client)) => Ok((exports, client)),
            (exports, client) => Err(exports.err().into_iter().chain(client.err()).collect()),
        }
    }

    /// Where a Service says it by annotation, a ServiceEntry by a field.
    async fn export_to(&self, target: &TargetRef, namespace: &str) -> Result<Vec<String>, String> {
        let of = match target.kind {
            TargetKind::Service => resource("v1", "Service", "services"),
            TargetKind::ServiceEntry => istio_resource("ServiceEntry", "serviceentries"),
        };
        let Some(object) = self.get(&of, namespace, &target.name).await? else { return Ok(Vec::new()) };
        let split =
            |list: &str| list.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
        Ok(match target.kind {
            TargetKind::Service => {
                let annotations = object.metadata.annotations.as_ref();
                annotations
                    .and_then(|all| all.get("networking.istio.io/exportTo"))
                    .map(|list| split(list))
                    .unwrap_or_default()
            }
            TargetKind::ServiceEntry => {
                let list = object.data.pointer("/spec/exportTo").and_then(Value::as_array).into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_owned).collect()
            }
        })
    }

    async fn client_of(&self, asked: &AskedClient) -> Result<(Client, Option<String>), String> {
        let namespace = &asked.namespace;
        let client = Client { namespace: namespace.clone(), labels: None };
        let Some(workload) = &asked.workload else { return Ok((client, None)) };
        for (api_version, kind, plural) in WORKLOADS {
            let Some(object) = self.get(&resource(api_version, kind, plural), namespace, workload).await? else {
                continue;
            };
            let of_pods = object.data.pointer("/spec/template/metadata/labels").and_then(Value::as_object);
            let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
            let labels: BTreeMap<String, String> = match kind {
                "Pod" => object.metadata.labels.unwrap_or_default(),
                _ => of_pods.into_iter().flatten().filter_map(text).collect(),
            };
            return Ok((Client { labels: Some(labels), ..client }, Some(format!("{kind} {workload}"))));
        }
        let kinds = WORKLOADS.map(|(_, kind, _)| kind).join(", ");
        Err(format!("namespace {namespace} has no workload {workload} ({kinds}): --client {namespace} asks for any"))
    }

    async fn get(&self, of: &ApiResource, namespace: &str, name: &str) -> Result<Option<DynamicObject>, String> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, of);
        match timeout(DEADLINE, api.get_opt(name)).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error, &of.plural, namespace)),
            Err(_) => Err(self.silent()),
        }
    }
}
