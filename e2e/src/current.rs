//! Another cluster than the lab: that of the current context. In: the person's kubeconfig. Out: a client that stays with
//! this context whatever the person does meanwhile, after the cluster was looked at and agreed to; or everything that it
//! lacks, at once.
//!
//! What is played there makes namespaces of its own, touches nothing else, and takes them away again.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::kubectl::{IMAGES, Kubectl};
use crate::namespace::LABEL;
use crate::run::check;

/// Where something is played.
#[derive(Debug, Clone, clap::Args)]
pub struct Choice {
    /// The lab of this checkout, or the cluster of the current kubectl context, with Istio and the operator in it
    #[arg(long, value_enum, default_value = "lab")]
    cluster: Where,
    /// Do not ask before something is made on that cluster
    #[arg(long)]
    yes: bool,
    /// What stands in front of the names of the lab's images there, which `cargo lab images` writes
    #[arg(long, value_name = "PREFIX", default_value = IMAGES)]
    images: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    Lab,
    Current,
}

/// The cluster of the current context. Its kubeconfig is a copy, which goes with it.
#[derive(Debug)]
pub struct Current {
    kubectl: Kubectl,
    _kubeconfig: TempDir,
}

impl Choice {
    /// Whether it is not the lab.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.cluster == Where::Current
    }

    /// The cluster of the current context, agreed to by whoever chose it.
    ///
    /// # Errors
    /// With all that the cluster lacks, when nobody agrees, or when it cannot be reached.
    pub fn agreed(&self, what: &str) -> Result<Current> {
        let current = Current::of(&self.images)?;
        let config = current.kubectl.json(&["config", "view", "--minify"])?;
        let missing = Facts::of(&current.kubectl)?.missing();
        let (context, server) = (&config["current-context"], &config["clusters"][0]["cluster"]["server"]);
        eprintln!("context    {}\nserver     {}", shown(context), shown(server));
        eprintln!("makes      namespaces of its own for {what}, labelled {LABEL}, and deletes them again");
        eprintln!("images     {}/…, which its nodes must have: cargo lab images writes them", self.images);
        ensure!(missing.is_empty(), "that cluster is not ready for it:\n  {}", missing.join("\n  "));
        if !self.yes {
            ensure!(std::io::stdin().is_terminal(), "nobody can be asked here: say --yes");
            eprint!("Go on? [y/N] ");
            std::io::stderr().flush()?;
            let mut answer = String::new();
            std::io::stdin().lock().read_line(&mut answer)?;
            ensure!(["y", "yes"].contains(&answer.trim()), "nothing was made");
        }
        Ok(current)
    }
}

fn shown(value: &Value) -> &str {
    value.as_str().unwrap_or("unnamed")
}

impl Current {
    fn of(images: &str) -> Result<Self> {
        let view = check(Command::new("kubectl").args(["config", "view", "--minify", "--flatten", "--raw"]))
            .context("there is no current context, or no kubectl on PATH")?;
        let folder = tempfile::tempdir().context("there is no place for a copy of the kubeconfig")?;
        let path = folder.path().join("kubeconfig");
        fs::write(&path, "")?;
        // It may hold a key: nobody else reads it, from before it is there.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        fs::write(&path, view).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { kubectl: Kubectl::here(path, images.trim_end_matches('/').to_owned()), _kubeconfig: folder })
    }

    /// Its client.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }
}

/// The oldest and the newest Istio, as `1.MINOR`, that we are tested with.
const ISTIO: std::ops::RangeInclusive<u32> = 28..=31;

/// What is looked at before anything is made.
struct Facts {
    nodes: Value,
    istiods: Value,
    injectors: Value,
    operators: Value,
    has_crd: bool,
    may_make_namespaces: bool,
}

impl Facts {
    fn of(kubectl: &Kubectl) -> Result<Self> {
        let all = |kind: &str, label: &str| kubectl.json(&["get", kind, "--all-namespaces", "--selector", label]);
        let says_yes = |words: &[&str]| Ok::<bool, anyhow::Error>(kubectl.try_run(words)?.status.success());
        Ok(Self {
            nodes: kubectl.json(&["get", "nodes"]).context("the cluster of the current context gives no answer")?,
            istiods: all("pods", "app=istiod")?,
            injectors: kubectl.json(&["get", "mutatingwebhookconfigurations"])?,
            operators: all("deployments", "app.kubernetes.io/name=resilience-operator")?,
            has_crd: says_yes(&["get", "crd", "resiliences.resilience.dev"])?,
            may_make_namespaces: says_yes(&["auth", "can-i", "create", "namespaces", "--quiet"])?,
        })
    }

