//! Schemas of single fields that no derive can write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema as _;

use super::{Method, PortEntry, RetryOn};

/// Status codes that Istio takes in `retryOn`: those that Go's `net/http` has a name for, of
/// 400 and above (istio `pkg/config/validation`, `validateHTTPRetry`).
pub const RETRIABLE_STATUS_CODES: &[u16] = &[
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424,
    425, 426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

pub(super) fn target_refs_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 1,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["group", "kind", "name"],
        "items": {
            "type": "object",
            "required": ["kind", "name"],
            "properties": {
                "group": {"type": "string", "enum": ["", "networking.istio.io"], "default": "", "description": "API group of the target: empty for a Service, networking.istio.io for a ServiceEntry."},
                "kind": {"type": "string", "enum": ["Service", "ServiceEntry"], "description": "Kind of the target."},
                "name": {"type": "string", "minLength": 1, "maxLength": 240, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", "description": "Name of the target. Of a Service an RFC 1123 label, at most 63 characters long."},
            },
            "x-kubernetes-validations": [
                {"rule": "(self.kind == 'ServiceEntry') == (self.group == 'networking.istio.io')", "message": "a Service has no group, a ServiceEntry has networking.istio.io", "fieldPath": ".group"},
                {"rule": "self.kind != 'Service' || (!self.name.contains('.') && self.name.size() <= 63)", "message": "is no name of a Service: at most 63 of a-z, 0-9 and -, with a letter or digit at both ends", "fieldPath": ".name"},
            ],
        },
    })
}

pub(super) fn retry_on_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = RetryOn::json_schema(generator);
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": words(&items)},
    })
}

pub(super) fn status_codes_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let codes: Vec<String> = RETRIABLE_STATUS_CODES.iter().map(ToString::to_string).collect();
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "integer",
            "format": "int32",
            "minimum": 400,
            "maximum": 599,
            "x-kubernetes-validations": [{
                "rule": format!("self in [{}]", codes.join(", ")),
                "message": "is not a status code that Istio can retry on: use a registered one from 400 to 511",
            }],
        },
    })
}

pub(super) fn methods_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = Method::json_schema(generator);
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 9,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": words(&items)},
    })
}

/// The words of an enum whose variants are documented one by one.
fn words(schema: &schemars::Schema) -> Vec<serde_json::Value> {
    let variants = schema.get("oneOf").and_then(serde_json::Value::as_array).into_iter().flatten();
    variants.filter_map(|variant| variant.get("const").cloned()).collect()
}

pub(super) fn ports_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = generator.subschema_for::<PortEntry>();
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["port"],
        "items": items,
    })
}

pub(super) fn conditions_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = generator.subschema_for::<Condition>();
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": items,
    })
}
