//! In: goldens. Out: their worlds in the cluster, each object as old beside the others as it says; the
//! operator, away meanwhile, meets them whole.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::golden::{Golden, each_text, text};
use super::reading;
use crate::config_dump::ConfigDump;
use crate::images;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::operator;
use crate::replicas;
use crate::scenarios::stage::SOON;
use crate::wait::{self, Seen};

/// What counts by its age.
const RULES: [&str; 3] = ["Sidecar", "DestinationRule", "VirtualService"];

/// Runs `work` while no operator is there; it is back afterwards, whatever came of it.
///
/// # Errors
/// What `work` says, or that the operator does not go or come.
pub fn without_operator<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let system = lab.namespace(operator::NAMESPACE);
    let deployed = system.json(&["get", "deployment/resilience-operator"])?;
    let replicas = deployed["spec"]["replicas"].as_u64().context("the operator's Deployment says no number")?;
    let done = replicas::scale(lab, 0).and_then(|()| work());
    replicas::scale(lab, replicas)?;
    done
}

/// Puts everything into the cluster.
///
/// # Errors
/// When the API server or Istio's webhook refuses an object.
pub fn build(kubectl: &Kubectl, goldens: &[Golden]) -> Result<()> {
    apply(kubectl, goldens.iter().flat_map(Golden::namespaces))?;
    let ageless = goldens.iter().flat_map(|golden| &golden.objects).filter(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        kind != "Namespace" && kind != "Resilience" && !RULES.contains(&kind)
    });
    apply(kubectl, ageless.cloned())?;
    let policies = goldens.iter().flat_map(|golden| golden.of_kind("Resilience"));
    apply_by_age(kubectl, policies.cloned())?;
    for golden in goldens {
        make_twins(kubectl, golden).with_context(|| golden.name.clone())?;
    }
    let uids = uids(kubectl)?;
    let rules = goldens.iter().flat_map(|golden| {
        let rules = golden.objects.iter().filter(|object| RULES.contains(&object["kind"].as_str().unwrap_or_default()));
        rules.map(|rule| owned(golden, rule, &uids))
    });
    apply_by_age(kubectl, rules)
}

/// Takes everything away again: the policies first and at once, so that the operator has nothing more to say
/// when their worlds go, which is not waited for.
///
/// # Errors
/// When it does not go.
pub fn remove(kubectl: &Kubectl, goldens: &[Golden]) -> Result<()> {
    let policies = goldens.iter().flat_map(|golden| golden.of_kind("Resilience"));
    let namespaces = goldens.iter().flat_map(Golden::namespaces);
    kubectl.delete(&documents(policies.cloned()))?;
    // What stands in Istio's own namespace does not go with ours.
    let of_istio = goldens.iter().flat_map(Golden::of_istio);
    kubectl.delete(&documents(of_istio.cloned()))?;
    let names: Vec<String> = namespaces.map(|namespace| text(&namespace, "/metadata/name")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    kubectl.run(&[&["delete", "namespace", "--ignore-not-found", "--wait=false"], names.as_slice()].concat()).map(drop)
}

/// Older ones a second earlier, since an age has no smaller parts; of one age in the order of their names,
/// as Istio and the operator count them.
fn apply_by_age(kubectl: &Kubectl, objects: impl Iterator<Item = Value>) -> Result<()> {
    let mut ages: BTreeMap<(bool, String), Vec<Value>> = BTreeMap::new();
    for object in objects {
        let created = text(&object, "/metadata/creationTimestamp");
        ages.entry((created.is_empty(), created)).or_default().push(object);
    }
    for (_, mut objects) in ages {
        objects.sort_by_key(|object| text(object, "/metadata/name"));
        apply(kubectl, objects.into_iter())?;
        let second = second()?;
        wait::until_true("the next second begins", Duration::from_secs(5), || Ok(self::second()? > second))?;
    }
    Ok(())
}

fn second() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs())
}

/// Policies of a golden that are of one age there are of one second here.
fn make_twins(kubectl: &Kubectl, golden: &Golden) -> Result<()> {
    let mut ages: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for policy in golden.of_kind("Resilience") {
        ages.entry(text(policy, "/metadata/creationTimestamp")).or_default().push(policy);
    }
    for twins in ages.values().filter(|policies| policies.len() > 1) {
        let documents = documents(twins.iter().map(|policy| (*policy).clone()));
        kubectl.until("they are of one second", SOON, |kubectl| {
            let list = kubectl.namespace(&golden.namespace).json(&["get", "resilience"])?;
            let born = |twin: &&Value| {
                let mut items = list["items"].as_array().into_iter().flatten();
                items
                    .find(|item| item["metadata"]["name"] == twin["metadata"]["name"])
                    .map(|item| text(item, "/metadata/creationTimestamp"))
            };
            let mut births: Vec<_> = twins.iter().map(born).collect();
            births.dedup();
            if births.len() == 1 {
                return Ok(Seen::Done(()));
            }
            kubectl.delete(&documents)?;
            kubectl.apply(&documents)?;
            Ok(Seen::NotYet(format!("{births:?}")))
        })?;
    }
    Ok(())
}

