//! The closed loop: so many workers, each with one request at a time.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::LoadError;
use super::client::{Caller, Line, Target};
use super::control::{Control, Run};
use super::plan::{Connections, Plan, Protocol};
use super::record::Recorder;
use super::report::EndedBy;
use super::threads;

/// Runs `concurrency` workers until there is nothing more to issue and every answer is in.
pub(super) async fn drive(
    plan: &Plan,
    concurrency: usize,
    control: &Control,
    target: &Arc<Target>,
    measured_from: Instant,
) -> Result<Recorder, LoadError> {
    let together = plan.lines(concurrency);
    let threads = threads::worth(together);
    let run = Arc::new(Run::new(plan, control, threads)?);
    let crew = Crew { plan: plan.clone(), target: Arc::clone(target), run: Arc::clone(&run), measured_from };
    let crew = Arc::new(crew);
    // Workers are dealt to lines, and lines to threads.
    let workers_at = |line: usize| (line..concurrency).step_by(together).len();
    let shares = (0..threads).map(|thread| (thread..together).step_by(threads).map(workers_at).collect()).collect();
    let all_done = threads::each(shares, move |thread, lines| Arc::clone(&crew).work(thread, lines));
    tokio::select! {
        ended = all_done => ended?,
        never = ring(&run, plan.duration.map(|duration| measured_from + duration)) => never,
    }
    Ok(run.recorded()?)
}

/// What the workers of all threads have in common.
struct Crew {
    plan: Plan,
    target: Arc<Target>,
    run: Arc<Run>,
    measured_from: Instant,
}

impl Crew {
    /// The work of one thread: so many workers at each of its lines.
    async fn work(self: Arc<Self>, thread: usize, lines: Vec<usize>) -> Result<(), LoadError> {
        let mut workers = JoinSet::new();
        let shared = Line::new(&self.plan);
        for at_line in lines {
            let line = match (self.plan.connections, self.plan.protocol) {
                (Connections::Shared, Protocol::Http1) => shared.clone(),
                _ => Line::new(&self.plan),
            };
            for _ in 0..at_line {
                workers.spawn(Arc::clone(&self).call(thread, line.clone()));
            }
        }
        let all_done = async {
            while let Some(ended) = workers.join_next().await {
                ended?;
            }
            Ok(())
        };
        tokio::select! {
            ended = all_done => ended,
            () = self.run.abandoned() => Ok(()),
        }
    }

    async fn call(self: Arc<Self>, thread: usize, line: Line) {
        let mut caller = Caller::new(Arc::clone(&self.target), line);
        loop {
            let start = Instant::now();
            if start < self.measured_from && !self.run.control.is_stopped() {
                caller.call().await;
                self.run.warmed_up();
            } else if self.run.issue() {
                let answer = caller.call().await;
                self.run.finished(thread, &answer, start.elapsed(), None);
            } else {
                return;
            }
        }
    }
}

/// Ends the issuing of requests at this time, and itself never.
async fn ring<T>(run: &Run, end: Option<Instant>) -> T {
    if let Some(end) = end {
        tokio::time::sleep_until(end.into()).await;
        run.control.end(EndedBy::Duration);
    }
    std::future::pending().await
}
