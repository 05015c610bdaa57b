//! Others' rules and routes come and go beside a policy: it says so with their names, a client's Envoy shows
//! what it says, and it heals by itself. The operator looks again by itself only once an hour: whatever heals
//! here does by an event. And whoever takes over from whom, no call is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::gateway_api::with_gateway_api;
use super::stage::{PORT, SOON, Stage, on_stage, policy};
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::fortio::load_at;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::wait::Seen;
use crate::workloads::start_client_in;

/// What the policy allows at a time, and what the rule of somebody else does.
const OURS: u64 = 50;
const THEIRS: u64 = 900;
/// What the routes of somebody else answer.
const THEIR_ANSWER: i32 = 461;
/// What istiod writes where no rule says anything.
const NOBODYS: u64 = 4_294_967_295;

/// A home with client, server and policy, and a client away.
struct Street<'a> {
    stage: &'a Stage<'a>,
    away: &'a Kubectl,
    root: Kubectl,
}

fn on_street(checkout: &Checkout, name: &str, play: impl FnOnce(&Street<'_>) -> Result<()>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    on_stage(checkout, name, |stage| {
        with_namespace(&lab, &format!("{name}-away"), |away| {
            start_client_in(checkout, away)?;
            let street = Street { stage, away, root: lab.namespace("istio-system") };
            let played = street.declare().and_then(|()| play(&street));
            // What stands in the root namespace does not go with ours.
            let of_ours = format!("scenario={}", stage.kubectl.current_namespace());
            street.root.run(&["delete", "destinationrules", "-l", &of_ours])?;
            played
        })
    })
}

