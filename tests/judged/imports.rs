//! What `import` makes of files, in the eyes of Istio's generator: once it is rendered, every client is sent the
//! clusters and routes of before. The files are Istio's own samples and the objects that it is tested with, read of the
//! pinned sources, and those of `tests/import`.
//!
//! What came of each of Istio's stands in `istios_own.txt`; `UPDATE_GOLDEN=1` writes it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use resilience_operator::{
    api::{Ownership, Resilience},
    cli::{import::of_files, input, world::World},
    import::{Fate, Imported, SourceFate},
    istio::resolve_host,
    translate::translate,
    validate::Settings,
};
use serde_json::{Value, json};

use crate::{envoy::meant, lines::Oracle, oracle};

/// Where objects go that name no namespace.
const NAMESPACE: &str = "default";

/// A namespace of clients that none of the files is about.
const ELSEWHERE: &str = "elsewhere";

fn sources() -> PathBuf {
    let folder = std::env::var_os("JUDGED_ISTIO").map(PathBuf::from);
    folder.expect("JUDGED_ISTIO names no folder of Istio's sources: run `cargo lab scenario`, which finds it")
}

/// Every YAML file below a folder, in order.
fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Kind, namespace and name.
type Id = (String, String, String);

fn id(object: &Value) -> Id {
    (
        text(object, "/kind").to_owned(),
        text(object, "/metadata/namespace").to_owned(),
        text(object, "/metadata/name").to_owned(),
    )
}

/// The objects of a file that these are, each in a namespace.
fn objects(file: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let read = input::read(&[file.to_owned()], &mut std::io::empty()).objects.into_iter().map(|object| object.value);
    let mut objects: Vec<Value> = read.filter(|object| is_wanted(text(object, "/kind"))).collect();
    for object in &mut objects {
        if text(object, "/metadata/namespace").is_empty() {
            object["metadata"]["namespace"] = json!(NAMESPACE);
        }
    }
    objects
}

fn is_target(kind: &str) -> bool {
    matches!(kind, "Service" | "ServiceEntry")
}

fn is_routing(kind: &str) -> bool {
    matches!(kind, "DestinationRule" | "VirtualService")
}

/// One file with something to import, in a world of its own.
struct Own {
    /// Its path.
    name: String,
    objects: Vec<Value>,
}

impl Own {
    /// A file with the targets that it has itself, those of other files, and one for each other host of the cluster that
    /// it names; none: there is nothing to import.
    fn read(name: &str, file: &Path, beside: &[PathBuf]) -> Option<Self> {
        let routing = objects(file, is_routing);
        if routing.is_empty() {
            return None;
        }
        let mut all = objects(file, |kind| is_target(kind) || kind == "Sidecar");
        all.extend(beside.iter().flat_map(|file| objects(file, is_target)));
        let mut seen = BTreeSet::new();
        all.retain(|object| seen.insert(id(object)));
        let missing = stand_ins(&all, &routing);
        all.extend(missing);
        all.extend(routing);
        Some(Self { name: name.to_owned(), objects: all })
    }

    /// What is imported of it, and where Istio would send something else once that is rendered.
    fn judged(&self, oracle: &mut Oracle) -> (Vec<Imported>, Vec<String>) {
        let settings = Settings::default();
        let hosts = of_files(&Self::world(&self.objects, &settings), &settings).hosts;
        for host in &hosts {
            assert!(host.policy.is_some() || !host.left.is_empty(), "{}: nothing is said of {}", self.name, host.host);
        }
        let mut differences = Vec::new();
        if hosts.iter().any(|host| host.policy.is_some()) {
            let (before, after) = (sent(oracle, &self.objects), sent(oracle, &self.after(&hosts, &settings)));
            differing("", &before, &after, &mut differences);
        }
        (hosts, differences)
    }

    fn world(objects: &[Value], settings: &Settings) -> World {
        let items = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let world = World::new(input::read(&[PathBuf::from("-")], &mut items.as_bytes()), NAMESPACE, settings);
        assert_eq!(world.unreadable, Vec::<String>::new());
        world
    }

