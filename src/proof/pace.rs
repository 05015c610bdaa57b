//! When to ask again.

use std::time::Duration;

/// At most this part of the time is spent asking: a mesh where a round takes long is asked rarely.
const IDLE_SHARE: u32 = 4;

/// How long a pause may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// To eight times the first: something is about to change.
    Short,
    /// To 32 times the first: something is wrong, and no event would tell when it heals.
    Long,
    /// To the rest.
    Rest,
}

/// Pauses that double from the first to the rest.
#[derive(Debug)]
pub struct Pace {
    first: Duration,
    rest: Duration,
    next: Duration,
    /// So that rounds take their share of the time and no more.
    least: Duration,
}

impl Pace {
    /// Begins soon.
    pub fn new(first: Duration, rest: Duration) -> Self {
        Self { first, rest, next: first, least: Duration::ZERO }
    }

    /// Something changed.
    pub const fn restart(&mut self) {
        self.next = self.first;
    }

    /// A round took so long.
    pub fn ended(&mut self, took: Duration, patience: Patience) {
        self.least = took.saturating_mul(IDLE_SHARE);
        let most = match patience {
            Patience::Short => self.first.saturating_mul(8),
            Patience::Long => self.first.saturating_mul(32),
            Patience::Rest => self.rest,
        };
        self.next = self.next.saturating_mul(2).min(most).min(self.rest);
    }

    /// How long to wait now. Spread by a fifth, so that operators of several meshes do not go in step.
    pub fn pause(&self) -> Duration {
        self.next.mul_f64(1.0 - 0.2 * fastrand::f64()).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(pause: Duration, to: Duration) -> bool {
        pause <= to && pause >= to.mul_f64(0.8)
    }

    #[test]
    fn pauses_double_up_to_the_rest_and_begin_anew_with_a_change() {
        let (first, rest) = (Duration::from_secs(2), Duration::from_mins(5));
        let mut pace = Pace::new(first, rest);
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert!(close(pace.pause(), Duration::from_secs(seconds)), "{seconds}: {:?}", pace.pause());
            pace.ended(Duration::ZERO, Patience::Rest);
        }
        pace.restart();
        assert!(close(pace.pause(), first));
    }

    #[test]
    fn while_something_is_waited_for_pauses_stay_short_but_never_shorter_than_four_rounds() {
        let mut pace = Pace::new(Duration::from_secs(2), Duration::from_mins(5));
        for _ in 0..10 {
            pace.ended(Duration::ZERO, Patience::Short);
        }
        assert!(close(pace.pause(), Duration::from_secs(16)), "{:?}", pace.pause());
        pace.ended(Duration::from_secs(30), Patience::Long);
        assert_eq!(pace.pause(), Duration::from_mins(2));
        pace.restart();
        assert_eq!(pace.pause(), Duration::from_mins(2));
    }
}
