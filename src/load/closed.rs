//! The closed loop: so many workers, each with one request at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::LoadError;
use super::client::Sender;
use super::control::Run;
use super::plan::{Connections, Plan};
use super::report::EndedBy;

/// Runs `concurrency` workers until there is nothing more to issue and every answer is in.
pub(super) async fn drive(
    plan: &Plan,
    concurrency: usize,
    run: &Arc<Run>,
    opened: &Arc<AtomicU64>,
) -> Result<(), LoadError> {
    let mut workers = JoinSet::new();
    let shared = Sender::new(plan, opened)?;
    for number in 0..concurrency {
        let sender = match plan.connections {
            Connections::Own => Sender::new(plan, opened)?,
            Connections::Shared | Connections::Fresh => shared.clone(),
        };
        workers.spawn(work(number, sender, Arc::clone(run)));
    }
    let all_done = async {
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        Ok(())
    };
    tokio::select! {
        ended = all_done => ended,
        never = ring(run, plan.duration) => never,
    }
}

async fn work(number: usize, sender: Sender, run: Arc<Run>) {
    while run.issue() {
        let start = Instant::now();
        let Some(answer) = run.unless_abandoned(sender.send()).await else {
            return;
        };
        run.finished(number, answer, start.elapsed(), None);
    }
}

/// Ends the issuing of requests after `duration`, and itself never.
async fn ring<T>(run: &Run, duration: Option<Duration>) -> T {
    if let Some(duration) = duration {
        tokio::time::sleep(duration).await;
        run.control.end(EndedBy::Duration);
    }
    std::future::pending().await
}