    /// What is there after the policies are rendered, and what they take the place of is gone.
    fn after(&self, hosts: &[Imported], settings: &Settings) -> Vec<Value> {
        let mut all = self.objects.clone();
        for host in hosts {
            let Some(policy) = &host.policy else { continue };
            let namespace = policy.metadata.namespace.clone().unwrap_or_default();
            let gone = host.from.iter().filter(|source| source.fate == SourceFate::Replaced);
            let gone: Vec<Id> = gone.map(|one| (one.kind.clone(), namespace.clone(), one.name.clone())).collect();
            all.retain(|object| !gone.contains(&id(object)));
            for (ownership, object) in rendered(policy, &all, settings) {
                match all.iter_mut().find(|other| id(other) == id(&object)) {
                    Some(other) if ownership == Ownership::CoOwned => merge(&mut other["spec"], &object["spec"]),
                    Some(other) => panic!("{} stands in the way of what is rendered: {other}", self.name),
                    None => all.push(object),
                }
            }
        }
        all
    }
}

/// What `render` makes of a policy beside these objects.
fn rendered(policy: &Resilience, objects: &[Value], settings: &Settings) -> Vec<(Ownership, Value)> {
    let mut file = serde_json::to_value(policy).unwrap();
    (file["apiVersion"], file["kind"]) = (json!("resilience.dev/v1alpha1"), json!("Resilience"));
    let all: Vec<Value> = objects.iter().cloned().chain([file]).collect();
    let world = Own::world(&all, settings);
    let valid = world.decide(&world.policies[0], None).unwrap_or_else(|faults| panic!("{faults:?}"));
    translate(&valid).objects().into_iter().map(|object| (object.ownership, object.json)).collect()
}

