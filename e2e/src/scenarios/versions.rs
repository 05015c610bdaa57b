//! For the CRDs of each Istio that we support, and of one that lacks fields: what we render for it its API
//! server takes, and what we refuse because of it its API server refuses. And the operator itself notices
//! that another Istio was installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::footprint::SecondCheckout;
use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::istio_apis::{self, APIS, Api};
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::operator;
use crate::report::Report;
use crate::run::{check, finish, finish_with_input, tail};
use crate::wait::{self, Seen};

/// How long until an API server applies CRDs that it has been given.
const TAKES_EFFECT: Duration = Duration::from_secs(30);

/// How long until the operator has noticed them: it looks every 30 s.
const NOTICES: Duration = Duration::from_secs(90);

/// Starts a control plane beside the lab of this checkout, whose CRDs stay as they are.
///
/// # Errors
/// When our verdict and that of an API server differ, or the operator does not notice an upgrade.
pub fn each_istio_takes_what_we_render_for_it(checkout: &Checkout) -> Result<()> {
    let report = Report::new();
    let crds = istio_apis::get(&Cache::open()?, &report)?;
    let program = operator::build(checkout, &report)?;
    let goldens = goldens(checkout, &program)?;
    let second = SecondCheckout::of(checkout)?;
    check(&mut second.lab(&["up", "--control-plane"]))?;
    let lab = Lab::attach_to(&second.checkout()?)?;
    let kubectl = lab.namespace("default");
    for api in APIS {
        let file = crds.join(format!("{}.yaml", api.istio));
        install(&kubectl, &file)?;
        let judged = judge(&program, &file, &goldens)?;
        agree(&kubectl, api, &judged).with_context(|| format!("with the CRDs of Istio {}", api.istio))?;
        if !api.supported {
            ensure!(
                judged.iter().any(|one| one.ours == Ours::Refused) && judged.iter().any(Judged::leaves_out),
                "Istio {} lacks nothing that a golden pair needs: the comparison proves nothing",
                api.istio
            );
            notices_an_upgrade(&lab, &program, &crds.join("1.31.yaml"))?;
        }
    }
    check(&mut second.lab(&["down"]))?;
    Ok(())
}

/// Puts an Istio's CRDs in the place of others. Ours are deleted before: until the new ones are in force
/// there are none, and no answer can come from those of before.
fn install(kubectl: &Kubectl, crds: &Path) -> Result<()> {
    let ours = ["destinationrules.networking.istio.io", "virtualservices.networking.istio.io"];
    kubectl.run(&[&["delete", "crd", "--ignore-not-found", "--wait"], &ours[..]].concat())?;
    kubectl.apply(&fs::read_to_string(crds)?)?;
    kubectl.run(&[&["wait", "--for=condition=Established", "--timeout=30s", "crd"], &ours[..]].concat())?;
    Ok(())
}

/// A golden pair's first half, and the objects that come of it where nothing is known of Istio.
#[derive(Debug)]
struct Golden {
    file: PathBuf,
    objects: Vec<Value>,
}

/// All that come to objects without a cluster. Those that hold CRDs themselves are about these.
fn goldens(checkout: &Checkout, program: &Path) -> Result<Vec<Golden>> {
    let folder = checkout.root().join("tests/translate");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".in.yaml"));
    files.sort();
    let mut goldens = Vec::new();
    for file in files {
        if fs::read_to_string(&file)?.contains("CustomResourceDefinition") {
            continue;
        }
        let objects = render(program, &[&file])?.unwrap_or_default();
        // What is merged into somebody else's object is none by itself, to which an API server could say no.
        let is_merged = |object: &Value| object.pointer("/metadata/annotations/resilience.dev~1co-owner").is_some();
        if !objects.is_empty() && !objects.iter().any(is_merged) {
            goldens.push(Golden { file, objects });
        }
    }
    ensure!(goldens.len() >= 20, "only {} golden pairs come to objects", goldens.len());
    Ok(goldens)
}

