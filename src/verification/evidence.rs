//! What the caller in the cluster saw. Goes back as JSON.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The caller's own proxy; `None`: there is none.
    pub proxy: Option<Proxy>,
    /// A few calls, one after another, before anything else.
    pub calm: Option<Reading>,
    /// What was read, by the number of the line in the plan.
    pub readings: BTreeMap<usize, Vec<Reading>>,
    /// Why it stopped before its end.
    pub stopped: Option<Stopped>,
}

/// What the caller's own proxy holds for the target, by its own account (`/config_dump`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// It has a cluster for the target, so calls can go through it.
    pub knows_target: bool,
    /// Namespace and name of the DestinationRule that its cluster comes from.
    pub rule: Option<String>,
    /// Namespace and name of the VirtualService that its routes come from.
    pub routes: Option<String>,
    /// Its thresholds by their names in Envoy; what is not limited is not in it.
    pub thresholds: BTreeMap<String, u32>,
}

/// What came of some calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// At a time.
    pub callers: u32,
    /// How many.
    pub calls: u64,
    /// What was answered.
    pub answers: Answers,
    /// What the caller's own proxy counted meanwhile, by the name of the counter.
    pub counters: BTreeMap<String, u64>,
    /// The call that took longest, in milliseconds.
    pub longest_ms: u64,
    /// How long an endpoint that was ejected stayed away, in milliseconds.
    pub back_after_ms: Option<u64>,
}

impl Reading {
    /// A counter; what was never counted is zero.
    #[must_use]
    pub fn counted(&self, counter: &str) -> u64 {
        self.counters.get(counter).copied().unwrap_or(0)
    }
}

/// Calls by what came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answers {
    /// By status, 503s as well.
    pub statuses: BTreeMap<u16, u64>,
    /// 503s of a breaker of the caller's own proxy.
    pub refused_here: u64,
    /// 503s of a breaker behind it.
    pub refused_behind: u64,
    /// 503s since no endpoint was left.
    pub none_left: u64,
    /// No answer.
    pub failed: u64,
}

impl Answers {
    /// What a run of the load generator says.
    #[must_use]
    pub fn of(report: &load::Report) -> Self {
        let unavailable = &report.unavailable_503;
        Self {
            statuses: report.statuses.iter().map(|(status, group)| (*status, group.count)).collect(),
            refused_here: unavailable.overloaded.count.saturating_sub(unavailable.overloaded_behind.count),
            refused_behind: unavailable.overloaded_behind.count,
            none_left: unavailable.no_healthy_upstream.count,
            failed: report.timeouts.count + report.connection_errors.all.count + report.unfinished,
        }
    }

    /// Answers below 400.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.statuses.range(..400).map(|(_, count)| count).sum()
    }

    /// Answers of 400 and above that are no refusal of a breaker.
    #[must_use]
    pub fn bad(&self) -> u64 {
        let bad: u64 = self.statuses.range(400..).map(|(_, count)| count).sum();
        bad.saturating_sub(self.refused_here + self.refused_behind)
    }

    /// The bad answers' most frequent status.
    #[must_use]
    pub fn worst(&self) -> Option<u16> {
        self.statuses.range(400..).max_by_key(|(_, count)| **count).map(|(status, _)| *status)
    }
}

/// Why a run stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// What stopped it.
    pub guard: Guard,
    /// What happened, and what to do.
    pub message: String,
}

/// What stops a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Guard {
    /// Too many calls failed otherwise than the limit would have it.
    Errors,
    /// Its time was over.
    Deadline,
    /// Somebody stopped it.
    Interrupted,
    /// The path is not answered as it should be, even calmly.
    Path,
    /// The caller could not go on.
    Failed,
}
