//! The caches, and what is kept of each kind.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::{DeserializeGuard, PartialObjectMeta},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    cache::{Cache, Entry, Stored},
    index::{Key, as_read, leading_to, target_of},
};
use crate::{
    api::{Resilience, TargetKind, TargetRef, Verification},
    istio::{
        Existing, Kind, Knows, Stake,
        neighbourhood::{GatewayRoute, GatewayRouteKind, Neighbourhood},
    },
    names,
    observed::{Membership, ServiceView, Unseen, WAYPOINT, host_of},
    validate::Settings,
};

/// A policy as it was read.
#[derive(Debug, Serialize, Deserialize)]
pub enum Policy {
    /// Of our types.
    Readable(Box<Resilience>),
    /// Not of our types: written under another version of the CRD. Its metadata, and the fault.
    Unreadable(Box<ObjectMeta>, String),
}

impl Policy {
    /// The policy, if it can be read.
    pub fn readable(&self) -> Option<&Resilience> {
        match self {
            Self::Readable(resilience) => Some(resilience),
            Self::Unreadable(..) => None,
        }
    }

    /// What `verify` says of it, from which a condition follows.
    fn verification(&self) -> Option<&Verification> {
        self.readable()?.status.as_ref()?.verification.as_ref()
    }

    /// Metadata, in both cases.
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Readable(resilience) => &resilience.metadata,
            Self::Unreadable(meta, _) => meta,
        }
    }

    /// What it is for.
    pub fn target(&self) -> Option<&TargetRef> {
        self.readable()?.spec.target_refs.first()
    }

    /// Whether a reconcile could end differently now. Of a status only what `verify` says can make it.
    pub fn differs(&self, other: &Self) -> bool {
        let (one, two) = (self.meta(), other.meta());
        one.uid != two.uid
            || one.generation != two.generation
            || one.deletion_timestamp != two.deletion_timestamp
            || self.readable().is_some() != other.readable().is_some()
            || self.verification() != other.verification()
    }
}

/// An EndpointSlice as far as it is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Name of the Service that it belongs to.
    pub service: Option<String>,
    /// Addresses and who is leaving, nothing else.
    pub slice: EndpointSlice,
}

/// Everything that decisions rest on.
#[derive(Debug)]
pub struct World {
    /// The cluster's domain, in which all hosts here are resolved.
    pub cluster_domain: Arc<str>,
    /// Istio's root namespace.
    pub root_namespace: String,
    /// Our kind.
    pub policies: Cache<Policy>,
    sidecars: Cache<Arc<Existing>>,
    rules: Cache<Arc<Existing>>,
    routes: Cache<Arc<Existing>>,
    /// Possible targets.
    pub services: Cache<ServiceView>,
    /// Likewise.
    pub entries: Cache<ServiceView>,
    /// Namespaces, each as if it lay within itself; empty where only some are worked in.
    pub namespaces: Cache<Membership>,
    /// Their endpoints.
    pub slices: Cache<Slice>,
    http_routes: Cache<Arc<GatewayRoute>>,
    grpc_routes: Cache<Arc<GatewayRoute>>,
    istio: RwLock<Knows>,
    unseen: RwLock<BTreeSet<Unseen>>,
}

impl Default for World {
    fn default() -> Self {
        Self::new(&Settings::default())
    }
}

impl World {
    /// Nothing is known yet.
    pub fn new(settings: &Settings) -> Self {
        let domain: Arc<str> = settings.cluster_domain.as_str().into();
        Self {
            policies: Cache::new(&domain),
            sidecars: Cache::new(&domain),
            rules: Cache::new(&domain),
            routes: Cache::new(&domain),
            services: Cache::new(&domain),
            entries: Cache::new(&domain),
            namespaces: Cache::new(&domain),
            slices: Cache::new(&domain),
            http_routes: Cache::new(&domain),
            grpc_routes: Cache::new(&domain),
            istio: RwLock::default(),
            unseen: RwLock::default(),
            root_namespace: settings.root_namespace.clone(),
            cluster_domain: domain,
        }
    }

    /// The Istio objects of one kind.
    pub fn istio(&self, kind: Kind) -> &Cache<Arc<Existing>> {
        match kind {
            Kind::Sidecar => &self.sidecars,
            Kind::DestinationRule => &self.rules,
            Kind::VirtualService => &self.routes,
        }
    }

