//! Whether what would be generated means the same as what is there and, where not, whose fault it is.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    super::{
        left::{self, left},
        report::{Fate, Left},
        routes::{self, Calls, Route},
        rule::{Difference, Meaning},
        words::{Words, leaves, text},
    },
    Attempt, Blame, Part, merge,
};
use crate::{
    istio::Existing,
    translate::Desired,
    validate::{Refusal, Violation},
};

impl Attempt<'_> {
    pub(super) fn compare_rules(&self, wanted: &BTreeSet<Part>, desired: &Desired) -> Blame {
        let host = json!({ "host": self.group.host });
        let Some(rule) = &self.chosen.rule else { return Vec::new() };
        if !Part::OF_RULE.iter().any(|part| wanted.contains(part)) {
            return Vec::new();
        }
        let mut ours = host;
        if let Some(rule) = &desired.destination_rule {
            ours = serde_json::to_value(&rule.spec).unwrap_or_default();
        }
        let mut blame = Vec::new();
        if let Some(blocks) = &desired.merged {
            ours = rule.spec.clone();
            let applied = serde_json::to_value(&blocks.spec).unwrap_or_default();
            blame.extend(Self::contested(rule, wanted, &applied));
            merge(&mut ours, &applied);
        }
        let meaning = |spec| Meaning::of(spec, self.namespace, self.group.service, &self.settings.cluster_domain);
        let differences = meaning(&rule.spec).differences(&meaning(&ours));
        blame.extend(differences.iter().flat_map(|difference| Self::blame(wanted, rule, difference)));
        blame
    }

    /// A field in a block of ours that somebody else has with another text, or that we do not write, is a
    /// conflict between two owners.
    pub(super) fn contested(rule: &Existing, wanted: &BTreeSet<Part>, applied: &Value) -> Blame {
        let mut blame = Blame::new();
        for part in Part::OF_RULE.into_iter().filter(|part| wanted.contains(part)) {
            let (mut theirs, mut ours) = (Words::new(), Words::new());
            let pointer = format!("/trafficPolicy/{}", part.field());
            leaves(part.field(), rule.spec.pointer(&pointer).unwrap_or(&Value::Null), &mut theirs);
            leaves(part.field(), applied.pointer(&pointer).unwrap_or(&Value::Null), &mut ours);
            for (path, value) in theirs {
                if ours.get(&path) != Some(&value) && value != json!({}) {
                    let now = ours
                        .get(&path)
                        .map_or_else(|| "leaves it out".to_owned(), |ours| format!("says {}", text(ours)));
                    let message = format!(
                        "the rule stays, and of two owners of a block both must say the same: a policy {now}; write it so first, or leave the block where it is"
                    );
                    let path = format!("spec.trafficPolicy.{path}");
                    blame.push((part, left(rule, &path, &value, Fate::CannotBeImported, message)));
                }
            }
        }
        blame
    }

    pub(super) fn compare_routes(&self, wanted: &BTreeSet<Part>, desired: &Desired) -> Blame {
        if self.chosen.routes_stay || (self.chosen.routes.is_some() && !wanted.contains(&Part::Routes)) {
            return Vec::new();
        }
        let http = self.group.service.http_ports();
        let ours =
            desired.virtual_service.as_ref().map(|routes| serde_json::to_value(&routes.spec).unwrap_or_default());
        let ours = routes::of_spec(ours.as_ref(), &http, self.place());
        let theirs = self.routes(&http);
        let differing = theirs.iter().filter(|(port, routes)| ours.get(port) != Some(routes));
        differing.map(|(port, routes)| self.blame_routes(*port, routes)).collect()
    }

    pub(super) fn blame_routes(&self, port: u16, routes: &[Route]) -> (Part, Left) {
        let whose = self.chosen.routes.as_deref().or(self.chosen.rule.as_deref());
        let why = if routes.last().is_none_or(|route| route.calls != Calls::All) {
            "some calls have no route and get 404, which a policy cannot say: add a route for all, or leave it"
        } else if routes.iter().any(|route| route.retries.attempts > 0 && route.retries.on.is_empty()) {
            "a policy that retries on status codes retries ConnectFailure and RefusedStream besides: add connect-failure and refused-stream to retryOn first, or leave it"
        } else {
            "a policy would do something else with these calls: its routes send a port's calls to that port, and differ by method in retries alone, with words, codes and attempts (up to 10) that a policy has"
        };
        let blamed = if self.chosen.routes.is_some() { Part::Routes } else { Part::Budget };
        let left = match whose {
            Some(object) => left(object, "spec.http", &format!("port {port}").into(), Fate::CannotBeImported, why),
            None => Left {
                object: self.group.host.clone(),
                path: "spec.http".to_owned(),
                value: String::new(),
                fate: Fate::CannotBeImported,
                message: why.to_owned(),
            },
        };
        (blamed, left)
    }

    /// Parts of which a policy would say nothing: they do nothing either, or something for which there is no word.
    pub(super) fn blame_silent(&self, wanted: &BTreeSet<Part>) -> Blame {
        let http = self.group.service.http_ports();
        let (theirs, unsaid) = (self.routes(&http), routes::of_spec(None, &http, self.place()));
        let differing = theirs.iter().find(|(port, routes)| unsaid.get(port) != Some(routes));
        let blame = |part: Part| {
            if let (Part::Routes, Some((port, routes))) = (part, differing) {
                return Some(self.blame_routes(*port, routes));
            }
            if part == Part::Routes {
                let object = self.chosen.routes.as_deref()?;
                return Some((part, left(object, "spec.http", &Value::Null, Fate::Stays, left::SAYS_NOTHING)));
            }
            let rule = self.chosen.rule.as_deref()?;
            let meaning = Meaning::of(&rule.spec, self.namespace, self.group.service, &self.settings.cluster_domain);
            let of_part = |path: &str| path.split('.').next() == Some(part.field());
            let said = meaning.ports.values().flatten().find(|(path, _)| of_part(path));
            let (path, value, why) = said.map_or((part.field(), &Value::Null, left::SAYS_NOTHING), |(path, value)| {
                (path.as_str(), value, left::of_rule(path))
            });
            Some((part, left(rule, &format!("spec.trafficPolicy.{path}"), value, Fate::Stays, why)))
        };
        wanted.iter().filter_map(|part| blame(*part)).collect()
    }

    /// Whose fault a difference is: that of the block that it is in or, for all else, of all blocks.
    pub(super) fn blame(wanted: &BTreeSet<Part>, rule: &Existing, difference: &Difference) -> Blame {
        let Difference { port, path, theirs, ours } = difference;
        let block = path.split('.').next().unwrap_or_default();
        let of_block = Part::OF_RULE.into_iter().find(|part| part.field() == block);
        let blamed: Vec<Part> = match of_block {
            Some(part) if wanted.contains(&part) => vec![part],
            // What stays in the rule is lost to a policy that replaces it, which then must not.
            _ if path.starts_with("loadBalancer.localityLbSetting") && wanted.contains(&Part::Detection) => {
                vec![Part::Detection]
            }
            _ => wanted.iter().copied().filter(|part| Part::OF_RULE.contains(part)).collect(),
        };
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), text);
        let value = theirs.clone().unwrap_or_default();
        let entry = port.and_then(|port| {
            let entries = rule.spec.pointer("/trafficPolicy/portLevelSettings").and_then(Value::as_array)?;
            entries.iter().position(|entry| entry.pointer("/port/number").and_then(Value::as_u64) == Some(port.into()))
        });
        let at = entry.map_or_else(
            || format!("spec.trafficPolicy.{path}"),
            |index| format!("spec.trafficPolicy.portLevelSettings[{index}].{path}"),
        );
        let why = match (theirs, ours) {
            (Some(_), None) => left::of_rule(path).to_owned(),
            (None, Some(_)) if entry.is_some() => {
                format!(
                    "an entry takes nothing from above it and a policy's port does: {} would hold for the port",
                    shown(ours)
                )
            }
            _ => format!("a policy would make {} of {}", shown(ours), shown(theirs)),
        };
        let left = left(rule, &at, &value, Fate::CannotBeImported, why);
        blamed.into_iter().map(|part| (part, left.clone())).collect()
    }

    /// Faults of the spec that was tried.
    pub(super) fn blame_all(&self, wanted: &BTreeSet<Part>, faults: &[Violation]) -> Blame {
        faults.iter().flat_map(|fault| self.blame_one(wanted, &fault.path, &fault.to_string())).collect()
    }

    pub(super) fn blame_one(&self, wanted: &BTreeSet<Part>, path: &str, message: &str) -> Blame {
        let part = match path {
            _ if path.contains("ejection") => Some(Part::Detection),
            _ if path.contains("retries.budget")
                || path.contains("concurrentRetries") && wanted.contains(&Part::Budget) =>
            {
                Some(Part::Budget)
            }
            _ if path.contains("limits") || ["connect", "idle", "lifetime"].iter().any(|end| path.ends_with(end)) => {
                Some(Part::Pool)
            }
            _ if path.contains("retries") || path.contains("timeouts.request") || message.contains("perTryTimeout") => {
                Some(Part::Routes)
            }
            _ => None,
        };
        let blamed: Vec<Part> = match part.filter(|part| wanted.contains(part)) {
            Some(part) => vec![part],
            None => wanted.iter().copied().collect(),
        };
        blamed
            .into_iter()
            .filter_map(|part| {
                let (object, at) = match part {
                    Part::Routes => (self.chosen.routes.as_deref()?, "spec.http".to_owned()),
                    of_rule => (self.chosen.rule.as_deref()?, format!("spec.trafficPolicy.{}", of_rule.field())),
                };
                let why = format!("a policy that says it is refused: {message}");
                Some((part, left(object, &at, &Value::Null, Fate::CannotBeImported, why)))
            })
            .collect()
    }

    pub(super) fn refused(&self, wanted: &BTreeSet<Part>, refusal: Refusal) -> Blame {
        match refusal {
            Refusal::Invalid(faults) | Refusal::Unsupported(faults) => self.blame_all(wanted, &faults),
            Refusal::TargetNotFound(message) => self.blame_one(wanted, "", &message),
            Refusal::Superseded(message) => self.blame_one(wanted, "spec.retries", &message),
            Refusal::Conflicted(message) => {
                let of_rule: BTreeSet<Part> =
                    wanted.iter().copied().filter(|part| Part::OF_RULE.contains(part)).collect();
                let blamed = if of_rule.is_empty() { wanted } else { &of_rule };
                self.blame_one(blamed, "", &message)
            }
        }
    }
}
