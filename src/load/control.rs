//! One run from outside (stop it, watch it) and its counts from inside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hdrhistogram::CreationError;
use tokio_util::sync::CancellationToken;

use super::client::Answer;
use super::plan::{GUARD_SAMPLE, Plan};
use super::record::Recorder;
use super::report::{EndedBy, error_percent};

/// Stops and watches one run from elsewhere. Clones are the same control; use one per run.
#[derive(Debug, Clone, Default)]
pub struct Control {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    abandon: CancellationToken,
    ended_by: OnceLock<EndedBy>,
    warm_up: AtomicU64,
    issued: AtomicU64,
    unsent: AtomicU64,
    finished: AtomicU64,
    errors: AtomicU64,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Requests of the warm-up of which something came. They are in none of the other numbers.
    pub warm_up: u64,
    /// Requests handed out to be sent.
    pub issued: u64,
    /// Requests that fell due and were not sent.
    pub unsent: u64,
    /// Requests of which something came.
    pub finished: u64,
    /// Of those, the ones that are not a whole answer below 400.
    pub errors: u64,
}

impl Control {
    /// Issues no further request; the run ends when those in flight are answered, at the latest
    /// after one timeout.
    pub fn stop(&self) {
        self.end(EndedBy::Signal);
    }

    /// Gives up those in flight, too: they are reported as unfinished, and the run ends at once.
    pub fn abandon(&self) {
        self.stop();
        self.inner.abandon.cancel();
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Errors first: a request is finished before it is an error, so never more errors than
        // finished; and issued last, so never more finished than issued.
        let errors = self.inner.errors.load(Ordering::Acquire);
        let finished = self.inner.finished.load(Ordering::Acquire);
        let [warm_up, unsent, issued] = [&self.inner.warm_up, &self.inner.unsent, &self.inner.issued].map(read);
        Progress { warm_up, issued, unsent, finished, errors }
    }

    /// Issues no further request, for this reason unless there is one already.
    pub(super) fn end(&self, by: EndedBy) {
        // The first reason stays.
        let _ = self.inner.ended_by.set(by);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.ended_by().is_some()
    }

    pub(super) fn ended_by(&self) -> Option<EndedBy> {
        self.inner.ended_by.get().copied()
    }
}

/// What the loops of one run share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) control: Control,
    requests: u64,
    fail_above_errors: Option<f64>,
    // One a thread: no thread ever waits for another's.
    recorders: Vec<Mutex<Recorder>>,
}

impl Run {
    pub(super) fn new(plan: &Plan, control: &Control, threads: usize) -> Result<Self, CreationError> {
        let recorders = (0..threads).map(|_| Recorder::new().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self {
            control: control.clone(),
            requests: plan.requests.unwrap_or(u64::MAX),
            fail_above_errors: plan.fail_above_errors,
            recorders,
        })
    }

    /// Leave to send one more request. `false`: the run is over.
    pub(super) fn issue(&self) -> bool {
        if self.control.is_stopped() {
            return false;
        }
        let issued = self.control.inner.issued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |issued| {
            (issued < self.requests).then_some(issued + 1)
        });
        match issued {
            Ok(before) => {
                if before + 1 == self.requests {
                    self.control.end(EndedBy::Requests);
                }
                true
            }
            Err(_all) => false,
        }
    }

    /// One request was handed out, as the schedule of an open loop demands.
    pub(super) fn issued(&self) {
        self.control.inner.issued.fetch_add(1, Ordering::Relaxed);
    }

    /// One request fell due and was not sent.
    pub(super) fn unsent(&self) {
        self.control.inner.unsent.fetch_add(1, Ordering::Relaxed);
        self.guard();
    }

    /// Comes back when requests in flight are to be given up.
    pub(super) async fn abandoned(&self) {
        self.control.inner.abandon.cancelled().await;
    }

    /// One request of the warm-up is finished.
    pub(super) fn warmed_up(&self) {
        self.control.inner.warm_up.fetch_add(1, Ordering::Relaxed);
    }

    /// One request is finished on this thread: what came of it, how long it took from its (intended)
    /// start, and for an open loop how late it left.
    pub(super) fn finished(&self, thread: usize, answer: &Answer, latency: Duration, lag: Option<Duration>) {
        if let Some(recorder) = self.recorders.get(thread) {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.record(answer.outcome, latency, answer.bytes);
            if let Some(server) = &answer.server {
                recorder.record_server(server.as_bytes());
            }
            if let Some(lag) = lag {
                recorder.record_lag(lag);
            }
        }
        self.control.inner.finished.fetch_add(1, Ordering::Release);
        if answer.outcome.is_error() {
            self.control.inner.errors.fetch_add(1, Ordering::Release);
        }
        self.guard();
    }

    fn guard(&self) {
        let Some(most) = self.fail_above_errors else {
            return;
        };
        let now = self.control.progress();
        if now.finished + now.unsent >= GUARD_SAMPLE && error_percent(now.finished, now.errors, now.unsent) > most {
            self.control.end(EndedBy::Guard);
        }
    }

    /// All that was recorded.
    pub(super) fn recorded(&self) -> Result<Recorder, CreationError> {
        let mut all = Recorder::new()?;
        for recorder in &self.recorders {
            all.merge(&recorder.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(all)
    }
}
