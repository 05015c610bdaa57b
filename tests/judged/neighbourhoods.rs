//! Neighbourhoods: what we say that a client gets is what istiod would send it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use resilience_operator::istio::{
    Existing, Kind,
    neighbourhood::{Callee, Client, ClientSidecar, Neighbourhood, RouteOwner, RulesInForce, Why},
};
use serde_json::{Value, json};

use crate::{
    draw::some,
    oracle,
    worlds::{CALLERS, Caller, PORTS, SERVICES, World, world},
};

/// How many neighbourhoods are judged.
const COUNT: usize = 5_000;

/// Everything of a world, as it is read of a cluster.
struct Read {
    objects: Vec<Arc<Existing>>,
    sidecars: Arc<Vec<ClientSidecar>>,
}

impl Read {
    fn new(world: &World) -> Self {
        let (mut objects, mut sidecars) = (Vec::new(), Vec::new());
        for object in &world.objects {
            let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).expect("metadata");
            let spec = object["spec"].clone();
            match object["kind"].as_str() {
                Some("DestinationRule") => {
                    objects.push(Arc::new(Existing::new(Kind::DestinationRule, &meta, spec)));
                }
                Some("VirtualService") => objects.push(Arc::new(Existing::new(Kind::VirtualService, &meta, spec))),
                _ => sidecars.push(ClientSidecar::new(&meta, &spec)),
            }
        }
        Self { objects, sidecars: Arc::new(sidecars) }
    }

    fn around(&self, callee: &Callee) -> Neighbourhood {
        let gathered = Neighbourhood::gather(callee, &self.objects, [], "cluster.local", "istio-system");
        Neighbourhood { sidecars: self.sidecars.clone(), ..gathered }
    }
}

fn callees() -> Vec<Callee> {
    let callee = |(name, namespace): &(&str, &str)| Callee {
        host: format!("{name}.{namespace}.svc.cluster.local"),
        namespace: (*namespace).to_owned(),
        name: (*name).to_owned(),
        http_ports: vec![PORTS[0].1, PORTS[1].1],
        other_ports: vec![PORTS[2].1],
        ..Callee::default()
    };
    SERVICES.iter().map(callee).collect()
}

fn client((namespace, labels): &Caller) -> Client {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Client { namespace: (*namespace).to_owned(), labels: Some(labels) }
}

fn question(world: &World, callees: &[Callee]) -> Value {
    let objects: Vec<Value> = World::services().into_iter().chain(world.objects.iter().cloned()).collect();
    let hosts: Vec<&str> = callees.iter().map(|callee| callee.host.as_str()).collect();
    let clients: Vec<Value> = CALLERS
        .iter()
        .map(|caller| json!({"namespace": caller.0, "labels": client(caller).labels, "hosts": hosts}))
        .collect();
    json!({"op": "resolve", "world": {"mesh": {}, "objects": objects}, "clients": clients})
}

fn place(object: &Existing) -> String {
    format!("{}/{}", object.namespace, object.name)
}

/// What we say, in the oracle's words; where something was not observed, the port is left out.
fn ours(around: &Neighbourhood, callee: &Callee, client: &Client, tally: &mut Tally) -> Value {
    let Some(ports) = around.sees(callee, client) else {
        *tally.entry("the client does not see the host".to_owned()).or_default() += 1;
        return json!({"host": callee.host});
    };
    let rules = around.rules(callee, client);
    let mut told = json!({"host": callee.host, "service": format!("{}/{}", callee.namespace, callee.name)});
    if !rules.merged.is_empty() {
        told["from"] = rules.merged.iter().map(|rule| place(rule)).collect();
    }
    if let Some(rule) = &rules.policy_of {
        told["trafficPolicy"] = rule.spec["trafficPolicy"].clone();
    }
    count_rules(&rules, tally);
    let ports = callee.http_ports.iter().filter(|port| ports.contains(port));
    let routes = ports.map(|port| {
        let force = around.routes(callee, *port, client);
        for shadowed in &force.shadowed {
            *tally.entry(format!("routes {:?}", shadowed.why)).or_default() += 1;
        }
        if let Some(what) = force.unobserved.first() {
            *tally.entry("routes are not observed".to_owned()).or_default() += 1;
            return json!({"port": port, "unobserved": what.to_string()});
        }
        let mut told = json!({"port": port});
        match &force.owner {
            Some(RouteOwner::VirtualService(object)) => told["virtualServices"] = json!([place(object)]),
            Some(RouteOwner::GatewayRoutes(_)) => unreachable!("none was drawn"),
            None => {}
        }
        let what = if force.owner.is_some() { "a VirtualService has the routes" } else { "the default route" };
        *tally.entry(what.to_owned()).or_default() += 1;
        told
    });
    let routes: Vec<Value> = routes.collect();
    if !routes.is_empty() {
        told["ports"] = json!(routes);
    }
    told
}

/// How often each case came.
type Tally = BTreeMap<String, usize>;

