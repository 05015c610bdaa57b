//! What a chaos run has in its hands: the lab with its operator behind the proxy, the user's wishes, and what must not
//! be touched.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::daemons::Daemons;
use super::plan::{self, Edit, NAMESPACES, SLOTS, Wish, Wishes};
use super::proxy::rules::Rule;
use super::proxy::webhook::Verdict;
use super::proxy::{PORT, Proxy};
use super::terms::Stall;
use super::watcher::Watcher;
use crate::audit::Log;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::report::Report;
use crate::sandbox::NODE_ADDRESS;
use crate::wait::{self, Seen};
use crate::{operator, replicas};

/// Long enough for a busy machine; nothing waits so long when it is right.
pub const SOON: Duration = Duration::from_mins(1);

/// How long an edit waits for its answer before the next one comes: under a fault there may be none.
const PATIENCE: Duration = Duration::from_millis(800);

/// Objects of others, which nothing of ours may touch.
pub const BYSTANDER: &str = "bystander";

/// Everything that a fault can lay its hands on.
#[derive(Debug)]
pub struct Stage {
    /// The lab.
    pub lab: Lab,
    /// The watches that judge all the while.
    pub watcher: Watcher,
    /// Our program, as the operator's image has it.
    pub program: PathBuf,
    /// When the run began.
    pub since: Timestamp,
    /// etcd and the API server, as they were started.
    pub daemons: Daemons,
    proxy: Mutex<Proxy>,
    wishes: Mutex<Wishes>,
    /// Edits of this step that were made.
    made: AtomicUsize,
    /// Edits of this step that will be.
    due: AtomicUsize,
    stalls: Mutex<Vec<Stall>>,
    log: Mutex<Log>,
    crds: Vec<Value>,
    bystanders: Mutex<BTreeMap<String, String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Puts the operator behind the proxy, and the user's objects there.
    ///
    /// # Errors
    /// When one of them does not get there.
    pub fn set(lab: &Lab, wishes: Wishes, report: &Report) -> Result<Self> {
        ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
        let program = operator::build(lab.checkout(), report)?;
        let kubectl = lab.kubectl();
        let crds = ["destinationrules.networking.istio.io", "virtualservices.networking.istio.io", OUR_CRD];
        let crds = crds.iter().map(|name| Ok(bare(kubectl.json(&["get", "crd", name])?))).collect::<Result<_>>()?;
        let stage = Self {
            lab: lab.clone(),
            watcher: Watcher::start(lab),
            program,
            since: Timestamp::now(),
            daemons: Daemons::find(lab)?,
            proxy: Mutex::new(Proxy::start(lab)?),
            wishes: Mutex::new(wishes),
            made: AtomicUsize::new(0),
            due: AtomicUsize::new(0),
            stalls: Mutex::default(),
            log: Mutex::new(Log::of_writes(lab.checkout())),
            crds,
            bystanders: Mutex::default(),
        };
        report.step("put the operator behind the proxy", || stage.deploy(&[], PRESENT))?;
        report.step("set the stage", || {
            stage.make_namespaces()?;
            stage.make_bystanders()?;
            stage.apply_wishes()
        })?;
        Ok(stage)
    }

