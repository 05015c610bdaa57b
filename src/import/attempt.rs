//! Finds the largest part of what stands there that a policy can say with the same effect: tries, compares, and
//! leaves out what it was that differed.

mod beside;
mod chosen;
mod compare;
mod tell;

use std::collections::{BTreeMap, BTreeSet};

use kube::api::ObjectMeta;
use serde_json::Value;

pub(super) use chosen::Chosen;

use super::{
    Group, Sources,
    blocks::{beyond, budget, of_policy, of_routes, retries, without_defaults},
    left::{self, left},
    report::{Fate, Imported, Left, SourceFate},
    routes::{self, Place, Retry, Routes},
    rule::of_port,
};
use crate::{
    api::{Blocks, Coexistence, Mode, PortEntry, Resilience, ResilienceSpec, schema},
    istio::Existing,
    names,
    observed::Observed,
    translate::{Desired, translate},
    validate::{Settings, validate},
};

/// A part of what objects say that can be imported or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Pool,
    Detection,
    Budget,
    Routes,
}

impl Part {
    const OF_RULE: [Self; 3] = [Self::Pool, Self::Detection, Self::Budget];

    /// The block of a traffic policy, or the field of a VirtualService.
    const fn field(self) -> &'static str {
        match self {
            Self::Pool => "connectionPool",
            Self::Detection => "outlierDetection",
            Self::Budget => "retryBudget",
            Self::Routes => "http",
        }
    }
}

/// What one try came to.
struct Found {
    policy: Resilience,
    desired: Desired,
}

/// Why one try failed, each with the part whose fault it is.
type Blame = Vec<(Part, Left)>;

/// What is tried.
struct Attempt<'a> {
    namespace: &'a str,
    group: &'a Group<'a>,
    chosen: &'a Chosen,
    sources: &'a Sources<'a>,
    settings: &'a Settings,
    /// Something in the rule has no counterpart, so that it stays.
    rule_stays: bool,
}

pub(super) fn run(
    namespace: &str,
    group: &Group<'_>,
    chosen: &Chosen,
    sources: &Sources<'_>,
    settings: &Settings,
    imported: &mut Imported,
) {
    let mut attempt = Attempt { namespace, group, chosen, sources, settings, rule_stays: false };
    let mut wanted = BTreeSet::new();
    if let Some(rule) = &chosen.rule {
        let (rest, ignored) = attempt.beside_blocks(rule);
        imported.left.extend(ignored);
        attempt.rule_stays = !rest.is_empty();
        let exported = rest.iter().any(|left| left.path == "spec.exportTo");
        imported.left.extend(rest);
        if !exported {
            wanted.extend(Part::OF_RULE.into_iter().filter(|part| attempt.has(rule, *part)));
        }
    }
    if let Some(object) = &chosen.routes {
        let odd = routes::without_counterpart(&object.spec, attempt.place());
        if odd.is_empty() {
            wanted.insert(Part::Routes);
        }
        imported.left.extend(odd.iter().map(|(path, value)| {
            left(object, path, value, Fate::Stays, format!("{}{}", left::of_routes(path), left::ROUTES_STAY))
        }));
    }
    while !wanted.is_empty() {
        match attempt.once(&wanted) {
            Ok(found) => {
                attempt.tell(&wanted, found, imported);
                return;
            }
            Err(blame) => {
                if !blame.iter().any(|(part, _)| wanted.contains(part)) {
                    // Nobody's fault that is known: nothing is claimed of any.
                    wanted.clear();
                }
                for (part, _) in &blame {
                    wanted.remove(part);
                    // From now on the rule must stay for it.
                    attempt.rule_stays |= *part != Part::Routes;
                }
                for (_, left) in blame {
                    if !imported.left.contains(&left) {
                        imported.left.push(left);
                    }
                }
            }
        }
    }
    for object in chosen.rule.iter().chain(&chosen.routes) {
        imported.source(object, SourceFate::Stays);
        let silent = left(object, "spec", &Value::Null, Fate::Stays, left::SAYS_NOTHING);
        if imported.left.iter().all(|left| left.object != silent.object) {
            imported.left.push(silent);
        }
    }
}

