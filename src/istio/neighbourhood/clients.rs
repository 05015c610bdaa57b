//! The same questions for all clients at once: every namespace that may have something of its own, every
//! selector, and everybody else, without naming the namespaces that have nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde_json::Value;

use super::{Callee, Client, Neighbourhood, RouteOwner, Why, is_same};
use crate::istio::Existing;

/// Some clients. What their Sidecars hide from them is left aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clients {
    /// Of this namespace; `None`: of all.
    pub namespace: Option<String>,
    /// Whose pods have these labels; none: all.
    pub labels: BTreeMap<String, String>,
    /// Some of them are meant by another answer, or are as the others.
    pub but: Vec<Self>,
}

impl Clients {
    fn which(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.labels.is_empty() {
            let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            write!(f, " labelled {}", labels.join(","))?;
        }
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " in namespace {namespace}"))
    }

    /// Whether these are among those, exceptions aside.
    fn among(&self, those: &Self) -> bool {
        self != those
            && (those.namespace.is_none() || those.namespace == self.namespace)
            && (those.labels.is_empty() || those.labels == self.labels)
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let everybody = self.namespace.is_none() && self.labels.is_empty();
        f.write_str(if everybody { "all clients" } else { "clients" })?;
        self.which(f)?;
        for (index, other) in self.but.iter().enumerate() {
            f.write_str(if index == 0 { " but those" } else { " and those" })?;
            other.which(f)?;
        }
        Ok(())
    }
}

/// Clients that have something else than an object, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation<T> {
    /// Who.
    pub clients: Clients,
    /// What they have instead; `None`: nothing.
    pub gets: Option<T>,
    /// What stands in the way, where something does; often what they have.
    pub by: Option<T>,
    /// Why.
    pub why: Why,
}

/// A rule that would count if another were not there.
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden {
    /// The rule.
    pub object: Arc<Existing>,
    /// For whom it would.
    pub clients: Clients,
    /// It says how to encrypt (`tls`, at the top or for a port): without it calls go another way.
    pub has_tls: bool,
}

impl Neighbourhood {
    /// Which clients have the traffic policy of another rule than `rule`, or none; empty: all have it.
    #[must_use]
    pub fn other_rules(&self, callee: &Callee, rule: &Existing) -> Vec<Deviation<Arc<Existing>>> {
        let deviates = |client: &Client| {
            let force = self.rules(callee, client);
            if force.policy_of.as_ref().is_some_and(|one| is_same(one, rule)) {
                return None;
            }
            let shadowed = force.shadowed.into_iter().find(|one| is_same(&one.object, rule));
            let (by, why) = shadowed.map_or((None, Why::NeverLookedAt), |one| (one.by, one.why));
            Some((force.policy_of, by, why))
        };
        tell(&self.rule_clients(callee), deviates)
    }

    /// Which clients have other routes than those of `routes` on a port, or Istio's own; empty: all have them.
    #[must_use]
    pub fn other_routes(&self, callee: &Callee, port: u16, routes: &Existing) -> Vec<Deviation<RouteOwner>> {
        let visible = Self { sidecars: Arc::default(), ..self.clone() };
        let deviates = |client: &Client| {
            let force = visible.routes(callee, port, client);
            if force.owner.as_ref().is_some_and(|one| one.is(routes)) {
                return None;
            }
            let shadowed = force.shadowed.into_iter().find(|one| one.owner.is(routes));
            let (by, why) = shadowed.map_or((None, Why::NoRoute), |one| (one.by, one.why));
            Some((force.owner, by, why))
        };
        tell(&self.route_clients(callee), deviates)
    }

