//! The open loop: a fixed rate that does not wait for answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::LoadError;
use super::client::{Caller, Line, Target};
use super::control::{Control, Run};
use super::plan::{Plan, Protocol};
use super::record::Recorder;
use super::report::EndedBy;
use super::schedule::{Schedule, Step};
use super::threads;

/// The longest sleep between two looks at the stop sign.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Sends what falls due until the schedule ends, then waits for every answer.
pub(super) async fn drive(
    plan: &Plan,
    rate_per_s: u32,
    max_in_flight: usize,
    control: &Control,
    target: &Arc<Target>,
    measured_from: Instant,
) -> Result<Recorder, LoadError> {
    let together = plan.lines(max_in_flight);
    let threads = threads::worth(together);
    let run = Arc::new(Run::new(plan, control, threads)?);
    let (queues, shares): (Vec<_>, Vec<_>) = (0..threads).map(|_| unbounded_channel()).unzip();
    let station = Arc::new(Station {
        plan: plan.clone(),
        target: Arc::clone(target),
        run: Arc::clone(&run),
        lines: match plan.protocol {
            Protocol::Http1 => threads,
            Protocol::Http2 => together,
        },
        in_flight: AtomicUsize::new(0),
    });
    let dispatcher = Dispatcher { queues, max_in_flight, station: Arc::clone(&station) };
    let warm_up = (!plan.warm_up.is_zero()).then(|| Schedule::new(rate_per_s, None, Some(plan.warm_up)));
    let schedule = Schedule::new(rate_per_s, plan.requests, plan.duration);
    let by = if plan.requests == Some(schedule.total()) { EndedBy::Requests } else { EndedBy::Duration };
    let warm_up_from = measured_from.checked_sub(plan.warm_up).unwrap_or(measured_from);
    // A thread of its own: the runtimes' timers are a millisecond coarse, which is longer than most
    // answers take, and a runtime that is busy with answers must not make requests due later.
    let dispatching = tokio::task::spawn_blocking(move || {
        if let Some(warm_up) = warm_up {
            dispatcher.dispatch(warm_up, warm_up_from, false);
        }
        dispatcher.dispatch(schedule, measured_from, true);
        dispatcher.station.run.control.end(by);
    });
    // They end when the dispatcher does, and every answer is in.
    threads::each(shares, move |thread, due| Arc::clone(&station).send(thread, due)).await?;
    dispatching.await?;
    Ok(run.recorded()?)
}

/// A request that fell due.
struct Due {
    intended: Instant,
    line: usize,
    /// Not of the warm-up.
    counts: bool,
}

/// Says when, and gives each thread its requests.
struct Dispatcher {
    /// One a thread.
    queues: Vec<UnboundedSender<Due>>,
    max_in_flight: usize,
    station: Arc<Station>,
}

impl Dispatcher {
    fn dispatch(&self, mut schedule: Schedule, start: Instant, counts: bool) {
        // Request after request takes the next line.
        let mut lines = (0..self.station.lines).cycle();
        while !self.station.run.control.is_stopped() {
            match schedule.step(start.elapsed()) {
                Step::Send(due) => {
                    let line = lines.next().unwrap_or(0);
                    self.send(Due { intended: start + due, line, counts });
                }
                Step::Wait(time) => std::thread::sleep(time.min(LOOK_UP)),
                Step::Done => return,
            }
        }
    }

    fn send(&self, due: Due) {
        let Station { run, in_flight, .. } = &*self.station;
        // Nobody else adds to it.
        if in_flight.load(Ordering::Acquire) >= self.max_in_flight {
            if due.counts {
                run.unsent();
            }
            return;
        }
        in_flight.fetch_add(1, Ordering::Relaxed);
        if due.counts {
            run.issued();
        }
        if let Some(queue) = self.queues.get(due.line % self.queues.len()) {
            // Without a receiver the run was given up, and this one with it.
            let _ = queue.send(due);
        }
    }
}

/// What the senders of all threads have in common.
struct Station {
    plan: Plan,
    target: Arc<Target>,
    run: Arc<Run>,
    /// Line `i` is at thread `i % threads`.
    lines: usize,
    in_flight: AtomicUsize,
}

impl Station {
    /// The work of one thread: sends what it is given, until there is no more and every answer is in.
    async fn send(self: Arc<Self>, thread: usize, mut due: UnboundedReceiver<Due>) -> Result<(), LoadError> {
        let lines: Vec<Line> = (0..self.lines).map(|_| Line::new(&self.plan)).collect();
        let mut calls = JoinSet::new();
        let all_done = async {
            while let Some(due) = due.recv().await {
                if let Some(line) = lines.get(due.line) {
                    calls.spawn(Arc::clone(&self).call(thread, due, line.clone()));
                }
                // Or those that ended would pile up.
                while let Some(ended) = calls.try_join_next() {
                    ended?;
                }
            }
            while let Some(ended) = calls.join_next().await {
                ended?;
            }
            Ok(())
        };
        tokio::select! {
            ended = all_done => ended,
            () = self.run.abandoned() => Ok(()),
        }
    }

    async fn call(self: Arc<Self>, thread: usize, due: Due, line: Line) {
        let lag = due.intended.elapsed();
        let answer = Caller::new(Arc::clone(&self.target), line).call().await;
        if due.counts {
            // From when it was due: what had to wait for its turn has waited for the server.
            self.run.finished(thread, &answer, due.intended.elapsed(), Some(lag));
        } else {
            self.run.warmed_up();
        }
        self.in_flight.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Connections, plan::tests::plan};

    #[tokio::test]
    async fn latency_counts_from_when_a_request_was_due_even_if_it_left_late() {
        // Bound, so that nobody else gets the port; nobody listens, so the answer is a quick refusal.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}/", socket.local_addr().unwrap()).parse().unwrap();
        let plan = Plan { url, connections: Connections::Shared, ..plan() };
        let run = Arc::new(Run::new(&plan, &Control::default(), 1).unwrap());
        let station = Arc::new(Station {
            target: Arc::new(Target::new(&plan).unwrap()),
            run: Arc::clone(&run),
            lines: 1,
            in_flight: AtomicUsize::new(1),
            plan,
        });
        let late = Duration::from_millis(200);
        let due = Due { intended: Instant::now().checked_sub(late).unwrap(), line: 0, counts: true };
        let line = Line::new(&station.plan);
        Arc::clone(&station).call(0, due, line).await;
        let recorded = run.recorded().unwrap();
        assert!(recorded.together(|_| true).min().unwrap() >= late);
        assert!(recorded.lag().min().unwrap() >= late, "and it says so");
        assert_eq!(station.in_flight.load(Ordering::Relaxed), 0);
    }
}
