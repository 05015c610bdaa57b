//! Whose DestinationRule a client has (istio `pilot/pkg/model/push_context.go`, `setDestinationRules` and
//! `destinationRule`; `destination_rule.go`, `mergeDestinationRule`; `sidecar.go`,
//! `SidecarScope.DestinationRule`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Callee, Client, Neighbourhood, Unobserved, Why, exports, is_same, labels, order::Age, pattern, selects};
use crate::istio::Existing;

/// What a client has of the DestinationRules for a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RulesInForce {
    /// The rules that are merged into the one in force; the first is the one that Envoy's metadata names.
    /// All of their subsets count. Empty: none is in force.
    pub merged: Vec<Arc<Existing>>,
    /// The one of them whose traffic policy counts, whole; none where none has one.
    pub policy_of: Option<Arc<Existing>>,
    /// Every other rule for the host that has a traffic policy, or subsets that are lost.
    pub shadowed: Vec<ShadowedRule>,
    /// What could not be decided.
    pub unobserved: Vec<Unobserved>,
}

/// A rule that does not count for a client.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowedRule {
    /// The rule.
    pub object: Arc<Existing>,
    /// The rule that stands in its way, where one does.
    pub by: Option<Arc<Existing>>,
    /// Why.
    pub why: Why,
}

/// The three places where istiod looks, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The client's own namespace; of the root namespace for a client in it, only what is private to it.
    Client,
    /// The service's namespace.
    Service,
    /// The root namespace.
    Root,
}

impl Place {
    const ALL: [Self; 3] = [Self::Client, Self::Service, Self::Root];
}

/// One consolidated rule: what was merged into one.
struct Entry<'a> {
    export: BTreeSet<&'a str>,
    merged: Vec<&'a Arc<Existing>>,
}

impl<'a> Entry<'a> {
    fn first(&self) -> &'a Arc<Existing> {
        self.merged[0]
    }

    fn policy_of(&self) -> Option<&'a Arc<Existing>> {
        self.merged.iter().find(|rule| rule.has_traffic_policy()).copied()
    }

    fn holds(&self, rule: &Existing) -> bool {
        self.merged.iter().any(|one| is_same(one, rule))
    }

    fn reaches(&self, namespace: &str) -> bool {
        self.export.is_empty() || self.export.contains("*") || self.export.contains(namespace)
    }
}

/// What was found in one place: the rules of the most specific host there, whomever they are exported to.
struct Found<'a> {
    place: Place,
    host: String,
    entries: Vec<Entry<'a>>,
}

impl<'a> Found<'a> {
    /// In the client's own place everything is for it.
    fn is_for(&self, entry: &Entry<'_>, client: &Client) -> bool {
        self.place == Place::Client || entry.reaches(&client.namespace)
    }

    fn reaches(&self, client: &Client) -> bool {
        self.entries.iter().any(|entry| self.is_for(entry, client))
    }

    /// One that selects the client, else the last that selects nobody.
    fn choose(&self, client: &Client) -> Option<&Entry<'a>> {
        let mut visible = self.entries.iter().filter(|entry| self.is_for(entry, client));
        let selects = |entry: &&Entry<'_>| {
            let rule = entry.first();
            rule.has_workload_selector() && rule.namespace == client.namespace && is_selected(rule, client)
        };
        visible.clone().find(selects).or_else(|| visible.rfind(|entry| !entry.first().has_workload_selector()))
    }
}

