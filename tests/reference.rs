//! `docs/reference.md` is written from the code: fields from the schema, with their words; what each stands for
//! in Istio by rendering two policies that differ in it alone; conditions and reasons from where they are
//! declared; flags from the command line.
//!
//! `UPDATE_GOLDEN=1 cargo test reference` writes the page anew.

mod counterparts;

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use resilience_operator::{
    api::{
        Coexistence, LocalityFailover, Method, Mode, RetryOn, ServerMode,
        conditions::{ACCEPTED, IN_EFFECT, PROGRAMMED, READY, Reason, STALLED, VERIFIED},
        schema::crd_json,
        warnings::Code,
    },
    cli,
    runtime::settings::{Flags, Settings},
};
use schemars::JsonSchema;
use serde_json::Value;

use crate::support::{difference, read, root};

const HEAD: &str = "# Reference

Written from the code: `UPDATE_GOLDEN=1 cargo test reference`. The same words are in `kubectl explain resilience.spec`.
What is printed for programs is in [Output for programs](output.md), what is counted in
[Metrics of the operator](metrics.md), what a warning means in [Warnings](warnings/README.md).

## Fields

A field that is left out is untouched: Istio's or Envoy's default holds, and
[`explain`](operations.md#what-is-in-force-and-who-says-so) shows it. Where the operator fills one in, its words say so, and
`status.effective` shows the value with its origin. A duration is written as `1h30m`, `10s` or `250ms` (GEP-2257) and is
at least 1ms. «Istio» names the fields of the generated objects that change when this field alone changes;
«Envoy» what a client's proxy has for it, by name in its configuration, in the cluster `outbound|PORT||HOST` or in the
route.
";

const STATUS: &str = "
## Status

Written by the operator, but for `verification`.

| field | |
|---|---|
";

const CONDITIONS: &str = "
## Conditions

| type | |
|---|---|
";

const REASONS: &str = "
## Reasons

A reason keeps its meaning, whatever condition it stands at.

| reason | |
|---|---|
";

const FLAGS: &str = "
## Settings of the operator

Of `resilience-operator run`. A flag wins over the environment, the environment over the file of `--config` (YAML), the
file over the default. A key of the file that does not exist is refused.

| flag | environment | key of the file | |
|---|---|---|---|
";

const COMMANDS: &str = "
## Commands

`resilience-operator COMMAND`, or `kubectl resilience COMMAND` where the binary is installed as `kubectl-resilience`. Each
tells its flags by `--help`.

| command | |
|---|---|
";

/// The blocks of a policy, each with a table of its own.
const BLOCKS: [&str; 5] = ["limits.perClient", "limits.perServer", "ejection", "timeouts", "retries"];

#[test]
fn the_reference_is_what_the_code_says() {
    let crd = crd_json();
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties").expect("a schema");
    let mut page = HEAD.to_owned();
    page.push_str("\n### spec\n\n| field | type | |\n|---|---|---|\n");
    for (path, field) in leaves(&schema["spec"], "") {
        if !BLOCKS.iter().any(|block| path.starts_with(block)) && !path.starts_with("ports[].") {
            let _ = writeln!(page, "| `{path}` | {} | {} |", kind(&field), cell(said(&field)));
        }
    }
    let _ = writeln!(page, "| `ports[].port` | {} | {} |", kind(port(schema)), cell(said(port(schema))));
    page.push_str("| `ports[].limits`, `.ejection`, `.timeouts`, `.retries` | blocks | As below, but for `limits.perServer` and `retries.budget`, which are for all ports. |\n");
    let counterparts = counterparts::all();
    for block in BLOCKS {
        page.push_str(&table_of_block(block, &schema["spec"], &counterparts));
    }
    page.push_str("\n### Words\n\n| field | word | |\n|---|---|---|\n");
    words::<Mode>("mode", &mut page);
    words::<Coexistence>("coexistence", &mut page);
    words::<ServerMode>("limits.perServer.mode", &mut page);
    words::<LocalityFailover>("ejection.localityFailover", &mut page);
    words::<RetryOn>("retries.retryOn[]", &mut page);
    words::<Method>("retries.methods[]", &mut page);
    page.push_str(STATUS);
    for (path, field) in leaves(&schema["status"], "") {
        // Kubernetes' own, the same in every kind.
        if !path.starts_with("conditions[].") {
            let _ = writeln!(page, "| `{path}` | {} |", cell(said(&field)));
        }
    }
    conditions_and_reasons(&mut page);
    let _ = write!(page, "\n## Warnings\n\n{} codes, [a page each](warnings/README.md).\n", Code::ALL.len());
    settings(&mut page);
    commands(&mut page);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(root().join("docs/reference.md"), &page).unwrap();
    }
    let have = read("docs/reference.md");
    let hint = "docs/reference.md is stale: UPDATE_GOLDEN=1 cargo test reference";
    assert!(have == page, "{hint}\n{}", difference(&have, &page));
}