fn count_rules(rules: &RulesInForce, tally: &mut Tally) {
    for shadowed in &rules.shadowed {
        *tally.entry(format!("rules {:?}", shadowed.why)).or_default() += 1;
    }
    let what = match (&rules.policy_of, rules.merged.len()) {
        (Some(_), 1) => "one rule is in force",
        (Some(_), _) => "merged rules are in force",
        (None, 0) => "no rule is in force",
        (None, _) => "only subsets are in force",
    };
    *tally.entry(what.to_owned()).or_default() += 1;
}

/// The oracle's answer without the ports of which we say that we did not observe them.
fn comparable(mut theirs: Value, ours: &Value) -> (Value, Value) {
    let mut ours = ours.clone();
    let unobserved = |ports: &Value| -> Vec<u64> {
        let list = ports.as_array().into_iter().flatten();
        list.filter(|port| port.get("unobserved").is_some()).filter_map(|port| port["port"].as_u64()).collect()
    };
    let skipped = unobserved(&ours["ports"]);
    for side in [&mut theirs, &mut ours] {
        if let Some(Value::Array(ports)) = side.get_mut("ports") {
            // Where a Sidecar gives a port a listener of its own, Istio tells of that one first.
            ports.sort_by_key(|port| port["port"].as_u64());
            for port in ports {
                if port["port"].as_u64().is_some_and(|number| skipped.contains(&number)) {
                    *port = json!({"port": port["port"]});
                }
            }
        }
    }
    (theirs, ours)
}

#[test]
fn five_thousand_neighbourhoods_get_istios_answer_from_us() {
    let mut oracle = oracle();
    let callees = callees();
    let mut tally = Tally::new();
    let mut answers = 0;
    some(COUNT, &world(), |worlds: &[World]| {
        let questions: Vec<Value> = worlds.iter().map(|world| question(world, &callees)).collect();
        let theirs = oracle.ask(&questions).expect("the oracle answers");
        worlds
            .iter()
            .zip(theirs)
            .map(|(world, theirs)| {
                let read = Read::new(world);
                for (index, callee) in callees.iter().enumerate() {
                    let around = read.around(callee);
                    for (caller, theirs) in CALLERS.iter().zip(theirs["clients"].as_array().expect("clients")) {
                        let client = client(caller);
                        let ours = ours(&around, callee, &client, &mut tally);
                        let (theirs, ours) = comparable(theirs[index].clone(), &ours);
                        answers += 1;
                        if theirs != ours {
                            let objects: Vec<String> = world.objects.iter().map(Value::to_string).collect();
                            let world = objects.join("\n");
                            return Err(format!("client {caller:?}\nIstio: {theirs}\nwe:    {ours}\n{world}"));
                        }
                    }
                }
                Ok(())
            })
            .collect()
    });
    println!("{COUNT} neighbourhoods, {answers} answers, all Istio's");
    for (what, times) in &tally {
        println!("  {times:>7} {what}");
    }
    for what in EXERCISED {
        assert!(tally.get(*what).is_some_and(|times| *times >= COUNT / 100), "{what}: too few to prove anything");
    }
}

/// Each of these must have come at least in one of a hundred neighbourhoods.
const EXERCISED: &[&str] = &[
    "the client does not see the host",
    "no rule is in force",
    "one rule is in force",
    "merged rules are in force",
    "only subsets are in force",
    "rules NeverLookedAt",
    "rules NotExported",
    "rules ClientsNamespaceFirst",
    "rules ServicesNamespaceFirst",
    "rules MoreSpecific",
    "rules OlderFirst",
    "rules YoungerExportedDifferently",
    "rules OtherWorkloads",
    "rules SelectedFirst",
    "rules MergedIntoSelected",
    "rules MergedIntoNarrower",
    "a VirtualService has the routes",
    "the default route",
    "routes NotExported",
    "routes NotImported",
    "routes MoreSpecific",
    "routes PrivateFirst",
    "routes ExportedByNameFirst",
    "routes OlderRoutesFirst",
    "routes NoRoute",
    "routes Capitals",
];

/// Whether a rule counts for the client when it is alone.
const fn counts_alone(why: Why) -> bool {
    !matches!(why, Why::NeverLookedAt | Why::NotExported | Why::OtherWorkloads)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reason_is_one(world in world()) {
        let read = Read::new(&world);
        for callee in callees() {
            let around = read.around(&callee);
            for caller in &CALLERS {
                let client = client(caller);
                for shadowed in around.rules(&callee, &client).shadowed {
                    let alone = Neighbourhood { rules: vec![shadowed.object.clone()], ..around.clone() };
                    let counts = alone.rules(&callee, &client).merged == [shadowed.object.clone()];
                    prop_assert_eq!(counts, counts_alone(shadowed.why), "{:?}: {:?}", client, shadowed);
                    // Exports that differ, and an older one, may act through a third rule.
                    let is_alone = !matches!(shadowed.why, Why::OlderFirst | Why::YoungerExportedDifferently);
                    let Some(by) = shadowed.by.clone().filter(|_| is_alone) else { continue };
                    let both = Neighbourhood { rules: vec![shadowed.object.clone(), by], ..around.clone() };
                    let policy_of = both.rules(&callee, &client).policy_of;
                    prop_assert_ne!(policy_of, Some(shadowed.object.clone()), "{:?}: {:?}", client, shadowed);
                }
            }
        }
    }
}
