//! Every refusal, all at once; and what a legal spec means here and now.
//!
//! In: the object, what was observed, the settings. Out: [`Valid`], from which `translate` cannot
//! fail, or a [`Refusal`]. No translation, no writes, no clock.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod arithmetic;
mod neighbours;
mod warnings;

use kube::ResourceExt;

pub use crate::api::schema::Violation;
use crate::{
    api::{
        Duration, EffectiveValue, Ejection, Origin, PerClientLimits, Resilience, Retries, RetryOn, TargetRef, Warning,
        schema,
    },
    istio::Protocol,
    names,
    observed::{Discovery, Observed, ServiceView, Target},
};

pub use arithmetic::{default_max_percent, ejectable};
use neighbours::Wants;
pub(crate) use neighbours::is_ours;

/// What the operator was told about the cluster, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain; a wrong one makes every generated rule silently dead.
    pub cluster_domain: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.to_owned() }
    }
}

/// Why nothing is generated from this spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Faults in the spec, each with its path. Only an edit heals it.
    Invalid(Vec<Violation>),
    /// Somebody else has the host; the message names who, and what to do.
    Conflicted(String),
    /// An older `Resilience` has the target, or another VirtualService has the host of a policy that is
    /// of routes alone; the message names it. What was generated from this one goes: it would stand in
    /// the way of the other's, and then neither would act, or ours in silence.
    Superseded(String),
    /// The target does not exist yet. Heals by itself.
    TargetNotFound(String),
}

/// A policy that can be translated: every value decided, nothing left to refuse.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// The policy that owns what is generated.
    pub owner: Owner,
    /// Its target.
    pub target: TargetRef,
    /// Fully qualified host of the target.
    pub host: String,
    /// Endpoints that client proxies are sent; `None` offline without EndpointSlices.
    pub endpoints: Option<u32>,
    /// Limits of each client proxy.
    pub limits: Option<PerClientLimits>,
    /// Connect timeout.
    pub connect_timeout: Option<Duration>,
    /// Ejection with its fill-ins.
    pub ejection: Option<ResolvedEjection>,
    /// Routes to generate: one per HTTP port, or none.
    pub routes: Option<Routes>,
    /// Every value with its origin.
    pub effective: Vec<EffectiveValue>,
    /// What is legal but will surprise.
    pub warnings: Vec<Warning>,
    /// What could not be decided because it was not observed. Always empty in the cluster; offline
    /// `render` refuses by these, and `validate` does not mind.
    pub unknowns: Vec<Violation>,
}

/// Who owns generated objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the `Resilience`.
    pub name: String,
    /// Its namespace, and that of everything generated.
    pub namespace: String,
    /// Its uid; `None` offline.
    pub uid: Option<String>,
}

/// Ejection with every value decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEjection {
    /// 0 = off.
    pub consecutive_5xx: u32,
    /// 0 = off.
    pub consecutive_gateway: u32,
    /// Splits local-origin failures from answers when set.
    pub consecutive_local_origin: Option<u32>,
    /// Time between two sweeps.
    pub interval: Duration,
    /// Length of the first ejection.
    pub base_time: Duration,
    /// 1..=100.
    pub max_percent: u32,
}

/// Routes with every value decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// HTTP ports of the Service, in its order.
    pub ports: Vec<u16>,
    /// Whole-call timeout.
    pub timeout: Option<Duration>,
    /// Retries; `None` leaves the mesh's default.
    pub retries: Option<ResolvedRetries>,
}

/// Retries with every value decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRetries {
    /// 0 = off; then everything else is empty.
    pub attempts: i32,
    /// The whole list.
    pub retry_on: Vec<RetryOn>,
    /// Besides.
    pub status_codes: Vec<u16>,
    /// Of one try.
    pub per_try_timeout: Option<Duration>,
    /// Before the first retry.
    pub backoff: Option<Duration>,
}

/// Unset `ejection.interval`.
const DEFAULT_INTERVAL: &str = "10s";
/// Unset `ejection.baseTime`.
const DEFAULT_BASE_TIME: &str = "30s";
/// Unset `retries.retryOn`: both mean that the request was not processed, so any method is safe.
const DEFAULT_RETRY_ON: [RetryOn; 2] = [RetryOn::ConnectFailure, RetryOn::RefusedStream];

