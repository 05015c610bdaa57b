//! The last step but one: writes a [`Diff`], and says what the API server holds then.
//!
//! One apply an object, and its answer is the read-back. DestinationRule before VirtualService; the
//! other way round when they go.

use std::sync::Arc;

use kube::api::DynamicObject;

use super::{
    cache::Delta,
    calls::{CallError, Calls, Verdict},
    world::{self, World},
};
use crate::{
    api::{GeneratedRef, Ownership},
    diff::{Change, Diff, Prune, Write, changes, strip_patch},
    istio::{Existing, Kind},
    status::{Applied, Failure, Outcome},
    translate::Desired,
    validate::{Owner, Valid},
};

/// Takes what a write changed, and the name of the policy that wrote it, which need not be told.
pub type Changed = dyn Fn(&Delta<Arc<Existing>>, Option<&str>) + Send + Sync;

/// What writes: the calls, and the world that learns from their answers before the watches do.
pub struct Hands {
    /// The API server.
    pub calls: Calls,
    /// What was watched, and written.
    pub world: Arc<World>,
    /// Told of what was written: others may have waited for it, or stand beside it now, and the watch's own
    /// event will find it in the cache already.
    pub changed: Box<Changed>,
}

/// Why a diff was not written to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was written is not what is there.
    #[error(
        "{kind} {name} does not stay as it is written ({leftover}): something changes it as it is stored, look for a mutating webhook"
    )]
    Unstable {
        /// Which kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// What is not as desired.
        leftover: String,
    },
}

/// Writes `diff`. Every failure is an outcome: the policy was fine, its objects are not there.
pub async fn apply(hands: &Hands, valid: Valid, desired: &Desired, diff: &Diff) -> Outcome {
    match write_all(hands, &valid.owner, desired, diff).await {
        Ok(applied) => Outcome::Programmed(Box::new(valid), applied),
        Err(error) => failed(valid, &error),
    }
}

fn failed(valid: Valid, error: &ApplyError) -> Outcome {
    let message = error.to_string();
    let failed = |slow| Failure { message: message.clone(), slow };
    let verdict = match error {
        ApplyError::Call(call) => call.verdict(),
        ApplyError::Unstable { .. } => return Outcome::Failed(Box::new(valid), failed(true)),
    };
    match verdict {
        Verdict::Refused => Outcome::Refused(Box::new(valid), failed(false)),
        // Another Istio heals it, and that is looked for (`installed`).
        Verdict::Undeclared => {
            let message = format!("{message}: the installed Istio has no such field; upgrade it, its CRDs included");
            Outcome::Refused(Box::new(valid), Failure { message, slow: true })
        }
        Verdict::Forbidden => Outcome::Failed(Box::new(valid), failed(true)),
        // Changed: what is there now is looked at anew. Gone: the CRD or the namespace is missing.
        Verdict::Changed | Verdict::Gone | Verdict::Unavailable => Outcome::Failed(Box::new(valid), failed(false)),
    }
}

async fn write_all(hands: &Hands, owner: &Owner, desired: &Desired, diff: &Diff) -> Result<Applied, ApplyError> {
    // Without `..`, so that a third kind of change does not compile until it is written as well.
    let Diff { apply, prune } = diff;
    let mut writes = Vec::new();
    for change in apply {
        write(hands, owner, change).await?;
        let Write { object, changes, create, uid: _ } = change;
        let verb = if *create { "created" } else { "updated" };
        let why: Vec<String> = changes.iter().map(|change| change.path.join(".")).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        writes.push(format!("{verb} {} {}{why}", object.kind, object.name));
    }
    writes.extend(delete_all(hands, &owner.namespace, prune).await?);
    let generated = desired.objects().into_iter().map(|object| GeneratedRef {
        kind: object.kind.to_string(),
        name: object.name,
        ownership: Ownership::Created,
    });
    Ok(Applied { generated: generated.collect(), writes })
}

/// Deletes, in order, each only as the object that was looked at. Gives a line for each.
pub async fn delete_all(hands: &Hands, namespace: &str, prune: &[Prune]) -> Result<Vec<String>, CallError> {
    let mut writes = Vec::new();
    for Prune { kind, name, uid } in prune {
        // Whatever was watched has one; without it, this could hit a successor.
        let Some(uid) = uid else { continue };
        hands.calls.delete(*kind, namespace, name, uid).await?;
        if let Some(delta) = hands.world.istio(*kind).remove(namespace, name, uid) {
            (hands.changed)(&delta, None);
        }
        writes.push(format!("deleted {kind} {name}"));
    }
    Ok(writes)
}

async fn write(hands: &Hands, owner: &Owner, write: &Write) -> Result<(), ApplyError> {
    let Write { object, changes: _, create, uid } = write;
    let (calls, namespace) = (&hands.calls, &owner.namespace);
    let answer = match uid {
        Some(uid) if !create => calls.update(namespace, object, uid).await?,
        _ => calls.create(namespace, object).await?,
    };
    let mut leftover = read_back(hands, owner, write, &answer);
    if let Some(patch) = strip_patch(&leftover) {
        let answer = calls.strip(object.kind, &answer, patch).await?;
        leftover = read_back(hands, owner, write, &answer);
    }
    if leftover.is_empty() {
        return Ok(());
    }
    let leftover = leftover.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Err(ApplyError::Unstable { kind: object.kind, name: object.name.clone(), leftover })
}

/// Takes an answer into the cache, so that the next reconcile sees it even before the watch does, and
/// says what in it is not as desired.
fn read_back(hands: &Hands, owner: &Owner, write: &Write, answer: &DynamicObject) -> Vec<Change> {
    let entry = world::existing(write.object.kind, answer.clone());
    let there = entry.view.clone();
    if let Some(delta) = hands.world.istio(write.object.kind).put(entry) {
        (hands.changed)(&delta, Some(&owner.name));
    }
    changes(&write.object, &there)
}
