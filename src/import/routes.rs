//! What a VirtualService means to a client's proxy, HTTP port by port.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::words::{Words, fields, items, leaves, millis};
use crate::istio::resolve_host;

/// Where and how a host is called in a VirtualService.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) host: &'a str,
    pub(super) cluster_domain: &'a str,
}

/// The routes of a port in the order in which they are tried, up to the one that takes every call.
pub(super) type Routes = BTreeMap<u16, Vec<Route>>;

/// One way of one route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    /// The calls that it takes.
    pub(super) calls: Calls,
    /// `None`: for ever.
    pub(super) timeout: Option<Time>,
    /// What is tried again.
    pub(super) retries: Retry,
    /// All else that it does, where calls go first of all, as text.
    pub(super) rest: BTreeMap<String, String>,
}

/// Which calls a route takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Calls {
    /// Those with this method.
    Method(String),
    /// Those that these words select.
    Selected(String),
    /// All.
    All,
}

/// What is tried again. `attempts` 0: nothing, and all else is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Retry {
    pub(super) attempts: i64,
    /// Envoy's words.
    pub(super) on: BTreeSet<String>,
    pub(super) codes: BTreeSet<u64>,
    pub(super) per_try_timeout: Option<Time>,
    /// `None`: Envoy's 25ms.
    pub(super) backoff: Option<Time>,
}

/// A duration, equal to any other text for it.
#[derive(Clone, Debug)]
pub(super) struct Time {
    pub(super) millis: u64,
    /// As it is written.
    pub(super) text: String,
}

impl Time {
    fn of(value: Option<&Value>) -> Option<Self> {
        let text = value?.as_str()?;
        Some(Self { millis: millis(text).filter(|millis| *millis > 0)?, text: text.to_owned() })
    }
}

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.millis == other.millis
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.millis.cmp(&other.millis)
    }
}

/// What Istio retries on where nothing else is said, `retriable-status-codes` left out, which without codes
/// means nothing (measured M16, M18, M20).
pub(super) const DEFAULT_WORDS: [&str; 4] = ["connect-failure", "refused-stream", "unavailable", "cancelled"];

impl Retry {
    /// Where a route says nothing, and where there is none (measured M16).
    pub(super) fn unsaid() -> Self {
        Self { attempts: 2, on: DEFAULT_WORDS.map(str::to_owned).into(), ..Self::default() }
    }

    /// As istiod reads a route's `retries` (istio `pilot/pkg/networking/core/route/retry/retry.go`,
    /// `ConvertPolicy`; measured M18 to M20).
    fn of(said: Option<&Value>) -> Self {
        let Some(said) = said else { return Self::unsaid() };
        let attempts = said.get("attempts").and_then(Value::as_i64).unwrap_or(0);
        if attempts <= 0 {
            return Self::default();
        }
        let list = said.get("retryOn").and_then(Value::as_str).filter(|list| !list.is_empty());
        let mut retry = Self {
            attempts,
            per_try_timeout: Time::of(said.get("perTryTimeout")),
            backoff: Time::of(said.get("backoff")).filter(|backoff| backoff.millis != 25),
            ..Self::default()
        };
        match list {
            None => retry.on = Self::unsaid().on,
            Some(list) => {
                for word in list.split(',').filter(|word| !word.is_empty() && *word != "retriable-status-codes") {
                    match word.parse() {
                        Ok(code) => drop(retry.codes.insert(code)),
                        Err(_) => drop(retry.on.insert(word.to_owned())),
                    }
                }
            }
        }
        retry
    }
}

/// Fields of a route that [`Route`] holds by themselves.
const READ: [&str; 4] = ["match", "route", "timeout", "retries"];

/// The routes that a spec gives to HTTP ports of its host; a port without one has the default.
pub(super) fn of_spec(spec: Option<&Value>, ports: &[u16], place: Place<'_>) -> Routes {
    ports.iter().map(|port| (*port, of_port(spec, *port, place))).collect()
}

fn of_port(spec: Option<&Value>, port: u16, place: Place<'_>) -> Vec<Route> {
    let mut routes = Vec::new();
    for said in spec.map(|spec| items(spec, "http")).unwrap_or_default() {
        let matches = items(said, "match");
        let any = json!({});
        let all = matches.iter().chain(matches.is_empty().then_some(&any));
        for one in all.filter(|one| for_port(one, port)) {
            let route = Route {
                calls: calls(one),
                timeout: Time::of(said.get("timeout")),
                retries: Retry::of(said.get("retries").filter(|said| !said.is_null())),
                rest: rest(said, port, place),
            };
            let last = route.calls == Calls::All;
            routes.push(route);
            if last {
                return ordered(routes);
            }
        }
    }
    // A VirtualService without a route for a port leaves it alone (measured M42); one with some and none for
    // the rest answers 404 to that (measured M45), which is no route here.
    if routes.is_empty() {
        let rest = rest(&json!({"route": [{"destination": {"host": place.host}}]}), port, place);
        routes.push(Route { calls: Calls::All, timeout: None, retries: Retry::unsaid(), rest });
    }
    ordered(routes)
}

