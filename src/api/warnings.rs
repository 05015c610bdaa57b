//! Stable codes of warnings. A code is never reused; each has a page in `docs/warnings/`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A warning's stable code. Messages may be reworded, codes keep their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Code {
    /// `limits.perClient` without a word on the server's side: Istio puts the same numbers on each
    /// server's own proxy, where all clients share them (measured M9).
    #[serde(rename = "RES010")]
    PerClientLimitsServer,
    /// RES010 with ejection on: the server's refusals count as failures, and clients eject healthy
    /// endpoints (measured M10, M12).
    #[serde(rename = "RES011")]
    PerClientLimitsEject,
    /// `connections` without `pendingRequests`: surplus requests queue without bound (measured M6).
    #[serde(rename = "RES012")]
    ConnectionsQueue,
    /// `ejection.maxPercent` of the present endpoints is less than one (measured M5).
    #[serde(rename = "RES014")]
    EjectsNone,
    /// `ejection.maxPercent` lets all present endpoints be ejected: 503 until one returns (M5, M63).
    #[serde(rename = "RES015")]
    EjectsAll,
    /// `perTryTimeout` with a retry list that never retries a timed-out try (measured M25).
    #[serde(rename = "RES020")]
    PerTryTimeoutNotRetried,
    /// Retries of answers that a server's own overflow gives: more load at the worst time (M27).
    #[serde(rename = "RES021")]
    RetriesAmplifyOverflow,
    /// Another VirtualService has the host: timeouts and retries are not generated.
    #[serde(rename = "RES030")]
    RoutesOwnedByAnother,
    /// A younger DestinationRule for the host exists: Istio ignores its traffic policy, not ours.
    #[serde(rename = "RES031")]
    YoungerRuleIgnored,
    /// Ejection on a headless Service: counted, without effect (measured M60).
    #[serde(rename = "RES040")]
    HeadlessEjection,
}

impl Code {
    /// All codes, in order.
    pub const ALL: [Self; 10] = [
        Self::PerClientLimitsServer,
        Self::PerClientLimitsEject,
        Self::ConnectionsQueue,
        Self::EjectsNone,
        Self::EjectsAll,
        Self::PerTryTimeoutNotRetried,
        Self::RetriesAmplifyOverflow,
        Self::RoutesOwnedByAnother,
        Self::YoungerRuleIgnored,
        Self::HeadlessEjection,
    ];

    /// The code as it stands in status, on the command line and in the name of its page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerClientLimitsServer => "RES010",
            Self::PerClientLimitsEject => "RES011",
            Self::ConnectionsQueue => "RES012",
            Self::EjectsNone => "RES014",
            Self::EjectsAll => "RES015",
            Self::PerTryTimeoutNotRetried => "RES020",
            Self::RetriesAmplifyOverflow => "RES021",
            Self::RoutesOwnedByAnother => "RES030",
            Self::YoungerRuleIgnored => "RES031",
            Self::HeadlessEjection => "RES040",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
