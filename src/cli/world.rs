//! What files say of the world, in the form in which the operator observes a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::input::{Input, Object, Place};
use crate::{
    api::{
        Resilience, TargetKind, TargetRef,
        schema::{self, Violation},
    },
    controller::{cache::Entry, world as live},
    istio::{
        Existing, Kind, Knows, SHARED_BLOCKS,
        neighbourhood::{Callee, GatewayRoute, GatewayRouteKind, Neighbourhood},
    },
    names,
    observed::{
        Endpoints, Membership, Observed, Rival, Selecting, ServerSide, ServiceView, Target, WAYPOINT, count_endpoints,
        host_of,
    },
    report::as_applied,
    validate::{Refusal, Settings, Valid, validate},
};

/// One `Resilience` as it stands in a file.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where.
    pub place: Place,
    /// Its namespace; that of the command line if it has none.
    pub namespace: String,
    /// Its name, or as much of it as there is.
    pub name: String,
    /// The object, or what the API server would refuse it for.
    pub object: Result<Resilience, Vec<Violation>>,
}

/// Whether what is not in the files is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// It may be in the cluster: nothing is known of it.
    Unknown,
    /// The files are the whole cluster.
    Nothing,
}

/// A namespace and a name.
type Key = (String, String);

/// All that matters of what was read.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// In the order in which they were read.
    pub policies: Vec<Policy>,
    /// Objects that are nothing to us; one line each.
    pub passed_over: Vec<String>,
    /// What could not be read, and why; one line each.
    pub unreadable: Vec<String>,
    services: BTreeMap<Key, Service>,
    entries: BTreeMap<Key, ServiceView>,
    namespaces: BTreeMap<String, Membership>,
    slices: BTreeMap<Key, Vec<EndpointSlice>>,
    rules: Vec<Arc<Existing>>,
    gateway_routes: Vec<Arc<GatewayRoute>>,
    istio: Knows,
}

impl World {
    /// Sorts what was read. Objects without a namespace are taken to be in `namespace`, where an
    /// apply would put them.
    #[must_use]
    pub fn new(input: Input, namespace: &str) -> Self {
        let mut world = Self { unreadable: input.unreadable, passed_over: input.passed_over, ..Self::default() };
        for mut object in input.objects {
            if let Some(Value::Object(metadata)) = object.value.get_mut("metadata")
                && metadata.get("namespace").is_none_or(Value::is_null)
            {
                metadata.insert("namespace".to_owned(), json!(namespace));
            }
            if let Err(why) = world.add(&object) {
                world.unreadable.push(format!("{}: {why}", object.place));
            }
        }
        world
    }

