//! What can come of one request, and how to tell from the answer. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What came of one request. A failure of the transport is an answer too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A whole answer with this status, other than 503.
    Status(u16),
    /// A whole answer with status 503.
    Unavailable(Unavailable),
    /// No whole answer within the timeout, wherever the time went.
    Timeout,
    /// The connection did not come about, or broke before the answer was whole.
    Failed(ConnectionError),
}

/// Why a 503, as far as the answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unavailable {
    /// `x-envoy-overloaded: true`: a breaker of some Envoy on the way overflowed.
    Overloaded(Where),
    /// Envoy's own «no healthy upstream»: no endpoints, or all of them ejected.
    NoHealthyUpstream,
    /// Anything else: the application's own, a connection that Envoy could not make …
    Other,
}

/// Where on the way a breaker overflowed, as far as the answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// No Envoy says that it had the refusal from another: the first one on the way refused.
    First,
    /// With `x-envoy-upstream-service-time`, which an Envoy adds to what it was sent and not to what
    /// it says itself (Envoy's router; unless its debug headers are off): somebody behind it refused.
    Behind,
}

/// What of a whole answer tells its cause.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs<'a> {
    /// `x-envoy-overloaded` is `true`.
    pub overloaded: bool,
    /// `x-envoy-upstream-service-time` is there.
    pub passed_on: bool,
    /// The body; one byte more than «no healthy upstream» is enough.
    pub start: &'a [u8],
}

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionError {
    /// Nobody listens at the port.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the answer was whole.
    Closed,
    /// The peer reset this HTTP/2 stream, or said that it is going away.
    StreamReset,
    /// No route to the host or its network.
    Unreachable,
    /// The host's name was not found.
    Lookup,
    /// This machine ran out of ports or file descriptors: nothing is known about the server.
    LocalResources,
    /// The answer was not HTTP.
    Protocol,
    /// Anything else.
    Other,
}

impl ConnectionError {
    /// All kinds, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::StreamReset,
        Self::Unreachable,
        Self::Lookup,
        Self::LocalResources,
        Self::Protocol,
        Self::Other,
    ];

    /// In words, for the table.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset",
            Self::Closed => "connection closed",
            Self::StreamReset => "stream reset",
            Self::Unreachable => "unreachable",
            Self::Lookup => "name not found",
            Self::LocalResources => "no local ports or files",
            Self::Protocol => "not HTTP",
            Self::Other => "other failure",
        }
    }
}

/// What Envoy answers, whole, when a cluster has nobody to send to.
pub(super) const NO_HEALTHY_UPSTREAM: &[u8] = b"no healthy upstream";

impl Outcome {
    /// The outcome of a whole answer.
    #[must_use]
    pub fn of_answer(status: u16, signs: Signs<'_>) -> Self {
        match status {
            503 if signs.overloaded && signs.passed_on => Self::Unavailable(Unavailable::Overloaded(Where::Behind)),
            503 if signs.overloaded => Self::Unavailable(Unavailable::Overloaded(Where::First)),
            503 if signs.start == NO_HEALTHY_UPSTREAM => Self::Unavailable(Unavailable::NoHealthyUpstream),
            503 => Self::Unavailable(Unavailable::Other),
            _ => Self::Status(status),
        }
    }

    /// The status, when there was a whole answer.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::Unavailable(_) => Some(503),
            Self::Timeout | Self::Failed(_) => None,
        }
    }

    /// Anything but a whole answer below 400.
    #[must_use]
    pub const fn is_error(self) -> bool {
        !matches!(self, Self::Status(..400))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_503_is_told_apart_by_what_the_answer_says() {
        let (first, behind) = (Unavailable::Overloaded(Where::First), Unavailable::Overloaded(Where::Behind));
        let none = Unavailable::NoHealthyUpstream;
        for (overloaded, passed_on, start, expected) in [
            (true, false, &b"upstream connect error"[..], first),
            (true, true, b"upstream connect error", behind),
            (false, false, b"no healthy upstream", none),
            (false, true, b"no healthy upstream", none),
            (false, false, b"no healthy upstream!", Unavailable::Other),
            (false, true, b"", Unavailable::Other),
        ] {
            let signs = Signs { overloaded, passed_on, start };
            assert_eq!(Outcome::of_answer(503, signs), Outcome::Unavailable(expected), "{signs:?}");
            assert_eq!(Outcome::of_answer(200, signs), Outcome::Status(200), "{signs:?}");
        }
    }

    #[test]
    fn only_whole_answers_below_400_are_no_errors() {
        for (outcome, error) in [
            (Outcome::Status(200), false),
            (Outcome::Status(304), false),
            (Outcome::Status(399), false),
            (Outcome::Status(400), true),
            (Outcome::Status(500), true),
            (Outcome::Unavailable(Unavailable::Overloaded(Where::First)), true),
            (Outcome::Timeout, true),
            (Outcome::Failed(ConnectionError::Refused), true),
        ] {
            assert_eq!(outcome.is_error(), error, "{outcome:?}");
        }
    }
}
