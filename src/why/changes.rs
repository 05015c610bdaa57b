//! What was changed, by whom and when, as the objects themselves say.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Serialize;

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// When; of whoever changed it several times, the last one.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Kind, namespace and name.
    pub object: String,
    /// What was done, and by which field manager, or of which condition.
    pub what: String,
}

/// What the metadata of an object says of who changed it and when. Who writes status alone changes nothing.
#[must_use]
pub fn changes_of(object: &str, meta: &ObjectMeta) -> Vec<Change> {
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    let managers = meta.managed_fields.iter().flatten().filter(|entry| {
        // It has the whole object in one field.
        entry.subresource.as_deref().unwrap_or_default() != "status"
    });
    let mut changes: Vec<Change> = managers
        .filter_map(|entry| {
            let at = entry.time.as_ref()?.0;
            let manager = entry.manager.as_deref().unwrap_or("somebody without a name");
            let what = if Some(at) == created { "created" } else { "changed" };
            Some(Change { at, object: object.to_owned(), what: format!("{what} by {manager}") })
        })
        .collect();
    if changes.is_empty() {
        changes.extend(created.map(|at| Change { at, object: object.to_owned(), what: "created".to_owned() }));
    }
    if let Some(at) = &meta.deletion_timestamp {
        changes.push(Change { at: at.0, object: object.to_owned(), what: "is being deleted".to_owned() });
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_changed_it_is_told_and_who_wrote_status_is_not() {
        let meta = serde_json::from_value(json!({
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [
                {"manager": "kubectl", "time": "2026-01-01T00:00:00Z", "operation": "Apply"},
                {"manager": "flagger", "time": "2026-01-02T00:00:00Z", "operation": "Update"},
                {"manager": "istiod", "time": "2026-01-03T00:00:00Z", "operation": "Update", "subresource": "status"},
                {"operation": "Update"},
            ],
        }))
        .unwrap();
        let told: Vec<String> = changes_of("Service a/b", &meta).into_iter().map(|change| change.what).collect();
        assert_eq!(told, ["created by kubectl", "changed by flagger"]);
    }
}
