//! `docs/faults.md`: every fault has a row, and every check that a row names is there.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::{read, root};

/// How many there are.
const FAULTS: usize = 42;

/// The cells of each row of the table that begins with a fault.
fn rows() -> Vec<Vec<String>> {
    let page = read("docs/faults.md");
    let rows = page.lines().filter(|line| line.starts_with("| F"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// All text of the `.rs` files of a folder and below.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn every_fault_has_a_row_that_says_what_is_expected_and_what_shows_it() {
    let rows = rows();
    let numbers: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let all: Vec<String> = (1..=FAULTS).map(|number| format!("F{number}")).collect();
    assert_eq!(numbers, all);
    for row in &rows {
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        assert!(row[3].contains('`'), "{}: no check is named", row[0]);
    }
}

/// `name` is a test of this repository, `scenario: name` one of the lab, `chaos: name` one of `cargo lab chaos`.
#[test]
fn every_check_that_a_fault_names_is_there() {
    let tests = sources(&root().join("tests")) + &sources(&root().join("src"));
    let lab = sources(&root().join("e2e/src"));
    // Its names are held against its source as soon as there is one.
    let chaos = ["e2e/src/chaos.rs", "e2e/src/chaos"].iter().any(|path| root().join(path).exists());
    let mut missing = BTreeSet::new();
    for row in rows() {
        for name in row[3].split('`').skip(1).step_by(2) {
            let is_there = match name.split_once(": ") {
                Some(("scenario", name)) => lab.contains(&format!("name: \"{name}\"")),
                Some(("chaos", name)) => !chaos || lab.contains(&format!("\"{name}\"")),
                _ => tests.contains(&format!("fn {name}(")),
            };
            if !is_there {
                missing.insert(format!("{}: {name}", row[0]));
            }
        }
    }
    assert!(missing.is_empty(), "named, and not there: {missing:?}");
}
