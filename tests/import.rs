//! From what stands there to policies: golden pairs in `tests/import`, what holds of every policy that is
//! rendered and read back, and the hand-over against the API server in the process, broken at each write.
//!
//! `UPDATE_GOLDEN=1 cargo test import` writes the second halves anew.

use std::{fs, path::Path, sync::Arc};

use kube::api::ObjectMeta;
use proptest::prelude::*;
use resilience_operator::{
    api::{Mode, Resilience, TargetKind},
    cli::{import::of_files, input, world::World, yaml},
    import::{Imported, Sources, import, same_effect},
    istio::Existing,
    observed::{Observed, Target},
    translate::{DesiredObject, translate},
    validate::{Settings, validate},
};
use serde_json::{Value, json};

use crate::{
    fake::{Fake, Fault},
    legal::{policy, world},
    live::{Stage, text},
    reconcile::{DR, Operator, POLICIES, VS, service, settle, until_programmed},
    support::{difference, files, name, root},
};

#[test]
fn every_golden_file_is_what_import_makes_of_it() {
    let inputs = files("tests/import", ".in.yaml");
    assert!(inputs.len() >= 20, "only {} pairs", inputs.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut stale = Vec::new();
    for input in inputs {
        let output = Path::new(&input.to_string_lossy().replace(".in.yaml", ".out.yaml")).to_owned();
        let world = World::new(input::read(&[input], &mut std::io::empty()), "default", &Settings::default());
        assert_eq!(world.unreadable, Vec::<String>::new());
        let want = yaml::print(&of_files(&world, &Settings::default())).unwrap();
        let have = fs::read_to_string(&output).unwrap_or_default();
        if update {
            fs::write(&output, &want).unwrap();
        } else if have != want {
            stale.push(format!("{}:\n{}", name(&output), difference(&have, &want)));
        }
    }
    assert!(stale.is_empty(), "{}\nIf this is meant: UPDATE_GOLDEN=1 cargo test import", stale.join("\n\n"));
}

#[test]
fn what_our_samples_generate_is_imported_whole() {
    const HTTPBIN: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: httpbin}\nspec: {selector: {app: httpbin}, ports: [{name: http, port: 8000}]}\n";
    let samples = ["http-api", "grpc-service", "httpbin-circuit-breaker", "limits-on-both-sides"];
    for sample in samples {
        let folder = root().join("istio-samples").join(sample);
        let files = ["generated.yaml", "service.yaml"].map(|file| folder.join(file));
        let files: Vec<_> = files.into_iter().filter(|file| file.exists()).chain([Path::new("-").to_owned()]).collect();
        let world = World::new(input::read(&files, &mut HTTPBIN.as_bytes()), "default", &Settings::default());
        let report = of_files(&world, &Settings::default());
        assert!(report.whole && !report.hosts.is_empty(), "{sample}: {:#?}", report.hosts);
    }
}

/// What is generated from a policy, as somebody's own objects.
fn rendered(policy: &Resilience, world: &Observed) -> Vec<DesiredObject> {
    translate(&validate(policy, world, &Settings::default()).unwrap_or_else(|refusal| panic!("{refusal:?}"))).objects()
}

fn as_theirs(object: &DesiredObject) -> Arc<Existing> {
    let meta =
        ObjectMeta { name: Some(object.name.clone()), namespace: Some("shop".to_owned()), ..ObjectMeta::default() };
    Arc::new(Existing::new(object.kind, &meta, object.json["spec"].clone()))
}

