//! What must never be so, judged of every event that a watch of our own tells. Pure: in come events and times, out
//! come sentences.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// A kind that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Our own.
    Policy,
    /// What we generate.
    Rule,
    /// What we generate.
    Routes,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Policy, Self::Rule, Self::Routes];

    /// As kubectl takes it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::Policy => "resiliences.resilience.dev",
            Self::Rule => "destinationrules.networking.istio.io",
            Self::Routes => "virtualservices.networking.istio.io",
        }
    }
}

/// Namespace and name.
type Place = (String, String);

/// How late the watch of a generated object may tell what a status said before.
const LATE: Duration = Duration::from_secs(10);

/// How long a watch needs to tell what is there already.
const LIST: Duration = Duration::from_secs(3);

/// A status that says that objects are there which no watch has shown yet.
#[derive(Debug)]
struct Claim {
    place: Place,
    value: u64,
    seconds: String,
    version: u64,
    since: Duration,
}

/// A generated object as it was seen at some time.
#[derive(Debug, PartialEq, Eq)]
struct Sight {
    version: u64,
    /// Its limit or its timeout.
    says: String,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Hosts of the rules that are ours and there.
    hosts: BTreeMap<Place, String>,
    /// Everything that generated objects ever said.
    sights: BTreeMap<(Kind, Place), Vec<Sight>>,
    /// Hosts that a rule had, each once in a row.
    courses: BTreeMap<Place, Vec<String>>,
    claims: Vec<Claim>,
    /// The limit of the last spec of a policy that a status has answered.
    answered: BTreeMap<Place, u64>,
    /// When the present watch of a kind began.
    begun: BTreeMap<Kind, Duration>,
    /// The newest version that a watch listed when it began: what a status claimed before may have been missed.
    listed: u64,
}

impl Invariants {
    /// A watch begins, at the start or after it broke: what it missed it cannot tell, and what it tells at first
    /// is old.
    pub fn begins(&mut self, kind: Kind, now: Duration) {
        self.begun.insert(kind, now);
        self.claims.clear();
        if kind == Kind::Rule {
            self.hosts.clear();
        }
    }

    fn is_new(&self, kind: Kind, now: Duration) -> bool {
        self.begun.get(&kind).is_some_and(|begun| now.saturating_sub(*begun) < LIST)
    }

    /// Takes an event, and says what it breaks.
    pub fn take(&mut self, kind: Kind, event: &Value, now: Duration) -> Vec<String> {
        let object = &event["object"];
        let gone = event["type"] == "DELETED";
        let new = self.is_new(kind, now);
        if new {
            self.listed = self.listed.max(version(object));
        }
        match kind {
            Kind::Policy if !gone => self.policy(event["type"] == "MODIFIED", object, now).into_iter().collect(),
            Kind::Policy => Vec::new(),
            Kind::Rule | Kind::Routes => self.generated(kind, event["type"] == "ADDED" && !new, gone, object),
        }
    }

    /// What was claimed and is not seen by now.
    pub fn overdue(&mut self, now: Duration) -> Vec<String> {
        let late = |claim: &Claim| now.saturating_sub(claim.since) >= LATE;
        let (overdue, open) = std::mem::take(&mut self.claims).into_iter().partition(late);
        self.claims = open;
        let words = |claim: Claim| {
            let Claim { place: (namespace, name), value, seconds, .. } = claim;
            format!(
                "a status that claims more than was seen: Resilience {namespace}/{name} is Programmed with {value} and {seconds}, and nothing was ever there that has both"
            )
        };
        let overdue: Vec<Claim> = overdue;
        overdue.into_iter().map(words).collect()
    }

    /// Whether a status has spoken of the policy with this limit.
    #[must_use]
    pub fn has_answered(&self, namespace: &str, name: &str, value: u32) -> bool {
        self.answered.get(&(namespace.to_owned(), name.to_owned())) == Some(&value.into())
    }

    /// The hosts that a rule had since [`Invariants::forget_courses`], in order.
    #[must_use]
    pub fn courses(&self) -> &BTreeMap<(String, String), Vec<String>> {
        &self.courses
    }

    /// Begins courses anew, from what is there.
    pub fn forget_courses(&mut self) {
        self.courses = self.hosts.iter().map(|(place, host)| (place.clone(), vec![host.clone()])).collect();
    }

