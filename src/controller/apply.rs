//! The last step but one: writes a [`Diff`], and says what the API server holds then.
//!
//! One apply an object, and its answer is the read-back. DestinationRule before VirtualService; the
//! other way round when they go.

use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::Value;

use super::{
    cache::{Delta, Entry},
    calls::{CallError, Calls, Verdict},
    world::{self, Policy, World},
};
use crate::{
    api::Ownership,
    diff::{Change, Diff, Prune, Release, Write, changes, contest, emptied_patch, one_owner, strip_patch},
    istio::{Existing, Kind},
    status::{Applied, Failure, Outcome},
    translate::{Desired, DesiredObject},
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
    /// Told of a policy as the answer to its status has it: an edit may have come in between, and the
    /// watch's own event will be no news.
    pub edited: Box<Edited>,
}

/// Takes a policy before and after a write of its status.
pub type Edited = dyn Fn(&Delta<Policy>) + Send + Sync;

/// On behalf of whom something is written.
#[derive(Clone, Copy)]
pub struct For<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The policy.
    pub policy: &'a str,
}

impl<'a> For<'a> {
    fn owner(owner: &'a Owner) -> Self {
        Self { namespace: &owner.namespace, policy: &owner.name }
    }
}

impl Hands {
    /// Takes what became of a write: where nobody knows, the object is read before the next decision.
    fn sure<T>(&self, kind: Kind, of: For<'_>, name: &str, answer: Result<T, CallError>) -> Result<T, CallError> {
        if answer.as_ref().is_err_and(CallError::leaves_doubt) {
            self.world.istio(kind).doubt(of.namespace, name, of.policy);
        }
        answer
    }
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
    /// Somebody else has a field of the blocks that were to stand in his object.
    #[error("{0}")]
    Contested(String),
}

/// Writes `diff`. Every failure is an outcome: the policy was fine, its objects are not there.
pub async fn apply(hands: &Hands, valid: Valid, desired: &Desired, diff: &Diff) -> Outcome {
    match write_all(hands, &valid.owner, desired, diff).await {
        Ok(applied) => Outcome::held(valid, applied),
        Err(error) => failed(valid, &error),
    }
}

fn failed(valid: Valid, error: &ApplyError) -> Outcome {
    let message = error.to_string();
    let failed = |slow| Failure { message: message.clone(), slow };
    let verdict = match error {
        ApplyError::Call(call) => call.verdict(),
        ApplyError::Contested(sentence) => return Outcome::FieldConflict(Box::new(valid), sentence.clone()),
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
        Verdict::Contested | Verdict::Changed | Verdict::Gone | Verdict::Unavailable => {
            Outcome::Failed(Box::new(valid), failed(false))
        }
    }
}

async fn write_all(hands: &Hands, owner: &Owner, desired: &Desired, diff: &Diff) -> Result<Applied, ApplyError> {
    // Without `..`, so that a third kind of change does not compile until it is written as well.
    let Diff { apply, prune, release } = diff;
    let mut writes = Vec::new();
    for change in apply {
        write(hands, owner, change).await?;
        let Write { object, changes, create, uid: _ } = change;
        let verb = match object.ownership {
            Ownership::Created if *create => "created",
            Ownership::Created => "updated",
            Ownership::CoOwned => "merged into",
        };
        let why: Vec<String> = changes.iter().map(|change| change.path.join(".")).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        writes.push(format!("{verb} {} {}{why}", object.kind, object.name));
    }
    writes.extend(delete_all(hands, For::owner(owner), prune).await?);
    writes.extend(give_back_all(hands, For::owner(owner), release).await?);
    let generated = desired.objects().iter().map(DesiredObject::reference).collect();
    Ok(Applied { generated, writes })
}

/// Gives back objects of others, each only as the one that was looked at. Gives a line for each.
pub async fn give_back_all(hands: &Hands, of: For<'_>, release: &[Release]) -> Result<Vec<String>, CallError> {
    let (mut writes, namespace) = (Vec::new(), of.namespace);
    for Release { kind, name, uid } in release {
        let (Some(uid), Some(seen)) = (uid, hands.world.istio(*kind).get(namespace, name)) else { continue };
        let mut answer = hands.calls.give_back(*kind, namespace, name, uid, seen.version).await;
        if let Some(emptied) = empty_first(hands, of, &answer, &seen, &Value::Null).await? {
            answer = hands.calls.give_back(*kind, namespace, name, uid, emptied.version).await;
        }
        let answer = hands.sure(*kind, of, name, answer)?;
        if let Some(delta) = hands.world.istio(*kind).put_own(world::existing(*kind, answer)) {
            (hands.changed)(&delta, None);
        }
        writes.push(format!("gave back {kind} {name}"));
    }
    Ok(writes)
}

