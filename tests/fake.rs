//! An API server in the process: enough of list, watch, server-side apply, merge patch and delete to
//! run the controller against it, and faults at any call. What it does was copied from a real one
//! where a test rests on it: an apply with an impossible resource version, with the wrong uid, and a
//! delete with the wrong uid.

mod state;

use std::{
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

pub use state::{Delivery, State};
use state::{Key, Request as Call, Watcher, refusal};

/// What happens to a call instead of, or before, what should.
pub enum Fault {
    /// It is answered with this status.
    Answer(u16, &'static str),
    /// It is carried out, but reading the answer panics.
    Panic,
    /// It is never answered, nor carried out.
    Hang,
    /// It is carried out, and answered with this status all the same.
    AnswerAfter(u16, &'static str),
    /// It is carried out, and never answered.
    Lose,
    /// It is never answered, and carried out by [`Fake::carry_out`].
    Late,
    /// It waits for the sender, and is then carried out.
    Hold(tokio::sync::oneshot::Receiver<()>),
    /// Somebody else is faster.
    Before(Box<dyn FnOnce(&mut State) + Send>),
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

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
            state.watchers.retain(|watcher| watcher.plural != "httproutes" && watcher.plural != "grpcroutes");
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
        self.state().patch(plural, name, patch);
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
        state.watchers.retain(|watcher| {
            watcher.plural != plural || watcher.sender.unbounded_send(Bytes::from(gone.clone())).is_err()
        });
    }

    /// Ends all watches of a kind without a word but `last`; what follows is another watch.
    pub fn end_watches(&self, plural: &str, last: &'static str) {
        let mut state = self.state();
        state
            .watchers
            .retain(|watcher| watcher.plural != plural || watcher.sender.unbounded_send(Bytes::from(last)).is_err());
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
        if let Some(account) = parts.uri.path().strip_suffix("/token") {
            return self.token(&route(account).0);
        }
        let (key, subresource) = route(parts.uri.path());
        if self.state().barred.contains(&(key.0.clone(), key.1.clone())) {
            return json_body(403, &refusal(403, "forbidden", ""));
        }
        if parameter(&query, "dryRun") == Some("All") {
            return json_body(200, &body);
        }
        let force = parameter(&query, "force") == Some("true");
        let call = match one_of(&query) {
            Some(one) => format!("get {}/{one}", key.0),
            None => name(&parts.method, &key, subresource, apply, force, &body),
        };
        let fault = {
            let mut state = self.state();
            if parts.method != Method::GET && key.0 != "events" {
                state.writes.push(call.clone());
            }
            if parts.method == Method::POST && key.0 == "events" {
                state.events.push(body.clone());
            }
            let at = state.faults.iter().position(|(planned, _)| *planned == call);
            let planned = at.map(|at| state.faults.remove(at).1);
            let asked = !call.starts_with("list") && key.0 != "leases";
            planned.or_else(|| state.hooks.call.as_mut().filter(|_| asked)?(&call))
        };
        let (mut panics, mut instead) = (false, None);
        match fault {
            Some(Fault::Answer(code, message)) => return json_body(code, &refusal(code, message, "")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Hold(until)) => until.await.unwrap(),
            Some(Fault::Before(act)) => act(&mut self.state()),
            Some(Fault::Panic) => panics = true,
            Some(Fault::AnswerAfter(code, message)) => instead = Some(Some((code, message))),
            Some(Fault::Lose) => instead = Some(None),
            Some(Fault::Late) => {
                self.state().late.push(Call { method: parts.method, key, subresource, apply, query, body });
                return std::future::pending().await;
            }
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
            self.state().serve(Call { method: parts.method, key, subresource, apply, query, body })
        };
        match instead {
            Some(Some((code, message))) => return json_body(code, &refusal(code, message, "")),
            Some(None) => std::future::pending().await,
            None => {}
        }
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

    /// A token of a ServiceAccount that is there: `token-1`, then `token-2`, and so on.
    fn token(&self, account: &Key) -> Response<Body> {
        let mut state = self.state();
        if !state.objects.contains_key(account) {
            return json_body(404, &refusal(404, &format!("serviceaccounts {:?} not found", account.2), ""));
        }
        state.tokens += 1;
        let token = format!("token-{}", state.tokens);
        json_body(
            201,
            &json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                "spec": {"audiences": ["istio-ca"], "expirationSeconds": 600},
                "status": {"token": token, "expirationTimestamp": "2026-01-01T00:00:00Z"},
            }),
        )
    }

    /// How many tokens were given out.
    pub fn tokens(&self) -> usize {
        self.state().tokens
    }

    /// How often the index of documents was read.
    pub fn looks(&self) -> usize {
        self.state().looks
    }

    /// How often the document of Istio's kinds was read.
    pub fn documents_read(&self) -> usize {
        self.state().documents_read
    }

    /// Carries out what was kept for later; how much that was.
    pub fn carry_out(&self) -> usize {
        let mut state = self.state();
        let late = std::mem::take(&mut state.late);
        // Whoever called is not there any more.
        late.into_iter().map(|request| drop(state.serve(request))).count()
    }

    /// A list in chunks, whose token is how many came before.
    fn list(&self, key: &Key, query: &str) -> Value {
        let (mut state, name) = (self.state(), one_of(query));
        if name.is_none() && state.lagging.remove(&key.0) {
            let (version, items) = state.before_the_last_event(&key.0);
            let meta = json!({"resourceVersion": version.to_string()});
            return json!({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items});
        }
        let number = |name: &str| parameter(query, name).and_then(|text| text.parse::<usize>().ok());
        let here =
            |one: &Key| one.0 == key.0 && (key.1.is_empty() || one.1 == key.1) && name.is_none_or(|name| one.2 == name);
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
        let told = state.history.iter().position(|told| told.version > since).unwrap_or(state.history.len());
        state.watchers.push(Watcher { plural: plural.to_owned(), sender, told });
        state.pump(plural);
        Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The name of the object that alone is to be listed.
fn one_of(query: &str) -> Option<&str> {
    parameter(query, "fieldSelector")?.strip_prefix("metadata.name%3D")
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
