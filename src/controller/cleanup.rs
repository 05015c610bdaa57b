//! What is taken away: from a policy that goes, that is gone, or that an older one has overtaken; and what is
//! given back to its owner.
//!
//! There is no finalizer: an operator that is gone must not keep policies alive. The garbage collector
//! is the net by the ownerReferences; this is faster, and VirtualServices go before DestinationRules.

use std::{cmp::Reverse, sync::Arc};

use super::{
    apply::{For, Hands, delete_all, give_back_all},
    cache::Entry,
    calls::CallError,
    index::Key,
    relations::is_policy,
    world::World,
};
use crate::{
    diff::{Prune, Release},
    istio::{Existing, Kind},
    names,
};

/// Deletes everything of the policy with `uid`, and gives back what it shares.
pub async fn release(hands: &Hands, of: For<'_>, uid: &str) -> Result<Vec<String>, CallError> {
    let namespace = of.namespace;
    let ours = prune(&hands.world, namespace, &[Key::Uid(uid)], |object| is_of(object, uid));
    let shared = shared(&hands.world, namespace, &[Key::Uid(uid)], |object| object.co_owner_uid() == Some(uid));
    clear(hands, of, &ours, &shared).await
}

async fn clear(hands: &Hands, of: For<'_>, ours: &[Prune], shared: &[Release]) -> Result<Vec<String>, CallError> {
    let mut writes = delete_all(hands, of, ours).await?;
    writes.extend(give_back_all(hands, of, shared).await?);
    Ok(writes)
}

/// Deletes and gives back what earlier policies of the name `name` left behind. `alive` is the uid of the one that
/// is there now, `last` that of the last one that was seen.
pub async fn sweep(
    hands: &Hands,
    of: For<'_>,
    alive: Option<&str>,
    last: Option<&str>,
) -> Result<Vec<String>, CallError> {
    let For { namespace, policy: name } = of;
    let left = |object: &Existing, alive: Option<&str>| {
        if alive.is_some_and(|alive| is_of(object, alive)) {
            return false;
        }
        let owner = object.owners.iter().find(|owner| is_policy(owner) && owner.name == name);
        let dead = |uid: &str| alive != Some(uid);
        match owner {
            Some(owner) => dead(&owner.uid),
            // Its owner was stripped: the label still says whose it was.
            None => last.is_some_and(|last| dead(last) && is_of(object, last)),
        }
    };
    let keys = [Some(Key::Owner(namespace, name)), last.map(Key::Uid)];
    let keys: Vec<_> = keys.into_iter().flatten().collect();
    // Blocks in an object of somebody else, whose policy no owner names.
    let forgotten = |object: &Existing| {
        let of_name = |uid: &str| object.co_owner.as_deref() == Some(name) || last == Some(uid);
        object.co_owner_uid().is_some_and(|uid| alive != Some(uid) && of_name(uid))
    };
    let left_behind = |object: &Existing| (!object.deleting && left(object, alive)) || forgotten(object);
    if found(&hands.world, namespace, &keys, left_behind).is_empty() {
        return Ok(Vec::new());
    }
    // A cache that lags behind, as after a list from a lagging API server, may miss a policy that is
    // there. Deleting its objects would be an outage, so this one time the truth is asked for.
    let now = hands.calls.uid_of_policy(namespace, name).await?;
    let orphans = prune(&hands.world, namespace, &keys, |object| {
        left(object, alive) && !now.as_deref().is_some_and(|now| is_of(object, now))
    });
    let shared = shared(&hands.world, namespace, &keys, |object| {
        forgotten(object) && (now.is_none() || object.co_owner_uid() != now.as_deref())
    });
    clear(hands, of, &orphans, &shared).await
}

fn is_of(object: &Existing, uid: &str) -> bool {
    object.owners.iter().any(|owner| owner.uid == uid)
        || object.labels.get(names::LABEL_OWNER_UID).is_some_and(|label| label == uid)
}

/// Everything under `keys` that is `meant` and not on its way out already, VirtualServices first.
fn prune(world: &World, namespace: &str, keys: &[Key<'_>], meant: impl Fn(&Existing) -> bool) -> Vec<Prune> {
    let mut meant = found(world, namespace, keys, |object| !object.deleting && meant(object));
    meant.sort_by_key(|entry| Reverse(entry.view.kind));
    let prune = |entry: &Entry<Arc<Existing>>| Prune {
        kind: entry.view.kind,
        name: entry.name.clone(),
        uid: Some(entry.uid.clone()),
    };
    meant.iter().map(|entry| prune(entry)).collect()
}

/// Every object of somebody else under `keys` that is `meant`, to be given back. One on its way out as well:
/// while something holds it, it acts.
fn shared(world: &World, namespace: &str, keys: &[Key<'_>], meant: impl Fn(&Existing) -> bool) -> Vec<Release> {
    let meant = found(world, namespace, keys, |object| object.co_owner_uid().is_some() && meant(object));
    let release = |entry: &Entry<Arc<Existing>>| Release {
        kind: entry.view.kind,
        name: entry.name.clone(),
        uid: Some(entry.uid.clone()),
    };
    meant.iter().map(|entry| release(entry)).collect()
}

/// What is `meant` of the Istio objects of a namespace under `keys`, each once, in the order in which they
/// are written.
fn found(
    world: &World,
    namespace: &str,
    keys: &[Key<'_>],
    meant: impl Fn(&Existing) -> bool,
) -> Vec<Arc<Entry<Arc<Existing>>>> {
    let mut entries: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| world.istio(kind).under(keys, None)).collect();
    entries.retain(|entry| entry.namespace == namespace && meant(&entry.view));
    entries
}
