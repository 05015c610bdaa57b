//! The names that the controller knows.
//!
//! kube's controller looks an object up before it calls the reconciler, and drops the call if there is
//! none. But a policy that is gone has to be cleaned up after. So the controller is given names and
//! nothing else, and what a name stands for is looked up in the [`World`](super::world::World). A name stays
//! for as long as a look at it is due: until its turn, and while it is to be tried again. At rest there are none.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
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
use tokio::sync::Notify;

use super::{relations::Names, world::World};
use crate::api::Resilience;

/// A name in a namespace, and the uid of the last policy that had it.
pub type Key = PartialObjectMeta<Resilience>;

/// So many names wait at a time, of those that nobody is in a hurry for.
const ROOM: usize = 256;

/// All names, and the queue of those to look at.
pub struct Keys {
    writer: Mutex<Writer<Key>>,
    open: AtomicBool,
    store: Store<Key>,
    queue: mpsc::UnboundedSender<ObjectRef<Key>>,
    /// Who waits for his turn, and since when.
    waiting: Mutex<HashMap<(String, String), Instant>>,
    /// Told when somebody's turn has come.
    turn: Notify,
}

impl Keys {
    /// No names yet, and the end of the queue from which the controller takes.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ObjectRef<Key>>) {
        let (store, writer) = store();
        let (queue, requests) = mpsc::unbounded();
        let (writer, waiting) = (Mutex::new(writer), Mutex::default());
        (Self { writer, open: AtomicBool::new(false), store, queue, waiting, turn: Notify::new() }, requests)
    }

    fn queued(&self) -> MutexGuard<'_, HashMap<(String, String), Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.queued().entry((namespace.to_owned(), name.to_owned())).or_insert_with(Instant::now);
        drop(writer);
        // Fails when the controller has ended, and then nobody looks at anything.
        let _ended = self.queue.unbounded_send(reference);
    }

    /// A name's turn has come; since when it waited. `None`: nobody asked, its time was over.
    pub fn begin(&self, namespace: &str, name: &str) -> Option<Instant> {
        let since = self.queued().remove(&(namespace.to_owned(), name.to_owned()));
        self.turn.notify_one();
        since
    }

    /// Returns when few names wait: whoever is in no hurry lets those go first that are. For one at a time.
    pub async fn room(&self) {
        while self.queued().len() >= ROOM {
            self.turn.notified().await;
        }
    }

    /// Who waits for his turn, and since when.
    pub fn waiting(&self) -> HashMap<(String, String), Instant> {
        self.queued().clone()
    }

    /// Whether anybody waits for his turn.
    pub fn is_busy(&self) -> bool {
        !self.queued().is_empty()
    }

    /// A look at a name has ended, and it is not to be tried again: forgotten, unless a look at it was asked for
    /// meanwhile. A look that was asked for before it began saw what it was asked for.
    pub fn rest(&self, namespace: &str, name: &str) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (namespace.to_owned(), name.to_owned());
        if !self.queued().contains_key(&place) {
            writer.apply_watcher_event(&Event::Delete(key(namespace, name, None)));
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
    fn a_name_is_forgotten_after_its_turn_unless_it_was_asked_for_meanwhile() {
        let (keys, _requests) = Keys::new();
        keys.open();
        keys.look_at("ns", "a", Some("1"));
        keys.begin("ns", "a");
        keys.look_at("ns", "a", None);
        keys.rest("ns", "a");
        assert_eq!(known(&keys), [("a".into(), Some("1".into()))]);
        keys.begin("ns", "a");
        keys.rest("ns", "a");
        assert_eq!(known(&keys).len(), 0);
    }

    #[tokio::test]
    async fn who_is_in_no_hurry_waits_until_there_is_room() {
        let (keys, _requests) = Keys::new();
        keys.open();
        keys.room().await;
        for number in 0..ROOM {
            keys.look_at("ns", &number.to_string(), None);
        }
        let mut room = std::pin::pin!(keys.room());
        assert!(futures::poll!(&mut room).is_pending());
        keys.begin("ns", "7");
        room.await;
    }
}
