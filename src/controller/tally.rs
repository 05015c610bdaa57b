//! What is counted of policies when somebody scrapes.

use std::{collections::BTreeMap, time::Duration};

use super::{keys::Keys, lag, lag::Lag, world::World};
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
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
/// Of another version of the operator, or of somebody who writes the status: not put into a label.
const OTHER: &str = "Other";

/// Counts.
pub fn tally(world: &World, keys: &Keys, lag: &Lag) -> Tally {
    let mut unobserved = Vec::new();
    let pairs = || CONDITIONS.into_iter().flat_map(|kind| STATUSES.map(|status| (kind, status)));
    let mut by_status: BTreeMap<(&str, &str), i64> = pairs().map(|pair| (pair, 0)).collect();
    let mut by_reason: BTreeMap<(&str, &str, &str), i64> = BTreeMap::new();
    let mut by_code: BTreeMap<Code, i64> = Code::ALL.into_iter().map(|code| (code, 0)).collect();
    let empty = ResilienceStatus::default();
    for policy in world.policies.all() {
        if lag::is_unobserved(Some(&policy)) {
            unobserved.push((policy.namespace.clone(), policy.name.clone()));
        }
        let status = policy.view.readable().and_then(|policy| policy.status.as_ref()).unwrap_or(&empty);
        for kind in CONDITIONS {
            let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
            let has = condition.map_or("Unknown", |condition| condition.status.as_str());
            let Some(has) = STATUSES.into_iter().find(|one| *one == has) else { continue };
            *by_status.entry((kind, has)).or_default() += 1;
            if let Some(condition) = condition {
                let reason = Reason::ALL.into_iter().map(Reason::as_str).find(|one| *one == condition.reason);
                *by_reason.entry((kind, has, reason.unwrap_or(OTHER))).or_default() += 1;
            }
        }
        let mut codes: Vec<Code> = status.warnings.iter().map(|warning| warning.code).collect();
        // Two ports may have the same.
        codes.sort_unstable();
        codes.dedup();
        for code in codes {
            *by_code.entry(code).or_default() += 1;
        }
    }
    let (queue, waiting) = (keys.waiting(), lag.waiting());
    let since = unobserved.iter().filter_map(|name| waiting.get(name).or_else(|| queue.get(name))).min();
    Tally {
        conditions: by_status.into_iter().map(|((kind, status), number)| (kind, status, number)).collect(),
        reasons: by_reason.into_iter().map(|((kind, status, reason), number)| (kind, status, reason, number)).collect(),
        warnings: by_code.into_iter().map(|(code, number)| (code.to_string(), number)).collect(),
        unobserved: number(unobserved.len()),
        unobserved_age: since.map_or(Duration::ZERO, std::time::Instant::elapsed),
        queue: number(queue.len()),
    }
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
    use super::*;
    use crate::api::{EffectiveValue, Origin};

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
