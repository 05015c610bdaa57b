//! By what a verified spec is known again.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::api::ResilienceSpec;

/// Sixteen hexadecimal digits: the beginning of the SHA-256 of the spec as JSON, without blanks, with the
/// keys of each object in order, and without nulls. Words count, not their meaning: 1s and 1000ms differ.
///
/// The same for every version of this program, or each upgrade would declare every policy unverified: a
/// field that is new and unset must not appear in it.
#[must_use]
pub fn spec_hash(spec: &ResilienceSpec) -> String {
    let mut text = String::new();
    write(&serde_json::to_value(spec).unwrap_or_default(), &mut text);
    let mut hash = String::new();
    for byte in Sha256::digest(text.as_bytes()).iter().take(8) {
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            text.push('{');
            for (at, (name, value)) in fields.into_iter().enumerate() {
                let _ = write!(text, "{}{}:", if at == 0 { "" } else { "," }, Value::from(name.as_str()));
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "," });
                write(item, text);
            }
            text.push(']');
        }
        plain => {
            let _ = write!(text, "{plain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hash(spec: Value) -> String {
        spec_hash(&serde_json::from_value(spec).unwrap())
    }

    fn spec() -> Value {
        json!({
            "targetRefs": [{"kind": "Service", "name": "a"}],
            "limits": {"perClient": {"connections": 1, "pendingRequests": 2}},
            "timeouts": {"connect": "1s"},
        })
    }

    /// Were this another number, every policy that was verified before would be stale.
    #[test]
    fn it_is_the_same_in_every_version() {
        assert_eq!(hash(spec()), "c45920ccc22dcf12");
    }

    #[test]
    fn the_order_of_fields_and_what_is_left_out_change_nothing() {
        let other = json!({
            "timeouts": {"connect": "1s", "request": null},
            "mode": "Enforce",
            "limits": {"perClient": {"pendingRequests": 2, "connections": 1}},
            "targetRefs": [{"group": "", "name": "a", "kind": "Service"}],
        });
        assert_eq!(hash(other), hash(spec()));
    }

    #[test]
    fn every_value_counts() {
        let mut other = spec();
        other["limits"]["perClient"]["pendingRequests"] = json!(3);
        assert_ne!(hash(other), hash(spec()));
        let mut suspended = spec();
        suspended["mode"] = json!("Suspend");
        assert_ne!(hash(suspended), hash(spec()));
    }
}
