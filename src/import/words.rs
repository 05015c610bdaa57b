//! What a spec means, as words that can be compared: a path in Istio's own names, and a value in one form.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Meaning by path.
pub(super) type Words = BTreeMap<String, Value>;

/// Milliseconds of a duration as Go and protobuf write them (`1h30m`, `1.5s`); `None` for what is none, or no
/// whole number of them, which Istio refuses (`agent.ValidateDuration`).
pub(super) fn millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale = match unit {
            "h" => 3_600_000_000_000_u128,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() > 12 || part.len() > 9 {
            return None;
        }
        nanos += whole.parse::<u128>().ok().or_else(|| whole.is_empty().then_some(0))? * scale;
        if !part.is_empty() {
            nanos += part.parse::<u128>().ok()? * scale / 10_u128.pow(u32::try_from(part.len()).ok()?);
        }
        rest = after;
    }
    (!text.is_empty() && nanos.is_multiple_of(1_000_000)).then(|| u64::try_from(nanos / 1_000_000).ok()).flatten()
}

/// A duration in one form; what is none stays as it stands.
pub(super) fn duration(value: &Value) -> Value {
    value.as_str().and_then(millis).map_or_else(|| value.clone(), |millis| Value::String(format!("{millis}ms")))
}

/// Every leaf below a value, by path. An empty block is a leaf: for some fields it says something.
pub(super) fn leaves(path: &str, value: &Value, found: &mut Words) {
    match value {
        Value::Null => {}
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, found);
            }
        }
        _ => drop(found.insert(path.to_owned(), value.clone())),
    }
}

/// A value as text for people: a string without its quotes.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The fields of a block; none if it is none.
pub(super) fn fields(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter).filter(|(_, value)| !value.is_null())
}

/// The items of a list; none if it is none.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_read_and_what_istio_refuses_is_none() {
        for (text, expected) in
            [("1h30m", Some(5_400_000)), ("1.5s", Some(1_500)), ("0s", Some(0)), (".5s", Some(500)), ("1ms", Some(1))]
        {
            assert_eq!(millis(text), expected, "{text}");
        }
        for text in ["", "1", "s", "1.5ms", "1d", "-1s", "1s ", "1.2.3s"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}
