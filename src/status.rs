//! What the object says of itself.
//!
//! In: the object, the outcome of its reconcile, the time. Out: the new status, only if it differs
//! from the one that is there. Says no more than was observed: `Programmed` is what the API server
//! answered, not what proxies do.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod in_effect;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    api::{
        GeneratedRef, Resilience, ResilienceStatus, TargetStatus,
        conditions::{ACCEPTED, IN_EFFECT, PROGRAMMED, READY, Reason, STALLED, VERIFIED},
        schema::Violation,
    },
    in_effect::{Proof, Truth},
    validate::{Refusal, Valid},
    verification,
};

/// How a reconcile ended. Status, events and retry match on it without a wildcard: a new outcome
/// does not compile until each has its answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The spec has faults. Only an edit heals it.
    Rejected(Vec<Violation>),
    /// The installed Istio does not understand what the spec needs. Heals when it is upgraded.
    Unsupported(Vec<Violation>),
    /// Somebody else has the host. Heals when they leave.
    Conflicted(String),
    /// Somebody else has all that this policy would generate, and what was generated from it is gone.
    /// Heals when they leave.
    Superseded(String),
    /// The target does not exist yet. Heals when it does.
    Waiting(String),
    /// Mode Observe: computed and reported, nothing generated; what would be, one line each.
    Observing(Box<Valid>, Vec<String>),
    /// Mode Suspend: what is there stays as it is.
    Suspended(Box<Valid>, Frozen),
    /// Everything is as desired, read back from the API server.
    Programmed(Box<Valid>, Applied),
    /// The API server or Istio's webhook refused an object; the message is theirs. Tried again:
    /// another Istio may take it.
    Refused(Box<Valid>, Failure),
    /// A write failed. Tried again with backoff.
    Failed(Box<Valid>, Failure),
    /// Somebody else has a field of the blocks that were to be shared, with another value; which, and who.
    /// Nothing is forced. Heals when they leave it.
    FieldConflict(Box<Valid>, String),
    /// Everything is as desired, but a field of the co-owned object that is not ours keeps our blocks from
    /// some clients. Heals when it goes.
    ForeignFields(Box<Valid>, Applied, String),
}

/// A write that failed or was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, to which object.
    pub message: String,
    /// The next try will end the same way unless somebody acts, such as for a missing permission:
    /// minutes between tries are enough.
    pub slow: bool,
}

/// What a suspended policy left in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frozen {
    /// The objects that are there.
    pub generated: Vec<GeneratedRef>,
    /// Writes that are missing, one line each; empty if all is as the spec wants it.
    pub missing: Vec<String>,
}

/// What the API server holds for a policy, as it answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// The objects.
    pub generated: Vec<GeneratedRef>,
    /// What was written for it, one line each; empty at rest.
    pub writes: Vec<String>,
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violations) => Self::Rejected(violations),
            Refusal::Unsupported(violations) => Self::Unsupported(violations),
            Refusal::Conflicted(message) => Self::Conflicted(message),
            Refusal::Superseded(message) => Self::Superseded(message),
            Refusal::TargetNotFound(message) => Self::Waiting(message),
        }
    }
}

impl Outcome {
    /// What follows when the API server holds everything as desired.
    #[must_use]
    pub fn held(valid: Valid, applied: Applied) -> Self {
        let narrowed = valid.merge.as_ref().and_then(|merge| merge.narrowed.clone());
        match narrowed {
            None => Self::Programmed(Box::new(valid), applied),
            Some(sentence) => Self::ForeignFields(Box::new(valid), applied, sentence),
        }
    }

    /// The policy, if it was legal.
    #[must_use]
    pub fn valid(&self) -> Option<&Valid> {
        match self {
            Self::Rejected(_) | Self::Unsupported(_) | Self::Conflicted(_) | Self::Superseded(_) | Self::Waiting(_) => {
                None
            }
            Self::Observing(valid, _)
            | Self::Suspended(valid, _)
            | Self::Programmed(valid, _)
            | Self::Refused(valid, _)
            | Self::Failed(valid, _)
            | Self::FieldConflict(valid, _)
            | Self::ForeignFields(valid, ..) => Some(valid),
        }
    }

