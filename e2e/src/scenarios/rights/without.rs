//! Each right taken away, one operator for each: what it is then denied is that right alone, it says so, and
//! something does not work.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::process::{Process, build};
use super::{Right, granted, live, rights, rules};
use crate::audit::Log;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::unique;
use crate::operator;
use crate::replicas;
use crate::report::Report;
use crate::scenarios::gateway_api::with_gateway_api;
use crate::scenarios::stage::SOON;
use crate::wait::{self, Seen};

/// So many at a time.
const BESIDE: usize = 8;

/// What goes with a policy the garbage collector takes as well. Where it was the first, the operator had nothing to
/// clean up, and needed no right for it.
const LIVES: usize = 4;

/// What does not work without a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaks {
    /// It never has everything listed, and so never begins.
    Begin,
    /// It begins, and is blind for a kind: it says that the watch broke.
    Sight,
    /// The policy says that what may matter is not seen, or is refused for it.
    Told,
    /// The policy is not Programmed, and says why.
    Programmed,
    /// What should go stays, and is tried again and again.
    CleaningUp,
    /// The policy has no status.
    Status,
    /// There is no event.
    Events,
    /// It never leads.
    Leading,
    /// It leads, cannot keep the lease, and ends with an error.
    Staying,
}

/// What a right is for; `None`: nobody has said.
fn breaks(what: &str, verb: &str) -> Option<Breaks> {
    Some(match (what, verb) {
        ("gateway.networking.k8s.io/httproutes" | "gateway.networking.k8s.io/grpcroutes", "list" | "watch")
        | (_, "watch") => Breaks::Sight,
        (_, "list") => Breaks::Begin,
        ("resilience.dev/resiliences", "get") => Breaks::CleaningUp,
        ("resilience.dev/resiliences/status", "patch") => Breaks::Status,
        ("events.k8s.io/events", "create" | "patch") => Breaks::Events,
        ("coordination.k8s.io/leases", "get" | "create") => Breaks::Leading,
        ("coordination.k8s.io/leases", "update") => Breaks::Staying,
        (kind, "create" | "patch") if kind.starts_with("networking.istio.io/") => Breaks::Programmed,
        (kind, "delete") if kind.starts_with("networking.istio.io/") => Breaks::CleaningUp,
        _ => return None,
    })
}

/// Where a right is held, and so how its absence is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the cluster: a replica that stands by, so that it only reads.
    Cluster,
    /// In the namespace that it works in.
    Namespace,
    /// In Istio's root namespace.
    Root,
    /// In its own namespace.
    Own,
}

/// An operator without one right.
struct Without {
    right: Right,
    place: Place,
    breaks: Breaks,
    /// Its account, its lease and its namespace.
    name: String,
}

/// Takes every right away, each from an operator of its own.
///
/// # Errors
/// When nothing breaks without one, or something else does.
pub fn each_breaks_something(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let binary = build(checkout, &Report::new())?;
    let all = all(checkout)?;
    let (shared, namespaces) = (shared(checkout, &all)?, namespaces(&all, lab.has_operator()));
    // A control plane without a node is enough, and has no operator that would do the work of these.
    let scaled = |number| if lab.has_operator() { replicas::scale(&lab, number) } else { Ok(()) };
    let played = with_gateway_api(checkout, &lab, || {
        scaled(0)?;
        lab.kubectl().apply(&format!("{namespaces}\n---\n{shared}"))?;
        let failures: Vec<String> = all.chunks(BESIDE).flat_map(|some| beside(&lab, &binary, some)).collect();
        ensure!(failures.is_empty(), "{} of {} rights:\n{}", failures.len(), all.len(), failures.join("\n"));
        println!("{} rights, and something breaks without each", all.len());
        Ok(())
    });
    // Whatever happened: the others need an operator.
    let back = scaled(2);
    let gone = lab.kubectl().delete(&shared);
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    let left =
        lab.kubectl().run(&[&["delete", "namespace", "--ignore-not-found", "--wait=false"], &names[..]].concat());
    played.and(back).and(gone.map(drop)).and(left.map(drop))
}

/// Plays some at a time; gives a line for each that is not as it should be.
fn beside(lab: &Lab, binary: &Path, some: &[Without]) -> Vec<String> {
    std::thread::scope(|scope| {
        let running: Vec<_> = some.iter().map(|one| (one, scope.spawn(|| play(lab, binary, one)))).collect();
        let judged = running.into_iter().map(|(one, thread)| {
            let ended = thread.join().unwrap_or_else(|_| bail!("the scenario panicked"));
            ended.err().map(|error| format!("{} {} ({}): {error:#}", one.right.1, one.right.0, one.name))
        });
        judged.flatten().collect()
    })
}

