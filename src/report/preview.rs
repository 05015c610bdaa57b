//! What an apply of a policy would change.

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{FieldChange, Verdict, WarningLine, explained, reasons};
use crate::{
    api::{Resilience, Warning, conditions::ACCEPTED, schema::Violation},
    decide::{Step, decide},
    diff::{Diff, compare, without_ours},
    istio::{Existing, Kind},
    names,
    observed::Observed,
    validate::Settings,
};

/// The uid of a policy that the API server has not seen yet.
const NO_UID_YET: &str = "(known after apply)";

/// What an apply of one policy would change.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Namespace of the policy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What would become of it.
    pub outcome: Verdict,
    /// The reason of Accepted as the object has it now; null: the operator has not looked at it.
    pub outcome_now: Option<String>,
    /// The policy itself, then what would be generated or taken away, in the order of the writes. What
    /// stays as it is is left out.
    pub objects: Vec<ObjectChange>,
    /// Against those that the object has now.
    pub warnings: Warnings,
}

/// What becomes of the warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Warnings {
    /// They would come. One whose numbers change comes and goes.
    pub new: Vec<WarningLine>,
    /// They would go.
    pub gone: Vec<WarningLine>,
    /// They are there and would stay.
    pub staying: Vec<WarningLine>,
}

/// What would happen to one object.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectChange {
    /// `Resilience`, `DestinationRule` or `VirtualService`, in the policy's namespace.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What would be done with it.
    pub action: Action,
    /// Each field that would change; empty for an object that comes or goes.
    pub changes: Vec<FieldChange>,
    /// As it is, as far as it is ours to say; null: it does not exist.
    pub before: Option<Value>,
    /// As it would be; null: it would not exist.
    pub after: Option<Value>,
}

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Action {
    /// It does not exist yet.
    Create,
    /// It changes in place.
    Update,
    /// It goes.
    Delete,
}

impl Preview {
    /// Whether anything would be other than it is.
    #[must_use]
    pub fn differs(&self) -> bool {
        let Warnings { new, gone, staying: _ } = &self.warnings;
        !self.objects.is_empty()
            || self.outcome_now.as_ref() != Some(&self.outcome.reason)
            || !new.is_empty()
            || !gone.is_empty()
    }
}

/// The policy of a file as it would be stored: what the API server adds is that of the one which is there.
#[must_use]
pub fn as_applied(file: &Resilience, now: Option<&kube::core::ObjectMeta>) -> Resilience {
    let mut then = file.clone();
    then.metadata.uid = Some(now.and_then(|now| now.uid.clone()).unwrap_or_else(|| NO_UID_YET.to_owned()));
    then.metadata.creation_timestamp = now.and_then(|now| now.creation_timestamp.clone());
    then.status = None;
    then
}

/// What would change. `now` is the policy as the cluster has it, `then` as it would be.
#[must_use]
pub fn preview(now: Option<&Resilience>, then: &Resilience, observed: &Observed, settings: &Settings) -> Preview {
    let step = decide(then, observed, settings);
    let outcome = match &step {
        Step::Apply(_) => Verdict::accepted(),
        Step::Release(outcome) | Step::Leave(outcome) => Verdict::of(outcome),
    };
    let effective = step.valid().map(|valid| valid.effective.as_slice()).unwrap_or_default();
    let mut objects: Vec<ObjectChange> = of_policy(now, then).into_iter().collect();
    objects.extend(generated(&step.writes(then, &observed.existing), observed, effective));
    let warnings = step.valid().map(|valid| valid.warnings.clone()).unwrap_or_default();
    Preview {
        namespace: then.namespace().unwrap_or_default(),
        name: then.name_any(),
        outcome,
        outcome_now: now.and_then(accepted),
        objects,
        warnings: compared(now, &warnings),
    }
}

/// A document that the API server would not store: nothing would change.
#[must_use]
pub fn refused(namespace: &str, name: &str, now: Option<&Resilience>, violations: &[Violation]) -> Preview {
    Preview {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        outcome: Verdict::invalid(violations),
        outcome_now: now.and_then(accepted),
        objects: Vec::new(),
        warnings: Warnings::default(),
    }
}

fn accepted(now: &Resilience) -> Option<String> {
    let conditions = &now.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == ACCEPTED).map(|condition| condition.reason.clone())
}

fn compared(now: Option<&Resilience>, then: &[Warning]) -> Warnings {
    let now = now.and_then(|now| now.status.as_ref()).map(|status| status.warnings.as_slice()).unwrap_or_default();
    let pick = |from: &[Warning], wanted: &dyn Fn(&Warning) -> bool| {
        from.iter().filter(|warning| wanted(warning)).map(WarningLine::from).collect()
    };
    Warnings {
        new: pick(then, &|warning| !now.contains(warning)),
        gone: pick(now, &|warning| !then.contains(warning)),
        staying: pick(then, &|warning| now.contains(warning)),
    }
}