/// What `render` prints of these files; `None` if it refuses.
fn render(program: &Path, files: &[&Path]) -> Result<Option<Vec<Value>>> {
    let mut command = Command::new(program);
    command.args(["render", "--output", "json", "--endpoints", "3"]);
    for file in files {
        command.arg("-f").arg(file);
    }
    let answer = finish(&mut command)?;
    match answer.status.code() {
        Some(0) => {
            let list: Value = serde_json::from_str(&answer.stdout).context("render printed no JSON")?;
            Ok(Some(list["items"].as_array().cloned().unwrap_or_default()))
        }
        Some(1) => Ok(None),
        _ => Err(anyhow::anyhow!("render of {files:?} failed: {}", tail(&answer.all(), 5))),
    }
}

/// What we make of a golden pair with an Istio's CRDs.
#[derive(Debug, PartialEq)]
enum Ours {
    /// It is refused.
    Refused,
    /// These objects are rendered.
    Rendered(Vec<Value>),
}

#[derive(Debug)]
struct Judged<'a> {
    golden: &'a Golden,
    ours: Ours,
}

impl Judged<'_> {
    /// Whether something is left out because of the CRDs.
    fn leaves_out(&self) -> bool {
        matches!(&self.ours, Ours::Rendered(objects) if *objects != self.golden.objects)
    }
}

fn judge<'a>(program: &Path, crds: &Path, goldens: &'a [Golden]) -> Result<Vec<Judged<'a>>> {
    let judged = goldens.iter().map(|golden| {
        let ours = render(program, &[&golden.file, crds])?.map_or(Ours::Refused, Ours::Rendered);
        Ok(Judged { golden, ours })
    });
    judged.collect()
}

/// Waits until the API server's verdicts are ours: it takes a moment until it applies new CRDs.
fn agree(kubectl: &Kubectl, api: &Api, judged: &[Judged<'_>]) -> Result<()> {
    wait::until("our verdicts are those of the API server", TAKES_EFFECT, || {
        let mut wrong = Vec::new();
        if takes(kubectl, &[vec![probe()]])? != [api.keep_alive] {
            wrong.push("other CRDs are in force".to_owned());
        }
        let rendered: Vec<Vec<Value>> = judged
            .iter()
            .map(|one| match &one.ours {
                Ours::Rendered(objects) => objects.clone(),
                Ours::Refused => Vec::new(),
            })
            .collect();
        let whole: Vec<Vec<Value>> = judged.iter().map(|one| one.golden.objects.clone()).collect();
        let (takes_ours, takes_whole) = (takes(kubectl, &rendered)?, takes(kubectl, &whole)?);
        for ((one, ours), whole) in judged.iter().zip(takes_ours).zip(takes_whole) {
            let lossless = one.ours != Ours::Refused && !one.leaves_out();
            let fault = match &one.ours {
                Ours::Rendered(_) if !ours => "it refuses what we render for it",
                _ if lossless != whole && whole => "it takes what we refuse or leave out",
                _ if lossless != whole => "it refuses what we render without loss",
                Ours::Refused if api.supported => "we support it and refuse",
                _ => continue,
            };
            wrong.push(format!("{}: {fault}", one.golden.file.display()));
        }
        Ok(if wrong.is_empty() { Seen::Done(()) } else { Seen::NotYet(wrong.join("; ")) })
    })
}

/// Which of these groups of objects the API server takes, each as a whole, by a server-side apply that
/// stores nothing.
fn takes(kubectl: &Kubectl, groups: &[Vec<Value>]) -> Result<Vec<bool>> {
    let name = |group: usize, object: usize| format!("golden-{group}-{object}");
    let mut documents = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        for (number, object) in group.iter().enumerate() {
            let mut object = object.clone();
            // Some names and namespaces are in several golden pairs.
            object["metadata"] = json!({"name": name(at, number), "namespace": kubectl.current_namespace()});
            documents.push(object.to_string());
        }
    }
    let mut command = kubectl.command(&["apply", "--server-side", "--dry-run=server", "-f", "-"])?;
    let answer = finish_with_input(&mut command, &documents.join("\n---\n"))?;
    let taken = |name: &str| answer.stdout.lines().any(|line| line.contains(&format!("/{name} ")));
    let mut verdicts = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        for number in 0..group.len() {
            let name = name(at, number);
            // One fault stands in the same line, several in lines of their own.
            let refused = answer
                .stderr
                .split("Error from server: ")
                .any(|error| error.contains(&format!("/{name};")) && error.contains("field not declared in schema"));
            ensure!(taken(&name) != refused, "no verdict, or both, on {name}: {}", tail(&answer.all(), 10));
        }
        verdicts.push((0..group.len()).all(|number| taken(&name(at, number))));
    }
    Ok(verdicts)
}

