//! What the watches have seen, by namespace and name.
//!
//! In: one object at a time, or «this list is complete». Out: what was there before and what is there
//! now, so that a change triggers whom it touched before as well as whom it touches now. Keeps lean
//! views, not objects, each packed until somebody asks for it, and its [`Index`] in step with them: all changes come in by
//! [`Cache::put`], [`Cache::put_own`], [`Cache::remove`] and [`Cache::retain`]. What we wrote ourselves is not undone by
//! what a watch tells late ([`Own`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    marker::PhantomData,
    num::NonZeroU128,
    ops::Bound::{Excluded, Unbounded},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use kube::core::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};
use smallvec::SmallVec;

use super::{
    index::{Index, Indexed, Key},
    own::Own,
    pack::Packed,
    tally::Mark,
    uid::Uid,
};
use crate::names;

/// A view: what is kept of an object, and can be packed.
pub trait View: Indexed + Serialize + DeserializeOwned {}

impl<V: Indexed + Serialize + DeserializeOwned> View for V {}

/// What is known of one object.
#[derive(Debug)]
pub struct Entry<V> {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Its version, if it is a number, as it is on every API server so far (and by contract since
    /// Kubernetes 1.35). `None` counts as newer than anything.
    pub version: Option<u128>,
    /// The view.
    pub view: V,
}

impl<V> Entry<V> {
    /// An entry for the object with `meta`.
    pub fn new(meta: &ObjectMeta, view: V) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.as_deref().and_then(|version| version.parse().ok()),
            view,
        }
    }
}

/// One object as it lies here: a few hundred bytes, where its view takes some thousands.
#[derive(Debug)]
pub struct Stored {
    /// Shared, as the name is, with the map that it lies in.
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Uid,
    /// No object's is 0.
    version: Option<NonZeroU128>,
    view: Packed,
}

impl Stored {
    fn of<V: View>(entry: &Entry<V>, namespace: Arc<str>, name: Arc<str>) -> Self {
        let Entry { namespace: _, name: _, uid, version, view } = entry;
        let version = version.and_then(NonZeroU128::new);
        Self { namespace, name, uid: Uid::of(uid), version, view: Packed::of(view) }
    }

    fn entry<V: View>(&self) -> Option<Arc<Entry<V>>> {
        let Self { namespace, name, uid, version: _, view } = self;
        let Some(view) = view.open() else {
            tracing::error!(%namespace, %name, "what was kept of an object cannot be read: a bug, please report it");
            return None;
        };
        let (namespace, name, uid) = (namespace.to_string(), name.to_string(), uid.to_string());
        Some(Arc::new(Entry { namespace, name, uid, version: self.version(), view }))
    }

    fn version(&self) -> Option<u128> {
        self.version.map(NonZeroU128::get)
    }
}

/// One object before and after; at least one of the two is there.
#[derive(Debug)]
pub struct Delta<V> {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// As it was known.
    pub before: Option<Arc<Entry<V>>>,
    /// As it is known now.
    pub after: Option<Arc<Entry<V>>>,
}

impl<V> Delta<V> {
    /// Both sides that are there.
    pub fn sides(&self) -> impl Iterator<Item = &Entry<V>> {
        self.before.iter().chain(&self.after).map(AsRef::as_ref)
    }
}

/// What became of what was told of an object.
#[derive(Debug)]
pub enum Told<V> {
    /// It is taken.
    News(Delta<V>),
    /// It is the very same that is known: the echo of a write of ours, or one of a list that is read again.
    Known,
    /// It is older than what is known: a watch lags behind the answers to our own writes, and if this counted, a
    /// reconcile in between would see its own write undone and repeat it.
    Late,
}

impl<V> Told<V> {
    /// What has changed, if anything has.
    pub fn news(self) -> Option<Delta<V>> {
        match self {
            Self::News(delta) => Some(delta),
            Self::Known | Self::Late => None,
        }
    }
}

type Spaces = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Stored>>>;