fn port(schema: &Value) -> &Value {
    schema.pointer("/spec/properties/ports/items/properties/port").expect("an entry has a port")
}

fn table_of_block(block: &str, spec: &Value, counterparts: &Counterparts) -> String {
    let mut text = format!("\n### {block}\n\n");
    let pointer: String = block.split('.').fold(String::new(), |at, part| at + "/properties/" + part);
    let whole = spec.pointer(&pointer).expect("the block is in the schema");
    let _ = writeln!(text, "{}\n\n| field | type | | Istio | Envoy |\n|---|---|---|---|---|", said(whole));
    for (path, field) in leaves(whole, block) {
        let (words, envoy) = said(&field).split_once(" Envoy: ").unwrap_or((said(&field), ""));
        let istio = counterparts.get(&path).map(Vec::as_slice).unwrap_or_default();
        let is_told = path == "limits.perServer.mode" || (!istio.is_empty() && !envoy.is_empty());
        assert!(
            is_told,
            "{path}: no counterpart in Istio ({istio:?}) or in Envoy ({envoy:?}); its comment has to end in «Envoy: `field`.»"
        );
        let name = path.strip_prefix(block).unwrap_or(&path).trim_start_matches('.');
        let istio: Vec<String> = istio.iter().map(|place| format!("`{place}`")).collect();
        let (words, envoy) = (cell(words), cell(envoy.trim_end_matches('.')));
        let _ = writeln!(text, "| `{name}` | {} | {words} | {} | {envoy} |", kind(&field), istio.join(", "));
    }
    text
}

/// Every field below a schema that has no fields of its own, by path.
fn leaves(schema: &Value, path: &str) -> Vec<(String, Value)> {
    let (end, below) = match schema.get("items") {
        Some(items) if items.get("properties").is_some() => ("[]", items),
        _ => ("", schema),
    };
    let Some(properties) = below["properties"].as_object() else { return vec![(path.to_owned(), schema.clone())] };
    let mut found = Vec::new();
    if !end.is_empty() {
        found.push((path.to_owned(), schema.clone()));
    }
    for (name, inner) in properties {
        let at = if path.is_empty() { name.clone() } else { format!("{path}{end}.{name}") };
        found.extend(leaves(inner, &at));
    }
    found
}

fn said(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// A text as the cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

/// Type, range and default.
fn kind(schema: &Value) -> String {
    let listed = |schema: &Value| {
        let values = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        values
            .map(|value| if value.is_empty() { "`\"\"`".to_owned() } else { format!("`{value}`") })
            .collect::<Vec<_>>()
    };
    let of_one = |schema: &Value| match schema["type"].as_str().unwrap_or_default() {
        "string" if schema.get("enum").is_some() => listed(schema).join(", "),
        "string" if schema["x-kubernetes-validations"].to_string().contains("duration(") => "duration".to_owned(),
        "integer" => match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
            (Some(least), Some(most)) if most == i64::from(i32::MAX) => format!("number, from {least}"),
            (Some(least), Some(most)) => format!("number, {least} to {most}"),
            _ => "number".to_owned(),
        },
        "string" => "text".to_owned(),
        other => other.to_owned(),
    };
    let mut text = match schema.get("items") {
        Some(items) => {
            let most = schema["maxItems"].as_u64().unwrap_or_default();
            let long = if most == 1 { "one".to_owned() } else { format!("1 to {most}") };
            if items.get("properties").is_some() {
                format!("list of {long}")
            } else {
                format!("list of {long}: {}", of_one(items))
            }
        }
        None => of_one(schema),
    };
    if let Some(default) = schema["default"].as_str() {
        let _ =
            write!(text, "; default {}", if default.is_empty() { "empty".to_owned() } else { format!("`{default}`") });
    }
    text
}