/// The policy itself: its spec, which is all that decides.
fn of_policy(now: Option<&Resilience>, then: &Resilience) -> Option<ObjectChange> {
    let shown = |policy: &Resilience| {
        json!({
            "apiVersion": names::API_VERSION,
            "kind": names::KIND,
            "metadata": {"name": policy.name_any(), "namespace": policy.namespace()},
            "spec": policy.spec,
        })
    };
    let after = shown(then);
    let before = now.map(shown);
    let mut changes = Vec::new();
    if let Some(before) = &before {
        compare(vec!["spec".to_owned()], before.get("spec"), after.get("spec"), &mut changes);
        if changes.is_empty() {
            return None;
        }
    }
    Some(ObjectChange {
        kind: names::KIND.to_owned(),
        name: then.name_any(),
        action: if before.is_some() { Action::Update } else { Action::Create },
        changes: explained(changes.iter(), |_| "the file says so".to_owned()),
        before,
        after: Some(after),
    })
}

/// Objects that would be written, then those that would go.
fn generated(diff: &Diff, observed: &Observed, effective: &[crate::api::EffectiveValue]) -> Vec<ObjectChange> {
    let there = |kind: Kind, name: &str| {
        observed.existing.iter().find(|there| there.kind == kind && there.name == name && !there.deleting)
    };
    let writes = diff.apply.iter().map(|write| {
        let object = &write.object;
        let before = there(object.kind, &object.name).map(shown);
        let after = before.as_ref().map_or_else(
            || object.json.clone(),
            |before| {
                write
                    .changes
                    .iter()
                    .fold(before.clone(), |after, change| put(after, &change.path, change.want.as_ref()))
            },
        );
        let reason = |change: &_| reasons::reason(object.kind, change, effective);
        ObjectChange {
            kind: object.kind.to_string(),
            name: object.name.clone(),
            action: if write.create { Action::Create } else { Action::Update },
            changes: explained(write.changes.iter(), reason),
            before,
            after: Some(after),
        }
    });
    let prunes = diff.prune.iter().map(|prune| ObjectChange {
        kind: prune.kind.to_string(),
        name: prune.name.clone(),
        action: Action::Delete,
        changes: Vec::new(),
        before: there(prune.kind, &prune.name).map(shown),
        after: None,
    });
    let releases = diff.release.iter().filter_map(|release| {
        let there = there(release.kind, &release.name)?;
        let (before, after) = (shown(there), shown(&without_ours(there)));
        let mut changes = Vec::new();
        compare(Vec::new(), Some(&before), Some(&after), &mut changes);
        Some(ObjectChange {
            kind: release.kind.to_string(),
            name: release.name.clone(),
            action: Action::Update,
            changes: explained(changes.iter(), |_| "given back: the policy has no blocks there".to_owned()),
            before: Some(before),
            after: Some(after),
        })
    });
    writes.chain(prunes).chain(releases).collect()
}

/// An object as it is, without what others keep of it in its metadata.
fn shown(there: &Existing) -> Value {
    let mut object = json!({
        "apiVersion": names::ISTIO_API_VERSION,
        "kind": there.kind.as_str(),
        "metadata": {"name": there.name, "namespace": there.namespace},
        "spec": there.spec,
    });
    if !there.labels.is_empty() {
        object["metadata"]["labels"] = json!(there.labels);
    }
    if let Some(name) = &there.co_owner {
        object["metadata"]["annotations"][names::ANNOTATION_CO_OWNER] = json!(name);
    }
    if !there.owners.is_empty() {
        object["metadata"]["ownerReferences"] = json!(there.owners);
    }
    object
}

/// The object with one field as it should be. An owner is one of several.
fn put(mut object: Value, path: &[String], want: Option<&Value>) -> Value {
    let Some((last, parents)) = path.split_last() else { return object };
    let mut node = &mut object;
    for key in parents {
        if !node.is_object() {
            *node = json!({});
        }
        node = &mut node[key.as_str()];
    }
    match (node, want) {
        (Value::Object(map), None) => drop(map.remove(last)),
        (node, Some(owner)) if last == "ownerReferences" => {
            let mut owners = node[last.as_str()].as_array().cloned().unwrap_or_default();
            owners.retain(|known| known.get("uid") != owner.get("uid"));
            owners.push(owner.clone());
            node[last.as_str()] = owners.into();
        }
        (node, Some(want)) => {
            if !node.is_object() {
                *node = json!({});
            }
            node[last.as_str()] = want.clone();
        }
        (_, None) => {}
    }
    object
}
