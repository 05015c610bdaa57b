//! When an ejected endpoint is back at the latest.
//!
//! Envoy says neither since when it is ejected, nor for the how many-th time. It stays out for the base time as often
//! as it was ejected, up to the max time (envoy `source/common/upstream/outlier_detection_impl.cc`), and comes back
//! when Envoy looks next. So there is a bound, and no more.

use std::{collections::BTreeMap, time::Duration};

use super::{Cluster, EjectionTimes};

/// Since when the endpoints of a target are known to be ejected, on the clock of readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(BTreeMap<String, Duration>);

impl Seen {
    /// Takes notice of a reading.
    pub(super) fn look(&mut self, earlier: Option<&Cluster>, later: &Cluster, taken: Duration) {
        let ejected = |address: &String| later.endpoints.get(address).is_some_and(|endpoint| endpoint.ejected);
        self.0.retain(|address, _| ejected(address));
        let new: Vec<&String> =
            later.endpoints.keys().filter(|address| ejected(address) && !self.0.contains_key(*address)).collect();
        let since_earlier = earlier.and_then(|earlier| ejections(later)?.checked_sub(ejections(earlier)?));
        // One that came back and was ejected again between two readings looks as if it had stayed.
        let told = since_earlier.is_some_and(|ejections| ejections <= new.len() as u64);
        if !told {
            self.0.values_mut().for_each(|since| *since = taken);
        }
        let new: Vec<(String, Duration)> = new.into_iter().map(|address| (address.clone(), taken)).collect();
        self.0.extend(new);
    }

    /// The most that is left until the endpoint is back; `None`: not known.
    pub(super) fn at_most(&self, address: &str, cluster: &Cluster, taken: Duration) -> Option<Duration> {
        let times = cluster.ejection?;
        let longest = times.max.max(times.base);
        // Each of its ejections is one of the target's.
        let out = ejections(cluster).map_or(longest, |ejections| several(times, ejections).min(longest));
        let whole = out + times.jitter + times.interval;
        whole.checked_sub(taken.checked_sub(*self.0.get(address)?)?)
    }
}

fn several(times: EjectionTimes, ejections: u64) -> Duration {
    times.base.checked_mul(u32::try_from(ejections.max(1)).unwrap_or(u32::MAX)).unwrap_or(Duration::MAX)
}

fn ejections(cluster: &Cluster) -> Option<u64> {
    cluster.count("outlier_detection.ejections_enforced_total")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::Endpoint;

    const A: &str = "10.0.0.1:80";

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Base 10 s, at most 25 s, looked at each second.
    fn cluster(ejected: &[&str], ejections: Option<u64>) -> Cluster {
        let endpoint = |address: &&str| ((*address).to_owned(), Endpoint { ejected: true, ..Endpoint::default() });
        let counted = ejections.map(|number| ("outlier_detection.ejections_enforced_total".to_owned(), number));
        Cluster {
            endpoints: ejected.iter().map(endpoint).collect(),
            counted: counted.into_iter().collect(),
            ejection: Some(EjectionTimes { base: s(10), max: s(25), jitter: s(0), interval: s(1) }),
            ..Cluster::default()
        }
    }

    #[test]
    fn the_first_ejection_lasts_the_base_time_and_what_was_seen_of_it_is_over() {
        let (none, one) = (cluster(&[], Some(0)), cluster(&[A], Some(1)));
        let mut seen = Seen::default();
        seen.look(None, &none, s(0));
        seen.look(Some(&none), &one, s(2));
        assert_eq!(seen.at_most(A, &one, s(2)), Some(s(11)));
        seen.look(Some(&one), &one, s(4));
        assert_eq!(seen.at_most(A, &one, s(4)), Some(s(9)));
        assert_eq!(seen.at_most(A, &one, s(14)), None, "the bound was none");
    }

    #[test]
    fn one_of_several_ejections_may_be_the_last_of_them_all_and_never_lasts_longer_than_the_max_time() {
        for (ejections, most) in [(Some(2), 21), (Some(9), 26), (None, 26)] {
            let mut seen = Seen::default();
            let one = cluster(&[A], ejections);
            seen.look(None, &one, s(2));
            assert_eq!(seen.at_most(A, &one, s(2)), Some(s(most)), "{ejections:?}");
        }
    }

    #[test]
    fn what_may_have_been_ejected_again_unseen_begins_anew() {
        for (before, after) in [(Some(1), Some(2)), (None, None)] {
            let (before, after) = (cluster(&[A], before), cluster(&[A], after));
            let mut seen = Seen::default();
            seen.look(None, &before, s(0));
            seen.look(Some(&before), &after, s(5));
            let most = if after.counted.is_empty() { 26 } else { 21 };
            assert_eq!(seen.at_most(A, &after, s(5)), Some(s(most)));
        }
    }

    #[test]
    fn another_that_is_ejected_leaves_the_first_ones_time_alone() {
        let (one, two) = (cluster(&[A], Some(1)), cluster(&[A, "10.0.0.2:80"], Some(2)));
        let mut seen = Seen::default();
        seen.look(None, &one, s(0));
        seen.look(Some(&one), &two, s(5));
        assert_eq!(seen.at_most(A, &two, s(5)), Some(s(16)));
        assert_eq!(seen.at_most("10.0.0.2:80", &two, s(5)), Some(s(21)));
    }

    #[test]
    fn without_the_configuration_nothing_is_known() {
        let one = Cluster { ejection: None, ..cluster(&[A], Some(1)) };
        let mut seen = Seen::default();
        seen.look(None, &one, s(0));
        assert_eq!(seen.at_most(A, &one, s(0)), None);
    }
}
