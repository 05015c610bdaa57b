//! In: a golden pair of `tests/translate`. Out: its world as objects of a real cluster, in a namespace of its
//! own, with hosts that no other golden has; and what it says of status, to be compared with a real one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The namespace that goldens are written for.
const WRITTEN_FOR: &str = "default";
/// How long the name of a namespace may be (RFC 1123). Of a golden's name the beginning is kept.
const LABEL: usize = 63;
/// The namespace of nobody's goldens: what stands there is Istio's.
const ISTIO: &str = "istio-system";
/// Holds the uid of the policy that an object of ours belongs to.
const OWNER_LABEL: &str = "/metadata/labels/resilience.dev~1owner-uid";

/// A golden pair, moved.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Of the files, without their endings.
    pub name: String,
    /// Where its policies are.
    pub namespace: String,
    /// The first half.
    pub objects: Vec<Value>,
    /// `status` of each policy by its name, as the second half says.
    pub says: BTreeMap<String, Value>,
}

/// What a policy is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// As clients call it, and Istio names it.
    pub host: String,
    /// Its ports that proxies carry; none where there is no such target.
    pub ports: Vec<u16>,
}

impl Golden {
    /// Reads a pair by its first half. `unique` goes into the names of its namespaces, and is no other golden's.
    ///
    /// # Errors
    /// When a half cannot be read.
    pub fn read(input: &Path, unique: &str) -> Result<Self> {
        let file = input.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = file.trim_end_matches(".in.yaml").to_owned();
        let output = input.with_file_name(format!("{name}.out.yaml"));
        Self::of(&name, unique, &documents(input)?, &documents(&output)?)
    }

    /// Both halves as documents.
    pub(super) fn of(name: &str, unique: &str, input: &[Value], output: &[Value]) -> Result<Self> {
        let hosts = external_hosts(input);
        let others = other_namespaces(input);
        let labels = hosts.iter().filter_map(|host| host.trim_start_matches("*.").split('.').next());
        let longest = labels.chain(others.iter().map(String::as_str)).map(|label| label.len() + 1).max();
        let behind = longest.unwrap_or_default() + unique.len() + 1;
        let room = LABEL.checked_sub(behind).filter(|room| *room > 0);
        let room = room.with_context(|| format!("{name}: {unique} leaves no room in a namespace's name"))?;
        let namespace = format!("{}-{unique}", name.get(..room).unwrap_or(name));
        let moved = |text: &str| moved(text, &namespace, &hosts, &others);
        let mut objects: Vec<Value> = input.iter().map(|object| each_text(object.clone(), &moved)).collect();
        for (object, original) in objects.iter_mut().zip(input) {
            // `istio.io/rev: default` is a revision and no namespace.
            if let Some(labels) = original.pointer("/metadata/labels") {
                object["metadata"]["labels"] = labels.clone();
            }
        }
        for object in &mut objects {
            settle(object, &namespace);
        }
        give_ports(&mut objects);
        let is_policy = |object: &&Value| object["kind"] == "Resilience" && object.get("status").is_some();
        let says =
            output.iter().filter(is_policy).map(|object| (text(object, "/metadata/name"), object["status"].clone()));
        Ok(Self { name: name.to_owned(), namespace, objects, says: says.collect() })
    }

    /// A text of a real cluster, as it stands in the second half.
    #[must_use]
    pub fn back(&self, status: Value) -> Value {
        each_text(status, &|text| {
            text.replace(&format!("{}-", self.namespace), "").replace(&self.namespace, WRITTEN_FOR)
        })
    }

    /// Its namespaces; they are there before all else.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Value> {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        for object in self.objects.iter().filter(|object| object["kind"] != "Namespace") {
            let name = text(object, "/metadata/namespace");
            // A golden without a word on its namespace means one that takes part in the mesh.
            let labels = json!({"istio-injection": "enabled"});
            all.insert(
                name.clone(),
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
            );
        }
        let own = self.of_kind("Namespace").map(|object| (text(object, "/metadata/name"), object.clone()));
        all.extend(own);
        all.remove(ISTIO);
        all.into_values().collect()
    }

    /// Objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// Objects in Istio's own namespace.
    pub fn of_istio(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| text(object, "/metadata/namespace") == ISTIO)
    }

    /// The policies' names, with what each is for.
    #[must_use]
    pub fn policies(&self) -> Vec<(String, Target)> {
        let policies = self.of_kind("Resilience");
        policies.map(|policy| (text(policy, "/metadata/name"), self.target(policy))).collect()
    }

    fn target(&self, policy: &Value) -> Target {
        let target = &policy["spec"]["targetRefs"][0];
        let (kind, name) = (target["kind"].as_str().unwrap_or_default(), target["name"].as_str().unwrap_or_default());
        let found = self.of_kind(kind).find(|object| {
            object["metadata"]["name"] == name && object["metadata"]["namespace"] == policy["metadata"]["namespace"]
        });
        let number = if kind == "Service" { "port" } else { "number" };
        let ports = found.and_then(|object| object.pointer("/spec/ports")).and_then(Value::as_array);
        let carried = ports.into_iter().flatten().filter(|port| port["protocol"] != "UDP");
        let ports = carried.filter_map(|port| u16::try_from(port.get(number)?.as_u64()?).ok()).collect();
        let host = match found.and_then(|object| object.pointer("/spec/hosts/0")).and_then(Value::as_str) {
            // Istio keeps capitals in the names of clusters.
            Some(host) => host.to_owned(),
            None => format!("{name}.{}.svc.cluster.local", text(policy, "/metadata/namespace")),
        };
        Target { host, ports }
    }

    /// Whether an object of this kind stands there that none of the policies owns.
    #[must_use]
    pub fn has_foreign(&self, kind: &str) -> bool {
        let owners: Vec<String> = self.of_kind("Resilience").map(|policy| text(policy, "/metadata/uid")).collect();
        self.of_kind(kind).any(|object| !owners.contains(&text(object, OWNER_LABEL)))
    }
}

