//! What a field of a policy stands for in Istio, found by rendering: two policies that differ in one field, and
//! the fields of the generated objects that differ between them.

use std::collections::BTreeMap;

use resilience_operator::{
    cli::{input, world::World},
    istio::{Kind, written_fields},
    translate::translate,
    validate::Settings,
};
use serde_json::{Value, json};

use super::Counterparts;

/// A policy that says everything, and another one that says everything otherwise.
fn blocks(second: bool) -> Value {
    let of = |one: Value, other: Value| if second { other } else { one };
    json!({
        "limits": {
            "perClient": {
                "connections": of(1.into(), 101.into()), "pendingRequests": of(2.into(), 102.into()),
                "activeRequests": of(3.into(), 103.into()), "requestsPerConnection": of(4.into(), 104.into()),
                "concurrentRetries": of(5.into(), 105.into()),
            },
            "perServer": {
                "mode": "Limited", "connections": of(6.into(), 106.into()), "pendingRequests": of(7.into(), 107.into()),
                "activeRequests": of(8.into(), 108.into()), "requestsPerConnection": of(9.into(), 109.into()),
            },
        },
        "ejection": {
            "consecutive5xx": of(5.into(), 6.into()), "consecutiveGateway": of(3.into(), 4.into()),
            "consecutiveLocalOrigin": of(2.into(), 3.into()), "interval": of("11s".into(), "12s".into()),
            "baseTime": of("31s".into(), "32s".into()), "maxPercent": of(34.into(), 50.into()),
            "minHealthyPercent": of(10.into(), 20.into()), "localityFailover": of("Disabled".into(), "Inherit".into()),
        },
        "timeouts": {
            "connect": of("1s".into(), "2s".into()), "request": of("7s".into(), "8s".into()),
            "idle": of("1h".into(), "2h".into()), "lifetime": of("3h".into(), "4h".into()),
        },
        "retries": {
            "attempts": of(2.into(), 3.into()), "retryOn": of(json!(["ConnectFailure"]), json!(["Reset"])),
            "statusCodes": of(json!([503]), json!([504])), "methods": of(json!(["GET"]), json!(["HEAD"])),
            "perTryTimeout": of("2s".into(), "3s".into()), "backoff": of("30ms".into(), "40ms".into()),
        },
    })
}

/// A budget stands in the place of a number of retries.
fn with_budget(second: bool) -> Value {
    let mut blocks = blocks(second);
    blocks["limits"]["perClient"].as_object_mut().expect("limits").remove("concurrentRetries");
    blocks["retries"]["budget"] =
        json!({"percent": if second { 30 } else { 20 }, "minConcurrency": if second { 5 } else { 4 }});
    blocks
}

/// Each field of the blocks, by path, with the fields of Istio that follow it.
pub fn all() -> Counterparts {
    let mut found = Counterparts::new();
    for (one, other) in [(blocks(false), blocks(true)), (with_budget(false), with_budget(true))] {
        let before = generated(&one).expect("it is legal");
        for pointer in pointers(&one, "") {
            let path = pointer.trim_start_matches('/').replace('/', ".");
            if path == "limits.perServer.mode" {
                continue;
            }
            let mut changed = one.clone();
            *changed.pointer_mut(&pointer).expect("it is there") = other.pointer(&pointer).expect("there too").clone();
            let after = generated(&changed).unwrap_or_else(|why| panic!("{path}: {why}"));
            found.insert(path, differing(&before, &after));
        }
    }
    let unlimited = {
        let mut changed = blocks(false);
        changed["limits"]["perServer"] = json!({"mode": "Unlimited"});
        differing(&generated(&blocks(false)).expect("legal"), &generated(&changed).expect("legal"))
    };
    found.insert("limits.perServer.mode".to_owned(), unlimited);
    found
}

/// What Istio is sent for a word of a list, where it is sent one.
pub fn sent_for(field: &str, word: &str) -> Option<String> {
    let mut changed = blocks(false);
    match field {
        "retries.retryOn[]" => changed["retries"]["retryOn"] = json!([word]),
        _ => return None,
    }
    changed["retries"].as_object_mut().expect("retries").remove("statusCodes");
    let generated = generated(&changed).expect("it is legal");
    generated.get("VirtualService http[].retries.retryOn")?.iter().find_map(|sent| sent.as_str().map(str::to_owned))
}

/// Paths of all that is no object, as pointers.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let Some(fields) = value.as_object() else { return vec![at.to_owned()] };
    fields.iter().flat_map(|(name, inner)| pointers(inner, &format!("{at}/{name}"))).collect()
}

/// Values of the generated objects by kind and path.
type Generated = BTreeMap<String, Vec<Value>>;

fn generated(blocks: &Value) -> Result<Generated, String> {
    let mut spec = blocks.clone();
    spec["targetRefs"] = json!([{"kind": "Service", "name": "orders"}]);
    let policy = json!({"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": "orders"}, "spec": spec});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"},
        "spec": {"selector": {"app": "orders"}, "ports": [{"name": "http", "port": 80}]}});
    let text = format!("{service}\n---\n{policy}\n");
    let world = World::new(input::read(&["-".into()], &mut text.as_bytes()), "default", &Settings::default());
    assert_eq!(world.unreadable, Vec::<String>::new());
    let valid = world.decide(&world.policies[0], Some(3)).map_err(|faults| format!("{faults:?}"))?;
    let mut generated = Generated::new();
    for object in translate(&valid).objects() {
        gather(object.kind, &object.json["spec"], "", &mut generated);
    }
    let known: Vec<String> = Kind::ALL
        .into_iter()
        .flat_map(|kind| written_fields(kind).iter().map(move |field| format!("{kind} {}", field.path)))
        .collect();
    let of_labels = |path: &str| path.starts_with("Sidecar workloadSelector.labels.");
    let unknown = generated.keys().find(|path| !known.contains(path) && !of_labels(path));
    assert_eq!(unknown, None, "a field that is not among those that are written");
    Ok(generated)
}

fn gather(kind: Kind, value: &Value, at: &str, found: &mut Generated) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                gather(kind, inner, &path, found);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for inner in list {
                gather(kind, inner, &format!("{at}[]"), found);
            }
        }
        value => found.entry(format!("{kind} {at}")).or_default().push(value.clone()),
    }
}

/// Fields whose values differ, but for names of routes, which tell what the routes do.
fn differing(before: &Generated, after: &Generated) -> Vec<String> {
    let paths = before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path));
    let mut paths: Vec<String> = paths.filter(|path| *path != "VirtualService http[].name").cloned().collect();
    paths.sort();
    paths.dedup();
    paths
}
