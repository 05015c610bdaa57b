//! One or two changes that make a legal object nearly legal.

use proptest::{collection, prelude::*, sample};
use serde_json::{Value, json};

/// What changes are drawn from.
#[derive(Clone, Copy)]
pub struct Vocabulary {
    /// Texts that mean something somewhere, rightly or wrongly written.
    pub words: &'static [&'static str],
    /// Fields, each with a value that is fine where the field belongs; as JSON. `parent/field` comes only
    /// where it belongs.
    pub fields: &'static [(&'static str, &'static str)],
}

/// One change. Places are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Change {
    /// Another value of the same type.
    Alike(sample::Index, sample::Index),
    /// A number or a duration that is fine in most places.
    Tame(sample::Index, sample::Index),
    /// Any value.
    Replace(sample::Index, Value),
    /// A field or an entry goes.
    Remove(sample::Index),
    /// A field comes.
    Add(sample::Index, String, Value),
    /// An entry of a list comes again.
    Repeat(sample::Index, sample::Index),
}

/// Numbers at, beyond and far beyond bounds; whole ones in another dress; fractions.
const NUMBERS: &[&str] = &[
    "-2147483649",
    "-2147483648",
    "-5",
    "-1",
    "-0.0",
    "0",
    "0.0",
    "0.5",
    "1",
    "1.0",
    "1.5",
    "2",
    "3",
    "10",
    "11",
    "80",
    "99",
    "100",
    "101",
    "100.5",
    "150",
    "200",
    "443",
    "503",
    "520",
    "599",
    "600",
    "8080",
    "65535",
    "65536",
    "70000",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "1e2",
    "1e300",
];
/// Durations of all shapes.
const DURATIONS: &[&str] = &[
    "1ms",
    "2ms",
    "1s",
    "90s",
    "1h30m",
    "1h1m1s1ms",
    "99999h",
    "0s",
    "0ms",
    "0",
    "00001s",
    "1.5s",
    "1.5ms",
    "0.5ms",
    ".5s",
    "1.s",
    "1us",
    "1µs",
    "1000us",
    "1ns",
    "1000000ns",
    "-1s",
    "+1s",
    "1d",
    "1 s",
    " 1s",
    "1S",
    "s",
    ".s",
    "10",
    "abc",
    "1h1m1s1ms1h",
    "100000s",
    "2562047h47m16.854s",
    "9999999h",
    "0.001s",
    "0.0001s",
    "1m0.0005s",
    "1s1s",
];

/// Numbers and durations that are fine in most places, so that much stays legal.
const TAME_NUMBERS: [u32; 6] = [1, 2, 3, 9, 80, 100];
const TAME_DURATIONS: [&str; 6] = ["1ms", "2s", "90s", "1h30m", "1h1m1s1ms", "500ms"];

/// Changes of values as they are in this vocabulary.
pub fn changes(of: Vocabulary) -> impl Strategy<Value = Vec<Change>> {
    let numbers = sample::select(NUMBERS).prop_map(|text| serde_json::from_str(text).expect("a number"));
    let durations = sample::select(DURATIONS).prop_map(Value::from);
    let words = sample::select(of.words).prop_map(Value::from);
    let shapes = sample::select(vec![
        Value::Null,
        json!(true),
        json!(false),
        json!({}),
        json!([]),
        json!([null]),
        json!([{}]),
        json!({"x": 1}),
        json!(""),
    ]);
    let drawn = prop_oneof![3 => numbers, 3 => durations, 3 => words, 2 => shapes].boxed();
    let field = sample::select(of.fields);
    let add = (any::<sample::Index>(), field, drawn.clone(), 0..4_u8).prop_map(|(place, (key, fine), drawn, odd)| {
        let value = if odd == 0 { drawn } else { serde_json::from_str(fine).expect("a value") };
        Change::Add(place, key.to_owned(), value)
    });
    let index = any::<sample::Index>;
    let one = prop_oneof![
        6 => (index(), index()).prop_map(|(place, pick)| Change::Alike(place, pick)),
        6 => (index(), index()).prop_map(|(place, pick)| Change::Tame(place, pick)),
        3 => (index(), drawn).prop_map(|(place, value)| Change::Replace(place, value)),
        3 => index().prop_map(Change::Remove),
        4 => add,
        1 => (index(), index()).prop_map(|(place, pick)| Change::Repeat(place, pick)),
    ]
    .boxed();
    prop_oneof![3 => collection::vec(one.clone(), 1), 1 => collection::vec(one, 2)]
}

