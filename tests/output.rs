//! The fields of `-o json|yaml` are a promise: `docs/output.md` names them all, from the types that are
//! printed, so that no field comes, goes or is renamed in silence.
//!
//! `UPDATE_GOLDEN=1 cargo test output` writes the page anew.

use std::{collections::BTreeMap, fmt::Write as _};

use resilience_operator::{cli, load, report, runtime::log_level, top, verification, why};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::Value;

use crate::support::{difference, read, root};

const HEAD: &str = "# Output for programs

What `-o json` prints; `-o yaml` prints the same. `render` and `crd` print manifests, whose fields are those of
their kinds, and so does `import` but for `-o json`. A field keeps its name and its meaning; new ones may come.

Exit codes are the same in every format: 0 done (and for `diff`: no difference), 1 the answer is no (faults, a
refusal, differences, nothing of that name, the guard tripped), 2 the question could not be answered.
";

#[test]
fn every_field_that_is_printed_for_programs_is_in_the_documentation() {
    let mut page = HEAD.to_owned();
    page.push_str(&section::<cli::validate::Report>("validate"));
    page.push_str(&section::<cli::diff::Report>("diff"));
    page.push_str(&section::<report::Page>("explain"));
    page.push_str(&section::<cli::status::Report>("status"));
    page.push_str(&section::<cli::import::Report>("import"));
    page.push_str(&section::<top::Top>("top"));
    page.push_str(&section::<why::Why>("why"));
    page.push_str(&section::<verification::Report>("verify"));
    page.push_str(&section::<load::Report>("load"));
    page.push_str(&section::<log_level::Level>("log-level"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(root().join("docs/output.md"), &page).unwrap();
    }
    let have = read("docs/output.md");
    assert!(have == page, "docs/output.md is stale: UPDATE_GOLDEN=1 cargo test output\n{}", difference(&have, &page));
}

fn section<T: JsonSchema>(command: &str) -> String {
    let mut generator: SchemaGenerator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let root = generator.root_schema_for::<T>();
    let (mut rows, mut known) = (Vec::new(), BTreeMap::new());
    fields(root.as_value(), root.as_value(), "", &mut rows, &mut known);
    assert!(!rows.is_empty(), "{command} prints no field");
    let mut text = format!("\n## {command}\n\n| field | |\n|---|---|\n");
    for (path, words) in rows {
        assert!(!words.is_empty(), "{command}: {path} has no documentation");
        let _ = writeln!(text, "| `{path}` | {} |", words.replace('|', "\\|"));
    }
    text
}

/// Every field below a schema, by path, in the order in which it is printed.
fn fields(
    root: &Value,
    schema: &Value,
    path: &str,
    rows: &mut Vec<(String, String)>,
    known: &mut BTreeMap<String, String>,
) {
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        fields(root, variant, path, rows, known);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        // One of a variant that another variant has as well.
        if rows.iter().any(|(known, _)| *known == at) {
            continue;
        }
        let mut words = said(property).replace('\n', " ").replace("[`", "`").replace("`]", "`");
        let inner = resolved(root, property);
        let values: Vec<&str> = variants(inner).collect();
        if property["const"].is_string() {
            "Which of its shapes it has.".clone_into(&mut words);
        }
        let few = (1..10).contains(&values.len());
        if few && !values.iter().all(|value| words.contains(value)) {
            let _ = write!(words, " One of {}.", values.join(", "));
        }
        let (end, below) = match () {
            () if inner.get("items").is_some() => ("[]", resolved(root, &inner["items"])),
            () if inner["additionalProperties"].is_object() => (".*", resolved(root, &inner["additionalProperties"])),
            () if inner["patternProperties"].is_object() => {
                let pattern = inner["patternProperties"].as_object().unwrap().values().next().unwrap();
                (".*", resolved(root, pattern))
            }
            () => ("", inner),
        };
        let below_path = format!("{at}{end}");
        // A type that was told already is not told again.
        let earlier = below.get("properties").and_then(|_| known.get(&below.to_string())).cloned();
        if let Some(earlier) = &earlier {
            let _ = write!(words, " Fields as of `{earlier}`.");
        }
        rows.push((at.clone(), words));
        if earlier.is_none() {
            known.insert(below.to_string(), below_path.clone());
            fields(root, below, &below_path, rows, known);
        }
    }
}

fn said(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// What a reference points to, or the one alternative that is not null.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str() {
        return resolved(root, root.pointer(name.trim_start_matches('#')).unwrap());
    }
    match schema["anyOf"].as_array() {
        Some(list) => resolved(root, list.iter().find(|one| one["type"] != "null").unwrap()),
        None => schema,
    }
}

fn variants(schema: &Value) -> impl Iterator<Item = &str> {
    let list = schema["oneOf"].as_array().into_iter().flatten();
    let consts = list.filter_map(|one| one["const"].as_str());
    let listed = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    consts.chain(listed)
}
