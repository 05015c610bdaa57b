//! YAML as kubectl reads and writes it.
//!
//! kubectl has a YAML 1.1 parser: `on`, `yes` and `n` without quotes are booleans, `010` is eight,
//! a key given twice counts once (the last), and keys that are no text become text. A stricter or a
//! kinder reader would give another verdict than the cluster.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::DuplicateKeyPolicy;

/// The documents of a file in order, without the blank ones; each on its own, so that one which
/// is no YAML does not hide the others.
#[must_use]
pub fn documents(text: &str) -> Vec<Result<Value, String>> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{')
        && let Ok(values) = serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<Node>, _>>()
    {
        return values.into_iter().map(|node| Ok(node.0)).collect();
    }
    split(text).iter().map(|document| parse(document)).collect()
}

/// Cuts at lines of `---` as kubectl does. Lines in front of a document stay as empty ones, so that
/// an error tells the line of the file.
fn split(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let rest = line.strip_prefix("---").map(str::trim_start);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#')) {
            documents.push(std::mem::replace(&mut current, "\n".repeat(index + 1)));
        } else {
            current.push_str(line);
            current.push('\n');
        }
    }
    documents.push(current);
    let says_something = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    documents.retain(|document| document.lines().any(says_something));
    documents
}

fn parse(document: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Node>(document, options).map(|node| node.0).map_err(|error| error.to_string())
}

/// One document of YAML, without quotes where kubectl needs none.
///
/// # Errors
/// If the value cannot be written as YAML, which no value of ours is.
pub fn print(value: &impl Serialize) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

/// A value as JSON knows it.
struct Node(Value);

/// A key: whatever it is, text is made of it.
struct Key(String);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(NodeVisitor)? {
            Value::String(text) => Ok(Self(text)),
            Value::Bool(value) => Ok(Self(value.to_string())),
            Value::Number(value) => Ok(Self(value.to_string())),
            Value::Null => Err(D::Error::custom("a key must not be null")),
            Value::Array(_) | Value::Object(_) => Err(D::Error::custom("a key must be a text")),
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    /// Go prints a whole float without a fraction, so that `1e3` and `2.0` are integers there.
    #[expect(clippy::cast_possible_truncation, reason = "checked: the float has no fraction and fits")]
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.fract() == 0.0 && value.abs() < 1e15 {
            return Ok((value as i64).into());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(format!("{value} is no number of JSON")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Node(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((Key(key), Node(value))) = entries.next_entry()? {
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{documents, print};

    fn one(text: &str) -> serde_json::Value {
        documents(text).remove(0).unwrap()
    }

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        // Each line as `kubectl annotate --local -o json` printed it.
        let text = "a: on\nb: y\nc: 010\nd: 1_000\ne: 1e3\nf: 1.0\ng: 12:30:45\nh: 0x10\ni: 2001-01-01\nj: ~\nl: 08\nm: .5\nn: 0o17\non: z\n\"off\": q\n1: r\n1.5: s\n\"y\": t\nyes: \"no\"\n";
        let want = json!({
            "a": true, "b": true, "c": 8, "d": 1000, "e": 1000, "f": 1, "g": "12:30:45", "h": 16, "i": "2001-01-01",
            "j": null, "l": 8, "m": 0.5, "false": 15, "true": "no", "off": "q", "1": "r", "1.5": "s", "y": "t"
        });
        assert_eq!(one(text), want);
    }

    #[test]
    fn the_last_of_two_equal_keys_counts_as_in_kubectl() {
        assert_eq!(one("a: 1\na: 2\n"), json!({"a": 2}));
        assert_eq!(one("{\"a\": 1, \"a\": 2.0}"), json!({"a": 2}));
        assert_eq!(one("{a: 1, b: [x, yes]}"), json!({"a": 1, "b": ["x", true]}));
    }

    #[test]
    fn blank_documents_do_not_count_and_a_broken_one_hides_no_other() {
        let found = documents("---\n# nothing\n---\na: 1\n--- # next\nb: [\n---\nc: 3\n");
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], Ok(json!({"a": 1})));
        assert!(found[1].as_ref().is_err_and(|error| error.contains("line")), "{:?}", found[1]);
        assert_eq!(found[2], Ok(json!({"c": 3})));
    }

    #[test]
    fn json_documents_follow_each_other_without_a_separator() {
        assert_eq!(documents("{\"a\": 1} {\"b\": 2}\n"), [Ok(json!({"a": 1})), Ok(json!({"b": 2}))]);
    }

    #[test]
    fn a_bom_and_windows_line_ends_do_no_harm() {
        let found = documents("\u{feff}a: x\r\n---\r\nb: y z\r\n");
        assert_eq!(found, [Ok(json!({"a": "x"})), Ok(json!({"b": "y z"}))]);
    }

    #[test]
    fn what_is_printed_reads_back_also_by_a_yaml_1_1_parser() {
        let value = json!({"a": "on", "b": "010", "c": "", "d": ["5xx,reset", "1e3"], "e": {}, "f": 30});
        let text = print(&value).unwrap();
        assert_eq!(one(&text), value);
        assert!(!text.contains("a: on"), "{text}");
    }
}