/// Every right that is shipped, with the place that it is held in.
fn all(checkout: &Checkout) -> Result<Vec<Without>> {
    let root = rights(&rules(checkout, "namespaced/root-namespace.yaml", operator::ACCOUNT)?);
    let mut places: Vec<(Right, Place)> = Vec::new();
    for right in granted(checkout)? {
        let place = match (right.0.as_str(), right.1.as_str()) {
            ("coordination.k8s.io/leases", _) => Place::Own,
            (_, "list" | "watch") => Place::Cluster,
            _ => Place::Namespace,
        };
        places.push((right, place));
    }
    places.extend(root.into_iter().map(|right| (right, Place::Root)));
    let one = |(number, (right, place)): (usize, (Right, Place))| {
        let known = breaks(&right.0, &right.1);
        let breaks = known.with_context(|| format!("what is {} of {} for? say it in `breaks`", right.1, right.0))?;
        let breaks = if place == Place::Root { Breaks::Told } else { breaks };
        Ok(Without { right, place, breaks, name: unique(&format!("without-{number}")) })
    };
    places.into_iter().enumerate().map(one).collect()
}

fn namespaces(all: &[Without], with_operator: bool) -> String {
    let one = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
    let all = all.iter().map(|one| one.name.as_str());
    // Where the operator is, these two are there already, with labels that an apply would take from them.
    let missing = [operator::NAMESPACE, "istio-system"].into_iter().filter(|_| !with_operator);
    all.chain(missing).map(one).collect::<Vec<_>>().join("\n---\n")
}