/// The documents of a file.
fn documents(path: &Path) -> Result<Vec<Value>> {
    let all = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let says_something = |document: &&str| document.lines().any(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |document| serde_saphyr::from_str(document).with_context(|| format!("{} is no YAML", path.display()));
    all.split("\n---\n").filter(says_something).map(parse).collect()
}

/// Hosts of `ServiceEntries` that are not of the cluster: two goldens may have the same.
fn external_hosts(objects: &[Value]) -> Vec<String> {
    let entries = objects.iter().filter(|object| object["kind"] == "ServiceEntry");
    let hosts = entries.flat_map(|entry| entry.pointer("/spec/hosts").and_then(Value::as_array).into_iter().flatten());
    let hosts = hosts.filter_map(Value::as_str);
    // One without a dot may be the name of anything.
    let hosts = hosts.filter(|host| host.contains('.') && !host.ends_with(".svc.cluster.local"));
    hosts.map(str::to_owned).collect()
}

fn other_namespaces(objects: &[Value]) -> Vec<String> {
    let named = objects.iter().map(|object| {
        let field = if object["kind"] == "Namespace" { "/metadata/name" } else { "/metadata/namespace" };
        text(object, field)
    });
    let mut named: Vec<String> = named.filter(|name| ![WRITTEN_FOR, ISTIO, ""].contains(&name.as_str())).collect();
    named.sort();
    named.dedup();
    named
}

/// A text of a golden, for the namespace.
fn moved(text: &str, namespace: &str, hosts: &[String], others: &[String]) -> String {
    if let Some(host) = hosts.iter().find(|host| text.eq_ignore_ascii_case(host)) {
        return match host.strip_prefix("*.") {
            Some(rest) => format!("*.{namespace}-{rest}"),
            None => format!("{namespace}-{text}"),
        };
    }
    let word = |word: &str| match word {
        WRITTEN_FOR => namespace.to_owned(),
        other if others.iter().any(|one| one == other) => format!("{namespace}-{other}"),
        other => other.to_owned(),
    };
    // `default`, `x.default.svc.cluster.local`, `default/gateway`.
    let part = |part: &str| {
        let (name, end) = part.split_at(part.trim_end_matches(['.', '/']).len());
        word(name) + end
    };
    text.split_inclusive(['.', '/']).map(part).collect()
}

/// Leaves out what the API server writes itself, and gives a namespace to what has none.
fn settle(object: &mut Value, namespace: &str) {
    let cluster_wide = object["kind"] == "Namespace";
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["generation", "resourceVersion"] {
        metadata.remove(field);
    }
    if !cluster_wide {
        metadata.entry("namespace").or_insert_with(|| namespace.into());
    }
}

/// Slices of a cluster have the ports of their Service, without which they stand for no endpoint.
fn give_ports(objects: &mut [Value]) {
    let services: BTreeMap<(String, String), Value> = objects
        .iter()
        .filter(|object| object["kind"] == "Service")
        .map(|object| {
            let ports = object.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
            let ports = ports.map(|port| {
                let mut given =
                    json!({"port": port.get("targetPort").filter(|port| port.is_u64()).unwrap_or(&port["port"])});
                for field in ["name", "protocol", "appProtocol"] {
                    if let Some(value) = port.get(field) {
                        given[field] = value.clone();
                    }
                }
                given
            });
            ((text(object, "/metadata/namespace"), text(object, "/metadata/name")), ports.collect())
        })
        .collect();
    for slice in objects.iter_mut().filter(|object| object["kind"] == "EndpointSlice") {
        let key = (text(slice, "/metadata/namespace"), text(slice, "/metadata/labels/kubernetes.io~1service-name"));
        if let Some(ports) = services.get(&key)
            && slice.get("ports").is_none()
        {
            slice["ports"] = ports.clone();
        }
    }
}

/// The object with every text in it changed; keys stay.
#[must_use]
pub fn each_text(value: Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(&text).into(),
        Value::Array(list) => list.into_iter().map(|value| each_text(value, change)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, each_text(value, change))).collect(),
        other => other,
    }
}

