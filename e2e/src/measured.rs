//! What Istio and Envoy really do, as claims that the lab's own Istio confirms or refutes: the ground that
//! the operator's rules stand on. No operator takes part; each claim writes its objects by hand.
//!
//! A claim carries the numbers of what it proves: `M…` are measurements, `R…` are readings of Istio's source
//! that a rule of ours rests on. `cargo lab measured` lists and runs them.

mod admission;
mod bench;
mod changes;
mod ejection;
mod faults;
mod limits;
mod ports;
mod raw_stage;
mod readings;
mod retries;
mod routes;
mod routes_stage;
mod sidecar;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::report::Report;

/// A claim, judged on a stage that its family has set.
pub struct Claim<S: 'static> {
    /// What it proves: `["M3", "M4"]`.
    pub ids: &'static [&'static str],
    /// The claim, as a sentence.
    pub says: &'static str,
    /// Judges it. Leaves the stage as it found it, but for Istio objects, which the family sweeps.
    pub judge: fn(&S) -> Result<()>,
}

/// Claims that share a stage, so that it is set once.
#[derive(Clone, Copy)]
pub struct Family {
    /// One word.
    pub name: &'static str,
    /// The numbers and sentences of its claims, in order.
    pub claims: fn() -> Vec<(&'static [&'static str], &'static str)>,
    /// Sets the stage, judges the claims that are wanted, takes the stage down.
    pub play: fn(&Checkout, &mut Judge<'_>) -> Result<()>,
}

/// All families, in order.
pub const FAMILIES: &[Family] = &[
    limits::FAMILY,
    ejection::FAMILY,
    retries::FAMILY,
    routes::FAMILY,
    faults::FAMILY,
    ports::FAMILY,
    sidecar::FAMILY,
    changes::FAMILY,
    admission::FAMILY,
    readings::FAMILY,
];

/// Which claims are wanted, and how they ended.
pub struct Judge<'a> {
    report: &'a Report,
    wanted: &'a [String],
    passed: usize,
    failed: usize,
}

impl Judge<'_> {
    /// Whether any of these claims is wanted, so that a stage is worth setting.
    #[must_use]
    pub fn wants(&self, ids: &[&str]) -> bool {
        self.wanted.is_empty() || ids.iter().any(|id| self.wanted.iter().any(|wanted| wanted == id))
    }

    /// Judges those of the claims that are wanted, each on a stage that `sweep` has cleared of what the one
    /// before wrote.
    pub fn all<S>(&mut self, stage: &S, claims: &'static [Claim<S>], sweep: impl Fn(&S) -> Result<()>) {
        for claim in claims.iter().filter(|claim| self.wants(claim.ids)).collect::<Vec<_>>() {
            let name = format!("{} {}", claim.ids.join(" "), claim.says);
            let passed = self.report.check(&name, &claim.ids.join(" "), || {
                sweep(stage).context("the stage cannot be cleared of what the claim before wrote")?;
                (claim.judge)(stage)
            });
            if passed { self.passed += 1 } else { self.failed += 1 }
        }
    }
}

/// The numbers and sentences of claims, for [`Family::claims`].
#[must_use]
pub fn listed<S>(claims: &'static [Claim<S>]) -> Vec<(&'static [&'static str], &'static str)> {
    claims.iter().map(|claim| (claim.ids, claim.says)).collect()
}

/// Judges the wanted claims, by number or family; all if none is named. Gives how many passed and failed.
///
/// # Errors
/// When a name is not known.
pub fn judge(checkout: &Checkout, report: &Report, wanted: &[String]) -> Result<(usize, usize)> {
    for name in wanted {
        let known = FAMILIES
            .iter()
            .any(|family| family.name == name || (family.claims)().iter().any(|(ids, _)| ids.contains(&name.as_str())));
        anyhow::ensure!(known, "no claim or family is called {name}; `cargo lab measured --list` lists them");
    }
    let (mut passed, mut failed) = (0, 0);
    for family in FAMILIES {
        let whole = wanted.is_empty() || wanted.iter().any(|name| name == family.name);
        let mut judge = Judge { report, wanted: if whole { &[] } else { wanted }, passed: 0, failed: 0 };
        if !(family.claims)().iter().any(|(ids, _)| judge.wants(ids)) {
            continue;
        }
        if let Err(error) = (family.play)(checkout, &mut judge) {
            report.failed(&format!("the stage of {}", family.name), &error);
            judge.failed += 1;
        }
        passed += judge.passed;
        failed += judge.failed;
    }
    Ok((passed, failed))
}

/// `cargo lab measured`: as [`judge`], as an exit code.
///
/// # Errors
/// As [`judge`].
pub fn run(checkout: &Checkout, wanted: &[String]) -> Result<ExitCode> {
    let (passed, failed) = judge(checkout, &Report::new(), wanted)?;
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every claim, one a line.
pub fn list() {
    for family in FAMILIES {
        for (ids, says) in (family.claims)() {
            println!("{:<10} {:<14} {says}", family.name, ids.join(" "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many measurements there are: M1 to M83.
    const MEASUREMENTS: usize = 83;

    #[test]
    fn every_measurement_is_judged_once() {
        let ids = FAMILIES.iter().flat_map(|family| (family.claims)()).flat_map(|(ids, _)| ids.iter().copied());
        let mut judged: Vec<usize> = ids.filter_map(|id| id.strip_prefix('M')?.parse().ok()).collect();
        judged.sort_unstable();
        assert_eq!(judged, (1..=MEASUREMENTS).collect::<Vec<_>>());
    }

    #[test]
    fn no_number_stands_twice() {
        let ids = FAMILIES.iter().flat_map(|family| (family.claims)()).flat_map(|(ids, _)| ids.iter().copied());
        let mut ids: Vec<&str> = ids.collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all, "{ids:?}");
    }
}
