//! When to look again.
//!
//! kube has no backoff per object, so the counts are ours. Nothing here decides what is wrong: the
//! class follows from the outcome, without a wildcard.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::status::Outcome;

/// When the next try could end differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// When something changes, which a watch tells; should its event be lost, the next round ends it.
    Never,
    /// Soon: doubling from a second to five minutes.
    Backoff,
    /// When somebody has acted of whom no watch tells: doubling from a quarter of a minute to five minutes.
    Slow,
}

/// The class of an outcome.
pub const fn class(outcome: &Outcome) -> Class {
    match outcome {
        // Watches tell of the Service, the rival and the foreign object with who owns what in it; another
        // Istio is looked for.
        Outcome::Rejected(_)
        | Outcome::Unsupported(_)
        | Outcome::Conflicted(_)
        | Outcome::Superseded(_)
        | Outcome::Waiting(_)
        | Outcome::Observing(..)
        | Outcome::Suspended(..)
        | Outcome::FieldConflict(..)
        | Outcome::ForeignFields(..)
        | Outcome::Programmed(..) => Class::Never,
        // Another rule of admission may take what was refused; no event tells of it, and it often comes
        // within seconds.
        Outcome::Refused(_, failure) | Outcome::Failed(_, failure) => {
            if failure.slow {
                Class::Slow
            } else {
                Class::Backoff
            }
        }
    }
}

const FIRST: Duration = Duration::from_secs(1);
/// For what a person mends.
const FIRST_SLOW: Duration = Duration::from_secs(15);
/// Longest wait for another try.
pub const LONGEST: Duration = Duration::from_mins(5);

/// Failures in a row, by object.
#[derive(Debug)]
pub struct Retries {
    failures: Mutex<HashMap<(String, String), u32>>,
    resync: Duration,
}

impl Retries {
    /// Nothing failed yet.
    pub fn new(resync: Duration) -> Self {
        Self { failures: Mutex::default(), resync }
    }

    /// How long until an object is tried again, if it is. Forgets its failures unless this is one more.
    pub fn after(&self, namespace: &str, name: &str, class: Class) -> Option<Duration> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match class {
            Class::Backoff | Class::Slow => {
                let count = failures.entry(key.clone()).or_insert(0);
                *count = count.saturating_add(1);
                *count
            }
            Class::Never => {
                failures.remove(&key);
                0
            }
        };
        drop(failures);
        let chance = fastrand::f64();
        match class {
            Class::Never => None,
            // Spread, or all objects that failed together would come again together.
            Class::Backoff => Some(jittered(backoff(FIRST, count), 0.5, chance)),
            Class::Slow => Some(jittered(backoff(FIRST_SLOW, count), 0.2, chance)),
        }
    }

    /// When to list a kind again, though its watch is well: should an event ever be lost, no later one
    /// tells of it.
    pub fn relist(&self) -> Duration {
        jittered(self.resync, 0.2, fastrand::f64())
    }

    /// What waits for another try, in a namespace or (`None`) in all.
    pub fn waiting(&self, scope: Option<&str>) -> Vec<(String, String)> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.keys().filter(|(namespace, _)| scope.is_none_or(|scope| scope == namespace)).cloned().collect()
    }
}

/// Before the n-th next try, from 1.
fn backoff(first: Duration, count: u32) -> Duration {
    first.saturating_mul(1 << count.saturating_sub(1).min(16)).min(LONGEST)
}

/// `wait` less up to the part `spread` of it.
fn jittered(wait: Duration, spread: f64, chance: f64) -> Duration {
    wait.mul_f64(1.0 - spread * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_their_first_to_five_minutes() {
        let waits = |first, upto| (1..=upto).map(|count| backoff(first, count).as_secs()).collect::<Vec<_>>();
        assert_eq!(waits(FIRST, 11), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(waits(FIRST_SLOW, 7), [15, 30, 60, 120, 240, 300, 300]);
        assert_eq!(backoff(FIRST, u32::MAX), LONGEST);
    }

    #[test]
    fn jitter_takes_at_most_its_part() {
        let wait = Duration::from_secs(100);
        assert_eq!(jittered(wait, 0.2, 0.0), Duration::from_secs(100));
        assert_eq!(jittered(wait, 0.2, 1.0), Duration::from_secs(80));
    }

    #[test]
    fn failures_are_counted_per_object_and_forgotten_after_a_success() {
        let retries = Retries::new(Duration::from_hours(1));
        let count = |name: &str| retries.failures.lock().unwrap().get(&("ns".to_owned(), name.to_owned())).copied();
        retries.after("ns", "a", Class::Backoff);
        retries.after("ns", "a", Class::Backoff);
        retries.after("ns", "b", Class::Backoff);
        assert_eq!((count("a"), count("b")), (Some(2), Some(1)));
        retries.after("ns", "a", Class::Never);
        assert_eq!((count("a"), count("b")), (None, Some(1)));
        assert_eq!(retries.waiting(None), [("ns".to_owned(), "b".to_owned())]);
        assert_eq!(retries.waiting(Some("other")), []);
    }

    #[test]
    fn a_rejected_object_waits_for_its_edit_and_nothing_else() {
        let retries = Retries::new(Duration::from_hours(1));
        assert_eq!(class(&Outcome::Rejected(Vec::new())), Class::Never);
        assert_eq!(retries.after("ns", "a", Class::Never), None);
    }
}