    /// A fixed word: the metric's label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Unsupported(_) => "unsupported",
            Self::Conflicted(_) => "conflicted",
            Self::Superseded(_) => "superseded",
            Self::Waiting(_) => "waiting",
            Self::Observing(..) => "observing",
            Self::Suspended(..) => "suspended",
            Self::Programmed(..) => "programmed",
            Self::Refused(..) => "refused",
            Self::Failed(..) => "failed",
            Self::FieldConflict(..) => "field-conflict",
            Self::ForeignFields(..) => "foreign-fields",
        }
    }

    /// The reason that stands for the outcome in `Accepted` or `Programmed` and in the event.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Rejected(_) => Reason::Invalid,
            Self::Unsupported(_) => Reason::Unsupported,
            Self::Conflicted(_) | Self::Superseded(_) => Reason::Conflicted,
            Self::Waiting(_) => Reason::TargetNotFound,
            Self::Observing(..) => Reason::Observing,
            Self::Suspended(..) => Reason::Suspended,
            Self::Programmed(..) => Reason::Programmed,
            Self::Refused(..) => Reason::Refused,
            Self::Failed(..) => Reason::WriteFailed,
            Self::FieldConflict(..) => Reason::FieldConflict,
            Self::ForeignFields(..) => Reason::ForeignFields,
        }
    }

    /// What to tell people.
    #[must_use]
    pub fn message(&self) -> String {
        let text = match self {
            Self::Rejected(violations) | Self::Unsupported(violations) => {
                violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            Self::Conflicted(message)
            | Self::Superseded(message)
            | Self::Waiting(message)
            | Self::FieldConflict(_, message)
            | Self::ForeignFields(_, _, message) => message.clone(),
            Self::Observing(_, would) if would.is_empty() => {
                "mode Observe: nothing is generated, and Enforce would not generate anything either".to_owned()
            }
            Self::Observing(_, would) => {
                format!("mode Observe: nothing is generated; Enforce would generate {}", would.join(" and "))
            }
            Self::Suspended(_, frozen) if frozen.missing.is_empty() => {
                format!("mode Suspend: the API server holds {} as the spec wants it", held(&frozen.generated))
            }
            Self::Suspended(_, frozen) => {
                format!("mode Suspend: nothing is written; Enforce would {}", frozen.missing.join("; "))
            }
            Self::Programmed(_, applied) if applied.generated.is_empty() => {
                "nothing to generate beside what another object has".to_owned()
            }
            Self::Programmed(_, applied) => {
                format!("the API server holds {}", held(&applied.generated))
            }
            Self::Refused(_, failure) => format!("a generated object was refused: {}", failure.message),
            Self::Failed(_, failure) => format!("{}; trying again", failure.message),
        };
        cut(text)
    }
}

fn held(generated: &[GeneratedRef]) -> String {
    let names: Vec<String> = generated.iter().map(GeneratedRef::called).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" and ") }
}

/// Longest message that we write: enough for two dozen faults, far from the API server's 32,768.
const MESSAGE_LIMIT: usize = 4_096;

