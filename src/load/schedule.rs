//! When the requests of an open loop are due. Pure: the time is given.

use std::time::Duration;

/// A fixed rate: request `i` is due `i / rate` seconds after the start, whatever came of those
/// before it.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    rate_per_s: u32,
    total: u64,
    next: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Send one; it was due at this time after the start.
    Send(Duration),
    /// Nothing is due for this long.
    Wait(Duration),
    /// All were handed out.
    Done,
}

impl Schedule {
    /// `rate_per_s` of at least 1; as many requests as fall due within `duration`, at most `requests`.
    pub(super) fn new(rate_per_s: u32, requests: Option<u64>, duration: Option<Duration>) -> Self {
        let rate_per_s = rate_per_s.max(1);
        // Due at i/rate < duration, so i < duration × rate: rounded up.
        let within = duration.map_or(u64::MAX, |duration| {
            let due = (duration.as_nanos() * u128::from(rate_per_s)).div_ceil(NANOS_PER_S);
            u64::try_from(due).unwrap_or(u64::MAX)
        });
        Self { rate_per_s, total: requests.unwrap_or(u64::MAX).min(within), next: 0 }
    }

    /// How many requests fall due in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The next step, when `elapsed` has passed since the start. Never skips one that it is late
    /// for: after a pause, all that fell due are handed out, each with its own intended time.
    pub(super) fn step(&mut self, elapsed: Duration) -> Step {
        if self.next >= self.total {
            return Step::Done;
        }
        let nanos = u128::from(self.next) * NANOS_PER_S / u128::from(self.rate_per_s);
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        match due.checked_sub(elapsed) {
            Some(wait) if !wait.is_zero() => Step::Wait(wait),
            _ => {
                self.next += 1;
                Step::Send(due)
            }
        }
    }
}

const NANOS_PER_S: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn requests_fall_due_at_the_rate() {
        let mut schedule = Schedule::new(10, Some(3), None);
        assert_eq!(schedule.step(ms(0)), Step::Send(ms(0)));
        assert_eq!(schedule.step(ms(1)), Step::Wait(ms(99)));
        assert_eq!(schedule.step(ms(100)), Step::Send(ms(100)));
        assert_eq!(schedule.step(ms(205)), Step::Send(ms(200)));
        assert_eq!(schedule.step(ms(999)), Step::Done);
    }

    #[test]
    fn after_a_pause_all_that_fell_due_are_handed_out_with_their_intended_times() {
        let mut schedule = Schedule::new(1_000, Some(5), None);
        let late: Vec<_> = (0..6).map(|_| schedule.step(ms(60_000))).collect();
        assert_eq!(
            late,
            [Step::Send(ms(0)), Step::Send(ms(1)), Step::Send(ms(2)), Step::Send(ms(3)), Step::Send(ms(4)), Step::Done]
        );
    }

    #[test]
    fn a_duration_holds_what_falls_due_before_its_end() {
        for (rate, duration, expected) in [
            (10, ms(1_000), 10),
            (10, ms(1_001), 11),
            (10, ms(999), 10),
            (3, ms(1_000), 3),
            (1, Duration::from_nanos(1), 1),
            (1_000_000, Duration::from_hours(24), 86_400_000_000),
        ] {
            assert_eq!(Schedule::new(rate, None, Some(duration)).total(), expected, "{rate} for {duration:?}");
        }
    }

    #[test]
    fn the_smaller_of_both_bounds_counts() {
        assert_eq!(Schedule::new(10, Some(5), Some(ms(1_000))).total(), 5);
        assert_eq!(Schedule::new(10, Some(50), Some(ms(1_000))).total(), 10);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let mut schedule = Schedule::new(3, None, Some(Duration::from_hours(1)));
        let mut last = Duration::ZERO;
        while let Step::Send(due) = schedule.step(Duration::MAX) {
            last = due;
        }
        // The last of 10 800 at a third of a second.
        assert_eq!(last, Duration::from_nanos(3_599_666_666_666));
    }
}