impl Neighbourhood {
    /// What a client has of the rules for what it calls.
    ///
    /// Whether its Sidecar lets it see the host at all is [`Neighbourhood::sees`].
    #[must_use]
    pub fn rules(&self, callee: &Callee, client: &Client) -> RulesInForce {
        let found: Vec<_> = Place::ALL.into_iter().filter_map(|place| self.look(callee, client, place)).collect();
        // Where the most specific host is not exported to the client, the search goes on in the next place.
        let taken = found.iter().find(|found| found.reaches(client));
        let chosen = taken.and_then(|found| found.choose(client));
        let mut force = RulesInForce {
            merged: chosen.map(|entry| entry.merged.iter().copied().cloned().collect()).unwrap_or_default(),
            policy_of: chosen.and_then(Entry::policy_of).cloned(),
            ..RulesInForce::default()
        };
        for rule in &self.rules {
            if force.merged.iter().any(|one| is_same(one, rule)) && !rule.has_traffic_policy()
                || force.policy_of.as_ref().is_some_and(|one| is_same(one, rule))
                || !self.is_for(rule, callee)
            {
                continue;
            }
            let (why, by) = self.why_not(rule, callee, client, &found, taken, chosen);
            force.shadowed.push(ShadowedRule { object: rule.clone(), by: by.cloned(), why });
        }
        force.shadowed.sort_by(|one, other| place_of(&one.object).cmp(&place_of(&other.object)));
        force.unobserved = self.scope(client).unobserved;
        if client.labels.is_none() {
            let selecting = taken.into_iter().flat_map(|found| &found.entries).map(Entry::first);
            let selecting = selecting.filter(|rule| rule.namespace == client.namespace && rule.has_workload_selector());
            force.unobserved.extend(selecting.map(|rule| Unobserved::Labels(rule.whole())));
        }
        force
    }

    fn is_for(&self, rule: &Existing, callee: &Callee) -> bool {
        rule.hosts(&self.cluster_domain).iter().any(|host| pattern::covers(host, &callee.host))
    }

    fn host_of(&self, rule: &Existing) -> String {
        rule.hosts(&self.cluster_domain).pop().unwrap_or_default()
    }

    /// The rules of one place that are for the host, those of the most specific pattern alone.
    fn look<'a>(&'a self, callee: &Callee, client: &Client, place: Place) -> Option<Found<'a>> {
        let here = self.rules.iter().filter(|rule| self.looked_at(rule, callee, client, place));
        let with_host: Vec<(String, &Arc<Existing>)> = here.map(|rule| (self.host_of(rule), rule)).collect();
        let host = pattern::most_specific(&callee.host, with_host.iter().map(|(host, _)| host.as_str()))?.to_owned();
        let mut rules: Vec<_> = with_host.iter().filter(|(one, _)| *one == host).map(|(_, rule)| *rule).collect();
        rules.sort_by_key(|rule| (!rule.has_workload_selector(), age(rule)));
        let mut entries = Vec::new();
        for rule in rules {
            consolidate(&mut entries, rule);
        }
        Some(Found { place, host, entries })
    }

    /// Whether a rule takes part in a place at all, whatever its host.
    fn looked_at(&self, rule: &Existing, callee: &Callee, client: &Client, place: Place) -> bool {
        let of = |namespace: &str| rule.namespace == namespace;
        match place {
            Place::Client if client.namespace == self.root_namespace => of(&self.root_namespace) && is_private(rule),
            Place::Client => of(&client.namespace) && is_local(rule),
            Place::Service => of(&callee.namespace) && !is_private(rule),
            Place::Root => of(&self.root_namespace) && !is_private(rule),
        }
    }

    fn why_not<'a>(
        &self,
        rule: &Existing,
        callee: &Callee,
        client: &Client,
        found: &'a [Found<'a>],
        taken: Option<&'a Found<'a>>,
        chosen: Option<&'a Entry<'a>>,
    ) -> (Why, Option<&'a Arc<Existing>>) {
        let Some(own) = Place::ALL.into_iter().find(|place| self.looked_at(rule, callee, client, *place)) else {
            let near = [&client.namespace, &callee.namespace, &self.root_namespace];
            let why = if near.contains(&&rule.namespace) { Why::NotExported } else { Why::NeverLookedAt };
            return (why, None);
        };
        if own != Place::Client && !reaches(rule, &client.namespace) {
            return (Why::NotExported, None);
        }
        if rule.has_workload_selector() && !is_selected(rule, client) {
            return (Why::OtherWorkloads, None);
        }
        let winner = taken.map(|found| match chosen {
            Some(entry) => entry.policy_of().unwrap_or_else(|| entry.first()),
            None => found.entries[0].first(),
        });
        match taken.map(|found| found.place) {
            Some(Place::Client) if own != Place::Client => return (Why::ClientsNamespaceFirst, winner),
            Some(Place::Service) if own == Place::Root => return (Why::ServicesNamespaceFirst, winner),
            _ => {}
        }
        let Some(here) = found.iter().find(|found| found.place == own) else { return (Why::NotExported, None) };
        if self.host_of(rule) != here.host {
            let first = here.entries[0].first();
            return (Why::MoreSpecific, winner.filter(|_| here.reaches(client)).or(Some(first)));
        }
        let mut holders = here.entries.iter().filter(|entry| entry.holds(rule));
        if let Some(chosen) = chosen.filter(|entry| entry.holds(rule)) {
            return (Why::OlderFirst, chosen.policy_of());
        }
        if !holders.clone().any(|entry| here.is_for(entry, client)) {
            return (Why::MergedIntoNarrower, holders.next().map(Entry::first));
        }
        if let Some(selecting) = chosen.map(Entry::first).filter(|first| first.has_workload_selector()) {
            return (Why::SelectedFirst, Some(selecting));
        }
        if holders.clone().all(|entry| entry.first().has_workload_selector()) {
            return (Why::MergedIntoSelected, holders.next().map(Entry::first));
        }
        (Why::YoungerExportedDifferently, chosen.map(Entry::first))
    }
}

