//! What the shipped binary is made of, and its book. In: a checkout. Out: whether its dependencies are ones that
//! `deny.toml` allows, a list of them as `CycloneDX` has it, and `docs/` as pages; by tools of cargo's registry,
//! built into the cache.

mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cache::{Cache, Key};
use crate::checkout::Checkout;
use crate::report::Report;
use crate::run::{cargo, check};

/// A program of cargo's registry, built with the lock file that it was released with.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// What of it is built; none: what it builds by default.
    pub(crate) features: &'static [&'static str],
}

const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", features: &[] };
const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9", features: &[] };
/// Without its server and its watching of files: half as much to build.
const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4", features: &["search"] };

/// What is shipped.
const PACKAGE: &str = "resilience-operator";

/// Manifests, and the files that cargo looks for beside them.
const TREE: &[&str] = &[
    "src/lib.rs",
    "src/main.rs",
    "tests/main.rs",
    "tests/judged/main.rs",
    "e2e/src/lib.rs",
    "e2e/src/main.rs",
    "e2e/bench/src/main.rs",
];

/// Where a tool lies, built if it is not there yet.
///
/// # Errors
/// What cargo says.
pub(crate) fn tool(checkout: &Checkout, Tool { name, version, features }: Tool, report: &Report) -> Result<PathBuf> {
    let key = features.iter().fold(Key::new(name).with(version), Key::with);
    let cache = Cache::open()?;
    let place = cache.path("tools", name, &key);
    let build = || {
        cache.get("tools", name, &key, |folder| {
            let mut install = cargo(checkout.root());
            install.args(["install", "--locked", "--quiet", "--no-track", "--version", &format!("={version}")]);
            if !features.is_empty() {
                install.args(["--no-default-features", "--features", &features.join(",")]);
            }
            check(install.arg("--root").arg(folder).arg(name)).with_context(|| format!("{name} does not build"))?;
            Ok(())
        })
    };
    let folder = if place.is_dir() { place } else { report.step(&format!("build {name} {version}"), build)? };
    Ok(folder.join("bin").join(name))
}

/// Licences, banned crates and sources, by `deny.toml`. Advisories are not asked for: their database is a git
/// repository and no registry; `cargo deny check advisories` asks it where there is a way to it.
///
/// # Errors
/// What is not allowed.
pub fn deny(checkout: &Checkout, report: &Report) -> Result<()> {
    let program = tool(checkout, DENY, report)?;
    let mut command = Command::new(program);
    command.current_dir(checkout.root());
    command.args(["--workspace", "--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
    check(&mut command).context("deny.toml does not allow what Cargo.lock has")?;
    Ok(())
}

/// What cargo builds for when it is told of nothing else.
#[must_use]
pub fn here() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Writes the list of what the binary for a target is made of, as `CycloneDX` 1.5 in JSON, and gives its place. It
/// names every package that cargo builds into the binary, and none that is not in Cargo.lock. With a time, in seconds
/// since 1970, it is the same whenever it is made.
///
/// # Errors
/// When it cannot be made, or is not so.
pub fn sbom(checkout: &Checkout, target: &str, time: Option<u64>, report: &Report) -> Result<PathBuf> {
    let program = tool(checkout, CYCLONEDX, report)?;
    // Beside the sources it would leave files, one for each member.
    let copy = tempfile::tempdir().context("there is no place for a copy of the manifests")?;
    for file in ["Cargo.toml", "Cargo.lock", "e2e/Cargo.toml", "e2e/bench/Cargo.toml"] {
        put(&copy.path().join(file), &fs::read(checkout.root().join(file))?)?;
    }
    TREE.iter().try_for_each(|file| put(&copy.path().join(file), b""))?;
    let mut command = Command::new(program);
    command.envs(time.map(|time| ("SOURCE_DATE_EPOCH", time.to_string())));
    command.current_dir(copy.path()).args(["cyclonedx", "--format", "json", "--spec-version", "1.5"]);
    command.args(["--describe", "binaries", "--target", target]);
    check(&mut command)?;
    let written = copy.path().join(format!("{PACKAGE}_bin.cdx.json"));
    let text = fs::read_to_string(&written).context("cargo-cyclonedx wrote no list of the binary")?;
    // Where it was made is nobody's business.
    let text = text.replace(&format!("file://{}", copy.path().display()), "file://");
    let list = serde_json::from_str(&text).context("the list is no JSON")?;
    names_what_is_built(&list, &built(checkout, target)?, &locked(checkout)?)?;
    let place = checkout.root().join("target/sbom").join(format!("{PACKAGE}.cdx.json"));
    put(&place, text.as_bytes())?;
    Ok(place)
}

/// Makes pages of `docs/`, as `book.toml` says, in a folder of their own, and gives it. Each link of them leads
/// somewhere, and each page is there; that the same links do so as the files stand is `tests/docs.rs`.
///
/// # Errors
/// When it cannot be made, or a link leads nowhere.
pub fn book(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    let program = tool(checkout, MDBOOK, report)?;
    let place = checkout.root().join("target/book");
    let mut command = Command::new(program);
    check(command.args(["build", "--dest-dir"]).arg(&place).arg(checkout.root())).context("the book is not made")?;
    let broken = pages::broken_links(&place)?;
    ensure!(broken.is_empty(), "the book has links that lead nowhere:\n{}", broken.join("\n"));
    Ok(place)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

/// A package: name and version.
type Package = (String, String);

/// What cargo builds into the binary.
fn built(checkout: &Checkout, target: &str) -> Result<BTreeSet<Package>> {
    let mut tree = cargo(checkout.root());
    // What a macro is made of runs on the machine that builds, and may be for another target.
    tree.args(["tree", "--locked", "--package", PACKAGE, "--edges", "normal,no-proc-macro", "--target", target]);
    let text = check(tree.args(["--prefix", "none", "--format", "{p}"]))?;
    let packages = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    });
    Ok(packages.filter(|(name, _)| name != PACKAGE).collect())
}

/// What Cargo.lock has.
fn locked(checkout: &Checkout) -> Result<BTreeSet<Package>> {
    let text = fs::read_to_string(checkout.root().join("Cargo.lock")).context("Cargo.lock cannot be read")?;
    let packages = text.split("[[package]]").skip(1).filter_map(|package| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        Some((value("name")?, value("version")?))
    });
    Ok(packages.collect())
}

