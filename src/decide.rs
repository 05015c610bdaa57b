//! What the operator does about one policy, before it does it.
//!
//! In: the object, what was observed, the settings. Out: a [`Step`], which the controller takes and the
//! command line shows. Validates, translates and compares; the mode decides what of it may happen.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use crate::{
    api::{GeneratedRef, Mode, Ownership, Resilience},
    diff::{Diff, describe, diff},
    istio::Existing,
    observed::Observed,
    status::{Frozen, Outcome},
    translate::{Desired, translate},
    validate::{Owner, Refusal, Settings, Valid, is_ours, validate},
};

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write what is missing, take away what is too much.
    Apply(Box<Plan>),
    /// Take away all that was generated from the policy, which then ends so.
    Release(Outcome),
    /// Touch nothing.
    Leave(Outcome),
}

/// A policy that may act.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The policy.
    pub valid: Valid,
    /// What should exist.
    pub desired: Desired,
    /// What is missing for that.
    pub diff: Diff,
}

/// Decides.
#[must_use]
pub fn decide(resilience: &Resilience, observed: &Observed, settings: &Settings) -> Step {
    let valid = match validate(resilience, observed, settings) {
        Ok(valid) => valid,
        Err(refusal @ Refusal::Superseded(_)) => return Step::Release(refusal.into()),
        Err(refusal) => return Step::Leave(refusal.into()),
    };
    let desired = translate(&valid);
    let diff = diff(&desired, &valid.owner, &observed.existing);
    match valid.mode {
        Mode::Enforce => Step::Apply(Box::new(Plan { valid, desired, diff })),
        Mode::Observe => {
            let would = desired.objects().iter().map(|object| format!("{} {}", object.kind, object.name)).collect();
            Step::Release(Outcome::Observing(Box::new(valid), would))
        }
        Mode::Suspend => {
            let frozen = Frozen { generated: held(&valid.owner, &observed.existing), missing: describe(&diff) };
            Step::Leave(Outcome::Suspended(Box::new(valid), frozen))
        }
    }
}

impl Step {
    /// The policy, if it was legal.
    #[must_use]
    pub fn valid(&self) -> Option<&Valid> {
        match self {
            Self::Apply(plan) => Some(&plan.valid),
            Self::Release(outcome) | Self::Leave(outcome) => outcome.valid(),
        }
    }

    /// What would be written and taken away.
    #[must_use]
    pub fn writes(&self, resilience: &Resilience, existing: &[Existing]) -> Diff {
        match self {
            Self::Apply(plan) => plan.diff.clone(),
            Self::Release(_) => diff(&Desired::default(), &Owner::of(resilience), existing),
            Self::Leave(_) => Diff::default(),
        }
    }
}

/// What there is of a policy.
fn held(owner: &Owner, existing: &[Existing]) -> Vec<GeneratedRef> {
    let ours = existing.iter().filter(|object| !object.deleting && is_ours(object, owner));
    let held = |object: &Existing| GeneratedRef {
        kind: object.kind.as_str().to_owned(),
        name: object.name.clone(),
        ownership: Ownership::Created,
    };
    ours.map(held).collect()
}