/// The real uid of each policy, by namespace and name.
fn uids(kubectl: &Kubectl) -> Result<BTreeMap<(String, String), String>> {
    let list = kubectl.json(&["get", "resilience", "--all-namespaces"])?;
    let uid =
        |item: &Value| ((text(item, "/metadata/namespace"), text(item, "/metadata/name")), text(item, "/metadata/uid"));
    Ok(list["items"].as_array().into_iter().flatten().map(uid).collect())
}

/// A rule whose owner is the real policy.
fn owned(golden: &Golden, rule: &Value, uids: &BTreeMap<(String, String), String>) -> Value {
    let real: BTreeMap<String, &String> = golden
        .of_kind("Resilience")
        .filter_map(|policy| {
            let key = (text(policy, "/metadata/namespace"), text(policy, "/metadata/name"));
            Some((text(policy, "/metadata/uid"), uids.get(&key)?))
        })
        .collect();
    // The uid is the value of a label as well, whose key must stay.
    each_text(rule.clone(), &|text| real.get(text).map_or_else(|| text.to_owned(), |uid| (*uid).clone()))
}

fn apply(kubectl: &Kubectl, objects: impl Iterator<Item = Value>) -> Result<()> {
    let documents = documents(objects);
    if documents.is_empty() { Ok(()) } else { kubectl.apply(&documents).map(drop) }
}

/// As they are sent: without what the API server writes itself.
fn documents(objects: impl Iterator<Item = Value>) -> String {
    let sent = objects.map(|mut object| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("uid");
            metadata.remove("creationTimestamp");
            metadata.remove("managedFields");
        }
        object.to_string()
    });
    sent.collect::<Vec<_>>().join("\n---\n")
}

/// Starts the client whose Envoy is asked. It stands somewhere, so that a preference for near endpoints shows.
///
/// # Errors
/// When it does not get available.
pub fn start_client(kubectl: &Kubectl) -> Result<()> {
    let labels = json!({"app": "client", "istio-locality": format!("{}.a", reading::CLIENT_REGION)});
    let annotations = json!({
        "readiness.status.sidecar.istio.io/initialDelaySeconds": "0",
        "readiness.status.sidecar.istio.io/periodSeconds": "1",
    });
    let container =
        json!({"name": "fortio", "image": images::FORTIO, "imagePullPolicy": "IfNotPresent", "args": ["server"]});
    let client = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "client"},
        "spec": {
            "selector": {"matchLabels": {"app": "client"}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
        },
    });
    kubectl.apply(&client.to_string())?;
    kubectl.rolled_out("deployment/client", Duration::from_mins(2))
}

/// What the client's Envoy holds once everything that was written before has reached it: a rule and routes
/// that are written now, and carry the number, are there.
///
/// # Errors
/// When they do not get there in time.
pub fn dump(kubectl: &Kubectl, number: u16) -> Result<ConfigDump> {
    let host = format!("marker.{}.svc.cluster.local", kubectl.current_namespace());
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "marker"},
        "spec": {"ports": [{"name": "http", "port": 80}]}});
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "marker"},
        "spec": {"host": host, "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": number}}}}});
    let routes = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "marker"},
        "spec": {"hosts": [host], "http": [{"timeout": format!("{number}s"), "route": [{"destination": {"host": host}}]}]}});
    kubectl.apply(&format!("{service}\n---\n{rule}\n---\n{routes}"))?;
    kubectl.until("the client's Envoy has all that was written", SOON, |kubectl| {
        let dump = ConfigDump::of(kubectl, "deploy/client")?;
        let rule = reading::cluster(&dump, &format!("outbound|80||{host}"));
        let connections = rule.and_then(|values| values.get("limits.perClient.connections").cloned());
        let time = dump.virtual_host(80, &host).map(|host| reading::route(host, "GET"));
        let time = time.and_then(|values| values.get("timeouts.request").cloned());
        let there = connections == Some(number.to_string()) && time == Some(format!("{number}s"));
        Ok(if there { Seen::Done(dump) } else { Seen::NotYet(format!("marker {connections:?}, {time:?}")) })
    })
}
