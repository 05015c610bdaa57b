//! The border of the pure modules: they know no client, no clock, nothing that runs by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{read, root};

/// The modules that are functions of what they are given.
const PURE: [&str; 15] = [
    "api",
    "decide",
    "diff",
    "import",
    "in_effect",
    "istio",
    "names",
    "observed",
    "report",
    "status",
    "top",
    "translate",
    "validate",
    "verification",
    "why",
];
const DENY: &str = "#![deny(clippy::disallowed_types, clippy::disallowed_methods)]";

/// The head file of a module, and all files below it.
fn module(name: &str) -> (PathBuf, Vec<PathBuf>) {
    let (file, folder) = (root().join(format!("src/{name}.rs")), root().join(format!("src/{name}")));
    let head = if file.exists() { file } else { folder.join("mod.rs") };
    let mut all = vec![head.clone()];
    rust_files(&folder, &mut all);
    (head, all)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_pure_module_turns_the_lints_on() {
    for name in PURE {
        let (head, _) = module(name);
        assert!(read(&head).lines().any(|line| line == DENY), "{}: add {DENY}", head.display());
    }
}

#[test]
fn no_pure_module_names_a_client_or_waits_for_anything() {
    for path in PURE.iter().flat_map(|name| module(name).1) {
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let names: String = code.split('"').step_by(2).collect();
            let mut words = names.split(|c: char| !c.is_alphanumeric() && c != '_');
            // A workload that calls is a client too.
            let ours = !code.contains("kube");
            let word = words.find(|word| {
                ["Client", "Api", "async", "await", "disallowed_types"].contains(word) && !(ours && *word == "Client")
            });
            assert!(word.is_none() || code == DENY, "{}:{}: {word:?}", path.display(), number + 1);
        }
    }
}

/// Clippy over a copy of the tree, with `line` added to `translate/`. Dependencies are shared with
/// this build, so it takes seconds.
fn clippy_with(line: &str) -> Output {
    let copy = tempfile::tempdir().expect("a folder");
    let copied = ["Cargo.toml", "Cargo.lock", "clippy.toml", "rust-toolchain.toml", "src", "e2e", "tests", "benches"];
    for name in copied.iter().filter(|name| root().join(name).exists()) {
        copy_all(&root().join(name), &copy.path().join(name));
    }
    let patched = copy.path().join("src/translate/mod.rs");
    fs::write(&patched, format!("{}\n{line}\n", read("src/translate/mod.rs"))).expect("it can be written");
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo tells a test about its package would make build scripts of dependencies run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|head| name.starts_with(head)) {
            cargo.env_remove(name);
        }
    }
    cargo
        .args(["clippy", "--quiet", "--offline", "--lib", "--package", "resilience-operator", "--target-dir"])
        .arg(target())
        .current_dir(copy.path())
        .output()
        .expect("cargo runs")
}

/// The folder that this test was built into: `target/debug/deps/it-…`, three up.
fn target() -> PathBuf {
    let own = std::env::current_exe().expect("this test is a file");
    own.ancestors().nth(3).expect("it lies in target").to_owned()
}

fn copy_all(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("it can be made");
        for entry in fs::read_dir(from).expect("it can be read") {
            let entry = entry.expect("it can be read");
            copy_all(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).expect("it can be copied");
    }
}

#[test]
fn a_translation_that_names_a_client_is_refused_by_the_lints() {
    let fine = clippy_with("/// Harmless.\npub fn harmless() {}");
    assert!(fine.status.success(), "the tree itself fails: {}", String::from_utf8_lossy(&fine.stderr));

    let broken = clippy_with("/// Crosses the border.\npub fn crosses(_: &kube::Client) {}");
    let said = String::from_utf8_lossy(&broken.stderr);
    assert!(!broken.status.success(), "translate/ may name a client");
    assert!(said.contains("disallowed type `kube::Client`") && said.contains("observe first"), "{said}");
}
