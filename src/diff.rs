//! What must change so that what exists is what is desired, and why.
//!
//! In: [`Desired`] and what exists. Out: [`Diff`]: objects to apply, each with its reasons, and
//! objects to prune. Compares only what is ours to say, by meaning and not by text: every write of
//! a DestinationRule is a push to the whole mesh and reopens connections (measured M67, M74).
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fmt;

use serde_json::Value;

use crate::{
    api::{Duration, Ownership},
    istio::{Existing, Kind, SHARED_BLOCKS},
    names,
    translate::{Desired, DesiredObject},
    validate::{Owner, is_co_owned, is_ours},
};

/// The writes that are missing. Empty at rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// To apply, in order.
    pub apply: Vec<Write>,
    /// To delete, in order: VirtualServices first, Sidecars last.
    pub prune: Vec<Prune>,
    /// To give back: objects of others that stay, without our blocks.
    pub release: Vec<Release>,
}

impl Diff {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.prune.is_empty() && self.release.is_empty()
    }
}

/// One object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What it should be.
    pub object: DesiredObject,
    /// Why; empty for an object that does not exist yet.
    pub changes: Vec<Change>,
    /// It does not exist yet.
    pub create: bool,
    /// Identity of what it changes: the precondition of the write, so that an object that took the
    /// name meanwhile is never taken over.
    pub uid: Option<String>,
}

/// One object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prune {
    /// Which kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Precondition of the deletion.
    pub uid: Option<String>,
}

/// One object of somebody else that is to lose our blocks and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Which kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Precondition of the write.
    pub uid: Option<String>,
}

/// One field that is not as desired.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Keys from the root of the object.
    pub path: Vec<String>,
    /// What is there.
    pub have: Option<Value>,
    /// What should be there; `None` for a field that must go.
    pub want: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "unset".to_owned(), ToString::to_string);
        write!(f, "{}: {} -> {}", self.path.join("."), text(&self.have), text(&self.want))
    }
}

/// Blocks of an object of ours that are wholly ours: what stands there and is not desired goes.
const fn owned(kind: Kind) -> &'static [&'static [&'static str]] {
    match kind {
        Kind::Sidecar => &[&["spec", "workloadSelector"], &["spec", "inboundConnectionPool"]],
        Kind::DestinationRule => &[
            &["spec", "host"],
            &["spec", "trafficPolicy", "connectionPool"],
            &["spec", "trafficPolicy", "outlierDetection"],
            &["spec", "trafficPolicy", "loadBalancer", "localityLbSetting"],
            &["spec", "trafficPolicy", "retryBudget"],
            &["spec", "trafficPolicy", "portLevelSettings"],
        ],
        Kind::VirtualService => &[&["spec", "hosts"], &["spec", "exportTo"], &["spec", "http"]],
    }
}

/// Fields that are not ours and void our effect, or add one, so that they go from an object that we created.
const fn voiding(kind: Kind) -> &'static [&'static [&'static str]] {
    match kind {
        // They would change what the pods may call and where they listen, which is not ours to say.
        Kind::Sidecar => &[&["spec", "egress"], &["spec", "ingress"], &["spec", "outboundTrafficPolicy"]],
        Kind::DestinationRule => {
            &[&["spec", "exportTo"], &["spec", "workloadSelector"], &["spec", "trafficPolicy", "tls"]]
        }
        Kind::VirtualService => &[&["spec", "gateways"], &["spec", "tcp"], &["spec", "tls"]],
    }
}