    /// Everything that is not as it must be.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let ours = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let is_other = |node: &&Value| node["status"]["nodeInfo"]["architecture"] != ours;
        let others: Vec<&str> =
            items(&self.nodes).filter(is_other).map(|node| shown(&node["metadata"]["name"])).collect();
        if !others.is_empty() {
            missing
                .push(format!("nodes that are not {ours}, as the images of this machine are: {}", others.join(", ")));
        }
        let images: Vec<&str> = items(&self.istiods).map(|pod| shown(&pod["spec"]["containers"][0]["image"])).collect();
        if images.is_empty() {
            missing.push("Istio: no pod is labelled app=istiod".to_owned());
        }
        for image in images {
            if !minor(image).is_some_and(|minor| ISTIO.contains(&minor)) {
                let (from, to) = (ISTIO.start(), ISTIO.end());
                missing.push(format!("an Istio from 1.{from} to 1.{to}, by the tag of its image: there is {image}"));
            }
        }
        let is_by_namespace = |webhooks: &Value| webhooks["webhooks"].to_string().contains("\"istio-injection\"");
        if !items(&self.injectors).any(is_by_namespace) {
            missing.push("injection by the label istio-injection: no webhook heeds it".to_owned());
        }
        if !self.has_crd {
            missing.push("the CRD resiliences.resilience.dev: docs/install.md".to_owned());
        }
        let operators: Vec<&Value> =
            items(&self.operators).filter(|one| one["status"]["availableReplicas"].as_u64() > Some(0)).collect();
        if operators.is_empty() {
            missing.push("the operator: no Deployment of it is available (docs/install.md)".to_owned());
        } else if operators.iter().all(|one| one["spec"].to_string().contains("RESILIENCE_NAMESPACES")) {
            missing.push("an operator for all namespaces: the one there is for some".to_owned());
        }
        if !self.may_make_namespaces {
            missing.push("the right to make namespaces".to_owned());
        }
        missing
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// The number behind `1.` in the tag of an image.
fn minor(image: &str) -> Option<u32> {
    let (_, tag) = image.rsplit_once(':')?;
    let behind = tag.strip_prefix("1.")?;
    let digits = behind.split(|one: char| !one.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Refuses what needs the lab itself, by name.
///
/// # Errors
/// When one of them does.
pub fn may_be_played<'a>(names: impl IntoIterator<Item = &'a str>, anywhere: &[&str]) -> Result<()> {
    let lab: Vec<&str> = names.into_iter().filter(|name| !anywhere.contains(name)).collect();
    if !lab.is_empty() {
        bail!(
            "these need the lab itself: {}; `cargo lab scenario --cluster current` lists those that do not",
            lab.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ready() -> Facts {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Facts {
            nodes: json!({"items": [{"metadata": {"name": "n"}, "status": {"nodeInfo": {"architecture": arch}}}]}),
            istiods: json!({"items": [{"spec": {"containers": [{"image": "x/pilot:1.30.8-distroless"}]}}]}),
            injectors: json!({"items": [{"webhooks": [{"namespaceSelector": {"matchExpressions": [{"key": "istio-injection"}]}}]}]}),
            operators: json!({"items": [{"status": {"availableReplicas": 1}, "spec": {}}]}),
            has_crd: true,
            may_make_namespaces: true,
        }
    }

    #[test]
    fn a_cluster_that_has_everything_lacks_nothing() {
        assert_eq!(ready().missing(), Vec::<String>::new());
    }

    #[test]
    fn all_that_a_cluster_lacks_is_told_at_once() {
        let bare = Facts {
            nodes: json!({"items": [{"metadata": {"name": "n"}, "status": {"nodeInfo": {"architecture": "s390x"}}}]}),
            istiods: json!({"items": []}),
            injectors: json!({"items": []}),
            operators: json!({"items": [{"status": {}}]}),
            has_crd: false,
            may_make_namespaces: false,
        };
        let missing = bare.missing();
        assert_eq!(missing.len(), 6, "{missing:?}");
        let old = Facts {
            istiods: json!({"items": [{"spec": {"containers": [{"image": "x/pilot:1.27.3"}]}}]}),
            operators: json!({"items": [{"status": {"availableReplicas": 1}, "spec": {"env": "RESILIENCE_NAMESPACES"}}]}),
            ..ready()
        };
        let missing = old.missing().join("\n");
        assert!(missing.contains("there is x/pilot:1.27.3") && missing.contains("for all namespaces"), "{missing}");
    }

    #[test]
    fn the_minor_version_is_read_from_a_tag() {
        assert_eq!(minor("docker.io/istio/pilot:1.31.4"), Some(31));
        assert_eq!(minor("registry:5000/pilot:1.31-eed52ebb66ad"), Some(31));
        assert_eq!(minor("registry:5000/pilot"), None);
        assert_eq!(minor("pilot:latest"), None);
    }
}
