//! Of the objects that speak of a host, those that count for it.

use std::sync::Arc;

use serde_json::Value;

use super::super::{
    Group,
    left::{self, left},
    report::{Fate, Imported},
};
use crate::{istio::Existing, names};

/// The objects that count for the host.
pub(in super::super) struct Chosen {
    pub(super) rule: Option<Arc<Existing>>,
    pub(super) routes: Option<Arc<Existing>>,
    /// Routes of somebody else stay for the host.
    pub(super) routes_stay: bool,
}

impl Chosen {
    /// Of all objects that speak of the host those that decide; the others are told of.
    pub(in super::super) fn among(group: &Group<'_>, imported: &mut Imported) -> Self {
        let mut free = |objects: &[Arc<Existing>]| -> Vec<Arc<Existing>> {
            let mut free = Vec::new();
            for object in objects {
                match left::untouchable(object) {
                    Some(left) => imported.stays(object, left),
                    None => free.push(object.clone()),
                }
            }
            free
        };
        let (mut rules, mut routes) = (free(&group.rules), free(&group.routes));
        let untouched = group.routes.iter().filter(|object| !routes.iter().any(|one| one.name == object.name));
        let mut routes_stay = untouched.clone().any(|object| object.binds_mesh());
        let mut leave = |object: &Arc<Existing>, others: bool| {
            let copy = others && object.is_generated() && object.name == names::generated_name(group.target);
            if copy {
                let message = "is a copy that a hand-over left which did not come to its end: Istio ignores it beside the older one; `import --adopt` goes on";
                imported.left.push(left(object, "metadata.name", &object.name.clone().into(), Fate::Ignored, message));
            }
            !copy
        };
        let (several_rules, several_routes) = (rules.len() > 1, routes.len() > 1);
        rules.retain(|object| leave(object, several_rules));
        routes.retain(|object| leave(object, several_routes));
        let (with, without): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.has_traffic_policy());
        for rule in &without {
            let message = "has no traffic policy: it stays for its subsets, beside what is generated";
            imported.stays(rule, left(rule, "spec.subsets", &Value::Null, Fate::Stays, message));
        }
        routes.retain(|object| {
            if object.binds_mesh() {
                return true;
            }
            let gateways = object.spec.get("gateways").cloned().unwrap_or_default();
            let message = left::of_routes("spec.gateways");
            imported.stays(object, left(object, "spec.gateways", &gateways, Fate::Stays, message));
            false
        });
        routes_stay |= routes.len() > 1;
        Self { rule: only(with, imported), routes: only(routes, imported), routes_stay }
    }
}

/// Of several, which one counts hangs on their ages.
fn only(mut objects: Vec<Arc<Existing>>, imported: &mut Imported) -> Option<Arc<Existing>> {
    if objects.len() < 2 {
        return objects.pop();
    }
    let all: Vec<String> = objects.iter().map(|object| object.whole()).collect();
    for object in &objects {
        let message =
            format!("{} have one host, and Istio heeds the oldest alone: make one of them first", all.join(" and "));
        imported
            .stays(object, left(object, "metadata.name", &object.name.clone().into(), Fate::CannotBeImported, message));
    }
    None
}
