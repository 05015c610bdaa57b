//! `tests/translate/*.in.yaml` → `*.out.yaml`: from a Resilience and its world to the objects, the
//! writes and the status.
//!
//! A file is a whole cluster: a Service that is not in it is missing, and without EndpointSlices
//! there are no endpoints. `UPDATE_GOLDEN=1 cargo test golden` writes the second halves anew; the
//! review is the diff.

use std::{fs, path::Path};

use jiff::Timestamp;
use resilience_operator::{
    api::{
        GeneratedRef, Mode, Ownership, Resilience,
        conditions::{IN_EFFECT, VERIFIED},
    },
    cli::{
        input,
        world::{Beyond, Policy, World},
        yaml,
    },
    diff::{contest, describe, diff},
    in_effect::Proof,
    istio::{Existing, Kind, Source, spec_faults},
    names::{LABEL_CO_OWNER_UID, LABEL_OWNER_UID},
    status::{Applied, Frozen, Outcome, status},
    translate::translate,
    validate::{Owner, Settings, validate},
};
use serde_json::{Value, json};

use crate::support::{difference, files, merge, name};

#[test]
fn every_golden_file_is_what_the_operator_generates_and_says() {
    let inputs = files("tests/translate", ".in.yaml");
    assert!(inputs.len() >= 150, "only {} pairs", inputs.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut stale = Vec::new();
    for input in inputs {
        let output = Path::new(&input.to_string_lossy().replace(".in.yaml", ".out.yaml")).to_owned();
        let want = out(&input);
        let have = fs::read_to_string(&output).unwrap_or_default();
        if update {
            fs::write(&output, &want).expect("it can be written");
        } else if have != want {
            stale.push(format!("{}:\n{}", name(&output), difference(&have, &want)));
        }
    }
    assert!(stale.is_empty(), "{}\nIf this is meant: UPDATE_GOLDEN=1 cargo test golden", stale.join("\n\n"));
}

#[test]
fn every_second_half_has_a_first_half() {
    for output in files("tests/translate", ".out.yaml") {
        let input = output.to_string_lossy().replace(".out.yaml", ".in.yaml");
        assert!(Path::new(&input).exists(), "{}: its .in.yaml is gone: delete it", name(&output));
    }
}

fn out(path: &Path) -> String {
    let read = input::read(&[path.to_owned()], &mut std::io::empty());
    let world = World::new(read, "default", &Settings::default());
    assert_eq!(world.unreadable, Vec::<String>::new(), "{}", name(path));
    assert_eq!(world.passed_over, Vec::<String>::new(), "{}", name(path));
    assert!(!world.policies.is_empty(), "{}: no Resilience", name(path));
    let documents: Vec<String> = world.policies.iter().map(|policy| decided(policy, &world)).collect();
    format!("# Written by: UPDATE_GOLDEN=1 cargo test golden\n{}", documents.join("---\n"))
}

/// Writes, objects and status of one policy.
fn decided(policy: &Policy, world: &World) -> String {
    let resilience = match &policy.object {
        Ok(resilience) => resilience,
        Err(faults) => panic!("{}: {faults:#?}", policy.place),
    };
    let observed = world.observe(resilience, Beyond::Nothing);
    let mut text = String::new();
    let outcome = match validate(resilience, &observed, &Settings::default()) {
        Err(refusal) => Outcome::from(refusal),
        Ok(valid) => {
            let desired = translate(&valid);
            let diff = diff(&desired, &valid.owner, &observed.existing);
            let missing = describe(&diff);
            match valid.mode {
                Mode::Enforce => {}
                Mode::Observe => {
                    for there in held(&valid.owner, &observed.existing) {
                        let verb = match there.ownership {
                            Ownership::Created => "delete",
                            Ownership::CoOwned => "give back",
                        };
                        text.extend(["# ", verb, " ", &there.kind, " ", &there.name, "\n"]);
                    }
                    let wanted = desired.objects().into_iter().map(|object| object.called());
                    let outcome = Outcome::Observing(Box::new(valid), wanted.collect());
                    return text + &said(policy, resilience, &outcome);
                }
                Mode::Suspend => {
                    let generated = held(&valid.owner, &observed.existing);
                    let outcome = Outcome::Suspended(Box::new(valid), Frozen { generated, missing });
                    return text + &said(policy, resilience, &outcome);
                }
            }
            let of = |name: &str| {
                observed.existing.iter().find(|there| there.kind == Kind::DestinationRule && there.name == name)
            };
            let contested =
                diff.apply.iter().find_map(|write| contest(&write.object, &write.changes, of(&write.object.name)?));
            if let Some(sentence) = contested {
                return text + &said(policy, resilience, &Outcome::FieldConflict(Box::new(valid), sentence));
            }
            for line in missing {
                text.extend(["# ", &line, "\n"]);
            }
            let mut applied = Applied::default();
            for object in desired.objects() {
                let faults = if object.ownership == Ownership::CoOwned {
                    let mut spec = of(&object.name).expect("it is somebody's").spec.clone();
                    merge(&mut spec, &object.json["spec"]);
                    // What else is in it is its owner's: Istio's verdict counts, not our taste.
                    let mut faults = spec_faults(object.kind, &spec);
                    faults.retain(|fault| fault.source == Source::Istio);
                    faults
                } else {
                    spec_faults(object.kind, &object.json["spec"])
                };
                assert_eq!(faults, vec![], "{}", policy.place);
                text.push_str(&yaml::print(&object.json).expect("it can be printed"));
                text.push_str("---\n");
                applied.generated.push(object.reference());
            }
            Outcome::held(valid, applied)
        }
    };
    text + &said(policy, resilience, &outcome)
}

/// What there is of a policy.
fn held(owner: &Owner, existing: &[Existing]) -> Vec<GeneratedRef> {
    let labels = [(LABEL_OWNER_UID, Ownership::Created), (LABEL_CO_OWNER_UID, Ownership::CoOwned)];
    let held = existing.iter().filter_map(|one| {
        let (_, ownership) = labels.into_iter().find(|(label, _)| owner.uid.as_ref() == one.labels.get(*label))?;
        Some(GeneratedRef { kind: one.kind.as_str().to_owned(), name: one.name.clone(), ownership })
    });
    held.collect()
}

/// The policy with its status after `outcome`.
fn said(policy: &Policy, resilience: &Resilience, outcome: &Outcome) -> String {
    let mut status = status(resilience, outcome, &Proof::NotSetUp, Timestamp::UNIX_EPOCH)
        .expect("the first status differs from none");
    // What files cannot tell, and would say in each: whether proxies have it, and whether it was tried.
    status.conditions.retain(|condition| condition.type_ != IN_EFFECT && condition.type_ != VERIFIED);
    let object: Value = json!({
        "apiVersion": resilience_operator::names::API_VERSION,
        "kind": resilience_operator::names::KIND,
        "metadata": {"name": policy.name, "namespace": policy.namespace},
        "status": status,
    });
    yaml::print(&object).expect("it can be printed")
}
