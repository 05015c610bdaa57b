//! Threads with a runtime each: what a connection's task does never moves to another core, and no
//! core waits for another's locks.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::LoadError;

/// How many threads are worth it for so many things to do at once.
pub(super) fn worth(at_once: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.min(at_once).max(1)
}

/// Runs `work(0, share 0)`, `work(1, share 1)` … each on a thread of its own, and waits for all.
///
/// # Errors
/// No runtime can be made, or the first error of a thread.
pub(super) async fn each<S, W, F>(shares: Vec<S>, work: W) -> Result<(), LoadError>
where
    S: Send + 'static,
    W: Fn(usize, S) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), LoadError>>,
{
    let work = Arc::new(work);
    let mut running = JoinSet::new();
    for (thread, share) in shares.into_iter().enumerate() {
        let work = Arc::clone(&work);
        running.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work(thread, share))
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}
