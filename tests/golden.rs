//! `tests/translate/*.in.yaml` → `*.out.yaml`: from a Resilience and its world to the objects, the
//! writes and the status.
//!
//! A file is a whole cluster: a Service that is not in it is missing, and without EndpointSlices
//! there are no endpoints. `UPDATE_GOLDEN=1 cargo test golden` writes the second halves anew; the
//! review is the diff.

use std::{fs, path::Path};

use jiff::Timestamp;
use resilience_operator::{
    api::{GeneratedRef, Ownership},
    cli::{
        input,
        world::{Beyond, Policy, World},
        yaml,
    },
    diff::{describe, diff},
    istio::{Kind, destination_rule_faults, virtual_service_faults},
    status::{Applied, Outcome, status},
    translate::translate,
    validate::{Settings, validate},
};
use serde_json::{Value, json};

use crate::support::{difference, files, name};

#[test]
fn every_golden_file_is_what_the_operator_generates_and_says() {
    let inputs = files("tests/translate", ".in.yaml");
    assert!(inputs.len() >= 25, "only {} pairs", inputs.len());
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
    let world = World::new(read, "default");
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
            for line in describe(&diff(&desired, &valid.owner, &observed.existing)) {
                text.extend(["# ", &line, "\n"]);
            }
            let mut generated = Vec::new();
            for object in desired.objects() {
                let faults = match object.kind {
                    Kind::DestinationRule => destination_rule_faults(&object.json["spec"]),
                    Kind::VirtualService => virtual_service_faults(&object.json["spec"]),
                };
                assert_eq!(faults, vec![], "{}", policy.place);
                text.push_str(&yaml::print(&object.json).expect("it can be printed"));
                text.push_str("---\n");
                let kind = object.kind.as_str().to_owned();
                generated.push(GeneratedRef { kind, name: object.name, ownership: Ownership::Created });
            }
            Outcome::Programmed(Box::new(valid), Applied { generated, writes: Vec::new() })
        }
    };
    let status = status(resilience, &outcome, Timestamp::UNIX_EPOCH).expect("the first status differs from none");
    let object: Value = json!({
        "apiVersion": resilience_operator::names::API_VERSION,
        "kind": resilience_operator::names::KIND,
        "metadata": {"name": policy.name, "namespace": policy.namespace},
        "status": status,
    });
    text + &yaml::print(&object).expect("it can be printed")
}
