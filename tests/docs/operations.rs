//! What the page on operations says of rights and versions is what the manifests and the README have.
//!
//! `UPDATE_GOLDEN=1 cargo test rights` writes the table of rights anew.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    deploy::{rights, roles_of_the_operator},
    support::{difference, read, root},
};

const PAGE: &str = "docs/operations.md";
const BEGIN: &str = "<!-- rights: written by UPDATE_GOLDEN=1 cargo test rights -->\n";
const END: &str = "<!-- end of rights -->\n";

#[test]
fn the_table_of_rights_is_that_of_the_manifests() {
    let mut table = "| what | may | where |\n|---|---|---|\n".to_owned();
    for (file, role) in roles_of_the_operator() {
        if file.starts_with("namespaced/") {
            continue;
        }
        let place = match (role["kind"].as_str(), role["metadata"]["namespace"].as_str(), file.as_str()) {
            (Some("ClusterRole"), ..) => "all namespaces".to_owned(),
            (_, Some(namespace), "rbac.yaml") => format!("`{namespace}`"),
            (_, Some(namespace), other) => {
                format!("`{namespace}`, with the component `{}`", other.split('/').next().unwrap_or_default())
            }
            _ => panic!("deploy/{file}: a role without a namespace"),
        };
        let mut verbs: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for (group, resource, verb) in rights(&role) {
            verbs.entry((group, resource)).or_default().push(verb);
        }
        for ((group, resource), verbs) in verbs {
            let of = if group.is_empty() { String::new() } else { format!(" of `{group}`") };
            let _ = writeln!(table, "| `{resource}`{of} | {} | {place} |", verbs.join(", "));
        }
    }
    let page = read(PAGE);
    let (head, rest) = page.split_once(BEGIN).expect("the table has a beginning");
    let (have, tail) = rest.split_once(END).expect("the table has an end");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(root().join(PAGE), format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
        return;
    }
    assert!(have == table, "{PAGE} is stale: UPDATE_GOLDEN=1 cargo test rights\n{}", difference(have, &table));
}

#[test]
fn the_supported_versions_are_those_of_the_readme() {
    let page = read(PAGE);
    let readme = read("README.md");
    let (_, tested) = readme.split_once("## Tested with").expect("the README says with what it was tested");
    let rows = ["| Kubernetes |", "| Istio |", "| Envoy |"];
    for row in rows {
        let line = tested.lines().find(|line| line.starts_with(row)).expect("a row for each");
        assert!(page.lines().any(|said| said == line), "{PAGE} has another row than the README's: {line}");
    }
}