/// Accounts with their roles, and the lease that those who only read stand by for.
fn shared(checkout: &Checkout, all: &[Without]) -> Result<String> {
    let cluster = rights(&rules(checkout, "rbac.yaml", operator::ACCOUNT)?);
    let (leases, elsewhere): (BTreeSet<_>, BTreeSet<_>) =
        cluster.into_iter().partition(|(what, _)| what == "coordination.k8s.io/leases");
    let within: BTreeSet<_> = elsewhere.iter().filter(|(what, _)| what != "namespaces").cloned().collect();
    let root = rights(&rules(checkout, "namespaced/root-namespace.yaml", operator::ACCOUNT)?);
    let events = rights(&rules(checkout, "namespaced/events.yaml", "resilience-operator-events")?);
    let mut objects = vec![json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": HELD, "namespace": operator::NAMESPACE},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600, "renewTime": "2999-01-01T00:00:00.000000Z"}})];
    for one in all {
        let name = &one.name;
        objects.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": operator::NAMESPACE}}));
        let own: BTreeSet<_> = leases.union(&events).cloned().collect();
        let lease = if one.place == Place::Cluster { HELD } else { name.as_str() };
        bind(&mut objects, one, Some(operator::NAMESPACE), &own, Some(lease), &[Place::Own, Place::Namespace]);
        if one.place == Place::Cluster {
            bind(&mut objects, one, None, &elsewhere, None, &[Place::Cluster]);
        } else {
            bind(&mut objects, one, Some(name), &within, None, &[Place::Namespace]);
            bind(&mut objects, one, Some("istio-system"), &root, None, &[Place::Root]);
        }
    }
    Ok(objects.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n"))
}

/// A lease that somebody else holds.
const HELD: &str = "without-held";

/// A role with these rights but the one that is taken away, where it is of one of `places`.
fn bind(
    objects: &mut Vec<Value>,
    one: &Without,
    namespace: Option<&str>,
    rights: &BTreeSet<Right>,
    lease: Option<&str>,
    places: &[Place],
) {
    let kept = rights.iter().filter(|right| **right != one.right || !places.contains(&one.place));
    let rule = |(what, verb): &Right| {
        let (group, resource) = match what.split_once('/') {
            Some((group, resource)) if group.contains('.') => (group, resource),
            _ => ("", what.as_str()),
        };
        let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
        if let Some(lease) = lease.filter(|_| resource == "leases" && verb != "create") {
            rule["resourceNames"] = json!([lease]);
        }
        rule
    };
    let (kind, binding) = match namespace {
        Some(_) => ("Role", "RoleBinding"),
        None => ("ClusterRole", "ClusterRoleBinding"),
    };
    let mut metadata = json!({"name": one.name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    let version = "rbac.authorization.k8s.io/v1";
    let rules: Vec<Value> = kept.map(rule).collect();
    objects.push(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules}));
    objects.push(json!({"apiVersion": version, "kind": binding, "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": one.name},
        "subjects": [{"kind": "ServiceAccount", "name": one.name, "namespace": operator::NAMESPACE}]}));
}

fn play(lab: &Lab, binary: &Path, one: &Without) -> Result<()> {
    let number: u16 = one.name.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    let lease = if one.place == Place::Cluster { HELD } else { one.name.as_str() };
    let mut args: Vec<String> = ["--istiod-address=", "--admin-address"].map(str::to_owned).to_vec();
    args.push(format!("127.0.0.1:{}", 20_000 + number));
    args.extend(
        ["--lease-name", lease, "--lease-duration=8s", "--renew-deadline=5s", "--retry-period=1s"].map(str::to_owned),
    );
    if one.place != Place::Cluster {
        args.extend(["--namespaces".to_owned(), one.name.clone()]);
    }
    let mut log = Log::from_now(lab.checkout())?;
    let mut process = Process::start(lab, binary, &one.name, &args)?;
    let kubectl = lab.namespace(&one.name);
    if one.place != Place::Cluster {
        for _ in 0..LIVES {
            // Ends early where something is denied: what it waits for is then not to come.
            live_until_denied(&mut log, &kubectl, one)?;
            if is_denied(&mut log, one)? {
                break;
            }
        }
    }
    wait::until("it is denied", SOON, || {
        Ok(if is_denied(&mut log, one)? {
            Seen::Done(())
        } else {
            Seen::NotYet("nothing is: the right is spare".to_owned())
        })
    })?;
    // A subresource stands behind its resource, and a group is named after it.
    let (_, resource) = one.right.0.split_once('/').unwrap_or(("", &one.right.0));
    let words = format!("cannot {} resource \"{resource}\"", one.right.1);
    kubectl.until("it shows what is broken", SOON, |_| {
        ensure!(is_denied(&mut log, one)?, "the audit log lost a line");
        shows(&mut process, &kubectl, one, &words)
    })
}

/// Whether it was denied something, which is what was taken away and nothing else.
fn is_denied(log: &mut Log, one: &Without) -> Result<bool> {
    let denied: Vec<_> = log
        .read()?
        .iter()
        .filter(|request| request.account.as_deref() == Some(one.name.as_str()) && request.is_denied())
        .collect();
    for request in &denied {
        let verb = if request.message.contains("cannot create resource") { "create" } else { request.verb.as_str() };
        let right = (request.what.clone(), verb.to_owned());
        ensure!(right == one.right, "something else is denied: {request}: {}", request.message);
    }
    Ok(!denied.is_empty())
}

/// The life of a policy, as far as it goes.
fn live_until_denied(log: &mut Log, kubectl: &Kubectl, one: &Without) -> Result<()> {
    let mut denied = false;
    let ended = live(kubectl, |(what, look)| {
        let came = kubectl.until(what, SOON, |_| {
            if is_denied(log, one)? {
                return Ok(Seen::Done(false));
            }
            // The policy has no status yet, or is not there: that comes.
            Ok(match look().unwrap_or_else(|error| Seen::NotYet(format!("{error:#}"))) {
                Seen::Done(()) => Seen::Done(true),
                Seen::NotYet(last) => Seen::NotYet(last),
            })
        })?;
        denied = !came;
        ensure!(came, "denied");
        Ok(())
    });
    if denied { Ok(()) } else { ended }
}

/// Whether what is broken can be seen.
fn shows(process: &mut Process, kubectl: &Kubectl, one: &Without, words: &str) -> Result<Seen<()>> {
    let said = process.said()?;
    let began = said.contains("\"everything is listed\"");
    let leads = said.contains("\"beginning\"");
    let policy =
        || kubectl.json(&["get", "resilience", "--ignore-not-found"]).map(|list| list["items"][0]["status"].clone());
    let condition = |status: &Value, kind: &str| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
    };
    let is_said = said.contains(&words.replace('"', "\\\""));
    let shown = match one.breaks {
        Breaks::Begin => is_said && !began,
        Breaks::Sight => is_said && began && said.contains("a watch broke"),
        Breaks::Told => is_said && policy()?.to_string().contains("may not be read"),
        Breaks::Programmed => {
            let programmed = condition(&policy()?, "Programmed");
            programmed["status"] == "False" && programmed["message"].as_str().is_some_and(|text| text.contains(words))
        }
        Breaks::CleaningUp => is_said && said.contains("trying again"),
        Breaks::Status => is_said && leads && policy()?["conditions"].is_null(),
        Breaks::Events => is_said && said.contains("an event was not published"),
        Breaks::Leading => is_said && began && !leads,
        Breaks::Staying => is_said && process.ended()?.is_some_and(|status| !status.success()),
    };
    Ok(if shown { Seen::Done(()) } else { Seen::NotYet(crate::run::tail(&said, 4)) })
}