    /// Routes of the Gateway API of one kind; none where it is not installed.
    pub fn gateway_routes(&self, kind: GatewayRouteKind) -> &Cache<Arc<GatewayRoute>> {
        match kind {
            GatewayRouteKind::HttpRoute => &self.http_routes,
            GatewayRouteKind::GrpcRoute => &self.grpc_routes,
        }
    }

    /// What may not be read.
    pub fn unseen(&self) -> BTreeSet<Unseen> {
        self.unseen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes whether something may not be read; whether that is news.
    pub fn bar(&self, what: Unseen, barred: bool) -> bool {
        let mut unseen = self.unseen.write().unwrap_or_else(PoisonError::into_inner);
        if barred { unseen.insert(what) } else { unseen.remove(&what) }
    }

    /// All that can touch the host of a target, of all namespaces that are read.
    pub fn neighbourhood(&self, namespace: &str, target: &TargetRef) -> Neighbourhood {
        let host = self.host(namespace, target).unwrap_or_default();
        let shared = |entries: Vec<Arc<Entry<Arc<Existing>>>>| entries.iter().map(|entry| entry.view.clone()).collect();
        let parent = Key::Target(namespace, &names::generated_name(target));
        let routes = GatewayRouteKind::ALL.into_iter().flat_map(|kind| {
            let mut routes = self.gateway_routes(kind).by(parent);
            routes.sort_by(|one, two| place(one).cmp(&place(two)));
            routes
        });
        Neighbourhood {
            cluster_domain: self.cluster_domain.to_string(),
            root_namespace: self.root_namespace.clone(),
            rules: shared(self.speaking_of(Kind::DestinationRule, &host)),
            virtual_services: shared(self.speaking_of(Kind::VirtualService, &host)),
            routes: routes
                .map(|entry| entry.view.clone())
                .filter(|route| is_attached(route, namespace, target))
                .collect(),
            // Whom a Sidecar shows the host changes nothing of what is generated.
            ..Neighbourhood::default()
        }
    }

    /// What the installed Istio understands, as it was seen last.
    pub fn istio_knows(&self) -> Knows {
        self.istio.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what was seen of the installed Istio; whether that is news.
    pub fn learn(&self, knows: Knows) -> bool {
        let mut istio = self.istio.write().unwrap_or_else(PoisonError::into_inner);
        let news = *istio != knows;
        *istio = knows;
        news
    }

    /// A target as it is, if it is there.
    pub fn target(&self, namespace: &str, target: &TargetRef) -> Option<Arc<Entry<ServiceView>>> {
        match target.kind {
            TargetKind::Service => self.services.get(namespace, &target.name),
            TargetKind::ServiceEntry => self.entries.get(namespace, &target.name),
        }
    }

    /// The host of a target; `None` for a ServiceEntry that is not there, or declares none.
    pub fn host(&self, namespace: &str, target: &TargetRef) -> Option<String> {
        let entry = match target.kind {
            TargetKind::Service => None,
            TargetKind::ServiceEntry => self.target(namespace, target),
        };
        host_of(target, namespace, entry.as_ref().map(|entry| &entry.view), &self.cluster_domain)
    }

    /// Whether anything is listed of a Service's endpoints.
    pub fn has_slices(&self, namespace: &str, service: &str) -> bool {
        let slices = self.slices.by(Key::Service(namespace, service));
        slices.iter().any(|slice| slice.namespace == namespace && slice.view.service.as_deref() == Some(service))
    }

    /// The policies for a target.
    pub fn targeting(&self, namespace: &str, target: &TargetRef) -> Vec<Arc<Entry<Policy>>> {
        self.targeting_beside(None, namespace, target)
    }

    /// Likewise, but the one of that namespace and name.
    pub fn targeting_beside(
        &self,
        one: Option<(&str, &str)>,
        namespace: &str,
        target: &TargetRef,
    ) -> Vec<Arc<Entry<Policy>>> {
        let mut policies = self.policies.by_beside(one, Key::Target(namespace, &names::generated_name(target)));
        policies.retain(|policy| policy.namespace == namespace && policy.view.target() == Some(target));
        policies
    }

    /// The policies for a host, of all namespaces, in whatever letters it is written: for the Service that
    /// has it, and for the ServiceEntries that declare it.
    pub fn policies_for(&self, host: &str) -> Vec<Arc<Entry<Policy>>> {
        self.policies_for_beside(None, host)
    }

    /// Likewise, but the one of that namespace and name.
    pub fn policies_for_beside(&self, one: Option<(&str, &str)>, host: &str) -> Vec<Arc<Entry<Policy>>> {
        let service = host.strip_suffix(&*self.cluster_domain).and_then(|host| host.strip_suffix(".svc."));
        let service = service.and_then(|host| host.split_once('.'));
        let entries = self.entries.by(Key::Host(&host.to_ascii_lowercase()));
        let mut policies: Vec<_> = service
            .map(|(name, namespace)| (namespace, TargetRef::new(TargetKind::Service, name)))
            .into_iter()
            .chain(
                entries
                    .iter()
                    .map(|entry| (entry.namespace.as_str(), TargetRef::new(TargetKind::ServiceEntry, &entry.name))),
            )
            .flat_map(|(namespace, target)| self.targeting_beside(one, namespace, &target))
            .collect();
        policies.retain(|policy| self.host_of(policy).is_some_and(|own| own.eq_ignore_ascii_case(host)));
        policies
    }

    /// The policies for hosts with that end, of all namespaces. Looks at each: a wildcard is for many hosts,
    /// and rarely changes.
    pub fn policies_under(&self, suffix: &str) -> Vec<Arc<Entry<Policy>>> {
        let covered = |host: String| {
            host.len()
                .checked_sub(suffix.len())
                .and_then(|begin| host.get(begin..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        self.policies.all().filter(|policy| self.host_of(policy).is_some_and(covered)).collect()
    }

    fn host_of(&self, policy: &Entry<Policy>) -> Option<String> {
        self.host(&policy.namespace, policy.view.target()?)
    }

    /// The Istio objects of one kind, of all namespaces, that speak of the host, by its name, by a wildcard
    /// that covers it, or as one to send calls to; sorted, so that what is said of them keeps its order.
    pub fn speaking_of(&self, kind: Kind, host: &str) -> Vec<Arc<Entry<Arc<Existing>>>> {
        self.istio(kind).opened(self.find_speaking_of(kind, host))
    }

    /// Those of [`World::speaking_of`] as they lie here, in no order.
    pub fn find_speaking_of(&self, kind: Kind, host: &str) -> Vec<Arc<Stored>> {
        if host.is_empty() {
            return Vec::new();
        }
        self.istio(kind).find(leading_to(kind, host).as_slice(), Some(&as_read(kind, host)))
    }

    /// The Istio objects of a namespace that have one of the uids for an owner, the name, or the host,
    /// which they may only send calls to; in the order in which they are written.
    pub fn concerning(&self, namespace: &str, stake: &Stake<'_>) -> Vec<Arc<Entry<Arc<Existing>>>> {
        Kind::ALL.into_iter().flat_map(|kind| self.of_kind_concerning(kind, namespace, stake)).collect()
    }

    fn of_kind_concerning(&self, kind: Kind, namespace: &str, stake: &Stake<'_>) -> Vec<Arc<Entry<Arc<Existing>>>> {
        let cache = self.istio(kind);
        let host = stake.host.map(|host| as_read(kind, host));
        let of_host = host.iter().map(|host| Key::Host(host)).chain(stake.host.and_then(|host| leading_to(kind, host)));
        let keys: Vec<Key<'_>> = stake.uid.map(Key::Uid).into_iter().chain(of_host).collect();
        let mut found = cache.under(&keys, None);
        found.retain(|entry| entry.namespace == namespace && entry.view.concerns(stake, &self.cluster_domain));
        // Mostly it is among them.
        if let Some(name) = stake.name.filter(|name| !found.iter().any(|entry| entry.name == **name)) {
            found.extend(cache.get(namespace, name).filter(|entry| entry.view.concerns(stake, &self.cluster_domain)));
            found.sort_by(|one, two| one.name.cmp(&two.name));
        }
        found
    }
}

fn place<V>(entry: &Entry<V>) -> (&str, &str) {
    (&entry.namespace, &entry.name)
}

fn is_attached(route: &GatewayRoute, namespace: &str, target: &TargetRef) -> bool {
    route.parents.iter().any(|parent| parent.namespace == namespace && target_of(parent) == *target)
}

/// The API's name for a kind of Istio. Spelled out, so that it needs no discovery.
pub fn istio_resource(kind: &str, plural: &str) -> ApiResource {
    let version = names::ISTIO_API_VERSION.trim_start_matches(names::ISTIO_GROUP).trim_start_matches('/');
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(names::ISTIO_GROUP, version, kind), plural)
}

/// Likewise of a kind of route of the Gateway API.
pub fn gateway_resource(kind: GatewayRouteKind) -> ApiResource {
    let (group, version) = names::GATEWAY_API_VERSION.split_once('/').unwrap_or_default();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), kind.plural())
}

/// What is kept of a policy: all but the bookkeeping of others.
pub fn policy(object: DeserializeGuard<Resilience>) -> Entry<Policy> {
    let (mut meta, view) = match object.0 {
        Ok(resilience) => (resilience.metadata.clone(), Ok(resilience)),
        Err(invalid) => (invalid.metadata, Err(invalid.error)),
    };
    meta.managed_fields = None;
    meta.annotations = None;
    let view = match view {
        Ok(resilience) => Policy::Readable(Box::new(Resilience { metadata: meta.clone(), ..resilience })),
        Err(error) => Policy::Unreadable(Box::new(meta.clone()), error),
    };
    Entry::new(&meta, view)
}

/// What is kept of an Istio object: enough to see whose it is, and its spec. Never fails: what is
/// not understood is only JSON.
pub fn existing(kind: Kind, mut object: DynamicObject) -> Entry<Arc<Existing>> {
    let spec = object.data.get_mut("spec").map(Value::take).unwrap_or_default();
    Entry::new(&object.metadata, Arc::new(Existing::new(kind, &object.metadata, spec)))
}

/// What is kept of a route of the Gateway API.
#[expect(clippy::needless_pass_by_value, reason = "as the watch hands it over")]
pub fn gateway_route(kind: GatewayRouteKind, object: DynamicObject) -> Entry<Arc<GatewayRoute>> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    Entry::new(&object.metadata, Arc::new(GatewayRoute::new(kind, &object.metadata, spec)))
}

/// What is kept of a Service: how clients find it, and its ports.
#[expect(clippy::needless_pass_by_value, reason = "as the watch hands it over")]
pub fn service(object: Service) -> Entry<ServiceView> {
    Entry::new(&object.metadata, ServiceView::from(&object))
}

/// What is kept of a ServiceEntry.
#[expect(clippy::needless_pass_by_value, reason = "as the watch hands it over")]
pub fn entry(object: DynamicObject) -> Entry<ServiceView> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let waypoint = object.metadata.labels.as_ref().and_then(|labels| labels.get(WAYPOINT));
    Entry::new(&object.metadata, ServiceView::of_entry(spec, waypoint.map(String::as_str)))
}

