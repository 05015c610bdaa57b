//! Who owns which field of the blocks that we can share with somebody, as the API server books it.
//!
//! Two field managers may own one field while they agree on its value; who wants another one is refused
//! unless he forces it, which we never do (Kubernetes, "Server-Side Apply", Conflicts).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names;

/// Blocks of `spec.trafficPolicy` of somebody else's DestinationRule that can be ours. They hold no lists,
/// so that they are merged field by field; `portLevelSettings` and `subsets` are one value each, and
/// `loadBalancer` and `tls` are their owner's.
pub const SHARED_BLOCKS: [&str; 3] = ["connectionPool", "outlierDetection", "retryBudget"];

/// What one manager that is not ours owns in the shared blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its name, as it gave it to the API server.
    pub manager: String,
    /// Paths from `spec.trafficPolicy`, sorted.
    pub fields: Vec<String>,
}

impl Claim {
    /// By the bookkeeping of an object. What cannot be read claims nothing: the API server knows better
    /// when it comes to a write.
    #[must_use]
    pub fn of(bookkeeping: &[ManagedFieldsEntry]) -> Vec<Self> {
        let mut claims: Vec<Self> = Vec::new();
        for entry in bookkeeping {
            let manager = entry.manager.as_deref().unwrap_or("somebody without a name");
            if manager == names::FIELD_MANAGER {
                continue;
            }
            let policy = entry.fields_v1.as_ref().and_then(|fields| fields.0.pointer("/f:spec/f:trafficPolicy"));
            let mut fields = Vec::new();
            for block in SHARED_BLOCKS {
                if let Some(owned) = policy.and_then(|policy| policy.get(format!("f:{block}"))) {
                    leaves(block.to_owned(), owned, &mut fields);
                }
            }
            if fields.is_empty() {
                continue;
            }
            match claims.iter_mut().find(|claim| claim.manager == manager) {
                Some(claim) => claim.fields.extend(fields),
                None => claims.push(Self { manager: manager.to_owned(), fields }),
            }
        }
        for claim in &mut claims {
            claim.fields.sort();
            claim.fields.dedup();
        }
        claims.sort_by(|one, two| one.manager.cmp(&two.manager));
        claims
    }

    /// Whether it has this field, or one below it.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.fields
            .iter()
            .any(|own| own.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }
}

/// Fields with a value: that somebody owns a block itself (`.`) says nothing of what stands in it.
fn leaves(path: String, owned: &Value, fields: &mut Vec<String>) {
    let inner: Vec<_> = owned.as_object().into_iter().flatten().collect();
    if inner.is_empty() {
        fields.push(path);
        return;
    }
    for (key, owned) in inner {
        if let Some(name) = key.strip_prefix("f:") {
            leaves(format!("{path}.{name}"), owned, fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, policy: &Value) -> ManagedFieldsEntry {
        let fields = json!({"f:spec": {".": {}, "f:host": {}, "f:trafficPolicy": policy}});
        serde_json::from_value(json!({"manager": manager, "operation": operation, "fieldsV1": fields})).unwrap()
    }

    #[test]
    fn a_claim_is_of_fields_with_a_value_in_the_blocks_that_can_be_shared() {
        let theirs = json!({
            ".": {},
            "f:loadBalancer": {"f:simple": {}},
            "f:connectionPool": {".": {}, "f:tcp": {".": {}, "f:maxConnections": {}}},
            "f:outlierDetection": {".": {}},
        });
        let ours = json!({"f:retryBudget": {"f:percent": {}}});
        let more = json!({"f:connectionPool": {"f:http": {"f:maxRetries": {}}}});
        let claims = Claim::of(&[
            entry("kubectl", "Update", &theirs),
            entry(names::FIELD_MANAGER, "Apply", &ours),
            entry("argocd", "Apply", &json!({"f:tls": {"f:mode": {}}})),
            entry("kubectl", "Apply", &more),
        ]);
        let fields =
            ["connectionPool.http.maxRetries", "connectionPool.tcp.maxConnections"].map(str::to_owned).to_vec();
        assert_eq!(claims, [Claim { manager: "kubectl".into(), fields }]);
        assert!(claims[0].has("connectionPool") && claims[0].has("connectionPool.tcp.maxConnections"));
        assert!(!claims[0].has("connectionPool.tcp.max") && !claims[0].has("retryBudget"));
    }

    #[test]
    fn a_block_that_is_owned_empty_is_a_claim_to_nothing_below_it() {
        let claims = Claim::of(&[entry("kubectl", "Apply", &json!({"f:connectionPool": {}}))]);
        assert!(claims[0].has("connectionPool") && !claims[0].has("connectionPool.tcp"));
    }

    #[test]
    fn bookkeeping_that_cannot_be_read_claims_nothing() {
        let odd = json!([{}, {"manager": "a", "fieldsV1": 3}, {"manager": "b", "fieldsV1": {"f:spec": []}}]);
        assert_eq!(Claim::of(&serde_json::from_value::<Vec<_>>(odd).unwrap()), []);
    }
}
