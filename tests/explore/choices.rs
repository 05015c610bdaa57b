//! What can be chosen, and who chooses.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use tokio::sync::Notify;

use super::scenarios::Act;

/// What is chosen at which points; at all others the first option. A point has the name of
/// what is about to happen, and not a place in the order of everything: where two policies wait at once, kube's
/// scheduler takes either first.
pub type Plan = Vec<Deviation>;

/// What is chosen when something is about to happen for the n-th time, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    pub what: String,
    pub nth: usize,
    pub choice: Choice,
}

/// One way on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As it should be.
    Good,
    /// The process dies before the call, after it, or while it is under way and then carried out late.
    DieBefore,
    DieAfter,
    DieAndCarryOutLater,
    /// The call fails, without effect or after it.
    Fail,
    FailAfterwards,
    /// The call is never answered, without effect or after it.
    Silence,
    LoseTheAnswer,
    /// The user acts just before the call.
    UserFirst,
    /// An event waits until nothing else happens, or to the end; the events of a kind come one behind.
    Hold,
    HoldToTheEnd,
    OneBehind,
    /// An event is never told, until the kind is listed again.
    Drop,
    Twice,
    LastOneAgain,
    /// At rest: the user acts twice at once; the process is started anew; the garbage collector comes by.
    UserTwice,
    Restart,
    Collect,
    /// It is started anew, and the list of a kind is one event behind.
    StaleList(&'static str),
}

impl Choice {
    /// Whether only the time at which something is told differs.
    pub const fn is_about_news_alone(&self) -> bool {
        matches!(self, Self::Hold | Self::HoldToTheEnd | Self::OneBehind | Self::Twice | Self::LastOneAgain)
    }
}

/// A moment at which there was something to choose.
pub struct Point {
    /// What was about to happen.
    pub what: String,
    /// How often it had been before.
    pub nth: usize,
    /// What there was to choose.
    pub options: Vec<Choice>,
    /// What was chosen.
    pub taken: Choice,
}

/// Chooses by a plan, and keeps what there was to choose.
pub struct Driver {
    /// What is still to be chosen.
    pub plan: Plan,
    pub points: Vec<Point>,
    /// How often what has been about to happen.
    pub times: BTreeMap<String, usize>,
    pub script: VecDeque<&'static Act>,
    /// There is something to choose.
    pub armed: bool,
    /// The process has died and is not started anew yet.
    pub dead: bool,
    pub died: Arc<Notify>,
    /// Events that were never told.
    pub dropped: usize,
    /// Kinds whose events are held to the end.
    pub held: BTreeSet<String>,
    /// It is the user who acts.
    pub user: bool,
    pub calls: usize,
    pub violations: BTreeSet<String>,
    pub states: BTreeSet<u64>,
    /// Everything that happened, in order.
    pub told: Vec<String>,
}

impl Driver {
    pub fn choose(&mut self, what: &str, options: Vec<Choice>) -> Choice {
        if !self.armed || options.len() < 2 {
            self.told.push(what.to_owned());
            return options[0].clone();
        }
        let times = self.times.entry(what.to_owned()).or_default();
        let nth = std::mem::replace(times, *times + 1);
        let planned = |next: &Deviation| next.what == what && next.nth == nth && options.contains(&next.choice);
        let taken = match self.plan.iter().position(planned) {
            Some(at) => self.plan.remove(at).choice,
            None => options[0].clone(),
        };
        let told = if taken == options[0] { what.to_owned() } else { format!("{what} [{taken:?}]") };
        self.told.push(told);
        self.points.push(Point { what: what.to_owned(), nth, options, taken: taken.clone() });
        taken
    }

    pub fn die(&mut self) {
        self.dead = true;
        self.died.notify_one();
    }
}
