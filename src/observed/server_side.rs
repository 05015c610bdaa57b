//! What bears on a Sidecar for the pods behind a Service.
//!
//! A Sidecar is for pods, and a pod takes one: so whoever else selects the same pods matters, be it a
//! Sidecar or another Service.

use std::collections::{BTreeMap, BTreeSet};

use crate::istio::{Existing, Kind};

/// Labels that select pods.
pub type Selector = BTreeMap<String, String>;

/// What bears on a Sidecar for the pods behind a Service, as far as it can matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerSide {
    /// Other Services of the namespace that have, or may have, pods of the target.
    pub sharers: Vec<Sharer>,
    /// Sidecars that act on the target's pods, or may: of its namespace, and of the whole mesh. Ours among
    /// them.
    pub sidecars: Vec<Existing>,
}

/// Another Service that has, or may have, pods of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharer {
    /// Its name.
    pub name: String,
    /// How that is known.
    pub evidence: Evidence,
    /// The policy that states its server's side, if there is one.
    pub policy: Option<String>,
}

/// How it is known that two Services have pods in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Both have the endpoint with this address.
    Address(String),
    /// Their selectors do not contradict each other, and this one of the two has no endpoints by which to
    /// tell.
    NoEndpoints(String),
}

/// A Service of the namespace, as far as its pods matter.
#[derive(Clone, Debug)]
pub struct Selecting<'a> {
    /// Its name.
    pub name: &'a str,
    /// Empty: it selects no pods.
    pub selector: &'a Selector,
}

/// Whether one pod can have the labels of both: no label is another in each.
#[must_use]
pub fn may_select_the_same(one: &Selector, other: &Selector) -> bool {
    one.iter().all(|(key, value)| other.get(key).is_none_or(|other| other == value))
}