    /// A condition may say of the present spec that it is programmed only if that was once there.
    fn policy(&mut self, changed: bool, object: &Value, now: Duration) -> Option<String> {
        let generation = &object["metadata"]["generation"];
        let conditions = object["status"]["conditions"].as_array()?;
        let says = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
        let future = conditions.iter().find(|condition| condition["observedGeneration"].as_u64() > generation.as_u64());
        if let Some(condition) = future {
            return Some(format!(
                "a status that speaks of a spec that is not there yet: {condition} of {}",
                shown(object)
            ));
        }
        let of_now =
            |condition: &&Value| condition["status"] == "True" && condition["observedGeneration"] == *generation;
        if let Some(ready) = says("Ready").filter(of_now)
            && !says("Programmed").is_some_and(|programmed| of_now(&programmed))
            && object["spec"]["mode"] != "Observe"
        {
            return Some(format!("Ready without being Programmed: {ready} of {}", shown(object)));
        }
        let spec = &object["spec"];
        // Only what a run writes tells its edits apart, and what a list tells is old.
        let (Some(value), Some(seconds)) =
            (spec["limits"]["perClient"]["activeRequests"].as_u64(), spec["timeouts"]["request"].as_str())
        else {
            return None;
        };
        if conditions.iter().any(|condition| condition["observedGeneration"] == *generation) {
            self.answered.insert(place(object), value);
        }
        says("Programmed").filter(of_now)?;
        let blind = Kind::ALL.iter().any(|kind| self.is_new(*kind, now)) || version(object) <= self.listed;
        if !changed || blind || spec["mode"] == "Observe" {
            return None;
        }
        let claim =
            Claim { place: place(object), value, seconds: seconds.to_owned(), version: version(object), since: now };
        if !self.seen(&claim) {
            self.claims.push(claim);
        }
        None
    }

    fn seen(&self, claim: &Claim) -> bool {
        let was = |kind: Kind, words: &str| {
            let sights = self.sights.get(&(kind, claim.place.clone()));
            sights.into_iter().flatten().any(|sight| sight.says == words && sight.version <= claim.version)
        };
        was(Kind::Rule, &claim.value.to_string()) && was(Kind::Routes, &claim.seconds)
    }

    fn generated(&mut self, kind: Kind, added: bool, gone: bool, object: &Value) -> Vec<String> {
        let place = place(object);
        if gone {
            self.hosts.remove(&place);
            return Vec::new();
        }
        let mut broken = Vec::new();
        let is_ours = object["metadata"]["labels"]["resilience.dev/owner-uid"].is_string();
        // Only what we created ourselves: what others restore from a backup is theirs to answer for.
        if added && is_ours && is_written_by_us(object) && owner(object).is_none() {
            broken.push(format!("a generated object without an owner: {kind:?} {}", shown(object)));
        }
        let says = match kind {
            Kind::Rule => object["spec"]["trafficPolicy"]["connectionPool"]["http"]["http2MaxRequests"].to_string(),
            _ => object["spec"]["http"][0]["timeout"].as_str().unwrap_or_default().to_owned(),
        };
        let sights = self.sights.entry((kind, place.clone())).or_default();
        if sights.last().is_none_or(|last| last.says != says) {
            sights.push(Sight { version: version(object), says });
        }
        if kind == Kind::Rule && is_ours {
            let host = object["spec"]["host"].as_str().unwrap_or_default().to_owned();
            let twin = self.hosts.iter().find(|(other, its)| **other != place && **its == host);
            if let Some(((namespace, name), _)) = twin {
                broken.push(format!("two rules of ours for {host}: {namespace}/{name} and {}", shown(object)));
            }
            let course = self.courses.entry(place.clone()).or_default();
            if course.last() != Some(&host) {
                course.push(host.clone());
            }
            self.hosts.insert(place, host);
        }
        let claims = std::mem::take(&mut self.claims);
        self.claims = claims.into_iter().filter(|claim| !self.seen(claim)).collect();
        broken
    }
}

/// The uid of the policy that owns it.
#[must_use]
pub fn owner(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["kind"] == "Resilience")?["uid"].as_str()
}

fn is_written_by_us(object: &Value) -> bool {
    let managers = object["metadata"]["managedFields"].as_array();
    managers.into_iter().flatten().any(|entry| entry["manager"] == "resilience-operator")
}

