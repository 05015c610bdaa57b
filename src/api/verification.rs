//! `status.verification`: what `verify` found. Written by `verify` alone, under a field manager of its own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What came of the last `verify` that ran to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Of the spec that was verified; of another spec it says nothing.
    pub spec_hash: String,
    /// What came of it.
    pub result: VerificationResult,
    /// When it ended.
    pub at: Time,
    /// Namespace of the caller: rules and routes may differ from one client to the next.
    pub from: String,
    /// Port of the target that was called.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// What was found of each limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<VerifiedLimit>,
}

/// What came of a `verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationResult {
    /// At least one limit was tried, and every one that was tripped as configured.
    Passed,
    /// At least one did not.
    Failed,
}

/// What was found of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedLimit {
    /// Path of the field, from `spec`.
    pub path: String,
    /// Its value, as text.
    pub value: String,
    /// What was found.
    pub result: LimitResult,
}

/// Whether a limit did what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitResult {
    /// It acted where it should, and not before.
    Tripped,
    /// It did not.
    NotTripped,
    /// Nothing is known of it: neither good nor bad.
    NotTried,
}
