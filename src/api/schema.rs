//! The CRD, and the CRD's own rules evaluated without a cluster.
//!
//! In: nothing, or one object as JSON. Out: the `CustomResourceDefinition`, or every fault of the
//! object with its path. The rules are read from the CRD that the API server gets, so the two can
//! not drift apart; `tests/corpus` holds them to the same verdict on every file.

use std::{fmt, sync::LazyLock};

use jsonschema::error::ValidationErrorKind;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, core::cel};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Resilience, ResilienceSpec, metadata};
use crate::names;

/// One fault of an object: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Violation {
    /// Path of the field from the root of the object: `spec.retries.statusCodes[1]`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Violation {
    /// A fault at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// The `CustomResourceDefinition` of [`Resilience`], as printed to `crds/resilience.yaml`.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = Resilience::crd();
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut() else { continue };
        let Some(root) = schema.open_api_v3_schema.take() else { continue };
        // Through JSON: the transformation is the same for each node, the typed tree is not.
        let rewritten = serde_json::to_value(root).map(|mut value| {
            for_each_schema(&mut value, &mut tidy);
            value["properties"]["status"]["default"] = json!({"observedGeneration": NOT_SEEN});
            value
        });
        schema.open_api_v3_schema = rewritten.and_then(serde_json::from_value).ok();
    }
    crd
}

/// The generation of a spec that the operator has not seen: the API server writes it into a new object. Without,
/// kstatus (cli-utils, `pkg/kstatus/status/generic.go`) takes the moment before the operator has looked for success.
pub const NOT_SEEN: i64 = -1;

/// `null` is no value of any field of ours, and formats that Kubernetes does not know only earn a
/// warning from the API server at every apply.
fn tidy(schema: &mut Map<String, Value>) {
    schema.remove("nullable");
    if let Some(Value::String(format)) = schema.get("format")
        && !matches!(format.as_str(), "int32" | "int64" | "date-time")
    {
        schema.remove("format");
    }
    // Lines of a comment are no lines of a text; paragraphs are.
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
}

/// The CRD as JSON, as `crds/resilience.yaml` holds it. Bounds are whole numbers there, which the
/// typed CRD holds as floats.
#[must_use]
pub fn crd_json() -> Value {
    let mut value = serde_json::to_value(crd()).unwrap_or_default();
    whole_numbers(&mut value);
    value
}

fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            #[expect(clippy::cast_possible_truncation, reason = "checked: the float has no fraction and fits")]
            if let Some(float) =
                number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15)
            {
                *number = (float as i64).into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Visits `schema` and every schema below it.
fn for_each_schema(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(node) = schema else { return };
    visit(node);
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(|property| for_each_schema(property, visit));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = node.get_mut(key) {
            for_each_schema(inner, visit);
        }
    }
}

/// The two halves of the CRD's rules, compiled once.
struct Rules {
    schema: Value,
    structure: Result<jsonschema::Validator, String>,
    cel: cel::CompiledSchema,
    /// Holds some hundred functions that rules may call: to make one takes longer than many a rule.
    judge: cel::Validator,
}

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let mut schema = crd_json().pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default();
    // The API server owns status and checks metadata itself.
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.remove("status");
        for (key, value) in [
            ("apiVersion", json!({"type": "string"})),
            ("kind", json!({"type": "string"})),
            ("metadata", json!({"type": "object"})),
            ("status", json!({"type": "object"})),
        ] {
            properties.insert(key.to_owned(), value);
        }
    }
    let cel = cel::compile_schema(&schema);
    for_each_schema(&mut schema, &mut |node| {
        if node.contains_key("properties") {
            node.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        if node.get("x-kubernetes-list-type") == Some(&json!("set")) {
            node.insert("uniqueItems".to_owned(), Value::Bool(true));
        }
    });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for key in ["metadata", "status"] {
            properties.insert(key.to_owned(), json!({"type": "object"}));
        }
    }
    let structure =
        jsonschema::options().with_draft(jsonschema::Draft::Draft7).build(&schema).map_err(|error| error.to_string());
    Rules { schema, structure, cel, judge: cel::Validator::new() }
});

/// Takes one object as the API server would: what it would drop is dropped, every fault is told.
///
/// # Errors
/// Every fault of type, metadata and spec, sorted by path.
pub fn decode(object: &Value) -> Result<Resilience, Vec<Violation>> {
    let mut object = object.clone();
    // `kubectl get -o yaml` prints it, and a write to the object ignores it.
    if let Value::Object(root) = &mut object {
        root.remove("status");
    }
    drop_nulls(&mut object, &RULES.schema);
    // `5.0` is a whole number to the API server, which keeps it as `5`.
    whole_numbers(&mut object);
    let mut found: Vec<Violation> = [("apiVersion", names::API_VERSION), ("kind", names::KIND)]
        .into_iter()
        .filter(|(key, want)| object.get(key).and_then(Value::as_str) != Some(want))
        .map(|(key, want)| Violation::new(key, format!("must be {want}")))
        .collect();
    found.extend(metadata::faults(&object));
    found.extend(faults(&object));
    if found.is_empty() {
        return serde_json::from_value(object).map_err(|error| vec![Violation::new("", error.to_string())]);
    }
    found.sort();
    found.dedup();
    Err(found)
}

