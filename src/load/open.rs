//! The open loop: a fixed rate that does not wait for answers.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::LoadError;
use super::client::Sender;
use super::control::Run;
use super::plan::Plan;
use super::report::EndedBy;
use super::schedule::{Schedule, Step};

/// The longest sleep between two looks at the stop sign.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Sends what falls due until the schedule ends, then waits for every answer.
pub(super) async fn drive(
    plan: &Plan,
    rate_per_s: u32,
    max_in_flight: usize,
    run: &Arc<Run>,
    opened: &Arc<AtomicU64>,
) -> Result<(), LoadError> {
    let schedule = Schedule::new(rate_per_s, plan.requests, plan.duration);
    let by = if plan.requests == Some(schedule.total()) { EndedBy::Requests } else { EndedBy::Duration };
    let slots = Arc::new(Semaphore::new(max_in_flight));
    let dispatcher = Dispatcher {
        schedule,
        slots: Arc::clone(&slots),
        sender: Sender::new(plan, opened)?,
        run: Arc::clone(run),
        runtime: Handle::current(),
    };
    // A thread of its own: the runtime's timers are a millisecond coarse, which is longer than most
    // answers take, and a runtime that is busy with answers must not make requests due later.
    tokio::task::spawn_blocking(move || dispatcher.dispatch()).await?;
    run.control.end(by);
    // Each request holds a slot until it is answered, so all slots free is all answers in.
    let all = u32::try_from(max_in_flight).unwrap_or(u32::MAX);
    // Only a closed semaphore refuses, and nobody closes this one.
    let _ = slots.acquire_many(all).await;
    Ok(())
}

struct Dispatcher {
    schedule: Schedule,
    slots: Arc<Semaphore>,
    sender: Sender,
    run: Arc<Run>,
    runtime: Handle,
}

impl Dispatcher {
    fn dispatch(mut self) {
        let start = Instant::now();
        let mut number = 0;
        while !self.run.control.is_stopped() {
            match self.schedule.step(start.elapsed()) {
                Step::Send(due) => {
                    number += 1;
                    self.send(number, start + due);
                }
                Step::Wait(time) => std::thread::sleep(time.min(LOOK_UP)),
                Step::Done => return,
            }
        }
    }

    fn send(&self, number: usize, intended: Instant) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return self.run.unsent();
        };
        self.run.issued();
        let (run, sender) = (Arc::clone(&self.run), self.sender.clone());
        self.runtime.spawn(one(number, intended, slot, run, sender));
    }
}

async fn one(number: usize, intended: Instant, slot: OwnedSemaphorePermit, run: Arc<Run>, sender: Sender) {
    let lag = intended.elapsed();
    if let Some(answer) = run.unless_abandoned(sender.send()).await {
        // From when it was due: what had to wait for its turn has waited for the server.
        run.finished(number, answer, intended.elapsed(), Some(lag));
    }
    drop(slot);
}
