//! `coexistence: Merge`: somebody else's DestinationRule that can hold our blocks, or why it cannot.

use serde_json::Value;

use super::{
    Policy, Settings, Valid,
    neighbours::{Wants, first, is_ours},
};
use crate::{
    api::{Coexistence, LocalityFailover, ResilienceSpec},
    istio::{Existing, Handler, Kind},
    names,
};

/// The rule that is to hold our blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Its name; its namespace is the policy's.
    pub name: String,
    /// Names of its subsets. Each is a cluster of its own in every proxy and counts by itself.
    pub subsets: Vec<String>,
    /// What in it keeps our blocks from some clients; the sentence names field and object.
    pub narrowed: Option<String>,
}

/// The rule that is to hold our blocks; `None` where ours are to stand in a rule of our own.
///
/// # Errors
/// The sentence for a rule that cannot hold them: whose it is, why, and what to do.
pub(super) fn find(
    spec: &ResilienceSpec,
    valid: &Valid,
    wants: Wants,
    existing: &[Existing],
    settings: &Settings,
) -> Result<Option<Merge>, String> {
    if spec.coexistence == Coexistence::Refuse || !wants.rule {
        return Ok(None);
    }
    let candidates: Vec<&Existing> = existing
        .iter()
        .filter(|object| {
            object.kind == Kind::DestinationRule
                && !is_ours(object, &valid.owner)
                && object.is_for(&valid.host, &settings.cluster_domain)
                && !object.has_workload_selector()
        })
        .collect();
    let Some(rule) = in_force(&candidates) else { return Ok(None) };
    let whole = rule.whole();
    if let Some(other) = candidates.iter().find(|other| other.export_to() != rule.export_to()) {
        return Err(format!(
            "{whole} and {} both have host {} with unequal exportTo, so that it hangs on their ages whose traffic policy a client gets: make one rule of the two",
            other.whole(),
            valid.host
        ));
    }
    let faults = faults(spec, valid, rule);
    if !faults.is_empty() {
        let host = &valid.host;
        return Err(format!(
            "{whole} has host {host}, and this policy cannot be merged into it: {}",
            faults.join("; ")
        ));
    }
    let narrowed = narrowed(rule);
    Ok(Some(Merge { name: rule.name.clone(), subsets: subsets(rule).map(|(name, _)| name).collect(), narrowed }))
}

/// Of several rules for one host that are exported alike, the one whose traffic policy counts: the oldest
/// that has one (measured M3). Ours in an older one without would take its place (claim R1.3c).
fn in_force<'a>(rules: &[&'a Existing]) -> Option<&'a Existing> {
    let oldest = |such: &dyn Fn(&Existing) -> bool| {
        let rules = rules.iter().copied().filter(|rule| such(rule));
        rules.reduce(|one, other| if first(other, one) { other } else { one })
    };
    oldest(&Existing::has_policy_of_others).or_else(|| oldest(&|_| true))
}

fn faults(spec: &ResilienceSpec, valid: &Valid, rule: &Existing) -> Vec<String> {
    let mut faults = Vec::new();
    let generated = rule.labels.contains_key(names::LABEL_OWNER_UID)
        || rule.owners.iter().any(|owner| owner.kind == names::KIND && owner.api_version.starts_with(names::GROUP));
    if generated {
        faults.push("it was generated from another Resilience; delete one of the two".to_owned());
    }
    if let Some(Handler::Flagger { canary }) = &rule.handler {
        let canary = canary.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        faults.push(format!(
            "Flagger writes the whole of it anew from its Canary{canary}; put limits and ejection into spec.service.trafficPolicy there and delete this object"
        ));
    }
    let ports = shadowed_ports(rule);
    if !ports.is_empty() {
        faults.push(format!(
            "its portLevelSettings take the place of all that stands above them for port {}; state limits and ejection in those entries, or move them to the top",
            ports.join(", ")
        ));
    }
    let blocks = valid.common.blocks();
    for (name, policy) in subsets(rule) {
        let mut own: Vec<&str> = blocks.iter().copied().filter(|block| is_set(policy, block)).collect();
        own.extend(is_set(policy, "portLevelSettings").then_some("portLevelSettings"));
        if !own.is_empty() {
            faults.push(format!(
                "its subset {name} has {} of its own, which takes the place of ours; take it out of the subset",
                own.join(" and ")
            ));
        }
    }
    for (at, entry) in spec.ports.iter().enumerate() {
        if valid.ports.get(&entry.port).is_some_and(|policy| !policy.same_rule(&valid.common)) {
            faults.push(format!(
                "spec.ports[{at}]: limits, ejection and times of connections of a port stand in a list that has one owner; leave them out of the entry, or move all of that rule here and delete it"
            ));
        }
    }
    if disables_failover(&valid.common) {
        faults.push(
            "spec.ejection.localityFailover: stands in loadBalancer, which is its owner's; set localityLbSetting.enabled to false there and leave the field out"
                .to_owned(),
        );
    }
    faults
}

fn disables_failover(policy: &Policy) -> bool {
    let failover = policy.ejection.as_ref().and_then(|ejection| ejection.locality_failover);
    failover == Some(LocalityFailover::Disabled)
}

/// Ports with an entry of their own, which inherits nothing (measured M55).
fn shadowed_ports(rule: &Existing) -> Vec<String> {
    let entries = rule.spec.pointer("/trafficPolicy/portLevelSettings").and_then(Value::as_array);
    let number = |entry: &Value| entry.pointer("/port/number").map_or_else(|| "unset".to_owned(), Value::to_string);
    entries.into_iter().flatten().map(number).collect()
}

fn subsets(rule: &Existing) -> impl Iterator<Item = (String, &Value)> {
    let subsets = rule.spec.get("subsets").and_then(Value::as_array).into_iter().flatten();
    subsets.map(|subset| {
        let name = subset.get("name").and_then(Value::as_str).unwrap_or_default();
        (name.to_owned(), subset.get("trafficPolicy").unwrap_or(&Value::Null))
    })
}

fn is_set(policy: &Value, block: &str) -> bool {
    policy.get(block).is_some_and(|value| !value.is_null())
}

/// All namespaces see a rule without `exportTo`, unless the mesh says otherwise, as they see ours.
fn narrowed(rule: &Existing) -> Option<String> {
    let export_to = rule.export_to();
    let narrow = !export_to.is_empty() && !export_to.iter().any(|namespace| namespace == "*");
    narrow.then(|| {
        format!(
            "{} has exportTo {}: clients elsewhere get neither it nor what stands in it; it is its owner's field and stays",
            rule.whole(),
            export_to.join(", ")
        )
    })
}
