//! What was seen, by client and what it calls, and by server and its port.

use std::collections::BTreeMap;

use super::{
    ClusterConfig, Evidence, ProxySeen, Reporter, Requests, Route, Seen, Snapshot,
    counted::{Count, Signal, Tally},
};
use crate::top::{Cluster, Target};

/// A client, and a cluster by which it calls.
pub(super) struct Call<'a> {
    pub client: &'a ProxySeen,
    pub target: &'a Target,
    pub cluster: &'a Cluster,
    pub config: Option<&'a ClusterConfig>,
    pub tally: Tally<'a>,
}

/// A server, and a port of its pod.
pub(super) struct Served<'a> {
    pub server: &'a ProxySeen,
    pub port: u16,
    pub cluster: &'a Cluster,
    pub tally: Tally<'a>,
}

/// Everything by which causes are judged.
pub(super) struct Calls<'a> {
    pub seen: &'a Seen,
    pub made: Vec<Call<'a>>,
    pub served: Vec<Served<'a>>,
}

impl<'a> Calls<'a> {
    pub fn of(seen: &'a Seen) -> Self {
        let calls = seen.clients.iter().flat_map(|client| {
            let clusters = &client.last.outbound;
            clusters.iter().enumerate().map(move |(index, (target, cluster))| Call {
                client,
                target,
                cluster,
                config: client.last.configured.clusters.get(target),
                tally: tally(client, cluster, |snapshot| snapshot.outbound.get(target), index == 0, Reporter::Source),
            })
        });
        let served = seen.servers.iter().flat_map(|server| {
            let ports: &BTreeMap<u16, Cluster> = &server.last.inbound;
            ports.iter().enumerate().map(move |(index, (port, cluster))| Served {
                server,
                port: *port,
                cluster,
                tally: tally(server, cluster, |snapshot| snapshot.inbound.get(port), index == 0, Reporter::Destination),
            })
        });
        Self { seen, made: calls.collect(), served: served.collect() }
    }

    /// Whether something is counted at each client.
    pub fn is_counted(&self, signal: Signal) -> bool {
        self.made.iter().all(|call| call.tally.count(signal).is_some())
    }

    /// Whether it was read twice, so that there is a now.
    pub fn has_now(&self) -> bool {
        !self.seen.looked.is_zero()
    }

    /// Routes of all clients, with whose they are.
    pub fn routes(&self) -> impl Iterator<Item = (&'a ProxySeen, &'a Route)> {
        self.seen
            .clients
            .iter()
            .flat_map(|client| client.last.configured.routes.iter().map(move |route| (client, route)))
    }

    /// Whether an object is what the policy generated, or has its blocks.
    pub fn is_the_policys(&self, object: &str) -> bool {
        self.seen.policy.as_ref().is_some_and(|policy| policy.generated.iter().any(|one| one == object))
    }

    /// The policy, as it is named to people, if there is one.
    pub fn policy(&self) -> Option<String> {
        let policy = self.seen.policy.as_ref()?;
        Some(format!("Resilience {}/{}", self.seen.target.namespace, policy.name))
    }
}

/// Istio's metric is of a host and not of a cluster: it goes with the first one.
fn tally<'a>(
    proxy: &'a ProxySeen,
    later: &'a Cluster,
    find: impl Fn(&'a Snapshot) -> Option<&'a Cluster>,
    is_first: bool,
    reporter: Reporter,
) -> Tally<'a> {
    let before: &[Requests] = proxy.first.as_ref().map_or(&[], |first| first.requests.as_slice());
    Tally {
        earlier: proxy.first.as_ref().and_then(find),
        later,
        requests: is_first.then_some((before, proxy.last.requests.as_slice())),
        reporter,
        twice: proxy.first.is_some(),
    }
}

impl Call<'_> {
    /// Evidence by a counter of the client's proxy.
    pub fn counted(&self, count: &Count, says: impl Into<String>) -> Evidence {
        counted(self.client.place(), count, says)
    }

    /// The rule that its cluster was made from, as it is named to people.
    pub fn rule(&self) -> Option<String> {
        self.config?.rule.as_ref().map(ToString::to_string)
    }

    /// Endpoints that it sends nothing to.
    pub fn out(&self) -> usize {
        self.cluster.endpoints.values().filter(|endpoint| endpoint.out).count()
    }

    /// Those of them that outlier detection ejected.
    pub fn ejected(&self) -> Vec<&str> {
        let ejected = self.cluster.endpoints.iter().filter(|(_, endpoint)| endpoint.ejected);
        ejected.map(|(address, _)| address.as_str()).collect()
    }
}

impl Served<'_> {
    /// Evidence by a counter of the server's proxy.
    pub fn counted(&self, count: &Count, says: impl Into<String>) -> Evidence {
        counted(self.server.place(), count, says)
    }
}

fn counted(place: String, count: &Count, says: impl Into<String>) -> Evidence {
    Evidence {
        seen_at: place,
        says: says.into(),
        added: count.added,
        total: Some(count.total),
        counter: Some(count.by.clone()),
    }
}
