//! Which pods get a sidecar, by the labels of their namespace.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::images;
use crate::kubectl::Kubectl;
use crate::measured::Claim;
use crate::measured::bench::{Bench, documents, list};
use crate::run::finish_with_input;
use crate::scenarios::stage::SOON;
use crate::wait::Seen;

pub(super) const CLAIMS: &[Claim<Bench>] = &[Claim {
    ids: &["R9.1"],
    says: "pods get a sidecar by istio-injection=enabled, or by a revision that is there unless istio-injection says disabled",
    judge: labels_of_a_namespace_decide,
}];

fn labels_of_a_namespace_decide(bench: &Bench) -> Result<()> {
    let rows = [
        ("none", json!({}), false),
        ("enabled", json!({"istio-injection": "enabled"}), true),
        ("disabled", json!({"istio-injection": "disabled"}), false),
        ("revision", json!({"istio.io/rev": "default"}), true),
        ("enabled-revision", json!({"istio-injection": "enabled", "istio.io/rev": "default"}), true),
        ("disabled-revision", json!({"istio-injection": "disabled", "istio.io/rev": "default"}), false),
        ("no-such-revision", json!({"istio.io/rev": "no-such"}), false),
    ];
    let name = |row: &str| format!("{}-{row}", bench.kubectl.current_namespace());
    let namespaces: Vec<Value> = rows
        .iter()
        .map(|(row, labels, _)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name(row), "labels": labels}})
        })
        .collect();
    let documents = documents(&namespaces);
    bench.kubectl.apply(&documents)?;
    let answers: Vec<Result<bool>> =
        rows.iter().map(|(row, _, _)| injected(&bench.kubectl.namespace(&name(row)))).collect();
    // Whatever the answers are, the namespaces go.
    for (row, _, _) in &rows {
        bench.kubectl.run(&["delete", "namespace", &name(row), "--wait=false"])?;
    }
    let mut wrong = Vec::new();
    for ((row, _, claimed), seen) in rows.iter().zip(answers) {
        let seen = seen?;
        if seen != *claimed {
            wrong.push(format!("{row}: claimed {claimed}, seen {seen}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Whether a new pod would get a sidecar: asked as a dry run.
fn injected(kubectl: &Kubectl) -> Result<bool> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asked"},
        "spec": {"containers": [{"name": "app", "image": images::FORTIO}]},
    });
    kubectl.until("the namespace takes pods", SOON, |kubectl| {
        let mut command = kubectl.command(&["create", "--dry-run=server", "-o", "json", "-f", "-"])?;
        let answer = finish_with_input(&mut command, &pod.to_string())?;
        if !answer.status.success() {
            // Its service account is made a moment after it.
            return Ok(Seen::NotYet(answer.all()));
        }
        let pod: Value = serde_json::from_str(&answer.stdout)?;
        let containers = [list(&pod["spec"], "containers"), list(&pod["spec"], "initContainers")];
        Ok(Seen::Done(containers.iter().flatten().any(|container| container["name"] == "istio-proxy")))
    })
}
