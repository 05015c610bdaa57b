//! One run: the operator, the user and the API server, each as the plan has it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use resilience_operator::controller::Options;
use tokio::{runtime::Builder, sync::Notify, time::sleep};

use super::{
    choices::{Choice, Driver, Plan, Point},
    invariants,
    scenarios::{Act, Scenario},
    snapshot,
};
use crate::{
    fake::{Delivery, Fake, Fault, State},
    reconcile::{DR, Operator, POLICIES, VS},
};

/// Kinds whose events and lists are played with.
pub const KINDS: [&str; 4] = [POLICIES, "sidecars", DR, VS];

/// By then, whatever follows from something has happened, a first retry included. Of a clock that jumps.
const REST: Duration = Duration::from_secs(2);

const RESYNC: Duration = Duration::from_mins(1);

/// What became of a run.
pub struct Ran {
    pub points: Vec<Point>,
    pub violations: BTreeSet<String>,
    pub writes: Vec<String>,
    pub calls: usize,
    pub states: BTreeSet<u64>,
    /// The world at its end, as text.
    pub end: String,
    /// The user has had his hands on what is not his, and so more has to be done than without.
    pub touched: bool,
    /// Writes after the end.
    pub kept: Vec<String>,
    /// What was planned and never came to be about to happen.
    pub missed: usize,
    told: Vec<String>,
}

impl Ran {
    pub fn deviations(&self) -> String {
        let others = self.points.iter().filter(|point| point.taken != point.options[0]);
        let told: Vec<_> = others.map(|point| format!("{:?} at {}", point.taken, point.what)).collect();
        if told.is_empty() { "as it should be".to_owned() } else { told.join(", then ") }
    }

    pub fn told(&self) -> String {
        self.told.join(" · ")
    }

    pub fn is_about_news_alone(&self) -> bool {
        self.points.iter().all(|point| point.taken == point.options[0] || point.taken.is_about_news_alone())
    }
}

struct World {
    fake: Fake,
    driver: Arc<Mutex<Driver>>,
    died: Arc<Notify>,
    operator: Option<Operator>,
}

/// Takes one run of a scenario. What is drawn at random in it, as waits are, is the same each time.
pub fn run(scenario: &Scenario, plan: &Plan) -> Ran {
    fastrand::seed(0);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(scenario, plan);
        world.play().await;
        let kept = world.heal().await;
        let end = snapshot::text(&world.fake.state());
        let writes = world.fake.writes();
        let mut driver = world.driver();
        Ran {
            points: std::mem::take(&mut driver.points),
            violations: std::mem::take(&mut driver.violations),
            calls: driver.calls,
            states: std::mem::take(&mut driver.states),
            told: std::mem::take(&mut driver.told),
            missed: driver.plan.len(),
            touched: KINDS.iter().any(|plural| world.fake.state().touched_by_user(plural)),
            writes,
            end,
            kept,
        }
    })
}

impl World {
    fn new(scenario: &Scenario, plan: &Plan) -> Self {
        let fake = Fake::default();
        (scenario.world)(&mut fake.state());
        let died = Arc::new(Notify::new());
        let driver = Arc::new(Mutex::new(Driver {
            plan: plan.clone(),
            points: Vec::new(),
            times: BTreeMap::new(),
            script: scenario.script.iter().collect::<VecDeque<_>>(),
            armed: true,
            dead: false,
            died: died.clone(),
            dropped: 0,
            held: BTreeSet::new(),
            user: false,
            calls: 0,
            violations: BTreeSet::new(),
            states: BTreeSet::new(),
            told: Vec::new(),
        }));
        {
            let mut state = fake.state();
            let (calls, events, changes) = (driver.clone(), driver.clone(), driver.clone());
            state.hooks.call = Some(Box::new(move |call| on_call(&calls, call)));
            state.hooks.event = Some(Box::new(move |plural| on_event(&mut events.lock().unwrap(), plural)));
            state.hooks.change = Some(Box::new(move |state| {
                let mut driver = changes.lock().unwrap();
                let found = invariants::broken(state, driver.user);
                let at = driver.told.last().cloned().unwrap_or_default();
                driver.violations.extend(found.into_iter().map(|fault| format!("{fault} (after {at})")));
                let (left, dead) = (driver.script.len(), driver.dead);
                driver.states.insert(snapshot::hash(state, left, dead));
            }));
        }
        let operator = Some(start(&fake));
        Self { fake, driver, died, operator }
    }

