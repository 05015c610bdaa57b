//! What is counted of policies, and told when somebody scrapes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::{
    cache::Entry,
    keys::Keys,
    lag,
    lag::Lag,
    world::{Policy, World},
};
use crate::{
    api::{
        Resilience, ResilienceStatus,
        conditions::{self, Reason},
        warnings::Code,
    },
    runtime::metrics::{Tally, limits::Limit},
};

/// The operator's own conditions; `Verified` among them, which it derives.
const CONDITIONS: [&str; 6] = [
    conditions::ACCEPTED,
    conditions::PROGRAMMED,
    conditions::IN_EFFECT,
    conditions::READY,
    conditions::STALLED,
    conditions::VERIFIED,
];
const UNKNOWN: &str = "Unknown";
const STATUSES: [&str; 3] = ["True", "False", UNKNOWN];
/// Of another version of the operator, or of somebody who writes the status: not put into a label.
const OTHER: &str = "Other";

/// What a policy counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// It has a condition of that type, status and reason; without a reason: it has none of that type.
    Condition(&'static str, &'static str, Option<&'static str>),
    /// Its status has a warning of that code, of one port or of several.
    Warning(Code),
    /// Its status speaks of an older generation than it has.
    Unobserved,
}

/// Tells what a policy counts as.
pub fn marks(policy: &Entry<Policy>, tell: &mut dyn FnMut(Mark)) {
    if lag::is_unobserved(Some(policy)) {
        tell(Mark::Unobserved);
    }
    let status = policy.view.readable().and_then(|policy| policy.status.as_ref());
    let conditions = status.map(|status| &status.conditions[..]).unwrap_or_default();
    for kind in CONDITIONS {
        let Some(condition) = conditions.iter().find(|condition| condition.type_ == kind) else {
            tell(Mark::Condition(kind, UNKNOWN, None));
            continue;
        };
        let Some(has) = STATUSES.into_iter().find(|one| *one == condition.status) else { continue };
        let reason = Reason::ALL.into_iter().map(Reason::as_str).find(|one| *one == condition.reason);
        tell(Mark::Condition(kind, has, Some(reason.unwrap_or(OTHER))));
    }
    let codes: BTreeSet<Code> = status.iter().flat_map(|status| &status.warnings).map(|warning| warning.code).collect();
    for code in codes {
        tell(Mark::Warning(code));
    }
}

/// Adds up what has been counted as policies came and went: what a scrape takes does not grow with them.
pub fn tally(world: &World, keys: &Keys, lag: &Lag) -> Tally {
    let pairs = CONDITIONS.into_iter().flat_map(|kind| STATUSES.map(|status| (kind, status)));
    let mut by_status: BTreeMap<(&str, &str), i64> = pairs.map(|pair| (pair, 0)).collect();
    let mut by_code: BTreeMap<Code, i64> = Code::ALL.into_iter().map(|code| (code, 0)).collect();
    let (mut reasons, mut unobserved) = (Vec::new(), 0);
    for (mark, count) in world.policies.marks() {
        let count = number(count);
        match mark {
            Mark::Condition(kind, status, reason) => {
                *by_status.entry((kind, status)).or_default() += count;
                reasons.extend(reason.map(|reason| (kind, status, reason, count)));
            }
            Mark::Warning(code) => {
                by_code.insert(code, count);
            }
            Mark::Unobserved => unobserved = count,
        }
    }
    let queue = keys.waiting();
    let queued = queue.len();
    Tally {
        conditions: by_status.into_iter().map(|((kind, status), number)| (kind, status, number)).collect(),
        reasons,
        warnings: by_code.into_iter().map(|(code, number)| (code.to_string(), number)).collect(),
        unobserved,
        unobserved_age: longest_unobserved(world, queue, lag).map_or(Duration::ZERO, |since| since.elapsed()),
        queue: number(queued),
    }
}