/// Decides about one object.
///
/// # Errors
/// The [`Refusal`], with every fault that can be told at once.
pub fn validate(resilience: &Resilience, observed: &Observed, settings: &Settings) -> Result<Valid, Refusal> {
    // The API server has checked this already, but an older schema may have, or ratcheting may have
    // let an old fault through an unrelated edit.
    let object = serde_json::to_value(resilience).unwrap_or_default();
    let mut violations = schema::faults(&object);
    let Some(target) = resilience.spec.target_refs.first() else {
        return Err(Refusal::Invalid(violations));
    };
    let namespace = resilience.namespace().unwrap_or_default();
    if let Some((winner, why)) = neighbours::winner(resilience, &observed.rivals) {
        let conflict = format!(
            "Resilience {winner}, {why}, has Service {}: one policy per Service; delete one of the two, or merge them",
            target.name
        );
        return Err(if violations.is_empty() { Refusal::Superseded(conflict) } else { Refusal::Invalid(violations) });
    }
    let service = match &observed.target {
        Target::Missing if violations.is_empty() => {
            let message = format!("Service {} does not exist in namespace {namespace}: waiting for it", target.name);
            return Err(Refusal::TargetNotFound(message));
        }
        Target::Missing => return Err(Refusal::Invalid(violations)),
        Target::Unknown => None,
        Target::Found(service) => Some(service),
    };
    violations.extend(service.map(|service| target_faults(resilience, target, service)).unwrap_or_default());
    if !violations.is_empty() {
        return Err(Refusal::Invalid(violations));
    }
    let owner = Owner { name: resilience.name_any(), namespace, uid: resilience.uid() };
    let host = names::service_host(&target.name, &owner.namespace, &settings.cluster_domain);
    let spec = &resilience.spec;
    let neighbours = neighbours::look(&owner, target, &host, Wants::of(spec), &observed.existing, settings)
        .map_err(Refusal::Conflicted)?;

    let limits = spec.limits.as_ref().and_then(|limits| limits.per_client.clone());
    let connect_timeout = spec.timeouts.as_ref().and_then(|timeouts| timeouts.connect.clone());
    if let Some(other) = &neighbours.routes_owner
        && limits.is_none()
        && connect_timeout.is_none()
        && spec.ejection.is_none()
    {
        // Accepted, it would be Ready with nothing behind it.
        return Err(Refusal::Superseded(format!(
            "{other} has the host, and a proxy takes the routes of one VirtualService only, so nothing of this policy can be generated: put timeouts.request and retries there, or delete it"
        )));
    }
    let mut unknowns = Vec::new();
    let ejection = spec.ejection.as_ref().map(|ejection| resolve_ejection(ejection, observed.endpoints, &mut unknowns));
    let routes = match neighbours.routes_owner {
        Some(_) => None,
        None => resolve_routes(resilience, target, service, &mut unknowns),
    };
    let mut valid = Valid {
        target: target.clone(),
        host,
        endpoints: observed.endpoints,
        connect_timeout,
        limits,
        ejection,
        routes,
        effective: Vec::new(),
        warnings: Vec::new(),
        unknowns,
        owner,
    };
    valid.effective = effective(spec.ejection.as_ref(), spec.retries.as_ref(), &valid);
    valid.warnings = warnings::warnings(&valid, service, &neighbours);
    Ok(valid)
}

/// Faults that only the target shows.
fn target_faults(resilience: &Resilience, target: &TargetRef, service: &ServiceView) -> Vec<Violation> {
    let mut violations = Vec::new();
    if service.discovery == Discovery::ExternalName {
        violations.push(Violation::new(
            "spec.targetRefs[0].name",
            format!(
                "Service {} is an ExternalName, an alias that Istio applies no policy to: target the Service behind it",
                target.name
            ),
        ));
        return violations;
    }
    if http_ports(service).is_empty() {
        let hint = format!(
            "Service {} has no HTTP port: name one http-…, set its appProtocol, or leave this out",
            target.name
        );
        let wants_timeout = resilience.spec.timeouts.as_ref().is_some_and(|timeouts| timeouts.request.is_some());
        if wants_timeout {
            violations.push(Violation::new("spec.timeouts.request", hint.clone()));
        }
        if resilience.spec.retries.is_some() {
            violations.push(Violation::new("spec.retries", hint));
        }
    }
    violations
}

fn http_ports(service: &ServiceView) -> Vec<u16> {
    let http = service.ports.iter().filter(|port| matches!(port.protocol, Protocol::Http | Protocol::Sniffed));
    http.map(|port| port.number).collect()
}

fn resolve_ejection(ejection: &Ejection, endpoints: Option<u32>, unknowns: &mut Vec<Violation>) -> ResolvedEjection {
    if ejection.max_percent.is_none() && endpoints.is_none() {
        unknowns.push(Violation::new(
            "spec.ejection.maxPercent",
            "is not set, so it follows the number of endpoints, which is not known here: set it, add the Service's EndpointSlices, or say --endpoints N",
        ));
    }
    ResolvedEjection {
        consecutive_5xx: ejection.consecutive_5xx.unwrap_or(0),
        consecutive_gateway: ejection.consecutive_gateway.unwrap_or(0),
        consecutive_local_origin: ejection.consecutive_local_origin,
        interval: ejection.interval.clone().unwrap_or_else(|| Duration::new(DEFAULT_INTERVAL)),
        base_time: ejection.base_time.clone().unwrap_or_else(|| Duration::new(DEFAULT_BASE_TIME)),
        max_percent: ejection.max_percent.unwrap_or_else(|| default_max_percent(endpoints.unwrap_or(0))),
    }
}

