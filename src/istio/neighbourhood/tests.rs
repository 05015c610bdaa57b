//! Each of Istio's ways to pass over a rule, as a sentence.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;

use super::*;

const HOST: &str = "httpbin.server.svc.cluster.local";

fn meta(place: &str, second: i64) -> ObjectMeta {
    let (namespace, name) = place.split_once('/').unwrap();
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        creation_timestamp: Some(Time(jiff::Timestamp::from_second(second).unwrap())),
        ..ObjectMeta::default()
    }
}

fn object(kind: Kind, place: &str, second: i64, mut spec: Value, more: Value) -> Arc<Existing> {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    spec.as_object_mut().unwrap().extend(more);
    Arc::new(Existing::new(kind, &meta(place, second), spec))
}

fn rule(place: &str, second: i64, more: Value) -> Arc<Existing> {
    let spec = json!({"host": HOST, "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}});
    object(Kind::DestinationRule, place, second, spec, more)
}

fn routes(place: &str, second: i64, more: Value) -> Arc<Existing> {
    let spec = json!({"hosts": [HOST], "http": [{"route": [{"destination": {"host": HOST}}]}]});
    object(Kind::VirtualService, place, second, spec, more)
}

fn gateway_route(place: &str, second: i64, parent: &Value) -> Arc<GatewayRoute> {
    let mut named = json!({"group": "", "kind": "Service", "name": "httpbin", "namespace": "server"});
    named.as_object_mut().unwrap().extend(parent.as_object().unwrap().clone());
    let spec = json!({"parentRefs": [named], "rules": [{}]});
    Arc::new(GatewayRoute::new(GatewayRouteKind::HttpRoute, &meta(place, second), &spec))
}

fn sidecar(place: &str, spec: &Value) -> ClientSidecar {
    ClientSidecar::new(&meta(place, 1), spec)
}

fn callee() -> Callee {
    Callee {
        host: HOST.to_owned(),
        namespace: "server".to_owned(),
        name: "httpbin".to_owned(),
        http_ports: vec![80, 81],
        ..Callee::default()
    }
}

fn client(namespace: &str, app: &str) -> Client {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    Client { namespace: namespace.to_owned(), labels: Some(labels) }
}

fn around(objects: &[Arc<Existing>], routes: &[Arc<GatewayRoute>]) -> Neighbourhood {
    Neighbourhood::gather(&callee(), objects, routes, "cluster.local", "istio-system")
}

/// Whose traffic policy a client of this namespace has.
fn policy(objects: &[Arc<Existing>], namespace: &str) -> String {
    let force = around(objects, &[]).rules(&callee(), &client(namespace, "fortio"));
    force.policy_of.map(|rule| rule.place()).unwrap_or_default()
}

/// Why this rule does not count for a client of this namespace, and which one stands in the way.
fn why(objects: &[Arc<Existing>], namespace: &str, of: &Arc<Existing>) -> (Why, String) {
    let force = around(objects, &[]).rules(&callee(), &client(namespace, "fortio"));
    let shadowed = force.shadowed.into_iter().find(|one| is_same(&one.object, of)).unwrap();
    (shadowed.why, shadowed.by.map(|rule| rule.place()).unwrap_or_default())
}

/// Whose routes a client has on a port.
fn owner(neighbourhood: &Neighbourhood, namespace: &str, port: u16) -> String {
    let force = neighbourhood.routes(&callee(), port, &client(namespace, "fortio"));
    assert_eq!(force.unobserved, []);
    force.owner.map(|owner| owner.to_string()).unwrap_or_default()
}

fn owns(objects: &[Arc<Existing>], namespace: &str) -> String {
    owner(&around(objects, &[]), namespace, 80).replace("VirtualService ", "")
}

#[test]
fn of_two_rules_with_the_same_export_the_older_counts_and_the_younger_adds_its_subsets() {
    // measured M3, trap 6.
    let (old, young) = (rule("server/z", 1, json!({})), rule("server/a", 2, json!({})));
    let all = [young.clone(), old.clone()];
    assert_eq!(policy(&all, "client"), "server/z");
    assert_eq!(why(&all, "client", &young), (Why::OlderFirst, "server/z".to_owned()));
    let force = around(&all, &[]).rules(&callee(), &client("client", "fortio"));
    assert_eq!(force.merged, [old, young]);
}

#[test]
fn a_rule_for_its_subsets_alone_takes_no_traffic_policy_away_and_is_not_shadowed() {
    let subsets = rule("server/a", 1, json!({"trafficPolicy": null, "subsets": [{"name": "v1"}]}));
    let all = [subsets, rule("server/b", 2, json!({}))];
    assert_eq!(policy(&all, "client"), "server/b");
    assert_eq!(around(&all, &[]).rules(&callee(), &client("client", "fortio")).shadowed, []);
}

#[test]
fn of_two_rules_with_different_exports_the_younger_counts_whole() {
    // measured M4, trap 6.
    let old = rule("server/old", 1, json!({}));
    let all = [old.clone(), rule("server/young", 2, json!({"exportTo": ["*"]}))];
    assert_eq!(policy(&all, "client"), "server/young");
    assert_eq!(why(&all, "client", &old), (Why::YoungerExportedDifferently, "server/young".to_owned()));
}

#[test]
fn ages_count_to_the_second_and_ties_fall_to_the_name() {
    // trap 20.
    let all = [rule("server/b", 1, json!({})), rule("server/a", 1, json!({}))];
    assert_eq!(policy(&all, "client"), "server/a");
}

#[test]
fn the_clients_namespace_comes_before_the_services_and_that_before_the_root() {
    // trap 7: even a wildcard of the client's.
    let root = rule("istio-system/root", 1, json!({}));
    let servers = rule("server/own", 2, json!({}));
    let clients = rule("client/all", 3, json!({"host": "*.local"}));
    let all = [root.clone(), servers.clone(), clients];
    assert_eq!(policy(&all, "client"), "client/all");
    assert_eq!(policy(&all, "other"), "server/own");
    assert_eq!(policy(&all[..1], "other"), "istio-system/root");
    assert_eq!(why(&all, "client", &servers), (Why::ClientsNamespaceFirst, "client/all".to_owned()));
    assert_eq!(why(&all, "other", &root), (Why::ServicesNamespaceFirst, "server/own".to_owned()));
}

#[test]
fn a_client_in_the_root_namespace_has_only_its_private_rules_first() {
    let all = [rule("istio-system/root", 1, json!({})), rule("server/own", 2, json!({}))];
    assert_eq!(policy(&all, "istio-system"), "server/own");
    let all = [rule("istio-system/root", 1, json!({"exportTo": ["."]})), all[1].clone()];
    assert_eq!(policy(&all, "istio-system"), "istio-system/root");
    assert_eq!(policy(&all, "client"), "server/own");
}

#[test]
fn a_rule_in_a_third_namespace_is_never_looked_at() {
    let third = rule("third/all", 1, json!({"exportTo": ["*"]}));
    assert_eq!(policy(std::slice::from_ref(&third), "client"), "");
    assert_eq!(why(std::slice::from_ref(&third), "client", &third), (Why::NeverLookedAt, String::new()));
}

#[test]
fn an_exact_rule_hides_a_wildcard_one_of_its_namespace_even_where_it_is_not_exported() {
    let wildcard = rule("server/wildcard", 1, json!({"host": "*.server.svc.cluster.local"}));
    let all = [wildcard.clone(), rule("server/exact", 2, json!({"exportTo": ["server", "other"]}))];
    assert_eq!(policy(&all, "client"), "");
    assert_eq!(policy(&all, "other"), "server/exact");
    assert_eq!(why(&all, "client", &wildcard), (Why::MoreSpecific, "server/exact".to_owned()));
    assert_eq!(why(&all, "client", &all[1]), (Why::NotExported, String::new()));
}

#[test]
fn a_dotted_short_name_is_for_no_service_and_an_undotted_one_for_one_of_its_own_namespace() {
    let rules = |host: &str, place: &str| policy(&[rule(place, 1, json!({"host": host}))], "client");
    assert_eq!(rules("httpbin", "server/a"), "server/a");
    assert_eq!(rules("httpbin", "client/a"), "");
    assert_eq!(rules("httpbin.server", "server/a"), "");
    assert_eq!(rules("Httpbin.server.svc.cluster.local", "server/a"), "");
}

#[test]
fn a_rule_for_some_pods_of_a_namespace_takes_the_owners_rule_from_all_of_them() {
    // https://github.com/istio/istio/issues/57719, trap 7.
    let servers = rule("server/own", 1, json!({}));
    let some = rule("client/some", 2, json!({"workloadSelector": {"matchLabels": {"app": "batch"}}}));
    let all = [servers.clone(), some.clone()];
    assert_eq!(policy(&all, "client"), "");
    assert_eq!(why(&all, "client", &servers), (Why::ClientsNamespaceFirst, "client/some".to_owned()));
    assert_eq!(why(&all, "client", &some), (Why::OtherWorkloads, String::new()));
    let force = around(&all, &[]).rules(&callee(), &client("client", "batch"));
    assert_eq!(force.policy_of, Some(some));
}

#[test]
fn a_private_rule_beside_one_for_some_pods_is_lost_for_all_others() {
    // https://github.com/istio/istio/issues/58322.
    let some = rule("client/some", 2, json!({"workloadSelector": {"matchLabels": {"app": "batch"}}}));
    let private = rule("client/private", 1, json!({"exportTo": ["."]}));
    let all = [some, private.clone()];
    assert_eq!(policy(&all, "client"), "");
    assert_eq!(why(&all, "client", &private), (Why::MergedIntoSelected, "client/some".to_owned()));
}

#[test]
fn without_labels_it_is_said_that_a_selector_could_not_be_judged() {
    let all = [rule("client/some", 2, json!({"workloadSelector": {"matchLabels": {"app": "batch"}}}))];
    let unknown = Client { namespace: "client".to_owned(), labels: None };
    let force = around(&all, &[]).rules(&callee(), &unknown);
    assert_eq!(force.unobserved, [Unobserved::Labels("DestinationRule client/some".to_owned())]);
}

#[test]
fn of_two_virtual_services_the_older_has_the_routes_wherever_it_is() {
    // measured M33, M34, M37.
    let all = [routes("server/own", 2, json!({})), routes("client/theirs", 1, json!({}))];
    for namespace in ["server", "client", "other"] {
        assert_eq!(owns(&all, namespace), "client/theirs");
    }
    let third = [all[0].clone(), routes("third/one", 3, json!({"exportTo": ["*"]}))];
    assert_eq!(owns(&third, "client"), "server/own");
}

#[test]
fn private_routes_come_first_then_those_exported_by_name_then_public_ones() {
    // measured M35, M36.
    let own = routes("server/own", 1, json!({}));
    let private = routes("client/private", 3, json!({"exportTo": ["."]}));
    let named = routes("other/named", 2, json!({"exportTo": ["client"]}));
    let all = [own, named.clone(), private];
    assert_eq!(owns(&all, "client"), "client/private");
    assert_eq!(owns(&all[..2], "client"), "other/named");
    assert_eq!(owns(&all, "other"), "server/own");
    let force = around(&all, &[]).routes(&callee(), 80, &client("client", "fortio"));
    let shadowed = force.shadowed.iter().map(|one| (one.owner.to_string(), one.why)).collect::<Vec<_>>();
    let owner = |place: &str| format!("VirtualService {place}");
    let expected = [(owner("server/own"), Why::PrivateFirst), (owner("other/named"), Why::PrivateFirst)];
    assert_eq!(shadowed, expected);
}

#[test]
fn a_gateway_api_route_wins_in_its_own_namespace_and_by_age_elsewhere() {
    // measured M38.
    let older = around(&[routes("server/own", 1, json!({}))], &[gateway_route("server/r", 2, &json!({}))]);
    assert_eq!(owner(&older, "server", 80), "HTTPRoute server/r");
    assert_eq!(owner(&older, "client", 80), "VirtualService server/own");
    let younger = around(&[routes("server/own", 3, json!({}))], &[gateway_route("server/r", 2, &json!({}))]);
    assert_eq!(owner(&younger, "client", 80), "HTTPRoute server/r");
}

#[test]
fn a_consumers_gateway_api_route_counts_for_its_own_namespace_alone() {
    // measured M39, M40.
    let consumer = gateway_route("client/r", 2, &json!({}));
    let all = around(&[routes("server/own", 1, json!({}))], std::slice::from_ref(&consumer));
    assert_eq!(owner(&all, "client", 80), "HTTPRoute client/r");
    assert_eq!(owner(&all, "server", 80), "VirtualService server/own");
    let alone = around(&[], &[consumer]);
    assert_eq!(owner(&alone, "other", 80), "");
    let private =
        around(&[routes("client/private", 3, json!({"exportTo": ["."]}))], &[gateway_route("server/r", 1, &json!({}))]);
    assert_eq!(owner(&private, "client", 80), "VirtualService client/private");
}

#[test]
fn gateway_api_routes_of_one_namespace_are_put_together_port_by_port() {
    let routes = [
        gateway_route("server/b", 1, &json!({})),
        gateway_route("server/a", 2, &json!({})),
        gateway_route("server/c", 0, &json!({"port": 81})),
    ];
    let all = around(&[], &routes);
    assert_eq!(owner(&all, "client", 80), "HTTPRoute server/b, HTTPRoute server/a");
    assert_eq!(owner(&all, "client", 81), "HTTPRoute server/c");
}

#[test]
fn routes_for_another_port_do_not_claim_this_one() {
    // trap 11, measured M42.
    let only = json!([{"match": [{"port": 81}], "route": [{"destination": {"host": HOST}}]}]);
    let all = [routes("server/some", 1, json!({"http": only})), routes("server/rest", 2, json!({}))];
    let all = around(&all, &[]);
    assert_eq!(owner(&all, "client", 81), "VirtualService server/some");
    assert_eq!(owner(&all, "client", 80), "VirtualService server/rest");
}

#[test]
fn an_exact_host_comes_before_a_wildcard_even_without_a_route_for_the_port() {
    let only = json!([{"match": [{"port": 81}], "route": [{"destination": {"host": HOST}}]}]);
    let wildcard = routes("server/wildcard", 1, json!({"hosts": ["*.server.svc.cluster.local"]}));
    let all = around(&[wildcard, routes("server/exact", 2, json!({"http": only}))], &[]);
    assert_eq!(owner(&all, "client", 81), "VirtualService server/exact");
    assert_eq!(owner(&all, "client", 80), "");
}

#[test]
fn routes_for_clients_of_certain_labels_are_theirs_alone() {
    let some = json!([{"match": [{"sourceLabels": {"app": "batch"}}], "route": [{"destination": {"host": HOST}}]}]);
    let all = around(&[routes("server/a", 1, json!({"http": some})), routes("server/b", 2, json!({}))], &[]);
    assert_eq!(owner(&all, "client", 80), "VirtualService server/b");
    let batch = all.routes(&callee(), 80, &client("client", "batch"));
    assert_eq!(batch.owner.unwrap().to_string(), "VirtualService server/a");
    let unknown = all.routes(&callee(), 80, &Client { namespace: "client".to_owned(), labels: None });
    assert_eq!(unknown.unobserved, [Unobserved::Labels("VirtualService server/a".to_owned())]);
}

#[test]
fn delegated_routes_are_said_not_to_be_observed() {
    let all = around(&[routes("server/a", 1, json!({"http": [{"delegate": {"name": "x"}}]}))], &[]);
    let force = all.routes(&callee(), 80, &client("client", "fortio"));
    assert_eq!(force.unobserved, [Unobserved::Delegates("VirtualService server/a".to_owned())]);
}

#[test]
fn routes_of_a_gateway_are_not_for_sidecars() {
    assert_eq!(owns(&[routes("server/a", 1, json!({"gateways": ["server/gateway"]}))], "client"), "");
    assert_eq!(owns(&[routes("server/a", 1, json!({"gateways": ["x", "mesh"]}))], "client"), "server/a");
}

#[test]
fn a_sidecar_hides_what_it_does_not_import() {
    let with = |spec: Value| {
        let sidecars = Arc::new(vec![sidecar("client/a", &spec)]);
        let all = [routes("server/own", 1, json!({})), routes("other/named", 2, json!({"exportTo": ["client"]}))];
        Neighbourhood { sidecars, ..around(&all, &[]) }
    };
    let sees = |all: &Neighbourhood| all.sees(&callee(), &client("client", "fortio"));
    let hosts = |hosts: Value| json!({"egress": [{"hosts": hosts}]});
    assert_eq!(sees(&with(hosts(json!(["./*"])))), None);
    let servers = with(hosts(json!(["server/*"])));
    assert_eq!(sees(&servers), Some([80, 81].into()));
    assert_eq!(owner(&servers, "client", 80), "VirtualService server/own");
    assert_eq!(owner(&with(json!({})), "client", 80), "VirtualService other/named");
    // Another namespace's routes lead here, and so the host is seen after all.
    assert_eq!(sees(&with(hosts(json!(["other/*"])))), Some([80, 81].into()));
    assert_eq!(sees(&with(hosts(json!(["*/*", "~server/*"])))), Some([80, 81].into()));
    let port = json!({"egress": [{"port": {"number": 81, "protocol": "HTTP"}, "hosts": ["server/*"]}]});
    assert_eq!(sees(&with(port)), Some([81].into()));
}

#[test]
fn a_sidecar_for_certain_workloads_comes_before_that_of_all_and_that_before_the_roots() {
    let hides = json!({"egress": [{"hosts": ["./*"]}]});
    let mut some = hides.clone();
    some["workloadSelector"] = json!({"labels": {"app": "batch"}});
    let sees = |sidecars: Vec<ClientSidecar>, namespace: &str, app: &str| {
        let all = Neighbourhood { sidecars: Arc::new(sidecars), ..around(&[], &[]) };
        all.sees(&callee(), &client(namespace, app)).is_some()
    };
    let all = || vec![sidecar("client/all", &json!({})), sidecar("client/some", &some)];
    assert!(sees(all(), "client", "fortio") && !sees(all(), "client", "batch"));
    let root = || vec![sidecar("istio-system/default", &hides), sidecar("client/all", &json!({}))];
    assert!(sees(root(), "client", "fortio") && !sees(root(), "other", "fortio"));
}

#[test]
fn a_service_that_is_not_exported_is_not_seen() {
    let sees = |export: &str, namespace: &str| {
        let callee = Callee { export_to: vec![export.to_owned()], ..callee() };
        around(&[], &[]).sees(&callee, &client(namespace, "fortio")).is_some()
    };
    assert!(sees("*", "client") && sees(".", "server") && sees("client", "client"));
    assert!(!sees(".", "client") && !sees("~", "server") && !sees("client", "other"));
}

fn told<T>(deviations: &[Deviation<T>], name: impl Fn(&T) -> String) -> Vec<String> {
    let tell = |one: &Deviation<T>| {
        format!("{}: {:?} {}", one.clients, one.why, one.gets.as_ref().map(&name).unwrap_or_default())
    };
    deviations.iter().map(tell).collect()
}

#[test]
fn who_has_another_rule_is_told_without_naming_those_who_have_nothing_of_their_own() {
    let ours = rule("server/ours", 3, json!({}));
    let some = rule("batch/some", 1, json!({"workloadSelector": {"matchLabels": {"app": "a"}}}));
    let all = around(&[ours.clone(), rule("client/own", 1, json!({})), some], &[]);
    let name = |rule: &Arc<Existing>| rule.place();
    let others = all.other_rules(&callee(), &ours);
    let expected = [
        "clients in namespace batch but those labelled app=a in namespace batch: ClientsNamespaceFirst ",
        "clients labelled app=a in namespace batch: ClientsNamespaceFirst batch/some",
        "clients in namespace client: ClientsNamespaceFirst client/own",
    ];
    assert_eq!(told(&others, name), expected);
    // An older one of our namespace takes everybody but those who had something else anyway.
    let beside = all.with(Existing::clone(&rule("server/older", 1, json!({}))));
    let expected_first =
        "all clients but those in namespace batch and those in namespace client: OlderFirst server/older";
    assert_eq!(told(&beside.other_rules(&callee(), &ours), name)[0], expected_first);
    assert_eq!(around(std::slice::from_ref(&ours), &[]).other_rules(&callee(), &ours), []);
}

#[test]
fn who_has_other_routes_is_told_as_well() {
    let ours = routes("server/ours", 3, json!({}));
    let private = routes("client/private", 9, json!({"exportTo": ["."]}));
    let all = around(&[ours.clone(), private], &[gateway_route("other/r", 9, &json!({}))]);
    let others = told(&all.other_routes(&callee(), 80, &ours), ToString::to_string);
    let expected = [
        "clients in namespace client: PrivateFirst VirtualService client/private",
        "clients in namespace other: GatewayRouteFirst HTTPRoute other/r",
    ];
    assert_eq!(others, expected);
}

#[test]
fn what_a_rule_hides_is_told_before_it_is_written() {
    let tls = json!({"host": "*.server.svc.cluster.local", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}});
    let wildcard = rule("server/wildcard", 1, tls);
    let root = rule("istio-system/all", 1, json!({"host": "*.local"}));
    let ours = Existing { created: None, ..Existing::clone(&rule("server/ours", 0, json!({}))) };
    let hidden = around(&[wildcard.clone(), root.clone()], &[]).hidden_by(&callee(), &ours);
    let clients = Clients::default();
    assert_eq!(hidden, [Hidden { object: wildcard.clone(), clients: clients.clone(), has_tls: true }]);
    let hidden = around(std::slice::from_ref(&root), &[]).hidden_by(&callee(), &ours);
    assert_eq!(hidden, [Hidden { object: root, clients, has_tls: false }]);
    // Beside an older one of the host it does nothing, and so hides nothing.
    let exact = rule("server/exact", 1, json!({}));
    assert_eq!(around(&[wildcard, exact], &[]).hidden_by(&callee(), &ours), []);
}

#[test]
fn the_reach_of_an_object_is_its_hosts_and_where_its_routes_lead() {
    let mirrored = json!([{
        "route": [{"destination": {"host": "Api"}}], "mirror": {"host": "shadow.other.svc.cluster.local"},
    }]);
    let all = routes("server/a", 1, json!({"hosts": ["Httpbin", "*.ORG"], "http": mirrored}));
    let expected =
        ["*.org", "Api.server.svc.cluster.local", "httpbin.server.svc.cluster.local", "shadow.other.svc.cluster.local"];
    assert_eq!(reach(&all, "cluster.local"), expected);
    assert_eq!(reach(&rule("server/a", 1, json!({"host": "httpbin"})), "cluster.local"), [HOST]);
}