/// A text in an object; empty if there is none.
#[must_use]
pub fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(input: &[Value]) -> Golden {
        Golden::of("a-golden", "7", input, &[]).unwrap()
    }

    fn policy(kind: &str, name: &str) -> Value {
        json!({"kind": "Resilience", "metadata": {"name": "p", "namespace": "default", "generation": 1},
            "spec": {"targetRefs": [{"kind": kind, "name": name}]}})
    }

    #[test]
    fn a_world_moves_with_every_word_of_its_namespace() {
        let rule = json!({"kind": "DestinationRule", "metadata": {"name": "default-rule"},
            "spec": {"host": "x.default.svc.cluster.local", "gateways": ["default/in", "istio-system/in", "shop/in"]}});
        let other = json!({"kind": "Service", "metadata": {"name": "y", "namespace": "shop"}});
        let moved = golden(&[rule, other]);
        assert_eq!(moved.objects[0]["spec"]["host"], "x.a-golden-7.svc.cluster.local");
        assert_eq!(
            moved.objects[0]["spec"]["gateways"],
            json!(["a-golden-7/in", "istio-system/in", "a-golden-7-shop/in"])
        );
        assert_eq!(moved.objects[0]["metadata"], json!({"name": "default-rule", "namespace": "a-golden-7"}));
        let names: Vec<String> = moved.namespaces().iter().map(|object| text(object, "/metadata/name")).collect();
        assert_eq!(names, ["a-golden-7", "a-golden-7-shop"]);
        let status = json!({"message": "DestinationRule a-golden-7/y has x.a-golden-7.svc.cluster.local, not a-golden-7-shop/z"});
        let back = json!({"message": "DestinationRule default/y has x.default.svc.cluster.local, not shop/z"});
        assert_eq!(moved.back(status), back);
    }

    #[test]
    fn the_longest_name_leaves_room_for_its_namespaces() {
        let other = json!({"kind": "Service", "metadata": {"name": "y", "namespace": "shop"}});
        let moved = Golden::of(&"a".repeat(70), "run-21610-101", &[other], &[]).unwrap();
        assert_eq!(moved.namespace, format!("{}-run-21610-101", "a".repeat(44)));
        let names: Vec<usize> = moved.namespaces().iter().map(|object| text(object, "/metadata/name").len()).collect();
        assert_eq!(names, [63]);
    }

    #[test]
    fn a_host_outside_of_the_cluster_is_the_golden_own_and_comes_back() {
        let entry = json!({"kind": "ServiceEntry", "metadata": {"name": "e"},
            "spec": {"hosts": ["api.example.org"], "ports": [{"number": 443, "protocol": "TLS"}]}});
        let moved = golden(&[policy("ServiceEntry", "e"), entry]);
        let host = "a-golden-7-api.example.org";
        assert_eq!(moved.policies()[0].1, Target { host: host.to_owned(), ports: vec![443] });
        assert_eq!(moved.back(json!(host)), json!("api.example.org"));
    }

    #[test]
    fn a_target_has_the_ports_that_proxies_carry_and_its_slices_have_them_too() {
        let service = json!({"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}});
        let slice =
            json!({"kind": "EndpointSlice", "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "x"}}});
        let moved = golden(&[policy("Service", "x"), service, slice]);
        let host = "x.a-golden-7.svc.cluster.local".to_owned();
        assert_eq!(moved.policies(), [("p".to_owned(), Target { host, ports: vec![80] })]);
        let ports = json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        assert_eq!(moved.objects[2]["ports"], ports);
    }

    #[test]
    fn what_none_of_the_policies_owns_is_foreign() {
        let mut policy = policy("Service", "x");
        policy["metadata"]["uid"] = "1".into();
        let rule =
            |uid: &str| json!({"kind": "DestinationRule", "metadata": {"labels": {"resilience.dev/owner-uid": uid}}});
        let foreign = |rule: Value| golden(&[policy.clone(), rule]).has_foreign("DestinationRule");
        assert!(
            !foreign(rule("1")) && foreign(rule("2")) && foreign(json!({"kind": "DestinationRule", "metadata": {}}))
        );
        assert!(!golden(&[policy.clone(), rule("2")]).has_foreign("VirtualService"));
    }

    #[test]
    fn a_label_says_what_it_said() {
        let namespace =
            json!({"kind": "Namespace", "metadata": {"name": "default", "labels": {"istio.io/rev": "default"}}});
        let moved = golden(&[namespace]);
        let expected = json!({"name": "a-golden-7", "labels": {"istio.io/rev": "default"}});
        assert_eq!(moved.namespaces()[0]["metadata"], expected);
    }
}