/// A rule with a field that we never write.
fn probe() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "spec": {
            "host": "probe.default.svc.cluster.local",
            "trafficPolicy": {"connectionPool": {"http": {"http2KeepAlive": {"timeout": "1s"}}}},
        },
    })
}

/// The operator refuses by path what the installed CRDs lack, and goes ahead when they are upgraded: nobody
/// restarts it or touches the policy.
fn notices_an_upgrade(lab: &Lab, program: &Path, newer: &Path) -> Result<()> {
    let kubectl = lab.namespace("default");
    let mut operator = lab.inside(&program.display().to_string())?;
    operator.args(["run", "--admin-address", "127.0.0.1:18080", "--istiod-address", "", "--log-format", "human"]);
    let log = fs::File::create(lab.checkout().state().join("operator.log"))?;
    // It ends with the lab, at the latest.
    let mut process = operator.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    let judged = (|| {
        kubectl.apply(POLICY)?;
        becomes(&kubectl, "Accepted", "False/Unsupported", "spec.retries.budget")?;
        let absent = kubectl.try_run(&["get", "destinationrule", "httpbin"])?;
        ensure!(!absent.status.success(), "a rule was written that loses what the policy asks for");
        kubectl.apply(&fs::read_to_string(newer)?)?;
        becomes(&kubectl, "Programmed", "True/Programmed", "")?;
        let rule = kubectl.json(&["get", "destinationrule", "httpbin"])?;
        ensure!(rule["spec"]["trafficPolicy"]["retryBudget"]["percent"] == 20, "the budget is not there: {rule}");
        kubectl.delete(POLICY)?;
        let gone = || Ok(!kubectl.try_run(&["get", "destinationrule", "httpbin"])?.status.success());
        wait::until_true("the rule goes with its policy", TAKES_EFFECT, gone)
    })();
    process.kill()?;
    process.wait()?;
    judged.with_context(|| {
        let log = fs::read_to_string(lab.checkout().state().join("operator.log")).unwrap_or_default();
        format!("the operator's last words:\n{}", tail(&log, 12))
    })
}

fn becomes(kubectl: &Kubectl, kind: &str, wanted: &str, words: &str) -> Result<()> {
    wait::until(&format!("{kind} is {wanted}"), NOTICES, || {
        let policy = kubectl.json(&["get", "resilience", "httpbin"])?;
        let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        let is = format!("{}/{}", text("status"), text("reason"));
        Ok(if is == wanted && text("message").contains(words) {
            Seen::Done(())
        } else {
            Seen::NotYet(found.to_string())
        })
    })
}

const POLICY: &str = "
apiVersion: v1
kind: Service
metadata: {name: httpbin}
spec:
  ports:
  - {name: http, port: 8000}
---
apiVersion: resilience.dev/v1alpha1
kind: Resilience
metadata: {name: httpbin}
spec:
  targetRefs:
  - {kind: Service, name: httpbin}
  retries: {attempts: 2, budget: {percent: 20}}
";
