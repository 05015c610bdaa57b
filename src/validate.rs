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
mod resolve;
mod target;
mod valid;
mod warnings;

use kube::ResourceExt;

pub use crate::api::schema::Violation;
use crate::{
    api::{Resilience, TargetKind, TargetRef, schema},
    names,
    observed::{Observed, ServiceView, Target},
};

pub use arithmetic::{default_max_percent, ejectable};
pub use merge::Merge;
pub(crate) use neighbours::{is_co_owned, is_ours};
pub use valid::{Budget, Owner, Policy, ResolvedEjection, ResolvedRetries, Valid};

/// What the operator was told about the cluster, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain; a wrong one makes every generated rule silently dead.
    pub cluster_domain: String,
    /// Istio's root namespace; with a wrong one, rules that concern every client are overlooked.
    pub root_namespace: String,
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
    /// the way of the other's, and then neither would act, or ours in silence.
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
    let object = serde_json::to_value(resilience).unwrap_or_default();
    let mut violations = schema::faults(&object);
    let Some(target) = resilience.spec.target_refs.first() else {
        return Err(Refusal::Invalid(violations));
    };
    let namespace = resilience.namespace().unwrap_or_default();
    if let Some((winner, why)) = neighbours::winner(resilience, &observed.rivals) {
        let conflict = format!(
            "Resilience {winner}, {why}, has {target}: one policy per {}; delete one of the two, or merge them",
            target.kind.as_str()
        );
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
    let wants = valid.wants();
    valid.merge = merge::find(spec, &valid, wants, &observed.existing, settings).map_err(Refusal::Conflicted)?;
    let neighbours = neighbours::look(&valid, wants, &observed.existing, settings).map_err(Refusal::Conflicted)?;
    if let Some(other) = &neighbours.routes_owner {
        if !wants.rule {
            // Accepted, it would be Ready with nothing behind it.
            return Err(Refusal::Superseded(format!(
                "{other} has the host, and a proxy takes the routes of one VirtualService only, so nothing of this policy can be generated: put timeouts.request and retries there, or delete it"
            )));
        }
        valid.leave_routes();
    }
    valid.effective = effective::effective(spec, &valid, service, neighbours.routes_owner.is_none());
    let left_out = gate::gate(spec, &mut valid, &observed.istio).map_err(Refusal::Unsupported)?;
    valid.warnings = warnings::warnings(spec, &valid, service, observed, &neighbours, settings);
    valid.warnings.extend(left_out);
    Ok(valid)
}

/// Fully qualified; empty where it is not known.
fn host(target: &TargetRef, service: Option<&ServiceView>, namespace: &str, settings: &Settings) -> String {
    match target.kind {
        TargetKind::Service => names::service_host(&target.name, namespace, &settings.cluster_domain),
        TargetKind::ServiceEntry => service.and_then(|entry| entry.hosts.first()).cloned().unwrap_or_default(),
    }
}
