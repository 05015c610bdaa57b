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

/// What can speak of a host.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Istio(Kind),
    Gateway(GatewayRouteKind),
    /// A ServiceEntry, which may declare it as well.
    Entry,
}

/// Objects of one kind, as far as they may be read.
struct Spread<'a> {
    found: Vec<DynamicObject>,
    /// Where not all namespaces may be read: what the API server says of each of those nearby; none: it was read.
    nearby: BTreeMap<&'a String, Option<String>>,
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

pub(super) fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
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
        let istio = Kind::ALL.map(|kind| (Speaks::Istio(kind), istio_resource(kind.as_str(), kind.plural())));
        let gateway = GatewayRouteKind::ALL.map(|kind| (Speaks::Gateway(kind), gateway_resource(kind)));
        let entries = (Speaks::Entry, istio_resource("ServiceEntry", "serviceentries"));
        let resources: Vec<_> = istio.into_iter().chain(gateway).chain([entries]).collect();
        let lists = join_all(resources.iter().map(|(_, resource)| self.everywhere(resource, &near))).await;
        let (mut unread, mut faults) = (Vec::new(), Vec::new());
        for ((speaks, resource), list) in resources.iter().zip(lists) {
            let spread = match list {
                Ok(spread) => spread,
                // Nobody needs the Gateway API.
                Err(Unread { missing: true, .. }) if matches!(speaks, Speaks::Gateway(_)) => continue,
                Err(Unread { words, .. }) => {
                    if !faults.contains(&words) {
                        faults.push(words);
                    }
                    continue;
                }
            };
            if !spread.nearby.is_empty() {
                let refused = |namespace: &String| spread.nearby.get(namespace).and_then(Option::as_ref);
                let missed = own.iter().find_map(|own| Some((own, refused(own)?)));
                match (speaks, missed) {
                    (Speaks::Gateway(kind), Some(_)) => drop(world.bar(Unseen::GatewayRoutes(*kind), true)),
                    (Speaks::Istio(_) | Speaks::Entry, Some((own, said))) => {
                        faults.push(Self::forbidden(said, &resource.plural, own));
                    }
                    (_, None) => {}
                }
                if let Speaks::Istio(kind) = speaks
                    && refused(&world.root_namespace).is_some()
                {
                    world.bar(Unseen::RootNamespace(*kind), true);
                }
                let read = spread.nearby.iter().filter(|(_, refused)| refused.is_none());
                let read: Vec<&str> = read.map(|(namespace, _)| namespace.as_str()).collect();
                let but = match &read[..] {
                    [] => "none was".to_owned(),
                    some => format!("only those of {} were", some.join(", ")),
                };
                unread.push(format!("{}s of all namespaces: you may not list them, and {but} read", resource.kind));
            }
            for object in spread.found {
                match *speaks {
                    Speaks::Entry => drop(world.entries.put(world::entry(object))),
                    Speaks::Istio(kind) => drop(world.istio(kind).put(world::existing(kind, object))),
                    Speaks::Gateway(kind) => drop(world.gateway_routes(kind).put(world::gateway_route(kind, object))),
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
        match self.all(Api::all_with(self.client.clone(), resource)).await {
            Some(Ok(found)) => return Ok(Spread { found, nearby: BTreeMap::new() }),
            Some(Err(kube::Error::Api(status))) if status.code == 403 => {}
            Some(Err(error)) => return Err(told(&error, "")),
            None => return Err(silent()),
        }
        let lists = near.iter().map(|namespace| async move {
            (*namespace, self.all(Api::namespaced_with(self.client.clone(), namespace, resource)).await)
        });
        let mut spread = Spread { found: Vec::new(), nearby: BTreeMap::new() };
        for (namespace, list) in join_all(lists).await {
            let refused = match list {
                Some(Ok(list)) => {
                    spread.found.extend(list);
                    None
                }
                Some(Err(kube::Error::Api(status))) if status.code == 403 => Some(status.message),
                Some(Err(error)) => return Err(told(&error, namespace)),
                None => return Err(silent()),
            };
            spread.nearby.insert(namespace, refused);
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

    /// An object, if it is there.
    ///
    /// # Errors
    /// What went wrong, and what to do.
    pub(super) async fn get(
        &self,
        of: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, String> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, of);
        match timeout(DEADLINE, api.get_opt(name)).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error, &of.plural, namespace)),
            Err(_) => Err(self.silent()),
        }
    }
}
