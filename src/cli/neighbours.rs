//! What else speaks of a host, in all namespaces that may be read, and who calls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use futures::future::join_all;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    dns_label,
    live::{DEADLINE, Reader},
};
use crate::{
    controller::world::{self, World, gateway_resource, istio_resource},
    istio::{
        Kind,
        neighbourhood::{Client, GatewayRouteKind},
    },
    observed::Unseen,
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

/// Objects of one kind, as far as they may be read.
struct Spread<'a> {
    found: Vec<DynamicObject>,
    /// The namespaces that were read; `None`: all.
    only: Option<BTreeSet<&'a String>>,
    /// What the API server says of the others.
    said: String,
}

/// Why a kind could not be read.
struct Unread {
    words: String,
    /// It is not installed.
    missing: bool,
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
    /// Reads what can touch hosts of the namespaces `own`, wherever it is, into `world`. Where it may not be
    /// listed in all namespaces, only `own` and those that are `near` are read; gives a line for each such kind.
    ///
    /// # Errors
    /// What could not be read of `own`, or for another reason, and what to do; one line each.
    pub(super) async fn around(
        &self,
        own: &BTreeSet<String>,
        near: &BTreeSet<String>,
        world: &World,
    ) -> Result<Vec<String>, Vec<String>> {
        let near: BTreeSet<&String> = own.iter().chain(near).collect();
        let istio = Kind::ALL.map(|kind| istio_resource(kind.as_str(), kind.plural()));
        let gateway = GatewayRouteKind::ALL.map(gateway_resource);
        let resources = istio.iter().chain(&gateway);
        let lists = join_all(resources.clone().map(|resource| self.everywhere(resource, &near))).await;
        let (mut unread, mut faults) = (Vec::new(), Vec::new());
        for (resource, list) in resources.zip(lists) {
            let kind = Kind::ALL.into_iter().find(|kind| kind.plural() == resource.plural);
            let route = GatewayRouteKind::ALL.into_iter().find(|kind| kind.plural() == resource.plural);
            let spread = match list {
                Ok(spread) => spread,
                // Nobody needs the Gateway API.
                Err(Unread { missing: true, .. }) if route.is_some() => continue,
                Err(Unread { words, .. }) => {
                    if !faults.contains(&words) {
                        faults.push(words);
                    }
                    continue;
                }
            };
            if let Some(read) = &spread.only {
                if let Some(missed) = own.iter().find(|own| !read.contains(own)).filter(|_| kind.is_some()) {
                    faults.push(Self::forbidden(&spread.said, &resource.plural, missed));
                }
                let unseen = match (kind, route) {
                    (Some(kind), _) if !read.contains(&&world.root_namespace) => Some(Unseen::RootNamespace(kind)),
                    (_, Some(route)) if own.iter().any(|own| !read.contains(&own)) => {
                        Some(Unseen::GatewayRoutes(route))
                    }
                    _ => None,
                };
                if let Some(unseen) = unseen {
                    world.bar(unseen, true);
                }
                let read: Vec<&str> = read.iter().map(|namespace| namespace.as_str()).collect();
                let but = match &read[..] {
                    [] => "none was".to_owned(),
                    some => format!("only those of {} were", some.join(", ")),
                };
                unread.push(format!("{}s of all namespaces: you may not list them, and {but} read", resource.kind));
            }
            for object in spread.found {
                if let Some(kind) = kind {
                    let _delta = world.istio(kind).put(world::existing(kind, object));
                } else if let Some(route) = route {
                    let _delta = world.gateway_routes(route).put(world::gateway_route(route, object));
                }
            }
        }
        if faults.is_empty() { Ok(unread) } else { Err(faults) }
    }

    /// All objects of a kind, or those nearby.
    async fn everywhere<'a>(&self, resource: &ApiResource, near: &BTreeSet<&'a String>) -> Result<Spread<'a>, Unread> {
        let plural = &resource.plural;
        let told = |error: &kube::Error, namespace: &str| Unread {
            words: self.explain(error, plural, namespace),
            missing: matches!(error, kube::Error::Api(status) if status.code == 404),
        };
        let silent = || Unread { words: self.silent(), missing: false };
        let said = match self.all(Api::all_with(self.client.clone(), resource)).await {
            Some(Ok(found)) => return Ok(Spread { found, only: None, said: String::new() }),
            Some(Err(kube::Error::Api(status))) if status.code == 403 => status.message,
            Some(Err(error)) => return Err(told(&error, "")),
            None => return Err(silent()),
        };
        let lists = near.iter().map(|namespace| async move {
            (*namespace, self.all(Api::namespaced_with(self.client.clone(), namespace, resource)).await)
        });
        let mut spread = Spread { found: Vec::new(), only: Some(BTreeSet::new()), said };
        for (namespace, list) in join_all(lists).await {
            match list {
                Some(Ok(list)) => {
                    spread.found.extend(list);
                    spread.only.iter_mut().for_each(|only| {
                        only.insert(namespace);
                    });
                }
                Some(Err(kube::Error::Api(status))) if status.code == 403 => spread.said = status.message,
                Some(Err(error)) => return Err(told(&error, namespace)),
                None => return Err(silent()),
            }
        }
        Ok(spread)
    }

    /// The client as far as it is known, and the kind and name of its workload.
    ///
    /// # Errors
    /// What could not be read, and what to do. That there is no such workload is one such thing.
    pub(super) async fn client_of(&self, asked: &AskedClient) -> Result<(Client, Option<String>), String> {
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
