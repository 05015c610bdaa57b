//! What the API server holds, and what a write makes of it.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Bytes;
use futures::channel::mpsc;
use serde_json::{Value, json};

use super::Fault;

/// Plural, namespace, name.
pub type Key = (String, String, String);

#[derive(Default)]
pub struct State {
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) applied: BTreeMap<Key, Value>,
    pub(super) version: u64,
    pub(super) history: Vec<(u64, String, String)>,
    pub(super) watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    pub(super) writes: Vec<String>,
    pub(super) events: Vec<Value>,
    pub(super) faults: Vec<(String, Fault)>,
    /// The OpenAPI document of Istio's kinds, which applies are held to; `null`: none.
    pub(super) open_api: Value,
    pub(super) served: bool,
    /// The Gateway API is installed.
    pub(super) gateway_api: bool,
    /// Plurals and namespaces (empty: all at once) that may not be listed.
    pub(super) barred: BTreeSet<(String, String)>,
    pub(super) looks: usize,
    pub(super) documents_read: usize,
}

pub(super) fn merge(into: &mut Value, from: &Value) {
    if from.is_object() && !into.is_object() {
        *into = json!({});
    }
    let (Value::Object(target), Value::Object(patch)) = (&mut *into, from) else {
        *into = from.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else if key == "ownerReferences" {
            let list = target.entry(key.clone()).or_insert_with(|| json!([])).as_array_mut().unwrap();
            for owner in value.as_array().unwrap() {
                list.retain(|known| known["uid"] != owner["uid"]);
                list.push(owner.clone());
            }
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Takes from `live` what `before` had set and `now` does not any more.
fn disown(live: &mut Value, before: &Value, now: &Value) {
    let (Value::Object(target), Value::Object(before)) = (live, before) else { return };
    for (key, old) in before {
        match now.get(key) {
            None => drop(target.remove(key)),
            Some(new) => {
                if let Some(inner) = target.get_mut(key) {
                    disown(inner, old, new);
                }
            }
        }
    }
}

impl State {
    /// As `kubectl create` or `replace` by somebody else: a new object.
    pub fn put(&mut self, plural: &str, mut object: Value) {
        let key = key(plural, &object);
        self.version += 1;
        let meta = object["metadata"].as_object_mut().unwrap();
        let uid = format!("uid-{}", self.version);
        meta.entry("uid").or_insert_with(|| uid.into());
        meta.entry("generation").or_insert_with(|| 1.into());
        meta.entry("creationTimestamp").or_insert_with(|| "2026-01-01T00:00:00Z".into());
        self.store(&key, object);
    }

    pub(super) fn store(&mut self, key: &Key, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let known = self.objects.insert(key.clone(), object.clone());
        self.tell(if known.is_some() { "MODIFIED" } else { "ADDED" }, &key.0, &object);
    }

    pub fn tell(&mut self, kind: &str, plural: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        self.history.push((self.version, plural.to_owned(), line.clone()));
        self.watchers
            .retain(|(watched, sender)| watched != plural || sender.unbounded_send(Bytes::from(line.clone())).is_ok());
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let mut object = self.objects.remove(key)?;
        let beginning = key.0.clone() + "/";
        self.applied.retain(|slot, _| !slot.0.starts_with(&beginning) || (&slot.1, &slot.2) != (&key.1, &key.2));
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell("DELETED", &key.0, &object);
        Some(object)
    }

    /// What the API server says to an apply with a field that the CRD does not declare (measured M78).
    fn undeclared(&self, key: &Key, config: &Value) -> Option<String> {
        let kind = match key.0.as_str() {
            "sidecars" => "Sidecar",
            "destinationrules" => "DestinationRule",
            _ => "VirtualService",
        };
        let schema = self.open_api["components"]["schemas"].get(kind)?;
        let mut missing = Vec::new();
        undeclared(&schema["properties"]["spec"], &config["spec"], ".spec", &mut missing);
        missing.first().map(|path| format!("failed to create typed patch object: {path}: field not declared in schema"))
    }

    /// As somebody else's `kubectl apply --server-side`.
    pub fn apply_as(&mut self, plural: &str, config: Value, manager: &str) -> Result<Value, (u16, Value)> {
        self.apply(&key(plural, &config), config, false, manager, false)
    }

    pub(super) fn apply(
        &mut self,
        key: &Key,
        mut config: Value,
        status: bool,
        manager: &str,
        force: bool,
    ) -> Result<Value, (u16, Value)> {
        let meta = config["metadata"].as_object_mut().unwrap();
        let (version, uid) = (meta.remove("resourceVersion"), meta.remove("uid"));
        let live = self.objects.get(key).cloned();
        if let Some(refused) = self.undeclared(key, &config) {
            return Err((500, refusal(500, &refused, "")));
        }
        match &live {
            Some(live) if uid.as_ref().is_some_and(|uid| *uid != live["metadata"]["uid"]) => {
                return Err((422, refusal(422, "field is immutable", "metadata.uid")));
            }
            Some(live) if version.as_ref().is_some_and(|version| *version != live["metadata"]["resourceVersion"]) => {
                return Err((409, refusal(409, "the object has been modified", "")));
            }
            None if uid.is_some() || status => return Err((409, refusal(409, "uid mismatch", ""))),
            _ => {}
        }
        let part = if status { "/status" } else { "" };
        let mine = (key.0.clone() + part + "/" + manager, key.1.clone(), key.2.clone());
        let beginning = key.0.clone() + part + "/";
        let others: Vec<(String, Value)> = self
            .applied
            .iter()
            .filter(|(slot, _)| {
                slot.0.starts_with(&beginning) && **slot != mine && (&slot.1, &slot.2) == (&key.1, &key.2)
            })
            .map(|(slot, config)| (slot.0[beginning.len()..].to_owned(), config.clone()))
            .collect();
        let mut conflicts = Vec::new();
        for (other, has) in &others {
            contested(&has["spec"], &config["spec"], ".spec", other, &mut conflicts);
        }
        if !force && !conflicts.is_empty() {
            let mut status = refusal(409, &format!("Apply failed with {} conflicts", conflicts.len()), "");
            status["details"]["causes"] = conflicts.into();
            return Err((409, status));
        }
        let mut next = live.clone().unwrap_or_else(|| json!({}));
        if let Some(before) = self.applied.insert(mine, config.clone()) {
            let mut stays = config.clone();
            for (_, config) in &others {
                merge(&mut stays, config);
            }
            disown(&mut next, &before, &stays);
        }
        merge(&mut next, &config);
        if !status {
            let entry = |manager: &str, config: &Value| json!({"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": fields(&config["spec"])}});
            let known = |name: &Value| *name == manager || others.iter().any(|(other, _)| *name == *other.as_str());
            // What a test booked by itself stays.
            let mut entries = next["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            entries.retain(|entry| !known(&entry["manager"]));
            entries.extend(others.iter().map(|(manager, config)| entry(manager, config)));
            entries.push(entry(manager, &config));
            next["metadata"]["managedFields"] = entries.into();
        }
        Ok(self.settle(key, live, next))
    }

    /// Stores what a write came to, unless it came to nothing.
    pub(super) fn settle(&mut self, key: &Key, live: Option<Value>, mut next: Value) -> Value {
        match live {
            None => self.put(&key.0, next),
            Some(live) if live == next => {}
            Some(live) => {
                if live["spec"] != next["spec"] {
                    let generation = live["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                    next["metadata"]["generation"] = generation.into();
                }
                self.store(key, next);
            }
        }
        self.objects[key].clone()
    }
}

/// Paths in `value` that the schema does not have.
fn undeclared(schema: &Value, value: &Value, at: &str, missing: &mut Vec<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{at}.{key}");
        match schema["properties"].get(key) {
            None => missing.push(path),
            Some(schema) => undeclared(schema, inner, &path, missing),
        }
    }
    for inner in value.as_array().into_iter().flatten() {
        undeclared(&schema["items"], inner, at, missing);
    }
}

/// Fields that one manager has with another value than an apply wants.
fn contested(has: &Value, wants: &Value, at: &str, manager: &str, causes: &mut Vec<Value>) {
    match (has, wants) {
        (Value::Object(has), Value::Object(wants)) => {
            for (key, wants) in wants {
                contested(has.get(key).unwrap_or(&Value::Null), wants, &format!("{at}.{key}"), manager, causes);
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        (has, wants) if has == wants => {}
        _ => causes.push(json!({
            "reason": "FieldManagerConflict", "field": at,
            "message": format!("conflict with {manager:?} using networking.istio.io/v1"),
        })),
    }
}

/// A value as the API server books its fields.
fn fields(value: &Value) -> Value {
    let inner = value.as_object().into_iter().flatten().map(|(key, value)| (format!("f:{key}"), fields(value)));
    Value::Object(inner.collect())
}

pub(super) fn key(plural: &str, object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
    (plural.to_owned(), text("namespace").unwrap_or_default(), text("name").unwrap())
}

pub(super) fn refusal(code: u16, message: &str, field: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        403 => "Forbidden",
        _ => "",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": reason, "details": {"causes": [{"field": field}]},
    })
}
