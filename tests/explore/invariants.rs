//! What must hold at every moment, whatever went wrong.

use std::collections::BTreeMap;

use resilience_operator::names::{LABEL_CO_OWNER_UID, LABEL_OWNER_UID};
use serde_json::Value;

use crate::{
    fake::State,
    reconcile::{DR, POLICIES, VS},
};

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"][name].as_str()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// What does not hold after the last change, which the user made, or the operator.
pub fn broken(state: &State, by_user: bool) -> Vec<String> {
    let mut broken = Vec::new();
    one_rule_a_host(state, &mut broken);
    if !by_user {
        owned_by_a_policy_that_was_there(state, &mut broken);
        only_what_is_there_is_claimed(state, &mut broken);
        rule_before_routes(state, &mut broken);
        what_is_foreign_is_left_alone(state, &mut broken);
    }
    broken
}

fn one_rule_a_host(state: &State, broken: &mut Vec<String>) {
    let mut hosts = BTreeMap::<String, usize>::new();
    for rule in state.all(DR).into_iter().filter(|rule| label(rule, LABEL_OWNER_UID).is_some()) {
        *hosts.entry(rule["spec"]["host"].to_string()).or_default() += 1;
    }
    broken
        .extend(hosts.iter().filter(|(_, rules)| **rules > 1).map(|(host, _)| format!("two rules of ours for {host}")));
}

fn owned_by_a_policy_that_was_there(state: &State, broken: &mut Vec<String>) {
    for plural in ["sidecars", DR, VS] {
        for object in state.all(plural) {
            let Some(uid) = label(object, LABEL_OWNER_UID) else { continue };
            let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            let known = state.versions(POLICIES).any(|policy| policy["metadata"]["uid"] == uid);
            if !known || !owners.iter().any(|owner| owner["uid"] == uid) {
                broken.push(format!("{plural}/{} has no owner", name(object)));
            }
        }
    }
}

/// A policy that says that it is programmed: each object that it names is there, or the user has taken it
/// away; and once had the limit of that very generation.
fn only_what_is_there_is_claimed(state: &State, broken: &mut Vec<String>) {
    let Some((POLICIES, policy)) = state.last_change() else { return };
    let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let programmed = conditions.iter().find(|one| one["type"] == "Programmed" && one["status"] == "True");
    let Some(programmed) = programmed else { return };
    let uid = &policy["metadata"]["uid"];
    for generated in policy["status"]["targets"][0]["generated"].as_array().into_iter().flatten() {
        let plural = match generated["kind"].as_str() {
            Some("DestinationRule") => DR,
            Some("VirtualService") => VS,
            _ => "sidecars",
        };
        let called = generated["name"].as_str().unwrap_or_default();
        let mark = if generated["ownership"] == "CoOwned" { LABEL_CO_OWNER_UID } else { LABEL_OWNER_UID };
        let ours = |object: &Value| name(object) == called && object["metadata"]["labels"][mark] == *uid;
        let ever: Vec<&Value> = state.versions(plural).filter(|object| ours(object)).collect();
        if ever.is_empty() {
            broken.push(format!("{} claims {plural}/{called}, which never was", name(policy)));
        } else if !state.find(plural, called).is_some_and(ours) && !state.touched_by_user(plural) {
            broken.push(format!("{} claims {plural}/{called}, which is not there", name(policy)));
        }
        let generation = &programmed["observedGeneration"];
        let of_it = |one: &&Value| one["metadata"]["uid"] == *uid && one["metadata"]["generation"] == *generation;
        let limit = state
            .versions(POLICIES)
            .find(of_it)
            .map(|one| one["spec"]["limits"]["perClient"]["activeRequests"].clone());
        let has = |rule: &&Value| {
            limit.as_ref() == Some(&rule["spec"]["trafficPolicy"]["connectionPool"]["http"]["http2MaxRequests"])
        };
        if plural == DR && limit.as_ref().is_some_and(|limit| !limit.is_null()) && !ever.iter().any(has) {
            broken.push(format!("{} claims generation {generation}, which never was in its rule", name(policy)));
        }
    }
}

/// The other way round when they go.
fn rule_before_routes(state: &State, broken: &mut Vec<String>) {
    if state.touched_by_user(DR) {
        return;
    }
    for routes in state.all(VS) {
        let Some(uid) = label(routes, LABEL_OWNER_UID) else { continue };
        let rule =
            |rule: &&Value| [LABEL_OWNER_UID, LABEL_CO_OWNER_UID].iter().any(|mark| label(rule, mark) == Some(uid));
        if !state.all(DR).iter().any(rule) {
            broken.push(format!("{VS}/{} is there without its rule", name(routes)));
        }
    }
}

fn what_is_foreign_is_left_alone(state: &State, broken: &mut Vec<String>) {
    let Some((plural, now)) = state.last_change() else { return };
    if plural == POLICIES || !["sidecars", DR, VS].contains(&plural) {
        return;
    }
    let before = state.versions(plural).rev().skip(1).find(|one| one["metadata"]["uid"] == now["metadata"]["uid"]);
    let is_ours = |object: &Value| label(object, LABEL_OWNER_UID).is_some();
    if before.is_some_and(|before| !is_ours(before)) && (is_ours(now) || state.find(plural, name(now)).is_none()) {
        broken.push(format!("{plural}/{} is somebody else's, and was taken", name(now)));
    }
}
