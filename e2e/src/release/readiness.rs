//! Whether a commit can be released. In: what the checkout says of itself. Out: everything that is not so, at once.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{git, notes};
use crate::checkout::Checkout;

/// What a checkout says of itself.
#[derive(Debug, Clone)]
pub(super) struct State {
    version: String,
    /// The tag that is asked for, and whether it is on this commit.
    tag: Option<(String, bool)>,
    has_repository: Result<(), String>,
    chart: [String; 2],
    changelog: String,
    /// Files that differ from the commit.
    changed: Vec<String>,
}

impl State {
    /// Reads it.
    ///
    /// # Errors
    /// When a file cannot be read, or git does not answer.
    pub(super) fn of(checkout: &Checkout, tag: Option<&str>, repository: Option<&str>) -> Result<Self> {
        let read = |file: &str| {
            fs::read_to_string(checkout.root().join(file)).with_context(|| format!("{file} cannot be read"))
        };
        let chart: Value =
            serde_saphyr::from_str(&read("deploy/chart/Chart.yaml")?).context("Chart.yaml is no YAML")?;
        let of_chart = |key: &str| chart[key].as_str().unwrap_or("unset").to_owned();
        let tag = tag.map(|tag| {
            let commit =
                |of: &str| git(checkout, &["rev-parse", "--verify", "--quiet", &format!("{of}^{{commit}}")]).ok();
            (tag.to_owned(), commit(&format!("refs/tags/{tag}")).is_some_and(|at| Some(at) == commit("HEAD")))
        });
        let changed = git(checkout, &["status", "--porcelain"])?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tag,
            has_repository: repository
                .map_or_else(|| Err("no repository is named: --repository OWNER/NAME".to_owned()), named),
            chart: [of_chart("version"), of_chart("appVersion")],
            changelog: read("CHANGELOG.md")?,
            changed: changed.lines().map(|line| line.get(3..).unwrap_or(line).to_owned()).collect(),
        })
    }

    /// Everything that is not as a release needs it.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = self.faults_of_versions();
        let version = &self.version;
        if let Some((tag, here)) = &self.tag {
            if *tag != format!("v{version}") {
                faults.push(format!("the tag is {tag}, and Cargo.toml has version {version}: they differ"));
            }
            if !here {
                faults.push(format!("the tag {tag} is not on this commit: check that commit out"));
            }
        }
        if notes::of(&self.changelog, version).is_none() {
            faults.push(format!(
                "CHANGELOG.md has no «## {version}» with words under it: rename what stands under Unreleased"
            ));
        }
        if !self.changed.is_empty() {
            let shown: Vec<&str> = self.changed.iter().take(5).map(String::as_str).collect();
            let more = if self.changed.len() > shown.len() { ", …" } else { "" };
            faults.push(format!("not committed: {}{more}", shown.join(", ")));
        }
        faults.extend(self.has_repository.clone().err());
        faults
    }

    /// Those that must not be so on any commit.
    pub(super) fn faults_of_versions(&self) -> Vec<String> {
        let keys = ["version", "appVersion"];
        let differ = keys.into_iter().zip(&self.chart).filter(|(_, chart)| **chart != self.version);
        let say = |(key, chart): (&str, &String)| {
            format!("deploy/chart/Chart.yaml has {key} {chart}, and Cargo.toml has version {}", self.version)
        };
        differ.map(say).collect()
    }
}

/// Whether this is a name of a repository.
fn named(repository: &str) -> Result<(), String> {
    let is_name =
        |part: &str| !part.is_empty() && part.chars().all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one));
    match repository.split_once('/') {
        Some((owner, name)) if is_name(owner) && is_name(name) => Ok(()),
        _ => Err(format!("«{repository}» is no repository: say OWNER/NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> State {
        State {
            version: "1.2.3".to_owned(),
            tag: Some(("v1.2.3".to_owned(), true)),
            has_repository: Ok(()),
            chart: ["1.2.3".to_owned(), "1.2.3".to_owned()],
            changelog: "# Changelog\n\n## Unreleased\n\n## 1.2.3\n\n- Better.\n".to_owned(),
            changed: Vec::new(),
        }
    }

    #[test]
    fn a_commit_that_is_ready_has_no_fault() {
        assert_eq!(ready().faults(), Vec::<String>::new());
    }

    #[test]
    fn everything_that_is_not_ready_is_told_at_once() {
        let state = State {
            tag: Some(("v1.2.4".to_owned(), false)),
            has_repository: named("resilience"),
            chart: ["1.2.2".to_owned(), "1.2.1".to_owned()],
            changelog: "## Unreleased\n\n- Better.\n\n## 1.2.3\n\n## 1.2.2\n\n- Good.\n".to_owned(),
            changed: ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec(),
            ..ready()
        };
        let faults = state.faults().join("\n");
        for words in [
            "has version 1.2.2, and Cargo.toml",
            "has appVersion 1.2.1, and",
            "the tag is v1.2.4",
            "not on this commit",
            "no «## 1.2.3» with words",
            "not committed: a, b, c, d, e, …",
            "«resilience» is no repository",
        ] {
            assert!(faults.contains(words), "{words} is not in:\n{faults}");
        }
        assert_eq!(state.faults().len(), 7);
    }
}
