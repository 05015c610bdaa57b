//! What the controller says of its neighbours as they come and go, by events alone: nothing here is ever
//! looked at again for its own sake.

use std::time::Duration;

use resilience_operator::{controller::Options, names};
use serde_json::{Value, json};

use crate::{
    fake::Fake,
    installed::open_api,
    reconcile::{Operator, fake_with, policy, service, settle, until, until_programmed},
};

const DR: &str = "destinationrules";
const VS: &str = "virtualservices";
const POLICIES: &str = "resiliences";
const HOST: &str = "web.ns.svc.cluster.local";

/// One that looks often for another Istio.
fn quick() -> Options {
    Options { istio_recheck: Duration::from_millis(20), istiod_address: String::new(), ..Options::default() }
}

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": names::ISTIO_API_VERSION, "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn rule(namespace: &str, name: &str, host: &str) -> Value {
    let spec = json!({"host": host, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
    object("DestinationRule", namespace, name, &spec)
}

/// The warnings of a policy: `CODE message`, one a line.
fn warnings(fake: &Fake, name: &str) -> String {
    let policy = fake.get(POLICIES, name).unwrap_or_default();
    let warnings = policy["status"]["warnings"].as_array().cloned().unwrap_or_default();
    let line = |one: &Value| format!("{} {}\n", one["code"].as_str().unwrap(), one["message"].as_str().unwrap());
    warnings.iter().map(line).collect()
}

/// Waits until a policy has a warning that speaks of `what`, or has none of the code.
async fn until_said(fake: &Fake, name: &str, code: &str, what: Option<&str>) {
    until(&format!("{name} has {code} {what:?}"), || {
        let said = warnings(fake, name);
        let line = said.lines().find(|line| line.starts_with(code));
        what.map_or(line.is_none(), |what| line.is_some_and(|line| line.contains(what)))
    })
    .await;
}

#[tokio::test]
async fn a_rule_in_a_clients_namespace_is_named_while_it_is_there() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.put(DR, rule("client", "theirs", HOST));
    until_said(&fake, "web", "RES070", Some("clients in namespace client (DestinationRule client/theirs)")).await;
    fake.delete_in(DR, "client", "theirs");
    until_said(&fake, "web", "RES070", None).await;
    settle(&fake).await;
    let rules = fake.writes().into_iter().filter(|write| write.ends_with("destinationrules/web")).count();
    assert_eq!(rules, 1, "a word on a neighbour is no reason to write a rule");
}

#[tokio::test]
async fn a_wildcard_concerns_every_policy_under_it_and_no_other() {
    let fake = fake_with(&["web", "shop"]);
    fake.put("serviceentries", object("ServiceEntry", "ns", "far", &far()));
    fake.put(POLICIES, entry_policy("ns", "far"));
    let _operator = Operator::start(&fake);
    for name in ["web", "shop", "far"] {
        until_programmed(&fake, name).await;
    }
    fake.put(DR, rule("istio-system", "defaults", "*.local"));
    for name in ["web", "shop"] {
        until_said(&fake, name, "RES072", Some("DestinationRule istio-system/defaults with host *.local")).await;
    }
    settle(&fake).await;
    assert!(!warnings(&fake, "far").contains("RES072"), "{}", warnings(&fake, "far"));
    fake.delete_in(DR, "istio-system", "defaults");
    for name in ["web", "shop"] {
        until_said(&fake, name, "RES072", None).await;
    }
}

#[tokio::test]
async fn older_routes_of_another_namespace_have_ours_taken_away_and_give_the_host_back() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    let mut routes = object("VirtualService", "client", "theirs", &json!({"hosts": [HOST], "http": [{"route": []}]}));
    routes["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    fake.put(VS, routes);
    until_said(&fake, "web", "RES030", Some("VirtualService client/theirs")).await;
    until("ours is gone", || fake.get(VS, "web").is_none()).await;
    fake.delete_in(VS, "client", "theirs");
    until("ours is back", || fake.get(VS, "web").is_some()).await;
    until_said(&fake, "web", "RES030", None).await;
}

#[tokio::test]
async fn the_gateway_api_may_come_and_go_while_the_operator_runs() {
    let fake = fake_with(&["web"]);
    fake.install(open_api("nothing"), true);
    let _operator = Operator::start_with(&fake, quick());
    until_programmed(&fake, "web").await;
    fake.install_gateway_api(true);
    let mut route = object(
        "HTTPRoute",
        "ns",
        "split",
        &json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{}]}),
    );
    route["apiVersion"] = json!(names::GATEWAY_API_VERSION);
    fake.put("httproutes", route.clone());
    until_said(&fake, "web", "RES030", Some("HTTPRoute ns/split")).await;
    until("ours is gone", || fake.get(VS, "web").is_none()).await;
    fake.delete("httproutes", "split");
    until("ours is back", || fake.get(VS, "web").is_some()).await;
    fake.put("httproutes", route);
    until("ours is gone again", || fake.get(VS, "web").is_none()).await;
    // With the kind its objects go, and no event tells.
    fake.install_gateway_api(false);
    until("ours is back again", || fake.get(VS, "web").is_some()).await;
}

