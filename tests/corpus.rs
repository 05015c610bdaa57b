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

use std::{fs, path::Path};

use resilience_operator::{
    cli::{input, world::World},
    validate::Settings,
};

use crate::support::{files, name};

/// Every fault that `validate` tells of a file, as `path: message`. In the process: a program for each file
/// would take a minute. That faults end the program with 1 stands in its transcripts.
fn faults(path: &Path) -> Vec<String> {
    let world = World::new(input::read(&[path.to_owned()], &mut std::io::empty()), "default", &Settings::default());
    assert_eq!(world.unreadable, Vec::<String>::new(), "{}", name(path));
    assert_eq!(world.passed_over, Vec::<String>::new(), "{}", name(path));
    assert!(!world.policies.is_empty(), "{}: no Resilience", name(path));
    let verdicts = world.policies.iter().map(|policy| world.decide(policy, None));
    verdicts.filter_map(Result::err).flatten().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
}

fn head(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    lines.filter_map(|line| line.strip_prefix(&format!("# {key}: "))).map(str::to_owned).collect()
}

#[test]
fn every_refused_file_is_refused_for_its_expected_faults_and_no_others() {
    let files = files("tests/reject", "");
    assert!(files.len() >= 200, "only {} files", files.len());
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
        let faults = faults(&path);
        let all_found = expected.iter().all(|want| faults.iter().any(|fault| fault.starts_with(want.trim_end())));
        if faults.len() != expected.len() || !all_found {
            wrong.push(format!("{}\n  expected {expected:#?}\n  found {faults:#?}", name(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_accepted_file_is_accepted() {
    let files = files("tests/accept", "");
    assert!(files.len() >= 45, "only {} files", files.len());
    for path in files {
        assert_eq!(faults(&path), Vec::<String>::new(), "{}", name(&path));
    }
}