    /// The administrator's client.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        self.lab.kubectl()
    }

    /// What the user wants.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        locked(&self.wishes).clone()
    }

    /// Deploys the operator behind the proxy, with more variables and under a tag, and waits until it leads.
    ///
    /// # Errors
    /// When it does not get available.
    pub fn deploy(&self, variables: &[(&str, &str)], tag: &str) -> Result<()> {
        let port = PORT.to_string();
        let ways = [("KUBERNETES_SERVICE_HOST", NODE_ADDRESS), ("KUBERNETES_SERVICE_PORT", port.as_str())];
        let patch: Vec<Value> = (ways.iter().chain(variables))
            .map(|(name, value)| {
                json!({"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": {"name": name, "value": value}})
            })
            .collect();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../../../../deploy"],
            "images": [{"name": "docker.io/lab/resilience-operator", "newTag": tag}],
            "patches": [{"target": {"kind": "Deployment", "name": "resilience-operator"}, "patch": Value::from(patch).to_string()}],
        });
        let folder = self.lab.checkout().state().join("chaos");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("kustomization.yaml"), kustomization.to_string())?;
        self.apply_folder(&folder.display().to_string())?;
        replicas::ready(&self.lab).map(drop)
    }

    /// As `cargo lab up` does, so that the next one takes away what this one added.
    fn apply_folder(&self, folder: &str) -> Result<()> {
        let words = ["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-k", folder];
        self.kubectl().run(&words).map(drop)
    }

    /// The way to the API server of everybody else, again.
    ///
    /// # Errors
    /// When the operator does not get available.
    pub fn restore(&self) -> Result<()> {
        let manifests = self.lab.checkout().root().join("deploy").display().to_string();
        self.apply_folder(&manifests)?;
        replicas::ready(&self.lab)?;
        let all: Vec<&str> =
            ["delete", "namespace", "--ignore-not-found", "--wait=false"].into_iter().chain(NAMESPACES).collect();
        self.kubectl().run(&all).map(drop)
    }

    /// These rules at the proxy, and no others.
    ///
    /// # Errors
    /// When the proxy has gone.
    pub fn set_rules(&self, rules: Vec<Rule>) -> Result<()> {
        locked(&self.proxy).set(rules)
    }

    /// What the lab's webhook says.
    ///
    /// # Errors
    /// When the proxy has gone.
    pub fn set_webhook(&self, verdict: Verdict) -> Result<()> {
        locked(&self.proxy).webhook(verdict)
    }

    /// Waits until the rules have bitten so often, and the user is through: what bites nobody proves nothing.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn until_bitten(&self, at_least: u64) -> Result<u64> {
        wait::until("the fault bites", SOON * 3, || {
            let counts = locked(&self.proxy).counts()?;
            let bites = counts.rules.iter().sum::<u64>() + counts.webhook;
            let through = self.is_through();
            Ok(if bites >= at_least && through {
                Seen::Done(bites)
            } else {
                Seen::NotYet(format!("{bites} bites, the user through: {through}"))
            })
        })
    }

    /// The operator has found out of every watch that fell silent, and reads it no more.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn until_nothing_is_silent(&self) -> Result<()> {
        wait::until("the operator ends the watches that fell silent", SOON * 4, || {
            let silent = locked(&self.proxy).counts()?.silent;
            Ok(if silent == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{silent} are silent and read")) })
        })
    }

    /// The user has edited so often in this step, or is through.
    ///
    /// # Errors
    /// When the user is stuck.
    pub fn until_edits(&self, number: usize) -> Result<()> {
        wait::until_true(&format!("{number} edits were made"), SOON * 2, || {
            Ok(self.made.load(Ordering::Relaxed) >= number || self.is_through())
        })
    }

    fn is_through(&self) -> bool {
        self.made.load(Ordering::Relaxed) >= self.due.load(Ordering::Relaxed)
    }

    /// A step begins: so many edits will come.
    pub fn expect(&self, edits: usize) {
        self.made.store(0, Ordering::Relaxed);
        self.due.store(edits, Ordering::Relaxed);
    }

    /// The user makes these edits, one after the other. What does not get through now is said again later.
    pub fn edit(&self, edits: &[Edit]) {
        for edit in edits {
            edit.enter(&mut locked(&self.wishes));
            let (namespace, name) = (plan::namespace(edit.slot), plan::name(edit.slot));
            match edit.wish {
                Some(wish) => {
                    let policy = plan::policy(namespace, &name, wish).to_string();
                    let taken = self.try_apply(&policy);
                    if taken {
                        self.until_answered(namespace, &name, wish);
                    }
                }
                None => drop(self.kubectl().try_run(&[
                    "delete",
                    "resilience",
                    "-n",
                    namespace,
                    &name,
                    "--ignore-not-found",
                    "--wait=false",
                    IMPATIENT,
                ])),
            }
            self.made.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn until_answered(&self, namespace: &str, name: &str, wish: Wish) {
        // No answer is an answer as well, while things go wrong.
        let _ = wait::until_true("the edit is answered", PATIENCE, || {
            Ok(self.watcher.with(|invariants| invariants.has_answered(namespace, name, wish.value)))
        });
    }

    fn try_apply(&self, documents: &str) -> bool {
        let words = ["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", "-", IMPATIENT];
        let run = || crate::run::finish_with_input(&mut self.kubectl().command(&words)?, documents);
        run().is_ok_and(|finished| finished.status.success())
    }

    /// The user's last word, for whatever did not get through: all that is wanted, and nothing else.
    ///
    /// # Errors
    /// When the API server does not take it in time.
    pub fn apply_wishes(&self) -> Result<()> {
        let wishes = self.wishes();
        let services = (0..SLOTS).map(|slot| plan::service(plan::namespace(slot), &plan::name(slot)));
        let documents = yaml(services.chain(plan::policies(&wishes, None)));
        wait::until("the API server takes the user's last word", SOON, || {
            let answer = self.kubectl().try_apply(&documents)?;
            Ok(if answer.status.success() { Seen::Done(()) } else { Seen::NotYet(answer.all()) })
        })?;
        for namespace in NAMESPACES {
            let unwanted = (0..SLOTS).filter(|slot| plan::namespace(*slot) == namespace && !wishes.contains_key(slot));
            let unwanted: Vec<String> = unwanted.map(plan::name).collect();
            if !unwanted.is_empty() {
                let mut words = vec!["delete", "resilience", "-n", namespace, "--ignore-not-found", "--wait=false"];
                words.extend(unwanted.iter().map(String::as_str));
                self.kubectl().run(&words)?;
            }
        }
        Ok(())
    }

    /// The namespaces in which everything happens.
    ///
    /// # Errors
    /// When the API server refuses them, or one of an earlier run does not go.
    pub fn make_namespaces(&self) -> Result<()> {
        let namespaces = NAMESPACES.map(
            |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"resilience-lab": "chaos"}}}),
        );
        for name in NAMESPACES {
            let phase = ["get", "namespace", name, "--ignore-not-found", "-o", "jsonpath={.status.phase}"];
            if self.kubectl().run(&phase)? == "Terminating" {
                self.kubectl().run(&["wait", "--for=delete", "--timeout=60s", &format!("namespace/{name}")])?;
            }
        }
        self.kubectl().apply(&yaml(namespaces)).map(drop)
    }

    /// Puts there what is of others, and remembers it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn make_bystanders(&self) -> Result<()> {
        let metadata = json!({"name": BYSTANDER, "namespace": NAMESPACES[0]});
        let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata,
            "spec": {"host": "bystander.example", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 5}}}}});
        let routes = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
            "spec": {"hosts": ["bystander.example"], "http": [{"route": [{"destination": {"host": "bystander.example"}}]}]}});
        let documents = yaml([rule, routes]);
        wait::until("the API server takes what is of others", SOON, || {
            let answer = self.kubectl().try_apply(&documents)?;
            Ok(if answer.status.success() { Seen::Done(()) } else { Seen::NotYet(answer.all()) })
        })?;
        *locked(&self.bystanders) = self.look_at_bystanders()?;
        Ok(())
    }

    /// What is not as it was of what is of others.
    ///
    /// # Errors
    /// What the API server says.
    pub fn touched(&self) -> Result<Vec<String>> {
        let (then, now) = (locked(&self.bystanders).clone(), self.look_at_bystanders()?);
        let touched = then.iter().filter(|(what, version)| now.get(*what) != Some(version));
        Ok(touched.map(|(what, _)| format!("{what} is of somebody else, and was touched")).collect())
    }

    fn look_at_bystanders(&self) -> Result<BTreeMap<String, String>> {
        let list = self.lab.namespace(NAMESPACES[0]).json(&["get", "destinationrules,virtualservices"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let of_others = items.iter().filter(|item| item["metadata"]["name"] == BYSTANDER);
        Ok(of_others
            .map(|item| (format!("{} {BYSTANDER}", item["kind"]), item["metadata"]["resourceVersion"].to_string()))
            .collect())
    }

    /// Installs CRDs again that were deleted; also right when they were not.
    ///
    /// # Errors
    /// When the API server does not serve them in time.
    pub fn install_crds(&self) -> Result<()> {
        self.kubectl().apply(&yaml(self.crds.clone()))?;
        let names: Vec<String> = self
            .crds
            .iter()
            .filter_map(|crd| crd["metadata"]["name"].as_str())
            .map(|name| format!("crd/{name}"))
            .collect();
        let words = ["wait", "--for=condition=Established", "--timeout=60s"];
        let all: Vec<&str> = words.into_iter().chain(names.iter().map(String::as_str)).collect();
        self.kubectl().run(&all).map(drop)
    }

    /// Takes back every alarm of etcd: one for want of space stays until somebody does.
    ///
    /// # Errors
    /// When etcd keeps one.
    pub fn disarm(&self) -> Result<()> {
        const PATH: &str = "/v3/maintenance/alarm";
        let ask = |question: &Value| {
            let answer = locked(&self.proxy).etcd(PATH, &question.to_string())?;
            serde_json::from_str::<Value>(&answer).with_context(|| format!("etcd says: {answer}"))
        };
        let alarms = || {
            Ok::<_, anyhow::Error>(ask(&json!({"action": "GET"}))?["alarms"].as_array().cloned().unwrap_or_default())
        };
        for alarm in alarms()? {
            ask(&json!({"action": "DEACTIVATE", "memberID": alarm["memberID"], "alarm": alarm["alarm"]}))?;
        }
        let left = alarms()?;
        ensure!(left.is_empty(), "etcd keeps its alarm: {left:?}");
        Ok(())
    }

    /// From then until now the API server or etcd stood still.
    pub fn stalled(&self, since: Timestamp) {
        // What it had received is carried out in the moments after.
        let until = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(2)).unwrap_or(Timestamp::MAX);
        locked(&self.stalls).push((since, until));
    }

    /// When the API server or etcd stood still.
    #[must_use]
    pub fn stalls(&self) -> Vec<Stall> {
        locked(&self.stalls).clone()
    }

    /// Looks at the audit log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with_log<T>(&self, look: impl FnOnce(&[crate::audit::Request]) -> T) -> Result<T> {
        Ok(look(locked(&self.log).read()?))
    }

    /// The pod that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> Result<String> {
        replicas::leader(&self.lab)?.context("nobody leads")
    }

    /// Waits until another pod than this leads, or the same one under a new name.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_another_leads(&self, before: &str) -> Result<()> {
        wait::until("another replica leads", SOON * 2, || {
            Ok(match replicas::leader(&self.lab)? {
                Some(now) if now != before => Seen::Done(()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
    }

    /// A slot with a policy that generates something, drawn.
    ///
    /// # Errors
    /// When there is none.
    pub fn some_slot(&self, random: &mut fastrand::Rng) -> Result<u32> {
        let wishes = self.wishes();
        let slots: Vec<u32> = wishes.iter().filter(|(_, wish)| !wish.observe).map(|(slot, _)| *slot).collect();
        match random.choice(&slots) {
            Some(slot) => Ok(*slot),
            None => bail!("no policy generates anything"),
        }
    }
}

/// For calls that must not wait for an API server that says nothing.
pub const IMPATIENT: &str = "--request-timeout=4s";

/// The tag of the operator of this checkout.
pub const PRESENT: &str = "dev";

/// The tag of the operator as it was.
pub const PREVIOUS: &str = "previous";

/// Our own CRD.
pub const OUR_CRD: &str = "resiliences.resilience.dev";

/// Documents for kubectl.
#[must_use]
pub fn yaml(documents: impl IntoIterator<Item = Value>) -> String {
    documents.into_iter().fold(String::new(), |mut text, document| {
        let _ = writeln!(text, "---\n{document}");
        text
    })
}

/// An object as somebody would write it down: without what the API server adds.
#[must_use]
pub fn bare(mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
            metadata.remove(field);
        }
    }
    object
}
