//! What files say of the world, in the form in which the operator observes a cluster.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::input::{Input, Object, Place};
use crate::{
    api::{
        Resilience, TargetKind, TargetRef,
        schema::{self, Violation},
    },
    controller::{cache::Entry, observe::observe, world as live},
    istio::{
        Existing, Kind, Knows, SHARED_BLOCKS,
        neighbourhood::{GatewayRoute, GatewayRouteKind},
    },
    names,
    observed::{Endpoints, Membership, Observed, ServiceView, Target, WAYPOINT},
    report::as_applied,
    validate::{Refusal, Settings, Valid, validate_legal},
};

/// The kinds that say how clients call.
const ROUTING: [Kind; 2] = [Kind::DestinationRule, Kind::VirtualService];

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

/// All that matters of what was read, held as the operator would hold it if the files were its cluster, and observed
/// by the same code.
#[derive(Debug)]
pub struct World {
    /// In the order in which they were read.
    pub policies: Vec<Policy>,
    /// Objects that are nothing to us; one line each.
    pub passed_over: Vec<String>,
    /// What could not be read, and why; one line each.
    pub unreadable: Vec<String>,
    held: live::World,
    istio: Knows,
    settings: Settings,
}

impl World {
    /// Sorts what was read. Objects without a namespace are taken to be in `namespace`, where an
    /// apply would put them; of two with one name, the last counts.
    #[must_use]
    pub fn new(input: Input, namespace: &str, settings: &Settings) -> Self {
        let mut world = Self {
            policies: Vec::new(),
            passed_over: input.passed_over,
            unreadable: input.unreadable,
            held: live::World::new(settings),
            istio: Knows::default(),
            settings: settings.clone(),
        };
        let mut objects = input.objects;
        for object in &mut objects {
            if let Some(Value::Object(metadata)) = object.value.get_mut("metadata")
                && metadata.get("namespace").is_none_or(Value::is_null)
            {
                metadata.insert("namespace".to_owned(), json!(namespace));
            }
        }
        let decoded: Vec<_> = objects.par_iter().map(|object| judged(&object.value)).collect();
        for (object, policy) in objects.iter().zip(decoded) {
            if let Err(why) = world.add(object, policy) {
                world.unreadable.push(format!("{}: {why}", object.place));
            }
        }
        world.held.learn(world.istio.clone());
        world
    }

