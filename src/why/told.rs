//! The shape of what is told.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::Change;

/// Why calls of a Service fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// When the proxies were read for the last time.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Fully qualified host.
    pub host: String,
    /// How long was looked, in seconds; 0: what was counted since the proxies began.
    pub looked_for_s: u64,
    /// Whether a cause was found for calls that fail now, or that cannot but fail: exit code 1.
    pub failing: bool,
    /// In one sentence.
    pub headline: String,
    /// Calls that clients' proxies sent to an endpoint meanwhile, tries included; null: none of them tells.
    pub sent: Option<u64>,
    /// Proxies of clients that were read: they have the host, and have called it or were asked about.
    pub clients: usize,
    /// Proxies of the Service's own pods that were read.
    pub servers: usize,
    /// The likely one first.
    pub causes: Vec<Cause>,
    /// What was looked at and is no cause.
    pub looked_at: Vec<Look>,
    /// What could not be seen, and why; one line each.
    pub not_seen: Vec<String>,
    /// What was changed last of all that bears on it, the newest first.
    pub changes: Vec<Change>,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// Which.
    pub cause: Kind,
    /// What kind of evidence there is for it.
    pub class: Class,
    /// What happens, in one sentence.
    pub summary: String,
    /// Calls or tries that it cost while it was looked, as far as they are counted; null: that is not counted.
    pub calls: Option<u64>,
    /// What was seen of it.
    pub evidence: Vec<Evidence>,
    /// What to do: a command, or a field.
    pub next: Vec<String>,
}

/// Why a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub enum Kind {
    /// Retries multiply the calls that something is full of.
    RetryStorm,
    /// No client has a route that leads anywhere.
    MissingRoute,
    /// Another object than the policy's counts, and fails, limits or ends calls.
    OtherRule,
    /// One side speaks mutual TLS and the other does not.
    MutualTls,
    /// There is no endpoint that is ready.
    NoEndpoints,
    /// All endpoints are ejected.
    Ejection,
    /// A client's own proxy refuses what is above a limit.
    ClientLimit,
    /// A server's own proxy refuses what is above a limit.
    ServerLimit,
    /// No answer came in the time that the client's proxy gives.
    Timeout,
    /// No connection comes about, or it ends under a call.
    Connection,
    /// The application itself answers with a 5xx.
    Application,
    /// A 5xx comes from the servers' side, and whether from the application or from its proxy is not known.
    ServersSide,
}

impl Kind {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::RetryStorm => "retry storm",
            Self::MissingRoute => "missing route",
            Self::OtherRule => "another rule",
            Self::MutualTls => "mutual TLS",
            Self::NoEndpoints => "no endpoint",
            Self::Ejection => "all endpoints ejected",
            Self::ClientLimit => "a client's limit",
            Self::ServerLimit => "a server's limit",
            Self::Timeout => "timeout",
            Self::Connection => "no connection",
            Self::Application => "the application's own answer",
            Self::ServersSide => "an answer of the servers' side",
        }
    }
}

/// What kind of evidence there is; the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub enum Class {
    /// A counter of a proxy moved while it was looked.
    SeenNow,
    /// It is configured so that calls cannot but fail, as a proxy or the API server has it.
    MustFail,
    /// It was counted since a proxy began, and not while it was looked.
    SeenBefore,
    /// It may fail calls, and none was seen to fail of it.
    Possible,
}

impl Class {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::SeenNow => "seen now",
            Self::MustFail => "it cannot but fail",
            Self::SeenBefore => "seen before",
            Self::Possible => "possible",
        }
    }
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Namespace and pod of the proxy that tells it, or kind, namespace and name of an object.
    pub seen_at: String,
    /// What was seen.
    pub says: String,
    /// By how much a counter moved while it was looked; null: no counter tells it, or it was read once.
    pub added: Option<u64>,
    /// Its value at the end; null: no counter tells it.
    pub total: Option<u64>,
    /// Which counters those are; null: none.
    pub counter: Option<String>,
}

impl Evidence {
    /// Of an object, or of what a proxy is configured to do.
    pub(super) fn fact(seen_at: impl Into<String>, says: impl Into<String>) -> Self {
        Self { seen_at: seen_at.into(), says: says.into(), added: None, total: None, counter: None }
    }
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// What.
    pub what: String,
    /// What was seen of it.
    pub says: String,
}
