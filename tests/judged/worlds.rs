//! Random neighbourhoods: DestinationRules, VirtualServices and Sidecars that get into each other's way.

use proptest::{collection, option, prelude::*, sample};
use serde_json::{Value, json};

use crate::draw::drawn;

/// The namespace of the Services that are called.
pub const SERVER: &str = "server";
/// A namespace with clients, and with a Service of the same name.
pub const CLIENT: &str = "client";
/// One more namespace with clients.
pub const OTHER: &str = "other";
/// Istio's root namespace.
pub const ROOT: &str = "istio-system";

/// Ports of every Service: HTTP by its name, sniffed, and TCP by its name.
pub const PORTS: [(&str, u16); 3] = [("http", 80), ("web", 81), ("tcp", 82)];

/// Services, `name` and `namespace`.
pub const SERVICES: [(&str, &str); 3] = [("httpbin", SERVER), ("mysql", SERVER), ("httpbin", CLIENT)];

/// What is there besides the Services. Each object is as it goes to an API server, but for its age.
#[derive(Clone, Debug)]
pub struct World {
    /// In the order in which they were drawn.
    pub objects: Vec<Value>,
}

/// A client: its namespace, and the labels of its pods.
pub type Caller = (&'static str, &'static [(&'static str, &'static str)]);

/// Clients of all sorts.
pub const CALLERS: [Caller; 6] = [
    (CLIENT, &[("app", "fortio")]),
    (CLIENT, &[("app", "fortio"), ("version", "v1")]),
    (CLIENT, &[]),
    (SERVER, &[("app", "httpbin")]),
    (OTHER, &[("app", "fortio")]),
    (ROOT, &[("app", "batch")]),
];

fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(SERVER), 3 => Just(CLIENT), 1 => Just(OTHER), 2 => Just(ROOT)]
}

/// Hosts as people write them, rightly and wrongly.
fn host(wild: bool) -> impl Strategy<Value = &'static str> {
    let exact = Just("httpbin.server.svc.cluster.local");
    let odd = sample::select(vec![
        "httpbin",
        "httpbin.server",
        "httpbin.server.svc",
        "Httpbin.Server.svc.cluster.local",
        "mysql.server.svc.cluster.local",
        "httpbin.client.svc.cluster.local",
        "unknown.server.svc.cluster.local",
    ]);
    let wildcard = sample::select(vec![
        "*.server.svc.cluster.local",
        "*.svc.cluster.local",
        "*bin.server.svc.cluster.local",
        "*.SERVER.svc.cluster.local",
        "*.local",
        "*",
        "*.org",
    ]);
    prop_oneof![
        6 => exact,
        3 => odd,
        (if wild { 4 } else { 0 }) => wildcard,
    ]
}

fn export_to() -> impl Strategy<Value = Option<Vec<&'static str>>> {
    let some = sample::select(vec![
        vec!["*"],
        vec!["."],
        vec![CLIENT],
        vec![SERVER],
        vec![OTHER],
        vec![ROOT],
        vec![".", CLIENT],
        vec![CLIENT, OTHER],
        vec![SERVER, CLIENT, OTHER],
        vec![OTHER, ".", ROOT],
    ]);
    option::weighted(0.5, some)
}

/// Labels of clients; none select everybody.
fn some_labels() -> impl Strategy<Value = Value> {
    sample::select(vec![
        json!({"app": "fortio"}),
        json!({"app": "fortio", "version": "v1"}),
        json!({"app": "batch"}),
        json!({"app": "httpbin"}),
    ])
}

/// To the second, with ties.
fn age() -> impl Strategy<Value = u32> {
    0..4_u32
}

fn object(kind: &str, namespace: &str, name: &str, age: u32, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {
            "name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"),
        },
        "spec": spec,
    })
}

fn put(spec: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        spec[key] = value.into();
    }
}

/// Names, so that their order is not that of the draw.
const NAMES: [&str; 6] = ["d", "b", "e", "a", "f", "c"];

