//! What the API server asks of the metadata of every object.
//!
//! In: an object as JSON. Out: every fault with its path. Ported from Kubernetes
//! `apimachinery/pkg/api/validation/objectmeta.go` and `pkg/util/validation/validation.go`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::schema::Violation;

/// Fields of `ObjectMeta`; any other is refused by strict field validation, kubectl's default.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Most bytes of all annotations together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Faults of `metadata`.
pub(super) fn faults(object: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(Value::Object(metadata)) = object.get("metadata") else {
        return vec![Violation::new("metadata.name", "is required")];
    };
    for key in metadata.keys().filter(|key| !FIELDS.contains(&key.as_str())) {
        found.push(Violation::new(format!("metadata.{key}"), "unknown field: check its spelling and its place"));
    }
    names(metadata, &mut found);
    labels(metadata, &mut found);
    annotations(metadata, &mut found);
    if found.is_empty()
        && let Err(error) = serde_json::from_value::<ObjectMeta>(Value::Object(metadata.clone()))
    {
        found.push(Violation::new("metadata", error.to_string()));
    }
    found
}

fn names(metadata: &Map<String, Value>, found: &mut Vec<Violation>) {
    match metadata.get("name") {
        Some(Value::String(name)) if name.is_empty() => {
            found.push(Violation::new("metadata.name", "must not be empty"));
        }
        Some(Value::String(name)) => found.extend(subdomain(name).map(|fault| Violation::new("metadata.name", fault))),
        Some(other) if !other.is_null() => found.push(not_text("metadata.name", other)),
        _ if metadata.contains_key("generateName") => {}
        _ => found.push(Violation::new("metadata.name", "is required")),
    }
    match metadata.get("namespace") {
        Some(Value::String(namespace)) if !label(namespace) => found.push(Violation::new(
            "metadata.namespace",
            format!("{namespace:?} is no namespace: at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"),
        )),
        Some(Value::String(_) | Value::Null) | None => {}
        Some(other) => found.push(not_text("metadata.namespace", other)),
    }
}

fn labels(metadata: &Map<String, Value>, found: &mut Vec<Violation>) {
    for (key, value) in entries(metadata, "labels", found) {
        let path = format!("metadata.labels.{key}");
        if !qualified(key) {
            found.push(Violation::new(
                &path,
                "is no label key: an optional DNS name and a slash, then at most 63 of letters, digits, -, _ and .",
            ));
        }
        match value {
            Value::String(value) if value.is_empty() || word(value) => {}
            Value::String(value) => found.push(Violation::new(
                path,
                format!("{value:?} is no label value: at most 63 of letters, digits, -, _ and ., with a letter or digit at both ends"),
            )),
            other => found.push(not_text(&path, other)),
        }
    }
}

fn annotations(metadata: &Map<String, Value>, found: &mut Vec<Violation>) {
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations", found) {
        let path = format!("metadata.annotations.{key}");
        // Unlike those of labels, keys of annotations may be in upper case.
        if !qualified(&key.to_lowercase()) {
            found.push(Violation::new(&path, "is no annotation key: an optional DNS name and a slash, then at most 63 of letters, digits, -, _ and ."));
        }
        match value {
            Value::String(value) => size += key.len() + value.len(),
            other => found.push(not_text(&path, other)),
        }
    }
    if size > ANNOTATIONS_LIMIT {
        found.push(Violation::new(
            "metadata.annotations",
            format!("has {size} bytes, must have at most {ANNOTATIONS_LIMIT}"),
        ));
    }
}

fn entries<'a>(
    metadata: &'a Map<String, Value>,
    field: &str,
    found: &mut Vec<Violation>,
) -> Vec<(&'a String, &'a Value)> {
    match metadata.get(field) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(entries)) => entries.iter().collect(),
        Some(other) => {
            found.push(Violation::new(
                format!("metadata.{field}"),
                format!("has the wrong type: {other} is not an object"),
            ));
            Vec::new()
        }
    }
}

fn not_text(path: &str, value: &Value) -> Violation {
    // Unquoted on, yes, 1.0 or 0x10 is no text to a YAML 1.1 parser, which kubectl has.
    Violation::new(path, format!("has the wrong type: {value} is not a string; put it in quotes"))
}

/// A fault of a DNS subdomain (RFC 1123), the form of most names.
fn subdomain(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some(format!("has {} characters, must have at most 253", name.len()));
    }
    let fine = name.split('.').all(is_label_text);
    (!fine).then(|| format!("{name:?} is no name: a-z, 0-9, - and ., with a letter or digit at both ends of each part"))
}

/// A DNS label (RFC 1123), the form of namespaces.
fn label(text: &str) -> bool {
    text.len() <= 63 && is_label_text(text)
}

fn is_label_text(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !text.is_empty() && inner && !text.starts_with('-') && !text.ends_with('-')
}

/// Key of a label or annotation: `[DNS subdomain/]word`.
fn qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => !prefix.is_empty() && subdomain(prefix).is_none() && word(name),
        None => word(key),
    }
}

fn word(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::faults;

    fn paths(metadata: &serde_json::Value) -> Vec<String> {
        faults(&json!({ "metadata": metadata })).into_iter().map(|fault| fault.path).collect()
    }

    #[test]
    fn names_of_253_characters_pass_and_one_more_does_not() {
        assert!(paths(&json!({"name": "a".repeat(253)})).is_empty());
        assert_eq!(paths(&json!({"name": "a".repeat(254)})), ["metadata.name"]);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let found = paths(&json!({"name": "Big", "namespace": "a.b", "labels": {"x": true, "y": "-"}, "nmae": "x"}));
        assert_eq!(
            found,
            ["metadata.nmae", "metadata.name", "metadata.namespace", "metadata.labels.x", "metadata.labels.y"]
        );
    }

    #[test]
    fn what_kubectl_get_prints_passes() {
        assert!(
            paths(&json!({
                "name": "httpbin", "namespace": "default", "uid": "x", "resourceVersion": "1", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app.kubernetes.io/name": "x"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
            }))
            .is_empty()
        );
        assert!(paths(&json!({"name": "x", "creationTimestamp": null})).is_empty());
    }
}