    fn add(&mut self, object: &Object) -> Result<(), String> {
        let text = |pointer| object.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace").to_owned(), text("/metadata/name").to_owned());
        let kind = text("/kind");
        let group = text("/apiVersion").split_once('/').map_or("", |(group, _)| group);
        let broken = |error: serde_json::Error| format!("{kind} {namespace}/{name}: {error}");
        match (group, kind) {
            // Also under a wrong version or a wrong kind: it is meant for us, and `decode` says so.
            (names::GROUP, _) | (_, names::KIND) => self.policies.push(Policy {
                place: object.place.clone(),
                namespace,
                name,
                object: schema::decode(&object.value),
            }),
            ("", "Service") => {
                let service = serde_json::from_value(object.value.clone()).map_err(broken)?;
                self.services.insert((namespace, name), service);
            }
            ("", "Namespace") => {
                let label = |key: &str| object.value.pointer("/metadata/labels")?.get(key)?.as_str();
                self.namespaces.insert(name, Membership::of(label));
            }
            (names::ISTIO_GROUP, "ServiceEntry") => {
                let waypoint = object.value.pointer("/metadata/labels").and_then(|labels| labels.get(WAYPOINT));
                let view = ServiceView::of_entry(&object.value["spec"], waypoint.and_then(Value::as_str));
                self.entries.insert((namespace, name), view);
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                let slice: EndpointSlice = serde_json::from_value(object.value.clone()).map_err(broken)?;
                if let Some(service) = slice.labels().get("kubernetes.io/service-name").cloned() {
                    self.slices.entry((namespace, service)).or_default().push(slice);
                }
            }
            (names::ISTIO_GROUP, "Sidecar") => {
                self.rules.push(Arc::new(existing(Kind::Sidecar, &object.value).map_err(broken)?));
            }
            (names::ISTIO_GROUP, "DestinationRule") => {
                self.rules.push(Arc::new(existing(Kind::DestinationRule, &object.value).map_err(broken)?));
            }
            (names::ISTIO_GROUP, "VirtualService") => {
                self.rules.push(Arc::new(existing(Kind::VirtualService, &object.value).map_err(broken)?));
            }
            (names::GATEWAY_API_GROUP, "HTTPRoute" | "GRPCRoute") => {
                let kind = if kind == "HTTPRoute" { GatewayRouteKind::HttpRoute } else { GatewayRouteKind::GrpcRoute };
                let (meta, spec) = parts(&object.value).map_err(broken)?;
                self.gateway_routes.push(Arc::new(GatewayRoute::new(kind, &meta, &spec)));
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition")
                if self.istio.add_crd(&object.value).map_err(|why| format!("{kind} {name}: {why}"))? => {}
            _ => self.passed_over.push(format!("{}: {kind} {namespace}/{name}", object.place)),
        }
        Ok(())
    }

    /// Namespaces with DestinationRules or VirtualServices.
    #[must_use]
    pub fn namespaces_of_rules(&self) -> BTreeSet<String> {
        let routing = self.rules.iter().filter(|rule| rule.kind != Kind::Sidecar);
        routing.map(|rule| rule.namespace.clone()).collect()
    }

    /// DestinationRules and VirtualServices of a namespace, in the order in which they were read.
    #[must_use]
    pub fn rules_within(&self, namespace: &str) -> Vec<Arc<Existing>> {
        let here = self.rules.iter().filter(|rule| rule.kind != Kind::Sidecar && rule.namespace == namespace);
        here.cloned().collect()
    }

    /// Services and ServiceEntries of a namespace.
    #[must_use]
    pub fn targets_within(&self, namespace: &str) -> Vec<(TargetRef, ServiceView)> {
        let services = self.services.iter().filter(|((of, _), _)| of == namespace);
        let services = services
            .map(|((_, name), service)| (TargetRef::new(TargetKind::Service, name), ServiceView::from(service)));
        let entries = self.entries.iter().filter(|((of, _), _)| of == namespace);
        let entries = entries.map(|((_, name), entry)| (TargetRef::new(TargetKind::ServiceEntry, name), entry.clone()));
        services.chain(entries).collect()
    }

    /// What the operator would observe of one policy if the files were its cluster.
    #[must_use]
    pub fn observe(&self, resilience: &Resilience, beyond: Beyond, settings: &Settings) -> Observed {
        let namespace = resilience.namespace().unwrap_or_default();
        let closed = beyond == Beyond::Nothing;
        let target = resilience.spec.target_refs.first();
        let key = (namespace.clone(), target.map(|target| target.name.clone()).unwrap_or_default());
        let (found, endpoints) = match target.map(|target| target.kind) {
            Some(TargetKind::ServiceEntry) => {
                let entry = self.entries.get(&key);
                (entry.cloned(), entry.and_then(|entry| entry.listed))
            }
            Some(TargetKind::Service) | None => {
                let counted = self.slices.get(&key).map(count_endpoints);
                (self.services.get(&key).map(ServiceView::from), counted.or(closed.then(Endpoints::default)))
            }
        };
        Observed {
            target: match found {
                Some(found) => Target::Found(found),
                None if closed => Target::Missing,
                None => Target::Unknown,
            },
            endpoints,
            rivals: self.rivals(resilience),
            namesakes: target.map(|target| self.namesakes(&namespace, target)).unwrap_or_default(),
            existing: self.within(&namespace),
            server_side: self.server_side(&namespace, target, settings),
            membership: self.namespaces.get(&namespace).copied(),
            istio: self.istio.clone(),
            neighbourhood: target.map(|target| self.neighbourhood(&namespace, target, settings)).unwrap_or_default(),
            unseen: BTreeSet::new(),
        }
    }

    /// ServiceEntries of other namespaces with the host of a ServiceEntry.
    fn namesakes(&self, namespace: &str, target: &TargetRef) -> Vec<String> {
        let own = match target.kind {
            TargetKind::Service => None,
            TargetKind::ServiceEntry => self.entries.get(&(namespace.to_owned(), target.name.clone())),
        };
        let Some(host) = own.and_then(|own| own.hosts.first()) else { return Vec::new() };
        let others = self.entries.iter().filter(|((of, _), entry)| {
            of != namespace && entry.hosts.iter().any(|other| other.eq_ignore_ascii_case(host))
        });
        others.map(|((of, name), _)| format!("{of}/{name}")).collect()
    }

    /// As the controller gathers it from its caches.
    fn server_side(&self, namespace: &str, target: Option<&TargetRef>, settings: &Settings) -> ServerSide {
        let views: Vec<(&str, ServiceView)> = self
            .services
            .iter()
            .filter(|((of, _), _)| of == namespace)
            .map(|((_, name), service)| (name.as_str(), ServiceView::from(service)))
            .collect();
        let target = target.filter(|target| target.kind == TargetKind::Service);
        let own = target.and_then(|target| views.iter().find(|(name, _)| *name == target.name));
        let Some((name, own)) = own else { return ServerSide::default() };
        let policies = self.policies.iter().filter(|policy| policy.namespace == namespace);
        let stating: Vec<&Resilience> = policies
            .filter_map(|policy| policy.object.as_ref().ok())
            .filter(|policy| policy.spec.limits.as_ref().is_some_and(|limits| limits.per_server.is_some()))
            .collect();
        let policy = |service: &str| {
            let targets =
                |policy: &&&Resilience| policy.spec.target_refs.first().is_some_and(|target| target.name == service);
            stating.iter().find(targets).and_then(|policy| policy.metadata.name.clone())
        };
        let selecting = views.iter().map(|(name, view)| Selecting { name, selector: &view.selector });
        let sidecars = self.rules.iter().filter(|rule| {
            rule.kind == Kind::Sidecar && (rule.namespace == namespace || rule.namespace == settings.root_namespace)
        });
        let addresses = |service: &str| {
            let slices = self.slices.get(&(namespace.to_owned(), service.to_owned()));
            let endpoints = slices.into_iter().flatten().flat_map(|slice| &slice.endpoints);
            endpoints.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
        };
        let target = Selecting { name, selector: &own.selector };
        ServerSide::gather(namespace, &target, selecting, sidecars.map(Arc::as_ref), policy, addresses)
    }

    fn within(&self, namespace: &str) -> Vec<Existing> {
        let here = self.rules.iter().filter(|rule| rule.namespace == namespace);
        here.map(|rule| Existing::clone(rule)).collect()
    }

    fn neighbourhood(&self, namespace: &str, target: &TargetRef, settings: &Settings) -> Neighbourhood {
        let key = (namespace.to_owned(), target.name.clone());
        let host = host_of(target, namespace, self.entries.get(&key), &settings.cluster_domain);
        let callee = Callee {
            host: host.unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: target.name.clone(),
            is_entry: target.kind == TargetKind::ServiceEntry,
            ..Callee::default()
        };
        let Settings { cluster_domain, root_namespace } = settings;
        Neighbourhood::gather(&callee, &self.rules, &self.gateway_routes, cluster_domain, root_namespace)
    }

    fn rivals(&self, resilience: &Resilience) -> Vec<Rival> {
        let target = resilience.spec.target_refs.first();
        let host = target.and_then(|target| self.entry_host(resilience, target));
        let others =
            self.policies.iter().filter_map(|policy| policy.object.as_ref().ok()).filter(|other| {
                other.namespace() == resilience.namespace() && other.name_any() != resilience.name_any()
            });
        let rival = |other: &Resilience| {
            let theirs = other.spec.target_refs.first()?;
            let same_host = || host.is_some() && self.entry_host(other, theirs) == host;
            let created = other.creation_timestamp().map(|time| time.0);
            (Some(theirs) == target || same_host()).then(|| Rival {
                name: other.name_any(),
                created,
                target: theirs.clone(),
            })
        };
        others.filter_map(rival).collect()
    }

    /// The host that a ServiceEntry declares; a Service has one that no other target has.
    fn entry_host(&self, policy: &Resilience, target: &TargetRef) -> Option<&String> {
        let key = (policy.namespace().unwrap_or_default(), target.name.clone());
        (target.kind == TargetKind::ServiceEntry).then(|| self.entries.get(&key)?.hosts.first())?
    }

    /// Puts all of it on top of what a cluster has, as if it were applied: what only the API server knows
    /// stays as it is there. A policy that the API server would refuse is left out.
    pub(super) fn lay_over(&self, live: &live::World) {
        for ((namespace, name), service) in &self.services {
            let mut entry = live::service(service.clone());
            // Whatever version the file was once read at, it is the latest now.
            (entry.namespace, entry.name, entry.version) = (namespace.clone(), name.clone(), None);
            let _delta = live.services.put(entry);
        }
        for ((namespace, name), view) in &self.entries {
            let _delta = live.entries.put(fresh(namespace, name, view.clone()));
        }
        for (name, membership) in &self.namespaces {
            let _delta = live.namespaces.put(fresh(name, name, *membership));
        }
        for slice in self.slices.values().flatten() {
            let mut entry = live::slice(slice.clone());
            entry.version = None;
            let _delta = live.slices.put(entry);
        }
        for rule in &self.rules {
            let cache = live.istio(rule.kind);
            let mut rule = Existing::clone(rule);
            if let Some(there) = cache.get(&rule.namespace, &rule.name) {
                let labels = there.view.labels.clone().into_iter().chain(rule.labels);
                let mut spec = rule.spec;
                keep_shared(&there.view, &mut spec);
                rule = Existing { labels: labels.collect(), spec, ..Existing::clone(&there.view) };
            }
            let (namespace, name) = (rule.namespace.clone(), rule.name.clone());
            let uid = rule.uid.clone().unwrap_or_default();
            let _delta = cache.put(Entry { uid, ..fresh(&namespace, &name, Arc::new(rule)) });
        }
        for (policy, file) in self.policies.iter().filter_map(|policy| Some((policy, policy.object.as_ref().ok()?))) {
            let there = live.policies.get(&policy.namespace, &policy.name);
            let then = as_applied(file, there.as_ref().map(|there| there.view.meta()));
            let view = live::Policy::Readable(Box::new(then));
            let _delta = live.policies.put(fresh(&policy.namespace, &policy.name, view));
        }
    }

    /// Names of policies that are in the files twice, at all their places but the first.
    #[must_use]
    pub fn repeated(&self) -> Vec<&Policy> {
        let mut seen = BTreeSet::new();
        self.policies.iter().filter(|policy| !seen.insert((&policy.namespace, &policy.name))).collect()
    }

    /// Decides about one policy as the operator would, by all that the files tell.
    ///
    /// # Errors
    /// Every fault, with its path.
    pub fn decide(
        &self,
        policy: &Policy,
        settings: &Settings,
        endpoints: Option<u32>,
    ) -> Result<Valid, Vec<Violation>> {
        let resilience = policy.object.as_ref().map_err(Clone::clone)?;
        let mut observed = self.observe(resilience, Beyond::Unknown, settings);
        observed.endpoints = endpoints.map(Endpoints::of).or(observed.endpoints);
        validate(resilience, &observed, settings).map_err(|refusal| match refusal {
            Refusal::Invalid(violations) | Refusal::Unsupported(violations) => violations,
            Refusal::Conflicted(message) | Refusal::Superseded(message) | Refusal::TargetNotFound(message) => {
                vec![Violation::new("spec.targetRefs[0]", message)]
            }
        })
    }
}

/// An apply of its owner's file leaves our blocks in a co-owned object, as far as the file has none.
fn keep_shared(there: &Existing, spec: &mut Value) {
    if there.co_owner_uid().is_none() || !spec.is_object() {
        return;
    }
    for block in SHARED_BLOCKS {
        if let Some(ours) = there.spec.pointer(&format!("/trafficPolicy/{block}"))
            && spec["trafficPolicy"].get(block).is_none()
        {
            spec["trafficPolicy"][block] = ours.clone();
        }
    }
}

fn fresh<V>(namespace: &str, name: &str, view: V) -> Entry<V> {
    Entry { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new(), version: None, view }
}

fn existing(kind: Kind, value: &Value) -> serde_json::Result<Existing> {
    let (meta, spec) = parts(value)?;
    Ok(Existing::new(kind, &meta, spec))
}

fn parts(value: &Value) -> serde_json::Result<(ObjectMeta, Value)> {
    let meta = serde_json::from_value(value.get("metadata").cloned().unwrap_or_default())?;
    Ok((meta, value.get("spec").cloned().unwrap_or_default()))
}
