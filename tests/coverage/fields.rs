//! Each field of the spec: unset, at its least and at its most in something accepted; just beyond both, and
//! of a wrong type, in something refused.

use std::collections::BTreeMap;

use resilience_operator::api::Duration;
use serde_json::Value;

use super::{accepted, all_at, refused, spec_schema, without_indexes};

/// Fields of which nothing is legal, and why: only refused documents can have them.
const NEVER_LEGAL: [(&str, &str); 7] = [
    ("spec.ports[].limits.perServer.mode", "the server's side is for all ports"),
    ("spec.ports[].limits.perServer.connections", "the server's side is for all ports"),
    ("spec.ports[].limits.perServer.pendingRequests", "the server's side is for all ports"),
    ("spec.ports[].limits.perServer.activeRequests", "the server's side is for all ports"),
    ("spec.ports[].limits.perServer.requestsPerConnection", "the server's side is for all ports"),
    ("spec.ports[].retries.budget.percent", "a budget is for all ports"),
    ("spec.ports[].retries.budget.minConcurrency", "a budget is for all ports"),
];

/// Fields whose rule allows less than their bounds, and the most that it allows.
const TIGHTER: [(&str, i64); 2] = [("spec.retries.statusCodes[]", 511), ("spec.ports[].retries.statusCodes[]", 511)];

/// Fields that a rule of CEL demands where their block is.
const DEMANDED: [&str; 1] = ["spec.retries.attempts"];

/// The longest time that a duration can say.
const LONGEST_MILLIS: u64 = 4 * 99_999 * 3_600_000;

/// One field, or a list as a whole.
struct Leaf {
    place: String,
    schema: Value,
    required: bool,
}

fn leaves(place: &str, schema: &Value, required: bool, found: &mut Vec<Leaf>) {
    if let Some(properties) = schema["properties"].as_object() {
        let needed = schema["required"].as_array().cloned().unwrap_or_default();
        for (key, inner) in properties {
            leaves(&format!("{place}.{key}"), inner, needed.contains(&Value::from(key.as_str())), found);
        }
        return;
    }
    found.push(Leaf { place: place.to_owned(), schema: schema.clone(), required });
    if let Some(items) = schema.get("items") {
        leaves(&format!("{place}[]"), items, true, found);
    }
}

fn every_leaf() -> Vec<Leaf> {
    let mut found = Vec::new();
    leaves("spec", &spec_schema(), true, &mut found);
    found
}

/// What is demanded of one field and found nowhere.
struct Demands<'a> {
    place: &'a str,
    accepted: &'a [Value],
    refused: &'a [Value],
    missing: Vec<String>,
}