/// What must change.
#[must_use]
pub fn diff(desired: &Desired, owner: &Owner, existing: &[Existing]) -> Diff {
    let mut diff = Diff::default();
    let objects = desired.objects();
    for object in objects.clone() {
        // One that is on its way out counts as gone: applied again, it comes back when it has left.
        // One of somebody else counts until it has gone: istiod heeds it as long (claim R1.2b).
        let there = existing.iter().find(|there| {
            let counts = !there.deleting || object.ownership == Ownership::CoOwned;
            there.kind == object.kind && there.name == object.name && counts
        });
        let changes = there.map(|there| changes(&object, there)).unwrap_or_default();
        if there.is_none() || !changes.is_empty() {
            let uid = there.and_then(|there| there.uid.clone());
            diff.apply.push(Write { object, changes, create: there.is_none(), uid });
        }
    }
    for kind in Kind::ALL.into_iter().rev() {
        let orphans = existing.iter().filter(|there| {
            there.kind == kind
                && !there.deleting
                && is_ours(there, owner)
                && !objects.iter().any(|object| object.kind == kind && object.name == there.name)
        });
        diff.prune.extend(orphans.map(|there| Prune { kind, name: there.name.clone(), uid: there.uid.clone() }));
    }
    // Last: what takes their place is there by then.
    let left = existing.iter().filter(|there| {
        let wanted = |object: &DesiredObject| {
            object.ownership == Ownership::CoOwned && object.kind == there.kind && object.name == there.name
        };
        is_co_owned(there, owner) && !is_ours(there, owner) && !objects.iter().any(wanted)
    });
    diff.release.extend(left.map(|there| Release {
        kind: there.kind,
        name: there.name.clone(),
        uid: there.uid.clone(),
    }));
    diff
}

/// Every field of ours in `there` that is not as `object` wants it.
#[must_use]
pub fn changes(object: &DesiredObject, there: &Existing) -> Vec<Change> {
    let mut changes = metadata_changes(object, there);
    let root = serde_json::json!({ "spec": there.spec });
    match object.ownership {
        Ownership::Created => {}
        Ownership::CoOwned => {
            for block in SHARED_BLOCKS {
                let path = ["spec", "trafficPolicy", block];
                let want = at(&object.json, &path);
                // A block that we do not want is none of our business unless it is ours.
                let have = at(&root, &path).filter(|have| want.is_some() || has_ours(have, block, there));
                compare(path.map(str::to_owned).to_vec(), have, want, &mut changes);
            }
            return changes;
        }
    }
    for path in owned(object.kind) {
        compare(path.iter().map(ToString::to_string).collect(), at(&root, path), at(&object.json, path), &mut changes);
    }
    for path in voiding(object.kind) {
        compare(path.iter().map(ToString::to_string).collect(), at(&root, path), None, &mut changes);
    }
    changes
}

/// Whether a field that stands in a co-owned object at `path` of its traffic policy, or one below it, is ours:
/// nobody else claims it.
fn has_ours(have: &Value, path: &str, there: &Existing) -> bool {
    match have {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().any(|(key, value)| has_ours(value, &format!("{path}.{key}"), there))
        }
        _ => there.co_owner_uid().is_some() && there.claimants(path).is_empty(),
    }
}

/// Why blocks cannot stand in an object of somebody else: which of their fields have other values, and who
/// set them. `None` if nobody minds. Equal values are no conflict, for the API server neither: two managers
/// may own one field.
#[must_use]
pub fn contest(object: &DesiredObject, changes: &[Change], there: &Existing) -> Option<String> {
    if object.ownership != Ownership::CoOwned {
        return None;
    }
    let mut held: Vec<(String, Vec<String>)> = Vec::new();
    for change in changes {
        let path = change.path.join(".");
        let (Some(have), Some(field)) = (&change.have, path.strip_prefix("spec.trafficPolicy.")) else { continue };
        let mut holders = there.claimants(field);
        if holders.is_empty() && there.co_owner_uid().is_none() {
            holders.push("somebody whom the API server does not name");
        }
        // What is left of a block that we give up is theirs, and stays.
        if holders.is_empty() || (change.want.is_none() && SHARED_BLOCKS.contains(&field)) {
            continue;
        }
        let field = format!("{path} ({have})");
        for holder in holders {
            match held.iter_mut().find(|(known, _)| known == holder) {
                Some((_, fields)) => fields.push(field.clone()),
                None => held.push((holder.to_owned(), vec![field.clone()])),
            }
        }
    }
    let held: Vec<String> =
        held.iter().map(|(holder, fields)| format!("{holder} owns {}", fields.join(", "))).collect();
    (!held.is_empty()).then(|| one_owner(there.kind, &there.namespace, &there.name, &held.join(" and ")))
}

/// The sentence for an object whose fields somebody else has: `held` says which, and who.
#[must_use]
pub fn one_owner(kind: Kind, namespace: &str, name: &str, held: &str) -> String {
    format!("{kind} {namespace}/{name}: {held}; a block has one owner: take it out there, or out of this policy")
}

