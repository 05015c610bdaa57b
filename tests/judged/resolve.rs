//! The oracle's other question, «which rule does this client get», held to what a real cluster answered.

use serde_json::{Value, json};

use crate::oracle;

const HOST: &str = "httpbin.server.svc.cluster.local";

fn meta(name: &str, namespace: &str, second: u32) -> Value {
    json!({"name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")})
}

/// A DestinationRule of so many connections; what else is in `more`.
fn rule(name: &str, namespace: &str, second: u32, connections: u32, more: &Value) -> Value {
    let mut spec = json!({"host": HOST, "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": connections}}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    istio("DestinationRule", &meta(name, namespace, second), &spec)
}

fn routes(name: &str, namespace: &str, second: u32, more: &Value) -> Value {
    let mut spec = json!({"hosts": [HOST], "http": [{"route": [{"destination": {"host": HOST}}], "timeout": "1s"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    istio("VirtualService", &meta(name, namespace, second), &spec)
}

fn istio(kind: &str, metadata: &Value, spec: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// What the client, a pod `app: fortio` of this namespace, gets for [`HOST`]: whose rule with how many
/// connections, and whose routes on port 80.
fn ask(namespace: &str, objects: &[Value]) -> (Vec<String>, Option<u64>, Vec<String>) {
    let answer = &ask_for(HOST, namespace, &json!({}), objects);
    let names = |list: Option<&Value>| -> Vec<String> {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(answer["service"], "server/httpbin");
    let connections = answer.pointer("/trafficPolicy/connectionPool/tcp/maxConnections").and_then(Value::as_u64);
    assert_eq!(answer["ports"].as_array().map(Vec::len), Some(2), "the port of TCP has no routes: {answer}");
    (names(answer.get("from")), connections, names(answer.pointer("/ports/0/virtualServices")))
}

fn ask_for(host: &str, namespace: &str, mesh: &Value, objects: &[Value]) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "httpbin", "namespace": "server"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [
            {"name": "http", "port": 80}, {"name": "web", "port": 81}, {"name": "tcp", "port": 82}
        ]}
    });
    let mut all = vec![service];
    all.extend(objects.iter().cloned());
    let client = json!({"namespace": namespace, "labels": {"app": "fortio"}, "hosts": [host]});
    let question = json!({"op": "resolve", "world": {"mesh": mesh, "objects": all}, "clients": [client]});
    let mut answers = oracle().ask(&[question]).expect("the oracle answers");
    answers.remove(0)["clients"][0][0].take()
}

fn none() -> Value {
    json!({})
}

#[test]
fn of_two_rules_of_one_namespace_the_older_has_the_traffic_policy() {
    // measured M3: both are merged, the older's policy stays.
    let rules = [rule("young", "server", 2, 2, &none()), rule("old", "server", 1, 1, &none())];
    assert_eq!(ask("client", &rules), (vec!["server/old".to_owned(), "server/young".to_owned()], Some(1), vec![]));
}

#[test]
fn of_two_rules_with_different_exports_the_younger_is_in_force() {
    // measured M4.
    let rules = [rule("old", "server", 1, 1, &none()), rule("young", "server", 2, 2, &json!({"exportTo": ["*"]}))];
    let (from, connections, _) = ask("client", &rules);
    assert_eq!((from, connections), (vec!["server/young".to_owned()], Some(2)));
}

#[test]
fn a_clients_own_namespace_comes_before_the_services_and_the_root() {
    let root = rule("root", "istio-system", 1, 3, &none());
    let servers = rule("servers", "server", 2, 2, &none());
    let clients = rule("clients", "client", 3, 1, &none());
    assert_eq!(ask("client", &[root.clone(), servers.clone(), clients.clone()]).1, Some(1));
    assert_eq!(ask("other", &[root.clone(), servers, clients]).1, Some(2));
    assert_eq!(ask("other", &[root]).1, Some(3));
}

#[test]
fn a_rule_for_some_pods_counts_for_those_of_its_own_namespace() {
    let some = |app: &str| json!({"workloadSelector": {"matchLabels": {"app": app}}});
    let all = rule("all", "client", 1, 1, &none());
    assert_eq!(ask("client", &[all.clone(), rule("some", "client", 2, 2, &some("fortio"))]).1, Some(2));
    assert_eq!(ask("client", &[all.clone(), rule("some", "client", 2, 2, &some("batch"))]).1, Some(1));
}

#[test]
fn of_two_virtual_services_the_private_one_then_the_older_has_the_routes() {
    // measured M33 to M37.
    let old = routes("old", "server", 1, &none());
    let young = routes("young", "other", 2, &none());
    let private = routes("private", "client", 3, &json!({"exportTo": ["."]}));
    assert_eq!(ask("client", &[young.clone(), old.clone()]).2, ["server/old"]);
    assert_eq!(ask("client", &[young.clone(), old.clone(), private.clone()]).2, ["client/private"]);
    assert_eq!(ask("server", &[young, old, private]).2, ["server/old"]);
    assert!(ask("client", &[]).2.is_empty());
}

#[test]
fn a_sidecar_that_does_not_import_a_host_hides_it() {
    let hides = istio("Sidecar", &meta("x", "client", 1), &json!({"egress": [{"hosts": ["./*"]}]}));
    let answer = ask_for(HOST, "client", &none(), &[hides.clone(), rule("servers", "server", 1, 1, &none())]);
    assert_eq!(answer, json!({"host": HOST}));
    assert_eq!(ask_for(HOST, "other", &none(), &[hides])["service"], "server/httpbin");
}

#[test]
fn the_mesh_says_where_its_root_is() {
    let rules = [rule("root", "elsewhere", 1, 3, &none())];
    let of = |mesh: &Value| ask_for(HOST, "client", mesh, &rules).get("from").cloned();
    assert_eq!(of(&none()), None);
    assert_eq!(of(&json!({"rootNamespace": "elsewhere"})), Some(json!(["elsewhere/root"])));
}

#[test]
fn a_service_entrys_host_is_resolved_too() {
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let spec = json!({"hosts": ["api.example.org"], "ports": ports, "resolution": "DNS", "location": "MESH_EXTERNAL"});
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "client"}}),
        istio("ServiceEntry", &meta("api", "client", 1), &spec),
        istio("DestinationRule", &meta("api", "client", 1), &json!({"host": "api.example.org"})),
    ];
    let answer = ask_for("api.example.org", "client", &none(), &objects);
    assert_eq!(answer["from"], json!(["client/api"]), "{answer}");
    assert_eq!(answer["ports"], json!([{"port": 80}]));
}
