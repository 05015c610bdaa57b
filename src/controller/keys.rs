//! The names that the controller knows.
//!
//! kube's controller looks an object up before it calls the reconciler, and drops the call if there is
//! none. But a policy that is gone has to be cleaned up after. So the controller is given names and
//! nothing else, and a name stays until nothing is left of its policy; what it stands for is looked up
//! in the [`World`](super::world::World).

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures::channel::mpsc;
use kube::{
    core::{ObjectMeta, PartialObjectMeta},
    runtime::{
        reflector::{
            ObjectRef, Store,
            store::{Writer, store},
        },
        watcher::Event,
    },
};

use super::{relations::Names, world::World};
use crate::api::Resilience;

/// A name in a namespace, and the uid of the last policy that had it.
pub type Key = PartialObjectMeta<Resilience>;

/// All names, and the queue of those to look at.
pub struct Keys {
    writer: Mutex<Writer<Key>>,
    open: AtomicBool,
    store: Store<Key>,
    queue: mpsc::UnboundedSender<ObjectRef<Key>>,
    /// Who waits for his turn, and since when.
    waiting: Mutex<HashMap<(String, String), Instant>>,
}

impl Keys {
    /// No names yet, and the end of the queue from which the controller takes.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ObjectRef<Key>>) {
        let (store, writer) = store();
        let (queue, requests) = mpsc::unbounded();
        let (writer, waiting) = (Mutex::new(writer), Mutex::default());
        (Self { writer, open: AtomicBool::new(false), store, queue, waiting }, requests)
    }

    /// The names, as the controller reads them. Not ready before [`Keys::open`].
    pub fn store(&self) -> Store<Key> {
        self.store.clone()
    }

    /// Lets the controller begin, with no names. Whoever opens asks then for a look at all there are.
    pub fn open(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        self.open.store(true, Ordering::Relaxed);
    }

    /// Whether it has begun.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Asks for a look at each of `names`.
    pub fn look_at_all(&self, world: &World, names: &Names) {
        for (namespace, name) in names {
            self.look_at(namespace, name, world.policies.uid(namespace, name).as_deref());
        }
    }

    /// Asks for a look at a name. `uid`: of the policy that has it, if there is one. Before
    /// [`Keys::open`], that is forgotten.
    pub fn look_at(&self, namespace: &str, name: &str, uid: Option<&str>) {
        let reference = ObjectRef::new(name).within(namespace);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.open.load(Ordering::Relaxed) {
            return;
        }
        let known = self.store.get(&reference);
        let same = known.is_some_and(|known| uid.is_none() || known.metadata.uid.as_deref() == uid);
        if !same {
            writer.apply_watcher_event(&Event::Apply(key(namespace, name, uid)));
        }
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(Instant::now);
        drop(writer);
        // Fails when the controller has ended, and then nobody looks at anything.
        let _ended = self.queue.unbounded_send(reference);
    }

    /// A name's turn has come; since when it waited. `None`: nobody asked, its time was over.
    pub fn begin(&self, namespace: &str, name: &str) -> Option<Instant> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&(namespace.to_owned(), name.to_owned()))
    }

    /// Who waits for his turn, and since when.
    pub fn waiting(&self) -> HashMap<(String, String), Instant> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether anybody waits for his turn.
    pub fn is_busy(&self) -> bool {
        !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Forgets a name unless `alive`, which is asked while no name can be added: a policy that comes
    /// at this very moment is in the world before it is looked at.
    pub fn forget(&self, namespace: &str, name: &str, alive: impl FnOnce() -> bool) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !alive() {
            writer.apply_watcher_event(&Event::Delete(key(namespace, name, None)));
            // Whoever is unknown is not called.
            let _since = self.begin(namespace, name);
        }
    }
}

fn key(namespace: &str, name: &str, uid: Option<&str>) -> Key {
    Key {
        types: None,
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            uid: uid.map(str::to_owned),
            ..ObjectMeta::default()
        },
        _phantom: std::marker::PhantomData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(keys: &Keys) -> Vec<(String, Option<String>)> {
        let mut known: Vec<_> = keys
            .store()
            .state()
            .iter()
            .map(|key| (key.metadata.name.clone().unwrap(), key.metadata.uid.clone()))
            .collect();
        known.sort();
        known
    }

    #[test]
    fn before_it_is_opened_no_name_is_noted_or_queued() {
        let (keys, mut requests) = Keys::new();
        keys.look_at("ns", "a", Some("1"));
        keys.open();
        keys.look_at("ns", "b", None);
        assert_eq!(known(&keys), [("b".into(), None)]);
        assert_eq!(requests.try_recv().unwrap().name, "b");
        assert!(requests.try_recv().is_err());
    }

    #[test]
    fn a_name_waits_from_the_first_time_that_it_is_asked_for_until_its_turn() {
        let (keys, _requests) = Keys::new();
        keys.open();
        let name = ("ns".to_owned(), "a".to_owned());
        keys.look_at("ns", "a", None);
        let since = keys.waiting()[&name];
        keys.look_at("ns", "a", None);
        assert_eq!(keys.waiting()[&name], since);
        assert_eq!(keys.begin("ns", "a"), Some(since));
        assert_eq!(keys.begin("ns", "a"), None);
        keys.look_at("ns", "a", None);
        keys.forget("ns", "a", || false);
        assert_eq!(keys.waiting().len(), 0);
    }

    #[test]
    fn the_uid_of_a_policy_that_is_gone_is_remembered_until_another_has_the_name() {
        let (keys, _requests) = Keys::new();
        keys.open();
        keys.look_at("ns", "a", Some("1"));
        keys.look_at("ns", "a", None);
        assert_eq!(known(&keys), [("a".into(), Some("1".into()))]);
        keys.look_at("ns", "a", Some("2"));
        assert_eq!(known(&keys), [("a".into(), Some("2".into()))]);
    }

    #[test]
    fn a_name_that_is_alive_again_is_not_forgotten() {
        let (keys, _requests) = Keys::new();
        keys.open();
        keys.look_at("ns", "a", None);
        keys.forget("ns", "a", || true);
        assert_eq!(known(&keys).len(), 1);
        keys.forget("ns", "a", || false);
        assert_eq!(known(&keys).len(), 0);
    }
}
