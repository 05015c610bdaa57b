//! How a client's proxy names and writes what istiod sent it.

use std::fmt;

/// What istiod sends for «no limit» (istio `pilot/pkg/networking/core/cluster_traffic_policy.go`).
pub const NO_LIMIT: u64 = u32::MAX as u64;

/// A cluster by which a client calls: its name is `outbound|PORT|SUBSET|HOST` (istio
/// `pilot/pkg/model/push_context.go`, `BuildSubsetKey`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound<'a> {
    /// Port of the host, not of its pods.
    pub port: u16,
    /// The subset of a `DestinationRule`; empty: none.
    pub subset: &'a str,
    /// Fully qualified.
    pub host: &'a str,
}

impl<'a> Outbound<'a> {
    /// `None` for any other cluster.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.strip_prefix("outbound|")?.splitn(3, '|');
        let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { port: port.parse().ok()?, subset, host })
    }
}

impl fmt::Display for Outbound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbound|{}|{}|{}", self.port, self.subset, self.host)
    }
}

/// A cluster's or a counter's name as a regular expression that matches it alone.
#[must_use]
pub fn literal(name: &str) -> String {
    name.replace('\\', r"\\").replace('.', r"\.").replace('|', r"\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_parsed_is_written_as_it_was() {
        for name in ["outbound|80||a.b", "outbound|8080|v1|a.b"] {
            assert_eq!(Outbound::parse(name).unwrap().to_string(), name);
        }
        for other in ["inbound|80||", "BlackHoleCluster", "outbound_.80_._.a.b", "outbound|http||a.b"] {
            assert_eq!(Outbound::parse(other), None, "{other}");
        }
    }
}
