//! Counts and latencies, as they come in. Pure: latencies are given.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

use super::outcome::Outcome;

/// Latencies from 1 µs on, to three significant digits at any height.
#[derive(Debug, Clone)]
pub struct Latencies {
    /// In microseconds.
    histogram: Histogram<u64>,
    // A histogram knows its ends only to its own precision.
    min: Duration,
    max: Duration,
    sum: Duration,
}

impl Latencies {
    /// No latencies yet.
    ///
    /// # Errors
    /// The histogram refuses its bounds; ours are constants that it takes.
    pub fn new() -> Result<Self, CreationError> {
        Ok(Self {
            // Grows with what it is given: a recorder of many statuses stays small.
            histogram: Histogram::new(3)?,
            min: Duration::MAX,
            max: Duration::ZERO,
            sum: Duration::ZERO,
        })
    }

    /// Adds one latency; below 1 µs counts as 1 µs in the percentiles.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        if self.histogram.record(micros).is_err() {
            // Only a value beyond all buckets gets here. Counted at the end of the scale.
            self.histogram.saturating_record(micros);
        }
        self.min = self.min.min(latency);
        self.max = self.max.max(latency);
        self.sum = self.sum.saturating_add(latency);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        if self.histogram.add(&other.histogram).is_err() {
            // Only without auto-resize, which every histogram of ours has.
            for step in other.histogram.iter_recorded() {
                self.histogram.saturating_record_n(step.value_iterated_to(), step.count_at_value());
            }
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The smallest, if there is any.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        (self.count() > 0).then_some(self.min)
    }

    /// The largest, if there is any.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (self.count() > 0).then_some(self.max)
    }

    /// The arithmetic mean, if there is any.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let nanos = self.sum.as_nanos().checked_div(u128::from(self.count()))?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// How many lie up to each of `edges` and above the one before it, and how many above all of them.
    /// An edge is as precise as a percentile.
    #[must_use]
    pub fn between(&self, edges: &[Duration]) -> Vec<u64> {
        let mut counts = vec![0; edges.len() + 1];
        for step in self.histogram.iter_recorded() {
            // The lower end of its bucket: what lies exactly on an edge is up to it.
            let micros = self.histogram.lowest_equivalent(step.value_iterated_to());
            let place = edges.partition_point(|edge| edge.as_micros() < u128::from(micros));
            if let Some(count) = counts.get_mut(place) {
                *count += step.count_at_value();
            }
        }
        counts
    }

    /// The latency that this share (0 to 1) of all stayed within, if there is any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let max = self.max()?;
        // The histogram answers with the upper end of a bucket, which may lie above what was seen.
        Some(Duration::from_micros(self.histogram.value_at_quantile(share)).clamp(self.min, max))
    }
}

/// Most `server` headers that are told apart: a server that counts in its name must not fill the memory.
pub const MOST_SERVERS: usize = 16;

/// What came of every request so far.
#[derive(Debug, Clone)]
pub struct Recorder {
    outcomes: BTreeMap<Outcome, Latencies>,
    servers: BTreeMap<Vec<u8>, u64>,
    lag: Latencies,
    bytes: u64,
    /// What every new outcome starts from.
    none: Latencies,
}

impl Recorder {
    /// Nothing recorded yet.
    ///
    /// # Errors
    /// As [`Latencies::new`].
    pub fn new() -> Result<Self, CreationError> {
        let none = Latencies::new()?;
        Ok(Self { outcomes: BTreeMap::new(), servers: BTreeMap::new(), lag: none.clone(), bytes: 0, none })
    }

    /// Adds one finished request: what came of it, how long it took from its start (the intended
    /// one, in an open loop), and the bytes of body that came back.
    pub fn record(&mut self, outcome: Outcome, latency: Duration, bytes: u64) {
        let none = &self.none;
        self.outcomes.entry(outcome).or_insert_with(|| none.clone()).record(latency);
        self.bytes += bytes;
    }

    /// Adds the `server` header of one answer. After [`MOST_SERVERS`] different ones, others are not kept.
    pub fn record_server(&mut self, server: &[u8]) {
        // Looked up before it is copied: that is the case but for a few times.
        if let Some(count) = self.servers.get_mut(server) {
            *count += 1;
        } else if self.servers.len() < MOST_SERVERS {
            self.servers.insert(server.to_owned(), 1);
        }
    }

    /// Adds how much later than intended a request of an open loop left.
    pub fn record_lag(&mut self, lag: Duration) {
        self.lag.record(lag);
    }