#[tokio::test]
async fn routes_that_were_there_before_the_operator_are_known_before_it_writes() {
    let fake = fake_with(&["web"]);
    fake.install(open_api("nothing"), true);
    fake.install_gateway_api(true);
    let mut route = object(
        "GRPCRoute",
        "ns",
        "split",
        &json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{}]}),
    );
    route["apiVersion"] = json!(names::GATEWAY_API_VERSION);
    fake.put("grpcroutes", route);
    let _operator = Operator::start_with(&fake, quick());
    until_programmed(&fake, "web").await;
    settle(&fake).await;
    let routes: Vec<_> = fake.writes().into_iter().filter(|write| write.contains("virtualservices/web")).collect();
    assert_eq!(routes, Vec::<String>::new());
}

#[tokio::test]
async fn what_may_not_be_read_is_said_while_it_may_not_and_holds_up_nothing() {
    let fake = fake_with(&["web"]);
    fake.install(open_api("nothing"), true);
    fake.install_gateway_api(true);
    for (plural, namespace) in [(DR, "istio-system"), (VS, "istio-system"), ("httproutes", "ns"), ("grpcroutes", "ns")]
    {
        fake.bar(plural, namespace, true);
    }
    let _operator = Operator::start_with(&fake, Options { namespaces: vec!["ns".to_owned()], ..quick() });
    until_programmed(&fake, "web").await;
    let said = [
        "DestinationRules of Istio's root namespace may not be read: whether one of them counts for some clients, or is hidden by ours, is not known; give the operator the right that deploy/ has for it",
        "VirtualServices of Istio's root namespace may not be read: whether one of them has the routes of this host is not known; give the operator the right that deploy/ has for it",
        "HTTPRoutes may not be read: whether one of them has the routes of this target is not known; give the operator the right that deploy/ has for it",
        "GRPCRoutes may not be read: whether one of them has the routes of this target is not known; give the operator the right that deploy/ has for it",
    ];
    for sentence in said {
        until(sentence, || warnings(&fake, "web").contains(&format!("RES073 {sentence}\n"))).await;
    }
    for (plural, namespace) in [(DR, "istio-system"), (VS, "istio-system"), ("httproutes", "ns"), ("grpcroutes", "ns")]
    {
        fake.bar(plural, namespace, false);
    }
    // That it works in some namespaces only is its own choice, and stays.
    let only = "RES073 the operator works in some namespaces only: DestinationRules, VirtualServices and ServiceEntries of others, by which their clients may get something else, and the labels of this namespace, which say whether its pods have sidecars, are not seen\n";
    until("nothing else is unseen", || {
        let warnings = warnings(&fake, "web");
        warnings.contains(only) && warnings.matches("RES073").count() == 1
    })
    .await;
}

#[tokio::test]
async fn in_some_namespaces_the_root_namespaces_rules_are_seen_all_the_same() {
    let fake = fake_with(&["web"]);
    fake.put(DR, rule("istio-system", "defaults", "*.local"));
    let options = Options { namespaces: vec!["ns".to_owned()], ..quick() };
    let _operator = Operator::start_with(&fake, options);
    until_said(&fake, "web", "RES072", Some("DestinationRule istio-system/defaults")).await;
}

