//! In: a pod with a sidecar. Out: what its Envoy has counted: the witness that scenarios trust.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::kubectl::Kubectl;

/// The counters and gauges of one Envoy at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats(BTreeMap<String, u64>);

impl Stats {
    /// Asks the Envoy beside a workload, `deploy/fortio` or `pod/fortio-…`, in the client's namespace.
    ///
    /// # Errors
    /// When the proxy does not answer.
    pub fn of(kubectl: &Kubectl, target: &str) -> Result<Self> {
        let text = kubectl
            .exec(target, "istio-proxy", &["pilot-agent", "request", "GET", "stats"])
            .with_context(|| format!("the Envoy of {target} tells no statistics"))?;
        Ok(Self::parse(&text))
    }

    /// Reads `name: value` lines; what is no whole number (histograms, texts) is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect())
    }

    /// One value by its full name; what was never counted is zero.
    #[must_use]
    pub fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// A client's counter for one Service: `outbound("httpbin.demo.svc.cluster.local", 8000, "upstream_rq_pending_overflow")`.
    #[must_use]
    pub fn outbound(&self, host: &str, port: u16, counter: &str) -> u64 {
        self.cluster(&format!("outbound|{port}||{host}"), counter)
    }

    /// A server's counter for one container port.
    #[must_use]
    pub fn inbound(&self, port: u16, counter: &str) -> u64 {
        self.cluster(&format!("inbound|{port}||"), counter)
    }

    /// Whether anything is counted for this Service: without statsInclusionPrefixes nothing is, and every
    /// counter would read as a peaceful zero.
    #[must_use]
    pub fn knows(&self, host: &str) -> bool {
        self.0.keys().any(|name| name.contains(&format!("||{host}")))
    }

    /// What was added to a counter since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), value.saturating_sub(earlier.value(name)))).collect())
    }

    fn cluster(&self, cluster: &str, counter: &str) -> u64 {
        // Istio ends a cluster's name with `;` in newer versions.
        let names = [format!("cluster.{cluster};.{counter}"), format!("cluster.{cluster}.{counter}")];
        names.iter().map(|name| self.value(name)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_with_and_without_the_mark_at_the_clusters_end() {
        let text = "cluster.outbound|8000||a.b.svc.cluster.local;.upstream_rq_503: 7\n\
                    cluster.inbound|8080||.upstream_rq_503: 3\n\
                    cluster.x.upstream_rq_time: P0(nan,1.0) P25(nan,2)\n";
        let stats = Stats::parse(text);
        assert_eq!(stats.outbound("a.b.svc.cluster.local", 8000, "upstream_rq_503"), 7);
        assert_eq!(stats.inbound(8080, "upstream_rq_503"), 3);
        assert!(stats.knows("a.b.svc.cluster.local") && !stats.knows("c.b.svc.cluster.local"));
    }

    #[test]
    fn a_difference_counts_what_was_added() {
        let (earlier, later) = (Stats::parse("a: 3"), Stats::parse("a: 5\nb: 1"));
        assert_eq!(later.since(&earlier), Stats::parse("a: 2\nb: 1"));
    }
}
