//! What policies expect of proxies, and what was found: where reconciles and rounds meet.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::in_effect::{Expectation, Proof, Truth, Verdict};

/// Namespace and name of a policy.
pub type Key = (String, String);

/// One policy.
#[derive(Clone, Debug)]
struct Subject {
    expectation: Arc<Expectation>,
    verdict: Option<Verdict>,
}

/// The board.
#[derive(Debug)]
pub struct Board {
    subjects: Mutex<BTreeMap<Key, Subject>>,
    stir: Notify,
    is_set_up: bool,
}

impl Board {
    /// Empty; `is_set_up`: somebody asks.
    #[must_use]
    pub fn new(is_set_up: bool) -> Self {
        Self { subjects: Mutex::default(), stir: Notify::new(), is_set_up }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Subject>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a policy expects now, and gives what was found of just that. `None`: it expects nothing.
    /// `wrote`: something of it was written since.
    #[must_use]
    pub fn look(&self, namespace: &str, name: &str, expectation: Option<Expectation>, wrote: bool) -> Proof {
        if !self.is_set_up {
            return Proof::NotSetUp;
        }
        let key = (namespace.to_owned(), name.to_owned());
        let mut subjects = self.lock();
        let Some(expectation) = expectation.filter(|expectation| !expectation.is_empty()) else {
            subjects.remove(&key);
            return Proof::NotYet;
        };
        match subjects.get(&key) {
            Some(known) if *known.expectation == expectation && !wrote => {
                let proof = known.verdict.clone().map_or(Proof::NotYet, Proof::Found);
                // Whatever made somebody look may be what heals it.
                if matches!(&proof, Proof::Found(verdict) if verdict.truth == Truth::False) {
                    self.stir.notify_one();
                }
                proof
            }
            _ => {
                subjects.insert(key, Subject { expectation: Arc::new(expectation), verdict: None });
                drop(subjects);
                self.stir.notify_one();
                Proof::NotYet
            }
        }
    }

    /// A policy is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Something around a policy changed: what was found may be old.
    pub fn stir(&self) {
        if self.is_set_up {
            self.stir.notify_one();
        }
    }

    /// Returns when something was noted or changed since the last time.
    pub(super) async fn stirred(&self) {
        self.stir.notified().await;
    }

    /// All policies, each with what it expects and whether something was found.
    pub(super) fn subjects(&self) -> Vec<(Key, Arc<Expectation>)> {
        self.lock().iter().map(|(key, subject)| (key.clone(), subject.expectation.clone())).collect()
    }

    /// What is known of a policy that still expects just this.
    pub(super) fn known(&self, key: &Key, expectation: &Arc<Expectation>) -> Option<Verdict> {
        self.lock().get(key).filter(|subject| Arc::ptr_eq(&subject.expectation, expectation))?.verdict.clone()
    }

    /// Notes what was found of an expectation; whether that is news for whoever still has it.
    pub(super) fn post(&self, key: &Key, expectation: &Arc<Expectation>, verdict: Verdict) -> bool {
        let mut subjects = self.lock();
        let Some(subject) = subjects.get_mut(key) else { return false };
        // It may have changed while proxies were asked.
        if !Arc::ptr_eq(&subject.expectation, expectation) || subject.verdict.as_ref() == Some(&verdict) {
            return false;
        }
        subject.verdict = Some(verdict);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::conditions::Reason, observed::proxies::Origin};

    fn expectation(host: &str) -> Expectation {
        let rule = Origin { kind: "DestinationRule".into(), namespace: "ns".into(), name: "web".into() };
        Expectation { host: host.into(), rule: Some(rule), ..Expectation::default() }
    }

    #[test]
    fn what_was_found_is_of_what_was_expected_then() {
        let board = Board::new(true);
        let found = Verdict::unknown(Reason::NoProxies, "");
        assert_eq!(board.look("ns", "web", Some(expectation("a")), false), Proof::NotYet);
        let (key, before) = board.subjects().remove(0);
        // Changed while the round was under way.
        assert_eq!(board.look("ns", "web", Some(expectation("b")), false), Proof::NotYet);
        assert!(!board.post(&key, &before, found.clone()));
        let (_, now) = board.subjects().remove(0);
        assert!(board.post(&key, &now, found.clone()));
        assert!(!board.post(&key, &now, found.clone()), "the same is no news");
        assert_eq!(board.look("ns", "web", Some(expectation("b")), false), Proof::Found(found));
        // What is written anew has to be found anew.
        assert_eq!(board.look("ns", "web", Some(expectation("b")), true), Proof::NotYet);
        assert_eq!(board.look("ns", "web", Some(expectation("b")), false), Proof::NotYet);
        board.forget("ns", "web");
        assert_eq!(board.subjects(), []);
    }

    #[test]
    fn nothing_is_noted_where_nobody_asks() {
        let board = Board::new(false);
        assert_eq!(board.look("ns", "web", Some(expectation("a")), false), Proof::NotSetUp);
        assert_eq!(board.subjects(), []);
    }
}