    /// Which rules would count for some clients if `rule` were not there: wildcards of its namespace and of
    /// the root above all, which are not inherited but lost. Works as well for a rule that is not written yet.
    #[must_use]
    pub fn hidden_by(&self, callee: &Callee, rule: &Existing) -> Vec<Hidden> {
        let (with, without) = (self.with_if_absent(rule), self.without(rule));
        let hides = |client: &Client| {
            let now = with.rules(callee, client).merged;
            let then = without.rules(callee, client);
            let hidden = then.policy_of.or_else(|| then.merged.into_iter().next())?;
            let is_lost = now.iter().any(|one| is_same(one, rule)) && !now.iter().any(|one| is_same(one, &hidden));
            is_lost.then_some((Some(hidden), None, Why::MoreSpecific))
        };
        let found = tell::<Arc<Existing>>(&with.rule_clients(callee), hides);
        let hidden = |one: Deviation<Arc<Existing>>| {
            let object = one.gets?;
            Some(Hidden { has_tls: has_tls(&object), clients: one.clients, object })
        };
        found.into_iter().filter_map(hidden).collect()
    }

    fn with_if_absent(&self, rule: &Existing) -> Self {
        if self.rules.iter().any(|one| is_same(one, rule)) { self.clone() } else { self.with(rule.clone()) }
    }

    fn rule_clients(&self, callee: &Callee) -> Vec<(Clients, Client)> {
        let namespaces = self.namespaces_of_rules(callee);
        classes(namespaces, |namespace| namespace.map(|one| self.selectors_of_rules(one)).unwrap_or_default())
    }

    fn route_clients(&self, callee: &Callee) -> Vec<(Clients, Client)> {
        classes(self.namespaces_of_routes(callee), |_| self.labels_of_routes())
    }
}

/// One client for each kind that could differ, everybody else first.
fn classes(
    namespaces: BTreeSet<String>,
    labels: impl Fn(Option<&str>) -> BTreeSet<BTreeMap<String, String>>,
) -> Vec<(Clients, Client)> {
    let mut all = Vec::new();
    for namespace in std::iter::once(None).chain(namespaces.into_iter().map(Some)) {
        // No namespace is called so: who it is has nothing of its own.
        let of = |labels| Client { namespace: namespace.clone().unwrap_or_default(), labels: Some(labels) };
        let selected = labels(namespace.as_deref()).into_iter().filter(|labels| !labels.is_empty());
        for labels in std::iter::once(BTreeMap::new()).chain(selected) {
            let clients = Clients { namespace: namespace.clone(), labels: labels.clone(), but: Vec::new() };
            all.push((clients, of(labels)));
        }
    }
    all
}

/// What is told of whom, each only where it differs from what is told of those around.
fn tell<T: Clone + PartialEq>(
    classes: &[(Clients, Client)],
    deviates: impl Fn(&Client) -> Option<(Option<T>, Option<T>, Why)>,
) -> Vec<Deviation<T>> {
    let answers: Vec<_> = classes.iter().map(|(_, client)| deviates(client)).collect();
    // Of those around, the innermost: the classes come from the widest to the narrowest.
    let around = |index: usize| (0..index).rev().find(|outer| classes[index].0.among(&classes[*outer].0));
    let differs = |index: usize| around(index).is_none_or(|outer| answers[outer] != answers[index]);
    let mut told = Vec::new();
    for (index, ((clients, _), answer)) in classes.iter().zip(&answers).enumerate() {
        let Some((gets, by, why)) = answer.clone().filter(|_| differs(index)) else { continue };
        let inner = (index + 1..classes.len()).filter(|inner| around(*inner) == Some(index) && differs(*inner));
        let but = inner.map(|inner| classes[inner].0.clone()).collect();
        told.push(Deviation { clients: Clients { but, ..clients.clone() }, gets, by, why });
    }
    told
}

fn has_tls(rule: &Existing) -> bool {
    let is_there = |value: &Value| value.get("tls").is_some_and(|tls| !tls.is_null());
    let Some(policy) = rule.spec.get("trafficPolicy") else { return false };
    let ports = policy.get("portLevelSettings").and_then(Value::as_array).into_iter().flatten();
    is_there(policy) || ports.into_iter().any(is_there)
}
