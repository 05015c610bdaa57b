//! The Helm chart: what of it is a copy is the same, its version is that of the program, and its values are what its
//! schema says. That it renders what kustomize does, real Helm shows (`e2e/src/scenarios/chart.rs`).
//!
//! `UPDATE_GOLDEN=1 cargo test chart` copies anew what is a copy.

use std::collections::BTreeSet;

use resilience_operator::cli::yaml;
use serde_json::{Value, json};

use crate::support::{difference, files, read, root};

const CHART: &str = "deploy/chart";

fn document(path: &str) -> Value {
    yaml::documents(&read(path)).remove(0).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn values() -> Value {
    document(&format!("{CHART}/values.yaml"))
}

fn schema() -> Value {
    serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).expect("the schema is JSON")
}

/// What the schema says of some values; empty: nothing is wrong.
fn faults(values: &Value) -> Vec<String> {
    let schema = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft7)
        .build(&schema())
        .unwrap_or_else(|error| panic!("the schema is none: {error}"));
    schema.iter_errors(values).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// A chart holds its files itself: Helm reads none outside of it.
#[test]
fn what_the_chart_copies_is_as_it_is_elsewhere() {
    for (copy, of) in [
        ("crd.yaml", "crds/resilience.yaml"),
        ("rules.yaml", "deploy/monitoring/rules.yaml"),
        ("dashboard.json", "deploy/monitoring/dashboard.json"),
    ] {
        let (copy, want) = (format!("{CHART}/files/{copy}"), read(of));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(root().join(&copy), &want).expect("it can be written");
        }
        let have = read(&copy);
        let shown = if have == want { String::new() } else { difference(&have, &want) };
        assert!(have == want, "{copy} is not {of}; renew it: UPDATE_GOLDEN=1 cargo test chart\n{shown}");
    }
}

#[test]
fn the_charts_versions_are_that_of_the_program() {
    let chart = document(&format!("{CHART}/Chart.yaml"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Paths of all keys that the schema names, `image.tag`, without those of what is a pod's own to say.
fn named(schema: &Value, whole: &Value, at: &str, found: &mut BTreeSet<String>) {
    let part = schema["$ref"].as_str().map_or(schema, |place| {
        whole.pointer(place.trim_start_matches('#')).unwrap_or_else(|| panic!("the schema has no {place}"))
    });
    let properties = part["properties"].as_object().into_iter().flatten();
    if !at.is_empty() && part.get("properties").is_none() {
        found.insert(at.to_owned());
    }
    for (key, inner) in properties {
        named(inner, whole, &if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, found);
    }
}

fn has(values: &Value, path: &str) -> bool {
    values.pointer(&format!("/{}", path.replace('.', "/"))).is_some()
}

/// Every value that is there, as far as the schema names them.
fn keys(values: &Value, named: &BTreeSet<String>, at: &str, found: &mut BTreeSet<String>) {
    for (key, inner) in values.as_object().into_iter().flatten() {
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        if named.contains(&path) || !inner.is_object() {
            found.insert(path);
        } else {
            keys(inner, named, &path, found);
        }
    }
}

#[test]
fn every_value_is_in_the_schema_has_a_default_and_is_read() {
    let (schema, values) = (schema(), values());
    let mut of_schema = BTreeSet::new();
    named(&schema, &schema, "", &mut of_schema);
    // Helm's own.
    assert!(of_schema.remove("global"));
    let mut of_values = BTreeSet::new();
    keys(&values, &of_schema, "", &mut of_values);
    assert_eq!(of_values, of_schema);
    assert!(of_schema.len() > 25 && of_schema.iter().all(|path| has(&values, path)), "{of_schema:?}");
    let templates = files(&format!("{CHART}/templates"), "").iter().map(read).collect::<String>();
    for path in of_schema {
        let (block, key) = path.rsplit_once('.').unwrap_or(("", &path));
        // `image` is read as a whole, and then key by key.
        let is_read = templates.contains(&format!(".Values.{path}"))
            || (templates.contains(&format!("${block} := .Values.{block}"))
                && templates.contains(&format!("${block}.{key}")));
        assert!(is_read, "no template reads {path}");
    }
}

#[test]
fn the_defaults_are_legal_but_for_the_image_that_only_the_user_can_name() {
    assert_eq!(faults(&values()), Vec::<String>::new());
    assert_eq!(values()["image"]["repository"], "");
}

#[test]
fn what_is_misspelt_or_of_another_type_is_refused_by_its_path() {
    for (path, wrong, words) in [
        ("/replcias", json!(2), "replcias"),
        ("/image/repo", json!("x"), "/image"),
        ("/image/tag", json!(1.31), "/image/tag"),
        ("/image/digest", json!("sha256:1"), "/image/digest"),
        ("/image/pullPolicy", json!("Sometimes"), "/image/pullPolicy"),
        ("/image/pullSecrets", json!(["secret"]), "/image/pullSecrets/0"),
        ("/replicas", json!("2"), "/replicas"),
        ("/namespaces", json!("shop"), "/namespaces"),
        ("/namespaces", json!(["Shop"]), "/namespaces/0"),
        ("/inEffect", json!(true), "/inEffect"),
        ("/crds/keep", json!("yes"), "/crds/keep"),
        ("/networkPolicy/apiServerCIDRs", json!(["10.0.0.1"]), "/networkPolicy/apiServerCIDRs/0"),
        ("/podLabels", json!({"team": 5}), "/podLabels/team"),
    ] {
        let mut values = values();
        let (parent, key) = path.rsplit_once('/').expect("it is a path");
        values.pointer_mut(parent).expect("it is there")[key] = wrong;
        let found = faults(&values);
        assert!(found.len() == 1 && found[0].contains(words), "{path}: {found:?}");
    }
}

/// A template that names another namespace than the release's or a value's would be applied there whatever the user says.
#[test]
fn no_template_names_the_operators_namespace() {
    for file in files(&format!("{CHART}/templates"), "") {
        assert!(!read(&file).contains("resilience-system"), "{}", file.display());
    }
}