fn words<T: JsonSchema>(field: &str, page: &mut String) {
    let schema = schemars::schema_for!(T);
    let mut found = 0;
    for variant in schema.as_value()["oneOf"].as_array().into_iter().flatten() {
        let word = variant["const"].as_str().expect("a word");
        let sent = counterparts::sent_for(field, word).map(|sent| format!(" Istio: `{sent}`.")).unwrap_or_default();
        let _ = writeln!(page, "| `{field}` | `{word}` | {}{sent} |", cell(said(variant)));
        found += 1;
    }
    assert!(found > 1, "{field}: its words are not documented one by one");
}

fn conditions_and_reasons(page: &mut String) {
    let source = read("src/api/conditions.rs");
    let declared = documented(&source);
    page.push_str(CONDITIONS);
    for name in [ACCEPTED, PROGRAMMED, IN_EFFECT, READY, STALLED, VERIFIED] {
        let is_it = |line: &str| line.starts_with("pub const ") && line.ends_with(&format!("&str = \"{name}\";"));
        let (words, _) = declared.iter().find(|(_, line)| is_it(line)).expect("it is declared");
        let _ = writeln!(page, "| `{name}` | {} |", cell(words));
    }
    page.push_str(REASONS);
    for reason in Reason::ALL {
        let is_it = |line: &str| line == format!("{reason:?},");
        let (words, _) = declared.iter().find(|(_, line)| is_it(line)).expect("it is declared");
        let _ = writeln!(page, "| `{}` | {} |", reason.as_str(), cell(words));
    }
}

/// Items of a source file with their documentation, in order.
fn documented(source: &str) -> Vec<(String, String)> {
    let (mut items, mut words) = (Vec::new(), Vec::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            words.push(text);
        } else if !line.starts_with("#[") && !words.is_empty() {
            items.push((words.join(" "), line.to_owned()));
            words.clear();
        }
    }
    items
}

fn settings(page: &mut String) {
    page.push_str(FLAGS);
    let mut program = cli::command();
    program.build();
    let run = program.find_subcommand("run").expect("it is a command");
    let mut keys = String::new();
    for flag in run.get_arguments() {
        let (Some(long), Some(env)) = (flag.get_long(), flag.get_env()) else { continue };
        let words = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let words = words.replace(" [default", "; default").replace("[default", "Default").replace("].", ".");
        let key = camel_case(long);
        let key = if long == "config" {
            String::new()
        } else {
            let _ = writeln!(keys, "{key}: null");
            format!("`{key}`")
        };
        let _ = writeln!(
            page,
            "| `--{long}` | `{}` | {key} | {} |",
            env.to_string_lossy(),
            cell(words.trim_end_matches(']'))
        );
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(keys.as_bytes()).unwrap();
    let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
    assert_eq!(Settings::load(flags).expect("each is a key of the file"), Settings::default());
}

/// `log-format` as `logFormat`.
fn camel_case(long: &str) -> String {
    let mut parts = long.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, rest) = part.split_at(1);
        name + &head.to_uppercase() + rest
    })
}

fn commands(page: &mut String) {
    page.push_str(COMMANDS);
    for command in cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let words = command.get_about().map(ToString::to_string).unwrap_or_default();
        let file = format!("{}.md", command.get_name());
        let more = if root().join("docs").join(&file).exists() { format!(" [More]({file})") } else { String::new() };
        let _ = writeln!(page, "| `{}` | {}.{more} |", command.get_name(), cell(words.trim_end_matches('.')));
    }
}

/// Fields of the spec, and what each stands for.
type Counterparts = BTreeMap<String, Vec<String>>;