/// As istiod merges one more rule into what it has of the same host.
fn consolidate<'a>(entries: &mut Vec<Entry<'a>>, rule: &'a Arc<Existing>) {
    let export = export_of(rule);
    let selector = selector(rule);
    let mut separate = true;
    for entry in &mut *entries {
        let superset = !entry.export.is_empty() && export.is_superset(&entry.export);
        separate = true;
        if export == entry.export {
            separate = false;
        } else if !superset {
            continue;
        }
        let other = self::selector(entry.first());
        match (&other, &selector) {
            (Some(one), Some(another)) if one != another => {
                separate = true;
                continue;
            }
            (Some(_), Some(_)) | (None, None) => separate = false,
            // One with a selector and one without: what the exports said stays.
            _ => {}
        }
        entry.merged.push(rule);
    }
    if separate {
        entries.push(Entry { export, merged: vec![rule] });
    }
}

fn selector(rule: &Existing) -> Option<BTreeMap<String, String>> {
    rule.has_workload_selector().then(|| labels(rule.spec.pointer("/workloadSelector/matchLabels")))
}

fn is_selected(rule: &Existing, client: &Client) -> bool {
    let none = BTreeMap::new();
    let selector = selector(rule).unwrap_or_default();
    selects(&selector, client.labels.as_ref().unwrap_or(&none))
}

/// A rule with a selector is for its own namespace, whatever it says.
fn export_of(rule: &Existing) -> BTreeSet<&str> {
    if rule.has_workload_selector() {
        return BTreeSet::from(["."]);
    }
    let list = rule.spec.get("exportTo").and_then(serde_json::Value::as_array).into_iter().flatten();
    list.filter_map(serde_json::Value::as_str).collect()
}

/// Whether clients of its own namespace are meant too.
fn is_local(rule: &Existing) -> bool {
    let export = export_of(rule);
    export.is_empty() || ["*", ".", &rule.namespace].iter().any(|one| export.contains(one))
}

/// Whether only clients of its own namespace are meant.
fn is_private(rule: &Existing) -> bool {
    let export = export_of(rule);
    export.len() == 1 && (export.contains(".") || export.contains(rule.namespace.as_str()))
}

fn reaches(rule: &Existing, namespace: &str) -> bool {
    let export = export_of(rule);
    export.is_empty() || export.contains("*") || export.contains(namespace)
}

fn age(rule: &Existing) -> Age<'_> {
    Age::new(rule.created, &rule.name, &rule.namespace)
}

fn place_of(rule: &Existing) -> (&str, &str) {
    (&rule.namespace, &rule.name)
}

impl Neighbourhood {
    /// Namespaces whose clients may have something of their own of the rules.
    pub(super) fn namespaces_of_rules(&self, callee: &Callee) -> BTreeSet<String> {
        let named = self.rules.iter().flat_map(|rule| exports(&rule.spec));
        let named = named.filter(|name| !matches!(name.as_str(), "." | "*" | "~"));
        let own = self.rules.iter().map(|rule| rule.namespace.clone());
        own.chain(named).chain([callee.namespace.clone(), self.root_namespace.clone()]).collect()
    }

    /// What the rules of a namespace select in it.
    pub(super) fn selectors_of_rules(&self, namespace: &str) -> BTreeSet<BTreeMap<String, String>> {
        self.rules.iter().filter(|rule| rule.namespace == namespace).filter_map(|rule| selector(rule)).collect()
    }
}