/// Since when the one waits that waits longest for a status as new as it is: since its turn came, if it has.
fn longest_unobserved(world: &World, queue: HashMap<(String, String), Instant>, lag: &Lag) -> Option<Instant> {
    let mut since = queue;
    since.extend(lag.waiting());
    let mut since: Vec<_> = since.into_iter().map(|(place, since)| (since, place)).collect();
    since.sort_unstable();
    let is_unobserved =
        |(namespace, name): &(String, String)| lag::is_unobserved(world.policies.get(namespace, name).as_deref());
    since.into_iter().find(|(_, place)| is_unobserved(place)).map(|(since, _)| since)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What the policies that are Programmed allow each client, by port of their target.
pub fn limits(world: &World) -> Vec<Limit> {
    let mut limits = Vec::new();
    for entry in world.policies.all() {
        let Some(policy) = entry.view.readable().filter(|policy| is_programmed(policy)) else { continue };
        let Some(target) = policy.spec.target_refs.first() else { continue };
        let (service, host) = (world.target(&entry.namespace, target), world.host(&entry.namespace, target));
        let (Some(service), Some(host)) = (service, host) else { continue };
        for port in &service.view.ports {
            for limit in ["connections", "pendingRequests", "activeRequests"] {
                let Some(value) = policy.status.as_ref().and_then(|status| allowed(status, port.number, limit)) else {
                    continue;
                };
                limits.push(Limit {
                    namespace: entry.namespace.clone(),
                    policy: entry.name.clone(),
                    host: host.clone(),
                    port: port.number,
                    limit,
                    value,
                });
            }
        }
    }
    limits
}

/// As it is now: of an older generation nothing is known.
fn is_programmed(policy: &Resilience) -> bool {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        condition.type_ == conditions::PROGRAMMED
            && condition.status == "True"
            && condition.observed_generation == policy.metadata.generation
    })
}