fn resolve_routes(
    resilience: &Resilience,
    target: &TargetRef,
    service: Option<&ServiceView>,
    unknowns: &mut Vec<Violation>,
) -> Option<Routes> {
    let timeout = resilience.spec.timeouts.as_ref().and_then(|timeouts| timeouts.request.clone());
    let retries = resilience.spec.retries.as_ref().map(resolve_retries);
    if timeout.is_none() && retries.is_none() {
        return None;
    }
    if service.is_none() {
        let wanting = [("spec.timeouts.request", timeout.is_some()), ("spec.retries", retries.is_some())];
        unknowns.extend(wanting.iter().filter(|(_, set)| *set).map(|(path, _)| {
            Violation::new(
                *path,
                format!("needs the ports of Service {}, which is not known here: add it to the files", target.name),
            )
        }));
    }
    Some(Routes { ports: service.map(http_ports).unwrap_or_default(), timeout, retries })
}

fn resolve_retries(retries: &Retries) -> ResolvedRetries {
    let off = retries.attempts == 0;
    ResolvedRetries {
        attempts: retries.attempts,
        retry_on: if off { Vec::new() } else { retries.retry_on.clone().unwrap_or_else(|| DEFAULT_RETRY_ON.to_vec()) },
        status_codes: retries.status_codes.clone().unwrap_or_default(),
        per_try_timeout: retries.per_try_timeout.clone(),
        backoff: retries.backoff.clone(),
    }
}

/// Every generated value with its origin, in the order of the API.
fn effective(ejection: Option<&Ejection>, retries: Option<&Retries>, valid: &Valid) -> Vec<EffectiveValue> {
    let mut list = Effective::default();
    if let Some(limits) = &valid.limits {
        list.spec("limits.perClient.connections", limits.connections);
        list.spec("limits.perClient.pendingRequests", limits.pending_requests);
        list.spec("limits.perClient.activeRequests", limits.active_requests);
        list.spec("limits.perClient.requestsPerConnection", limits.requests_per_connection);
        list.spec("limits.perClient.concurrentRetries", limits.concurrent_retries);
    }
    if let (Some(spec), Some(resolved)) = (ejection, &valid.ejection) {
        let origin = |set: bool| if set { Origin::Spec } else { Origin::Default };
        list.add("ejection.consecutive5xx", resolved.consecutive_5xx, origin(spec.consecutive_5xx.is_some()));
        list.add(
            "ejection.consecutiveGateway",
            resolved.consecutive_gateway,
            origin(spec.consecutive_gateway.is_some()),
        );
        list.spec("ejection.consecutiveLocalOrigin", resolved.consecutive_local_origin);
        list.add("ejection.interval", &resolved.interval, origin(spec.interval.is_some()));
        list.add("ejection.baseTime", &resolved.base_time, origin(spec.base_time.is_some()));
        let percent = if spec.max_percent.is_some() { Origin::Spec } else { Origin::Endpoints };
        list.add("ejection.maxPercent", resolved.max_percent, percent);
    }
    list.spec("timeouts.connect", valid.connect_timeout.as_ref());
    if let Some(routes) = &valid.routes {
        list.spec("timeouts.request", routes.timeout.as_ref());
        if let (Some(spec), Some(resolved)) = (retries, &routes.retries) {
            list.spec("retries.attempts", Some(resolved.attempts));
            if !resolved.retry_on.is_empty() {
                let words: Vec<String> = resolved.retry_on.iter().map(|on| on.name().to_owned()).collect();
                let origin = if spec.retry_on.is_some() { Origin::Spec } else { Origin::Default };
                list.add("retries.retryOn", words.join(", "), origin);
            }
            let codes: Vec<String> = resolved.status_codes.iter().map(ToString::to_string).collect();
            list.spec("retries.statusCodes", (!codes.is_empty()).then(|| codes.join(", ")));
            list.spec("retries.perTryTimeout", resolved.per_try_timeout.as_ref());
            list.spec("retries.backoff", resolved.backoff.as_ref());
        }
    }
    list.0
}

#[derive(Default)]
struct Effective(Vec<EffectiveValue>);

impl Effective {
    fn spec(&mut self, path: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.add(path, value, Origin::Spec);
        }
    }

    fn add(&mut self, path: &str, value: impl std::fmt::Display, origin: Origin) {
        self.0.push(EffectiveValue { path: path.to_owned(), value: value.to_string(), origin });
    }
}
