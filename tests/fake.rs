//! An API server in the process: enough of list, watch, server-side apply, merge patch and delete to
//! run the controller against it, and faults at any call. What it does was copied from a real one
//! where a test rests on it: an apply with an impossible resource version, with the wrong uid, and a
//! delete with the wrong uid.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    hash::{Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::body::{Body, Bytes};
use futures::{StreamExt as _, channel::mpsc, stream};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};

/// Plural, namespace, name.
type Key = (String, String, String);

/// What happens to a call instead of, or before, what should.
pub enum Fault {
    /// It is answered with this status.
    Answer(u16, &'static str),
    /// It is carried out, but reading the answer panics.
    Panic,
    /// It is never answered, nor carried out.
    Hang,
    /// It waits for the sender, and is then carried out.
    Hold(tokio::sync::oneshot::Receiver<()>),
    /// Somebody else is faster.
    Before(Box<dyn FnOnce(&mut State) + Send>),
}

#[derive(Default)]
pub struct State {
    objects: BTreeMap<Key, Value>,
    applied: BTreeMap<Key, Value>,
    version: u64,
    history: Vec<(u64, String, String)>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    writes: Vec<String>,
    events: Vec<Value>,
    faults: Vec<(String, Fault)>,
    /// What pods have logged, by their names.
    logs: BTreeMap<String, String>,
    /// The OpenAPI document of Istio's kinds, which applies are held to; `null`: none.
    open_api: Value,
    served: bool,
    /// The Gateway API is installed.
    gateway_api: bool,
    /// Plurals and namespaces (empty: all at once) that may not be listed.
    barred: BTreeSet<(String, String)>,
    looks: usize,
    documents_read: usize,
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

fn merge(into: &mut Value, from: &Value) {
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

    fn store(&mut self, key: &Key, mut object: Value) {
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

    fn remove(&mut self, key: &Key) -> Option<Value> {
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

    /// The same of a status.
    pub fn apply_status_as(&mut self, plural: &str, config: Value, manager: &str) -> Result<Value, (u16, Value)> {
        self.apply(&key(plural, &config), config, true, manager, true)
    }

    fn apply(
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
    fn settle(&mut self, key: &Key, live: Option<Value>, mut next: Value) -> Value {
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

fn key(plural: &str, object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
    (plural.to_owned(), text("namespace").unwrap_or_default(), text("name").unwrap())
}

fn refusal(code: u16, message: &str, field: &str) -> Value {
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

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn put(&self, plural: &str, object: Value) {
        self.state().put(plural, object);
    }

    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(plural.into(), "ns".into(), name.into())).cloned()
    }

    /// What a pod has logged.
    pub fn log(&self, pod: &str, text: &str) {
        self.state().logs.insert(pod.to_owned(), text.to_owned());
    }

    /// Another Istio is installed. `served`: its OpenAPI document can be read, too.
    pub fn install(&self, open_api: Value, served: bool) {
        let mut state = self.state();
        (state.open_api, state.served) = (open_api, served);
    }

    /// The Gateway API is there, or gone with all of its objects.
    pub fn install_gateway_api(&self, there: bool) {
        let mut state = self.state();
        state.gateway_api = there;
        if !there {
            state.objects.retain(|(plural, ..), _| plural != "httproutes" && plural != "grpcroutes");
            state.watchers.retain(|(plural, _)| plural != "httproutes" && plural != "grpcroutes");
        }
    }

    /// Whether a kind may be listed in a namespace.
    pub fn bar(&self, plural: &str, namespace: &str, barred: bool) {
        let place = (plural.to_owned(), namespace.to_owned());
        let mut state = self.state();
        if barred {
            state.barred.insert(place);
        } else {
            state.barred.remove(&place);
        }
    }

    /// As somebody else's `kubectl patch`.
    pub fn patch(&self, plural: &str, name: &str, patch: &Value) {
        let mut state = self.state();
        let key = (plural.to_owned(), "ns".to_owned(), name.to_owned());
        let live = state.objects[&key].clone();
        let mut next = live.clone();
        merge(&mut next, patch);
        state.settle(&key, Some(live), next);
    }

    pub fn delete(&self, plural: &str, name: &str) {
        self.delete_in(plural, "ns", name);
    }

    pub fn delete_in(&self, plural: &str, namespace: &str, name: &str) {
        self.state().remove(&(plural.into(), namespace.into(), name.into())).unwrap();
    }

    /// Every call that could change something, in order, without events.
    pub fn writes(&self) -> Vec<String> {
        self.state().writes.clone()
    }

    /// Every event that was published, in order.
    pub fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    /// Ends all watches of a kind; what follows is a list.
    pub fn break_watches(&self, plural: &str) {
        let mut state = self.state();
        let gone = json!({"type": "ERROR", "object": refusal(410, "too old resource version", "")}).to_string() + "\n";
        state
            .watchers
            .retain(|(watched, sender)| watched != plural || sender.unbounded_send(Bytes::from(gone.clone())).is_err());
    }

    /// What happens to the next call of that name, as [`Fake::writes`] has it or `list PLURAL`.
    pub fn fault(&self, call: &str, fault: Fault) {
        self.state().faults.push((call.to_owned(), fault));
    }

    pub fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Serves on loopback as well, for whoever is another process; its address.
    pub async fn serve_http(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = self.clone();
        let app = axum::Router::new().fallback(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                fake.answer(Request::from_parts(parts, kube::client::Body::from(body.to_vec()))).await
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let apply = parts.headers.get("content-type").is_some_and(|kind| kind == "application/apply-patch+yaml");
        if let Some(path) = parts.uri.path().strip_prefix("/openapi/v3") {
            return self.open_api(path);
        }
        if parts.uri.path() == "/apis/gateway.networking.k8s.io/v1" {
            let kinds =
                json!([{"name": "httproutes", "kind": "HTTPRoute"}, {"name": "grpcroutes", "kind": "GRPCRoute"}]);
            return json_body(200, &json!({"kind": "APIResourceList", "resources": kinds}));
        }
        if parts.uri.path().split('/').count() == 4 && parts.uri.path().starts_with("/apis/") {
            return json_body(200, &discovery());
        }
        let (key, subresource) = route(parts.uri.path());
        if self.state().barred.contains(&(key.0.clone(), key.1.clone())) {
            return json_body(403, &refusal(403, "forbidden", ""));
        }
        let force = parameter(&query, "force") == Some("true");
        let call = name(&parts.method, &key, subresource, apply, force, &body);
        let fault = {
            let mut state = self.state();
            if parts.method != Method::GET && key.0 != "events" {
                state.writes.push(call.clone());
            }
            if parts.method == Method::POST && key.0 == "events" {
                state.events.push(body.clone());
            }
            let at = state.faults.iter().position(|(planned, _)| *planned == call);
            at.map(|at| state.faults.remove(at).1)
        };
        let mut panics = false;
        match fault {
            Some(Fault::Answer(code, message)) => return json_body(code, &refusal(code, message, "")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Hold(until)) => until.await.unwrap(),
            Some(Fault::Before(act)) => act(&mut self.state()),
            Some(Fault::Panic) => panics = true,
            None => {}
        }
        if parts.method == Method::GET && query.contains("watch=true") {
            return self.watch(&key.0, &query);
        }
        if parts.uri.path().ends_with("/log") {
            let text = self.state().logs.get(&key.2).cloned().unwrap_or_default();
            return Response::new(Body::from(text));
        }
        let answer = if parts.method == Method::GET && key.2.is_empty() {
            Ok(self.list(&key, &query))
        } else {
            self.serve(&parts.method, &key, subresource, apply, &query, body)
        };
        if panics {
            return Response::new(Body::from_stream(stream::poll_fn(
                |_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> { panic!("as ordered by the test") },
            )));
        }
        match answer {
            Ok(object) => json_body(200, &object),
            Err((code, status)) => json_body(code, &status),
        }
    }

    fn open_api(&self, path: &str) -> Response<Body> {
        let mut state = self.state();
        state.looks += usize::from(path.is_empty());
        if !state.served {
            return json_body(404, &refusal(404, "not found", ""));
        }
        let mut hasher = std::hash::DefaultHasher::new();
        state.open_api.to_string().hash(&mut hasher);
        let url = format!("/openapi/v3/apis/networking.istio.io/v1?hash={:X}", hasher.finish());
        if path.is_empty() {
            let mut paths = json!({"apis/networking.istio.io/v1": {"serverRelativeURL": url}});
            if state.gateway_api {
                paths["apis/gateway.networking.k8s.io/v1"] = json!({"serverRelativeURL": "/not-read"});
            }
            return json_body(200, &json!({"paths": paths}));
        }
        state.documents_read += 1;
        json_body(200, &state.open_api)
    }

    /// How often the index of documents was read.
    pub fn looks(&self) -> usize {
        self.state().looks
    }

    /// How often the document of Istio's kinds was read.
    pub fn documents_read(&self) -> usize {
        self.state().documents_read
    }

    fn serve(
        &self,
        method: &Method,
        key: &Key,
        subresource: bool,
        apply: bool,
        query: &str,
        body: Value,
    ) -> Result<Value, (u16, Value)> {
        let mut state = self.state();
        let missing = (404, refusal(404, "not found", ""));
        match *method {
            Method::GET => state.objects.get(key).cloned().ok_or(missing),
            Method::DELETE => {
                let live = state.objects.get(key).ok_or(missing)?;
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != live["metadata"]["uid"] {
                    return Err((409, refusal(409, "precondition failed: UID", "")));
                }
                state.remove(key);
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            Method::POST if key.0 != "events" => {
                let key =
                    self::key(&key.0, &json!({"metadata": {"namespace": key.1, "name": body["metadata"]["name"]}}));
                if state.objects.contains_key(&key) {
                    return Err((409, refusal(409, "already exists", "")));
                }
                let mut object = body;
                object["metadata"]["namespace"] = key.1.clone().into();
                Ok(state.settle(&key, None, object))
            }
            Method::PUT => {
                let live = state.objects.get(key).cloned().ok_or(missing)?;
                if body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"] {
                    return Err((409, refusal(409, "the object has been modified", "")));
                }
                Ok(state.settle(key, Some(live), body))
            }
            Method::PATCH if apply => {
                let manager = parameter(query, "fieldManager").unwrap_or_default().to_owned();
                state.apply(key, body, subresource, &manager, parameter(query, "force") == Some("true"))
            }
            Method::PATCH => {
                let live = state.objects.get(key).cloned().ok_or(missing)?;
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != live["metadata"]["resourceVersion"] {
                    return Err((409, refusal(409, "the object has been modified", "")));
                }
                let mut next = live.clone();
                merge(&mut next, &body);
                Ok(state.settle(key, Some(live), next))
            }
            _ => Ok(body),
        }
    }

    /// A list in chunks, whose token is how many came before.
    fn list(&self, key: &Key, query: &str) -> Value {
        let state = self.state();
        let number = |name: &str| parameter(query, name).and_then(|text| text.parse::<usize>().ok());
        let here = |one: &Key| one.0 == key.0 && (key.1.is_empty() || one.1 == key.1);
        let all: Vec<&Value> = state.objects.iter().filter(|(one, _)| here(one)).map(|(_, object)| object).collect();
        let start = number("continue").unwrap_or(0);
        let end = number("limit").filter(|limit| *limit > 0).map_or(all.len(), |limit| (start + limit).min(all.len()));
        let mut meta = json!({"resourceVersion": state.version.to_string()});
        if end < all.len() {
            meta["continue"] = end.to_string().into();
        }
        json!({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": all[start..end]})
    }

    fn watch(&self, plural: &str, query: &str) -> Response<Body> {
        let since: u64 = parameter(query, "resourceVersion").and_then(|since| since.parse().ok()).unwrap_or(0);
        let (sender, lines) = mpsc::unbounded();
        let mut state = self.state();
        for (version, kind, line) in &state.history {
            if *version > since && kind == plural {
                sender.unbounded_send(Bytes::from(line.clone())).unwrap();
            }
        }
        state.watchers.push((plural.to_owned(), sender));
        Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Key, and whether the path is that of the status.
fn route(path: &str) -> (Key, bool) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = &parts[if parts[0] == "api" { 2 } else { 3 }..];
    let (namespace, rest) = if rest[0] == "namespaces" && rest.len() > 2 { (rest[1], &rest[2..]) } else { ("", rest) };
    let part = |at: usize| (*rest.get(at).unwrap_or(&"")).to_owned();
    ((part(0), namespace.to_owned(), part(1)), part(2) == "status")
}

/// What a call is called in tests.
fn name(method: &Method, key: &Key, subresource: bool, apply: bool, force: bool, body: &Value) -> String {
    let (plural, _, name) = key;
    let meta = &body["metadata"];
    let verb = match *method {
        Method::GET if name.is_empty() => return format!("list {plural}"),
        Method::GET => "get",
        Method::DELETE => "delete",
        _ if subresource => "status",
        Method::PATCH if apply && !force && body.get("spec").is_none() => "give-back",
        Method::PATCH if apply && !force => "merge",
        Method::PATCH if apply && meta.get("uid").is_some() => "update",
        Method::PATCH if apply && meta.get("resourceVersion").is_some() => "create",
        Method::PATCH if apply => "apply-without-precondition",
        Method::PATCH => "strip",
        Method::PUT => "replace",
        _ => "post",
    };
    format!("{verb} {plural}/{name}")
}

/// Whatever is asked for is served.
fn discovery() -> Value {
    let resource = |name| json!({"name": name, "singularName": "", "namespaced": true, "kind": "K", "verbs": []});
    let served = ["resiliences", "destinationrules", "virtualservices", "serviceentries", "sidecars"].map(resource);
    json!({"kind": "APIResourceList", "groupVersion": "g/v", "resources": served})
}

fn json_body(code: u16, value: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(value.to_string())).unwrap()
}