/// What `status.effective` says for a port. A port with an entry of its own has whole blocks of its own
/// (`ports[N].…`, inherited values among them), and nothing of the others.
fn allowed(status: &ResilienceStatus, port: u16, limit: &str) -> Option<i64> {
    let own = format!("ports[{port}].");
    let has_own = status.effective.iter().any(|value| value.path.starts_with(&own));
    let path = format!("{}limits.perClient.{limit}", if has_own { own.as_str() } else { "" });
    status.effective.iter().find(|value| value.path == path)?.value.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::atomic::Ordering};

    use kube::core::DeserializeGuard;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::{EffectiveValue, Origin},
        controller::world,
        names,
    };

    fn policy(namespace: &str, name: &str, version: u64, status: &Value) -> Entry<Policy> {
        let policy = json!({
            "apiVersion": names::API_VERSION, "kind": names::KIND,
            "metadata": {
                "name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"), "generation": 2,
                "resourceVersion": version.to_string(),
            },
            "spec": {"targetRefs": [{"kind": "Service", "name": name}], "timeouts": {"connect": "1s"}},
            "status": status,
        });
        world::policy(serde_json::from_value::<DeserializeGuard<_>>(policy).unwrap())
    }

    fn status(observed: i64, ready: [&str; 2], codes: &[&str]) -> Value {
        let warnings = codes.iter().map(|code| json!({"code": code, "path": "limits", "message": "why"}));
        json!({
            "observedGeneration": observed,
            "conditions": [{
                "type": "Ready", "status": ready[0], "reason": ready[1], "message": "", "observedGeneration": observed,
                "lastTransitionTime": "2026-11-24T08:00:00Z",
            }],
            "warnings": warnings.collect::<Vec<_>>(),
        })
    }

    #[test]
    fn policies_are_counted_by_condition_reason_and_warning_and_the_one_that_waits_longest_gives_the_age() {
        let (world, lag) = (World::default(), Lag::default());
        let (keys, _queue) = Keys::new();
        world.policies.put(policy("ns", "a", 1, &status(2, ["True", "Ready"], &["RES010", "RES010", "RES020"])));
        world.policies.put(policy("ns", "b", 1, &status(1, ["False", "of a version to come"], &["RES010"])));
        world.policies.put(policy("ns", "c", 1, &Value::Null));
        let minute = Instant::now().checked_sub(Duration::from_mins(1)).unwrap();
        // It waits no more.
        lag.begin(("ns", "a"), true, minute.checked_sub(Duration::from_hours(1)).unwrap());
        lag.begin(("ns", "b"), true, minute);
        lag.begin(("ns", "c"), true, Instant::now());
        let tally = tally(&world, &keys, &lag);
        assert_eq!(world.policies.visited.load(Ordering::Relaxed), 0, "no policy is opened to be counted");
        let of_ready: Vec<_> = tally.conditions.iter().filter(|(kind, ..)| *kind == "Ready").collect();
        assert_eq!(of_ready, [&("Ready", "False", 1), &("Ready", "True", 1), &("Ready", "Unknown", 1)]);
        assert!(tally.conditions.contains(&("Accepted", "Unknown", 3)), "{tally:?}");
        assert_eq!(tally.reasons, [("Ready", "False", "Other", 1), ("Ready", "True", "Ready", 1)]);
        let warnings: Vec<_> = tally.warnings.iter().filter(|(_, number)| *number > 0).cloned().collect();
        assert_eq!(warnings, [("RES010".to_owned(), 2), ("RES020".to_owned(), 1)]);
        assert!(tally.warnings.contains(&("RES011".to_owned(), 0)), "what nobody has is told as none");
        assert_eq!(tally.unobserved, 2);
        assert!((60..3_600).contains(&tally.unobserved_age.as_secs()), "{:?}", tally.unobserved_age);
    }

    fn any_status() -> impl Strategy<Value = Value> {
        let ready = prop_oneof![Just(["True", "Ready"]), Just(["False", "Pending"]), Just(["Unknown", "whatever"])];
        let codes = prop::sample::subsequence(vec!["RES010", "RES020", "RES030"], 0..=3);
        let some = (1..=2_i64, ready, codes).prop_map(|(observed, ready, codes)| status(observed, ready, &codes));
        prop_oneof![1 => Just(Value::Null), 4 => some]
    }

    proptest! {
        #[test]
        fn after_whatever_comes_changes_and_goes_the_marks_are_those_of_what_is_there(
            changes in prop::collection::vec((0..3_usize, prop::option::weighted(0.8, any_status())), 0..40),
        ) {
            let world = World::default();
            for (version, (name, status)) in (1..).zip(changes) {
                let name = ["a", "b", "c"][name];
                match status {
                    Some(status) if version % 2 == 0 => drop(world.policies.put_own(policy("ns", name, version, &status))),
                    Some(status) => drop(world.policies.put(policy("ns", name, version, &status))),
                    None => drop(world.policies.remove("ns", name, &format!("ns-{name}"), Some(0))),
                }
            }
            let mut anew = BTreeMap::new();
            for policy in world.policies.all() {
                marks(&policy, &mut |mark| *anew.entry(mark).or_insert(0_usize) += 1);
            }
            prop_assert_eq!(world.policies.marks(), anew);
        }
    }

    #[test]
    fn what_a_list_no_more_has_is_no_more_counted() {
        let world = World::default();
        world.policies.put(policy("ns", "a", 1, &status(2, ["True", "Ready"], &["RES010"])));
        assert!(!world.policies.marks().is_empty());
        world.policies.retain(None, &HashSet::new());
        assert_eq!(world.policies.marks(), BTreeMap::new());
    }

    #[test]
    fn a_port_with_blocks_of_its_own_has_no_limit_of_the_others() {
        let value = |path: &str, value: &str| EffectiveValue {
            path: path.to_owned(),
            value: value.to_owned(),
            origin: Origin::Spec,
        };
        let effective = vec![
            value("limits.perClient.activeRequests", "5"),
            value("limits.perClient.connections", "9"),
            value("ports[80].limits.perClient.activeRequests", "7"),
        ];
        let status = ResilienceStatus { effective, ..ResilienceStatus::default() };
        assert_eq!(allowed(&status, 80, "activeRequests"), Some(7));
        assert_eq!(allowed(&status, 80, "connections"), None);
        assert_eq!(allowed(&status, 8080, "connections"), Some(9));
        assert_eq!(allowed(&status, 8080, "pendingRequests"), None);
    }
}