/// Deletes, in order, each only as the object that was looked at. Gives a line for each.
pub async fn delete_all(hands: &Hands, of: For<'_>, prune: &[Prune]) -> Result<Vec<String>, CallError> {
    let (mut writes, namespace) = (Vec::new(), of.namespace);
    for Prune { kind, name, uid } in prune {
        // Whatever was watched has one; without it, this could hit a successor.
        let Some(uid) = uid else { continue };
        let held = hands.sure(*kind, of, name, hands.calls.delete(*kind, namespace, name, uid).await)?;
        let cache = hands.world.istio(*kind);
        let delta = match held {
            Some(held) => cache.put_own(world::existing(*kind, held)),
            None => cache.remove(namespace, name, uid, None),
        };
        if let Some(delta) = delta {
            (hands.changed)(&delta, None);
        }
        writes.push(format!("deleted {kind} {name}"));
    }
    Ok(writes)
}

async fn write(hands: &Hands, owner: &Owner, write: &Write) -> Result<(), ApplyError> {
    let Write { object, changes: _, create, uid } = write;
    let (calls, namespace, of) = (&hands.calls, &owner.namespace, For::owner(owner));
    let answer = match (object.ownership, uid) {
        (Ownership::CoOwned, uid) => return merge(hands, owner, write, uid.as_deref().unwrap_or_default()).await,
        (Ownership::Created, Some(uid)) if !create => calls.update(namespace, object, uid).await,
        (Ownership::Created, _) => calls.create(namespace, object).await,
    };
    let answer = hands.sure(object.kind, of, &object.name, answer)?;
    let version = answer.metadata.resource_version.clone();
    let (mut leftover, _) = read_back(hands, owner, write, answer);
    if let Some(patch) = strip_patch(&leftover) {
        let answer = calls.strip(object.kind, namespace, &object.name, version.as_deref(), patch).await;
        let answer = hands.sure(object.kind, of, &object.name, answer)?;
        (leftover, _) = read_back(hands, owner, write, answer);
    }
    settled(object, &leftover)
}

/// Puts blocks into somebody else's object.
async fn merge(hands: &Hands, owner: &Owner, write: &Write, uid: &str) -> Result<(), ApplyError> {
    let (Hands { calls, world, .. }, object, namespace) = (hands, &write.object, &owner.namespace);
    let mut answer = calls.merge(namespace, object, uid).await;
    let want = object.json.get("spec").unwrap_or(&Value::Null);
    if let Some(seen) = world.istio(object.kind).get(namespace, &object.name)
        && empty_first(hands, For::owner(owner), &answer, &seen, want).await?.is_some()
    {
        answer = calls.merge(namespace, object, uid).await;
    }
    let answer = hands.sure(object.kind, For::owner(owner), &object.name, answer);
    let answer = answer.map_err(|error| match error.verdict() {
        Verdict::Contested => {
            ApplyError::Contested(one_owner(object.kind, namespace, &object.name, &error.contested().join(", ")))
        }
        _ => error.into(),
    })?;
    let (leftover, there) = read_back(hands, owner, write, answer);
    match contest(object, &leftover, &there) {
        Some(sentence) => Err(ApplyError::Contested(sentence)),
        None => settled(object, &leftover),
    }
}

/// Where the API server refused an apply since it would leave blocks of an object empty: takes those out
/// beforehand, and gives the object as it is then. `want` is the spec that is applied.
async fn empty_first(
    hands: &Hands,
    of: For<'_>,
    answer: &Result<DynamicObject, CallError>,
    seen: &Entry<Arc<Existing>>,
    want: &Value,
) -> Result<Option<Entry<Arc<Existing>>>, CallError> {
    if !answer.as_ref().is_err_and(|error| error.verdict() == Verdict::Refused) {
        return Ok(None);
    }
    let Some(patch) = emptied_patch(&seen.view, want) else { return Ok(None) };
    let (kind, version) = (seen.view.kind, seen.version.map(|version| version.to_string()));
    let emptied = hands.calls.strip(kind, &seen.namespace, &seen.name, version.as_deref(), patch).await;
    let emptied = hands.sure(kind, of, &seen.name, emptied)?;
    Ok(Some(world::existing(kind, emptied)))
}

/// Fails if something is not as it was written.
fn settled(object: &DesiredObject, leftover: &[Change]) -> Result<(), ApplyError> {
    if leftover.is_empty() {
        return Ok(());
    }
    let leftover = leftover.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Err(ApplyError::Unstable { kind: object.kind, name: object.name.clone(), leftover })
}

/// Takes an answer into the cache, so that the next reconcile sees it even before the watch does, and
/// says what in it is not as desired, and what it is.
fn read_back(hands: &Hands, owner: &Owner, write: &Write, answer: DynamicObject) -> (Vec<Change>, Arc<Existing>) {
    let entry = world::existing(write.object.kind, answer);
    let there = entry.view.clone();
    if let Some(delta) = hands.world.istio(write.object.kind).put_own(entry) {
        (hands.changed)(&delta, Some(&owner.name));
    }
    (changes(&write.object, &there), there)
}
