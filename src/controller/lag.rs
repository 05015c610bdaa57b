//! Since when policies wait for a status that speaks of them as they are.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{cache::Entry, world::Policy};

/// Whether the status of a policy speaks of an older generation than it has. Of one that cannot be read nothing is
/// known.
pub fn is_unobserved(policy: Option<&Entry<Policy>>) -> bool {
    policy.and_then(|policy| policy.view.readable()).is_some_and(|policy| {
        let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
        policy.metadata.generation > observed
    })
}

/// Those whose turn has come, and whose status is not yet as new as they are.
#[derive(Debug, Default)]
pub struct Lag(Mutex<HashMap<(String, String), Instant>>);

impl Lag {
    /// A look at a policy begins, which was asked for `since`. From the second look at what waits, the first counts.
    pub fn begin(&self, (namespace, name): (&str, &str), unobserved: bool, since: Instant) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        if unobserved {
            waiting.entry(key).or_insert(since);
        } else {
            waiting.remove(&key);
        }
    }

    /// A look at a policy has ended; how long it has waited, if it waits no more.
    pub fn end(&self, (namespace, name): (&str, &str), policy: Option<&Entry<Policy>>) -> Option<Duration> {
        if is_unobserved(policy) {
            return None;
        }
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = waiting.remove(&(namespace.to_owned(), name.to_owned()))?;
        // One that has gone was told nothing.
        policy.map(|_| since.elapsed())
    }

    /// Since when each of them waits.
    pub fn waiting(&self) -> HashMap<(String, String), Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: (&str, &str) = ("ns", "a");

    #[test]
    fn what_waits_waits_since_it_was_first_asked_for() {
        let lag = Lag::default();
        let first = Instant::now();
        lag.begin(NAME, true, first);
        lag.begin(NAME, true, first + Duration::from_secs(9));
        assert_eq!(lag.waiting()[&("ns".to_owned(), "a".to_owned())], first);
    }

    #[test]
    fn what_is_observed_or_gone_is_waited_for_no_more_and_counts_as_nothing() {
        let lag = Lag::default();
        lag.begin(NAME, true, Instant::now());
        lag.begin(NAME, false, Instant::now());
        assert_eq!(lag.waiting().len(), 0);
        lag.begin(NAME, true, Instant::now());
        assert_eq!(lag.end(NAME, None), None);
        assert_eq!(lag.waiting().len(), 0);
    }
}
