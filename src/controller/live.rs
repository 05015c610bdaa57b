//! Reads what a decision is to rest on, where the cache is not to be trusted.

use std::collections::BTreeSet;

use super::{
    apply::{For, Hands},
    cache::Entry,
    calls::CallError,
    index::Key,
    world::{self, Policy},
};
use crate::{istio::Kind, names};

/// Reads each Istio object that was written on behalf of a policy, and that no watch has shown since, or of
/// which nobody knows what became of it; see [`Own`](super::own::Own).
pub async fn read_what_is_unsure(hands: &Hands, of: For<'_>, found: Option<&Entry<Policy>>) -> Result<(), CallError> {
    let For { namespace, policy } = of;
    for kind in Kind::ALL {
        let cache = hands.world.istio(kind);
        let mut names: BTreeSet<String> =
            found.and_then(|found| found.view.target()).map(names::generated_name).into_iter().collect();
        names.extend(found.iter().flat_map(|found| cache.by(Key::Uid(&found.uid))).map(|entry| entry.name.clone()));
        for name in cache.unsure(namespace, policy, &names) {
            let there = hands.calls.read(kind, namespace, &name).await?;
            let delta = if let Some(object) = there {
                cache.put_own(world::existing(kind, object))
            } else {
                let known = cache.get(namespace, &name);
                known.and_then(|known| cache.remove(namespace, &name, &known.uid, None))
            };
            cache.settle(namespace, &name, policy);
            if let Some(delta) = delta {
                (hands.changed)(&delta, Some(policy));
            }
        }
    }
    Ok(())
}