    fn driver(&self) -> MutexGuard<'_, Driver> {
        self.driver.lock().unwrap()
    }

    /// Until the script has been played.
    async fn play(&mut self) {
        loop {
            self.settle().await;
            let held = self.driver().held.clone();
            self.fake.state().release(&held);
            self.fake.carry_out();
            self.settle().await;
            let left = self.driver().script.len();
            let mut options = vec![Choice::Good];
            options.extend((left > 1).then_some(Choice::UserTwice));
            options.extend([Choice::Restart, Choice::Collect]);
            options.extend(KINDS.map(Choice::StaleList));
            let chosen = self.driver().choose("rest", options);
            match chosen {
                Choice::Restart => self.restart().await,
                Choice::StaleList(plural) => {
                    self.lag(plural);
                    self.restart().await;
                }
                Choice::Collect => self.fake.state().collect(),
                Choice::UserTwice => {
                    self.act();
                    self.act();
                }
                _ if left == 0 => return,
                _ => self.act(),
            }
        }
    }

    fn act(&self) {
        let act = self.driver().script.pop_front();
        if let Some(act) = act {
            take(&self.driver, act, &mut self.fake.state());
        }
    }

    /// Waits until nothing happens any more, and starts anew what died.
    async fn settle(&mut self) {
        loop {
            let died = self.died.clone();
            tokio::select! {
                biased;
                () = died.notified() => self.restart().await,
                () = sleep(REST) => return,
            }
        }
    }

    async fn restart(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.crash().await;
        }
        let mut options = vec![Choice::Good];
        options.extend(KINDS.map(Choice::StaleList));
        let chosen = {
            let mut driver = self.driver();
            driver.dead = false;
            driver.choose("start", options)
        };
        if let Choice::StaleList(plural) = chosen {
            self.lag(plural);
        }
        self.operator = Some(start(&self.fake));
    }

    /// The next list of a kind is one event behind, and what follows it is held until there is rest.
    fn lag(&self, plural: &str) {
        let mut state = self.fake.state();
        state.lagging.insert(plural.to_owned());
        state.hold(plural);
    }

    /// Ends all that was wrong, and waits; gives the writes that were made after everything was at rest.
    async fn heal(&mut self) -> Vec<String> {
        self.driver().armed = false;
        self.fake.state().release(&BTreeSet::new());
        // An event that was never told of shows in the next list.
        let settled = if self.driver().dropped > 0 { RESYNC * 2 } else { REST * 10 };
        sleep(settled).await;
        let before = self.fake.writes().len();
        sleep(RESYNC + REST).await;
        self.fake.writes().split_off(before)
    }
}

fn start(fake: &Fake) -> Operator {
    let options = Options {
        istiod_address: String::new(),
        resync: RESYNC,
        istio_recheck: Duration::from_hours(1),
        concurrency: 1,
        ..Options::default()
    };
    Operator::start_with(fake, options)
}

fn take(driver: &Mutex<Driver>, act: &Act, state: &mut State) {
    {
        let mut driver = driver.lock().unwrap();
        driver.user = true;
        driver.told.push(format!("({})", act.name));
    }
    (act.act)(state);
    driver.lock().unwrap().user = false;
}

fn on_call(shared: &Arc<Mutex<Driver>>, call: &str) -> Option<Fault> {
    let mut driver = shared.lock().unwrap();
    if driver.dead {
        return Some(Fault::Hang);
    }
    driver.calls += 1;
    let mut options = vec![Choice::Good, Choice::DieBefore];
    // An event that is not published is only missed.
    if !call.contains("events/") {
        options.extend([Choice::DieAfter, Choice::DieAndCarryOutLater, Choice::Fail, Choice::FailAfterwards]);
        options.extend([Choice::Silence, Choice::LoseTheAnswer]);
        options.extend((!driver.script.is_empty()).then_some(Choice::UserFirst));
    }
    // The name of an event has its time in it.
    let what = call
        .split_once("events/")
        .map_or(call.to_owned(), |(verb, name)| format!("{verb}events/{}", name.split('.').next().unwrap_or_default()));
    match driver.choose(&what, options) {
        Choice::DieBefore => {
            driver.die();
            Some(Fault::Hang)
        }
        Choice::DieAfter => {
            driver.die();
            Some(Fault::Lose)
        }
        Choice::DieAndCarryOutLater => {
            driver.die();
            Some(Fault::Late)
        }
        Choice::Fail => Some(Fault::Answer(500, "as chosen")),
        Choice::FailAfterwards => Some(Fault::AnswerAfter(504, "as chosen")),
        Choice::Silence => Some(Fault::Hang),
        Choice::LoseTheAnswer => Some(Fault::Lose),
        Choice::UserFirst => {
            let (act, shared) = (driver.script.pop_front()?, shared.clone());
            Some(Fault::Before(Box::new(move |state| take(&shared, act, state))))
        }
        _ => None,
    }
}

fn on_event(driver: &mut Driver, plural: &str) -> Delivery {
    if !KINDS.contains(&plural) || driver.held.contains(plural) {
        return Delivery::Now;
    }
    let options = vec![
        Choice::Good,
        Choice::Hold,
        Choice::HoldToTheEnd,
        Choice::OneBehind,
        Choice::Drop,
        Choice::Twice,
        Choice::LastOneAgain,
    ];
    match driver.choose(&format!("event of {plural}"), options) {
        Choice::Hold => Delivery::Held(usize::MAX),
        Choice::HoldToTheEnd => {
            driver.held.insert(plural.to_owned());
            Delivery::Held(usize::MAX)
        }
        Choice::OneBehind => {
            driver.held.insert(plural.to_owned());
            Delivery::Held(1)
        }
        Choice::Drop => {
            driver.dropped += 1;
            Delivery::Never
        }
        Choice::Twice => Delivery::Twice,
        Choice::LastOneAgain => Delivery::AndTheLastOne,
        _ => Delivery::Now,
    }
}
