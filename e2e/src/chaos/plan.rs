//! In: a seed. Out: the steps of a run: which fault comes when, and what a user does before and meanwhile. Pure: the
//! same seed gives the same steps on any machine, however fast it is; only how many of them fit differs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::faults::Fault;

/// How many policies the user plays with, each for a Service of its own.
pub const SLOTS: u32 = 12;

/// The namespaces that the slots are in, in turn.
pub const NAMESPACES: [&str; 2] = ["chaos-a", "chaos-b"];

/// What the user wants of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// A limit that no other edit of the run has: an object that has it is of this edit.
    pub value: u32,
    /// Only to be observed: nothing is generated.
    pub observe: bool,
}

/// What the user wants, by slot; a slot that is not in it has no policy.
pub type Wishes = BTreeMap<u32, Wish>;

/// One thing that the user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// To which slot.
    pub slot: u32,
    /// What; `None` deletes its policy.
    pub wish: Option<Wish>,
}

impl Edit {
    /// Does it.
    pub fn enter(self, wishes: &mut Wishes) {
        match self.wish {
            Some(wish) => drop(wishes.insert(self.slot, wish)),
            None => drop(wishes.remove(&self.slot)),
        }
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// From 0.
    pub number: u32,
    /// What goes wrong.
    pub fault: &'static Fault,
    /// For whatever the fault draws.
    pub seed: u64,
    /// What the user does while it does.
    pub edits: Vec<Edit>,
}

/// Step `number` of the run of a seed. Faults come in rounds, each in an order of its own, so that each comes
/// once before one comes twice.
#[must_use]
pub fn step(seed: u64, number: u32, faults: &[&'static Fault]) -> Step {
    let count = u32::try_from(faults.len()).unwrap_or(1).max(1);
    let (round, place) = (number / count, number % count);
    let mut order = faults.to_vec();
    of(seed, "round", round).shuffle(&mut order);
    let mut random = of(seed, "step", number);
    let edits = (0..random.u32(4..=8)).map(|index| {
        let value = (number + 1) * 100 + index;
        let wish = match random.u32(0..10) {
            0 | 1 => None,
            2 => Some(Wish { value, observe: true }),
            _ => Some(Wish { value, observe: false }),
        };
        Edit { slot: random.u32(0..SLOTS), wish }
    });
    let edits = edits.collect();
    Step { number, fault: order[place as usize], seed: random.u64(..), edits }
}

/// What the user wants when a step begins.
#[must_use]
pub fn wishes(seed: u64, number: u32, faults: &[&'static Fault]) -> Wishes {
    let mut wishes: Wishes = (0..SLOTS).map(|slot| (slot, Wish { value: slot + 1, observe: false })).collect();
    for step in (0..number).map(|number| step(seed, number, faults)) {
        step.edits.iter().for_each(|edit| edit.enter(&mut wishes));
    }
    wishes
}

/// A source of its own for each use: what one draws must not shift what another one does.
fn of(seed: u64, what: &str, number: u32) -> fastrand::Rng {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(format!("{seed}/{what}/{number}"));
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    fastrand::Rng::with_seed(u64::from_le_bytes(bytes))
}

/// The namespace of a slot.
#[must_use]
pub fn namespace(slot: u32) -> &'static str {
    NAMESPACES[slot as usize % NAMESPACES.len()]
}

/// The name of a slot's Service, of its policy, and so of what is generated.
#[must_use]
pub fn name(slot: u32) -> String {
    format!("service-{slot}")
}

/// The timeout of a wish, in seconds: what tells its routes from those of another.
#[must_use]
pub fn seconds(value: u32) -> u32 {
    1 + value % 3000
}

/// The Service of a slot.
#[must_use]
pub fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })
}

/// The policy of a wish.
#[must_use]
pub fn policy(namespace: &str, name: &str, wish: Wish) -> Value {
    json!({
        "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": name}],
            "mode": if wish.observe { "Observe" } else { "Enforce" },
            "limits": {"perClient": {"activeRequests": wish.value}},
            "timeouts": {"request": format!("{}s", seconds(wish.value))},
        },
    })
}

/// All policies as documents, or those of one namespace.
#[must_use]
pub fn policies(wishes: &Wishes, within: Option<&str>) -> Vec<Value> {
    let wanted = wishes.iter().filter(|(slot, _)| within.is_none_or(|within| within == namespace(**slot)));
    wanted.map(|(slot, wish)| policy(namespace(*slot), &name(*slot), *wish)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::faults::FAULTS;
    use super::*;

    fn all() -> Vec<&'static Fault> {
        FAULTS.iter().collect()
    }

    #[test]
    fn a_seed_draws_the_same_steps_again_and_another_seed_draws_others() {
        let told = |seed| format!("{:?}", (0..50).map(|number| step(seed, number, &all())).collect::<Vec<_>>());
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn each_fault_comes_once_a_round() {
        let count = u32::try_from(FAULTS.len()).unwrap();
        for round in 0..3 {
            let steps = (0..count).map(|place| step(1, round * count + place, &all()));
            assert_eq!(steps.map(|step| step.fault.name).collect::<BTreeSet<_>>().len(), FAULTS.len());
        }
    }

    #[test]
    fn no_two_edits_have_the_same_value() {
        let edits = (0..500).flat_map(|number| step(3, number, &all()).edits);
        let values: Vec<u32> = edits.filter_map(|edit| edit.wish.map(|wish| wish.value)).collect();
        assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len());
        assert!(values.iter().all(|value| *value > SLOTS));
    }

    #[test]
    fn a_run_that_begins_later_begins_with_what_the_steps_before_it_left() {
        let mut wishes = wishes(5, 4, &all());
        step(5, 4, &all()).edits.iter().for_each(|edit| edit.enter(&mut wishes));
        assert_eq!(wishes, super::wishes(5, 5, &all()));
    }
}