    /// Adds all of another recorder.
    pub fn merge(&mut self, other: &Self) {
        for (outcome, latencies) in &other.outcomes {
            let none = &self.none;
            self.outcomes.entry(*outcome).or_insert_with(|| none.clone()).merge(latencies);
        }
        for (server, count) in &other.servers {
            if self.servers.contains_key(server) || self.servers.len() < MOST_SERVERS {
                *self.servers.entry(server.clone()).or_default() += count;
            }
        }
        self.lag.merge(&other.lag);
        self.bytes += other.bytes;
    }

    /// Latencies by outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, &Latencies)> {
        self.outcomes.iter().map(|(outcome, latencies)| (*outcome, latencies))
    }

    /// The latencies of all outcomes that are asked for, together.
    pub fn together(&self, mut wanted: impl FnMut(Outcome) -> bool) -> Latencies {
        let mut all = self.none.clone();
        for (outcome, latencies) in &self.outcomes {
            if wanted(*outcome) {
                all.merge(latencies);
            }
        }
        all
    }

    /// Answers by their `server` header, as text.
    pub fn servers(&self) -> impl Iterator<Item = (String, u64)> {
        self.servers.iter().map(|(server, count)| (String::from_utf8_lossy(server).into_owned(), *count))
    }

    /// How late requests left, in an open loop.
    #[must_use]
    pub fn lag(&self) -> &Latencies {
        &self.lag
    }

    /// Bytes of body received.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::outcome::ConnectionError;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn percentiles_lie_within_the_precision_of_what_was_recorded() {
        let mut latencies = Latencies::new().unwrap();
        for i in 1..=1_000 {
            latencies.record(ms(i));
        }
        for (share, expected) in [(0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999)] {
            let got = latencies.quantile(share).unwrap();
            assert!(got >= ms(expected) && got <= ms(expected).mul_f64(1.001), "{share}: {got:?}");
        }
        assert_eq!(latencies.min(), Some(ms(1)));
        assert_eq!(latencies.max(), Some(ms(1_000)));
        assert_eq!(latencies.mean(), Some(Duration::from_micros(500_500)));
    }

    #[test]
    fn no_latency_at_all_has_no_percentiles() {
        let latencies = Latencies::new().unwrap();
        assert_eq!(latencies.quantile(0.5), None);
        assert_eq!((latencies.min(), latencies.mean(), latencies.max()), (None, None, None));
    }

    #[test]
    fn a_percentile_is_never_above_the_largest_or_below_the_smallest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::from_nanos(123_456_789));
        for share in [0.0, 0.5, 1.0] {
            assert_eq!(latencies.quantile(share), Some(Duration::from_nanos(123_456_789)));
        }
    }

    #[test]
    fn an_absurd_latency_is_counted_and_not_lost() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::MAX);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.count(), 2);
        assert_eq!(latencies.max(), Some(Duration::MAX));
    }

    #[test]
    fn outcomes_are_kept_apart() {
        let mut recorder = Recorder::new().unwrap();
        recorder.record(Outcome::Status(200), ms(1), 10);
        recorder.record(Outcome::Timeout, ms(1_000), 0);
        recorder.record(Outcome::Failed(ConnectionError::Reset), ms(2), 5);
        let seen: Vec<_> = recorder.outcomes().map(|(o, l)| (o, l.count())).collect();
        assert_eq!(
            seen,
            [(Outcome::Status(200), 1), (Outcome::Timeout, 1), (Outcome::Failed(ConnectionError::Reset), 1)]
        );
        assert_eq!(recorder.bytes(), 15);
    }

    proptest! {
        // Histograms are slow without optimisation.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn merging_two_recorders_equals_recording_into_one(
            items in prop::collection::vec((0u16..4, 0u64..100_000_000, any::<bool>()), 0..200)
        ) {
            let (mut one, mut left, mut right) =
                (Recorder::new().unwrap(), Recorder::new().unwrap(), Recorder::new().unwrap());
            for (kind, micros, side) in items {
                let outcome = Outcome::Status(200 + kind);
                let latency = Duration::from_micros(micros);
                for recorder in [&mut one, if side { &mut left } else { &mut right }] {
                    recorder.record(outcome, latency, 1);
                    recorder.record_lag(latency);
                }
            }
            left.merge(&right);
            prop_assert_eq!(left.bytes(), one.bytes());
            for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
                prop_assert_eq!(left.lag().quantile(share), one.lag().quantile(share));
                prop_assert_eq!(
                    left.together(|_| true).quantile(share),
                    one.together(|_| true).quantile(share)
                );
            }
            let counts = |r: &Recorder| r.outcomes().map(|(o, l)| (o, l.count(), l.mean())).collect::<Vec<_>>();
            prop_assert_eq!(counts(&left), counts(&one));
        }
    }
}
