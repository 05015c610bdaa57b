//! The Helm chart gives what kustomize gives: both are rendered, by real Helm and by kubectl, and compared object by
//! object, field by field.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::checkout::Checkout;
use crate::helm::Helm;
use crate::lab::Lab;
use crate::operator;

/// The one namespace of the mode for some namespaces, as `deploy/namespaced` names it.
const SOME: &str = "shop";

/// One way to install it, in the words of both.
struct Mode {
    name: &'static str,
    /// Components of `deploy/`.
    components: &'static [&'static str],
    /// Folders that are applied beside it.
    beside: &'static [&'static str],
    values: &'static [&'static str],
}

const MODES: &[Mode] = &[
    Mode { name: "base", components: &[], beside: &[], values: &[] },
    Mode { name: "namespaced", components: &["namespaced"], beside: &[], values: &["namespaces={shop}"] },
    Mode { name: "in-effect", components: &["in-effect"], beside: &[], values: &["inEffect.enabled=true"] },
    Mode { name: "limit-metrics", components: &["limit-metrics"], beside: &[], values: &["limitMetrics=true"] },
    Mode { name: "monitoring", components: &[], beside: &["monitoring"], values: &["monitoring.enabled=true"] },
    Mode {
        name: "network-policy",
        components: &[],
        beside: &["network-policy"],
        values: &["networkPolicy.enabled=true"],
    },
    Mode {
        name: "admission-policy",
        components: &[],
        beside: &["admission-policy"],
        values: &["admissionPolicy.enabled=true"],
    },
    Mode {
        name: "all of it, for some namespaces",
        components: &["namespaced", "in-effect", "limit-metrics"],
        beside: &["monitoring", "network-policy", "admission-policy"],
        values: &[
            "namespaces={shop}",
            "inEffect.enabled=true",
            "limitMetrics=true",
            "monitoring.enabled=true",
            "networkPolicy.enabled=true",
            "admissionPolicy.enabled=true",
        ],
    },
];

/// Labels by which Helm's users find what is of a release.
const OF_HELM: &[&str] =
    &["app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"];

/// In every mode the chart's objects are those of kustomize; it passes Helm's own lint; and what is misspelt in values
/// is refused by name.
///
/// # Errors
/// When one of these is not so.
pub fn gives_what_kustomize_gives(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let helm = Helm::of(&lab)?;
    let chart = folder(checkout);
    helm.run(&["lint", "--strict", &chart, "--set", IMAGE])?;
    for mode in MODES {
        let (wanted, rendered) = (by_kustomize(checkout, &lab, mode)?, by_helm(&helm, &chart, mode)?);
        let differences = compare(wanted, rendered);
        ensure!(differences.is_empty(), "{}: the chart differs from kustomize:\n{}", mode.name, differences.join("\n"));
    }
    for (set, words) in [
        ("replcias=3", "replcias"),
        ("replicas=many", "replicas"),
        ("inEffect=true", "inEffect"),
        ("image.repository=", "image.repository is not set"),
    ] {
        let answer = helm.try_run(&["template", RELEASE, &chart, "--set", IMAGE, "--set", set])?;
        ensure!(!answer.status.success(), "Helm takes {set}");
        ensure!(answer.stderr.contains(words), "of {set} Helm says: {}", answer.stderr);
    }
    Ok(())
}

/// What releases are called here.
pub(super) const RELEASE: &str = "resilience-operator";

/// The image that `deploy/` names in the lab.
pub(super) const IMAGE: &str = "image.repository=docker.io/lab/resilience-operator,image.tag=dev";

/// The chart's folder.
pub(super) fn folder(checkout: &Checkout) -> String {
    checkout.root().join("deploy/chart").display().to_string()
}

/// Objects by kind, namespace and name.
type Objects = BTreeMap<String, Value>;

fn by_helm(helm: &Helm<'_>, chart: &str, mode: &Mode) -> Result<Objects> {
    let mut args = vec!["template", RELEASE, chart, "--namespace", operator::NAMESPACE, "--set", IMAGE];
    mode.values.iter().for_each(|value| args.extend(["--set", value]));
    let mut objects = objects(&helm.run(&args)?, None)?;
    for (name, object) in &mut objects {
        let metadata =
            object.get_mut("metadata").and_then(Value::as_object_mut).context("an object has no metadata")?;
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.retain(|label, _| !OF_HELM.contains(&label.as_str()));
        }
        // It stays when the release goes, which Helm is told by this.
        if name.starts_with("CustomResourceDefinition ") {
            let annotations = metadata.remove("annotations").unwrap_or_default();
            ensure!(
                annotations == serde_json::json!({"helm.sh/resource-policy": "keep"}),
                "{name} has the annotations {annotations}"
            );
        }
    }
    Ok(objects)
}

