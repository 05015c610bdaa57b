//! In: the steps of a long command. Out: what a person sees of them: moving lines on a terminal, plain
//! lines with times elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Shows steps on standard error. Steps may run beside each other.
#[derive(Debug, Clone)]
pub struct Report {
    /// Only on a terminal.
    bars: Option<MultiProgress>,
    start: Instant,
    failures: Arc<Mutex<Vec<String>>>,
    unsteady: Arc<Mutex<Vec<String>>>,
    second_tries: usize,
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl Report {
    /// A report that starts now.
    #[must_use]
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, start: Instant::now(), failures: Arc::default(), unsteady: Arc::default(), second_tries: 0 }
    }

    /// Lets so many of the checks that fail be judged once more, in [`Report::check`].
    #[must_use]
    pub const fn with_second_tries(mut self, number: usize) -> Self {
        self.second_tries = number;
        self
    }

    /// Judges one check, as a step. One that fails is judged once more while there are second tries left, and
    /// is kept as unsteady when it passes then, with why it did not at first. True if it passed.
    pub fn check(&self, name: &str, short: &str, work: impl Fn() -> Result<()>) -> bool {
        let Err(first) = self.step(name, &work) else { return true };
        let left = self.unsteady().len() < self.second_tries;
        if !left {
            self.failed(short, &first);
            return false;
        }
        self.note(&format!("{short}: {first:#}; it is judged once more"));
        match self.step(&format!("{name} (again)"), &work) {
            Ok(()) => {
                let line = format!("{short}: {first:#}");
                self.unsteady.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                true
            }
            Err(second) => {
                self.failed(short, &second.context(format!("twice; at first: {first:#}")));
                false
            }
        }
    }

    /// What passed only when it was judged once more, and why it did not at first.
    #[must_use]
    pub fn unsteady(&self) -> Vec<String> {
        self.unsteady.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does one step, and shows that it runs, how long it took, and whether it failed.
    ///
    /// # Errors
    /// The step's own.
    pub fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let bar = self.begin(name);
        let result = work();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let mark = if result.is_ok() { "ok    " } else { "failed" };
        self.note(&format!("  {mark}  {name}  {}", seconds(begun.elapsed())));
        result
    }

    /// One line between the steps.
    pub fn note(&self, text: &str) {
        match &self.bars {
            // A terminal that went away is no reason to stop.
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Says what failed and why, and keeps it for [`Report::failures`].
    pub fn failed(&self, what: &str, error: &anyhow::Error) {
        let line = format!("{what}: {error:#}");
        self.note(&line);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// What failed, in order: after a long run nobody looks for it among what passed.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long it has been since the report began.
    #[must_use]
    pub fn elapsed(&self) -> String {
        seconds(self.start.elapsed())
    }

    fn begin(&self, name: &str) -> Option<ProgressBar> {
        let Some(bars) = &self.bars else {
            // A log shows what is under way before a long silence.
            eprintln!("  …       {name}");
            return None;
        };
        let bar = bars.add(ProgressBar::new_spinner());
        bar.set_message(name.to_owned());
        if let Ok(style) = ProgressStyle::with_template("  {spinner}       {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Some(bar)
    }
}

/// A duration as people say it.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole >= 100 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;

    use super::*;

    /// Fails so many times, then passes.
    fn failing(times: u32) -> impl Fn() -> Result<()> {
        let left = Cell::new(times);
        move || match left.get() {
            0 => Ok(()),
            more => {
                left.set(more - 1);
                bail!("{more} to come")
            }
        }
    }

    #[test]
    fn a_check_is_judged_once_more_and_told_of_when_it_passes_then() {
        let report = Report::new().with_second_tries(1);
        assert!(report.check("steady", "s", failing(0)));
        assert!(!report.check("fails twice", "t", failing(2)));
        assert!(report.check("fails once", "o", failing(1)));
        assert!(!report.check("fails once, and no second try is left", "l", failing(1)));
        assert_eq!(report.unsteady(), ["o: 1 to come"]);
        assert_eq!(report.failures(), ["t: twice; at first: 2 to come: 1 to come", "l: 1 to come"]);
    }

    #[test]
    fn without_second_tries_a_check_fails_at_once() {
        let report = Report::new();
        assert!(!report.check("fails once", "o", failing(1)));
        assert!(report.unsteady().is_empty() && report.failures().len() == 1);
    }

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(seconds(Duration::from_millis(3_210)), "3.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
