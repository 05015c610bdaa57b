//! What the object says of proxies.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Outcome, cut, stamped};
use crate::{
    api::{
        ResilienceStatus,
        conditions::{IN_EFFECT, Reason},
    },
    in_effect::{Expectation, Proof, Truth, Verdict},
};

/// What is to be said of proxies after an outcome. What an earlier look found holds until the next one as
/// long as nothing was written since.
pub(super) fn verdict(old: &ResilienceStatus, generation: Option<i64>, outcome: &Outcome, proof: &Proof) -> Verdict {
    let Some(expectation) = expectation(outcome) else {
        return Verdict::unknown(Reason::NotProgrammed, "nobody is asked before the API server holds it");
    };
    if expectation.is_empty() {
        return Verdict::unknown(
            Reason::NotForClients,
            "what is generated is for the servers' own proxies, which are not asked",
        );
    }
    match proof {
        Proof::Found(verdict) => verdict.clone(),
        Proof::NotSetUp => Verdict::unknown(
            Reason::NoIdentity,
            "istiod was not asked what proxies have, for want of an identity: docs/in-effect.md sets one up",
        ),
        Proof::NotYet => earlier(old, generation, outcome)
            .unwrap_or_else(|| Verdict::unknown(Reason::Progressing, "istiod is about to be asked what proxies have")),
    }
}

/// What proxies should have after an outcome; `None`: nothing of the present spec can be there.
pub(crate) fn expectation(outcome: &Outcome) -> Option<Expectation> {
    match outcome {
        Outcome::Programmed(valid, _) | Outcome::ForeignFields(valid, ..) => Some(Expectation::of(valid)),
        Outcome::Suspended(valid, frozen) if frozen.missing.is_empty() => Some(Expectation::of(valid)),
        Outcome::Suspended(..)
        | Outcome::Rejected(_)
        | Outcome::Unsupported(_)
        | Outcome::Conflicted(_)
        | Outcome::Superseded(_)
        | Outcome::Waiting(_)
        | Outcome::Observing(..)
        | Outcome::Refused(..)
        | Outcome::Failed(..)
        | Outcome::FieldConflict(..) => None,
    }
}

/// Whether something was written just now, so that what was found before is not of it.
pub(crate) fn wrote(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Programmed(_, applied) | Outcome::ForeignFields(_, applied, _) => !applied.writes.is_empty(),
        // Of these nobody is asked, or nothing is written.
        Outcome::Suspended(..)
        | Outcome::Rejected(_)
        | Outcome::Unsupported(_)
        | Outcome::Conflicted(_)
        | Outcome::Superseded(_)
        | Outcome::Waiting(_)
        | Outcome::Observing(..)
        | Outcome::Refused(..)
        | Outcome::Failed(..)
        | Outcome::FieldConflict(..) => false,
    }
}

/// What another replica, or this one before a restart, found of this very generation.
fn earlier(old: &ResilienceStatus, generation: Option<i64>, outcome: &Outcome) -> Option<Verdict> {
    let said = old.conditions.iter().find(|condition| condition.type_ == IN_EFFECT)?;
    if wrote(outcome) || said.observed_generation != generation {
        return None;
    }
    let truths = [Truth::True, Truth::False, Truth::Unknown];
    Some(Verdict {
        truth: truths.into_iter().find(|truth| truth.as_str() == said.status)?,
        reason: Reason::OF_ASKING.into_iter().find(|reason| reason.as_str() == said.reason)?,
        message: said.message.clone(),
        proxies: old.targets.first().and_then(|target| target.proxies),
    })
}

pub(super) fn condition(
    old: &ResilienceStatus,
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let says = (verdict.truth.as_str(), verdict.reason, cut(verdict.message.clone()));
    stamped(old, IN_EFFECT, says, generation, now)
}