fn by_kustomize(checkout: &Checkout, lab: &Lab, mode: &Mode) -> Result<Objects> {
    let place = checkout.state().join("chart");
    fs::create_dir_all(&place)?;
    // From target/lab/state/chart.
    let deploy = |folder: &&str| format!("../../../../deploy/{folder}");
    let list = |folders: &[&str]| folders.iter().map(deploy).collect::<Vec<_>>().join(", ");
    let resources = [&[""], mode.beside].concat();
    let overlay = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{}]\ncomponents: [{}]\n",
        list(&resources),
        list(mode.components)
    );
    fs::write(place.join("kustomization.yaml"), overlay)?;
    let kustomize = |folder: String| lab.kubectl().run(&["kustomize", &folder]);
    let mut found = objects(&kustomize(place.display().to_string())?, None)?;
    if mode.components.contains(&"namespaced") {
        let roles = checkout.root().join("deploy/namespaced/namespace").display().to_string();
        found.extend(objects(&kustomize(roles)?, Some(SOME))?);
    }
    // A release's namespace is there before it.
    let namespace = format!("Namespace /{}", operator::NAMESPACE);
    ensure!(found.remove(&namespace).is_some(), "deploy/ has no {namespace}");
    Ok(found)
}

/// The objects of a text; what names no namespace is of `namespace`, if one is given.
fn objects(text: &str, namespace: Option<&str>) -> Result<Objects> {
    let mut found = Objects::new();
    for document in format!("\n{text}").split("\n---\n").filter(|document| !document.trim().is_empty()) {
        let mut object: Value = serde_saphyr::from_str(document).with_context(|| format!("no YAML: {document}"))?;
        if let Some(namespace) = namespace {
            object["metadata"]["namespace"] = namespace.into();
        }
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        ensure!(found.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    Ok(found)
}

/// Every difference, one line each.
fn compare(mut wanted: Objects, mut rendered: Objects) -> Vec<String> {
    let mut differences = Vec::new();
    wanted.values_mut().chain(rendered.values_mut()).for_each(sort_environment);
    for (name, object) in &wanted {
        match rendered.remove(name) {
            Some(other) => fields(name, object, &other, &mut differences),
            None => differences.push(format!("{name}: not in the chart")),
        }
    }
    differences.extend(rendered.into_keys().map(|name| format!("{name}: in the chart alone")));
    differences
}

/// The variables of containers are a set: none of ours refers to another.
fn sort_environment(object: &mut Value) {
    let containers = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        if let Some(Value::Array(variables)) = container.get_mut("env") {
            variables.sort_by_key(|variable| variable["name"].to_string());
        }
    }
}

fn fields(path: &str, wanted: &Value, rendered: &Value, differences: &mut Vec<String>) {
    match (wanted, rendered) {
        (Value::Object(wanted), Value::Object(rendered)) => {
            let keys = wanted.keys().chain(rendered.keys().filter(|key| !wanted.contains_key(*key)));
            let of = |object: &Map<String, Value>, key: &str| object.get(key).cloned().unwrap_or_default();
            keys.for_each(|key| fields(&format!("{path} {key}"), &of(wanted, key), &of(rendered, key), differences));
        }
        (Value::Array(wanted), Value::Array(rendered)) if wanted.len() == rendered.len() => {
            let pairs = wanted.iter().zip(rendered).enumerate();
            pairs.for_each(|(at, (wanted, rendered))| fields(&format!("{path} {at}"), wanted, rendered, differences));
        }
        (wanted, rendered) if wanted == rendered => {}
        _ => differences.push(format!("{path}: kustomize has {wanted}, the chart {rendered}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Objects {
        objects(text, None).unwrap()
    }

    #[test]
    fn every_difference_is_told_once_with_its_path() {
        let wanted =
            "kind: A\nmetadata: {name: one}\nspec: {a: 1, b: [1, 2], c: {d: x}}\n---\nkind: B\nmetadata: {name: two}\n";
        let rendered = "---\n# Source: x\nkind: A\nmetadata: {name: one}\nspec: {a: 1, b: [1, 3], c: {e: x}}\n---\nkind: C\nmetadata: {name: three, namespace: ns}\n";
        let expected = [
            "A /one spec b 1: kustomize has 2, the chart 3",
            "A /one spec c d: kustomize has \"x\", the chart null",
            "A /one spec c e: kustomize has null, the chart \"x\"",
            "B /two: not in the chart",
            "C ns/three: in the chart alone",
        ];
        assert_eq!(compare(parsed(wanted), parsed(rendered)), expected);
        assert_eq!(compare(parsed(wanted), parsed(wanted)), Vec::<String>::new());
    }

    #[test]
    fn the_order_of_variables_is_no_difference_and_their_values_are() {
        let pod = |env: &str| {
            parsed(&format!(
                "kind: D\nmetadata: {{name: d}}\nspec: {{template: {{spec: {{containers: [{{env: {env}}}]}}}}}}\n"
            ))
        };
        let (one, other) = ("[{name: A, value: x}, {name: B, value: y}]", "[{name: B, value: y}, {name: A, value: x}]");
        assert_eq!(compare(pod(one), pod(other)), Vec::<String>::new());
        assert_eq!(compare(pod(one), pod(&other.replace('x', "z"))).len(), 1);
    }
}
