//! Every warning has its page, and every page its warning; what pages tell to type, show and link to is so.

mod blocks;
mod commands;
pub mod fences;
mod links;
mod operations;

use std::path::Path;

use resilience_operator::api::warnings::Code;

use crate::support::{files, name, read, root};

#[test]
fn every_warning_code_has_a_page_that_says_what_why_what_to_do_and_how_we_know() {
    for code in Code::ALL {
        let page = read(format!("docs/warnings/{code}.md"));
        assert!(page.starts_with(&format!("# {code}: ")), "{code}: the title starts with the code");
        for heading in ["## What happens", "## Why", "## What to do", "## Evidence"] {
            assert!(page.contains(heading), "{code}: no «{heading}»");
        }
    }
}

#[test]
fn every_page_has_a_code_and_the_index_lists_them_all() {
    let index = read("docs/warnings/README.md");
    for page in files("docs/warnings", ".md").iter().map(|path| name(path)).filter(|page| page != "README.md") {
        assert!(Code::ALL.iter().any(|code| page == format!("{code}.md")), "{page}: no such code");
        assert!(index.contains(&format!("]({page})")), "README.md does not list {page}");
    }
}

/// What stands between backticks in a line of a table.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let model = read("SECURITY.md");
    let scenarios = read("e2e/src/scenarios.rs");
    let mut named = 0;
    for line in model.lines().filter(|line| line.starts_with('|')) {
        let mut folder = String::new();
        for quote in quoted(line) {
            let (file, test) = quote.split_once(": ").unwrap_or((quote, ""));
            let is_path = ["tests/", "src/", "deploy/", "docs/"].iter().any(|start| file.starts_with(start));
            if is_path {
                assert!(root().join(file).exists(), "SECURITY.md names {file}");
                assert!(test.is_empty() || read(file).contains(&format!("fn {test}(")), "SECURITY.md names {quote}");
                folder = file.rsplit_once('/').map_or_else(String::new, |(folder, _)| folder.to_owned());
                named += 1;
            } else if Path::new(file).extension().is_some_and(|end| end == "yaml") {
                assert!(root().join(&folder).join(file).exists(), "SECURITY.md names {file}");
                named += 1;
            } else if file.matches('_').count() >= 3 {
                let is_scenario = scenarios.contains(&format!("name: \"{file}\""));
                let is_test = line.contains("tests/neighbours.rs")
                    && read("tests/neighbours.rs").contains(&format!("fn {file}("));
                assert!(is_scenario || is_test, "SECURITY.md names {file}");
                named += 1;
            }
        }
    }
    assert!(named > 25, "only {named} names were found: is the table still read?");
}
