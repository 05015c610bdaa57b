//! What the API server holds, and what a write makes of it.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Bytes;
use futures::channel::mpsc;
use http::Method;
use serde_json::{Value, json};

use super::{Fault, parameter};

/// Plural, namespace, name.
pub type Key = (String, String, String);

/// One call about one object.
pub struct Request {
    pub(super) method: Method,
    pub(super) key: Key,
    pub(super) subresource: bool,
    pub(super) apply: bool,
    pub(super) query: String,
    pub(super) body: Value,
}

/// One event.
pub struct Told {
    pub(super) version: u64,
    plural: String,
    kind: String,
    object: Value,
}

impl Told {
    /// As a watch has it.
    fn line(&self) -> Bytes {
        Bytes::from(json!({"type": self.kind, "object": self.object}).to_string() + "\n")
    }
}

/// One watch of a kind, and what of the history it has been told.
pub struct Watcher {
    pub(super) plural: String,
    pub(super) sender: mpsc::UnboundedSender<Bytes>,
    pub(super) told: usize,
}

/// What becomes of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is told.
    Now,
    /// It is kept back, and so is what comes after it, but for so many.
    Held(usize),
    /// It is never told.
    Never,
    /// It is told twice.
    Twice,
    /// After it, the one before it is told again.
    AndTheLastOne,
}

type OnCall = dyn FnMut(&str) -> Option<Fault> + Send;
type OnEvent = dyn FnMut(&str) -> Delivery + Send;
type OnChange = dyn FnMut(&State) + Send;

/// Asked at every call that a reconcile makes, at every event, and after every change.
#[derive(Default)]
pub struct Hooks {
    pub call: Option<Box<OnCall>>,
    pub event: Option<Box<OnEvent>>,
    pub change: Option<Box<OnChange>>,
}

