//! What is said of proxies, case by case.

use std::collections::BTreeMap;

use super::*;
use crate::{
    api::conditions::Reason,
    observed::proxies::{Cluster, Origin, Proxy, Told},
};

const HOST: &str = "web.ns.svc.cluster.local";

fn rule(namespace: &str, name: &str) -> Origin {
    Origin { kind: "DestinationRule".into(), namespace: namespace.into(), name: name.into() }
}

fn expectation() -> Expectation {
    let common = BTreeMap::from([("limits.perClient.activeRequests", "5".to_owned())]);
    Expectation { host: HOST.into(), rule: Some(rule("ns", "web")), common, ..Expectation::default() }
}

fn cluster(origin: Option<Origin>, limit: &str) -> Cluster {
    Cluster {
        name: format!("outbound|80||{HOST}"),
        port: 80,
        host: HOST.into(),
        origin,
        values: BTreeMap::from([("limits.perClient.activeRequests", limit.to_owned())]),
        fingerprint: 1,
    }
}

fn proxy(cluster: Cluster) -> Proxy {
    let told_clusters = Told { sent: "1".into(), acknowledged: "1".into(), refusal: String::new() };
    Proxy { name: "a.ns".into(), clusters: vec![cluster], told_clusters, ..Proxy::default() }
}

fn stands(proxy: &Proxy) -> Standing {
    standing(&expectation(), proxy).expect("it holds the host")
}

#[test]
fn a_proxy_without_the_cluster_is_not_counted() {
    let other = Cluster { host: "other.ns.svc.cluster.local".into(), ..cluster(None, "5") };
    assert_eq!(standing(&expectation(), &proxy(other)), None);
}

#[test]
fn the_rule_and_its_values_and_the_acknowledgement_are_all_needed() {
    let good = proxy(cluster(Some(rule("ns", "web")), "5"));
    assert_eq!(stands(&good), Standing::InEffect);
    let other = proxy(cluster(Some(rule("ns", "web")), "6"));
    assert_eq!(stands(&other), Standing::Differs("limits.perClient.activeRequests 6 instead of 5".into()));
    let mut silent = good;
    silent.told_clusters.sent = "2".into();
    assert_eq!(stands(&silent), Standing::Lagging);
}

#[test]
fn the_same_numbers_from_a_rule_of_another_namespace_are_not_ours() {
    let theirs = proxy(cluster(Some(rule("away", "theirs")), "5"));
    assert_eq!(stands(&theirs), Standing::Shadowed("DestinationRule away/theirs".into()));
    let nobodys = proxy(cluster(None, "5"));
    assert_eq!(stands(&nobodys), Standing::Shadowed("no DestinationRule".into()));
}

#[test]
fn of_rules_of_one_namespace_that_istio_merges_the_values_decide() {
    let subsets = |limit| proxy(cluster(Some(rule("ns", "older-with-subsets")), limit));
    assert_eq!(stands(&subsets("5")), Standing::InEffect);
    assert_eq!(stands(&subsets("6")), Standing::Shadowed("DestinationRule ns/older-with-subsets".into()));
}

#[test]
fn a_refusal_of_something_else_proves_nothing_in_either_direction() {
    let mut refusing = proxy(cluster(Some(rule("ns", "web")), "5"));
    refusing.told_clusters =
        Told { sent: "2".into(), acknowledged: "1".into(), refusal: "cluster(s) outbound|80||other: bad".into() };
    assert!(matches!(stands(&refusing), Standing::Unproven(why) if why.contains("other: bad")));
    refusing.told_clusters.refusal = format!("cluster(s) outbound|80||{HOST}: bad");
    assert!(matches!(stands(&refusing), Standing::Refused(_)));
}

#[test]
fn routes_are_not_waited_for_at_a_gateway() {
    let wants = Expectation { routes: Some(rule("ns", "web")), ..expectation() };
    let mut proxy = proxy(cluster(Some(rule("ns", "web")), "5"));
    assert!(matches!(standing(&wants, &proxy), Some(Standing::Unproven(_))));
    proxy.is_gateway = true;
    assert_eq!(standing(&wants, &proxy), Some(Standing::InEffect));
}

fn sighting(number: usize, standing: Standing, overdue: bool) -> Sighting {
    Sighting { proxy: format!("client-{number}.ns"), standing, overdue }
}

fn of(sightings: Vec<Sighting>, connected: usize, unasked: &[&str]) -> Verdict {
    let unasked = unasked.iter().map(|line| (*line).to_owned()).collect();
    let findings = Findings { asked: sightings.len(), connected, sightings, unasked };
    Verdict::of(&expectation(), &findings)
}

#[test]
fn a_long_list_of_laggards_is_cut_and_counted() {
    let verdict = of((0..12).map(|number| sighting(number, Standing::Lagging, true)).collect(), 12, &[]);
    assert_eq!((verdict.truth, verdict.reason), (Truth::False, Reason::Lagging));
    assert!(verdict.message.ends_with("client-4.ns and 7 more"), "{}", verdict.message);
}

#[test]
fn what_is_wrong_is_told_before_what_is_not_known() {
    let bad = sighting(1, Standing::Shadowed("DestinationRule away/theirs".into()), true);
    let verdict = of(vec![bad, sighting(2, Standing::Unproven("why".into()), true)], 2, &["istiod-b: no answer"]);
    assert_eq!((verdict.truth, verdict.reason), (Truth::False, Reason::Shadowed));
    let all_good = of(vec![sighting(1, Standing::InEffect, false)], 1, &["istiod-b: no answer"]);
    assert_eq!((all_good.truth, all_good.reason), (Truth::Unknown, Reason::Partial));
}

#[test]
fn a_sample_is_called_one_in_words_and_in_the_counts() {
    let verdict = of(vec![sighting(1, Standing::InEffect, false)], 9, &[]);
    assert_eq!(verdict.message, format!("1 of 1 proxies, of a sample of 1 out of 9, that hold {HOST} have it"));
    assert!(verdict.proxies.unwrap().sampled);
}

#[test]
fn a_refusal_does_not_wait_for_the_grace() {
    let verdict = of(vec![sighting(1, Standing::Refused("bad".into()), false)], 1, &[]);
    assert_eq!((verdict.truth, verdict.reason), (Truth::False, Reason::RefusedByProxy));
}
