//! What is told of a policy on the command line, as data.
//!
//! In: a policy, what was observed, what the operator decides from it. Out: a [`Page`] (`explain`) or a
//! [`Preview`] (`diff`), whose fields are those of `-o json|yaml`: `docs/output.md` names them all, and
//! a test holds it to that. Decides nothing.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod clients;
mod page;
mod preview;
mod reasons;
mod values;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::{Warning, conditions::Reason, schema::Violation, warnings::Code},
    diff::Change,
    status::Outcome,
};

pub use clients::{ClientPart, ClientPort, OthersLine, ShadowedLine, callee};
pub use page::{
    Beside, EjectionLine, GeneratedLine, Page, PolicyPart, PortLine, State, TargetPart, ValuesAre, bare, page,
};
pub use preview::{Action, ObjectChange, Preview, Warnings, as_applied, preview, refused};
pub use values::{Origin, ValueLine};

/// A warning, and where more is said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarningLine {
    /// Stable code.
    pub code: Code,
    /// What will happen, with the numbers of now.
    pub message: String,
    /// What, why and the fix: a file of the repository.
    pub page: String,
}

impl From<&Warning> for WarningLine {
    fn from(warning: &Warning) -> Self {
        Self { code: warning.code, message: warning.message.clone(), page: warning.code.page() }
    }
}

/// What becomes of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The reason of its condition Accepted: `Accepted`, `Invalid`, `Unsupported`, `Conflicted` or `TargetNotFound`.
    pub reason: String,
    /// Why, and what to do; empty for an accepted policy that acts.
    pub message: String,
    /// Every fault, if it is invalid.
    pub faults: Vec<Fault>,
}

/// One fault of a spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Path of the field.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl From<&Violation> for Fault {
    fn from(violation: &Violation) -> Self {
        Self { path: violation.path.clone(), message: violation.message.clone() }
    }
}

impl Verdict {
    /// A policy that is accepted and acts.
    fn accepted() -> Self {
        Self { reason: "Accepted".to_owned(), message: String::new(), faults: Vec::new() }
    }

    /// One that the API server or the operator refuses.
    fn invalid(violations: &[Violation]) -> Self {
        Self::faulty(Reason::Invalid, violations)
    }

    fn faulty(reason: Reason, violations: &[Violation]) -> Self {
        Self {
            reason: reason.as_str().to_owned(),
            message: violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            faults: violations.iter().map(Fault::from).collect(),
        }
    }

    /// What an outcome means for Accepted.
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Rejected(violations) | Outcome::Unsupported(violations) => {
                Self::faulty(outcome.reason(), violations)
            }
            Outcome::Conflicted(_) | Outcome::Superseded(_) | Outcome::Waiting(_) => {
                Self { reason: outcome.reason().as_str().to_owned(), message: outcome.message(), faults: Vec::new() }
            }
            Outcome::Observing(..) | Outcome::Suspended(..) => Self { message: outcome.message(), ..Self::accepted() },
            Outcome::Programmed(..) | Outcome::Refused(..) | Outcome::Failed(..) => Self::accepted(),
            Outcome::FieldConflict(..) | Outcome::ForeignFields(..) => {
                Self { message: outcome.message(), ..Self::accepted() }
            }
        }
    }

    /// Whether the policy is accepted.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.reason == "Accepted"
    }
}

/// A condition, as the object has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConditionLine {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl From<&Condition> for ConditionLine {
    fn from(condition: &Condition) -> Self {
        Self {
            kind: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        }
    }
}

/// One field that is not as it should be, or would change.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Path from the root of the object.
    pub path: String,
    /// What is there; null: nothing.
    pub before: Option<Value>,
    /// What should be there; null: nothing.
    pub after: Option<Value>,
    /// What of the policy asks for it.
    pub reason: String,
}

impl FieldChange {
    fn new(change: &Change, reason: String) -> Self {
        Self { path: change.path.join("."), before: change.have.clone(), after: change.want.clone(), reason }
    }
}

/// Changes with their reasons, a block that comes field by field: each has a reason of its own.
fn explained<'a>(changes: impl Iterator<Item = &'a Change>, reason: impl Fn(&Change) -> String) -> Vec<FieldChange> {
    let mut fields = Vec::new();
    changes.for_each(|change| spread(change.clone(), &mut fields));
    fields.iter().map(|change| FieldChange::new(change, reason(change))).collect()
}

fn spread(change: Change, fields: &mut Vec<Change>) {
    match (&change.have, &change.want) {
        (None, Some(Value::Object(block))) if change.path.first().is_some_and(|root| root == "spec") => {
            for (key, value) in block {
                let path = change.path.iter().chain([key]).cloned().collect();
                spread(Change { path, have: None, want: Some(value.clone()) }, fields);
            }
        }
        _ => fields.push(change),
    }
}
