//! The world as text, without what differs from run to run: versions, times, identities.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

use super::run::KINDS;
use crate::fake::State;

/// Every object of the kinds that matter. An identity is the name of whose it is, as long as that lives.
pub fn text(state: &State) -> String {
    let mut text = String::new();
    let mut living = Vec::new();
    for plural in KINDS {
        for object in state.all(plural) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            living.push((object["metadata"]["uid"].to_string(), format!("\"of {plural}/{name}\"")));
            let mut object = object.clone();
            tidy(&mut object);
            text.extend([plural, "/", name, "\n", &serde_json::to_string_pretty(&object).unwrap(), "\n"]);
        }
    }
    for (uid, name) in living {
        text = text.replace(&uid, &name);
    }
    // Two words for the same, by whether there ever was something: a run may have skipped that.
    text.replace("what was generated from this object is removed", "nothing was generated")
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for key in ["resourceVersion", "creationTimestamp", "lastTransitionTime", "managedFields", "generation"] {
                fields.remove(key);
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// One number for what is there, what the operator was told of it, and what is still to come.
pub fn hash(state: &State, left: usize, dead: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    let uids: Vec<&Value> =
        KINDS.iter().flat_map(|plural| state.all(plural)).map(|one| &one["metadata"]["uid"]).collect();
    for plural in KINDS {
        for object in state.all(plural) {
            let (meta, conditions) = (&object["metadata"], object["status"]["conditions"].as_array());
            let said = |one: &Value| (one["status"].to_string(), one["reason"].to_string());
            let said: Vec<_> = conditions.into_iter().flatten().map(said).collect();
            let owners = meta["ownerReferences"].as_array().into_iter().flatten();
            let alive: Vec<bool> = owners.map(|owner| uids.contains(&&owner["uid"])).collect();
            (plural, meta["name"].to_string(), object["spec"].to_string(), said, alive).hash(&mut hasher);
        }
    }
    (KINDS.map(|plural| state.untold(plural)), left, dead).hash(&mut hasher);
    hasher.finish()
}
