//! What the corpora must hold, derived from the CRD, the warnings, the refusals, and the rules and traps
//! of Istio: what is added to one of them without a document is a fault here, and so is a document that
//! is gone.

mod fields;
mod istio_rules;
mod refusals;
mod traps;
pub mod warnings;

use std::{fs, path::Path};

use resilience_operator::{api::schema::crd_json, cli::input, names};
use serde_json::Value;

use crate::support::{files, root};

/// A policy that stands in a file.
struct Document {
    object: Value,
}

/// A policy that is refused, and for what.
struct Refused {
    document: Document,
    layer: String,
    /// Path and the beginning of the message.
    faults: Vec<(String, String)>,
}

/// The policies of a file.
fn policies(path: &Path) -> Vec<Document> {
    let read = input::read(&[path.to_owned()], &mut std::io::empty());
    let ours = |object: &Value| object["kind"] == names::KIND;
    let found = read.objects.into_iter().map(|object| object.value).filter(ours);
    found.map(|object| Document { object }).collect()
}

/// Every policy that the schema takes: those of `accept` and those of the golden files.
fn accepted() -> Vec<Document> {
    let all = files("tests/accept", "").into_iter().chain(files("tests/translate", ".in.yaml"));
    all.flat_map(|path| policies(&path)).collect()
}

/// Every policy of a refused file, with the faults that the file expects.
fn refused() -> Vec<Refused> {
    let of_file = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).expect("it can be read");
        let head = |key: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix(&format!("# {key}: "))).map(str::to_owned).collect()
        };
        let layer = head("layer").concat();
        let split = |line: &String| line.split_once(": ").map(|(path, why)| (path.to_owned(), why.to_owned()));
        let faults: Vec<_> = head("expect").iter().filter_map(split).collect();
        let refused = policies(path).into_iter().map(|document| Refused {
            document,
            layer: layer.clone(),
            faults: faults.clone(),
        });
        refused.collect::<Vec<_>>()
    };
    files("tests/reject", "").iter().flat_map(of_file).collect()
}

/// The schema of `spec`, as the API server gets it.
fn spec_schema() -> Value {
    let crd = crd_json();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("a schema").clone()
}

/// `spec.ports[3].retries` as a place of the schema: `spec.ports[].retries`.
fn without_indexes(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            !inside || *c == '['
        })
        .collect()
}

/// The value at `spec.ports[3].retries`; null where nothing is.
fn at(object: &Value, path: &str) -> Value {
    let pointer = path.replace('[', "/").replace(']', "").replace('.', "/");
    object.pointer(&format!("/{pointer}")).cloned().unwrap_or_default()
}

/// Every value at `spec.ports[].retries`, one for each entry that has it.
fn all_at(object: &Value, place: &str) -> Vec<Value> {
    let mut found = vec![object.clone()];
    for segment in place.split('.') {
        let (key, each) = segment.strip_suffix("[]").map_or((segment, false), |key| (key, true));
        found = found.iter().filter_map(|value| value.get(key).cloned()).collect();
        if each {
            found = found.iter().flat_map(|value| value.as_array().cloned().unwrap_or_default()).collect();
        }
    }
    found
}

/// Whole sentences among the literals of Rust source, without its tests and comments: each as its longest
/// part between two values.
fn sentences(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let literals = code.split('"').skip(1).step_by(2);
    let sentences = literals.filter(|text| text.split(' ').count() > 3);
    let longest = |text: &str| {
        let parts = text.split('{').enumerate().map(|(index, part)| {
            let after = if index == 0 { Some(part) } else { part.split_once('}').map(|(_, after)| after) };
            after.unwrap_or_default().trim().to_owned()
        });
        parts.max_by_key(String::len).unwrap_or_default()
    };
    sentences.map(longest).filter(|part| part.len() >= 12).collect()
}

/// The text of every file below a folder whose name ends so.
fn texts(folder: &str, end: &str) -> String {
    files(folder, end).iter().map(|path| fs::read_to_string(path).expect("it can be read")).collect()
}

/// The sources of a module: its file, and those of its folder.
fn sources(paths: &[&str]) -> Vec<(String, String)> {
    let one = |path: &&str| ((*path).to_owned(), fs::read_to_string(root().join(path)).expect("it can be read"));
    paths.iter().map(one).collect()
}

#[test]
fn places_and_sentences_are_read_as_they_are_written() {
    let object = serde_json::json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}});
    assert_eq!(without_indexes("spec.ports[12].retries.methods[0]"), "spec.ports[].retries.methods[]");
    assert_eq!(at(&object, "spec.ports[1].port"), 81);
    assert_eq!(all_at(&object, "spec.ports[].port"), [80, 81]);
    let source = "// \"a comment is no sentence\"\nformat!(\"{x} is one of these, {y}: so\"); \"too short\"";
    assert_eq!(sentences(source), ["is one of these,"]);
}