    fn add(&mut self, object: &Object, policy: Option<Result<Resilience, Vec<Violation>>>) -> Result<(), String> {
        let Object { place, value } = object;
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name, kind) = (text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
        let version = text("/apiVersion");
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let broken = |error: serde_json::Error| format!("{kind} {namespace}/{name}: {error}");
        if let Some(object) = policy {
            if let Ok(policy) = &object {
                let view = live::Policy::Readable(Box::new(policy.clone()));
                let _delta = self.held.policies.put(fresh(&namespace, &name, view));
            }
            self.policies.push(Policy { place: place.clone(), namespace, name, object });
            return Ok(());
        }
        if let Some(kind) = Kind::ALL.into_iter().find(|one| group == names::ISTIO_GROUP && one.as_str() == kind) {
            let (meta, spec) = parts(value).map_err(broken)?;
            let view = Arc::new(Existing::new(kind, &meta, spec));
            let _delta = self.held.istio(kind).put(fresh(&namespace, &name, view));
            return Ok(());
        }
        match (group, &*kind) {
            ("", "Service") => {
                let service: Service = serde_json::from_value(value.clone()).map_err(broken)?;
                let _delta = self.held.services.put(fresh(&namespace, &name, ServiceView::from(&service)));
            }
            ("", "Namespace") => {
                let label = |key: &str| value.pointer("/metadata/labels")?.get(key)?.as_str();
                let _delta = self.held.namespaces.put(fresh(&name, &name, Membership::of(label)));
            }
            (names::ISTIO_GROUP, "ServiceEntry") => {
                let waypoint = value.pointer("/metadata/labels").and_then(|labels| labels.get(WAYPOINT));
                let view = ServiceView::of_entry(&value["spec"], waypoint.and_then(Value::as_str));
                let _delta = self.held.entries.put(fresh(&namespace, &name, view));
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                let slice: EndpointSlice = serde_json::from_value(value.clone()).map_err(broken)?;
                let _delta = self.held.slices.put(fresh(&namespace, &name, live::slice(slice).view));
            }
            (names::GATEWAY_API_GROUP, "HTTPRoute" | "GRPCRoute") => {
                let of_http = kind == "HTTPRoute";
                let kind = if of_http { GatewayRouteKind::HttpRoute } else { GatewayRouteKind::GrpcRoute };
                let (meta, spec) = parts(value).map_err(broken)?;
                let route = Arc::new(GatewayRoute::new(kind, &meta, &spec));
                let _delta = self.held.gateway_routes(kind).put(fresh(&namespace, &name, route));
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition")
                if self.istio.add_crd(value).map_err(|why| format!("{kind} {name}: {why}"))? => {}
            _ => self.passed_over.push(format!("{place}: {kind} {namespace}/{name}")),
        }
        Ok(())
    }

    /// Namespaces with DestinationRules or VirtualServices.
    #[must_use]
    pub fn namespaces_of_rules(&self) -> BTreeSet<String> {
        ROUTING.into_iter().flat_map(|kind| self.held.istio(kind).all()).map(|rule| rule.namespace.clone()).collect()
    }

    /// DestinationRules and VirtualServices of a namespace, by kind and name.
    #[must_use]
    pub fn rules_within(&self, namespace: &str) -> Vec<Arc<Existing>> {
        let here = ROUTING.into_iter().flat_map(|kind| self.held.istio(kind).within(namespace));
        here.map(|rule| rule.view.clone()).collect()
    }

    /// Services and ServiceEntries of a namespace.
    #[must_use]
    pub fn targets_within(&self, namespace: &str) -> Vec<(TargetRef, ServiceView)> {
        let of = |kind, found: Vec<Arc<Entry<ServiceView>>>| {
            found.into_iter().map(move |entry| (TargetRef::new(kind, &entry.name), entry.view.clone()))
        };
        let services = of(TargetKind::Service, self.held.services.within(namespace));
        services.chain(of(TargetKind::ServiceEntry, self.held.entries.within(namespace))).collect()
    }

    /// What the operator would observe of one policy if the files were its cluster.
    #[must_use]
    pub fn observe(&self, resilience: &Resilience, beyond: Beyond) -> Observed {
        let mut observed = observe(resilience, &self.held);
        let target = resilience.spec.target_refs.first();
        if beyond == Beyond::Nothing {
            return observed;
        }
        if observed.target == Target::Missing {
            observed.target = Target::Unknown;
        }
        let namespace = resilience.namespace().unwrap_or_default();
        let service = target.filter(|target| target.kind == TargetKind::Service);
        if service.is_some_and(|service| !self.held.has_slices(&namespace, &service.name)) {
            observed.endpoints = None;
        }
        observed
    }

    /// Puts all of it on top of what a cluster has, as if it were applied: what only the API server knows
    /// stays as it is there. A policy that the API server would refuse is left out.
    pub(super) fn lay_over(&self, live: &live::World) {
        let Self { held, .. } = self;
        for entry in held.services.all() {
            let _delta = live.services.put(fresh(&entry.namespace, &entry.name, entry.view.clone()));
        }
        for entry in held.entries.all() {
            let _delta = live.entries.put(fresh(&entry.namespace, &entry.name, entry.view.clone()));
        }
        for entry in held.namespaces.all() {
            let _delta = live.namespaces.put(fresh(&entry.namespace, &entry.name, entry.view));
        }
        for entry in held.slices.all() {
            let _delta = live.slices.put(fresh(&entry.namespace, &entry.name, entry.view.clone()));
        }
        for rule in Kind::ALL.into_iter().flat_map(|kind| held.istio(kind).all()) {
            let cache = live.istio(rule.view.kind);
            let mut rule = Existing::clone(&rule.view);
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
    pub fn decide(&self, policy: &Policy, endpoints: Option<u32>) -> Result<Valid, Vec<Violation>> {
        let resilience = policy.object.as_ref().map_err(Clone::clone)?;
        let mut observed = self.observe(resilience, Beyond::Unknown);
        observed.endpoints = endpoints.map(Endpoints::of).or(observed.endpoints);
        validate_legal(resilience, &observed, &self.settings).map_err(|refusal| match refusal {
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

/// What the API server would make of it, if it is meant for us; also under a wrong version or a wrong kind, which is said.
fn judged(value: &Value) -> Option<Result<Resilience, Vec<Violation>>> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    (group == names::GROUP || text("kind") == names::KIND).then(|| schema::decode(value))
}

fn fresh<V>(namespace: &str, name: &str, view: V) -> Entry<V> {
    Entry { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new(), version: None, view }
}

fn parts(value: &Value) -> serde_json::Result<(ObjectMeta, Value)> {
    let meta = serde_json::from_value(value.get("metadata").cloned().unwrap_or_default())?;
    Ok((meta, value.get("spec").cloned().unwrap_or_default()))
}
