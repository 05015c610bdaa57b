//! Watches: each keeps one kind of one namespace (or of all) in its cache, and tells of every change.
//!
//! kube's own stores and triggers are not used for this, for what they lose: a predicate by generation
//! swallows deletions of generated objects, shared streams never tell of deletions at all, a trigger
//! sees only what an object is now and not whom it concerned before, and what vanished while a watch
//! was down is never told by an event.

use std::{collections::HashSet, fmt::Debug, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, time::sleep};

use super::cache::{Cache, Delta, Entry, Told, View};
use crate::runtime::metrics::Metrics;

/// A watch that falls silent is found out when it should have ended: kube gives it this and 5 s more.
const TIMEOUT_SECONDS: u32 = 110;

/// Objects that are listed at a time. As an API server sends them they take many times the room that they take
/// here, and what a list has taken is not all given back; kube's own 500 took as much memory as all that is kept of
/// three thousand policies. Not a streaming list (KEP-3157), which takes less still: kube asks for one from
/// `resourceVersion` 0, and so for a state that may be an old one.
const PAGE: u32 = 100;

/// How many watches have listed everything at least once.
#[derive(Debug)]
pub struct Listed(Semaphore);

impl Default for Listed {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Listed {
    /// One more has.
    pub fn one(&self) {
        self.0.add_permits(1);
    }

    /// Returns when `watches` of them have.
    pub async fn all(&self, watches: u32) {
        // Only a closed semaphore fails, and nobody closes it.
        let _permits = self.0.acquire_many(watches).await;
    }
}

/// What there is of an object to keep.
pub enum Lean<V> {
    /// This.
    Read(Entry<V>),
    /// Nothing: it is not of the type that we know. Its namespace, name and uid, and the fault.
    Unread(Entry<String>),
}

impl<V> From<Entry<V>> for Lean<V> {
    fn from(entry: Entry<V>) -> Self {
        Self::Read(entry)
    }
}

/// As `lean`, for a kind that the API server may know better than we do: one object with a value of
/// tomorrow would otherwise end the list, and with it the watch of all.
pub fn guarded<K, V>(lean: impl Fn(K) -> Entry<V>) -> impl Fn(DeserializeGuard<K>) -> Lean<V> {
    move |object| match object.0 {
        Ok(object) => Lean::Read(lean(object)),
        Err(invalid) => Lean::Unread(Entry::new(&invalid.metadata, invalid.error)),
    }
}

/// One watch.
pub struct Watch<'a> {
    /// The kind, for logs and metrics.
    pub kind: &'static str,
    /// The namespace; `None`: all.
    pub scope: Option<String>,
    /// Told when everything has been listed once, if anybody waits for that.
    pub listed: Option<&'a Listed>,
    /// Told when it breaks.
    pub metrics: &'a Metrics,
    /// How long from one list to the next, though nothing broke.
    pub relist: &'a (dyn Fn() -> Duration + Send + Sync),
    /// Called when everything is listed again after it broke: what failed for the same reason, be it
    /// the API server's absence or the kind's, need not wait for the end of its backoff.
    pub recovered: &'a (dyn Fn() + Send + Sync),
    /// Of a watch that one can do without: told that it may not be read, and that it was read after all. It
    /// holds up nothing meanwhile.
    pub barred: Option<&'a (dyn Fn(bool) + Send + Sync)>,
}

impl Watch<'_> {
    /// Follows a kind for ever. A watch that breaks, be it because the kind is not served any more, is
    /// started anew with backoff; what was known stays known meanwhile.
    pub async fn follow<K, V>(
        self,
        api: Api<K>,
        cache: &Cache<V>,
        lean: impl Fn(K) -> Lean<V>,
        tell: impl Fn(&Delta<V>),
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        V: View,
    {
        let Self { kind, scope, listed, metrics, relist, recovered, barred } = self;
        let how = watcher::Config::default().timeout(TIMEOUT_SECONDS).page_size(PAGE);
        let begin = || watcher(api.clone(), how.clone()).default_backoff();
        let mut events = std::pin::pin!(begin());
        let mut again = std::pin::pin!(sleep(relist()));
        let mut seen = HashSet::new();
        let mut first = true;
        let listed = || listed.iter().for_each(|listed| listed.one());
        let put = |object: K, seen: Option<&mut HashSet<_>>| {
            let (place, entry) = match lean(object) {
                Lean::Read(entry) => ((entry.namespace.clone(), entry.name.clone()), Some(entry)),
                Lean::Unread(entry) => {
                    metrics.unread(kind);
                    let Entry { namespace, name, view: error, .. } = entry;
                    tracing::warn!(kind, namespace, name, error, "an object cannot be read and stays as it was known");
                    ((namespace, name), None)
                }
            };
            seen.map(|seen| seen.insert(place));
            if let Some(entry) = entry {
                match cache.put(entry) {
                    Told::News(delta) => tell(&delta),
                    Told::Known => {}
                    Told::Late => metrics.told_late(kind),
                }
            }
        };
        loop {
            let event = tokio::select! {
                // The list, or events without a pause would keep it off; and the same order in each run of a test.
                biased;
                () = &mut again => {
                    events.set(begin());
                    again.set(sleep(relist()));
                    continue;
                }
                event = events.next() => event,
            };
            let Some(event) = event else { return };
            match event {
                Ok(Event::Init) => seen.clear(),
                Ok(Event::InitApply(object)) => put(object, Some(&mut seen)),
                Ok(Event::InitDone) => {
                    cache.retain(scope.as_deref(), &seen).iter().for_each(&tell);
                    seen = HashSet::new();
                    if let Some(barred) = barred {
                        barred(false);
                    }
                    if std::mem::take(&mut first) {
                        listed();
                    } else {
                        recovered();
                    }
                }
                Ok(Event::Apply(object)) => put(object, None),
                Ok(Event::Delete(object)) => {
                    let (namespace, name, uid, version) = match lean(object) {
                        Lean::Read(gone) => (gone.namespace, gone.name, gone.uid, gone.version),
                        Lean::Unread(gone) => (gone.namespace, gone.name, gone.uid, gone.version),
                    };
                    cache.remove(&namespace, &name, &uid, version).iter().for_each(&tell);
                }
                Err(error) => {
                    if let Some(barred) = barred.filter(|_| is_forbidden(&error)) {
                        barred(true);
                        if std::mem::take(&mut first) {
                            listed();
                        }
                    }
                    metrics.watch_broke(kind);
                    let namespace = scope.as_deref().unwrap_or("all");
                    let error = words(&error);
                    tracing::warn!(kind, namespace, error, "a watch broke and is started anew");
                }
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) if status.code == 403)
}

/// The API server's own words where there are some: kube's hold the whole answer besides.
fn words(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.message.clone(),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => error.to_string(),
    }
}