/// What is kept of a namespace: it lies within itself, so that what it concerns is looked for there.
pub fn namespace(object: PartialObjectMeta<Namespace>) -> Entry<Membership> {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let membership = Membership::of(|key| labels.get(key).map(String::as_str));
    let meta = ObjectMeta { namespace: object.metadata.name.clone(), ..object.metadata };
    Entry::new(&meta, membership)
}

/// What is kept of an EndpointSlice.
pub fn slice(object: EndpointSlice) -> Entry<Slice> {
    const SERVICE: &str = "kubernetes.io/service-name";
    let service = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE)).cloned();
    let endpoints = object.endpoints.into_iter().map(|endpoint| {
        let said = endpoint.conditions.unwrap_or_default();
        // Of one that is ready, nothing else matters.
        let conditions = match said.ready {
            Some(false) => EndpointConditions { serving: None, ..said },
            Some(true) | None => EndpointConditions::default(),
        };
        Endpoint {
            addresses: endpoint.addresses,
            zone: endpoint.zone,
            conditions: (conditions != EndpointConditions::default()).then_some(conditions),
            ..Default::default()
        }
    });
    let lean =
        EndpointSlice { address_type: object.address_type, endpoints: endpoints.collect(), ..Default::default() };
    Entry::new(&object.metadata, Slice { service, slice: lean })
}
