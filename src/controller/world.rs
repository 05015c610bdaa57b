//! The caches, and what is kept of each kind.

use std::sync::{Arc, PoisonError, RwLock};

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
use serde_json::Value;

use super::cache::{Cache, Entry};
use crate::{
    api::{Resilience, ResilienceStatus, TargetKind, TargetRef, conditions},
    istio::{Existing, Kind, Knows},
    names,
    observed::{Membership, ServiceView, WAYPOINT},
    runtime::metrics::Tally,
};

/// A policy as it was read.
#[derive(Debug)]
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

    /// Whether a reconcile could end differently now: a change of status cannot make it.
    pub fn differs(&self, other: &Self) -> bool {
        let (one, two) = (self.meta(), other.meta());
        one.uid != two.uid
            || one.generation != two.generation
            || one.deletion_timestamp != two.deletion_timestamp
            || self.readable().is_some() != other.readable().is_some()
    }
}

/// An EndpointSlice as far as it is counted.
#[derive(Debug, PartialEq)]
pub struct Slice {
    /// Name of the Service that it belongs to.
    pub service: Option<String>,
    /// Addresses and who is leaving, nothing else.
    pub slice: EndpointSlice,
}

/// Everything that decisions rest on.
#[derive(Debug, Default)]
pub struct World {
    /// Our kind.
    pub policies: Cache<Policy>,
    sidecars: Cache<Existing>,
    rules: Cache<Existing>,
    routes: Cache<Existing>,
    /// Possible targets.
    pub services: Cache<ServiceView>,
    /// Likewise.
    pub entries: Cache<ServiceView>,
    /// Namespaces, each as if it lay within itself; empty where only some are worked in.
    pub namespaces: Cache<Membership>,
    /// Their endpoints.
    pub slices: Cache<Slice>,
    istio: RwLock<Knows>,
}

impl World {
    /// The Istio objects of one kind.
    pub fn istio(&self, kind: Kind) -> &Cache<Existing> {
        match kind {
            Kind::Sidecar => &self.sidecars,
            Kind::DestinationRule => &self.rules,
            Kind::VirtualService => &self.routes,
        }
    }

    /// Why the Sidecars of the root namespace are not known; `None`: they are.
    pub fn root_sidecars_unknown(&self, _root_namespace: &str) -> Option<String> {
        None
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
    pub fn host(&self, namespace: &str, target: &TargetRef, cluster_domain: &str) -> Option<String> {
        match target.kind {
            TargetKind::Service => Some(names::service_host(&target.name, namespace, cluster_domain)),
            TargetKind::ServiceEntry => self.target(namespace, target)?.view.hosts.first().cloned(),
        }
    }

    /// The Istio objects of a namespace, in the order in which they are written.
    pub fn istio_within(&self, namespace: &str) -> Vec<Arc<Entry<Existing>>> {
        Kind::ALL.into_iter().flat_map(|kind| self.istio(kind).within(namespace)).collect()
    }

    /// How many policies have each condition with each status.
    pub fn tally(&self) -> Tally {
        let policies = self.policies.all();
        let count = |kind, wanted| {
            let has = |status: &ResilienceStatus| {
                let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
                condition.map_or("Unknown", |condition| condition.status.as_str()) == wanted
            };
            let empty = ResilienceStatus::default();
            let matching = policies.iter().filter(|entry| {
                has(entry.view.readable().and_then(|resilience| resilience.status.as_ref()).unwrap_or(&empty))
            });
            i64::try_from(matching.count()).unwrap_or(i64::MAX)
        };
        let kinds = [conditions::ACCEPTED, conditions::PROGRAMMED, conditions::READY, conditions::STALLED];
        let pairs = kinds.into_iter().flat_map(|kind| ["True", "False", "Unknown"].map(|status| (kind, status)));
        pairs.map(|(kind, status)| (kind, status, count(kind, status))).collect()
    }
}

/// The API's name for a kind of Istio. Spelled out, so that it needs no discovery.
pub fn istio_resource(kind: &str, plural: &str) -> ApiResource {
    let version = names::ISTIO_API_VERSION.trim_start_matches(names::ISTIO_GROUP).trim_start_matches('/');
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(names::ISTIO_GROUP, version, kind), plural)
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
pub fn existing(kind: Kind, mut object: DynamicObject) -> Entry<Existing> {
    let spec = object.data.get_mut("spec").map(Value::take).unwrap_or_default();
    Entry::new(&object.metadata, Existing::new(kind, &object.metadata, spec))
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