/// Drops what the API server drops before it looks: `null` in a field that has a type, as in
/// `limits:` with nothing behind it. In a list `null` is an entry, and stays. (So it does with a
/// create, an update and a client-side apply; a server-side apply refuses such a `null`.)
fn drop_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            let Some(Value::Object(properties)) = schema.get("properties") else { return };
            map.retain(|key, value| !(value.is_null() && properties.contains_key(key)));
            for (key, inner) in map {
                if let Some(property) = properties.get(key) {
                    drop_nulls(inner, property);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.get("items") {
                for inner in list {
                    drop_nulls(inner, items);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every fault that the API server would find in `object` by the CRD alone; sorted by path.
///
/// Like the API server, evaluates cross-field rules only on an object whose structure is right.
#[must_use]
pub fn faults(object: &Value) -> Vec<Violation> {
    let rules = &*RULES;
    let mut found: Vec<Violation> = match &rules.structure {
        Ok(structure) => structural_faults(structure, object),
        Err(broken) => vec![Violation::new("", format!("the built-in schema does not compile: {broken}"))],
    };
    repeated(&rules.schema, object, "", &mut found);
    if found.is_empty()
        && let Err(errors) = rules.judge.validate_compiled(&rules.cel, object, None)
    {
        found.extend(errors.into_vec().into_iter().map(|error| Violation::new(error.field_path, error.message)));
    }
    found.sort();
    found.dedup();
    found
}

/// Likewise of a spec alone, as an object that the API server took has it.
#[must_use]
pub fn faults_of(spec: &ResilienceSpec) -> Vec<Violation> {
    let spec = serde_json::to_value(spec).unwrap_or_default();
    faults(&json!({"apiVersion": names::API_VERSION, "kind": names::KIND, "metadata": {}, "spec": spec}))
}

/// Entries of a list map whose keys another entry has, which the API server refuses and JSON schema has
/// no word for.
fn repeated(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    if let (Some(properties), Value::Object(object)) = (schema.get("properties").and_then(Value::as_object), value) {
        for (key, value) in object {
            if let Some(schema) = properties.get(key) {
                repeated(schema, value, &join(path, key), found);
            }
        }
    }
    let (Some(items), Value::Array(list)) = (schema.get("items"), value) else { return };
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .map(|keys| keys.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let of = |entry: &Value| -> Vec<Option<Value>> { keys.iter().map(|key| entry.get(*key).cloned()).collect() };
    for (index, entry) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !keys.is_empty() && list[..index].iter().any(|earlier| of(earlier) == of(entry)) {
            let named: Vec<String> =
                keys.iter().filter_map(|key| Some(format!("{key} {}", entry.get(*key)?))).collect();
            found.push(Violation::new(&path, format!("{} is there twice", named.join(", "))));
        }
        repeated(items, entry, &path, found);
    }
}

/// Faults of structure, one cause told once: a value of the wrong type is not also no word of a list,
/// and a text of the wrong length not also against its pattern.
fn structural_faults(structure: &jsonschema::Validator, object: &Value) -> Vec<Violation> {
    let rank = |kind: &ValidationErrorKind| match kind {
        ValidationErrorKind::Type { .. } => 0,
        ValidationErrorKind::MinLength { .. } | ValidationErrorKind::MaxLength { .. } => 1,
        _ => 2,
    };
    let errors: Vec<_> = structure.iter_errors(object).collect();
    let worse = |error: &jsonschema::ValidationError<'_>| {
        let same_place = errors.iter().filter(|other| other.instance_path() == error.instance_path());
        same_place.map(|other| rank(other.kind())).min() < Some(rank(error.kind()))
    };
    errors.iter().filter(|error| !worse(error)).flat_map(explain).collect()
}

/// Our words for a fault that the structural schema found.
fn explain(error: &jsonschema::ValidationError<'_>) -> Vec<Violation> {
    let path = dotted(error.instance_path().as_str());
    let value = error.instance();
    let message = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            return unexpected
                .iter()
                .map(|name| Violation::new(join(&path, name), "unknown field: check its spelling and its place"))
                .collect();
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            return vec![Violation::new(join(&path, name), "is required")];
        }
        ValidationErrorKind::Minimum { limit } => format!("is {value}, must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("is {value}, must be at most {limit}"),
        ValidationErrorKind::MinItems { limit } => format!("has too few entries, must have at least {limit}"),
        ValidationErrorKind::MaxItems { limit } => format!("has too many entries, must have at most {limit}"),
        ValidationErrorKind::MinLength { .. } => "must not be empty".to_owned(),
        ValidationErrorKind::MaxLength { limit } => format!("must be at most {limit} characters long"),
        ValidationErrorKind::UniqueItems => "has an entry twice".to_owned(),
        ValidationErrorKind::Enum { options } => format!("is {value}, must be one of {}", listed(options)),
        ValidationErrorKind::Pattern { pattern } if pattern == super::duration::PATTERN => {
            format!("{value} is not a duration: write whole numbers with h, m, s or ms, as in 1h30m or 250ms")
        }
        ValidationErrorKind::Pattern { pattern } => format!("{value} does not match {pattern}"),
        ValidationErrorKind::Type { kind } => format!("has the wrong type: {value} is not {}", article(kind)),
        _ => error.to_string(),
    };
    vec![Violation::new(path, message)]
}

fn article(kind: &jsonschema::error::TypeKind) -> String {
    match kind {
        jsonschema::error::TypeKind::Single(one) => match one.to_string().as_str() {
            name @ ("array" | "integer" | "object") => format!("an {name}"),
            name => format!("a {name}"),
        },
        jsonschema::error::TypeKind::Multiple(_) => "of an allowed type".to_owned(),
    }
}

fn listed(options: &Value) -> String {
    let names = options.as_array().into_iter().flatten().map(ToString::to_string);
    names.collect::<Vec<_>>().join(", ")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `/spec/targetRefs/0/name` as people write it: `spec.targetRefs[0].name`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        if segment.bytes().all(|b| b.is_ascii_digit()) && !segment.is_empty() {
            path.push('[');
            path.push_str(segment);
            path.push(']');
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&segment.replace("~1", "/").replace("~0", "~"));
        }
    }
    path
}