fn imported(policy: &Resilience, world: &Observed, objects: &[DesiredObject]) -> Vec<Imported> {
    let Target::Found(service) = world.target.clone() else { panic!("no target") };
    let sources = Sources {
        objects: objects.iter().map(as_theirs).collect(),
        targets: vec![(policy.spec.target_refs[0].clone(), service)],
        policies: Vec::new(),
        observe: &|_| world.clone(),
    };
    import("shop", &sources, &Settings::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_rendered_imported_and_rendered_again_has_the_same_effect(mut policy in policy(), world in world()) {
        policy.metadata.uid = None;
        policy.spec.mode = Mode::Enforce;
        if let Some(limits) = &mut policy.spec.limits {
            limits.per_server = None;
        }
        policy.spec.limits = policy.spec.limits.filter(|limits| limits.per_client.is_some());
        let Ok(valid) = validate(&policy, &world, &Settings::default()) else { return Ok(()) };
        let before = translate(&valid).objects();
        prop_assume!(!before.is_empty());
        let all = imported(&policy, &world, &before);
        prop_assert_eq!(all.len(), 1);
        let one = &all[0];
        prop_assert!(one.is_whole(), "{:#?}", one.left);
        let again = one.policy.clone().unwrap();
        let after = rendered(&again, &world);
        let Target::Found(service) = &world.target else { unreachable!() };
        for kind in [resilience_operator::istio::Kind::DestinationRule, resilience_operator::istio::Kind::VirtualService] {
            let of = |objects: &[DesiredObject]| objects.iter().find(|object| object.kind == kind).map(|object| object.json["spec"].clone());
            let differing = same_effect(kind, of(&before).as_ref(), of(&after).as_ref(), ("shop", &valid.host), service, &Settings::default());
            prop_assert_eq!(differing, Vec::<String>::new());
        }
        // And to import what was imported changes nothing any more.
        let twice = imported(&again, &world, &after);
        prop_assert_eq!(twice[0].policy.as_ref().map(|policy| &policy.spec), Some(&again.spec));
        prop_assert!(policy.spec.target_refs[0].kind == TargetKind::Service || again.metadata.name.unwrap().ends_with(".serviceentry"));
    }
}

const OLD: &str = "2025-01-01T00:00:00Z";

fn rule(name: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": OLD},
        "spec": {"host": "web", "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 5}}, "outlierDetection": {}}},
    })
}

fn routes(name: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": OLD},
        "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}], "timeout": "3s"}]},
    })
}

/// A cluster with a Service that has a rule and routes of these names.
async fn stage(rules: &str, of_routes: &str) -> Stage {
    let stage = Stage::new().await;
    stage.fake.put("services", service("web"));
    stage.fake.put(DR, rule(rules));
    stage.fake.put(VS, routes(of_routes));
    stage
}

/// All objects of a kind that are for the host, without what `settle` leaves.
fn for_host(fake: &Fake, plural: &str) -> Vec<Value> {
    let state = fake.state();
    let host = |object: &Value| {
        let host = object.pointer("/spec/host").or_else(|| object.pointer("/spec/hosts/0"));
        host.and_then(Value::as_str).is_some_and(|host| host == "web" || host.starts_with("web."))
    };
    state.all(plural).into_iter().filter(|object| host(object)).cloned().collect()
}

/// What istiod makes of the rules and the routes: of each kind the oldest, whole.
fn in_force(fake: &Fake) {
    for (plural, pointer, value) in [
        (DR, "/spec/trafficPolicy/connectionPool/http/http2MaxRequests", json!(5)),
        (VS, "/spec/http/0/timeout", json!("3s")),
    ] {
        let mut all = for_host(fake, plural);
        all.sort_by_key(|object| {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("/metadata/creationTimestamp"), text("/metadata/name"))
        });
        let first = all.first().unwrap_or_else(|| panic!("there are no {plural}"));
        assert_eq!(first.pointer(pointer), Some(&value), "{first}");
    }
}

const ADOPT: [&str; 3] = ["import", "--adopt", "--yes"];

/// The writes of a hand-over that nothing disturbs.
async fn adopted(stage: &Stage) -> Vec<String> {
    let output = stage.run(&ADOPT).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    in_force(&stage.fake);
    stage.fake.writes()
}

/// The policy has its two objects and there are no others.
fn is_handed_over(fake: &Fake) {
    let uid = fake.get(POLICIES, "web").unwrap()["metadata"]["uid"].clone();
    for plural in [DR, VS] {
        let all = for_host(fake, plural);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0]["metadata"]["name"], "web");
        assert_eq!(all[0].pointer("/metadata/labels/resilience.dev~1owner-uid"), Some(&uid));
        assert_eq!(all[0].pointer("/metadata/ownerReferences/0/uid"), Some(&uid));
    }
}

#[tokio::test]
async fn objects_of_the_targets_name_become_the_policys_in_one_write_each() {
    let stage = stage("web", "web").await;
    let writes = adopted(&stage).await;
    assert_eq!(writes, ["post resiliences/", "update destinationrules/web", "update virtualservices/web"]);
    is_handed_over(&stage.fake);
    // Said now, what acted before.
    let rule = stage.fake.get(DR, "web").unwrap();
    assert_eq!(rule.pointer("/spec/trafficPolicy/outlierDetection/maxEjectionPercent"), Some(&json!(10)));
}

#[tokio::test]
async fn objects_of_other_names_go_after_a_copy_stands_beside_them() {
    let stage = stage("theirs", "their-routes").await;
    let writes = adopted(&stage).await;
    let expected = [
        "create destinationrules/web",
        "create virtualservices/web",
        "delete destinationrules/theirs",
        "delete virtualservices/their-routes",
        "post resiliences/",
        "update destinationrules/web",
        "update virtualservices/web",
    ];
    assert_eq!(writes, expected);
    is_handed_over(&stage.fake);
}

