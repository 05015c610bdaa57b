//! What has to be remembered between two rounds: since when a proxy lags behind, since when somebody cannot
//! be asked, and which clusters were refused.
//!
//! istiod sends a change of one rule alone (delta xDS), and forgets a refusal with the next configuration
//! that is taken, although what was refused then is still not there: so we remember it until the cluster
//! is another.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{board::Key, pace::Patience};
use crate::{
    in_effect::{Expectation, Findings, Sighting, Standing, standing},
    observed::proxies::Proxy,
};

/// A proxy and one of its clusters.
type Held = (String, String);

/// Since when each proxy has stood otherwise than in effect.
type Lags = (Arc<Expectation>, HashMap<String, Instant>);

/// The memory of one leader.
pub struct Memory {
    grace: Duration,
    lags: HashMap<Key, Lags>,
    refused: HashMap<Held, (u64, String)>,
    unanswered: Option<Instant>,
}

impl Memory {
    /// Nothing yet.
    pub fn new(grace: Duration) -> Self {
        Self { grace, lags: HashMap::new(), refused: HashMap::new(), unanswered: None }
    }

    /// How long the next round may be off: not long where a proxy or an istiod is in its grace.
    pub fn patience(&self) -> Patience {
        let lags = self.lags.values().flat_map(|(_, lags)| lags.values());
        let mut since = lags.chain(&self.unanswered).peekable();
        if since.peek().is_none() {
            Patience::Rest
        } else if since.any(|since| since.elapsed() <= self.grace) {
            Patience::Short
        } else {
            Patience::Long
        }
    }

    /// Notes whether all could be asked; whether that has not been so for longer than the grace.
    pub fn all_answered(&mut self, all: bool) -> bool {
        if all {
            self.unanswered = None;
            return false;
        }
        let since = *self.unanswered.get_or_insert_with(Instant::now);
        since.elapsed() > self.grace
    }

    /// Remembers what a proxy refuses, and adds what it refused before.
    pub fn recall(&mut self, proxy: &mut Proxy) {
        for cluster in &proxy.clusters {
            let held = (proxy.name.clone(), cluster.name.clone());
            let refusal = &proxy.told_clusters.refusal;
            if refusal.contains(&cluster.name) {
                self.refused.insert(held, (cluster.fingerprint, refusal.clone()));
            } else if let Some((fingerprint, text)) = self.refused.get(&held) {
                if *fingerprint == cluster.fingerprint {
                    proxy.refused_before.insert(cluster.name.clone(), text.clone());
                } else {
                    self.refused.remove(&held);
                }
            }
        }
    }

    /// Forgets the proxies that are gone, and the policies.
    pub fn keep(&mut self, connected: &BTreeSet<&str>, subjects: &[(Key, Arc<Expectation>)]) {
        self.refused.retain(|(proxy, _), _| connected.contains(proxy.as_str()));
        let known: BTreeMap<&Key, &Arc<Expectation>> = subjects.iter().map(|(key, one)| (key, one)).collect();
        self.lags.retain(|key, (expectation, _)| known.get(key).is_some_and(|one| Arc::ptr_eq(one, expectation)));
    }

    /// How the proxies stand to a policy.
    pub fn sight(&mut self, key: &Key, expectation: &Arc<Expectation>, proxies: &[Proxy], findings: &mut Findings) {
        let (_, lags) = self.lags.entry(key.clone()).or_insert_with(|| (expectation.clone(), HashMap::new()));
        let now = Instant::now();
        let before = std::mem::take(lags);
        for proxy in proxies {
            let Some(standing) = standing(expectation, proxy) else { continue };
            let mut overdue = false;
            if standing != Standing::InEffect {
                let since = before.get(&proxy.name).copied().unwrap_or(now);
                lags.insert(proxy.name.clone(), since);
                overdue = now.duration_since(since) > self.grace;
            }
            findings.sightings.push(Sighting { proxy: proxy.name.clone(), standing, overdue });
        }
        findings.sightings.sort_by(|one, two| one.proxy.cmp(&two.proxy));
    }
}
