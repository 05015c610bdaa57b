//! What is to be called, and how far a run may go: goes to the caller in the cluster as JSON.

use serde::{Deserialize, Serialize};

use super::Finding;

/// How far a run may go. What it sends to a live service, it sends within these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caps {
    /// Calls at a time.
    pub callers: u32,
    /// Calls a second, on average: a burst of calls at a time is followed by a rest.
    pub rate_per_s: u32,
    /// How long it may send.
    pub duration_ms: u64,
    /// Above this share of calls that fail otherwise than the limit that is tried would have it, it stops.
    pub errors_percent: u32,
}

impl Caps {
    /// From the begin of so many calls to that of the next, in milliseconds, at the least.
    #[must_use]
    pub fn rest_after_ms(&self, calls: u32) -> u64 {
        (u64::from(calls) * 1_000).div_ceil(u64::from(self.rate_per_s.max(1)))
    }
}

/// What the user has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Port of the target.
    pub port: u16,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
    /// A path that is answered below 400.
    pub path: String,
    /// A path whose answer takes longer than the timeout.
    pub slow_path: Option<String>,
    /// A path that fails.
    pub fail_path: Option<String>,
    /// How far it may go.
    pub caps: Caps,
}

/// A run, complete: goes to the caller in the cluster as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Fully qualified host of the target.
    pub host: String,
    /// What the user has said.
    #[serde(flatten)]
    pub asked: Asked,
    /// Namespace and name of the DestinationRule that holds the policy; `None`: nothing of it is in one.
    pub rule: Option<String>,
    /// Namespace and name of the VirtualService that does.
    pub routes: Option<String>,
    /// What is tried, in this order.
    pub lines: Vec<Line>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Path of the field, from `spec`.
    pub path: String,
    /// Its value, as text.
    pub value: String,
    /// What holds it.
    pub held_by: HeldBy,
    /// What is done about it.
    pub step: Step,
}

/// Which object holds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldBy {
    /// The DestinationRule, for each client.
    Rule,
    /// The VirtualService, for each client.
    Routes,
    /// The Sidecar of the servers.
    Server,
}

/// What is done about a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Calls are made.
    Drive(Act),
    /// Nothing: this is known beforehand.
    Settled(Finding),
}

/// Calls that show one thing. Two lines with the same act share its readings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Act {
    /// More and more callers at a time, until the sign is seen, and once more.
    Callers {
        /// What shows that it tripped.
        sign: Sign,
        /// So many callers at first, of which none may be refused.
        within: Option<u32>,
        /// Then so many, each only if the one before showed nothing.
        past: Vec<u32>,
        /// On the path that fails.
        failing: bool,
    },
    /// One caller, so many calls.
    Calm {
        /// How many.
        calls: u32,
        /// What counts.
        counter: String,
    },
    /// One caller on the path that fails, until an endpoint is ejected; then, until it is back.
    Fail {
        /// Calls in one round.
        calls: u32,
        /// How long an endpoint may stay away at the longest; `None`: its return is not waited for.
        back_within_ms: Option<u64>,
    },
    /// Single calls on the path that fails.
    Repeat {
        /// How many.
        calls: u32,
        /// Statuses for which the policy tries again.
        on: Vec<u16>,
    },
    /// One call on the slow path.
    Slow {
        /// How long it is waited for.
        patience_ms: u64,
    },
}

/// What shows that a limit tripped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sign {
    /// A counter of the caller's own proxy for the target.
    Counter(String),
    /// Likewise, of what happens only while connections are made: a proxy that makes them fast enough shows none
    /// of it, and is right.
    WhileConnecting(String),
    /// Refusals that another proxy than the caller's gave.
    RefusedBehind,
}

impl Plan {
    /// Most calls at a time that it makes.
    #[must_use]
    pub fn most_callers(&self) -> u32 {
        let of = |line: &Line| match &line.step {
            Step::Drive(Act::Callers { past, .. }) => past.last().copied().unwrap_or(1),
            Step::Drive(_) | Step::Settled(_) => 1,
        };
        self.lines.iter().map(of).max().unwrap_or(1)
    }
}