#[tokio::test]
async fn what_one_policy_writes_is_news_to_one_of_another_namespace() {
    let fake = Fake::default();
    for namespace in ["ns", "other"] {
        fake.put("serviceentries", object("ServiceEntry", namespace, "far", &far()));
    }
    fake.put(POLICIES, entry_policy("ns", "far"));
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "far").await;
    fake.put(POLICIES, entry_policy("other", "far"));
    until_said(&fake, "far", "RES070", Some("DestinationRule other/far.serviceentry")).await;
    fake.delete_in(POLICIES, "other", "far");
    until_said(&fake, "far", "RES070", None).await;
}

/// A ServiceEntry, and a policy with routes for it; gives what the entry declares.
fn entry_with_routes(fake: &Fake) -> Value {
    let http = json!({"hosts": ["far.example"], "resolution": "DNS", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]});
    fake.put("serviceentries", object("ServiceEntry", "ns", "far", &http));
    let mut policy = entry_policy("ns", "far");
    policy["spec"]["timeouts"] = json!({"request": "3s"});
    fake.put(POLICIES, policy);
    http
}

#[tokio::test]
async fn routes_for_an_entry_stay_at_home_while_another_namespace_has_its_host() {
    let fake = Fake::default();
    let http = entry_with_routes(&fake);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "far").await;
    let exported = || fake.get(VS, "far.serviceentry").map(|routes| routes["spec"]["exportTo"].clone());
    until("routes are for all", || exported() == Some(Value::Null)).await;
    fake.put("serviceentries", object("ServiceEntry", "other", "theirs", &http));
    until("routes are for our own clients", || exported() == Some(json!(["."]))).await;
    until_said(&fake, "far", "RES036", Some("ServiceEntry other/theirs")).await;
    fake.delete_in("serviceentries", "other", "theirs");
    until("routes are for all again", || exported() == Some(Value::Null)).await;
    until_said(&fake, "far", "RES036", None).await;
}

#[tokio::test]
async fn of_namespaces_that_are_not_read_any_may_have_the_host_of_an_entry() {
    let fake = Fake::default();
    entry_with_routes(&fake);
    let _operator = Operator::start_with(&fake, Options { namespaces: vec!["ns".to_owned()], ..quick() });
    until_programmed(&fake, "far").await;
    assert_eq!(fake.get(VS, "far.serviceentry").unwrap()["spec"]["exportTo"], json!(["."]));
}

#[tokio::test]
async fn of_two_policies_for_two_entries_with_one_host_the_later_waits_for_the_other_to_go() {
    let fake = Fake::default();
    for name in ["far", "too"] {
        fake.put("serviceentries", object("ServiceEntry", "ns", name, &far()));
    }
    fake.put(POLICIES, entry_policy("ns", "far"));
    fake.put(POLICIES, entry_policy("ns", "too"));
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "far").await;
    let accepted = |name: &str| crate::reconcile::condition(&fake, name, "Accepted");
    until("the second by name is told", || accepted("too") == "False/Conflicted").await;
    // The other turns to another host.
    let elsewhere = json!({"hosts": ["elsewhere.example"], "resolution": "DNS", "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]});
    fake.patch("serviceentries", "far", &json!({"spec": elsewhere}));
    until_programmed(&fake, "too").await;
}

fn far() -> Value {
    json!({"hosts": ["far.example"], "resolution": "DNS", "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]})
}

fn entry_policy(namespace: &str, entry: &str) -> Value {
    let mut policy = policy(entry);
    policy["metadata"]["namespace"] = json!(namespace);
    policy["spec"] = json!({
        "targetRefs": [{"group": names::ISTIO_GROUP, "kind": "ServiceEntry", "name": entry}],
        "limits": {"perClient": {"connections": 5}},
    });
    policy
}

#[tokio::test]
async fn a_service_that_comes_later_finds_its_neighbours_known() {
    let fake = Fake::default();
    fake.put(DR, rule("client", "all", "*"));
    fake.put(POLICIES, policy("web"));
    let _operator = Operator::start(&fake);
    until("it waits", || crate::reconcile::condition(&fake, "web", "Accepted") == "False/TargetNotFound").await;
    fake.put("services", service("web"));
    until_said(&fake, "web", "RES070", Some("DestinationRule client/all")).await;
}
