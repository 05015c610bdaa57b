//! What is said of one limit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::LimitResult;

/// What was found of one limit, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was found.
    pub result: LimitResult,
    /// Why, in one word.
    pub cause: Cause,
    /// Why, for people, with what was seen.
    pub message: String,
}

impl Finding {
    /// It acted as configured.
    #[must_use]
    pub fn tripped(message: impl Into<String>) -> Self {
        Self { result: LimitResult::Tripped, cause: Cause::AsConfigured, message: message.into() }
    }

    /// It did not.
    #[must_use]
    pub fn not_tripped(cause: Cause, message: impl Into<String>) -> Self {
        Self { result: LimitResult::NotTripped, cause, message: message.into() }
    }

    /// Nothing is known.
    #[must_use]
    pub fn not_tried(cause: Cause, message: impl Into<String>) -> Self {
        Self { result: LimitResult::NotTried, cause, message: message.into() }
    }
}

/// Why a limit did what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cause {
    /// It tripped where it should.
    AsConfigured,
    /// It is higher than what the caps of the run can reach.
    AboveCap,
    /// Another limit of the policy acts before it can.
    AnotherLimitFirst,
    /// The share of so few endpoints is none.
    NoneEjectable,
    /// The caller gets another DestinationRule.
    AnotherRule,
    /// The caller gets another VirtualService.
    AnotherRoute,
    /// Retries turned what was refused into good answers.
    HiddenByRetries,
    /// The caller has no proxy.
    NoSidecar,
    /// The caller's proxy does not carry the calls to the target.
    NotThroughSidecar,
    /// It tripped below its number.
    TooEarly,
    /// Nothing of it was seen, though enough was sent.
    NotSeen,
    /// The user gave no path that it takes.
    NoPath,
    /// The path does not do what it should.
    WrongPath,
    /// No call of one client can show it.
    NotByCalls,
    /// The limits of one client keep it from getting there.
    OneClientCannot,
    /// The run is too short.
    NoTime,
    /// The run was stopped before.
    Stopped,
}
