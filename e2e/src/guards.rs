//! `cargo lab guards`: each guard of the operator is taken out of a copy of the tree, and the tests that are said to
//! stand for it must fall. In: this checkout. Out: a table of guards and who fell; an error if one did not.
//!
//! A check that cannot fail proves nothing, and nobody would notice. It takes a build for each guard, and so is not part
//! of `cargo lab test`; that a guard stands where the table says, and its tests exist, is.

mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::checkout::Checkout;
use crate::report::Report;
use crate::run::{cargo, check, finish};

pub use table::GUARDS;

/// A guard: a piece of a file, what stands there when it is taken out, and who must notice.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// What it is there for.
    pub name: &'static str,
    /// The file, from the root of the checkout.
    pub file: &'static str,
    /// The piece, which is there once.
    pub with: &'static str,
    /// What is there without it.
    pub without: &'static str,
    /// The tests that fall then, by their last names.
    pub tests: &'static [&'static str],
}

/// What of the tree a build needs.
const COPIED: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "clippy.toml",
    "rust-toolchain.toml",
    "README.md",
    "CHANGELOG.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "book.toml",
    "crds",
    "deploy",
    "docs",
    "e2e",
    "istio-samples",
    "proptest-regressions",
    "src",
    "tests",
];

/// A test that hangs without its guard has noticed as well.
const LIMIT: &str = "300";

/// Takes out each guard whose name contains `only`, one after the other.
///
/// # Errors
/// When a test does not pass with its guard, or does not fall without it.
pub fn run(checkout: &Checkout, only: &str) -> Result<()> {
    let report = Report::new();
    let place = checkout.root().join("target/guards");
    let tree = place.join("tree");
    copy(checkout.root(), &tree)?;
    let chosen: Vec<&Guard> = GUARDS.iter().filter(|guard| guard.name.contains(only)).collect();
    ensure!(!chosen.is_empty(), "no guard's name contains «{only}»");
    let all: Vec<&str> = chosen.iter().flat_map(|guard| guard.tests.iter().copied()).collect();
    report.step("with every guard the tests pass", || {
        let ran = test(&tree, &place, &all)?;
        ensure!(ran.passed, "they do not: {}", crate::run::tail(&ran.said, 30));
        Ok(())
    })?;
    let mut standing = Vec::new();
    for guard in &chosen {
        let fell = report.step(guard.name, || without(&tree, &place, guard));
        if let Err(error) = fell {
            standing.push(format!("{}: {error:#}", guard.name));
        }
    }
    ensure!(standing.is_empty(), "{} of {} guards: \n{}", standing.len(), chosen.len(), standing.join("\n"));
    println!("{} guards taken out, one after the other: each time its tests fell", chosen.len());
    Ok(())
}

fn without(tree: &Path, place: &Path, guard: &Guard) -> Result<()> {
    let file = tree.join(guard.file);
    let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", guard.file))?;
    fs::write(&file, taken_out(&text, guard)?)?;
    let ran = test(tree, place, guard.tests);
    fs::write(&file, &text)?;
    let ran = ran?;
    ensure!(ran.built, "it does not build without: {}", crate::run::tail(&ran.said, 30));
    ensure!(!ran.passed, "nobody noticed");
    let stood: Vec<&str> = guard.tests.iter().copied().filter(|name| !ran.hung && !ran.fell(name)).collect();
    ensure!(stood.is_empty(), "did not notice: {}", stood.join(", "));
    Ok(())
}

fn taken_out(text: &str, guard: &Guard) -> Result<String> {
    let times = text.matches(guard.with).count();
    ensure!(times == 1, "{}: «{}» is there {times} times", guard.file, guard.with);
    Ok(text.replace(guard.with, guard.without))
}

struct Ran {
    built: bool,
    passed: bool,
    hung: bool,
    said: String,
}

impl Ran {
    fn fell(&self, name: &str) -> bool {
        self.said.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words[..], ["test", path, "...", "FAILED"] if path.rsplit("::").next() == Some(name))
        })
    }
}

fn test(tree: &Path, place: &Path, names: &[&str]) -> Result<Ran> {
    let target = place.join("target");
    let build = |what: &[&str]| {
        let mut cargo = cargo(tree);
        cargo.args(["test", "--locked", "--package=resilience-operator", "--lib", "--test=it", "--no-fail-fast"]);
        // Nobody debugs it, and it is built many times.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "1").env("CARGO_TARGET_DIR", &target);
        cargo.args(what);
        cargo
    };
    let compiled = finish(&mut build(&["--no-run"]))?;
    if !compiled.status.success() {
        return Ok(Ran { built: false, passed: false, hung: false, said: compiled.all() });
    }
    let inner = build(&["--"]);
    let mut limited = Command::new("timeout");
    limited.arg(LIMIT).arg(inner.get_program()).args(inner.get_args()).args(names).current_dir(tree);
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    let ran = finish(&mut limited)?;
    Ok(Ran { built: true, passed: ran.status.success(), hung: ran.status.code() == Some(124), said: ran.all() })
}

fn copy(from: &Path, tree: &Path) -> Result<()> {
    fs::create_dir_all(tree)?;
    let there: Vec<PathBuf> = COPIED.iter().map(|name| from.join(name)).filter(|path| path.exists()).collect();
    // Only what is newer, with its times: what is built of the rest stays.
    for path in there {
        check(
            Command::new("cp")
                .args(["--archive", "--update", "--no-target-directory"])
                .arg(&path)
                .arg(tree.join(path.file_name().context("a path of the tree has no name")?)),
        )?;
    }
    // A run that was broken off left one of these without its guard, and newer than it is here.
    for file in GUARDS.iter().map(|guard| guard.file).collect::<BTreeSet<_>>() {
        fs::write(tree.join(file), fs::read(from.join(file))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Names of functions below a folder.
    fn functions(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                functions(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.lines().filter_map(|line| line.trim_start().split_once("fn ")?.1.split_once('('));
                found.extend(names.map(|(name, _)| name.to_owned()));
            }
        }
    }

    #[test]
    fn each_guard_stands_where_it_is_said_to_and_its_tests_exist() {
        let mut there = BTreeSet::new();
        functions(&root().join("src"), &mut there);
        functions(&root().join("tests"), &mut there);
        let mut names = BTreeSet::new();
        for guard in GUARDS {
            let text = fs::read_to_string(root().join(guard.file)).unwrap();
            taken_out(&text, guard).unwrap();
            assert!(names.insert(guard.name), "{} is there twice", guard.name);
            assert!(!guard.tests.is_empty(), "{} has no test", guard.name);
            let missing: Vec<_> = guard.tests.iter().filter(|name| !there.contains(**name)).collect();
            assert!(missing.is_empty(), "{}: no test is called {missing:?}", guard.name);
        }
    }

    #[test]
    fn a_test_has_fallen_when_the_harness_says_so_of_that_very_name() {
        let said = "test a::b ... ok\ntest a::bc ... FAILED\n".to_owned();
        let ran = Ran { built: true, passed: false, hung: false, said };
        assert!(ran.fell("bc") && !ran.fell("b") && !ran.fell("c"));
    }
}
