//! What was waited for, as percentiles.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Times, kept to three digits.
pub struct Times(Histogram<u64>);

impl Times {
    /// None so far; up to an hour each.
    ///
    /// # Errors
    /// None that depends on anything.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 3_600_000_000, 3)?))
    }

    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// In milliseconds.
    pub fn report(&self) -> Value {
        let at = |quantile: f64| millis(self.0.value_at_quantile(quantile));
        json!({"count": self.0.len(), "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": millis(self.0.max())})
    }
}

fn millis(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1e3
}

/// Seconds of the wall clock, which all processes of the machine share.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