#[derive(Default)]
pub struct State {
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) applied: BTreeMap<Key, Value>,
    pub(super) version: u64,
    pub(super) history: Vec<Told>,
    pub(super) watchers: Vec<Watcher>,
    /// Kinds whose events are kept back, and how many of the last ones.
    held: BTreeMap<String, usize>,
    /// Kinds whose next list is of an API server that lags behind by one event.
    pub lagging: BTreeSet<String>,
    /// Calls that are carried out when nobody waits for them any more.
    pub(super) late: Vec<Request>,
    /// Kinds in which somebody has had his hands.
    touched: BTreeSet<String>,
    /// Who looks on, and in.
    pub hooks: Hooks,
    pub(super) writes: Vec<String>,
    pub(super) events: Vec<Value>,
    pub(super) faults: Vec<(String, Fault)>,
    /// What pods have logged, by their names.
    pub(super) logs: BTreeMap<String, String>,
    /// The OpenAPI document of Istio's kinds, which applies are held to; `null`: none.
    pub(super) open_api: Value,
    pub(super) served: bool,
    /// The Gateway API is installed.
    pub(super) gateway_api: bool,
    /// Plurals and namespaces (empty: all at once) that may not be listed.
    pub(super) barred: BTreeSet<(String, String)>,
    pub(super) looks: usize,
    pub(super) documents_read: usize,
    pub(super) tokens: usize,
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
        let key = key_of(plural, &object);
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
        let (version, plural_, kind) = (self.version, plural.to_owned(), kind.to_owned());
        self.history.push(Told { version, plural: plural_, kind, object: object.clone() });
        match self.hooks.event.as_mut().map_or(Delivery::Now, |ask| ask(plural)) {
            Delivery::Now => self.pump(plural),
            Delivery::Held(last) => drop(self.held.insert(plural.to_owned(), last)),
            Delivery::Never => {
                let all = self.history.len();
                self.watchers.iter_mut().filter(|watcher| watcher.plural == plural).for_each(|one| one.told = all);
            }
            Delivery::Twice => {
                self.pump(plural);
                self.repeat(plural, 0);
            }
            Delivery::AndTheLastOne => {
                self.pump(plural);
                self.repeat(plural, 1);
            }
        }
        if let Some(mut look) = self.hooks.change.take() {
            look(self);
            self.hooks.change = Some(look);
        }
    }

    /// Tells the watches of a kind what they have not been told, but for what is held.
    pub(super) fn pump(&mut self, plural: &str) {
        let of_kind = |index: &usize| self.history[*index].plural == plural;
        let indices: Vec<usize> = (0..self.history.len()).filter(of_kind).collect();
        let held = self.held.get(plural).copied().unwrap_or(0);
        let free = &indices[..indices.len().saturating_sub(held)];
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.plural == plural) {
            for index in free.iter().filter(|index| **index >= watcher.told) {
                // Whoever does not listen any more misses nothing.
                let _gone = watcher.sender.unbounded_send(self.history[*index].line());
            }
            watcher.told = watcher.told.max(free.last().map_or(0, |last| last + 1));
        }
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
    }

    /// Tells one event of a kind once more, counted from the last.
    fn repeat(&mut self, plural: &str, from_the_last: usize) {
        let mut told = self.history.iter().rev().filter(|told| told.plural == plural);
        let Some(told) = told.nth(from_the_last) else { return };
        for watcher in self.watchers.iter().filter(|watcher| watcher.plural == plural) {
            let _gone = watcher.sender.unbounded_send(told.line());
        }
    }

    /// Keeps back all events of a kind from now on.
    pub fn hold(&mut self, plural: &str) {
        self.held.insert(plural.to_owned(), usize::MAX);
    }

    /// The watches of a kind that there are tell nothing any more, and do not end.
    pub fn silence(&mut self, plural: &str) {
        self.watchers.iter_mut().filter(|watcher| watcher.plural == plural).for_each(|one| one.told = usize::MAX);
    }

    /// Nothing is held any more, but for the kinds in `still`.
    pub fn release(&mut self, still: &BTreeSet<String>) {
        let held: Vec<String> = self.held.keys().filter(|plural| !still.contains(*plural)).cloned().collect();
        for plural in held {
            self.held.remove(&plural);
            self.pump(&plural);
        }
    }

    /// How many events of a kind some watch has not been told.
    pub fn untold(&self, plural: &str) -> usize {
        let told = self.watchers.iter().filter(|watcher| watcher.plural == plural).map(|watcher| watcher.told).min();
        let untold = self.history.iter().skip(told.unwrap_or(self.history.len()));
        untold.filter(|event| event.plural == plural).count()
    }

    /// The object of the last event, and its kind.
    pub fn last_change(&self) -> Option<(&str, &Value)> {
        self.history.last().map(|told| (told.plural.as_str(), &told.object))
    }

    /// As the garbage collector: takes what has owners, all of which are gone.
    pub fn collect(&mut self) {
        let uids: BTreeSet<String> = self.objects.values().map(|one| one["metadata"]["uid"].to_string()).collect();
        let dead = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| {
                !owners.is_empty() && owners.iter().all(|one| !uids.contains(&one["uid"].to_string()))
            })
        };
        let orphans: Vec<Key> = self.objects.iter().filter(|(_, one)| dead(one)).map(|(key, _)| key.clone()).collect();
        for orphan in orphans {
            self.remove(&orphan);
        }
    }

    /// Somebody has had his hands on objects of that kind that are not his.
    pub fn touched_by_user(&self, plural: &str) -> bool {
        self.touched.contains(plural)
    }

    /// As [`State::patch`], of an object that is ours.
    pub fn patch_by_hand(&mut self, plural: &str, name: &str, patch: &Value) {
        self.touched.insert(plural.to_owned());
        if self.find(plural, name).is_some() {
            self.patch(plural, name, patch);
        }
    }

    /// As [`State::delete`], of an object that is ours; it may not be there yet.
    pub fn delete_by_hand(&mut self, plural: &str, name: &str) {
        self.touched.insert(plural.to_owned());
        self.remove(&(plural.to_owned(), "ns".to_owned(), name.to_owned()));
    }

    /// Every object of a kind.
    pub fn all(&self, plural: &str) -> Vec<&Value> {
        self.objects.iter().filter(|(key, _)| key.0 == plural).map(|(_, object)| object).collect()
    }

    /// The object of that name in `ns`.
    pub fn find(&self, plural: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(plural.to_owned(), "ns".to_owned(), name.to_owned()))
    }

    /// Every version of every object of a kind that ever was, as its events have it.
    pub fn versions(&self, plural: &str) -> impl DoubleEndedIterator<Item = &Value> {
        self.history.iter().filter(move |told| told.plural == plural).map(|told| &told.object)
    }

    /// The objects of a kind as they were before its last event, and the version of that world.
    pub(super) fn before_the_last_event(&self, plural: &str) -> (u64, Vec<Value>) {
        let of_kind: Vec<_> = self.history.iter().filter(|told| told.plural == plural).collect();
        let Some((last, earlier)) = of_kind.split_last() else { return (self.version, Vec::new()) };
        let mut there = BTreeMap::new();
        for told in earlier {
            let key = key_of(plural, &told.object);
            if told.kind == "DELETED" {
                there.remove(&key);
            } else {
                there.insert(key, told.object.clone());
            }
        }
        (last.version - 1, there.into_values().collect())
    }

    /// As somebody else's `kubectl patch`.
    pub fn patch(&mut self, plural: &str, name: &str, patch: &Value) {
        let key = (plural.to_owned(), "ns".to_owned(), name.to_owned());
        let live = self.objects[&key].clone();
        let mut next = live.clone();
        merge(&mut next, patch);
        self.settle(&key, Some(live), next);
    }

    /// As somebody else's `kubectl replace`.
    pub fn replace_spec(&mut self, plural: &str, name: &str, spec: Value) {
        let key = (plural.to_owned(), "ns".to_owned(), name.to_owned());
        let live = self.objects[&key].clone();
        let mut next = live.clone();
        next["spec"] = spec;
        self.settle(&key, Some(live), next);
    }

    /// As somebody else's `kubectl delete`.
    pub fn delete(&mut self, plural: &str, name: &str) {
        self.remove(&(plural.to_owned(), "ns".to_owned(), name.to_owned())).unwrap();
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
        self.apply(&key_of(plural, &config), config, false, manager, false)
    }

    /// The same of a status.
    pub fn apply_status_as(&mut self, plural: &str, config: Value, manager: &str) -> Result<Value, (u16, Value)> {
        self.apply(&key_of(plural, &config), config, true, manager, true)
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
            // Of a status any uid is taken (measured M83).
            Some(live) if !status && uid.as_ref().is_some_and(|uid| *uid != live["metadata"]["uid"]) => {
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

    pub(super) fn serve(&mut self, request: Request) -> Result<Value, (u16, Value)> {
        let Request { method, key, subresource, apply, query, body } = request;
        let missing = (404, refusal(404, "not found", ""));
        match method {
            Method::GET => self.objects.get(&key).cloned().ok_or(missing),
            Method::DELETE => {
                let live = self.objects.get(&key).ok_or(missing)?;
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != live["metadata"]["uid"] {
                    return Err((409, refusal(409, "precondition failed: UID", "")));
                }
                if live["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty()) {
                    let (live, mut held) = (live.clone(), live.clone());
                    held["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z".into();
                    return Ok(self.settle(&key, Some(live), held));
                }
                self.remove(&key);
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            Method::POST if key.0 != "events" => {
                let key = key_of(&key.0, &json!({"metadata": {"namespace": key.1, "name": body["metadata"]["name"]}}));
                if self.objects.contains_key(&key) {
                    return Err((409, refusal(409, "already exists", "")));
                }
                let mut object = body;
                object["metadata"]["namespace"] = key.1.clone().into();
                Ok(self.settle(&key, None, object))
            }
            Method::PUT => {
                let live = self.objects.get(&key).cloned().ok_or(missing)?;
                if body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"] {
                    return Err((409, refusal(409, "the object has been modified", "")));
                }
                Ok(self.settle(&key, Some(live), body))
            }
            Method::PATCH if apply => {
                let manager = parameter(&query, "fieldManager").unwrap_or_default().to_owned();
                self.apply(&key, body, subresource, &manager, parameter(&query, "force") == Some("true"))
            }
            Method::PATCH => {
                let live = self.objects.get(&key).cloned().ok_or(missing)?;
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != live["metadata"]["resourceVersion"] {
                    return Err((409, refusal(409, "the object has been modified", "")));
                }
                let mut next = live.clone();
                merge(&mut next, &body);
                Ok(self.settle(&key, Some(live), next))
            }
            _ => Ok(body),
        }
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

pub(super) fn key_of(plural: &str, object: &Value) -> Key {
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