/// What a rule is of, without its name and its number of connections.
fn rule() -> impl Strategy<Value = (&'static str, u32, Value)> {
    let subset = sample::select(vec!["v1", "v2"]);
    let selector = option::weighted(0.25, prop_oneof![4 => some_labels(), 1 => Just(json!({}))]);
    let drawn = (namespace(), age(), host(true), export_to(), selector, option::weighted(0.3, subset));
    (drawn, prop::bool::weighted(0.8)).prop_map(|((namespace, age, host, export, selector, subset), policy)| {
        let mut spec = json!({"host": host});
        match selector {
            // Istio's webhook takes nothing else beside a selector.
            Some(labels) => spec["workloadSelector"] = json!({"matchLabels": labels}),
            None => put(&mut spec, "exportTo", export),
        }
        put(&mut spec, "subsets", subset.map(|name| json!([{"name": name, "labels": {"version": name}}])));
        if policy {
            spec["trafficPolicy"] = json!({"connectionPool": {"tcp": {}}});
        }
        (namespace, age, spec)
    })
}

fn http_match() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => Just(json!({"port": 80})),
        2 => Just(json!({"port": 81})),
        1 => Just(json!({"method": {"exact": "GET"}})),
        2 => some_labels().prop_map(|labels| json!({"sourceLabels": labels})),
        2 => sample::select(vec![CLIENT, OTHER, SERVER]).prop_map(|name| json!({"sourceNamespace": name})),
        1 => Just(json!({"gateways": ["mesh"], "sourceNamespace": "nobody"})),
        1 => Just(json!({"gateways": ["server/gateway"]})),
    ]
}

fn destination() -> impl Strategy<Value = Value> {
    let port = option::weighted(0.3, sample::select(vec![80_u32, 81, 82]));
    (host(false), port).prop_map(|(host, port)| {
        let mut destination = json!({"host": host});
        put(&mut destination, "port", port.map(|number| json!({"number": number})));
        destination
    })
}

fn http_route() -> impl Strategy<Value = Value> {
    let matches = option::weighted(0.5, collection::vec(http_match(), 1..=2));
    let delegates = prop::bool::weighted(0.04);
    (matches, destination(), option::weighted(0.1, destination()), delegates).prop_map(
        |(matches, to, mirror, delegates)| {
            let mut route = json!({"route": [{"destination": to}]});
            if delegates {
                route = json!({"delegate": {"name": "elsewhere"}});
            } else {
                put(&mut route, "mirror", mirror);
            }
            put(&mut route, "match", matches);
            route
        },
    )
}

fn virtual_service() -> impl Strategy<Value = (&'static str, u32, Value)> {
    let gateways = sample::select(vec![json!(["mesh"]), json!(["gateway"]), json!(["server/gateway", "mesh"])]);
    let hosts = collection::vec(host(true), 1..=2);
    let http = prop_oneof![9 => collection::vec(http_route(), 1..=2).prop_map(Some), 1 => Just(None)];
    let drawn = (namespace(), age(), hosts, export_to(), option::weighted(0.2, gateways), http, destination());
    drawn.prop_map(|(namespace, age, mut hosts, export, gateways, http, to)| {
        hosts.dedup();
        let mut spec = json!({"hosts": hosts});
        put(&mut spec, "exportTo", export);
        put(&mut spec, "gateways", gateways);
        match http {
            Some(http) => spec["http"] = json!(http),
            None => spec["tcp"] = json!([{"route": [{"destination": to}]}]),
        }
        (namespace, age, spec)
    })
}

fn imports() -> impl Strategy<Value = Vec<&'static str>> {
    let one = sample::select(vec![
        "*/*",
        "./*",
        "server/*",
        "*/*.server.svc.cluster.local",
        "server/httpbin.server.svc.cluster.local",
        "*/httpbin.server.svc.cluster.local",
        "client/httpbin.client.svc.cluster.local",
        "istio-system/*",
        "other/*",
        "~server/mysql.server.svc.cluster.local",
        "~/*.server.svc.cluster.local",
        "~client/*",
    ]);
    collection::vec(one, 1..=3)
}