fn place(object: &Value) -> Place {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn shown(object: &Value) -> String {
    let (namespace, name) = place(object);
    format!("{namespace}/{name}")
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn rule(name: &str, version: u64, value: u64) -> Value {
        json!({
            "metadata": {
                "namespace": "a", "name": name, "resourceVersion": version.to_string(),
                "labels": {"resilience.dev/owner-uid": "u"}, "ownerReferences": [{"kind": "Resilience", "uid": "u"}],
                "managedFields": [{"manager": "resilience-operator"}],
            },
            "spec": {"host": format!("{name}.a"), "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": value}}}},
        })
    }

    fn routes(name: &str, version: u64, timeout: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name, "resourceVersion": version.to_string()},
            "spec": {"http": [{"timeout": timeout}]}})
    }

    fn policy(version: u64, generation: u64, observed: u64, value: u64) -> Value {
        json!({
            "metadata": {"namespace": "a", "name": "x", "resourceVersion": version.to_string(), "generation": generation},
            "spec": {"limits": {"perClient": {"activeRequests": value}}, "timeouts": {"request": "5s"}},
            "status": {"conditions": [
                {"type": "Programmed", "status": "True", "observedGeneration": observed},
                {"type": "Ready", "status": "True", "observedGeneration": observed},
            ]},
        })
    }

    fn event(kind: &str, object: impl Into<Value>) -> Value {
        json!({"type": kind, "object": object.into()})
    }

    fn told(invariants: &mut Invariants, events: &[(Kind, Value)]) -> Vec<String> {
        events.iter().flat_map(|(kind, event)| invariants.take(*kind, event, NOW)).collect()
    }

    #[test]
    fn what_an_operator_does_when_all_is_well_breaks_nothing() {
        let mut invariants = Invariants::default();
        let said = told(
            &mut invariants,
            &[
                (Kind::Rule, event("ADDED", rule("x", 2, 7))),
                (Kind::Routes, event("ADDED", routes("x", 3, "5s"))),
                (Kind::Policy, event("MODIFIED", policy(4, 1, 1, 7))),
                // An edit: the old status lags behind, and says so.
                (Kind::Policy, event("MODIFIED", policy(5, 2, 1, 8))),
                // The status before the rule, as two watches tell it.
                (Kind::Policy, event("MODIFIED", policy(7, 2, 2, 8))),
                (Kind::Rule, event("MODIFIED", rule("x", 6, 8))),
            ],
        );
        assert_eq!((said, invariants.overdue(NOW * 2)), (vec![], vec![]));
    }

    #[test]
    fn a_second_rule_for_a_host_is_seen() {
        let mut twin = rule("y", 3, 7);
        twin["spec"]["host"] = json!("x.a");
        let mut invariants = Invariants::default();
        let events = [(Kind::Rule, event("ADDED", rule("x", 2, 7))), (Kind::Rule, event("ADDED", twin.clone()))];
        assert!(told(&mut invariants, &events)[0].contains("two rules of ours for x.a"));
        // One after the other is another matter.
        let mut invariants = Invariants::default();
        let [first, second] = events;
        let gone = (Kind::Rule, event("DELETED", rule("x", 2, 7)));
        assert_eq!(told(&mut invariants, &[first, gone, second]), Vec::<String>::new());
    }

    #[test]
    fn a_generated_object_that_comes_without_an_owner_is_seen() {
        let mut orphan = rule("x", 2, 7);
        orphan["metadata"]["ownerReferences"].take();
        let said = told(&mut Invariants::default(), &[(Kind::Rule, event("ADDED", orphan.clone()))]);
        assert!(said[0].contains("without an owner"), "{said:?}");
        // Taken away by somebody: that is drift, and undone.
        assert_eq!(told(&mut Invariants::default(), &[(Kind::Rule, event("MODIFIED", orphan))]), Vec::<String>::new());
    }

    #[test]
    fn a_status_that_claims_what_was_never_there_or_only_later_is_seen() {
        let there = (Kind::Routes, event("ADDED", routes("x", 2, "5s")));
        let claim = (Kind::Policy, event("MODIFIED", policy(4, 1, 1, 7)));
        for after in [rule("x", 3, 6), rule("x", 5, 7)] {
            let mut invariants = Invariants::default();
            let events = [there.clone(), claim.clone(), (Kind::Rule, event("ADDED", after))];
            assert_eq!(told(&mut invariants, &events), Vec::<String>::new());
            assert_eq!(invariants.overdue(NOW), Vec::<String>::new());
            assert!(invariants.overdue(NOW + LATE)[0].contains("claims more than was seen"));
        }
    }

    #[test]
    fn nothing_is_claimed_of_while_a_watch_is_down() {
        let mut invariants = Invariants::default();
        invariants.begins(Kind::Rule, NOW);
        told(&mut invariants, &[(Kind::Policy, event("MODIFIED", policy(4, 1, 1, 7)))]);
        assert_eq!(invariants.overdue(NOW * 2), Vec::<String>::new());
    }

    #[test]
    fn a_status_of_tomorrow_and_a_readiness_of_nothing_are_seen() {
        let said = told(&mut Invariants::default(), &[(Kind::Policy, event("MODIFIED", policy(4, 1, 2, 7)))]);
        assert!(said[0].contains("not there yet"), "{said:?}");
        let mut bare = policy(4, 1, 1, 7);
        bare["status"]["conditions"].as_array_mut().unwrap().remove(0);
        let said = told(&mut Invariants::default(), &[(Kind::Policy, event("MODIFIED", bare))]);
        assert!(said[0].contains("without being Programmed"), "{said:?}");
    }
}