/// As server-side apply merges a block into a rule.
fn merge(there: &mut Value, applied: &Value) {
    match (there, applied) {
        (Value::Object(there), Value::Object(applied)) => {
            for (key, value) in applied {
                merge(there.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (there, applied) => there.clone_from(applied),
    }
}

/// The host that a name means in a namespace.
fn host(name: &str, namespace: &str) -> String {
    resolve_host(name, namespace, "cluster.local").to_lowercase()
}

/// A Service for each host of the cluster that nobody has and an object of the host's own namespace names, with the
/// ports that are named beside it.
fn stand_ins(targets: &[Value], routing: &[Value]) -> Vec<Value> {
    let known: BTreeSet<String> = targets
        .iter()
        .flat_map(|target| {
            let (namespace, name) = (text(target, "/metadata/namespace"), text(target, "/metadata/name"));
            let hosts = target.pointer("/spec/hosts").and_then(Value::as_array).into_iter().flatten();
            let hosts: Vec<String> = hosts.filter_map(Value::as_str).map(str::to_lowercase).collect();
            if text(target, "/kind") == "Service" { vec![host(name, namespace)] } else { hosts }
        })
        .collect();
    let mut wanted: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    for object in routing {
        let namespace = text(object, "/metadata/namespace");
        let several = object.pointer("/spec/hosts").and_then(Value::as_array).into_iter().flatten();
        for named in several.filter_map(Value::as_str).chain(object.pointer("/spec/host").and_then(Value::as_str)) {
            let whole = host(named, namespace);
            let Some((name, "svc.cluster.local")) = whole.split_once(&format!(".{namespace}.")) else { continue };
            if !known.contains(&whole) && !name.contains(['*', '.']) {
                let ports = wanted.entry((namespace.to_owned(), name.to_owned())).or_insert_with(|| [80].into());
                numbers(&object["spec"], ports);
            }
        }
    }
    let service = |((namespace, name), ports): ((String, String), BTreeSet<u64>)| {
        let ports: Vec<Value> =
            ports.iter().map(|port| json!({"name": format!("http-{port}"), "port": port})).collect();
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": name}, "ports": ports}})
    };
    wanted.into_iter().map(service).collect()
}

/// Every `port.number` in an object.
fn numbers(value: &Value, into: &mut BTreeSet<u64>) {
    match value {
        Value::Object(fields) => {
            into.extend(value.pointer("/port/number").and_then(Value::as_u64));
            fields.values().for_each(|value| numbers(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| numbers(value, into)),
        _ => {}
    }
}

/// What Istio would send to clients beside the objects and elsewhere.
fn sent(oracle: &mut Oracle, objects: &[Value]) -> Value {
    let mut namespaces: BTreeSet<&str> = objects.iter().map(|object| text(object, "/metadata/namespace")).collect();
    namespaces.insert(ELSEWHERE);
    let clients: Vec<Value> = namespaces.iter().map(|one| json!({"namespace": one, "labels": {"app": "a"}})).collect();
    let question = json!({"op": "configure", "world": {"mesh": {}, "objects": objects}, "clients": clients});
    let mut answer = oracle.ask(&[question]).expect("the oracle answers").remove(0);
    meant(&mut answer);
    answer
}

/// The places where two values differ.
fn differing(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let of = |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or_default();
                differing(&format!("{path}/{key}"), &of(before), &of(after), found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (one, other)) in before.iter().zip(after).enumerate() {
                differing(&format!("{path}/{index}"), one, other, found);
            }
        }
        _ if one == other => {}
        _ => found.push(format!("{path}: {one} -> {other}")),
    }
}

/// What came of a file, host by host.
fn told(own: &Own, hosts: &[Imported]) -> String {
    let mut told = format!("{}\n", own.name);
    for host in hosts {
        let whole = if host.is_whole() { "whole" } else { "in part" };
        let came = host.policy.as_ref().map_or("not imported".to_owned(), |_| format!("imported {whole}"));
        writeln!(told, "  {}: {came}, {} values the same", host.host, host.same.len()).unwrap();
        for source in host.from.iter().filter(|source| source.fate != SourceFate::Stays) {
            let fate = if source.fate == SourceFate::Replaced { "replaced" } else { "shared" };
            writeln!(told, "    {} {} is {fate}", source.kind, source.name).unwrap();
        }
        for left in &host.left {
            assert!(!left.message.is_empty() && !left.path.is_empty(), "{}: {left:?}", own.name);
            let why = if left.fate == Fate::CannotBeImported { format!(": {}", left.message) } else { String::new() };
            writeln!(told, "    {} {} {}{why}", left.object, left.path, left.fate.words()).unwrap();
        }
    }
    told
}

/// Faults of many files, and what was counted.
#[derive(Default)]
struct Tally {
    files: usize,
    hosts: usize,
    imported: usize,
    faults: Vec<String>,
}

impl Tally {
    fn add(&mut self, own: &Own, hosts: &[Imported], differences: &[String]) {
        self.files += 1;
        self.hosts += hosts.len();
        self.imported += hosts.iter().filter(|host| host.policy.is_some()).count();
        if !differences.is_empty() {
            self.faults.push(format!("{}:\n  {}", own.name, differences.join("\n  ")));
        }
    }

    fn conclude(&self, least: usize) {
        let Self { files, hosts, imported, faults } = self;
        println!("{files} files, {hosts} hosts, {imported} of them imported, and nothing changes");
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(*imported >= least, "only {imported} hosts are imported: too few to prove anything");
    }
}

#[test]
fn import_then_render_changes_nothing_on_istios_own_objects() {
    let (root, mut oracle, mut tally, mut all) = (sources(), oracle(), Tally::default(), String::new());
    for file in yaml_files(&root) {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let beside = match name.split('/').collect::<Vec<_>>()[..] {
            ["samples", sample, _, ..] => yaml_files(&root.join("samples").join(sample)),
            _ => Vec::new(),
        };
        let Some(own) = Own::read(&name, &file, &beside) else { continue };
        let (hosts, differences) = own.judged(&mut oracle);
        all.push_str(&told(&own, &hosts));
        tally.add(&own, &hosts, &differences);
    }
    // None of them is, which the list says: these are about versions, faults and gateways.
    tally.conclude(0);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judged/istios_own.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &all).unwrap();
    }
    let want = fs::read_to_string(&golden).unwrap_or_default();
    let (want, have): (Vec<&str>, Vec<&str>) = (want.lines().collect(), all.lines().collect());
    let first = want.iter().zip(&have).position(|(one, other)| one != other).unwrap_or(want.len().min(have.len()));
    assert_eq!(want.get(first), have.get(first), "line {}; if this is meant: UPDATE_GOLDEN=1", first + 1);
}

#[test]
fn import_then_render_changes_nothing_on_our_golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let (mut oracle, mut tally) = (oracle(), Tally::default());
    for file in yaml_files(&folder) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(own) = Own::read(&name, &file, &[]).filter(|_| name.ends_with(".in.yaml")) {
            let (hosts, differences) = own.judged(&mut oracle);
            tally.add(&own, &hosts, &differences);
        }
    }
    tally.conclude(10);
}