/// Routes of one method each take different calls, so among themselves their order is nothing, and of two for
/// the same method the first counts.
fn ordered(mut routes: Vec<Route>) -> Vec<Route> {
    let mut seen = BTreeSet::new();
    routes.retain(|route| match &route.calls {
        Calls::Method(method) => seen.insert(method.clone()),
        _ => true,
    });
    let mut from = 0;
    while from < routes.len() {
        let run = routes[from..].iter().take_while(|route| matches!(route.calls, Calls::Method(_))).count();
        routes[from..from + run].sort();
        from += run.max(1);
    }
    routes
}

fn for_port(one: &Value, port: u16) -> bool {
    let said = one.get("port").and_then(Value::as_u64).filter(|said| *said != 0);
    said.is_none_or(|said| said == u64::from(port))
}

fn calls(one: &Value) -> Calls {
    let mut words = Words::new();
    leaves("", one, &mut words);
    words.retain(|path, value| !matches!(path.as_str(), "" | "port" | "name") && !is_every_path(path, value));
    let mut methods = words.get("method.exact").and_then(Value::as_str).into_iter();
    match (words.len(), methods.next()) {
        (0, _) => Calls::All,
        (1, Some(method)) => Calls::Method(method.to_owned()),
        _ => Calls::Selected(words.iter().map(|(path, value)| format!("{path}={value}")).collect::<Vec<_>>().join(" ")),
    }
}

/// A path begins with `/` whatever it is.
fn is_every_path(path: &str, value: &Value) -> bool {
    path == "uri.prefix" && *value == json!("/")
}

/// All that a route does beside time and retries. A destination that names no port is the one of the call
/// (measured M44).
fn rest(said: &Value, port: u16, place: Place<'_>) -> BTreeMap<String, String> {
    let mut rest = BTreeMap::new();
    for (key, value) in fields(Some(said)).filter(|(key, _)| !READ.contains(&key.as_str()) && *key != "name") {
        rest.insert(key.clone(), value.to_string());
    }
    for (at, target) in items(said, "route").iter().enumerate() {
        let mut words = Words::new();
        leaves("", target, &mut words);
        let host = words.get("destination.host").and_then(Value::as_str).unwrap_or_default();
        let host = resolve_host(host, place.namespace, place.cluster_domain).to_ascii_lowercase();
        words.insert("destination.host".to_owned(), host.into());
        words.entry("destination.port.number".to_owned()).or_insert_with(|| port.into());
        // Of the only destination.
        if items(said, "route").len() == 1 {
            words.remove("weight");
        }
        rest.extend(words.into_iter().map(|(path, value)| (format!("route[{at}].{path}"), value.to_string())));
    }
    for (key, value) in fields(said.get("retries")) {
        let default = match key.as_str() {
            "attempts" | "retryOn" | "perTryTimeout" | "backoff" => true,
            "retryRemoteLocalities" => *value == json!(false),
            "retryIgnorePreviousHosts" => *value == json!(true),
            _ => false,
        };
        if !default {
            rest.insert(format!("retries.{key}"), value.to_string());
        }
    }
    rest
}

/// The paths of a spec that no policy has a word for.
pub(super) fn without_counterpart(spec: &Value, place: Place<'_>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in fields(Some(spec)) {
        let known = match key.as_str() {
            "http" => true,
            "hosts" => value.as_array().is_some_and(|hosts| hosts.len() == 1),
            "gateways" => *value == json!(["mesh"]) || *value == json!([]),
            "exportTo" => *value == json!(["*"]) || *value == json!([]),
            _ => *value == json!([]),
        };
        if !known {
            found.push((format!("spec.{key}"), value.clone()));
        }
    }
    for (index, said) in items(spec, "http").iter().enumerate() {
        let path = format!("spec.http[{index}]");
        for (at, one) in items(said, "match").iter().enumerate() {
            let mut words = Words::new();
            leaves("", one, &mut words);
            let odd = words.into_iter().filter(|(path, value)| {
                !matches!(path.as_str(), "" | "port" | "name" | "method.exact") && !is_every_path(path, value)
            });
            found.extend(odd.map(|(key, value)| (format!("{path}.match[{at}].{key}"), value)));
        }
        let targets = items(said, "route");
        if targets.len() > 1 {
            found.push((format!("{path}.route"), json!(format!("{} destinations", targets.len()))));
        }
        for (key, value) in fields(Some(said)).filter(|(key, _)| !READ.contains(&key.as_str()) && *key != "name") {
            found.push((format!("{path}.{key}"), value.clone()));
        }
        for (key, value) in fields(said.get("retries")) {
            let known = match key.as_str() {
                "retryRemoteLocalities" => *value == json!(false),
                "retryIgnorePreviousHosts" => *value == json!(true),
                key => ["attempts", "retryOn", "perTryTimeout", "backoff"].contains(&key),
            };
            if !known {
                found.push((format!("{path}.retries.{key}"), value.clone()));
            }
        }
        let [target] = targets else { continue };
        let mut words = Words::new();
        leaves("", target, &mut words);
        for (key, value) in words {
            let known = match key.as_str() {
                "destination.host" => {
                    let host = resolve_host(value.as_str().unwrap_or_default(), place.namespace, place.cluster_domain);
                    host.eq_ignore_ascii_case(place.host)
                }
                "destination.port.number" | "weight" => true,
                _ => false,
            };
            if !known {
                found.push((format!("{path}.route[0].{key}"), value));
            }
        }
    }
    found
}