fn names_what_is_built(list: &Value, built: &BTreeSet<Package>, locked: &BTreeSet<Package>) -> Result<()> {
    ensure!(
        list["bomFormat"] == "CycloneDX" && list["metadata"]["component"]["name"] == PACKAGE,
        "it is no list of {PACKAGE}"
    );
    let components = list["components"].as_array().into_iter().flatten();
    let named =
        components.filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["version"].as_str()?.to_owned())));
    let named: BTreeSet<Package> = named.collect();
    let missing: Vec<_> = built.difference(&named).collect();
    ensure!(!built.is_empty() && missing.is_empty(), "built in and not named: {missing:?}");
    let unknown: Vec<_> = named.difference(locked).collect();
    ensure!(unknown.is_empty(), "named and not in Cargo.lock: {unknown:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packages(of: &[(&str, &str)]) -> BTreeSet<Package> {
        of.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    #[test]
    fn a_list_that_leaves_a_package_out_or_names_another_is_refused() {
        let list = |components: &[(&str, &str)]| {
            let components: Vec<_> =
                components.iter().map(|(name, version)| json!({"name": name, "version": version})).collect();
            json!({"bomFormat": "CycloneDX", "metadata": {"component": {"name": PACKAGE}}, "components": components})
        };
        let (built, locked) = (packages(&[("a", "1")]), packages(&[("a", "1"), ("b", "2")]));
        names_what_is_built(&list(&[("a", "1"), ("b", "2")]), &built, &locked).unwrap();
        for (wrong, words) in [
            (list(&[("b", "2")]), "not named"),
            (list(&[("a", "2")]), "not named"),
            (list(&[("a", "1"), ("c", "3")]), "not in Cargo.lock"),
            (json!({}), "no list"),
        ] {
            let error = names_what_is_built(&wrong, &built, &locked).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn this_checkouts_lock_file_is_read() {
        let locked = locked(&Checkout::find().unwrap()).unwrap();
        assert!(locked.len() > 200 && locked.iter().any(|(name, version)| name == "kube" && version == "5.0.0"));
    }
}
