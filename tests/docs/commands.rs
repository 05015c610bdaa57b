//! Every command that a page tells to type is one that the program takes, and names files that there are.

use std::path::Path;

use resilience_operator::cli;

use super::fences::{Command, PLACES, commands, filled, pages};
use crate::support::{read, root};

/// What kubectl does, as far as pages tell people to.
const VERBS: [&str; 23] = [
    "annotate",
    "apply",
    "auth",
    "config",
    "create",
    "delete",
    "describe",
    "edit",
    "exec",
    "explain",
    "get",
    // A plug-in, as ours is.
    "krew",
    "label",
    "logs",
    "patch",
    "port-forward",
    "proxy",
    "replace",
    "rollout",
    "run",
    "scale",
    "version",
    "wait",
];

/// Programs that are not ours; the lab's kubectl takes what kubectl takes.
const OTHERS: [&str; 8] =
    ["kubectl", "cargo lab kubectl", "helm", "kustomize", "istioctl", "docker", "kind", "promtool"];

/// Every such command of every page, with where it stands.
fn told(programs: &[&str]) -> Vec<(String, Command)> {
    let pages = pages(root()).into_iter();
    pages
        .flat_map(|page| {
            let shown = page.strip_prefix(root()).expect("it is below").display().to_string();
            let found = commands(&read(&page), programs).into_iter();
            found.map(move |command| (format!("{shown}:{}", command.line), command)).collect::<Vec<_>>()
        })
        .collect()
}

/// Our own command within another one, as in `kubectl exec … -- /resilience-operator log-level debug`.
fn ours(words: &[String]) -> &[String] {
    let behind = words.iter().position(|word| word == "--").map_or(0, |place| place + 1);
    let inner = &words[behind..];
    if inner.first().is_some_and(|program| program.rsplit('/').next() == Some("resilience-operator")) {
        inner
    } else if words[0] == "kubectl" && words.get(1).is_some_and(|word| word == "resilience") {
        &words[1..]
    } else {
        &[]
    }
}

#[test]
fn every_command_of_ours_on_a_page_is_one_that_the_program_takes() {
    let mut faults = Vec::new();
    let mut count = 0;
    for (place, command) in
        told(&["resilience-operator", "target/debug/resilience-operator", "kubectl", "cargo lab exec"])
    {
        let words = ours(&command.words);
        // As a word for a command that is named in general: `resilience-operator COMMAND`.
        if words.get(1).is_none_or(|word| word == "COMMAND" || word.starts_with('-')) {
            continue;
        }
        count += 1;
        let words = words.iter().map(|word| filled(word));
        if let Err(error) = cli::command().try_get_matches_from(words)
            && error.exit_code() != 0
        {
            faults.push(format!("{place}: `{}`: {error}", command.words.join(" ")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 40, "only {count} commands were found");
}

#[test]
fn every_command_of_others_on_a_page_has_a_known_verb_and_names_files_that_are_there() {
    let mut faults = Vec::new();
    let mut count = 0;
    for (place, Command { mut words, .. }) in told(&OTHERS) {
        let shown = words.join(" ");
        if shown.starts_with("cargo lab kubectl") {
            words.drain(..2);
            words.retain(|word| word != "--");
            // As a word for what stands in the place of kubectl elsewhere.
            if words.len() == 1 {
                continue;
            }
        }
        if words[0] == "kubectl" {
            let verb = words.iter().skip(1).find(|word| VERBS.contains(&word.as_str()) || *word == "resilience");
            // A flag with a value may stand before it, as in `kubectl -n shop get`.
            let ahead = words.iter().skip(1).take_while(|word| Some(*word) != verb).count();
            if verb.is_none() || ahead > 2 {
                faults.push(format!("{place}: `{shown}`: no verb of kubectl's"));
            }
            if verb.is_some_and(|verb| verb == "resilience") {
                continue;
            }
        }
        count += 1;
        let files =
            words.windows(2).filter(|pair| ["-f", "-k", "--filename", "--kustomize"].contains(&pair[0].as_str()));
        let files = files.map(|pair| pair[1].as_str());
        // Also behind a key, as in `--from-file=KEY=deploy/argo-cd/health.lua`.
        let values = words.iter().skip(1).filter_map(|word| word.rsplit('=').next());
        for file in files.chain(values.filter(|word| is_path_of_ours(word))) {
            // Some are told to be saved under a name, some are of Istio's own release, some are the reader's.
            let page = place.rsplit_once(':').map_or_else(String::new, |(page, _)| read(page));
            let is_saved = !file.contains('/')
                && [format!("`{file}`"), format!("> {file}")].iter().any(|name| page.contains(name));
            let is_elsewhere = file == "-"
                || PLACES.contains(&file)
                || file.contains("://")
                || ["samples/", "mine/"].iter().any(|folder| file.starts_with(folder));
            let path =
                if file.contains('*') { Path::new(file).parent().unwrap_or(Path::new(file)) } else { Path::new(file) };
            if !is_saved && !is_elsewhere && !root().join(path).exists() {
                faults.push(format!("{place}: `{shown}`: there is no {file}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 20, "only {count} commands were found");
}

/// A file of the repository, by where it is said to stand; `deploy/shop` is a Deployment to kubectl.
fn is_path_of_ours(word: &str) -> bool {
    let folder = Path::new(word).components().next().and_then(|part| part.as_os_str().to_str()).unwrap_or_default();
    let has_end = Path::new(word).extension().is_some();
    word.contains('/') && has_end && ["deploy", "istio-samples", "e2e", "docs", "crds", "tests"].contains(&folder)
}
