//! Rules, dashboard, documentation and metrics speak of each other by name, and every name is there. What they
//! make of numbers is for promtool and a Prometheus to judge, in the lab.

use std::collections::BTreeSet;

use resilience_operator::{cli::yaml, runtime::metrics::Metrics, runtime::metrics::limits};
use serde_json::Value;

use crate::support::{files, read};

fn rules() -> Vec<Value> {
    let document = yaml::documents(&read("deploy/monitoring/rules.yaml")).remove(0).unwrap();
    let groups = document["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn named<'a>(rules: &'a [Value], field: &str) -> BTreeSet<&'a str> {
    rules.iter().filter_map(|rule| rule[field].as_str()).collect()
}

/// Every expression of the dashboard, those of its variables and annotations among them.
fn asked() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if ["expr", "query", "definition"].contains(&name.as_str()) => {
                            found.push(text.clone());
                        }
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read("deploy/monitoring/dashboard.json")).unwrap(), &mut found);
    found
}

/// Words of expressions that begin so.
fn words(expressions: &[String], start: &str) -> BTreeSet<String> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    let words = expressions.iter().flat_map(|text| text.split(move |character| !is_word(character)));
    words.filter(|word| word.starts_with(start)).map(str::to_owned).collect()
}

fn expressions(rules: &[Value]) -> Vec<String> {
    rules.iter().filter_map(|rule| rule["expr"].as_str()).map(str::to_owned).collect()
}

#[test]
fn whatever_is_asked_for_is_recorded_and_whatever_is_recorded_is_asked_for() {
    let rules = rules();
    let recorded: BTreeSet<String> = named(&rules, "record").into_iter().map(str::to_owned).collect();
    let asked = words(&[asked(), expressions(&rules)].concat(), "resilience:");
    assert_eq!(asked, recorded);
}

#[test]
fn every_metric_of_the_operator_that_is_asked_for_is_one() {
    let metrics = Metrics::default();
    let served: BTreeSet<&str> = metrics.described().iter().map(|one| one.name.as_str()).collect();
    let asked = words(&[asked(), expressions(&rules())].concat(), "resilience_");
    assert!(asked.len() > 8, "only {asked:?}");
    for name in asked {
        let base = name.strip_suffix("_bucket").unwrap_or(&name);
        assert!(served.contains(base) || base == limits::NAME, "{name} is no metric");
    }
}

#[test]
fn every_alert_is_explained_and_has_a_test_in_which_it_fires() {
    let rules = rules();
    let alerts = named(&rules, "alert");
    let page = read("docs/monitoring.md");
    let tests: String = files("tests/monitoring", ".yaml").iter().map(read).collect();
    for alert in &alerts {
        assert!(page.contains(&format!("\n| `{alert}` | ")), "docs/monitoring.md does not explain {alert}");
        let fires = format!("alertname: {alert}\n    exp_alerts:\n    - exp_labels:");
        assert!(tests.contains(&fires), "no test in tests/monitoring has {alert} fire");
    }
    for row in page.lines().filter_map(|line| line.strip_prefix("| `Resilience")) {
        let name = format!("Resilience{}", row.split('`').next().unwrap());
        assert!(alerts.contains(name.as_str()), "docs/monitoring.md explains {name}, which is no alert");
    }
}

#[test]
fn whatever_a_proxy_is_asked_for_the_documented_matcher_lets_through() {
    let page = read("docs/monitoring.md");
    let matcher = page.lines().map(str::trim).skip_while(|line| *line != "inclusionRegexps:").nth(1).unwrap();
    let (_, after) = matcher.split_once("[.](").unwrap().1.split_once("[.](").unwrap();
    let told: BTreeSet<String> = alternatives(after.strip_suffix(')').unwrap()).into_iter().collect();
    let asked = words(&[asked(), expressions(&rules())].concat(), "envoy_cluster_");
    let asked: BTreeSet<String> = asked.iter().map(|name| name.replacen("envoy_cluster_", "", 1)).collect();
    assert_eq!(told, asked, "what is exported is what is used");
}

/// What an expression of words, `|`, groups and `[.]` matches, with `_` for the dot, as Prometheus has it.
fn alternatives(expression: &str) -> Vec<String> {
    let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
    for (at, character) in expression.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&expression[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&expression[begin..]);
    let each = parts.into_iter().flat_map(|part| match part.split_once('(') {
        None => vec![part.replace("[.]", "_")],
        Some((before, group)) => {
            let (inside, behind) = group.split_once(')').unwrap();
            let (before, behind) = (before.replace("[.]", "_"), behind.replace("[.]", "_"));
            alternatives(inside).iter().map(|one| format!("{before}{one}{behind}")).collect()
        }
    });
    each.collect()
}