impl Street<'_> {
    fn home(&self) -> &Kubectl {
        self.stage.kubectl
    }

    fn declare(&self) -> Result<()> {
        self.stage
            .policy(&json!({"limits": {"perClient": {"activeRequests": OURS}}, "timeouts": {"request": "7s"}}))?;
        self.has(self.home(), OURS)?;
        self.has(self.away, OURS)
    }

    fn rule(&self, name: &str, host: &str, more: &Value) -> Value {
        let mut rule = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": name, "labels": {"scenario": self.home().current_namespace()}},
            "spec": {"host": host, "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": THEIRS}}}},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            rule["spec"][key] = value.clone();
        }
        rule
    }

    /// Routes that answer every call by themselves.
    fn routes(name: &str, host: &str, more: &Value) -> Value {
        let mut routes = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name},
            "spec": {"hosts": [host], "http": [{"directResponse": {"status": THEIR_ANSWER}}]},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            routes["spec"][key] = value.clone();
        }
        routes
    }

    /// Waits until a client's Envoy allows so many calls at a time.
    fn has(&self, client: &Kubectl, limit: u64) -> Result<()> {
        let cluster = format!("outbound|{PORT}||{}", self.stage.host());
        client.until(&format!("the Envoy in {} allows {limit}", client.current_namespace()), SOON, |client| {
            let dump = ConfigDump::of(client, "deploy/fortio")?;
            let held = dump
                .cluster(&cluster)
                .and_then(|cluster| cluster.pointer("/circuit_breakers/thresholds/0/max_requests"));
            let held = held.and_then(Value::as_u64).unwrap_or(NOBODYS);
            Ok(if held == limit { Seen::Done(()) } else { Seen::NotYet(held.to_string()) })
        })
    }

    /// Waits until a client gets this answer.
    fn answers(&self, client: &Kubectl, status: i32) -> Result<()> {
        let url = format!("http://{}:{PORT}/get", self.stage.host());
        client.until(&format!("{} gets {status}", client.current_namespace()), SOON, |client| {
            let answers = load_at(client, &url, 1, 3, 0)?;
            Ok(if answers.status(status) == 3 { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
        })
    }

    /// Waits until the policy has a warning of the code that names `what`, or none of the code.
    fn says(&self, code: &str, what: Option<&str>) -> Result<()> {
        self.home().until(&format!("{code} {what:?}"), SOON, |kubectl| {
            let object = kubectl.json(&["get", "resilience", "httpbin"])?;
            let warnings = object.pointer("/status/warnings").and_then(Value::as_array).cloned().unwrap_or_default();
            let said = warnings.iter().find(|one| one["code"] == code).and_then(|one| one["message"].as_str());
            let right = match what {
                None => said.is_none(),
                Some(what) => said.is_some_and(|said| said.contains(what)),
            };
            Ok(if right { Seen::Done(()) } else { Seen::NotYet(format!("{warnings:?}")) })
        })
    }

    /// Waits until the policy is refused with these words.
    fn refused(&self, words: &str) -> Result<()> {
        let object = self.stage.until_condition("httpbin", "Accepted", "False")?;
        let text = object["status"]["conditions"].to_string();
        ensure!(text.contains(words) && text.contains("Conflicted"), "it should say {words}: {text}");
        Ok(())
    }

    /// One neighbour comes, is named, does what is said, and goes.
    fn comes_and_goes(
        &self,
        place: &Kubectl,
        neighbour: &Value,
        code: &str,
        does: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (kind, name) = (neighbour["kind"].as_str().unwrap_or_default(), &neighbour["metadata"]["name"]);
        let whole = format!("{kind} {}/{}", place.current_namespace(), name.as_str().unwrap_or_default());
        let judged = || {
            place.apply(&neighbour.to_string())?;
            self.says(code, Some(&whole))?;
            does()?;
            place.delete(&neighbour.to_string())?;
            self.says(code, None)
        };
        judged().with_context(|| format!("{code}, {whole}"))
    }
}

/// Rules and routes of every kind of neighbour.
///
/// # Errors
/// When one is not named, the Envoys show something else, or the policy does not heal.
pub fn are_named(checkout: &Checkout) -> Result<()> {
    on_street(checkout, "neighbours", |street| {
        rules(street)?;
        conflicts(street)?;
        routes(street)
    })
}

fn rules(street: &Street<'_>) -> Result<()> {
    let (home, away, host) = (street.home(), street.away, street.stage.host());
    let theirs_away = || {
        street.has(away, THEIRS)?;
        street.has(home, OURS)
    };
    let none = json!({});
    // For the client there, and then for other pods: that one has no rule at all now. istiod tells of it since
    // the rule was for it before; that it goes it tells nobody whom it does not select, until more happens.
    let selecting = |app: &str| json!({"workloadSelector": {"matchLabels": {"app": app}}});
    away.apply(&street.rule("selector", &host, &selecting("fortio")).to_string())?;
    street.says("RES070", Some("/selector"))?;
    street.has(away, THEIRS)?;
    street.comes_and_goes(away, &street.rule("selector", &host, &selecting("not-there")), "RES071", || {
        street.has(away, NOBODYS)?;
        street.has(home, OURS)
    })?;
    street.comes_and_goes(away, &street.rule("exact", &host, &none), "RES070", theirs_away)?;
    street.has(away, OURS)?;
    street.comes_and_goes(away, &street.rule("wildcard", "*.svc.cluster.local", &none), "RES070", theirs_away)?;
    street.has(away, OURS)?;
    street.comes_and_goes(home, &street.rule("for-fortio", &host, &selecting("fortio")), "RES070", || {
        street.has(home, THEIRS)?;
        street.has(away, OURS)
    })?;
    street.has(home, OURS)?;
    let beside = format!("*.{}.svc.cluster.local", home.current_namespace());
    let root = street.rule(&format!("root-of-{}", home.current_namespace()), &beside, &none);
    street.comes_and_goes(&street.root, &root, "RES072", || street.has(away, OURS))?;
    street.comes_and_goes(home, &street.rule("younger", "httpbin", &none), "RES031", || street.has(home, OURS))
}

fn conflicts(street: &Street<'_>) -> Result<()> {
    let home = street.home();
    let heals = |place: &Kubectl, rule: &Value, words: &str, meanwhile: u64| {
        place.apply(&rule.to_string())?;
        street.refused(words)?;
        street.has(home, meanwhile)?;
        place.delete(&rule.to_string())?;
        street.stage.until_condition("httpbin", "Ready", "True")?;
        street.has(home, OURS)
    };
    // Exported differently, the youngest counts (M4).
    heals(home, &street.rule("for-home", "httpbin", &json!({"exportTo": ["."]})), "exportTo [.]", THEIRS)?;
    let beside = format!("*.{}.svc.cluster.local", home.current_namespace());
    let tls = json!({"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}});
    let rule = street.rule(&format!("tls-of-{}", home.current_namespace()), &beside, &tls);
    heals(&street.root, &rule, "says how calls are encrypted (tls)", OURS)
}

fn routes(street: &Street<'_>) -> Result<()> {
    let (home, away, host) = (street.home(), street.away, street.stage.host());
    let none = json!({});
    let answer = |at_home, at_away| {
        street.answers(home, at_home)?;
        street.answers(away, at_away)
    };
    let private = Street::routes("private", &host, &json!({"exportTo": ["."]}));
    street.comes_and_goes(away, &private, "RES033", || answer(200, THEIR_ANSWER))?;
    answer(200, 200)?;
    let younger = Street::routes("younger", &host, &none);
    street.comes_and_goes(away, &younger, "RES034", || answer(200, 200))?;
    let beside = format!("*.{}.svc.cluster.local", home.current_namespace());
    let wildcard = Street::routes("wildcard", &beside, &none);
    street.comes_and_goes(home, &wildcard, "RES035", || answer(200, 200))?;
    // One that is older than ours: it was there first.
    home.run(&["delete", "resilience", "httpbin"])?;
    street.stage.until_gone("virtualservice", "httpbin")?;
    let older = Street::routes("older", &host, &none);
    away.apply(&older.to_string())?;
    answer(THEIR_ANSWER, THEIR_ANSWER)?;
    street.declare()?;
    street.says("RES030", Some(&format!("VirtualService {}/older", away.current_namespace())))?;
    ensure!(street.stage.generated("virtualservice").is_err(), "ours was generated beside an older one");
    answer(THEIR_ANSWER, THEIR_ANSWER)?;
    away.delete(&older.to_string())?;
    street.says("RES030", None)?;
    home.until("ours is back", SOON, |_| {
        Ok(street.stage.generated("virtualservice").map_or_else(|e| Seen::NotYet(format!("{e:#}")), |_| Seen::Done(())))
    })?;
    answer(200, 200)
}

/// Routes of the Gateway API, which is installed while the operator runs and goes again.
///
/// # Errors
/// When they are not named, or ours does not come back.
pub fn gateway_api(checkout: &Checkout) -> Result<()> {
    let cluster = Lab::attach_to(checkout)?;
    on_street(checkout, "gateway-api", |street| {
        let (home, away) = (street.home(), street.away);
        let route = |kubectl: &Kubectl| {
            let text = json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "redirect"},
                "spec": {
                    "parentRefs": [{"group": "", "kind": "Service", "name": "httpbin", "namespace": home.current_namespace()}],
                    "rules": [{"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.invalid", "statusCode": 302}}]}],
                },
            });
            kubectl.apply(&text.to_string()).map(|_| text)
        };
        with_gateway_api(checkout, &cluster, || {
            let consumers = route(away)?;
            street.says("RES033", Some(&format!("HTTPRoute {}/redirect", away.current_namespace())))?;
            away.delete(&consumers.to_string())?;
            street.says("RES033", None)?;
            let producers = route(home)?;
            street.says("RES030", Some(&format!("HTTPRoute {}/redirect", home.current_namespace())))?;
            street.stage.until_gone("virtualservice", "httpbin")?;
            home.delete(&producers.to_string())?;
            street.says("RES030", None)?;
            street.stage.until_condition("httpbin", "Ready", "True").map(drop)
        })
    })
}

