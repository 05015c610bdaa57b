//! What must change so that what exists is what is desired, and why.
//!
//! In: [`Desired`] and what exists. Out: [`Diff`]: objects to apply, each with its reasons, and
//! objects to prune. Compares only what is ours to say, by meaning and not by text: every write of
//! a DestinationRule is a push to the whole mesh and reopens connections (measured M67, M74).
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fmt;

use serde_json::Value;

use crate::{
    api::Duration,
    istio::{Existing, Kind},
    translate::{Desired, DesiredObject},
    validate::Owner,
};

/// The writes that are missing. Empty at rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// To apply, in order.
    pub apply: Vec<Write>,
    /// To delete, in order: VirtualServices first, Sidecars last.
    pub prune: Vec<Prune>,
}

impl Diff {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.prune.is_empty()
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
        Kind::VirtualService => &[&["spec", "hosts"], &["spec", "http"]],
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
        Kind::VirtualService => &[&["spec", "exportTo"], &["spec", "gateways"], &["spec", "tcp"], &["spec", "tls"]],
    }
}

/// What must change.
#[must_use]
pub fn diff(desired: &Desired, owner: &Owner, existing: &[Existing]) -> Diff {
    let mut diff = Diff::default();
    let objects = desired.objects();
    for object in objects.clone() {
        // One that is on its way out counts as gone: applied again, it comes back when it has left.
        let there =
            existing.iter().find(|there| there.kind == object.kind && there.name == object.name && !there.deleting);
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
                && crate::validate::is_ours(there, owner)
                && !objects.iter().any(|object| object.kind == kind && object.name == there.name)
        });
        diff.prune.extend(orphans.map(|there| Prune { kind, name: there.name.clone(), uid: there.uid.clone() }));
    }
    diff
}

/// Every field of ours in `there` that is not as `object` wants it.
#[must_use]
pub fn changes(object: &DesiredObject, there: &Existing) -> Vec<Change> {
    let mut changes = metadata_changes(object, there);
    let root = serde_json::json!({ "spec": there.spec });
    for path in owned(object.kind) {
        compare(path.iter().map(ToString::to_string).collect(), at(&root, path), at(&object.json, path), &mut changes);
    }
    for path in voiding(object.kind) {
        compare(path.iter().map(ToString::to_string).collect(), at(&root, path), None, &mut changes);
    }
    changes
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
            format!("create {what}")
        } else {
            let why: Vec<String> = write.changes.iter().map(ToString::to_string).collect();
            format!("update {what}: {}", why.join("; "))
        }
    });
    writes.chain(diff.prune.iter().map(|prune| format!("delete {} {}", prune.kind, prune.name))).collect()
}
