//! Rules for the host that are elsewhere, or by wildcard, or for some clients: which clients do not get
//! ours, and what ours takes from them.

use serde_json::{Value, json};

use super::super::Valid;
use crate::istio::{
    Existing, Kind,
    neighbourhood::{Callee, Neighbourhood},
};

/// Where rules of others leave ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Rules {
    /// Clients that have another rule, and that rule.
    pub(in super::super) others: Vec<(String, String)>,
    /// Clients that have no rule at all, and the rule by which that is so.
    pub(in super::super) none: Vec<(String, String)>,
    /// Rules that would count for some clients if ours were not there.
    pub(in super::super) hidden: Vec<Hidden>,
}

/// A rule that ours hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Hidden {
    /// Its kind, place and host.
    pub(in super::super) rule: String,
    /// Whom it is lost for.
    pub(in super::super) clients: String,
    /// What of it is lost, by the names of its fields.
    pub(in super::super) lost: Vec<String>,
    /// It says how calls are encrypted.
    pub(in super::super) has_tls: bool,
}

/// Looks as if ours were there; `ours` is the one that is. Whether it is must decide nothing: else what is
/// decided would change with what it makes.
pub(super) fn look(valid: &Valid, name: &str, around: &Neighbourhood, ours: Option<&Existing>) -> Rules {
    // As it is for most: then nobody gets another's, and ours hides none.
    if around.rules.is_empty() {
        return Rules::default();
    }
    let callee = callee(valid);
    // Only the presence of a traffic policy matters.
    let rule = would_be(Kind::DestinationRule, valid, name, ours, json!({"host": valid.host, "trafficPolicy": {}}));
    let around = around.with(rule.clone());
    let mut rules = deviating(&callee, &rule, &around);
    for hidden in around.hidden_by(&callee, &rule) {
        let host = hidden.object.hosts(&around.cluster_domain).join(", ");
        rules.hidden.push(Hidden {
            rule: format!("{} with host {host}", hidden.object.whole()),
            clients: hidden.clients.to_string(),
            lost: lost(&hidden.object.spec),
            has_tls: hidden.has_tls,
        });
    }
    rules
}

/// Likewise where our blocks are to stand in somebody else's rule of that name. What it hides, it hides
/// without us.
pub(super) fn look_beside(valid: &Valid, holder: &str, around: &Neighbourhood) -> Rules {
    let here = |rule: &&std::sync::Arc<Existing>| rule.namespace == valid.owner.namespace && rule.name == holder;
    // It has a traffic policy once our blocks are in it.
    let Some(rule) = around.rules.iter().find(here) else { return Rules::default() };
    let mut rule = Existing::clone(rule);
    if let Value::Object(spec) = &mut rule.spec {
        spec.entry("trafficPolicy").or_insert_with(|| json!({}));
    }
    let around = around.with(rule.clone());
    deviating(&callee(valid), &rule, &around)
}

/// Which clients have another rule, or none.
fn deviating(callee: &Callee, rule: &Existing, around: &Neighbourhood) -> Rules {
    let mut rules = Rules::default();
    for deviation in around.other_rules(callee, rule) {
        let clients = deviation.clients.to_string();
        match (&deviation.gets, &deviation.by) {
            (Some(other), _) => rules.others.push((clients, other.whole())),
            (None, Some(other)) => rules.none.push((clients, other.whole())),
            (None, None) => {}
        }
    }
    rules
}

/// What is called, as the neighbourhood asks for it.
pub(super) fn callee(valid: &Valid) -> Callee {
    Callee {
        host: valid.host.clone(),
        namespace: valid.owner.namespace.clone(),
        name: valid.target.name.clone(),
        is_entry: valid.target.kind == crate::api::TargetKind::ServiceEntry,
        http_ports: valid.routes.clone(),
        ..Callee::default()
    }
}

/// An object of ours as it counts, with the age of the one that is there; not there yet, it will be the
/// youngest.
pub(super) fn would_be(kind: Kind, valid: &Valid, name: &str, ours: Option<&Existing>, spec: Value) -> Existing {
    let meta = kube::core::ObjectMeta {
        namespace: Some(valid.owner.namespace.clone()),
        name: Some(name.to_owned()),
        ..kube::core::ObjectMeta::default()
    };
    Existing { created: ours.and_then(|ours| ours.created), ..Existing::new(kind, &meta, spec) }
}

/// Parts of a rule that act on clients.
fn lost(spec: &Value) -> Vec<String> {
    let fields = |value: Option<&Value>| {
        let fields = value.and_then(Value::as_object).into_iter().flatten();
        fields.filter(|(_, value)| !value.is_null()).map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    let mut lost = fields(spec.get("trafficPolicy"));
    if spec.get("subsets").and_then(Value::as_array).is_some_and(|subsets| !subsets.is_empty()) {
        lost.push("subsets".to_owned());
    }
    lost
}