impl Demands<'_> {
    fn taken(&mut self, what: &str, such: impl Fn(&Value) -> bool) {
        if NEVER_LEGAL.iter().any(|(place, _)| *place == self.place) {
            return;
        }
        if !self.accepted.iter().any(such) {
            self.missing.push(format!("{}: {what} in nothing accepted", self.place));
        }
    }

    fn refused(&mut self, what: &str, such: impl Fn(&Value) -> bool) {
        if !self.refused.iter().any(such) {
            self.missing.push(format!("{}: {what} in nothing refused", self.place));
        }
    }

    fn number(&mut self, least: i64, most: i64) {
        self.taken("the least", |value| value.as_i64() == Some(least));
        let legal = TIGHTER.iter().find(|(place, _)| *place == self.place).map_or(most, |(_, legal)| *legal);
        self.taken("the most", |value| value.as_i64() == Some(legal));
        self.refused("one less than the least", |value| value.as_i64() == Some(least - 1));
        self.refused("one more than the most", |value| value.as_i64() == Some(most + 1));
        self.refused("something that is no number", |value| !value.is_number() && !value.is_null());
    }

    fn duration(&mut self) {
        let millis = |value: &Value| value.as_str().and_then(|text| Duration::new(text).as_millis());
        self.taken("1ms", |value| millis(value) == Some(1));
        self.taken("the longest time", |value| {
            millis(value).is_some_and(|millis| millis + 3_600_000 >= LONGEST_MILLIS)
        });
        self.refused("no time at all", |value| millis(value) == Some(0));
        self.refused("a fifth pair", |value| value.as_str().is_some_and(|text| text.len() > 28));
        self.refused("something that is no text", |value| !value.is_string() && !value.is_null());
    }

    fn words(&mut self, words: &[Value]) {
        for word in words {
            self.taken(&format!("the word {word}"), |value| value == word);
        }
        self.refused("another word", |value| value.is_string() && !words.contains(value));
        self.refused("something that is no text", |value| !value.is_string() && !value.is_null());
    }

    fn text(&mut self, least: usize, most: usize) {
        let length = |value: &Value| value.as_str().map(str::len);
        self.taken("the shortest", |value| length(value) == Some(least));
        self.taken("the longest", |value| length(value).is_some_and(|length| length + 1 >= most));
        self.refused("one that is too short", |value| length(value) == Some(least - 1));
        self.refused("one that is too long", |value| length(value) == Some(most + 1));
        self.refused("something that is no text", |value| !value.is_string() && !value.is_null());
    }

    fn list(&mut self, schema: &Value) {
        let size = |key: &str| usize::try_from(schema[key].as_u64().expect("lists have bounds")).expect("small");
        let (least, most) = (size("minItems"), size("maxItems"));
        let length = |value: &Value| value.as_array().map(Vec::len);
        let words = schema.pointer("/items/enum").and_then(Value::as_array).map_or(most, Vec::len).min(most);
        let repeats = |list: &Vec<Value>| list.iter().enumerate().any(|(index, one)| list[..index].contains(one));
        self.taken("the fewest entries", |value| length(value) == Some(least));
        self.taken("the most entries", |value| length(value) == Some(words));
        self.refused("one entry too few", |value| length(value) == Some(least - 1));
        // More than all words is one of them twice.
        let of_words = schema.pointer("/items/enum").is_some();
        self.refused("one entry too many", |value| {
            value.as_array().is_some_and(|list| list.len() > most || (of_words && repeats(list)))
        });
        self.refused("something that is no list", |value| !value.is_array() && !value.is_null());
    }

    fn all(&mut self, schema: &Value) {
        let number = |key: &str| schema[key].as_i64();
        match schema["type"].as_str() {
            Some("integer") => {
                self.number(number("minimum").expect("numbers have bounds"), number("maximum").expect("both"));
            }
            Some("array") => self.list(schema),
            Some("string") if schema["enum"].is_array() => self.words(schema["enum"].as_array().expect("a list")),
            Some("string") if schema["pattern"].as_str().is_some_and(|text| text.contains("(h|m|s|ms)")) => {
                self.duration();
            }
            Some("string") => {
                let size = |key: &str| usize::try_from(number(key).expect("texts have bounds")).expect("small");
                self.text(size("minLength"), size("maxLength"));
            }
            other => self.missing.push(format!("{}: nothing is known of type {other:?}: teach this test", self.place)),
        }
    }
}

/// Values by place, of all documents.
fn values(documents: &[(String, Value)]) -> BTreeMap<&str, Vec<Value>> {
    let mut found: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (place, value) in documents {
        found.entry(place).or_default().push(value.clone());
    }
    found
}

#[test]
fn every_field_stands_at_its_ends_and_beyond_them() {
    let documents = accepted();
    let refused: Vec<(String, Value)> = refused()
        .iter()
        .flat_map(|one| {
            one.faults.iter().map(|(path, _)| (without_indexes(path), super::at(&one.document.object, path)))
        })
        .collect();
    let refused = values(&refused);
    let leaves = every_leaf();
    assert!(leaves.len() > 60, "only {} fields: is the schema still read?", leaves.len());
    let mut missing = Vec::new();
    for leaf in &leaves {
        let here: Vec<Value> = documents.iter().flat_map(|one| all_at(&one.object, &leaf.place)).collect();
        let mut demands = Demands {
            place: &leaf.place,
            accepted: &here,
            refused: refused.get(leaf.place.as_str()).map(Vec::as_slice).unwrap_or_default(),
            missing: Vec::new(),
        };
        demands.all(&leaf.schema);
        let (parent, key) = leaf.place.rsplit_once('.').expect("below spec");
        let unset = || {
            let parents = documents.iter().flat_map(|one| all_at(&one.object, parent));
            parents.into_iter().any(|parent| parent.is_object() && parent.get(key).is_none())
        };
        let never = NEVER_LEGAL.iter().any(|(place, _)| *place == leaf.place);
        let demanded = DEMANDED.contains(&leaf.place.as_str());
        if !leaf.required && !demanded && !never && !unset() {
            demands.missing.push(format!("{}: unset in nothing accepted whose {parent} is set", leaf.place));
        }
        missing.append(&mut demands.missing);
    }
    for place in DEMANDED.into_iter().chain(TIGHTER.into_iter().map(|(place, _)| place)) {
        if !leaves.iter().any(|leaf| leaf.place == place) {
            missing.push(format!("{place}: is no field any more"));
        }
    }
    for (place, _) in NEVER_LEGAL {
        if !leaves.iter().any(|leaf| leaf.place == place) {
            missing.push(format!("{place}: is no field any more: take it from NEVER_LEGAL"));
        }
        if documents.iter().any(|one| !all_at(&one.object, place).is_empty()) {
            missing.push(format!("{place}: something accepted has it: take it from NEVER_LEGAL"));
        }
    }
    assert!(missing.is_empty(), "{} documents are missing:\n{}", missing.len(), missing.join("\n"));
}
