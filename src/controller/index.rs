//! Who is found by what besides a name: by a host that a rule speaks of, by an owner, by a target.
//!
//! In: each change of a cache, in the same step as the cache takes it. Out: candidates for a [`Key`], or
//! for a host under all the wildcards that cover it. A look-up visits what it gives and nothing else,
//! whatever the size of the cluster.
//!
//! Keys are kept as hashes, a few bytes each: a cluster has more of them than objects. So what is given
//! may, once in a long life, be a stranger, and whoever asks looks at what it got. Nothing is ever missing.

use std::{
    borrow::Cow,
    collections::{BTreeMap, hash_map},
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
};

use nohash_hasher::IntMap;

use super::{
    cache::{Entry, Stored},
    relations::is_policy,
    server_side,
    tally::{self, Mark},
    world::{Policy, Slice},
};
use crate::{
    api::{TargetKind, TargetRef},
    istio::{
        Existing, Kind,
        neighbourhood::{GatewayRoute, RouteParent, leads_to},
    },
    names,
    observed::{Membership, ServiceView},
};

/// What an object is looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A host that it speaks of, fully qualified; but of a DestinationRule in lower case.
    Host(&'a str),
    /// What follows the star of a wildcard that it speaks of.
    Under(&'a str),
    /// A host that its routes send calls or connections to.
    Destination(&'a str),
    /// The uid of an owner or co-owner, by reference or by label; of a policy its own.
    Uid(&'a str),
    /// Namespace and name of a policy that owns it, or has blocks in it.
    Owner(&'a str, &'a str),
    /// Namespace of a target, and the name of what is generated for it: no two targets share one.
    Target(&'a str, &'a str),
    /// Namespace and name of the Service that an EndpointSlice belongs to.
    Service(&'a str, &'a str),
    /// Namespace of a policy that states the server's side.
    Stating(&'a str),
}

impl Key<'_> {
    const fn shelf(self) -> usize {
        match self {
            Self::Host(_) | Self::Under(_) => 0,
            _ => 1,
        }
    }
}

/// What is kept of an object, as far as it is looked for.
pub trait Indexed {
    /// Tells each key of the object, the same ones whenever it is asked.
    fn keys(entry: &Entry<Self>, cluster_domain: &str, tell: &mut dyn FnMut(Key<'_>))
    where
        Self: Sized;

    /// Tells each mark that the object is counted under, the same ones whenever it is asked.
    fn marks(_: &Entry<Self>, _: &mut dyn FnMut(Mark))
    where
        Self: Sized,
    {
    }
}

impl Indexed for Policy {
    fn keys(entry: &Entry<Self>, _: &str, tell: &mut dyn FnMut(Key<'_>)) {
        tell(Key::Uid(&entry.uid));
        if let Some(target) = entry.view.target() {
            tell(Key::Target(&entry.namespace, &names::generated_name(target)));
        }
        if server_side::stated(&entry.view).is_some() {
            tell(Key::Stating(&entry.namespace));
        }
    }

    fn marks(entry: &Entry<Self>, tell: &mut dyn FnMut(Mark)) {
        tally::marks(entry, tell);
    }
}

impl Indexed for Arc<Existing> {
    fn keys(entry: &Entry<Self>, cluster_domain: &str, tell: &mut dyn FnMut(Key<'_>)) {
        let object = &entry.view;
        for host in object.hosts(cluster_domain) {
            let host = as_read(object.kind, &host);
            tell(host.strip_prefix('*').map_or(Key::Host(&host), Key::Under));
        }
        for host in leads_to(object, cluster_domain) {
            tell(Key::Destination(&host));
        }
        for owner in &object.owners {
            tell(Key::Uid(&owner.uid));
            if is_policy(owner) {
                tell(Key::Owner(&entry.namespace, &owner.name));
            }
        }
        if let Some(uid) = object.labels.get(names::LABEL_OWNER_UID) {
            tell(Key::Uid(uid));
        }
        if let Some(uid) = object.co_owner_uid() {
            tell(Key::Uid(uid));
            if let Some(name) = &object.co_owner {
                tell(Key::Owner(&entry.namespace, name));
            }
        }
    }
}

/// A host as istiod reads it in an object of that kind (claim R1.1c).
pub fn as_read(kind: Kind, host: &str) -> Cow<'_, str> {
    match kind {
        Kind::VirtualService if host.bytes().any(|byte| byte.is_ascii_uppercase()) => host.to_ascii_lowercase().into(),
        Kind::VirtualService | Kind::Sidecar | Kind::DestinationRule => host.into(),
    }
}

/// The key of what sends calls to a host, of a kind of which that can be said.
pub const fn leading_to(kind: Kind, host: &str) -> Option<Key<'_>> {
    match kind {
        Kind::VirtualService => Some(Key::Destination(host)),
        Kind::DestinationRule | Kind::Sidecar => None,
    }
}

impl Indexed for ServiceView {
    fn keys(entry: &Entry<Self>, _: &str, tell: &mut dyn FnMut(Key<'_>)) {
        // A VirtualService speaks of it in whatever letters.
        for host in &entry.view.hosts {
            tell(Key::Host(&host.to_ascii_lowercase()));
        }
    }
}

impl Indexed for Arc<GatewayRoute> {
    fn keys(entry: &Entry<Self>, _: &str, tell: &mut dyn FnMut(Key<'_>)) {
        for parent in &entry.view.parents {
            tell(Key::Target(&parent.namespace, &names::generated_name(&target_of(parent))));
        }
    }
}

/// A parent of a route as a target.
pub fn target_of(parent: &RouteParent) -> TargetRef {
    TargetRef::new(if parent.is_entry { TargetKind::ServiceEntry } else { TargetKind::Service }, &parent.name)
}

impl Indexed for Slice {
    fn keys(entry: &Entry<Self>, _: &str, tell: &mut dyn FnMut(Key<'_>)) {
        if let Some(service) = &entry.view.service {
            tell(Key::Service(&entry.namespace, service));
        }
    }
}

impl Indexed for Membership {
    fn keys(_: &Entry<Self>, _: &str, _: &mut dyn FnMut(Key<'_>)) {}
}

/// Most keys have one object. As small as can be: there are as many of these as keys, and room for more.
#[derive(Debug)]
enum Posting {
    One(Arc<Stored>),
    Several(Box<[Arc<Stored>]>),
}

impl Posting {
    fn all(&self) -> &[Arc<Stored>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Several(entries) => entries,
        }
    }

    /// `None`: of nothing.
    fn of(mut entries: Vec<Arc<Stored>>) -> Option<Self> {
        if entries.len() > 1 { Some(Self::Several(entries.into())) } else { entries.pop().map(Self::One) }
    }
}

/// Objects of one kind by their keys.
#[derive(Debug, Default)]
pub struct Index {
    hasher: RandomState,
    /// By hashes, which are not hashed once more; those of hosts apart, which are looked for most, so that they lie
    /// near each other.
    postings: [IntMap<u64, Posting>; 2],
    /// How many wildcards there are of each length, so that only lengths that exist are tried.
    wildcards: BTreeMap<usize, usize>,
    marks: BTreeMap<Mark, usize>,
}

fn count_one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Index {
    /// Takes what has come.
    pub fn add<V: Indexed>(&mut self, stored: &Arc<Stored>, entry: &Entry<V>, cluster_domain: &str) {
        let Self { hasher, postings, wildcards, marks } = self;
        V::marks(entry, &mut |mark| *marks.entry(mark).or_default() += 1);
        V::keys(entry, cluster_domain, &mut |key| {
            if let Key::Under(suffix) = key {
                *wildcards.entry(suffix.len()).or_default() += 1;
            }
            match postings[key.shelf()].entry(hasher.hash_one(key)) {
                hash_map::Entry::Vacant(free) => drop(free.insert(Posting::One(stored.clone()))),
                hash_map::Entry::Occupied(mut posting) => {
                    let known = posting.get().all();
                    // One object may tell a key twice, as by owner and by label.
                    if !known.iter().any(|known| Arc::ptr_eq(known, stored)) {
                        let all = known.iter().chain([stored]).cloned().collect();
                        posting.insert(Posting::Several(all));
                    }
                }
            }
        });
    }

    /// Takes that the very same is gone.
    pub fn remove<V: Indexed>(&mut self, stored: &Arc<Stored>, entry: &Entry<V>, cluster_domain: &str) {
        let Self { hasher, postings, wildcards, marks } = self;
        V::marks(entry, &mut |mark| count_one_less(marks, &mark));
        V::keys(entry, cluster_domain, &mut |key| {
            if let Key::Under(suffix) = key {
                count_one_less(wildcards, &suffix.len());
            }
            if let hash_map::Entry::Occupied(mut posting) = postings[key.shelf()].entry(hasher.hash_one(key)) {
                let left = posting.get().all().iter().filter(|known| !Arc::ptr_eq(known, stored)).cloned().collect();
                match Posting::of(left) {
                    Some(left) => drop(posting.insert(left)),
                    None => drop(posting.remove()),
                }
            }
        });
    }

    /// How many objects have each mark; none that nobody has.
    pub const fn marks(&self) -> &BTreeMap<Mark, usize> {
        &self.marks
    }

    /// What has the key.
    pub fn by(&self, key: Key<'_>) -> &[Arc<Stored>] {
        self.postings[key.shelf()].get(&self.hasher.hash_one(key)).map(Posting::all).unwrap_or_default()
    }

    /// What speaks of the host: by its name, then under ever longer wildcards (istio
    /// `pkg/config/host/name.go`, `SubsetOf`: a star stands for any beginning, not for whole labels).
    pub fn covering<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Arc<Stored>> {
        let suffixes = self.wildcards.keys().filter_map(|length| host.get(host.len().checked_sub(*length)?..));
        self.by(Key::Host(host)).iter().chain(suffixes.flat_map(|suffix| self.by(Key::Under(suffix))))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::Ordering,
        time::{Duration, Instant},
    };

    use kube::core::DeserializeGuard;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::{
        cache::Cache,
        observe::observe,
        relations::{of_istio, of_service, of_slice},
        world,
        world::World,
    };

    fn object(kind: Kind, namespace: &str, name: &str, spec: &Value, owner: Option<&str>) -> Entry<Arc<Existing>> {
        let owners = owner.map(|owner| {
            json!([{"apiVersion": names::API_VERSION, "kind": names::KIND, "name": owner, "uid": format!("uid-{owner}")}])
        });
        let object = json!({
            "apiVersion": names::ISTIO_API_VERSION, "kind": kind.as_str(),
            "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "resourceVersion": "1", "ownerReferences": owners},
            "spec": spec,
        });
        world::existing(kind, serde_json::from_value(object).unwrap())
    }

    fn rule(namespace: &str, name: &str, host: &str) -> Entry<Arc<Existing>> {
        object(Kind::DestinationRule, namespace, name, &json!({"host": host}), None)
    }

    fn places(found: &[Arc<Entry<Arc<Existing>>>]) -> BTreeSet<String> {
        found.iter().map(|entry| format!("{}/{}", entry.namespace, entry.name)).collect()
    }

    #[test]
    fn a_host_is_found_by_its_name_by_a_short_one_and_under_every_wildcard_of_all_namespaces() {
        let world = World::default();
        let rules = world.istio(Kind::DestinationRule);
        for (namespace, name, host) in [
            ("shop", "short", "orders"),
            ("shop", "full", "orders.shop.svc.cluster.local"),
            ("client", "namespace", "*.shop.svc.cluster.local"),
            ("client", "cluster", "*.local"),
            ("istio-system", "all", "*"),
            ("client", "no-whole-label", "*ders.shop.svc.cluster.local"),
            ("client", "short-of-another-namespace", "orders"),
            ("client", "dotted-short", "orders.shop"),
            ("client", "longer-than-the-host", "*.x.orders.shop.svc.cluster.local"),
            ("shop", "capital", "Orders"),
        ] {
            rules.put(rule(namespace, name, host));
        }
        let found = places(&world.speaking_of(Kind::DestinationRule, "orders.shop.svc.cluster.local"));
        let wanted = [
            "client/cluster",
            "client/namespace",
            "client/no-whole-label",
            "istio-system/all",
            "shop/full",
            "shop/short",
        ];
        assert_eq!(found, wanted.map(str::to_owned).into());
    }

    #[test]
    fn routes_are_found_whatever_letters_either_side_is_written_in() {
        let world = World::default();
        world.istio(Kind::VirtualService).put(object(
            Kind::VirtualService,
            "client",
            "a",
            &json!({"hosts": ["Shop.Example.org", "*.EXAMPLE.com"]}),
            None,
        ));
        assert_eq!(world.speaking_of(Kind::VirtualService, "shop.example.ORG").len(), 1);
        assert_eq!(world.speaking_of(Kind::VirtualService, "a.Example.com").len(), 1);
    }

    /// A cluster of `size` Services, each with a policy, what it generated and a foreign rule elsewhere.
    fn cluster(size: usize) -> World {
        let world = World::default();
        for number in 0..size {
            let (namespace, name) = (format!("ns-{}", number % 7), format!("app-{number}"));
            let policy = json!({
                "apiVersion": names::API_VERSION, "kind": names::KIND,
                "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 1},
                "spec": {"targetRefs": [{"kind": "Service", "name": name}], "timeouts": {"connect": "1s", "request": "1s"}},
            });
            world.policies.put(world::policy(serde_json::from_value::<DeserializeGuard<_>>(policy).unwrap()));
            let host = names::service_host(&name, &namespace, "cluster.local");
            let rules = world.istio(Kind::DestinationRule);
            rules.put(object(Kind::DestinationRule, &namespace, &name, &json!({"host": host}), Some(&name)));
            rules.put(rule("elsewhere", &name, &host));
            let routes = json!({"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]});
            world.istio(Kind::VirtualService).put(object(
                Kind::VirtualService,
                &namespace,
                &name,
                &routes,
                Some(&name),
            ));
            let slice = json!({
                "addressType": "IPv4",
                "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": ["10.0.0.1"]}],
            });
            world.slices.put(world::slice(serde_json::from_value(slice).unwrap()));
            let service = json!({
                "metadata": {"name": name, "namespace": namespace, "uid": name},
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
            });
            world.services.put(world::service(serde_json::from_value(service).unwrap()));
        }
        world.istio(Kind::DestinationRule).put(rule("istio-system", "all", "*.local"));
        world
    }

    fn visited(world: &World) -> usize {
        fn of<V>(cache: &Cache<V>) -> usize {
            cache.visited.swap(0, Ordering::Relaxed)
        }
        let istio: usize = Kind::ALL.into_iter().map(|kind| of(world.istio(kind))).sum();
        istio + of(&world.policies) + of(&world.slices) + of(&world.services) + of(&world.entries)
    }

    #[test]
    fn what_a_look_and_a_change_visit_does_not_grow_with_the_cluster() {
        let visits = |size: usize| {
            let world = cluster(size);
            let policy = world.policies.get("ns-3", "app-3").unwrap();
            visited(&world);
            let observed = observe(policy.view.readable().unwrap(), &world);
            assert_eq!((observed.existing.len(), observed.endpoints.map(|seen| seen.all)), (2, Some(1)));
            let look = visited(&world);
            let delta =
                world.istio(Kind::DestinationRule).remove("elsewhere", "app-3", "elsewhere-app-3", None).unwrap();
            let own = BTreeSet::from([("ns-3".to_owned(), policy.name.clone())]);
            assert_eq!(of_istio(&delta, &world), own);
            let rule = visited(&world);
            let delta = world.slices.remove("ns-3", "app-3", "app-3", None).unwrap();
            assert_eq!(of_slice(&delta, &world), own);
            let slice = visited(&world);
            let delta = world.services.remove("ns-3", "app-3", "app-3", None).unwrap();
            assert_eq!(of_service(&delta, &world), own);
            [look, rule, slice, visited(&world)]
        };
        let small = visits(10);
        assert!(!small.contains(&0), "nothing was counted");
        assert_eq!(visits(10_000), small);
    }

    #[test]
    fn a_posting_takes_two_words() {
        assert_eq!(size_of::<Posting>(), 2 * size_of::<usize>());
    }

    #[test]
    #[ignore = "prints a time: cargo test --release --workspace --lib look_up -- --ignored --nocapture"]
    fn how_long_a_look_up_takes() {
        let world = cluster(10_000);
        let timed = |what: &str, look_up: &dyn Fn(&str) -> usize| {
            let (mut found, mut taken) = (0, Duration::ZERO);
            for hundred in 0..100 {
                // Whoever looks for a host has just made it.
                let hosts: Vec<String> = (0..100)
                    .map(|n| hundred * 100 + n)
                    .map(|n| names::service_host(&format!("app-{n}"), &format!("ns-{}", n % 7), "cluster.local"))
                    .collect();
                let begun = Instant::now();
                found += hosts.iter().map(|host| look_up(host)).sum::<usize>();
                taken += begun.elapsed();
            }
            println!("{what}: {found} rules for 10000 hosts, {:?} a host", taken / 10_000);
            assert_eq!(found, 30_000);
        };
        for _ in 0..5 {
            timed("found", &|host| world.find_speaking_of(Kind::DestinationRule, host).len());
            timed("found and opened", &|host| world.speaking_of(Kind::DestinationRule, host).len());
        }
    }

    /// A host or a wildcard out of few, so that they meet.
    fn host() -> impl Strategy<Value = String> {
        let label = || prop_oneof![Just("a"), Just("b"), Just("A")];
        prop_oneof![
            label().prop_map(str::to_owned),
            (label(), label()).prop_map(|(one, two)| format!("{one}.{two}.svc.cluster.local")),
            label().prop_map(|one| format!("*.{one}.svc.cluster.local")),
            Just("*".to_owned()),
            Just("*.local".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn after_whatever_changes_the_index_finds_what_a_scan_finds(
            changes in prop::collection::vec((0..4_usize, 0..3_usize, prop::option::weighted(0.8, host())), 0..40),
            asked in (0..2_usize, 0..3_usize),
        ) {
            let world = World::default();
            let rules = world.istio(Kind::DestinationRule);
            let namespaces = ["a", "b", "c"];
            for (name, namespace, host) in changes {
                let (name, namespace) = (format!("rule-{name}"), namespaces[namespace]);
                match host {
                    Some(host) => drop(rules.put(rule(namespace, &name, &host))),
                    None => drop(rules.remove(namespace, &name, &format!("{namespace}-{name}"), Some(0))),
                }
            }
            let asked = format!("{}.{}.svc.cluster.local", ["a", "b"][asked.0], namespaces[asked.1]);
            let covers = |object: &Existing| {
                let host = object.hosts("cluster.local").remove(0);
                host.strip_prefix('*').map_or(host == asked, |end| asked.ends_with(end))
            };
            let scanned: Vec<_> = rules.all().filter(|entry| covers(&entry.view)).collect();
            prop_assert_eq!(places(&rules.under(&[], Some(&asked))), places(&scanned));
            prop_assert_eq!(rules.under(&[], Some(&asked)).len(), scanned.len());
            rules.retain(None, &std::collections::HashSet::new());
            prop_assert_eq!(rules.under(&[], Some(&asked)).len(), 0);
        }
    }
}