#[tokio::test]
async fn broken_off_at_any_write_a_policy_is_in_force_and_the_next_run_ends_it() {
    for (rules, of_routes) in [("web", "web"), ("theirs", "their-routes"), ("theirs", "web"), ("web", "their-routes")] {
        let writes = adopted(&stage(rules, of_routes).await).await;
        for write in &writes {
            for fault in [Fault::Answer(500, "down"), Fault::AnswerAfter(500, "lost")] {
                let stage = stage(rules, of_routes).await;
                stage.fake.fault(write, fault);
                let output = stage.run(&ADOPT).await;
                assert_eq!(output.status.code(), Some(2), "{write}: {}{}", text(&output.stdout), text(&output.stderr));
                in_force(&stage.fake);
                let output = stage.run(&ADOPT).await;
                let said = text(&output.stdout) + &text(&output.stderr);
                // The last write was made after all: then there is nothing left to do.
                let nothing_left = output.status.code() == Some(2) && said.contains("nothing to hand over");
                assert!(output.status.code() != Some(2) || nothing_left, "{write}: {said}");
                in_force(&stage.fake);
                is_handed_over(&stage.fake);
            }
        }
    }
}

#[tokio::test]
async fn the_operator_that_looks_on_keeps_what_is_handed_over_and_deletes_nothing() {
    let stage = stage("theirs", "their-routes").await;
    let _operator = Operator::start(&stage.fake);
    let writes = adopted(&stage).await;
    until_programmed(&stage.fake, "web").await;
    settle(&stage.fake).await;
    is_handed_over(&stage.fake);
    in_force(&stage.fake);
    let gone = stage.fake.writes().into_iter().filter(|write| write.starts_with("delete")).collect::<Vec<_>>();
    assert_eq!(gone, ["delete destinationrules/theirs", "delete virtualservices/their-routes"], "{writes:?}");
}

#[tokio::test]
async fn what_somebody_changes_meanwhile_is_not_deleted() {
    let stage = stage("theirs", "their-routes").await;
    let change = |state: &mut crate::fake::State| {
        state.patch(
            DR,
            "theirs",
            &json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 9}}}}}),
        );
    };
    stage.fake.fault("create virtualservices/web", Fault::Before(Box::new(change)));
    let output = stage.run(&ADOPT).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("DestinationRule ns/theirs has changed meanwhile"),
        "{}",
        text(&output.stderr)
    );
    assert!(stage.fake.get(DR, "theirs").is_some() && stage.fake.get(POLICIES, "web").is_none());
}

#[tokio::test]
async fn what_a_tool_keeps_is_not_touched_and_the_tool_is_named() {
    let stage = stage("web", "their-routes").await;
    stage.fake.patch(
        VS,
        "their-routes",
        &json!({"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}}),
    );
    let output = stage.run(&ADOPT).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("Flux's Kustomization apps keeps it"), "{}", text(&output.stderr));
    assert_eq!(stage.fake.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn without_a_yes_it_says_what_it_would_do_and_writes_nothing() {
    let stage = stage("web", "their-routes").await;
    let output = stage.run(&["import", "--adopt"]).await;
    assert_eq!(output.status.code(), Some(2));
    let plan = "create VirtualService web, which Istio ignores while the older one stands\n\
                delete VirtualService their-routes\n\
                create Resilience web\n\
                make DestinationRule web that policy's own\n\
                make VirtualService web that policy's own\n";
    assert_eq!(text(&output.stdout), plan);
    assert!(text(&output.stderr).contains("say --yes"), "{}", text(&output.stderr));
    assert_eq!(stage.fake.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_rule_that_must_stay_is_shared_and_stays_its_owners() {
    let stage = Stage::new().await;
    stage.fake.put("services", service("web"));
    let mut theirs = rule("theirs");
    theirs["spec"]["subsets"] = json!([{"name": "v1", "labels": {"version": "v1"}}]);
    stage.fake.put(DR, theirs);
    let _operator = Operator::start(&stage.fake);
    let output = stage.run(&ADOPT).await;
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    until_programmed(&stage.fake, "web").await;
    assert!(stage.fake.get(DR, "web").is_none(), "a second rule");
    let shared = stage.fake.get(DR, "theirs").unwrap();
    assert!(shared["metadata"].get("ownerReferences").is_none(), "it would go with the policy: {shared}");
    assert_eq!(shared.pointer("/spec/trafficPolicy/connectionPool/http/http2MaxRequests"), Some(&json!(5)));
}
