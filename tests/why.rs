//! `why`: what one client's Envoy said in an incident on the lab, and the page that is made of it.
//!
//! The readings are those of `top` (`tests/top/`): they hold the counters that `top` asks for and no others, so these
//! pages also show what is told where a proxy does not count all. `UPDATE_GOLDEN=1 cargo test why` writes the pages in
//! `tests/why/` anew; read each before you keep it.

use std::time::Duration;

use jiff::Timestamp;
use resilience_operator::{
    cli::{Paint, why::page::text},
    observed::proxies::Origin,
    top::{Proxy, Sample, Wanted},
    why::{
        Change, ClusterConfig, Configured, Encryption, Kind, PolicySeen, ProxySeen, Seen, Snapshot, TargetSeen, Why,
        judge,
    },
};

use crate::support::{difference, read, root};

const HOST: &str = "httpbin.resilience-demo.svc.cluster.local";

fn reading(act: &str, number: u8) -> Snapshot {
    let of = |what: &str| read(format!("tests/top/{act}-{number}.{what}.txt"));
    let sample = Sample::read(&of("clusters"), &of("stats"), &Wanted::Host(HOST.to_owned()));
    let origin = Origin::parse("/apis/x/v1/namespaces/resilience-demo/destination-rule/httpbin");
    let config = ClusterConfig { rule: origin, encryption: Encryption::WhereBothCan };
    let clusters = sample.clusters.keys().map(|target| (target.clone(), config.clone())).collect();
    let configured = Configured { clusters, ..Configured::default() };
    Snapshot { outbound: sample.clusters, configured, ..Snapshot::default() }
}

fn told(act: &str, seconds: u64) -> Why {
    let at = Timestamp::from_second(86_400).unwrap();
    let proxy = Proxy { namespace: "resilience-demo".to_owned(), pod: "fortio".to_owned(), workload: None };
    let change = |minutes: u64, object: &str, what: &str| Change {
        at: at - Duration::from_mins(minutes),
        object: object.to_owned(),
        what: what.to_owned(),
    };
    judge(&Seen {
        at,
        looked: Duration::from_secs(seconds),
        target: TargetSeen {
            host: HOST.to_owned(),
            namespace: "resilience-demo".to_owned(),
            name: "httpbin".to_owned(),
            ready: Some(2),
            ..TargetSeen::default()
        },
        policy: Some(PolicySeen {
            name: "httpbin".to_owned(),
            generated: vec!["DestinationRule resilience-demo/httpbin".to_owned()],
            ..PolicySeen::default()
        }),
        clients: vec![ProxySeen { proxy, first: Some(reading(act, 1)), last: reading(act, 2) }],
        changes: vec![
            change(3, "DestinationRule resilience-demo/httpbin", "changed by resilience-operator"),
            change(61, "Service resilience-demo/httpbin", "created by kubectl"),
        ],
        ..Seen::default()
    })
}

fn golden(name: &str, made: &str) {
    let path = root().join("tests/why").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == made, "{} is not what is made:\n{}", path.display(), difference(&have, made));
}

#[test]
fn the_pages_of_an_incident_name_what_the_clients_envoy_counted() {
    for (act, seconds, first) in [
        ("1-calm", 7, None),
        ("2-overload", 8, Some(Kind::ClientLimit)),
        ("3-failing", 8, None),
        ("4-recovery", 10, None),
    ] {
        let why = told(act, seconds);
        let now = why.causes.iter().find(|_| why.failing).map(|cause| cause.cause);
        assert_eq!(now, first, "{act}: {why:#?}");
        golden(&format!("{act}.txt"), &text(&why, Paint::PLAIN));
    }
}