fn sidecar() -> impl Strategy<Value = (&'static str, u32, Value)> {
    let place = sample::select(vec![CLIENT, CLIENT, OTHER, ROOT, SERVER]);
    let selector = option::weighted(0.4, some_labels());
    let own_port = option::weighted(0.3, (sample::select(vec![80_u32, 81, 82]), imports()));
    let egress = option::weighted(0.9, (own_port, imports()));
    (place, age(), selector, egress).prop_map(|(place, age, selector, egress)| {
        let mut spec = json!({});
        put(&mut spec, "workloadSelector", selector.map(|labels| json!({"labels": labels})));
        put(
            &mut spec,
            "egress",
            egress.map(|(own_port, hosts)| {
                let own = own_port.map(|(number, hosts)| {
                    json!({"port": {"number": number, "protocol": "HTTP", "name": "http"}, "hosts": hosts})
                });
                own.into_iter().chain([json!({"hosts": hosts})]).collect::<Vec<_>>()
            }),
        );
        (place, age, spec)
    })
}

/// A rule, and whether it stands where others of its neighbourhood stand, for the same host in the same
/// namespace, and how it is exported then.
fn crowded_rule() -> impl Strategy<Value = (Option<Value>, (&'static str, u32, Value))> {
    let exports = sample::select(vec![Value::Null, json!(["."]), json!([CLIENT]), json!([CLIENT, OTHER])]);
    (option::weighted(0.6, exports), rule())
}

/// Rules and routes, one to six of each, and often a Sidecar or two.
pub fn world() -> impl Strategy<Value = World> {
    let crowd = option::weighted(0.6, namespace());
    let sidecars = prop_oneof![3 => Just(0..=0_usize), 2 => Just(1..=2_usize)];
    let sidecars = sidecars.prop_flat_map(|count| collection::vec(sidecar(), count));
    let drawn = (crowd, collection::vec(crowded_rule(), 1..=6), collection::vec(virtual_service(), 1..=6), sidecars);
    drawn.prop_map(|(crowd, rules, routes, sidecars)| {
        let mut objects = Vec::new();
        for (index, (joins, (mut namespace, age, mut spec))) in rules.into_iter().enumerate() {
            if let (Some(crowd), Some(export)) = (crowd, joins) {
                namespace = crowd;
                spec["host"] = json!("httpbin.server.svc.cluster.local");
                if spec.get("workloadSelector").is_none() {
                    put(&mut spec, "exportTo", Some(export).filter(|export| !export.is_null()));
                }
            }
            // Each has a number of its own, by which it is known in what Istio says.
            if spec.get("trafficPolicy").is_some() {
                spec["trafficPolicy"]["connectionPool"]["tcp"]["maxConnections"] = json!(index + 1);
            }
            objects.push(object("DestinationRule", namespace, NAMES[index], age, &spec));
        }
        for (index, (namespace, age, spec)) in routes.into_iter().enumerate() {
            objects.push(object("VirtualService", namespace, NAMES[index], age, &spec));
        }
        for (index, (namespace, age, spec)) in sidecars.into_iter().enumerate() {
            objects.push(object("Sidecar", namespace, NAMES[index], age, &spec));
        }
        World { objects }
    })
}

impl World {
    /// The Services, as they go to an API server.
    pub fn services() -> Vec<Value> {
        let ports: Vec<Value> = PORTS.iter().map(|(name, port)| json!({"name": name, "port": port})).collect();
        let service = |(name, namespace): &(&str, &str)| {
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": "10.0.0.1", "ports": ports},
            })
        };
        SERVICES.iter().map(service).collect()
    }
}

#[test]
#[ignore = "writes to the file JUDGED_WORLDS what a lab applies, and judges nothing"]
fn writes_neighbourhoods() {
    let file = std::env::var_os("JUDGED_WORLDS").expect("JUDGED_WORLDS names a file");
    let lines: Vec<String> =
        drawn(100, &world()).into_iter().map(|world| Value::Array(world.objects).to_string()).collect();
    std::fs::write(file, lines.join("\n")).expect("the file is written");
}