/// All objects of one kind.
#[derive(Debug)]
pub struct Cache<V> {
    held: RwLock<Held>,
    cluster_domain: Arc<str>,
    /// Entries that were given out: what answers cost.
    pub visited: AtomicUsize,
    of: PhantomData<fn() -> V>,
}

#[derive(Debug, Default)]
struct Held {
    spaces: Spaces,
    index: Index,
    own: Own,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self::new(&names::DEFAULT_CLUSTER_DOMAIN.into())
    }
}

impl<V> Cache<V> {
    /// Empty. Short names are resolved in `cluster_domain`.
    pub fn new(cluster_domain: &Arc<str>) -> Self {
        Self {
            held: RwLock::default(),
            cluster_domain: cluster_domain.clone(),
            visited: AtomicUsize::new(0),
            of: PhantomData,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The uid of the object of that name.
    pub fn uid(&self, namespace: &str, name: &str) -> Option<String> {
        Some(self.read().get(namespace, name)?.uid.to_string())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().spaces.values().map(BTreeMap::len).sum()
    }

    /// How many have each mark; none that nobody has. What this takes does not grow with the objects.
    pub fn marks(&self) -> BTreeMap<Mark, usize> {
        self.read().index.marks().clone()
    }

    /// Namespace, name and uid of the object behind that place, by namespace and name; `None`: of the first.
    pub fn next(&self, place: Option<(&str, &str)>) -> Option<(String, String, String)> {
        let held = self.read();
        let next = match place {
            None => held.spaces.first_key_value()?.1.first_key_value(),
            Some((namespace, name)) => {
                let space = held.spaces.get(namespace);
                let within = space.and_then(|space| space.range::<str, _>((Excluded(name), Unbounded)).next());
                let mut behind = held.spaces.range::<str, _>((Excluded(namespace), Unbounded));
                within.or_else(|| behind.next()?.1.first_key_value())
            }
        };
        let stored = next?.1;
        Some((stored.namespace.to_string(), stored.name.to_string(), stored.uid.to_string()))
    }
}

impl<V: View> Cache<V> {
    /// Opens what was found, when nobody is held up by it any more.
    fn given(&self, found: Vec<Arc<Stored>>) -> impl Iterator<Item = Arc<Entry<V>>> + use<V> {
        self.visited.fetch_add(found.len(), Ordering::Relaxed);
        found.into_iter().filter_map(|stored| stored.entry())
    }

    /// The object of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<V>>> {
        let found = self.read().get(namespace, name).cloned();
        found?.entry()
    }

    /// All objects of a namespace, by name.
    pub fn within(&self, namespace: &str) -> Vec<Arc<Entry<V>>> {
        let found = self.read().spaces.get(namespace).into_iter().flat_map(BTreeMap::values).cloned().collect();
        self.given(found).collect()
    }

    /// All objects, each opened when its turn comes.
    pub fn all(&self) -> impl Iterator<Item = Arc<Entry<V>>> + use<V> {
        let found = self.read().spaces.values().flat_map(BTreeMap::values).cloned().collect();
        self.given(found)
    }

    /// Candidates for a key, in no order; see [`Index`].
    pub fn by(&self, key: Key<'_>) -> Vec<Arc<Entry<V>>> {
        self.under(&[key], None)
    }

    /// Candidates for any of the keys, and for a host, by its name and under every wildcard that covers it; each once,
    /// by namespace and name.
    pub fn under(&self, keys: &[Key<'_>], covering: Option<&str>) -> Vec<Arc<Entry<V>>> {
        self.opened(self.find(keys, covering))
    }

    /// Those of [`Cache::under`] as they lie here, in no order: what is found is not opened.
    pub fn find(&self, keys: &[Key<'_>], covering: Option<&str>) -> Vec<Arc<Stored>> {
        let held = self.read();
        let by_keys = keys.iter().flat_map(|key| held.index.by(*key));
        let by_host = covering.into_iter().flat_map(|host| held.index.covering(host));
        // Taken together at last: to take one waits for the memory where it lies, and nothing else goes on meanwhile.
        let mut found: SmallVec<[&Arc<Stored>; 8]> = by_keys.chain(by_host).collect();
        found.sort_unstable_by_key(|stored| Arc::as_ptr(stored));
        found.dedup_by_key(|stored| Arc::as_ptr(stored));
        found.into_iter().cloned().collect()
    }

    /// What was found, opened, by namespace and name.
    pub fn opened(&self, found: Vec<Arc<Stored>>) -> Vec<Arc<Entry<V>>> {
        let mut entries: Vec<_> = self.given(found).collect();
        entries.sort_by(|one, two| (&one.namespace, &one.name).cmp(&(&two.namespace, &two.name)));
        entries
    }

    /// Candidates for a key, but the one of that namespace and name.
    pub fn by_beside(&self, one: Option<(&str, &str)>, key: Key<'_>) -> Vec<Arc<Entry<V>>> {
        let mut found = self.read().index.by(key).to_vec();
        found.retain(|stored| Some((&*stored.namespace, &*stored.name)) != one);
        self.given(found).collect()
    }

    /// Takes what a watch saw, if it is news.
    pub fn put(&self, entry: Entry<V>) -> Told<V> {
        let held = &mut *self.write();
        if held.own.is_stale(&entry.namespace, &entry.name, &entry.uid, entry.version) {
            return Told::Late;
        }
        held.put(entry, &self.cluster_domain)
    }

    /// Takes what the API server answered to a call of ours, which counts more than what a watch tells late. Gives
    /// what is news.
    pub fn put_own(&self, entry: Entry<V>) -> Option<Delta<V>> {
        let held = &mut *self.write();
        let known = held.get(&entry.namespace, &entry.name);
        let shown = known.is_some_and(|known| {
            known.uid == *entry.uid
                && known.version() >= entry.version
                && !held.own.awaits(&entry.namespace, &entry.name)
        });
        held.own.wrote(&entry.namespace, &entry.name, &entry.uid, entry.version, shown);
        held.put(entry, &self.cluster_domain).news()
    }

    /// Takes a deletion, at `version` if that is known. `None` if the object is not known, or if another one
    /// has the name by now.
    pub fn remove(&self, namespace: &str, name: &str, uid: &str, version: Option<u128>) -> Option<Delta<V>> {
        let held = &mut *self.write();
        held.own.ended(namespace, name, uid, version);
        held.remove(namespace, name, uid, &self.cluster_domain)
    }

    /// Takes the end of a list: what is in `scope` (a namespace; `None`: all) and was not listed is
    /// gone, although no event said so.
    pub fn retain(&self, scope: Option<&str>, listed: &HashSet<(String, String)>) -> Vec<Delta<V>> {
        let held = &mut *self.write();
        let in_scope = held.spaces.iter().filter(|(namespace, _)| scope.is_none_or(|scope| *scope == ***namespace));
        let entries = in_scope.flat_map(|(_, space)| space.values());
        let missing = entries.filter(|entry| {
            !listed.contains(&(entry.namespace.to_string(), entry.name.to_string()))
                && !held.own.is_newer_than_a_list(&entry.namespace, &entry.name)
        });
        let gone: Vec<_> = missing.cloned().collect();
        let take = |entry: &Arc<Stored>| {
            held.own.forget(&entry.namespace, &entry.name);
            held.remove(&entry.namespace, &entry.name, &entry.uid.to_string(), &self.cluster_domain)
        };
        gone.iter().filter_map(take).collect()
    }
}

impl<V> Cache<V> {
    /// A write of the policy `by` may have changed an object, or found it changed.
    pub fn doubt(&self, namespace: &str, name: &str, by: &str) {
        self.write().own.doubt(namespace, name, by);
    }

    /// What has to be read before the policy `by` is decided upon, of `names` and of what its writes left in
    /// doubt.
    pub fn unsure(&self, namespace: &str, by: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
        self.read().own.unsure(namespace, by, names)
    }

    /// It was read, and taken.
    pub fn settle(&self, namespace: &str, name: &str, by: &str) {
        self.write().own.settle(namespace, name, by);
    }
}

impl Held {
    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.spaces.get(namespace)?.get(name)
    }

    fn put<V: View>(&mut self, entry: Entry<V>, cluster_domain: &str) -> Told<V> {
        let known = self.spaces.get_key_value(&*entry.namespace).map(|(namespace, _)| namespace.clone());
        let namespace = known.unwrap_or_else(|| entry.namespace.as_str().into());
        let space = self.spaces.entry(namespace.clone()).or_default();
        let (name, before) =
            space.get_key_value(&*entry.name).map(|(name, known)| (name.clone(), known.clone())).unzip();
        let known = before.as_ref().filter(|known| known.uid == *entry.uid);
        if known
            .is_some_and(|known| matches!((known.version(), entry.version), (Some(known), Some(new)) if new < known))
        {
            return Told::Late;
        }
        let name = name.unwrap_or_else(|| entry.name.as_str().into());
        let stored = Arc::new(Stored::of(&entry, namespace, name));
        // Not by the version alone: another default in a CRD shows in objects of whatever version.
        if known.is_some_and(|known| known.version == stored.version && known.view == stored.view) {
            return Told::Known;
        }
        space.insert(stored.name.clone(), stored.clone());
        let before = before.and_then(|before| self.forget(&before, cluster_domain));
        self.index.add(&stored, &entry, cluster_domain);
        let (namespace, name) = (entry.namespace.clone(), entry.name.clone());
        Told::News(Delta { namespace, name, before, after: Some(Arc::new(entry)) })
    }

    fn remove<V: View>(&mut self, namespace: &str, name: &str, uid: &str, cluster_domain: &str) -> Option<Delta<V>> {
        let space = self.spaces.get_mut(namespace)?;
        if space.get(name)?.uid != *uid {
            return None;
        }
        let before = space.remove(name);
        if space.is_empty() {
            self.spaces.remove(namespace);
        }
        let before = before.and_then(|before| self.forget(&before, cluster_domain));
        Some(Delta { namespace: namespace.to_owned(), name: name.to_owned(), before, after: None })
    }

    /// Takes one out of the index; gives it as it was.
    fn forget<V: View>(&mut self, stored: &Arc<Stored>, cluster_domain: &str) -> Option<Arc<Entry<V>>> {
        let entry = stored.entry()?;
        self.index.remove(stored, &entry, cluster_domain);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::own::PATIENCE;

    impl Indexed for String {
        fn keys(entry: &Entry<Self>, _: &str, tell: &mut dyn FnMut(Key<'_>)) {
            tell(Key::Host(&entry.view));
        }
    }

    fn entry(name: &str, uid: &str, version: u128, view: &str) -> Entry<String> {
        Entry { namespace: "ns".into(), name: name.into(), uid: uid.into(), version: Some(version), view: view.into() }
    }

    #[test]
    fn an_older_version_does_not_undo_a_newer_one() {
        let cache = Cache::default();
        cache.put(entry("a", "1", 9, "ours"));
        assert!(matches!(cache.put(entry("a", "1", 8, "stale")), Told::Late));
        assert_eq!(cache.get("ns", "a").unwrap().view, "ours");
    }

    #[test]
    fn the_very_same_is_no_news_and_neither_late_nor_taken_in_again() {
        let cache = Cache::default();
        cache.put_own(entry("a", "1", 9, "ours"));
        let was = cache.find(&[Key::Host("ours")], None);
        assert!(matches!(cache.put(entry("a", "1", 9, "ours")), Told::Known));
        assert!(Arc::ptr_eq(&was[0], &cache.find(&[Key::Host("ours")], None)[0]));
        // It was shown all the same.
        assert_eq!(cache.retain(None, &HashSet::new()).len(), 1);
        assert!(cache.put(entry("a", "1", 9, "the same with a default of today")).news().is_some());
        assert!(cache.put(entry("a", "1", 10, "the same with a default of today")).news().is_some());
    }

    #[test]
    fn a_new_object_under_the_name_counts_whatever_its_version() {
        let cache = Cache::default();
        cache.put(entry("a", "1", 9, "first"));
        let delta = cache.put(entry("a", "2", 3, "second")).news().unwrap();
        assert_eq!(delta.sides().map(|side| side.view.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn a_late_deletion_does_not_take_the_successor() {
        let cache = Cache::default();
        cache.put(entry("a", "2", 9, "second"));
        assert!(cache.remove("ns", "a", "1", None).is_none());
        assert!(cache.get("ns", "a").is_some());
    }

    #[test]
    fn what_is_gone_does_not_come_back_by_an_event_from_before() {
        let cache = Cache::default();
        cache.put(entry("a", "1", 5, "it"));
        cache.remove("ns", "a", "1", Some(9));
        assert!(matches!(cache.put(entry("a", "1", 8, "its ghost")), Told::Late));
        assert!(cache.get("ns", "a").is_none());
        assert!(cache.put(entry("a", "1", 10, "alive all the same")).news().is_some());
        // Who deletes it himself is told no version.
        cache.remove("ns", "a", "1", None);
        assert!(matches!(cache.put(entry("a", "1", 11, "its ghost")), Told::Late));
        assert!(cache.put(entry("a", "2", 12, "the next one")).news().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_we_wrote_is_not_undone_by_its_predecessor_nor_by_a_list_from_before_for_ten_seconds() {
        let cache = Cache::default();
        cache.put_own(entry("a", "2", 9, "ours"));
        assert!(matches!(cache.put(entry("a", "1", 8, "whose name it was")), Told::Late));
        assert!(cache.retain(None, &HashSet::new()).is_empty());
        tokio::time::advance(PATIENCE).await;
        assert_eq!(cache.retain(None, &HashSet::new()).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_watch_has_shown_for_ten_seconds_is_read_and_what_a_write_left_in_doubt_at_once() {
        let cache = Cache::default();
        let names = ["a", "b", "c"].map(str::to_owned).into();
        let unsure = || cache.unsure("ns", "policy", &names).into_iter().collect::<Vec<_>>();
        cache.put_own(entry("a", "1", 9, "ours"));
        cache.put_own(entry("b", "2", 9, "ours"));
        cache.put(entry("b", "2", 9, "ours, as shown"));
        cache.doubt("ns", "d", "policy");
        cache.doubt("ns", "e", "another");
        assert_eq!(unsure(), ["d"]);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(unsure(), ["a", "d"]);
        cache.put_own(entry("a", "1", 9, "ours, as read"));
        cache.settle("ns", "d", "policy");
        assert_eq!(unsure(), Vec::<String>::new());
    }

    #[test]
    fn one_behind_the_other_is_each_once_whatever_goes_meanwhile() {
        let cache = Cache::default();
        for (namespace, name) in [("b", "1"), ("a", "2"), ("a", "1"), ("c", "1")] {
            cache.put(Entry { namespace: namespace.into(), ..entry(name, name, 1, "") });
        }
        let next = |place| cache.next(place).map(|(namespace, name, _)| namespace + &name);
        assert_eq!((next(None), next(Some(("a", "1")))), (Some("a1".into()), Some("a2".into())));
        cache.remove("b", "1", "1", None);
        assert_eq!((next(Some(("a", "2"))), next(Some(("b", "1")))), (Some("c1".into()), Some("c1".into())));
        assert_eq!((next(Some(("c", "1"))), cache.len()), (None, 3));
    }

    #[test]
    fn what_a_list_no_longer_has_is_gone_within_its_scope_only() {
        let cache = Cache::default();
        cache.put(entry("a", "1", 1, ""));
        cache.put(entry("b", "2", 1, ""));
        cache.put(Entry { namespace: "other".into(), ..entry("c", "3", 1, "") });
        let listed = HashSet::from([("ns".to_owned(), "b".to_owned())]);
        let gone: Vec<_> = cache.retain(Some("ns"), &listed).into_iter().map(|delta| delta.name).collect();
        assert_eq!(gone, ["a"]);
        assert_eq!(cache.all().count(), 2);
    }
}