impl Attempt<'_> {
    fn place(&self) -> Place<'_> {
        Place { namespace: self.namespace, host: &self.group.host, cluster_domain: &self.settings.cluster_domain }
    }

    /// Whether the rule has a block, at the top or for a port.
    fn has(&self, rule: &Existing, part: Part) -> bool {
        let ports = self.group.service.ports.iter().map(|port| Some(port.number));
        let is_set = |policy: Value| policy.get(part.field()).is_some_and(|block| !block.is_null());
        ports.chain([None]).any(|port| is_set(of_port(&rule.spec, port)))
    }

    /// One policy with these parts, or whose fault it is that there is none.
    fn once(&self, wanted: &BTreeSet<Part>) -> Result<Found, Blame> {
        let policy = Resilience {
            metadata: ObjectMeta {
                name: Some(names::generated_name(self.group.target)),
                namespace: Some(self.namespace.to_owned()),
                ..ObjectMeta::default()
            },
            spec: self.spec(wanted)?,
            status: None,
        };
        let ResilienceSpec { limits, ejection, timeouts, retries, ports, .. } = &policy.spec;
        if limits.is_none() && ejection.is_none() && timeouts.is_none() && retries.is_none() && ports.is_empty() {
            return Err(self.blame_silent(wanted));
        }
        let faults = schema::faults(&serde_json::to_value(&policy).unwrap_or_default());
        if !faults.is_empty() {
            return Err(self.blame_all(wanted, &faults));
        }
        let observed = self.without_theirs(wanted, (self.sources.observe)(&policy));
        let valid = validate(&policy, &observed, self.settings).map_err(|refusal| self.refused(wanted, refusal))?;
        if !valid.unknowns.is_empty() {
            return Err(self.blame_all(wanted, &valid.unknowns));
        }
        let desired = translate(&valid);
        let mut blame = self.compare_rules(wanted, &desired);
        blame.extend(self.compare_routes(wanted, &desired));
        if blame.is_empty() { Ok(Found { policy, desired }) } else { Err(blame) }
    }

    fn merges(&self, wanted: &BTreeSet<Part>) -> bool {
        self.rule_stays && Part::OF_RULE.iter().any(|part| wanted.contains(part))
    }

    /// The spec in which these parts stand.
    fn spec(&self, wanted: &BTreeSet<Part>) -> Result<ResilienceSpec, Blame> {
        let merges = self.merges(wanted);
        let said = self.chosen.rule.as_ref().map(|rule| rule.spec.clone()).unwrap_or_default();
        let of_rule = |port: Option<u16>| {
            let mut blocks = of_policy(&of_port(&said, port));
            if !wanted.contains(&Part::Pool) {
                (blocks.limits, blocks.timeouts) = (None, None);
            }
            if !wanted.contains(&Part::Detection) {
                blocks.ejection = None;
            }
            if let Some(ejection) = blocks.ejection.as_mut().filter(|_| merges) {
                // Stands in loadBalancer, which stays its owner's.
                ejection.locality_failover = None;
            }
            blocks
        };
        let http = self.group.service.http_ports();
        let mut of_ports = BTreeMap::new();
        if wanted.contains(&Part::Routes) {
            for (port, routes) in self.routes(&http) {
                let blocks = of_routes(&routes).ok_or_else(|| vec![self.blame_routes(port, &routes)])?;
                of_ports.insert(port, blocks);
            }
        }
        let mut common = of_rule(None);
        let mut shapes = of_ports.values();
        if let Some(first) = shapes.next().filter(|first| shapes.all(|other| other == *first)) {
            common = joined(&common, first);
        }
        if wanted.contains(&Part::Budget) {
            self.add_budget(&said, &mut common)?;
        }
        let ports = self.group.service.ports.iter().filter_map(|port| {
            let mut full = of_rule(Some(port.number));
            if let Some(routes) = of_ports.get(&port.number) {
                full = joined(&full, routes);
            }
            let Blocks { limits, ejection, timeouts, retries } = beyond(&full, &common);
            let entry = PortEntry { port: port.number, limits, ejection, timeouts, retries };
            (entry.blocks() != Blocks::default()).then_some(entry)
        });
        let ports = ports.collect();
        without_defaults(&mut common);
        let Blocks { limits, ejection, timeouts, retries } = common;
        Ok(ResilienceSpec {
            target_refs: vec![self.group.target.clone()],
            mode: Mode::Enforce,
            coexistence: if merges { Coexistence::Merge } else { Coexistence::Refuse },
            limits,
            ejection,
            timeouts,
            retries,
            ports,
        })
    }

    /// A budget stands among retries, which must be said then: Istio's own, where nobody has said any.
    fn add_budget(&self, said: &Value, common: &mut Blocks) -> Result<(), Blame> {
        let fault = |message: &str| {
            let rule = self.chosen.rule.iter();
            rule.map(|rule| {
                let value = said.pointer("/trafficPolicy/retryBudget").cloned().unwrap_or_default();
                (Part::Budget, left(rule, "spec.trafficPolicy.retryBudget", &value, Fate::CannotBeImported, message))
            })
            .collect::<Blame>()
        };
        let Some(budget) = budget(&of_port(said, None)) else {
            return Err(fault("a policy's budget is a whole percentage from 1 to 100"));
        };
        if common.retries.is_none() {
            if self.chosen.routes_stay || self.chosen.routes.is_some() {
                return Err(fault(
                    "stands beside retries.attempts in a policy, and the retries of this host stand in a VirtualService that stays, or differ by port",
                ));
            }
            common.retries = retries(&Retry::unsaid());
        }
        if let Some(retries) = &mut common.retries {
            retries.budget = Some(budget);
        }
        Ok(())
    }

    /// As it will be when what is replaced is gone.
    fn without_theirs(&self, wanted: &BTreeSet<Part>, mut observed: Observed) -> Observed {
        let mut gone: Vec<&Existing> = Vec::new();
        if let Some(rule) = self.chosen.rule.as_deref().filter(|_| !self.rule_stays) {
            gone.push(rule);
        }
        if let Some(routes) = self.chosen.routes.as_deref().filter(|_| wanted.contains(&Part::Routes)) {
            gone.push(routes);
        }
        let is_gone = |object: &Existing| {
            gone.iter()
                .any(|one| (one.kind, &one.namespace, &one.name) == (object.kind, &object.namespace, &object.name))
        };
        observed.existing.retain(|object| !is_gone(object));
        observed.neighbourhood.rules.retain(|object| !is_gone(object));
        observed.neighbourhood.virtual_services.retain(|object| !is_gone(object));
        observed.rivals.clear();
        observed
    }

    fn routes(&self, http: &[u16]) -> Routes {
        routes::of_spec(self.chosen.routes.as_ref().map(|object| &object.spec), http, self.place())
    }
}

/// Blocks of a rule and blocks of routes, which have no field in common.
fn joined(rule: &Blocks, routes: &Blocks) -> Blocks {
    let mut all = routes.over(rule);
    all.retries.clone_from(&routes.retries);
    all
}

/// As a server-side apply: maps are merged.
fn merge(there: &mut Value, applied: &Value) {
    match (there, applied) {
        (Value::Object(there), Value::Object(applied)) => {
            for (key, value) in applied {
                merge(there.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (there, applied) => there.clone_from(applied),
    }
}
