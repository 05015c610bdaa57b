//! Looks on while everything else happens, through connections of its own to the API server: the proxy is not
//! between. In: what kubectl's watches tell. Out: whatever broke an invariant, and when.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::invariants::{Invariants, Kind};
use crate::kubectl::Kubectl;
use crate::lab::Lab;

/// Between two tries of a watch that broke.
const PAUSE: Duration = Duration::from_millis(300);

/// The watches, running. They end when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    kubectl: Kubectl,
    begun: Instant,
    invariants: Mutex<Invariants>,
    broken: Mutex<Vec<String>>,
    events: AtomicU64,
    children: Mutex<Vec<Child>>,
    over: AtomicBool,
}

impl Shared {
    fn invariants(&self) -> MutexGuard<'_, Invariants> {
        self.invariants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn note(&self, sentences: Vec<String>) {
        if !sentences.is_empty() {
            let at = jiff::Timestamp::now();
            let sentences = sentences.into_iter().map(|sentence| format!("{at}: {sentence}"));
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).extend(sentences);
        }
    }
}

impl Watcher {
    /// Begins to look on.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        let shared = Arc::new(Shared {
            kubectl: lab.kubectl().clone(),
            begun: Instant::now(),
            invariants: Mutex::default(),
            broken: Mutex::default(),
            events: AtomicU64::new(0),
            children: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let follow = |kind: Kind| {
            let shared = shared.clone();
            std::thread::spawn(move || follow(&shared, kind))
        };
        Self { threads: Kind::ALL.map(follow).into(), shared }
    }

    /// Everything that broke an invariant so far.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let overdue = self.shared.invariants().overdue(self.shared.begun.elapsed());
        self.shared.note(overdue);
        self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many events it has judged.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Looks at what it has seen.
    pub fn with<T>(&self, look: impl FnOnce(&mut Invariants) -> T) -> T {
        look(&mut self.shared.invariants())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for child in self.shared.children.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let _ = child.kill();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Follows a kind until the end; a watch that breaks, be it with the API server, begins anew.
fn follow(shared: &Shared, kind: Kind) {
    while !shared.is_over() {
        if let Err(error) = watch(shared, kind)
            && !shared.is_over()
        {
            shared.note(vec![format!("the watcher itself fails: {error:#}")]);
            return;
        }
        sleep(PAUSE);
    }
}

/// One watch. An error is one that another try does not heal.
fn watch(shared: &Shared, kind: Kind) -> Result<()> {
    shared.invariants().begins(kind, shared.begun.elapsed());
    let mut command = shared.kubectl.endless(&[
        "get",
        kind.resource(),
        "--all-namespaces",
        "--watch",
        "--output-watch-events",
        "--show-managed-fields",
        "-o",
        "json",
    ])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("kubectl cannot be started")?;
    let out = child.stdout.take().context("kubectl has no standard output")?;
    {
        // Under the lock, so that whoever ends everything sees it or is seen.
        let mut children = shared.children.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_over() {
            let _ = child.kill();
        }
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        children.push(child);
    }
    for event in serde_json::Deserializer::from_reader(BufReader::new(out)).into_iter::<Value>() {
        // It ended within an event, as kubectl does when it is killed or its connection breaks.
        let Ok(event) = event else { return Ok(()) };
        shared.events.fetch_add(1, Ordering::Relaxed);
        let mut invariants = shared.invariants();
        let sentences = invariants.take(kind, &event, shared.begun.elapsed());
        drop(invariants);
        shared.note(sentences);
    }
    Ok(())
}
