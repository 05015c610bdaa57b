//! What we know better than a watch that lags behind: what was written and not shown yet, what was
//! deleted, and writes of which nobody knows what became of them.
//!
//! As Kubernetes' own controllers since 1.36 (KEP-5647), with two differences: they wait until the watch
//! has caught up, while here the answer to a write stands in for it; and here that ends: what a watch has
//! not shown after [`PATIENCE`] is read before it is decided upon, so that no lost event holds up anything.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// How long the answer to a write counts more than the watch.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a uid is known to be gone. It never comes again; only a late event has it.
const MEMORY: Duration = Duration::from_mins(1);

/// Namespace and name.
type Place = (String, String);

/// All of one kind.
#[derive(Debug, Default)]
pub struct Own {
    written: HashMap<Place, Written>,
    gone: HashMap<String, Option<u128>>,
    gone_since: VecDeque<(Instant, String)>,
    /// Names of objects, by whose write it was.
    doubts: HashMap<Place, BTreeSet<String>>,
}

#[derive(Debug)]
struct Written {
    uid: String,
    version: Option<u128>,
    since: Instant,
}

fn place(namespace: &str, name: &str) -> Place {
    (namespace.to_owned(), name.to_owned())
}

impl Own {
    /// The API server answered that this is there. `shown`: a watch has told so as well.
    pub fn wrote(&mut self, namespace: &str, name: &str, uid: &str, version: Option<u128>, shown: bool) {
        let at = place(namespace, name);
        if shown {
            self.written.remove(&at);
        } else {
            self.written.insert(at, Written { uid: uid.to_owned(), version, since: Instant::now() });
        }
    }

    /// Whether a watch is still to show what we wrote.
    pub fn awaits(&self, namespace: &str, name: &str) -> bool {
        self.written.contains_key(&place(namespace, name))
    }

    /// Whether what a watch tells of an object is older than what we know; takes it as shown otherwise.
    pub fn is_stale(&mut self, namespace: &str, name: &str, uid: &str, version: Option<u128>) -> bool {
        if let Some(end) = self.gone.get(uid) {
            match (end, version) {
                // It lives on, whatever was said.
                (Some(end), Some(version)) if version > *end => drop(self.gone.remove(uid)),
                _ => return true,
            }
        }
        let at = place(namespace, name);
        let Some(written) = self.written.get(&at) else { return false };
        let older = matches!((version, written.version), (Some(new), Some(own)) if new < own);
        let lasts = written.since.elapsed() < PATIENCE;
        // Of one that had the name before, by another version than the one that we know nothing of yet.
        if older && (uid == written.uid || lasts) {
            return true;
        }
        self.written.remove(&at);
        false
    }

    /// Whether an object that a list does not have may be newer than that list.
    pub fn is_newer_than_a_list(&self, namespace: &str, name: &str) -> bool {
        self.written.get(&place(namespace, name)).is_some_and(|written| written.since.elapsed() < PATIENCE)
    }

    /// The object is gone, at that version if it is known.
    pub fn ended(&mut self, namespace: &str, name: &str, uid: &str, version: Option<u128>) {
        let at = place(namespace, name);
        if self.written.get(&at).is_some_and(|written| written.uid == uid) {
            self.written.remove(&at);
        }
        if uid.is_empty() {
            return;
        }
        while self.gone_since.front().is_some_and(|(since, _)| since.elapsed() > MEMORY) {
            if let Some((_, uid)) = self.gone_since.pop_front() {
                self.gone.remove(&uid);
            }
        }
        if self.gone.insert(uid.to_owned(), version).is_none() {
            self.gone_since.push_back((Instant::now(), uid.to_owned()));
        }
    }

    /// Nothing is held against the watch any more: the truth was read.
    pub fn forget(&mut self, namespace: &str, name: &str) {
        self.written.remove(&place(namespace, name));
    }

    /// A write of the policy `by` may have changed an object, or found it changed.
    pub fn doubt(&mut self, namespace: &str, name: &str, by: &str) {
        self.doubts.entry(place(namespace, by)).or_default().insert(name.to_owned());
    }

    /// The names of what has to be read before the policy `by` is decided upon: what its writes left in
    /// doubt, and which of `names` no watch has shown in all the time.
    pub fn unsure(&self, namespace: &str, by: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
        let unshown = |name: &&String| {
            let written = self.written.get(&place(namespace, name));
            written.is_some_and(|written| written.since.elapsed() >= PATIENCE)
        };
        let doubts = self.doubts.get(&place(namespace, by)).into_iter().flatten();
        doubts.chain(names.iter().filter(unshown)).cloned().collect()
    }

    /// It was read.
    pub fn settle(&mut self, namespace: &str, name: &str, by: &str) {
        let of = place(namespace, by);
        if let Some(doubts) = self.doubts.get_mut(&of) {
            doubts.remove(name);
            if doubts.is_empty() {
                self.doubts.remove(&of);
            }
        }
    }
}
