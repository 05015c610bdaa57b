//! The step function, explored: the whole controller against the API server in the process, on a clock
//! that jumps to whatever comes next, through every run of a scenario that deviates from the good one by
//! so many faults ([ADR 17](../docs/adr/0017-explored-by-deviations.md)).
//!
//! A run is a list of choices: at every call, at every event, at every moment of rest. The first run takes
//! the good one everywhere, and says what else there was to choose; each of that begins a run of its own.

mod choices;
mod invariants;
mod run;
mod scenarios;
mod snapshot;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use choices::{Deviation, Plan};
use run::{Ran, run};
use scenarios::{SCENARIOS, Scenario};

/// What was looked at of one scenario.
#[derive(Default)]
struct Explored {
    runs: usize,
    calls: usize,
    states: BTreeSet<u64>,
    /// Plans of which a part never came, however often they were tried.
    missed: Vec<String>,
    faults: Vec<String>,
}

/// How often a plan is tried: where two policies wait at once, chance says which is first, and what follows.
const TRIES: usize = 20;

/// A run in which everything that is planned comes; if none is had, the last one.
fn run_as_planned(scenario: &Scenario, plan: &Plan) -> Ran {
    let mut ran = run(scenario, plan);
    for _ in 1..TRIES {
        if ran.missed == 0 {
            break;
        }
        ran = run(scenario, plan);
    }
    ran
}

/// Takes every run that deviates `depth` times at most from the good one.
fn explore(scenario: &Scenario, depth: usize) -> Explored {
    let mut explored = Explored::default();
    let good = run(scenario, &Plan::new());
    let mut plans = VecDeque::from([Plan::new()]);
    while let Some(plan) = plans.pop_front() {
        let ran = run_as_planned(scenario, &plan);
        explored.runs += 1;
        if ran.missed > 0 {
            explored.missed.push(format!("{plan:?}: {}", ran.told()));
        }
        explored.calls += ran.calls;
        explored.states.extend(&ran.states);
        let faults = faults(&good, &ran);
        if !faults.is_empty() && explored.faults.len() < 5 {
            let told =
                format!("{}, {}:\n    {}\n  {}", scenario.name, ran.deviations(), faults.join("\n    "), ran.told());
            explored.faults.push(told);
        }
        if plan.len() < depth {
            // Behind what was planned; the same points before it begin plans of their own.
            let next = ran.points.iter().rposition(|point| point.taken != point.options[0]).map_or(0, |last| last + 1);
            for point in &ran.points[next..] {
                plans.extend(point.options[1..].iter().map(|choice| {
                    let next = Deviation { what: point.what.clone(), nth: point.nth, choice: choice.clone() };
                    plan.iter().cloned().chain([next]).collect()
                }));
            }
        }
    }
    explored
}

/// What is wrong with a run, beside the good one.
fn faults(good: &Ran, ran: &Ran) -> Vec<String> {
    let mut faults: Vec<String> = ran.violations.iter().cloned().collect();
    if !ran.kept.is_empty() {
        faults.push(format!("what was reached is not kept: {}", ran.kept.join(", ")));
    }
    if ran.end != good.end {
        let difference = crate::support::difference(&good.end, &ran.end);
        let lines = difference.lines().filter(|line| !line.starts_with("  "));
        faults.push(format!("it ends elsewhere:\n      {}", lines.collect::<Vec<_>>().join("\n      ")));
    }
    // Who is only told late, or twice, has no more to do; but to say how things stand meanwhile.
    let generated = |ran: &Ran| ran.writes.iter().filter(|write| !write.starts_with("status")).count();
    if ran.is_about_news_alone() && !ran.touched && generated(ran) > generated(good) {
        faults.push(format!("{} writes, where {} are the most", generated(ran), generated(good)));
    }
    let most = good.writes.len() * 2 + 4;
    if ran.writes.len() > most {
        faults.push(format!("{} writes, where {most} are the most", ran.writes.len()));
    }
    faults
}

/// `EXPLORE_DEPTH=2` takes every pair of faults as well: some eighty thousand runs, which is an hour or more.
fn depth() -> usize {
    std::env::var("EXPLORE_DEPTH").map_or(1, |depth| depth.parse().expect("EXPLORE_DEPTH is a number"))
}

#[test]
fn whatever_goes_wrong_once_the_desired_state_is_reached_and_kept() {
    let (begun, next, done) = (Instant::now(), AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(scenario) = SCENARIOS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let explored = explore(scenario, depth());
                    done.lock().unwrap().insert(scenario.name, explored);
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    let sum = |of: fn(&Explored) -> usize| done.values().map(of).sum::<usize>();
    let faults: Vec<&String> = done.values().flat_map(|explored| &explored.faults).collect();
    // Not by a macro, whose words are only seen where a test fails.
    let mut told = std::io::stderr();
    for (name, one) in &done {
        let _lost =
            writeln!(told, "explored {name}: {} runs, {} states, {} calls", one.runs, one.states.len(), one.calls);
    }
    let (runs, states, calls) = (sum(|one| one.runs), sum(|one| one.states.len()), sum(|one| one.calls));
    let took = begun.elapsed().as_secs_f32();
    let _lost =
        writeln!(told, "explored {} scenarios: {runs} runs, {states} states, {calls} calls in {took:.1} s", done.len());
    assert_eq!(done.len(), SCENARIOS.len());
    let missed: Vec<&String> = done.values().flat_map(|explored| &explored.missed).collect();
    assert!(missed.is_empty(), "{} plans were not carried out, the first: {}", missed.len(), missed[0]);
    assert!(faults.is_empty(), "{}", faults.iter().map(|fault| format!("- {fault}")).collect::<Vec<_>>().join("\n"));
}
