//! In: a lab. Out: whether one behaviour holds, judged at traffic, at Envoys' counters, or at what is left
//! on the host. `cargo lab scenario` lists and runs them; a `cargo lab test` will run them all.

use std::process::ExitCode;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::report::Report;

pub mod footprint;
pub mod leaves_nothing;
pub mod raw_sample;
pub mod side_by_side;

/// One behaviour.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// A sentence in snake case.
    pub name: &'static str,
    /// Judges it. Starts the labs that it needs; one that stands in this checkout it may use.
    pub run: fn(&Checkout) -> Result<()>,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario { name: "istio_raw_sample_trips", run: raw_sample::trips },
    Scenario { name: "footprint_sees_each_kind_of_thing", run: leaves_nothing::footprint_sees },
    Scenario { name: "down_leaves_nothing", run: leaves_nothing::after_down },
    Scenario { name: "down_after_up_was_killed_early_leaves_nothing", run: leaves_nothing::after_early_kill },
    Scenario { name: "down_after_up_was_killed_late_leaves_nothing", run: leaves_nothing::after_late_kill },
    Scenario { name: "down_after_the_sandbox_was_killed_leaves_nothing", run: leaves_nothing::after_keeper_kill },
    Scenario { name: "two_labs_live_side_by_side", run: side_by_side::live },
];

/// Runs the named scenarios, or lists all when none is named.
///
/// # Errors
/// When a name is not known; a scenario that fails is an exit code.
pub fn run(checkout: &Checkout, names: &[String]) -> Result<ExitCode> {
    if names.is_empty() {
        for scenario in ALL {
            println!("{}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report::new();
    let mut failed = 0;
    for name in names {
        let Some(scenario) = ALL.iter().find(|scenario| scenario.name == name) else {
            anyhow::bail!("no scenario is called {name}; `cargo lab scenario` lists them");
        };
        if let Err(error) = report.step(name, || (scenario.run)(checkout)) {
            report.note(&format!("{name}: {error:#}"));
            failed += 1;
        }
    }
    println!("{} passed, {failed} failed", names.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