/// Calls go on all the time while a host changes hands: between two policies, and between a policy and a
/// person, rule by rule and route by route.
///
/// # Errors
/// When one hand-over does not end, or one call is lost in any.
pub fn lose_no_call(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "hand-overs", |stage| {
        let hands = Hands { stage };
        let done = AtomicBool::new(false);
        let url = format!("http://{}:{PORT}/get", stage.host());
        thread::scope(|scope| {
            // Two, so that one calls while the other begins anew.
            let callers: Vec<_> = (0..2).map(|_| scope.spawn(|| calls(stage.kubectl, &url, &done))).collect();
            let played = hands.change();
            done.store(true, Ordering::Relaxed);
            let mut answers: BTreeMap<i32, u64> = BTreeMap::new();
            for caller in callers {
                for (status, count) in caller.join().map_err(|_| anyhow!("a caller panicked"))?? {
                    *answers.entry(status).or_default() += count;
                }
            }
            played?;
            let total: u64 = answers.values().sum();
            println!("answers during all hand-overs: {answers:?}");
            ensure!(total > 1000 && answers.get(&200) == Some(&total), "calls were lost: {answers:?}");
            Ok(())
        })
    })
}

/// Fifty calls a second, answered or not, until it is done; a round takes six seconds.
fn calls(kubectl: &Kubectl, url: &str, done: &AtomicBool) -> Result<BTreeMap<i32, u64>> {
    let mut answers = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        for (status, count) in load_at(kubectl, url, 4, 300, 50)?.by_status {
            *answers.entry(status).or_default() += count;
        }
    }
    Ok(answers)
}

struct Hands<'a> {
    stage: &'a Stage<'a>,
}

