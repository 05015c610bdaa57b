//! How long a lease holds, and what follows from it.
//!
//! ```text
//! renewal sent ──── begin ────────────────────┬─ finish ─────────┬─ margin ─┐
//!              writes may begin               │ and must end     │ nobody's │ another may begin
//!              0                     renew_deadline       19/20 of the   lease_duration
//! ```

use std::time::Duration;

use anyhow::ensure;

/// What is kept free at the end of a lease: a twentieth. So much may two machines' clocks differ in
/// pace, and so much longer may a write take than its deadline, before two could write at a time.
const MARGIN: u32 = 20;

/// What a write that begins at the last moment has at least.
const LEAST_FINISH: Duration = Duration::from_secs(1);

/// How long one call about the lease may take. A slow answer is worth less than another try.
const CALL: Duration = Duration::from_secs(3);

/// The three times of an election, with client-go's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease that nobody renews is still its holder's. Whole seconds: the API has no others.
    pub lease_duration: Duration,
    /// How long after its last renewal a leader still begins writes; then it ends itself.
    pub renew_deadline: Duration,
    /// How often the leader renews, and how often at least the others look.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Checks the three together.
    ///
    /// # Errors
    /// If a leader could write when its lease is over, or would lose it to a single lost answer.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { lease_duration, renew_deadline, retry_period } = *self;
        let show = humantime::format_duration;
        ensure!(
            lease_duration.subsec_nanos() == 0 && lease_duration <= Duration::from_hours(1),
            "leaseDuration: {} is not a whole number of seconds up to an hour",
            show(lease_duration)
        );
        ensure!(
            retry_period >= Duration::from_millis(500),
            "retryPeriod: {} is a load on the API server; set at least 500ms",
            show(retry_period)
        );
        ensure!(
            renew_deadline >= retry_period.saturating_mul(2),
            "renewDeadline: {} is less than two retryPeriods of {}: one lost answer would end the leader",
            show(renew_deadline),
            show(retry_period)
        );
        ensure!(
            renew_deadline.saturating_add(LEAST_FINISH) <= self.end(),
            "leaseDuration: {} leaves less than {} between renewDeadline {} and the last {MARGIN}th of the lease, \
             in which writes that were begun must end",
            show(lease_duration),
            show(LEAST_FINISH),
            show(renew_deadline)
        );
        Ok(())
    }

    /// When the last write must be over, from the renewal on.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.lease_duration - self.lease_duration / MARGIN
    }

    /// How long unacknowledged bytes of a write may wait in the machine: what was sent at the last
    /// moment must not be delivered after [`Timing::end`].
    #[must_use]
    pub fn finish(&self) -> Duration {
        self.end().saturating_sub(self.renew_deadline)
    }

    /// How long one call about the lease may take: three of them fit before the renew deadline.
    #[must_use]
    pub fn call(&self) -> Duration {
        CALL.min(self.renew_deadline / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(lease: u64, renew: u64, retry: u64) -> Timing {
        Timing {
            lease_duration: Duration::from_millis(lease),
            renew_deadline: Duration::from_millis(renew),
            retry_period: Duration::from_millis(retry),
        }
    }

    #[test]
    fn the_defaults_hold_together() {
        let timing = Timing::default();
        timing.check().unwrap();
        assert_eq!(timing.end(), Duration::from_millis(14_250));
        assert_eq!(timing.finish(), Duration::from_millis(4_250));
        assert_eq!(timing.call(), Duration::from_secs(3));
    }

    #[test]
    fn times_that_do_not_fit_each_other_are_refused_by_name() {
        for (timing, name) in [
            (timing(15_500, 10_000, 2_000), "leaseDuration"),
            (timing(3_601_000, 10_000, 2_000), "leaseDuration"),
            (timing(15_000, 10_000, 400), "retryPeriod"),
            (timing(15_000, 10_000, 6_000), "renewDeadline"),
            (timing(15_000, 15_000, 2_000), "leaseDuration"),
            (timing(15_000, 13_500, 2_000), "leaseDuration"),
        ] {
            let error = timing.check().expect_err(&format!("{timing:?} was accepted")).to_string();
            assert!(error.starts_with(name), "{timing:?}: {error}");
        }
        timing(4_000, 2_000, 1_000).check().unwrap();
        timing(15_000, 13_250, 2_000).check().unwrap();
    }
}