/// Cuts on a character.
fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_LIMIT {
        let mut end = MESSAGE_LIMIT - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The status after `outcome` and with what is known of proxies, if it differs from the present one.
#[must_use]
pub fn status(resilience: &Resilience, outcome: &Outcome, proof: &Proof, now: Timestamp) -> Option<ResilienceStatus> {
    let old = resilience.status.clone().unwrap_or_default();
    let mut new = next(&old, resilience.metadata.generation, outcome, proof, now);
    let verified = verification::verified(&resilience.spec, old.verification.as_ref());
    new.conditions.push(stamped(&old, VERIFIED, verified, resilience.metadata.generation, now));
    (new != old).then_some(new)
}

fn next(
    old: &ResilienceStatus,
    generation: Option<i64>,
    outcome: &Outcome,
    proof: &Proof,
    now: Timestamp,
) -> ResilienceStatus {
    let message = outcome.message();
    let (accepted, programmed, stalled) = match outcome {
        Outcome::Rejected(_) | Outcome::Unsupported(_) | Outcome::Conflicted(_) => (
            no(outcome.reason(), &message),
            no(Reason::NotAccepted, &left_in_place(old)),
            yes(outcome.reason(), &message),
        ),
        Outcome::Superseded(_) => {
            (no(outcome.reason(), &message), no(Reason::NotAccepted, REMOVED), yes(outcome.reason(), &message))
        }
        Outcome::Waiting(_) => (
            no(outcome.reason(), &message),
            no(Reason::NotAccepted, &left_in_place(old)),
            no(Reason::Progressing, "heals by itself"),
        ),
        Outcome::Observing(..) => {
            (yes(Reason::Accepted, ""), no(outcome.reason(), &message), no(Reason::Progressing, ""))
        }
        Outcome::Suspended(_, frozen) => {
            let programmed = if frozen.missing.is_empty() { yes } else { no };
            (yes(Reason::Accepted, ""), programmed(outcome.reason(), &message), no(Reason::Progressing, ""))
        }
        Outcome::Programmed(..) => {
            (yes(Reason::Accepted, ""), yes(outcome.reason(), &message), no(Reason::Progressing, ""))
        }
        Outcome::Refused(..) | Outcome::FieldConflict(..) | Outcome::ForeignFields(..) => {
            (yes(Reason::Accepted, ""), no(outcome.reason(), &message), yes(outcome.reason(), &message))
        }
        Outcome::Failed(..) => {
            (yes(Reason::Accepted, ""), no(outcome.reason(), &message), no(Reason::Progressing, "heals by itself"))
        }
    };
    let in_effect = in_effect::verdict(old, generation, outcome, proof);
    let ready = if !accepted.0 || !programmed.0 {
        let from = if accepted.0 { PROGRAMMED } else { ACCEPTED };
        no(Reason::NotReady, &format!("see {from}: {message}"))
    } else if in_effect.truth == Truth::False {
        no(Reason::NotReady, &format!("see {IN_EFFECT}: {}", in_effect.message))
    } else {
        yes(Reason::Ready, "")
    };
    let mut status = ResilienceStatus { observed_generation: generation, ..old.clone() };
    status.conditions = [(ACCEPTED, accepted), (PROGRAMMED, programmed), (READY, ready), (STALLED, stalled)]
        .into_iter()
        .map(|(kind, verdict)| condition(old, kind, verdict, generation, now))
        .collect();
    // Behind what it rests on, before what rests on it.
    status.conditions.insert(2, in_effect::condition(old, &in_effect, generation, now));
    // Conditions of other reporters stay.
    status.conditions.extend(old.conditions.iter().filter(|condition| !is_ours(condition)).cloned());
    match outcome {
        // What the last good version generated is still there, and so is what was said of it.
        Outcome::Rejected(_) | Outcome::Unsupported(_) | Outcome::Conflicted(_) | Outcome::Waiting(_) => {
            status.warnings.clear();
        }
        Outcome::Superseded(_) => {
            (status.targets, status.effective, status.warnings) = (Vec::new(), Vec::new(), Vec::new());
        }
        Outcome::Observing(valid, _) => describe(&mut status, valid, Vec::new()),
        Outcome::Suspended(valid, frozen) => {
            // Values of what the spec wants; whether they are there is for `Programmed` to say.
            describe(&mut status, valid, frozen.generated.clone());
        }
        Outcome::Programmed(valid, applied) | Outcome::ForeignFields(valid, applied, _) => {
            describe(&mut status, valid, applied.generated.clone());
        }
        Outcome::Refused(valid, _) | Outcome::Failed(valid, _) | Outcome::FieldConflict(valid, _) => {
            let generated = old.targets.first().map(|target| target.generated.clone()).unwrap_or_default();
            let effective = std::mem::take(&mut status.effective);
            describe(&mut status, valid, generated);
            status.effective = effective;
        }
    }
    for target in &mut status.targets {
        target.proxies = in_effect.proxies;
    }
    status
}

pub(crate) use in_effect::{expectation, wrote};

/// Whether the operator itself reports this condition. Others report theirs by their own field
/// manager, and an apply of ours must not claim them.
#[must_use]
pub fn is_ours(condition: &Condition) -> bool {
    [ACCEPTED, PROGRAMMED, IN_EFFECT, READY, STALLED, VERIFIED].contains(&condition.type_.as_str())
}

/// What of a status is the operator's to write: not the conditions of others, nor what `verify` says.
#[must_use]
pub fn ours(mut status: ResilienceStatus) -> ResilienceStatus {
    status.conditions.retain(is_ours);
    status.verification = None;
    status
}

fn describe(status: &mut ResilienceStatus, valid: &Valid, generated: Vec<GeneratedRef>) {
    status.targets = vec![TargetStatus {
        target_ref: valid.target.clone(),
        endpoints: valid.endpoints,
        ejectable_endpoints: valid.ejectable(),
        proxies: None,
        generated,
    }];
    status.effective.clone_from(&valid.effective);
    status.warnings.clone_from(&valid.warnings);
}

const REMOVED: &str = "what was generated from this object is removed";

fn left_in_place(old: &ResilienceStatus) -> String {
    let names: Vec<String> =
        old.targets.iter().flat_map(|target| &target.generated).map(GeneratedRef::called).collect();
    let mut said = old.conditions.iter().filter(|condition| condition.type_ == PROGRAMMED);
    if names.is_empty() && said.any(|condition| condition.message == REMOVED) {
        // Nothing has changed since, and so nothing is written.
        REMOVED.to_owned()
    } else if names.is_empty() {
        "nothing was generated".to_owned()
    } else {
        format!("{} of an earlier version stays as it was", names.join(" and "))
    }
}

/// Status, reason, message.
type Verdict = (bool, Reason, String);

fn yes(reason: Reason, message: &str) -> Verdict {
    (true, reason, message.to_owned())
}

fn no(reason: Reason, message: &str) -> Verdict {
    (false, reason, message.to_owned())
}

fn condition(
    old: &ResilienceStatus,
    kind: &str,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let (holds, reason, message) = verdict;
    stamped(old, kind, (if holds { "True" } else { "False" }, reason, message), generation, now)
}

fn stamped(
    old: &ResilienceStatus,
    kind: &str,
    (status, reason, message): (&str, Reason, String),
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let before = old.conditions.iter().find(|condition| condition.type_ == kind && condition.status == status);
    // The API server keeps whole seconds: a finer time would differ at every read.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: before.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    }
}