impl Hands<'_> {
    fn change(&self) -> Result<()> {
        self.between_policies().context("between two policies")?;
        self.rules().context("rules, between a policy and a person")?;
        self.routes().context("routes, between a policy and a person")
    }

    fn spec(limit: u64) -> Value {
        json!({"limits": {"perClient": {"activeRequests": limit}}, "timeouts": {"request": "7s"}})
    }

    fn programmed(&self, name: &str, limit: u64) -> Result<()> {
        self.stage.until_condition(name, "Programmed", "True")?;
        self.stage.until_threshold("home", "max_requests", limit)
    }

    fn between_policies(&self) -> Result<()> {
        let kubectl = self.stage.kubectl;
        let other = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        kubectl.apply(&other.to_string())?;
        kubectl.apply(&policy("older", "other", &Self::spec(61)))?;
        self.stage.until_condition("older", "Programmed", "True")?;
        kubectl.apply(&policy("younger", "httpbin", &Self::spec(62)))?;
        self.programmed("younger", 62)?;
        // The older one turns to the host: it appears there.
        kubectl.apply(&policy("older", "httpbin", &Self::spec(61)))?;
        self.stage.until_condition("younger", "Accepted", "False")?;
        self.programmed("older", 61)?;
        kubectl.run(&["delete", "resilience", "older"])?;
        self.programmed("younger", 62)
    }

    /// First by name, too: of the same second it counts as older.
    fn rule(host: &str, more: &Value) -> String {
        let mut rule = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "a-persons"},
            "spec": {"host": host, "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 63}}}},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            rule["spec"][key] = value.clone();
        }
        rule.to_string()
    }

    fn rules(&self) -> Result<()> {
        let (kubectl, none) = (self.stage.kubectl, json!({}));
        // Younger: ignored, and whoever wrote it deletes the policy to take over.
        kubectl.apply(&Self::rule("httpbin", &none))?;
        kubectl.run(&["delete", "resilience", "younger"])?;
        self.stage.until_threshold("home", "max_requests", 63)?;
        // Theirs is older now: the policy waits until it goes.
        kubectl.apply(&policy("httpbin", "httpbin", &Self::spec(64)))?;
        self.stage.until_condition("httpbin", "Accepted", "False")?;
        kubectl.delete(&Self::rule("httpbin", &none))?;
        self.programmed("httpbin", 64)?;
        // Older, and turns to the host.
        kubectl.run(&["delete", "resilience", "httpbin"])?;
        self.stage.until_gone("destinationrule", "httpbin")?;
        kubectl.apply(&Self::rule("not-there.example", &none))?;
        kubectl.apply(&policy("httpbin", "httpbin", &Self::spec(64)))?;
        self.programmed("httpbin", 64)?;
        kubectl.apply(&Self::rule("httpbin", &none))?;
        self.stage.until_condition("httpbin", "Accepted", "False")?;
        kubectl.delete(&Self::rule("httpbin", &none))?;
        self.programmed("httpbin", 64)?;
        // Exported differently: theirs counts although it is younger.
        let private = json!({"exportTo": ["."]});
        kubectl.apply(&Self::rule("httpbin", &private))?;
        self.stage.until_condition("httpbin", "Accepted", "False")?;
        self.stage.until_threshold("home", "max_requests", 63)?;
        kubectl.delete(&Self::rule("httpbin", &private))?;
        self.programmed("httpbin", 64)
    }

    fn routes(&self) -> Result<()> {
        let kubectl = self.stage.kubectl;
        let theirs = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "persons"},
            "spec": {"hosts": ["httpbin"], "http": [{"route": [{"destination": {"host": "httpbin", "port": {"number": PORT}}}], "timeout": "9s"}]},
        })
        .to_string();
        let timeout = |wanted: &'static str| {
            kubectl.until(&format!("the route's timeout is {wanted}"), SOON, |kubectl| {
                let dump = ConfigDump::of(kubectl, "deploy/fortio")?;
                let host = dump.virtual_host(PORT, &self.stage.host()).cloned().unwrap_or_default();
                let held = host.pointer("/routes/0/route/timeout").cloned().unwrap_or_default();
                Ok(if held == wanted { Seen::Done(()) } else { Seen::NotYet(held.to_string()) })
            })
        };
        timeout("7s")?;
        kubectl.apply(&theirs)?;
        self.stage.until_gone("virtualservice", "httpbin")?;
        timeout("9s")?;
        kubectl.delete(&theirs)?;
        timeout("7s")?;
        // And for good: theirs first, then the policy goes.
        kubectl.apply(&theirs)?;
        kubectl.run(&["delete", "resilience", "httpbin"])?;
        self.stage.until_gone("destinationrule", "httpbin")?;
        timeout("9s")
    }
}
