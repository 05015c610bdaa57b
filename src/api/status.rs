//! `status` of a [`Resilience`](super::Resilience): what was observed and done.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TargetRef, Verification, fields::conditions_schema, warnings::Code};

/// What was observed and done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResilienceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Programmed, InEffect, Ready, Stalled, Verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// What the policy was put on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "what_is_known")]
    pub targets: Vec<TargetStatus>,
    /// Every value that was generated, with its origin.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "what_is_known")]
    pub effective: Vec<EffectiveValue>,
    /// What is legal but will surprise.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "what_is_known")]
    pub warnings: Vec<Warning>,
    /// What `verify` found. Not the operator's: `Verified` is derived from it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "if_it_is_known")]
    pub verification: Option<Verification>,
}

/// A list of the status, or nothing of it if another version of the operator wrote what this one does
/// not know. Status is derived anew; that it cannot be read must not make the object unreadable.
fn what_is_known<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let list = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(list).unwrap_or_default())
}

/// A part of the status, or nothing of it, likewise.
fn if_it_is_known<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let part = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(part).unwrap_or_default())
}

/// One target of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Which one.
    #[serde(rename = "ref")]
    pub target_ref: TargetRef,
    /// Endpoints that client proxies are sent. Absent where they cannot be counted, as behind a name
    /// that each proxy resolves by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub endpoints: Option<u32>,
    /// How many of them may be ejected at a time. Absent: ejection is not declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ejectable_endpoints: Option<u32>,
    /// Proxies that hold the host of the target. Absent: nobody could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxyCounts>,
    /// The objects that stand for the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated: Vec<GeneratedRef>,
}

/// How many proxies have the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyCounts {
    /// Those that hold the host of the target: as many may call it.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub total: u32,
    /// Those of them that have what was programmed.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub in_effect: u32,
    /// Both are of a sample of the proxies of a large mesh.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sampled: bool,
}

/// A generated object, in the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GeneratedRef {
    /// `Sidecar`, `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whose the object is.
    pub ownership: Ownership,
}

impl GeneratedRef {
    /// As it is named to people.
    #[must_use]
    pub fn called(&self) -> String {
        match self.ownership {
            Ownership::Created => format!("{} {}", self.kind, self.name),
            Ownership::CoOwned => format!("our blocks in {} {}", self.kind, self.name),
        }
    }
}

/// Whose a generated object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ownership {
    /// We created it and own the whole of it.
    Created,
    /// Somebody else's; ours are some blocks of its traffic policy.
    CoOwned,
}

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveValue {
    /// Path of the field, from `spec`.
    pub path: String,
    /// The value, as text.
    pub value: String,
    /// Who chose it.
    pub origin: Origin,
}

/// Who chose a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Origin {
    /// The spec says so.
    Spec,
    /// A port's entry leaves it out, and the blocks for all ports say so.
    Inherited,
    /// The spec leaves it out and this is our fill-in.
    Default,
    /// The spec leaves it out and it follows the number of endpoints.
    Endpoints,
}

/// Something legal that will surprise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// Stable code; `docs/warnings/CODE.md` tells what, why and the fix.
    pub code: Code,
    /// What will happen, with the numbers of now.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Resilience;

    #[test]
    fn a_status_of_another_version_does_not_make_the_object_unreadable() {
        let object = json!({
            "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": "a"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "a"}], "timeouts": {"connect": "1s"}},
            "status": {
                "observedGeneration": 3,
                "warnings": [{"code": "RES999", "message": "of tomorrow"}],
                "effective": [{"path": "p", "value": "v", "origin": "Oracle"}],
                "verification": {"specHash": "x", "result": "Half"},
            },
        });
        let status = serde_json::from_value::<Resilience>(object).unwrap().status.unwrap();
        assert_eq!(status, ResilienceStatus { observed_generation: Some(3), ..ResilienceStatus::default() });
    }
}
