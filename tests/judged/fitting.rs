//! Legal policies and targets that they fit, the targets as other people write them.

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use proptest::{collection, option, prelude::*, sample};
use resilience_operator::{
    api::{Resilience, TargetKind},
    observed::{Observed, ServiceView, Target},
    translate::{DesiredObject, translate},
    validate::{Refusal, Settings, validate},
};
use serde_json::{Value, json};

use crate::legal::{PORTS, policy, without_server_side, world};

/// The namespace of everything here: one that each API server has.
pub const NAMESPACE: &str = "default";

/// A policy, its target, and the rest of what is observed.
#[derive(Clone, Debug)]
pub struct Fitting {
    pub policy: Resilience,
    /// A Service or a ServiceEntry.
    pub target: Value,
    pub world: Observed,
}

impl Fitting {
    /// What is generated from a policy in this world.
    pub fn render(&self, policy: &Resilience) -> Result<Vec<DesiredObject>, Refusal> {
        Ok(translate(&validate(policy, &self.world, &Settings::default())?).objects())
    }
}

/// How a port says that it is HTTP: its name's first word or none, and `appProtocol`.
const HTTP: &[(&str, Option<&str>)] = &[
    ("http", None),
    ("http2", None),
    ("grpc", None),
    ("grpc-web", None),
    ("web", None),
    ("tcp", Some("http")),
    ("web", Some("kubernetes.io/h2c")),
    ("web", Some("kubernetes.io/ws")),
];
/// Ports that it may have besides: name, transport.
const OTHERS: &[(&str, &str)] = &[
    ("https", "TCP"),
    ("tls", "TCP"),
    ("tcp", "TCP"),
    ("mongo", "TCP"),
    ("dns", "UDP"),
    ("http", "TCP"),
    ("web", "TCP"),
];

fn others() -> impl Strategy<Value = Vec<(u16, sample::Index)>> {
    collection::btree_map(10_000..=u16::MAX, any::<sample::Index>(), 0..4).prop_map(|ports| ports.into_iter().collect())
}

prop_compose! {
    fn service()(http in sample::select(HTTP), others in others(), headless in any::<bool>()) -> Value {
        let (name, app_protocol) = http;
        let mut ports: Vec<Value> = PORTS.iter().map(|port| {
            let mut one = json!({"port": port, "name": format!("{name}-{port}"), "protocol": "TCP"});
            if let Some(app_protocol) = app_protocol {
                one["appProtocol"] = json!(app_protocol);
            }
            one
        }).collect();
        ports.extend(others.into_iter().map(|(port, kind)| {
            let (name, transport) = kind.get(OTHERS);
            json!({"port": port, "name": format!("{name}-{port}"), "protocol": transport})
        }));
        let ip = if headless { "None" } else { "10.0.0.1" };
        let selector = json!({"app": "x", "version": ""});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE}, "spec": {"clusterIP": ip, "ports": ports, "selector": selector}})
    }
}

prop_compose! {
    fn entry()(
        host in "[a-z]{1,8}\\.(example\\.org|[a-z]{2,6}\\.svc\\.mesh)",
        http in sample::select(vec!["HTTP", "http2", "GRPC", "GRPC-Web"]),
        others in others(),
        resolution in sample::select(vec!["STATIC", "SELECTED", "DNS", "DNS_ROUND_ROBIN", "NONE"]),
        addresses in collection::vec((1..255_u8, option::of(sample::select(vec!["eu/a", "eu/b/rack"]))), 1..5),
    ) -> Value {
        let port = |number: u16, protocol: &str| json!({"number": number, "name": format!("p-{number}"), "protocol": protocol});
        let mut ports: Vec<Value> = PORTS.iter().map(|number| port(*number, http)).collect();
        let kinds = ["TLS", "TCP", "MONGO", "HTTPS", "HTTP"];
        ports.extend(others.into_iter().map(|(number, kind)| port(number, kinds[kind.index(kinds.len())])));
        let mut spec = json!({"hosts": [host], "ports": ports, "location": "MESH_EXTERNAL", "resolution": resolution});
        let named = resolution.starts_with("DNS");
        let endpoints: Vec<Value> = addresses.into_iter().map(|(last, locality)| {
            let address = if named { format!("h{last}.example.net") } else { format!("192.0.2.{last}") };
            let mut endpoint = json!({ "address": address });
            if let Some(locality) = locality {
                endpoint["locality"] = json!(locality);
            }
            endpoint
        }).collect();
        match resolution {
            "NONE" => {}
            "SELECTED" => {
                spec["resolution"] = json!("STATIC");
                spec["workloadSelector"] = json!({"labels": {"app": "x"}});
            }
            "DNS_ROUND_ROBIN" => spec["endpoints"] = json!(endpoints[..1]),
            _ => spec["endpoints"] = json!(endpoints),
        }
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": NAMESPACE}, "spec": spec})
    }
}

/// A policy that its world has nothing against.
pub fn fitting() -> BoxedStrategy<Fitting> {
    let target = prop_oneof![2 => service().boxed(), 1 => entry().boxed()];
    (policy(), target, world()).prop_map(|(policy, target, world)| fit(policy, target, world)).boxed()
}

fn fit(mut policy: Resilience, mut target: Value, mut world: Observed) -> Fitting {
    target["metadata"]["name"] = json!(policy.spec.target_refs[0].name);
    if target["kind"] == "ServiceEntry" {
        without_server_side(&mut policy.spec);
    }
    let reference = &mut policy.spec.target_refs[0];
    let view = if target["kind"] == "ServiceEntry" {
        "networking.istio.io".clone_into(&mut reference.group);
        reference.kind = TargetKind::ServiceEntry;
        ServiceView::of_entry(&target["spec"], None)
    } else {
        reference.group.clear();
        reference.kind = TargetKind::Service;
        let service: Service = serde_json::from_value(target.clone()).expect("a Service");
        assert!(service.namespace().is_some());
        ServiceView::from(&service)
    };
    if target["kind"] == "ServiceEntry" {
        world.endpoints = view.listed;
    }
    world.target = Target::Found(view);
    policy.metadata.namespace = Some(NAMESPACE.to_owned());
    Fitting { policy, target, world }
}