/// A co-owned object as it is once it has been given back.
#[must_use]
pub fn without_ours(there: &Existing) -> Existing {
    let mut left = there.clone();
    left.co_owner = None;
    left.labels.remove(names::LABEL_CO_OWNER_UID);
    if let Some(spec) = left.spec.as_object_mut()
        && let Some(Value::Object(policy)) = spec.get_mut("trafficPolicy")
    {
        policy.retain(|block, value| !SHARED_BLOCKS.contains(&block.as_str()) || keep_theirs(value, block, there));
        if policy.is_empty() {
            spec.remove("trafficPolicy");
        }
    }
    left
}

/// Takes what is ours out of a value at `path`; whether anything is left.
fn keep_theirs(value: &mut Value, path: &str, there: &Existing) -> bool {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| keep_theirs(value, &format!("{path}.{key}"), there));
            !fields.is_empty()
        }
        _ => !there.claimants(path).is_empty(),
    }
}

/// The patch that takes out blocks of which nothing would be left once our fields are gone, but that
/// somebody else owns as such: an apply leaves them behind as `null`, which Istio's CRD refuses. `want` is
/// the spec that we apply then. `None` if there are none.
#[must_use]
pub fn emptied_patch(there: &Existing, want: &Value) -> Option<Value> {
    let policy = there.spec.get("trafficPolicy")?;
    let wanted = want.get("trafficPolicy").unwrap_or(&Value::Null);
    let left = match emptied("", policy, wanted, there) {
        Emptied::Whole => Value::Null,
        Emptied::Parts(parts) if !parts.is_empty() => Value::Object(parts),
        Emptied::Parts(_) => return None,
    };
    Some(serde_json::json!({ "spec": { "trafficPolicy": left } }))
}

/// What of a value would be left empty.
enum Emptied {
    /// All of it.
    Whole,
    /// These of its fields, each `null` or such fields.
    Parts(serde_json::Map<String, Value>),
}

fn emptied(path: &str, have: &Value, want: &Value, there: &Existing) -> Emptied {
    let Value::Object(fields) = have else { return Emptied::Parts(serde_json::Map::new()) };
    let mut parts = serde_json::Map::new();
    let mut stays = false;
    for (key, value) in fields {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let wanted = want.get(key).unwrap_or(&Value::Null);
        let shared = SHARED_BLOCKS.iter().any(|block| path.split('.').next() == Some(block));
        if !shared || (!value.is_object() && (!wanted.is_null() || !there.claimants(&path).is_empty())) {
            stays = true;
        } else if value.is_object() {
            match emptied(&path, value, wanted, there) {
                Emptied::Whole => drop(parts.insert(key.clone(), Value::Null)),
                Emptied::Parts(inner) => {
                    stays = true;
                    if !inner.is_empty() {
                        parts.insert(key.clone(), Value::Object(inner));
                    }
                }
            }
        }
    }
    if stays { Emptied::Parts(parts) } else { Emptied::Whole }
}

fn metadata_changes(object: &DesiredObject, there: &Existing) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, want) in object.json.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        let have = there.labels.get(key).map(|value| Value::String(value.clone()));
        if have.as_ref() != Some(want) {
            let path = ["metadata", "labels", key].map(str::to_owned).to_vec();
            changes.push(Change { path, have, want: Some(want.clone()) });
        }
    }
    let name = object.json.pointer("/metadata/annotations").and_then(|all| all.get(names::ANNOTATION_CO_OWNER));
    let have = there.co_owner.as_ref().map(|value| Value::String(value.clone()));
    if name.is_some() && have.as_ref() != name {
        let path = ["metadata", "annotations", names::ANNOTATION_CO_OWNER].map(str::to_owned).to_vec();
        changes.push(Change { path, have, want: name.cloned() });
    }
    for want in object.json.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten() {
        let have = there.owners.iter().find(|have| want.get("uid").and_then(Value::as_str) == Some(&have.uid));
        let have = have.and_then(|have| serde_json::to_value(have).ok());
        let same = have.as_ref().is_some_and(|have| {
            ["apiVersion", "kind", "name", "uid", "controller"].iter().all(|key| have.get(key) == want.get(key))
        });
        if !same {
            let path = ["metadata", "ownerReferences"].map(str::to_owned).to_vec();
            changes.push(Change { path, have, want: Some(want.clone()) });
        }
    }
    changes
}

