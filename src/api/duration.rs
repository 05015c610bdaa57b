//! Durations as Gateway API writes them (GEP-2257): `1h30m`, `1.5s` is not one, `1500ms` is.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A duration in GEP-2257 form: one to four pairs of digits and a unit of `h`, `m`, `s`, `ms`.
///
/// Holds the text as it was written; the schema refuses what is not a duration and what is
/// shorter than 1ms (Istio's own least: `agent.ValidateDuration`), so [`Duration::as_millis`]
/// is `None` only for an object that never passed the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(String);

/// The pattern of GEP-2257.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// What is zero has no other digit.
const NOT_ZERO: &str =
    "!self.startsWith('0') || ['1', '2', '3', '4', '5', '6', '7', '8', '9'].exists(digit, self.contains(digit))";
/// Longest text that the pattern can match: four times five digits and `ms`.
const MAX_LENGTH: u32 = 28;

impl Duration {
    /// Takes the text as it is; see the type for who checks it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whole milliseconds, or `None` if the text is not a GEP-2257 duration.
    #[must_use]
    pub fn as_millis(&self) -> Option<u64> {
        let mut rest = self.0.as_str();
        let mut total = 0u64;
        let mut pairs = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > 5 || pairs == 4 {
                return None;
            }
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let (factor, unit) = if rest.starts_with("ms") {
                (1, 2)
            } else if rest.starts_with('s') {
                (1_000, 1)
            } else if rest.starts_with('m') {
                (60_000, 1)
            } else if rest.starts_with('h') {
                (3_600_000, 1)
            } else {
                return None;
            };
            total += number * factor;
            rest = &rest[unit..];
            pairs += 1;
        }
        (pairs > 0).then_some(total)
    }

    /// The shortest text for so many milliseconds, largest unit first: `90s` becomes `1m30s`.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        let parts = [
            (millis / 3_600_000, "h"),
            (millis / 60_000 % 60, "m"),
            (millis / 1_000 % 60, "s"),
            (millis % 1_000, "ms"),
        ];
        let text: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
        Self(if text.is_empty() { "0s".to_owned() } else { text.concat() })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": PATTERN,
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": [{
                // Without `matches`, which builds its expression anew at each evaluation, and without `duration`, for
                // which a text that the pattern refuses would be an error besides.
                "rule": NOT_ZERO,
                "message": "must be at least 1ms; leave the field out to leave it to Istio",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_counts() {
        assert_eq!(Duration::new("1h1m1s1ms").as_millis(), Some(3_661_001));
        assert_eq!(Duration::new("90s").as_millis(), Some(90_000));
        assert_eq!(Duration::new("25ms").as_millis(), Some(25));
        assert_eq!(Duration::new("0s").as_millis(), Some(0));
    }

    #[test]
    fn what_gep_2257_does_not_know_is_no_duration() {
        for text in ["", "1", "1.5s", "s", "-1s", "1d", "100000s", "1s1s1s1s1s", " 1s", "1S", "1us"] {
            assert_eq!(Duration::new(text).as_millis(), None, "{text:?}");
        }
    }

    #[test]
    fn canonical_text_means_the_same_time() {
        for millis in [0, 1, 999, 1_000, 90_000, 3_600_000, 3_661_001] {
            assert_eq!(Duration::from_millis(millis).as_millis(), Some(millis));
        }
        assert_eq!(Duration::from_millis(90_000).as_str(), "1m30s");
    }
}
