//! What came of a run, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// What came of a step.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Its number in the seed.
    pub number: u32,
    /// What went wrong.
    pub fault: &'static str,
    /// Edits that the user made meanwhile.
    pub edits: usize,
    /// How often the fault bit.
    pub bites: u64,
    /// How long it lasted, in seconds.
    pub seconds: f64,
    /// Seconds from its end until everything was as wanted.
    pub converged: f64,
    /// The operator's writes, but for the lease, from the beginning of the step until rest.
    pub writes: usize,
    /// Kilobytes that the largest replica held at rest.
    pub resident: u64,
    /// The same, before the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_before: Option<u64>,
    /// What was not right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What came of a run.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// What it was drawn from.
    pub seed: u64,
    /// Its first step.
    pub from: u32,
    /// How long it took.
    pub seconds: u64,
    /// Events that the watcher judged.
    pub events: u64,
    /// The operator's writes, each judged against who led.
    pub writes: usize,
    /// Of these, those that fell into a stall of the API server or etcd itself, and were not judged.
    pub in_a_stall: usize,
    /// In order.
    pub steps: Vec<Outcome>,
    /// What was not right of the whole.
    pub at_the_end: Vec<String>,
}

/// Memory may be this much larger at the end than at the beginning, in kilobytes, and half as much again: caches
/// and allocators settle in the first steps, a leak goes on.
const GROWTH: u64 = 16 * 1024;

/// A run that is shorter says nothing of growth.
const LONG: Duration = Duration::from_mins(5);

impl Summary {
    /// Whether everything was right.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure().is_none()
    }

    /// What was not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let failed = self.steps.iter().filter_map(|step| {
            step.failure.as_ref().map(|failure| format!("step {}, {}: {failure}", step.number, step.fault))
        });
        let all: Vec<String> = failed.chain(self.at_the_end.iter().cloned()).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }

    /// Compares what replicas hold in the last steps with what they held in the first ones.
    pub fn judge_memory(&mut self, time: Duration) {
        let held: Vec<u64> =
            self.steps.iter().filter(|step| step.failure.is_none()).map(|step| step.resident).collect();
        let part = held.len() / 4;
        if time < LONG || part == 0 {
            return;
        }
        let median = |part: &[u64]| {
            let mut sorted = part.to_vec();
            sorted.sort_unstable();
            sorted[sorted.len() / 2]
        };
        let (first, last) = (median(&held[..part]), median(&held[held.len() - part..]));
        if last > first * 3 / 2 + GROWTH {
            self.at_the_end.push(format!("memory grows: {first} kB in the first quarter, {last} kB in the last"));
        }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let head = ["step", "fault", "edits", "bites", "lasted", "converged", "writes", "resident", "result"];
        let mut rows = vec![head.map(str::to_owned)];
        for step in &self.steps {
            rows.push([
                step.number.to_string(),
                step.fault.to_owned(),
                step.edits.to_string(),
                step.bites.to_string(),
                format!("{:.1} s", step.seconds),
                format!("{:.1} s", step.converged),
                step.writes.to_string(),
                format!("{:.1} MiB", f64::from(u32::try_from(step.resident).unwrap_or(u32::MAX)) / 1024.0),
                if step.failure.is_none() { "ok" } else { "FAILED" }.to_owned(),
            ]);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                if matches!(column, 1 | 8) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        let slowest = self.steps.iter().map(|step| step.converged).fold(0.0, f64::max);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "seed {}, {} steps in {} min {:02} s: {} events and {} writes judged, {} of them in a stall of the API server; slowest to converge {slowest:.1} s",
            self.seed,
            self.steps.len(),
            self.seconds / 60,
            self.seconds % 60,
            self.events,
            self.writes,
            self.in_a_stall,
        );
        text.push_str(&self.failure().map_or_else(|| "passed".to_owned(), |failure| format!("FAILED: {failure}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(held: &[u64]) -> Summary {
        let steps = held.iter().map(|resident| Outcome { resident: *resident, ..Outcome::default() }).collect();
        let mut summary = Summary { steps, ..Summary::default() };
        summary.judge_memory(Duration::from_hours(1));
        summary
    }

    #[test]
    fn memory_that_settles_passes_and_memory_that_grows_does_not() {
        assert!(run(&[20_000, 24_000, 30_000, 31_000, 30_000, 32_000, 31_000, 30_000]).passed());
        let grows = run(&[20_000, 30_000, 40_000, 50_000, 60_000, 70_000, 80_000, 90_000]);
        assert!(grows.failure().unwrap().contains("memory grows"));
    }

    #[test]
    fn a_failed_step_fails_the_run_and_is_told_by_its_number() {
        let step = Outcome { number: 7, fault: "it", failure: Some("an orphan".to_owned()), ..Outcome::default() };
        let summary = Summary { steps: vec![step], ..Summary::default() };
        assert!(summary.table().contains("FAILED: step 7, it: an orphan"));
    }
}