fn at<'a>(root: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, key| value.get(key)).filter(|value| !is_void(value))
}

/// `null`, `{}` and `[]` say nothing.
fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// What differs in meaning below `path`.
pub(crate) fn compare(path: Vec<String>, have: Option<&Value>, want: Option<&Value>, changes: &mut Vec<Change>) {
    match (have, want) {
        (Some(Value::Object(have)), Some(Value::Object(want))) => {
            let mut keys: Vec<&String> = have.keys().chain(want.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let mut inner = path.clone();
                inner.push(key.clone());
                let filled =
                    |map: &serde_json::Map<String, Value>| map.get(key).filter(|value| !is_void(value)).cloned();
                compare(inner, filled(have).as_ref(), filled(want).as_ref(), changes);
            }
        }
        (None, None) => {}
        (Some(have), Some(want)) if same(have, want) => {}
        _ => changes.push(Change { path, have: have.cloned(), want: want.cloned() }),
    }
}

/// Equal in meaning: durations by their length.
fn same(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::String(have), Value::String(want)) if have != want => {
            let millis = |text: &String| Duration::new(text.as_str()).as_millis();
            millis(have).is_some() && millis(have) == millis(want)
        }
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| same(have, want))
        }
        (Value::Object(have), Value::Object(want)) => {
            have.len() == want.len()
                && have.iter().all(|(key, have)| want.get(key).is_some_and(|want| same(have, want)))
        }
        _ => have == want,
    }
}

