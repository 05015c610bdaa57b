//! Each rule of the CRD's CEL at each place that has it, and each sentence by which the operator refuses: in
//! a document that is refused for it.

use serde_json::Value;

use super::{refused, sentences, sources, spec_schema, texts, without_indexes};

/// Place and message of every CEL rule.
fn rules(place: &str, schema: &Value, found: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let at = rule["fieldPath"].as_str().unwrap_or_default();
        found.push((format!("{place}{at}"), rule["message"].as_str().expect("rules have messages").to_owned()));
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        rules(&format!("{place}.{key}"), inner, found);
    }
    if let Some(items) = schema.get("items") {
        rules(&format!("{place}[]"), items, found);
    }
}

#[test]
fn every_rule_of_cel_refuses_a_document_at_every_place_that_has_it() {
    let mut all = Vec::new();
    rules("spec", &spec_schema(), &mut all);
    assert!(all.len() >= 35, "only {} rules: are they still read?", all.len());
    let refused = refused();
    let has_document = |(place, message): &&(String, String)| {
        refused
            .iter()
            .filter(|one| one.layer == "cel")
            .flat_map(|one| &one.faults)
            .any(|(path, why)| without_indexes(path) == *place && message.starts_with(why.as_str()))
    };
    let missing: Vec<String> =
        all.iter().filter(|rule| !has_document(rule)).map(|(place, message)| format!("{place}: {message}")).collect();
    assert!(missing.is_empty(), "no file of tests/reject is refused by\n{}", missing.join("\n"));
}

/// Sentences of what only a cluster can withhold, which unit tests beside them hold.
const SEEN_LIVE: [&str; 1] = [": let the operator list and watch sidecars there, or leave this out"];

#[test]
fn every_sentence_of_a_refusal_stands_in_a_document_that_is_refused() {
    let documents = texts("tests/translate", ".out.yaml") + &texts("tests/reject", "") + &texts("tests/cli", ".md");
    let sources = sources(&[
        "src/validate.rs",
        "src/validate/merge.rs",
        "src/validate/neighbours.rs",
        "src/validate/resolve.rs",
        "src/validate/server_side.rs",
        "src/validate/target.rs",
    ]);
    let mut missing = Vec::new();
    for (file, source) in sources {
        let found = sentences(&source);
        assert!(found.len() >= 3, "{file}: only {} sentences: are they still read?", found.len());
        missing.extend(
            found
                .into_iter()
                .filter(|text| !documents.contains(text) && !SEEN_LIVE.contains(&text.as_str()))
                .map(|text| format!("{file}: {text}")),
        );
    }
    assert!(missing.is_empty(), "in no golden file, refused file or transcript:\n{}", missing.join("\n"));
}