impl Change {
    /// Changes what is below a place of the object; nothing where nothing of the kind is there.
    pub fn apply(&self, object: &mut Value, below: &str, of: Vocabulary) {
        let places = |fits: &dyn Fn(&Value) -> bool| {
            let mut found = Vec::new();
            if let Some(root) = object.pointer(below) {
                pointers(root, below, fits, &mut found);
            }
            found
        };
        let chosen = |index: &sample::Index, places: Vec<String>| {
            (!places.is_empty()).then(|| places[index.index(places.len())].clone())
        };
        match self {
            Self::Alike(place, pick) => {
                let leaf = |value: &Value| value.is_number() || value.is_string() || value.is_boolean();
                let Some(value) = chosen(place, places(&leaf)).and_then(|place| object.pointer_mut(&place)) else {
                    return;
                };
                *value = match value {
                    Value::Number(_) => serde_json::from_str(NUMBERS[pick.index(NUMBERS.len())]).expect("a number"),
                    Value::Bool(flag) => Value::Bool(!*flag),
                    Value::String(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                        Value::from(DURATIONS[pick.index(DURATIONS.len())])
                    }
                    _ => Value::from(of.words[pick.index(of.words.len())]),
                };
            }
            Self::Tame(place, pick) => {
                let is_duration = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
                let fits = |value: &Value| value.is_number() || value.as_str().is_some_and(is_duration);
                let Some(value) = chosen(place, places(&fits)).and_then(|place| object.pointer_mut(&place)) else {
                    return;
                };
                *value = match value {
                    Value::Number(_) => Value::from(TAME_NUMBERS[pick.index(TAME_NUMBERS.len())]),
                    _ => Value::from(TAME_DURATIONS[pick.index(TAME_DURATIONS.len())]),
                };
            }
            Self::Replace(place, with) => {
                let place = chosen(place, places(&|_| true));
                if let Some(value) = place.and_then(|place| object.pointer_mut(&place)) {
                    *value = with.clone();
                }
            }
            Self::Remove(place) => {
                let Some(place) = chosen(place, places(&|_| true)) else { return };
                let (parent, key) = place.rsplit_once('/').expect("a place has a parent");
                match object.pointer_mut(parent) {
                    Some(Value::Object(map)) => drop(map.remove(key)),
                    Some(Value::Array(list)) => drop(list.remove(key.parse().expect("an index"))),
                    _ => {}
                }
            }
            Self::Add(place, key, value) => {
                let mut objects = places(&Value::is_object);
                objects.push(below.to_owned());
                let (parent, key) = key.split_once('/').unwrap_or(("", key));
                objects.retain(|place| parent.is_empty() || place.rsplit('/').next() == Some(parent));
                if let Some(Value::Object(map)) = chosen(place, objects).and_then(|place| object.pointer_mut(&place)) {
                    map.insert(key.to_owned(), value.clone());
                }
            }
            Self::Repeat(place, pick) => {
                let list = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
                if let Some(Value::Array(list)) =
                    chosen(place, places(&list)).and_then(|place| object.pointer_mut(&place))
                {
                    list.push(list[pick.index(list.len())].clone());
                }
            }
        }
    }
}

/// Pointers to every fitting value below `value`, itself left out.
fn pointers(value: &Value, at: &str, fits: &dyn Fn(&Value) -> bool, found: &mut Vec<String>) {
    let mut visit = |key: String, inner: &Value| {
        let place = format!("{at}/{key}");
        if fits(inner) {
            found.push(place.clone());
        }
        pointers(inner, &place, fits, found);
    };
    match value {
        // No key of ours has a slash or a tilde but labels, which nothing is put below.
        Value::Object(map) => {
            map.iter().filter(|(key, _)| !key.contains(['/', '~'])).for_each(|(key, inner)| visit(key.clone(), inner));
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(index, inner)| visit(index.to_string(), inner)),
        _ => {}
    }
}
