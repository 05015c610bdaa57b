//! What an API server was asked, by its own counters.

use std::collections::BTreeMap;

use serde::Serialize;

/// The counter of requests; each answer counts once, a watch when it ends.
const COUNTER: &str = "apiserver_request_total{";

/// Verbs that change something; a server-side apply counts as `APPLY`.
const WRITES: &[&str] = &["APPLY", "POST", "PUT", "PATCH", "DELETE", "DELETECOLLECTION"];

/// Requests by `VERB resource/subresource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// From the text of `/metrics`.
    #[must_use]
    pub fn read(metrics: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in metrics.lines() {
            let Some((labels, value)) = line.strip_prefix(COUNTER).and_then(|line| line.rsplit_once("} ")) else {
                continue;
            };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            let (Some(verb), Some(resource)) = (label("verb"), label(",resource")) else { continue };
            let below = label("subresource").filter(|below| !below.is_empty());
            let key = below.map_or_else(|| format!("{verb} {resource}"), |below| format!("{verb} {resource}/{below}"));
            *counts.entry(key).or_default() += value.parse::<u64>().unwrap_or_default();
        }
        Self(counts)
    }

    /// What was asked since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let more =
            self.0.iter().map(|(key, count)| (key.clone(), count - before.0.get(key).copied().unwrap_or_default()));
        Self(more.filter(|(_, count)| *count > 0).collect())
    }

    /// Changes of whatever is no event and no lease.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.sum(|verb, what| WRITES.contains(&verb) && !is_aside(what))
    }

    /// Events that were written.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.sum(|verb, what| WRITES.contains(&verb) && what == "events")
    }

    /// Reads of single objects and of lists.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.sum(|verb, what| ["GET", "LIST"].contains(&verb) && !is_aside(what))
    }

    fn sum(&self, wanted: impl Fn(&str, &str) -> bool) -> u64 {
        let found = self.0.iter().filter(|(key, _)| key.split_once(' ').is_some_and(|(verb, what)| wanted(verb, what)));
        found.map(|(_, count)| count).sum()
    }
}

/// Told of, or about who leads, or no resource at all: a path of discovery, health or metrics.
fn is_aside(what: &str) -> bool {
    ["events", "leases"].contains(&what) || what.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
# TYPE apiserver_request_total counter
apiserver_request_total{code="201",component="apiserver",dry_run="",group="networking.istio.io",resource="destinationrules",scope="resource",subresource="",verb="APPLY",version="v1"} 2
apiserver_request_total{code="0",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/healthz",verb="GET",version=""} 9
"#;
    const AFTER: &str = r#"
apiserver_request_total{code="201",component="apiserver",dry_run="",group="networking.istio.io",resource="destinationrules",scope="resource",subresource="",verb="APPLY",version="v1"} 5
apiserver_request_total{code="200",component="apiserver",dry_run="",group="networking.istio.io",resource="destinationrules",scope="resource",subresource="",verb="APPLY",version="v1"} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="resilience.dev",resource="resiliences",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 4
apiserver_request_total{code="201",component="apiserver",dry_run="",group="events.k8s.io",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 7
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="cluster",subresource="",verb="LIST",version="v1"} 1
apiserver_request_total{code="0",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/healthz",verb="GET",version=""} 19
"#;

    #[test]
    fn what_is_written_is_told_from_events_leases_and_reads() {
        let more = Counts::read(AFTER).since(&Counts::read(BEFORE));
        assert_eq!((more.writes(), more.events(), more.reads()), (8, 3, 1), "{more:?}");
    }
}
