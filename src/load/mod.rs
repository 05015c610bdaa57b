//! The load generator. Comes in: a [`Plan`] (and a [`Control`] to stop and watch it). Goes out: a
//! [`Report`]. It does I/O, and knows nothing of Kubernetes or Istio but the two signs by which an
//! Envoy's 503s tell their cause.
//!
//! ```text
//! Plan ──> closed: workers ─┐
//!     └──> open: schedule ──┴─> client ──> Outcome, latency ──> Recorder ──> Report ──> table, JSON
//! ```
//!
//! As many threads as there are cores, each with its own runtime, connections and recorder. They share
//! a few counters, and nothing that one of them could wait for.
//!
//! Every request that was due is accounted for: finished (whatever came of it, a broken connection
//! too), unsent (open loop, too many in flight) or unfinished (given up on demand). `plan`,
//! `outcome`, `record`, `schedule`, `report` and `render` are pure; latencies are given to them.

mod client;
mod closed;
mod control;
mod failure;
mod names;
mod open;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod render;
pub mod report;
mod schedule;
mod threads;

use std::sync::Arc;
use std::time::Instant;

use client::Target;
pub use control::{Control, Progress};
pub use plan::{Connections, Pacing, Plan, PlanError, Protocol};
use report::RunFacts;
pub use report::{EndedBy, Report};

/// Why a run did not come to a report. What servers and networks do wrong is in the report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan cannot be run; all its faults.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Plan(Vec<PlanError>),
    /// A request could not be built.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// A histogram could not be made.
    #[error("histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// A thread could not have its runtime.
    #[error("runtime: {0}")]
    Runtime(#[from] std::io::Error),
    /// A worker did not end by itself.
    #[error("worker: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

/// Runs a plan to its end, which comes by itself: at the latest one timeout after the last request
/// was issued. Dropped before that, it stops.
///
/// # Errors
/// [`LoadError`]: the plan is faulty, or this program is; never because of what a server did.
pub async fn run(plan: &Plan, control: &Control) -> Result<Report, LoadError> {
    let faults = plan.faults();
    if !faults.is_empty() {
        return Err(LoadError::Plan(faults));
    }
    let target = Arc::new(Target::new(plan)?);
    let _stop = StopOnDrop(control);
    let measured_from = Instant::now() + plan.warm_up;
    let recorded = match plan.pacing {
        Pacing::Closed { concurrency } => closed::drive(plan, concurrency, control, &target, measured_from).await?,
        Pacing::Open { rate_per_s, max_in_flight } => {
            open::drive(plan, rate_per_s, max_in_flight, control, &target, measured_from).await?
        }
    };
    let elapsed = measured_from.elapsed();
    let progress = control.progress();
    let facts = RunFacts {
        elapsed,
        // Loops end by saying why; only a stop can come before they do.
        ended_by: control.ended_by().unwrap_or(EndedBy::Signal),
        unsent: progress.unsent,
        unfinished: progress.issued - progress.finished,
        connections_opened: target.opened(),
        warm_up_requests: progress.warm_up,
    };
    Ok(Report::new(plan, &recorded, facts))
}

/// A run has threads, which dropping a future does not end.
struct StopOnDrop<'a>(&'a Control);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