/// The patch that takes away what `leftover` wants gone: fields of other managers in our object,
/// which an apply leaves alone. `None` if there is nothing of the kind.
#[must_use]
pub fn strip_patch(leftover: &[Change]) -> Option<Value> {
    let mut patch = serde_json::Map::new();
    for change in leftover.iter().filter(|change| change.want.is_none()) {
        let Some((last, parents)) = change.path.split_last() else { continue };
        let mut node = &mut patch;
        for key in parents {
            let entry = node.entry(key.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()));
            match entry {
                Value::Object(map) => node = map,
                _ => return None,
            }
        }
        node.insert(last.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Describes a diff for the command line and the log.
#[must_use]
pub fn describe(diff: &Diff) -> Vec<String> {
    let writes = diff.apply.iter().map(|write| {
        let what = format!("{} {}", write.object.kind, write.object.name);
        if write.create {
            return format!("create {what}");
        }
        let verb = match write.object.ownership {
            Ownership::Created => "update",
            Ownership::CoOwned => "merge into",
        };
        let why: Vec<String> = write.changes.iter().map(ToString::to_string).collect();
        format!("{verb} {what}: {}", why.join("; "))
    });
    let prunes = diff.prune.iter().map(|prune| format!("delete {} {}", prune.kind, prune.name));
    let releases = diff.release.iter().map(|release| format!("give back {} {}", release.kind, release.name));
    writes.chain(prunes).chain(releases).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;

    /// A rule with our mark, if `ours`, and fields that others own, as paths from its traffic policy.
    fn rule(ours: bool, policy: &Value, theirs: &[&str]) -> Existing {
        let meta =
            ObjectMeta { name: Some("theirs".to_owned()), namespace: Some("ns".to_owned()), ..ObjectMeta::default() };
        let mut rule = Existing::new(Kind::DestinationRule, &meta, json!({"host": "x", "trafficPolicy": policy}));
        if ours {
            rule.labels.insert(names::LABEL_CO_OWNER_UID.to_owned(), "1".to_owned());
        }
        let fields = theirs.iter().map(ToString::to_string).collect();
        rule.claims = vec![crate::istio::Claim { manager: "person".to_owned(), fields }];
        rule
    }

    fn wanted(policy: &Value) -> DesiredObject {
        let json = json!({"spec": {"trafficPolicy": policy}});
        DesiredObject { kind: Kind::DestinationRule, name: "theirs".to_owned(), ownership: Ownership::CoOwned, json }
    }

    fn paths(object: &DesiredObject, there: &Existing) -> Vec<String> {
        changes(object, there).iter().map(|change| change.path.join(".")).collect()
    }

    #[test]
    fn of_a_block_that_we_do_not_want_only_what_is_ours_must_go() {
        let policy = json!({"connectionPool": {"tcp": {"maxConnections": 1}}, "loadBalancer": {"simple": "RANDOM"}});
        let pool = "connectionPool.tcp.maxConnections";
        assert_eq!(paths(&wanted(&json!({})), &rule(true, &policy, &[])), ["spec.trafficPolicy.connectionPool"]);
        assert_eq!(paths(&wanted(&json!({})), &rule(true, &policy, &[pool])), Vec::<String>::new());
        assert_eq!(paths(&wanted(&json!({})), &rule(false, &policy, &[])), Vec::<String>::new());
    }

    #[test]
    fn a_field_is_contested_by_who_owns_it_or_by_somebody_where_nothing_is_booked() {
        let contested = |there: &Existing| {
            let object = wanted(&json!({"connectionPool": {"tcp": {"maxConnections": 2}}}));
            contest(&object, &changes(&object, there), there)
        };
        let policy = json!({"connectionPool": {"tcp": {"maxConnections": 1}}});
        let sentence = contested(&rule(false, &policy, &["connectionPool.tcp.maxConnections"])).unwrap();
        assert!(
            sentence.contains("person owns spec.trafficPolicy.connectionPool.tcp.maxConnections (1)"),
            "{sentence}"
        );
        assert!(contested(&rule(false, &policy, &[])).unwrap().contains("does not name"));
        assert_eq!(contested(&rule(true, &policy, &[])), None, "an older value of ours");
        let more = json!({"connectionPool": {"tcp": {"maxConnections": 2, "tcpKeepalive": {"time": "1s"}}}});
        let sentence = contested(&rule(true, &more, &["connectionPool.tcp.tcpKeepalive.time"])).unwrap();
        assert!(sentence.contains("person owns spec.trafficPolicy.connectionPool.tcp.tcpKeepalive"), "{sentence}");
        let equal = json!({"connectionPool": {"tcp": {"maxConnections": 2}}});
        assert_eq!(contested(&rule(false, &equal, &["connectionPool.tcp.maxConnections"])), None);
    }

    #[test]
    fn what_would_be_left_empty_is_taken_out_at_its_top_and_nothing_of_others() {
        let pool = json!({"tcp": {"maxConnections": 1}, "http": {"maxRetries": 2}});
        let patch = |policy: &Value, theirs: &[&str], want: &Value| emptied_patch(&rule(true, policy, theirs), want);
        let whole = json!({"connectionPool": pool});
        assert_eq!(patch(&whole, &[], &Value::Null), Some(json!({"spec": {"trafficPolicy": null}})));
        let beside = json!({"connectionPool": pool, "tls": {"mode": "DISABLE"}});
        let block = json!({"spec": {"trafficPolicy": {"connectionPool": null}}});
        assert_eq!(patch(&beside, &[], &Value::Null), Some(block));
        let half = json!({"spec": {"trafficPolicy": {"connectionPool": {"http": null}}}});
        assert_eq!(patch(&whole, &["connectionPool.tcp.maxConnections"], &Value::Null), Some(half.clone()));
        let want = json!({"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 9}}}});
        assert_eq!(patch(&whole, &[], &want), Some(half));
        assert_eq!(patch(&json!({"tls": {"mode": "DISABLE"}}), &[], &Value::Null), None);
    }

    #[test]
    fn given_back_a_rule_is_as_its_owner_has_it() {
        let policy = json!({"connectionPool": {"tcp": {"maxConnections": 1, "connectTimeout": "1s"}}, "tls": {"mode": "DISABLE"}});
        let left = without_ours(&rule(true, &policy, &["connectionPool.tcp.connectTimeout"]));
        let theirs = json!({"connectionPool": {"tcp": {"connectTimeout": "1s"}}, "tls": {"mode": "DISABLE"}});
        assert_eq!(left.spec["trafficPolicy"], theirs);
        assert!(left.labels.is_empty());
        let bare = without_ours(&rule(true, &json!({"retryBudget": {"percent": 20}}), &[]));
        assert_eq!(bare.spec, json!({"host": "x"}));
    }
}
