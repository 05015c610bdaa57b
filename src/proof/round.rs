//! One round of questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use futures::{StreamExt as _, stream};

use super::{
    Key, Prover,
    answers::Connected,
    istiod::{Fault, Replica},
    memory::Memory,
};
use crate::{
    api::conditions::Reason,
    in_effect::{Expectation, Findings, Verdict},
    observed::proxies::Proxy,
};

/// Questions under way at a time: each makes an istiod generate a proxy's configuration.
const CONCURRENCY: usize = 4;

/// Proxies that are asked about in a round. Of more, always the same sample.
const MOST_PROXIES: usize = 200;

/// What a round found of all proxies together.
#[derive(Default)]
struct Seen {
    proxies: Vec<Proxy>,
    asked: usize,
    connected: usize,
    unasked: Vec<String>,
}

impl Prover {
    /// Asks for all policies; those of which there is news.
    pub(super) async fn round(&self, memory: &mut Memory) -> Vec<Key> {
        let subjects = self.board.subjects();
        if subjects.is_empty() {
            return Vec::new();
        }
        let seen = self.look(&subjects, memory).await;
        let complete = seen.as_ref().is_ok_and(|seen| seen.unasked.is_empty());
        let for_long = memory.all_answered(complete);
        match &seen {
            Ok(_) => self.metrics.istiod_answered(),
            Err(fault) => tracing::warn!(fault, "istiod could not be asked what proxies have"),
        }
        let mut changed = Vec::new();
        for (key, expectation) in &subjects {
            let verdict = match &seen {
                Err(fault) => Verdict::unreachable(fault),
                Ok(seen) => {
                    let mut findings = Findings {
                        asked: seen.asked,
                        connected: seen.connected,
                        unasked: seen.unasked.clone(),
                        ..Findings::default()
                    };
                    memory.sight(key, expectation, &seen.proxies, &mut findings);
                    Verdict::of(expectation, &findings)
                }
            };
            // An istiod that restarts is away for a moment: what was found before still counts meanwhile.
            let gap = matches!(verdict.reason, Reason::Unreachable | Reason::Partial) && !for_long;
            if gap && self.board.known(key, expectation).is_some() {
                continue;
            }
            if self.board.post(key, expectation, verdict) {
                changed.push(key.clone());
            }
        }
        changed
    }

    async fn look(&self, subjects: &[(Key, Arc<Expectation>)], memory: &mut Memory) -> Result<Seen, String> {
        let replicas = self.istiods.replicas().await?;
        let (connections, mut unasked) = self.connections(&replicas).await;
        if unasked.len() == replicas.len() {
            return Err(unasked.join("; "));
        }
        let names: BTreeSet<&str> = connections.keys().map(String::as_str).collect();
        memory.keep(&names, subjects);
        let wanted: BTreeSet<&str> = subjects.iter().map(|(_, one)| one.host.as_str()).collect();
        let sample = sample(&connections);
        let asked = sample.len();
        let mut questions = Vec::new();
        for (replica, proxy) in sample {
            let wanted = &wanted;
            let ask = async move { (proxy.name.as_str(), self.istiods.generated(replica, proxy, wanted).await) };
            questions.push(ask);
        }
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(CONCURRENCY).collect().await;
        // What istiod generates may be just on its way: only what is said after that counts.
        tokio::time::sleep(self.options.settle).await;
        let (later, gone) = self.connections(&replicas).await;
        unasked.extend(gone);
        unasked.sort();
        unasked.dedup();
        let mut proxies = Vec::new();
        for (name, answer) in answers {
            // One that left meanwhile is nobody's; whose istiod does not answer any more is told above.
            let Some((_, told)) = later.get(name) else { continue };
            match answer {
                Ok(mut proxy) => {
                    (proxy.told_clusters, proxy.told_routes) = (told.clusters.clone(), told.routes.clone());
                    memory.recall(&mut proxy);
                    proxies.push(proxy);
                }
                Err(Fault::NotConnected) => unasked.push(format!("{name}: it went to another istiod meanwhile")),
                Err(Fault::Other(why)) => unasked.push(format!("{name}: {why}")),
            }
        }
        Ok(Seen { proxies, asked, connected: connections.len(), unasked })
    }

    /// All proxies with the istiod that each is connected to, and what could not be asked.
    async fn connections<'a>(
        &self,
        replicas: &'a [Replica],
    ) -> (BTreeMap<String, (&'a Replica, Connected)>, Vec<String>) {
        let mut questions = Vec::new();
        for replica in replicas {
            questions.push(async move { (replica, self.istiods.connected(replica).await) });
        }
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(CONCURRENCY).collect().await;
        let (mut all, mut faults) = (BTreeMap::new(), Vec::new());
        for (replica, answer) in answers {
            match answer {
                Ok(proxies) => all.extend(proxies.into_iter().map(|one| (one.name.clone(), (replica, one)))),
                Err(fault) => faults.push(fault),
            }
        }
        (all, faults)
    }
}

/// All of them, or of too many those whose names hash lowest: the same ones in every round.
fn sample<'a>(connections: &'a BTreeMap<String, (&'a Replica, Connected)>) -> Vec<(&'a Replica, &'a Connected)> {
    let mut all: Vec<_> = connections.values().map(|(replica, proxy)| (*replica, proxy)).collect();
    if all.len() > MOST_PROXIES {
        let lot = |name: &str| {
            let mut hasher = std::hash::DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        };
        all.sort_by_cached_key(|(_, proxy)| lot(&proxy.name));
        all.truncate(MOST_PROXIES);
    }
    all
}