impl ServerSide {
    /// Of `target`, from the Services of its namespace (itself among them), the Sidecars of that namespace
    /// and of the root namespace, and of a Service the policy that states its server's side and the addresses
    /// of its endpoints.
    #[must_use]
    pub fn gather<'a>(
        namespace: &str,
        target: &Selecting<'_>,
        services: impl IntoIterator<Item = Selecting<'a>>,
        sidecars: impl IntoIterator<Item = &'a Existing>,
        policy: impl Fn(&str) -> Option<String>,
        addresses: impl Fn(&str) -> BTreeSet<String>,
    ) -> Self {
        let others: Vec<Selecting<'_>> = services
            .into_iter()
            .filter(|other| other.name != target.name && !other.selector.is_empty())
            .filter(|other| may_select_the_same(target.selector, other.selector))
            .collect();
        let own = addresses(target.name);
        let sharer = |other: &Selecting<'_>| {
            let theirs = addresses(other.name);
            let evidence = match own.intersection(&theirs).next() {
                Some(address) => Evidence::Address(address.clone()),
                None if own.is_empty() => Evidence::NoEndpoints(target.name.to_owned()),
                None if theirs.is_empty() => Evidence::NoEndpoints(other.name.to_owned()),
                None => return None,
            };
            Some(Sharer { name: other.name.to_owned(), evidence, policy: policy(other.name) })
        };
        let concerned = sidecars.into_iter().filter(|sidecar| {
            debug_assert_eq!(sidecar.kind, Kind::Sidecar);
            let labels = sidecar.workload_labels();
            if sidecar.namespace != namespace {
                // Of the root namespace one without a selector alone is for the mesh.
                return labels.is_none();
            }
            // What another policy generated for a Service goes with that Service, whose endpoints tell more
            // than labels.
            let with_a_service = |labels: &Selector| {
                sidecar.is_generated()
                    && others.iter().any(|other| other.name == sidecar.name && other.selector == labels)
            };
            labels.is_none_or(|labels| may_select_the_same(target.selector, &labels) && !with_a_service(&labels))
        });
        Self { sharers: others.iter().filter_map(sharer).collect(), sidecars: concerned.cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;
    use crate::names;

    fn labels(of: &[(&str, &str)]) -> Selector {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn sidecar(namespace: &str, name: &str, spec: Value) -> Existing {
        let meta = ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() };
        Existing::new(Kind::Sidecar, &meta, spec)
    }

    /// Target `a` with app=a; the other Service and its endpoints; Sidecars.
    fn gather(other: &Selector, own: &[&str], theirs: &[&str], sidecars: &[Existing]) -> ServerSide {
        let target = labels(&[("app", "a")]);
        let services = [("a", &target), ("b", other)];
        let selecting = services.map(|(name, selector)| Selecting { name, selector });
        let addresses = |name: &str| {
            let of = if name == "a" { own } else { theirs };
            of.iter().map(|address| (*address).to_owned()).collect()
        };
        ServerSide::gather("ns", &selecting[0].clone(), selecting, sidecars, |_| None, addresses)
    }

    #[test]
    fn labels_that_one_pod_can_have_together_may_select_the_same() {
        let app = labels(&[("app", "a")]);
        assert!(may_select_the_same(&app, &labels(&[("app", "a"), ("version", "v1")])));
        assert!(may_select_the_same(&app, &labels(&[("tier", "web")])));
        assert!(may_select_the_same(&app, &labels(&[])));
        assert!(!may_select_the_same(&app, &labels(&[("app", "b"), ("tier", "web")])));
    }

    #[test]
    fn endpoints_tell_whether_two_services_have_pods_in_common() {
        let other = labels(&[("tier", "web")]);
        let evidence = |own: &[&str], theirs: &[&str]| {
            gather(&other, own, theirs, &[]).sharers.into_iter().map(|sharer| sharer.evidence).collect::<Vec<_>>()
        };
        assert_eq!(evidence(&["1", "2"], &["2", "3"]), [Evidence::Address("2".into())]);
        assert_eq!(evidence(&["1"], &["3"]), []);
        assert_eq!(evidence(&["1"], &[]), [Evidence::NoEndpoints("b".into())]);
        assert_eq!(evidence(&[], &["1"]), [Evidence::NoEndpoints("a".into())]);
        // No pod is both, whatever endpoints there are.
        assert_eq!(gather(&labels(&[("app", "b")]), &["1"], &["1"], &[]).sharers, []);
        // Its endpoints are nobody's pods, as far as labels go.
        assert_eq!(gather(&labels(&[]), &["1"], &["1"], &[]).sharers, []);
    }

    #[test]
    fn sidecars_that_may_act_on_the_pods_are_told() {
        let pool = json!({"http": {"http2MaxRequests": 1}});
        let with = |labels: Value| json!({"workloadSelector": {"labels": labels}, "inboundConnectionPool": pool});
        let all = [
            sidecar("ns", "everyone", json!({"egress": [{"hosts": ["./*"]}]})),
            sidecar("ns", "empty-selector", json!({"workloadSelector": {}})),
            sidecar("ns", "same", with(json!({"app": "a"}))),
            sidecar("ns", "may-be", with(json!({"tier": "web"}))),
            sidecar("ns", "not", with(json!({"app": "c"}))),
            sidecar("istio-system", "mesh", json!({})),
            sidecar("istio-system", "of-gateways", with(json!({"app": "a"}))),
        ];
        let found = gather(&labels(&[("app", "b")]), &["1"], &["2"], &all).sidecars;
        let names: Vec<&str> = found.iter().map(|sidecar| sidecar.name.as_str()).collect();
        assert_eq!(names, ["everyone", "empty-selector", "same", "may-be", "mesh"]);
    }

    #[test]
    fn the_sidecar_of_another_policy_goes_with_its_service() {
        let mut theirs = sidecar("ns", "b", json!({"workloadSelector": {"labels": {"tier": "web"}}}));
        theirs.labels.insert(names::LABEL_MANAGED_BY.to_owned(), names::OPERATOR.to_owned());
        let web = labels(&[("tier", "web")]);
        assert_eq!(gather(&web, &["1"], &["2"], std::slice::from_ref(&theirs)).sidecars, []);
        // Left from before the Service selected otherwise, it is one like any other.
        let other = labels(&[("tier", "db")]);
        assert_eq!(gather(&other, &["1"], &["2"], &[theirs]).sidecars.len(), 1);
    }
}
