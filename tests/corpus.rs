//! `tests/reject` and `tests/accept`: offline `validate` and the API server must agree on each file.
//!
//! The head of a refused file says what is expected:
//!
//! ```yaml
//! # layer: schema | cel | semantic
//! # expect: PATH: PART OF THE MESSAGE        (one line for each fault)
//! ```
//!
//! `schema` and `cel` must be refused by the API server as well, `semantic` must be accepted there: the
//! operator refuses it by its status. Every file of `accept` must be accepted by both. The API server
//! is asked by `kubectl create --dry-run=server`, which sends a file as it is: a client-side apply
//! drops fields that are null, also unknown ones, and a server-side apply refuses known ones.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{PROGRAM, files, name};

/// The verdict of `validate`: exit code, and every fault as `path: message`.
fn verdict(path: &Path) -> (Option<i32>, Vec<String>) {
    let output = Command::new(PROGRAM).args(["validate", "-o", "json", "-f"]).arg(path).output().expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{}: {error}: {}", name(path), String::from_utf8_lossy(&output.stderr)));
    let resiliences = report["resiliences"].as_array().expect("a list").iter();
    let faults = resiliences.flat_map(|one| one["faults"].as_array().expect("a list").clone()).map(|fault| {
        let text = |key: &str| fault[key].as_str().expect("a text").to_owned();
        format!("{}: {}", text("path"), text("message"))
    });
    (output.status.code(), faults.collect())
}

fn head(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    lines.filter_map(|line| line.strip_prefix(&format!("# {key}: "))).map(str::to_owned).collect()
}

#[test]
fn every_refused_file_is_refused_for_its_expected_faults_and_no_others() {
    let files = files("tests/reject", "");
    assert!(files.len() >= 40, "only {} files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("it can be read");
        let (layers, expected) = (head(&text, "layer"), head(&text, "expect"));
        assert!(
            matches!(layers.iter().map(String::as_str).collect::<Vec<_>>()[..], ["schema" | "cel" | "semantic"]),
            "{}: one line «# layer: schema», cel or semantic",
            name(&path)
        );
        assert!(!expected.is_empty(), "{}: at least one line «# expect: path: message»", name(&path));
        let (code, faults) = verdict(&path);
        let all_found = expected.iter().all(|want| faults.iter().any(|fault| fault.starts_with(want.trim_end())));
        if code != Some(1) || faults.len() != expected.len() || !all_found {
            wrong.push(format!("{} (exit code {code:?})\n  expected {expected:#?}\n  found {faults:#?}", name(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_accepted_file_is_accepted() {
    let files = files("tests/accept", "");
    assert!(files.len() >= 15, "only {} files", files.len());
    for path in files {
        assert_eq!(verdict(&path), (Some(0), Vec::new()), "{}", name(&path));
    }
}
