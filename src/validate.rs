//! Every refusal, all at once; and what a legal spec means here and now.
//!
//! In: the object, what was observed, the settings. Out: [`Valid`], from which `translate` cannot
//! fail, or a [`Refusal`]. No translation, no writes, no clock.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod arithmetic;
mod effective;
mod gate;
mod merge;
mod neighbours;
mod reach;
mod resolve;
mod server_side;
mod target;
mod valid;
mod warnings;

use kube::ResourceExt;

pub use crate::api::schema::Violation;
use crate::{
    api::{Resilience, TargetRef, schema},
    names,
    observed::{Observed, ServiceView, Target, host_of},
};

pub use arithmetic::{default_max_percent, ejectable};
pub use merge::Merge;
pub(crate) use neighbours::{is_co_owned, is_ours};
pub use valid::{Budget, Owner, Policy, ResolvedEjection, ResolvedRetries, ServerLimits, Valid};

/// What the operator was told about the cluster, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain; a wrong one makes every generated rule silently dead.
    pub cluster_domain: String,
    /// Istio's root namespace; with a wrong one, rules that concern every client are overlooked.
    pub root_namespace: String,
}

impl Settings {
    /// Whether it can be a namespace's name.
    pub(crate) fn is_namespace(name: &str) -> bool {
        (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-')
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.to_owned(),
            root_namespace: names::DEFAULT_ROOT_NAMESPACE.to_owned(),
        }
    }
}

/// Why nothing is generated from this spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Faults in the spec, each with its path. Only an edit heals it.
    Invalid(Vec<Violation>),
    /// The installed Istio does not understand what would be written, each with the path of the field of
    /// the spec. Heals when it is upgraded.
    Unsupported(Vec<Violation>),
    /// Somebody else has the host; the message names who, and what to do.
    Conflicted(String),
    /// An older `Resilience` has the target, or another VirtualService has the host of a policy that is
    /// of routes alone; the message names it. What was generated from this one goes: it would stand in
    /// the way of the other's, and then neither would act, or ours in silence. Likewise beside another
    /// Sidecar for the target's pods.
    Superseded(String),
    /// The target does not exist yet. Heals by itself.
    TargetNotFound(String),
}

/// Decides about one object.
///
/// # Errors
/// The [`Refusal`], with every fault that can be told at once.
pub fn validate(resilience: &Resilience, observed: &Observed, settings: &Settings) -> Result<Valid, Refusal> {
    // The API server has checked this already, but an older schema may have, or ratcheting may have
    // let an old fault through an unrelated edit.
    judged(schema::faults_of(&resilience.spec), resilience, observed, settings)
}

/// Likewise, about an object that this version's schema has just taken.
///
/// # Errors
/// The [`Refusal`], with every fault that can be told at once.
pub fn validate_legal(resilience: &Resilience, observed: &Observed, settings: &Settings) -> Result<Valid, Refusal> {
    judged(Vec::new(), resilience, observed, settings)
}

fn judged(
    mut violations: Vec<Violation>,
    resilience: &Resilience,
    observed: &Observed,
    settings: &Settings,
) -> Result<Valid, Refusal> {
    let Some(target) = resilience.spec.target_refs.first() else {
        return Err(Refusal::Invalid(violations));
    };
    let namespace = resilience.namespace().unwrap_or_default();
    if let Some((winner, why)) = neighbours::winner(resilience, &observed.rivals) {
        let (name, theirs) = (&winner.name, &winner.target);
        let conflict = if theirs == target {
            let kind = target.kind.as_str();
            format!(
                "Resilience {name}, {why}, has {target}: one policy per {kind}; delete one of the two, or merge them"
            )
        } else {
            format!(
                "Resilience {name}, {why}, has {theirs}, which declares the same host as {target}: one policy per host; delete one of the two, or merge them"
            )
        };
        return Err(if violations.is_empty() { Refusal::Superseded(conflict) } else { Refusal::Invalid(violations) });
    }
    let service = match &observed.target {
        Target::Missing if violations.is_empty() => {
            let message = format!("{target} does not exist in namespace {namespace}: waiting for it");
            return Err(Refusal::TargetNotFound(message));
        }
        Target::Missing => return Err(Refusal::Invalid(violations)),
        Target::Unknown => None,
        Target::Found(service) => Some(service),
    };
    let spec = &resilience.spec;
    if violations.is_empty() {
        violations.extend(service.map(|service| target::faults(target, service, settings)).unwrap_or_default());
    }
    if violations.is_empty() {
        violations.extend(resolve::faults(spec, service));
        violations.extend(server_side::faults(spec, service));
    }
    if !violations.is_empty() {
        return Err(Refusal::Invalid(violations));
    }
    let owner = Owner::of(resilience);
    let mut valid = resolve::resolve(spec, target, service, observed, owner);
    valid.host = host(target, service, &valid.owner.namespace, settings);
    if valid.host.is_empty() {
        valid.unknowns.push(Violation::new(
            "spec.targetRefs[0].name",
            format!("{target} is not known here, and its host stands in it: add it to the files"),
        ));
    }
    valid.export_to = reach::routes_export(target, service, &valid.owner.namespace, observed);
    // First: a Sidecar of ours must go for another's, whatever else is in the way.
    server_side::look(&valid, observed, settings)?;
    let wants = valid.wants();
    valid.merge = merge::find(spec, &valid, wants, &observed.existing, settings).map_err(Refusal::Conflicted)?;
    let neighbours = neighbours::look(&valid, wants, observed, settings).map_err(Refusal::Conflicted)?;
    let routes_owner = &neighbours.routes.owner;
    if let Some(other) = routes_owner {
        if !wants.rule && !wants.server {
            // Accepted, it would be Ready with nothing behind it.
            return Err(Refusal::Superseded(without_routes(other)));
        }
        valid.leave_routes();
    }
    valid.effective = effective::effective(spec, &valid, service, routes_owner.is_none());
    let left_out = gate::gate(spec, &mut valid, &observed.istio).map_err(Refusal::Unsupported)?;
    valid.warnings = warnings::warnings(spec, &valid, service, observed, &neighbours, settings);
    valid.warnings.extend(left_out);
    Ok(valid)
}

/// Of a policy that is of routes alone.
fn without_routes(other: &neighbours::RoutesOwner) -> String {
    let name = &other.name;
    if other.is_gateway_api {
        format!(
            "{name} has the routes of this target, which go before those of a VirtualService, so nothing of this policy can be generated: put timeouts and retries there, or delete it"
        )
    } else {
        format!(
            "{name} has the host, and a proxy takes the routes of one VirtualService only, so nothing of this policy can be generated: put timeouts.request and retries there, or delete it"
        )
    }
}

/// Fully qualified; empty where it is not known.
fn host(target: &TargetRef, service: Option<&ServiceView>, namespace: &str, settings: &Settings) -> String {
    host_of(target, namespace, service, &settings.cluster_domain).unwrap_or_default()
}
