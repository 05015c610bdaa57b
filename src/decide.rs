//! What the operator does about one policy, before it does it.
//!
//! In: the object, what was observed, the settings. Out: a [`Step`], which the controller takes and the
//! command line shows. Validates, translates and compares; the mode decides what of it may happen.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use crate::{
    api::{Coexistence, GeneratedRef, Mode, Ownership, Resilience},
    diff::{Diff, contest, describe, diff},
    istio::Existing,
    observed::Observed,
    status::{Frozen, Outcome},
    translate::{Desired, DesiredObject, translate},
    validate::{Owner, Refusal, Settings, Valid, is_co_owned, is_ours, validate},
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
        Err(refusal) => return refused(resilience, observed, refusal),
    };
    let desired = translate(&valid);
    let diff = diff(&desired, &valid.owner, &observed.existing);
    match valid.mode {
        Mode::Enforce => match contested(&diff, &observed.existing) {
            // Nothing of it: a rule comes before its routes, and what stands there meanwhile stays.
            Some(sentence) => Step::Leave(Outcome::FieldConflict(Box::new(valid), sentence)),
            None => Step::Apply(Box::new(Plan { valid, desired, diff })),
        },
        Mode::Observe => {
            let would = desired.objects().iter().map(DesiredObject::called).collect();
            Step::Release(Outcome::Observing(Box::new(valid), would))
        }
        Mode::Suspend => {
            let frozen = Frozen { generated: held(&valid.owner, &observed.existing), missing: describe(&diff) };
            Step::Leave(Outcome::Suspended(Box::new(valid), frozen))
        }
    }
}

/// What was generated from an earlier version of a policy that is refused stays; but not where an older
/// one has overtaken it, nor in somebody else's object once the policy refuses to share.
fn refused(resilience: &Resilience, observed: &Observed, refusal: Refusal) -> Step {
    let owner = Owner::of(resilience);
    let unwanted = resilience.spec.coexistence == Coexistence::Refuse
        && observed.existing.iter().any(|object| is_co_owned(object, &owner));
    // Taken away by a step that did not live to say so: what the status claims must not stay there.
    let claimed =
        resilience.status.iter().flat_map(|status| &status.targets).any(|target| !target.generated.is_empty());
    let gone = claimed && held(&owner, &observed.existing).is_empty();
    match refusal {
        Refusal::Conflicted(message) if unwanted || gone => Step::Release(Outcome::Superseded(message)),
        refusal @ Refusal::Superseded(_) => Step::Release(refusal.into()),
        refusal => Step::Leave(refusal.into()),
    }
}

/// Why blocks cannot be written into somebody else's object, as far as that is seen beforehand.
fn contested(diff: &Diff, existing: &[Existing]) -> Option<String> {
    diff.apply.iter().find_map(|write| {
        let there = existing.iter().find(|there| there.kind == write.object.kind && there.name == write.object.name)?;
        contest(&write.object, &write.changes, there)
    })
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
pub(crate) fn held(owner: &Owner, existing: &[Existing]) -> Vec<GeneratedRef> {
    let held = existing.iter().filter_map(|object| {
        let ownership = match (is_ours(object, owner), is_co_owned(object, owner)) {
            (true, _) if object.deleting => return None,
            (true, _) => Ownership::Created,
            (false, true) => Ownership::CoOwned,
            (false, false) => return None,
        };
        Some(GeneratedRef { kind: object.kind.as_str().to_owned(), name: object.name.clone(), ownership })
    });
    held.collect()
}
