//! The whole controller against an API server in the process, for what a real one cannot be made to
//! do: refuse, fail, fall silent, be overtaken, at a call of our choice.

use std::{future::Future, sync::Arc, time::Duration};

use resilience_operator::{
    cli::input,
    controller::{self, GATE, Options},
    istio::Kind,
    names,
    runtime::{admin::Health, lease::term::Term, metrics::Metrics, writer::Writer},
};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Fault};

pub const DR: &str = "destinationrules";
pub const VS: &str = "virtualservices";
pub const POLICIES: &str = "resiliences";

pub struct Operator {
    pub metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    pub fn start(fake: &Fake) -> Self {
        Self::start_with(fake, Options { istiod_address: String::new(), ..Options::default() })
    }

    pub fn start_with(fake: &Fake, options: Options) -> Self {
        let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
        health.block(GATE, "not begun");
        let stop = CancellationToken::new();
        let options = Options { deadline: Duration::from_millis(300), ..options };
        let writer = Writer::through(fake.client(), Term::always());
        let run = controller::run(fake.client(), writer, options, metrics.clone(), health.clone(), stop.clone());
        Self { metrics, health, stop, task: tokio::spawn(run) }
    }

    /// As `kill -9`.
    pub async fn crash(self) {
        self.task.abort();
        let _cancelled = self.task.await;
    }

    pub fn counted(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|one| one == line)
    }
}

pub fn policy(name: &str) -> Value {
    policy_for(name, name)
}

fn policy_for(name: &str, target: &str) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": names::KIND,
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": target}],
            "limits": {"perClient": {"activeRequests": 5}},
            "timeouts": {"request": "3s"},
        },
    })
}

pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"ports": [{"name": "http", "port": 8000}]},
    })
}

pub fn foreign_rule(name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"host": host, "trafficPolicy": {"loadBalancer": {"simple": "NOT_INVENTED_YET"}}},
    })
}

pub fn fake_with(names: &[&str]) -> Fake {
    let fake = Fake::default();
    for name in names {
        fake.put("services", service(name));
        fake.put(POLICIES, policy(name));
    }
    fake
}

/// `TYPE=STATUS/REASON` of a condition.
pub fn condition(fake: &Fake, name: &str, kind: &str) -> String {
    let policy = fake.get(POLICIES, name).unwrap_or_default();
    let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.map_or_else(String::new, |c| format!("{}/{}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
}

pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

pub async fn until_programmed(fake: &Fake, name: &str) {
    until(&format!("{name} is Programmed"), || condition(fake, name, "Programmed") == "True/Programmed").await;
}

/// Another policy comes and is programmed: by then, whatever was queued before it has been begun.
pub async fn settle(fake: &Fake) {
    let name = format!("marker-{}", fake.writes().len());
    fake.put("services", service(&name));
    fake.put(POLICIES, policy(&name));
    until_programmed(fake, &name).await;
}

pub fn writes_but_markers(fake: &Fake) -> Vec<String> {
    fake.writes().into_iter().filter(|write| !write.contains("marker-")).collect()
}

const CREATION: [&str; 3] = ["create destinationrules/web", "create virtualservices/web", "status resiliences/web"];

#[tokio::test]
async fn a_new_policy_costs_three_writes_rule_before_routes_before_status() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake), CREATION);
    assert_eq!(condition(&fake, "web", "Ready"), "True/Ready");
    let rule = fake.get(DR, "web").unwrap();
    assert_eq!(rule["metadata"]["ownerReferences"][0]["name"], "web");
}

#[tokio::test]
async fn at_rest_and_after_a_restart_nothing_is_written() {
    let fake = fake_with(&["web"]);
    let operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    operator.crash().await;

    let _operator = Operator::start(&fake);
    settle(&fake).await;
    // What others do to parts that are not ours.
    fake.patch(POLICIES, "web", &json!({"metadata": {"annotations": {"seen": "1"}}}));
    fake.patch(DR, "web", &json!({"metadata": {"labels": {"theirs": "1"}}, "spec": {"subsets": [{"name": "v1"}]}}));
    fake.put(DR, foreign_rule("elsewhere", "elsewhere.example"));
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake), CREATION);
}

#[tokio::test]
async fn what_is_ours_is_restored_with_one_write() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    let limit = "/spec/trafficPolicy/connectionPool/http/http2MaxRequests";
    let edit = json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 99}}}}});
    fake.patch(DR, "web", &edit);
    until("the limit is 5 again", || fake.get(DR, "web").unwrap().pointer(limit) == Some(&json!(5))).await;
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake)[3..], ["update destinationrules/web"]);
}

#[tokio::test]
async fn a_field_of_others_that_voids_ours_is_stripped() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.patch(DR, "web", &json!({"spec": {"exportTo": ["."]}}));
    until("exportTo is gone", || fake.get(DR, "web").unwrap()["spec"].get("exportTo").is_none()).await;
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake)[3..], ["update destinationrules/web", "strip destinationrules/web"]);
}

#[tokio::test]
async fn a_generated_object_that_is_deleted_comes_back() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.delete(VS, "web");
    until("the VirtualService is back", || fake.get(VS, "web").is_some()).await;
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake)[3..], ["create virtualservices/web"]);
}

#[tokio::test]
async fn what_is_refused_is_stalled_with_the_words_of_who_refused() {
    let cases = [
        (400, r#"admission webhook "validation.istio.io" denied the request: bad"#),
        (403, r#"admission webhook "policy.example" denied the request: bad"#),
        (422, "is invalid: bad"),
        (500, "failed to create typed patch object: bad: field not declared in schema"),
    ];
    for (code, message) in cases {
        let fake = fake_with(&["web"]);
        fake.fault("create destinationrules/web", Fault::Answer(code, message));
        let _operator = Operator::start(&fake);
        until("web is refused", || condition(&fake, "web", "Programmed") == "False/Refused").await;
        assert_eq!(condition(&fake, "web", "Stalled"), "True/Refused", "{code}");
        let status = fake.get(POLICIES, "web").unwrap()["status"].to_string();
        assert!(status.contains("bad"), "{code}: {status}");
        // The routes wait for the rule.
        assert_eq!(fake.writes(), ["create destinationrules/web", "status resiliences/web"], "{code}");
    }
}

#[tokio::test]
async fn what_fails_for_now_is_tried_again_and_heals() {
    for (code, message) in [(500, "failed calling webhook: connection refused"), (429, "slow down"), (503, "")] {
        let fake = fake_with(&["web"]);
        fake.fault("create virtualservices/web", Fault::Answer(code, message));
        let _operator = Operator::start(&fake);
        until("web failed", || condition(&fake, "web", "Programmed") == "False/WriteFailed").await;
        assert_eq!(condition(&fake, "web", "Stalled"), "False/Progressing", "{code}");
        until_programmed(&fake, "web").await;
        // The rule that was there already is not written again.
        assert_eq!(fake.writes().iter().filter(|write| write.contains(DR)).count(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_not_tried_again_within_seconds() {
    let fake = fake_with(&["web"]);
    let message = r#"destinationrules.networking.istio.io is forbidden: User "operator" cannot patch"#;
    fake.fault("create destinationrules/web", Fault::Answer(403, message));
    let _operator = Operator::start(&fake);
    until("web failed", || condition(&fake, "web", "Programmed") == "False/WriteFailed").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fake.writes(), ["create destinationrules/web", "status resiliences/web"]);
}

#[tokio::test]
async fn what_failed_while_the_api_server_was_away_is_tried_at_once_when_it_is_back() {
    let fake = fake_with(&["web"]);
    // Slow: without the recovery, the next try would be in a quarter of a minute, for which nothing here waits.
    let message = r#"destinationrules.networking.istio.io is forbidden: User "operator" cannot patch"#;
    fake.fault("create destinationrules/web", Fault::Answer(403, message));
    let _operator = Operator::start(&fake);
    until("web failed", || condition(&fake, "web", "Programmed") == "False/WriteFailed").await;
    fake.break_watches(DR);
    until_programmed(&fake, "web").await;
}

#[tokio::test]
async fn what_vanished_while_a_watch_was_broken_is_noticed() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.break_watches(VS);
    // While nobody watches, so that no event tells of it.
    fake.delete(VS, "web");
    until("the VirtualService is back", || fake.get(VS, "web").is_some()).await;
}

#[tokio::test]
async fn no_answer_ends_at_the_deadline_and_holds_up_nobody() {
    let fake = fake_with(&["good", "web"]);
    fake.fault("create destinationrules/web", Fault::Hang);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "good").await;
    until("web failed", || condition(&fake, "web", "Programmed") == "False/WriteFailed").await;
    until_programmed(&fake, "web").await;
}

#[tokio::test]
async fn a_name_that_is_taken_at_the_last_moment_is_left_to_whom_has_it() {
    let fake = fake_with(&["web"]);
    let theirs = foreign_rule("web", "elsewhere.example");
    fake.fault("create destinationrules/web", Fault::Before(Box::new(move |state| state.put(DR, theirs))));
    let _operator = Operator::start(&fake);
    until("web is in conflict", || condition(&fake, "web", "Accepted") == "False/Conflicted").await;
    let rule = fake.get(DR, "web").unwrap();
    assert_eq!(rule["spec"], foreign_rule("web", "elsewhere.example")["spec"]);
    assert!(rule["metadata"].get("ownerReferences").is_none() && rule["metadata"].get("labels").is_none(), "{rule}");
    fake.delete(DR, "web");
    until_programmed(&fake, "web").await;
}

#[tokio::test]
async fn an_object_that_was_replaced_at_the_last_moment_is_not_taken_over() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    let theirs = foreign_rule("web", "elsewhere.example");
    fake.fault("update destinationrules/web", Fault::Before(Box::new(move |state| state.put(DR, theirs))));
    fake.patch(DR, "web", &json!({"spec": {"exportTo": ["."]}}));
    until("web is in conflict", || condition(&fake, "web", "Accepted") == "False/Conflicted").await;
    assert!(fake.get(DR, "web").unwrap()["metadata"].get("ownerReferences").is_none());
}

#[tokio::test]
async fn a_policy_that_is_made_anew_does_not_get_the_status_of_the_one_before() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    let anew = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = anew.clone();
    // While the status of its second generation is under way.
    fake.fault(
        "status resiliences/web",
        Fault::Before(Box::new(move |state| {
            state.delete(POLICIES, "web");
            state.put(POLICIES, policy("web"));
            told.store(true, std::sync::atomic::Ordering::SeqCst);
        })),
    );
    let late = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = late.clone();
    fake.state().hooks.change = Some(Box::new(move |state| {
        let live = state.find(POLICIES, "web").cloned().unwrap_or_default();
        let conditions = live["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ahead = |one: &Value| one["observedGeneration"].as_i64() > live["metadata"]["generation"].as_i64();
        seen.lock().unwrap().extend(conditions.into_iter().filter(ahead));
    }));
    fake.patch(POLICIES, "web", &json!({"spec": {"limits": {"perClient": {"activeRequests": 7}}}}));
    until("it is made anew", || anew.load(std::sync::atomic::Ordering::SeqCst)).await;
    until_programmed(&fake, "web").await;
    let late = late.lock().unwrap();
    assert!(late.is_empty(), "a status that speaks of a spec that is not there: {late:?}");
}

#[tokio::test]
async fn a_policy_that_got_a_label_meanwhile_gets_its_status_all_the_same() {
    let fake = fake_with(&["web"]);
    let label = |state: &mut crate::fake::State| {
        let mut labelled = state.find(POLICIES, "web").unwrap().clone();
        labelled["metadata"]["labels"] = json!({"team": "shop"});
        state.put(POLICIES, labelled);
    };
    fake.fault("status resiliences/web", Fault::Before(Box::new(label)));
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    assert_eq!(fake.get(POLICIES, "web").unwrap()["metadata"]["labels"], json!({"team": "shop"}));
}

#[tokio::test]
async fn killed_between_its_rule_and_its_routes_the_next_start_writes_what_is_missing() {
    let fake = fake_with(&["web"]);
    fake.fault("create virtualservices/web", Fault::Hang);
    let operator = Operator::start(&fake);
    until("the routes are under way", || fake.writes().len() == 2).await;
    operator.crash().await;
    assert!(fake.get(DR, "web").is_some() && fake.get(VS, "web").is_none());

    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    assert_eq!(fake.writes()[2..], ["create virtualservices/web", "status resiliences/web"]);
}

#[tokio::test]
async fn a_panic_is_that_of_one_policy_and_heals() {
    let fake = fake_with(&["bad", "good"]);
    fake.fault("create destinationrules/bad", Fault::Panic);
    let operator = Operator::start(&fake);
    until_programmed(&fake, "good").await;
    until("the panic is counted", || operator.counted("resilience_operator_panics_total 1")).await;
    until_programmed(&fake, "bad").await;
    assert!(!operator.task.is_finished());
}

#[tokio::test]
async fn a_service_or_slice_that_cannot_be_read_stops_nobody_and_stays_as_it_was_known() {
    let fake = fake_with(&["web"]);
    let mut odd = service("odd");
    odd["spec"]["ports"] = json!("none");
    fake.put("services", odd);
    let mut slice = json!({"metadata": {"name": "odd", "namespace": "ns"}, "addressType": "IPv4"});
    slice["endpoints"] = json!({"of": "tomorrow"});
    fake.put("endpointslices", slice);
    let operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.patch("services", "web", &json!({"spec": {"ports": "none"}}));
    until("it is counted", || operator.counted(r#"resilience_operator_unreadable_objects_total{kind="Service"} 2"#))
        .await;
    // A list without it in our types is no list without it.
    fake.break_watches("services");
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake), CREATION);
    fake.put("services", service("odd"));
    fake.put(POLICIES, policy("odd"));
    until_programmed(&fake, "odd").await;
    assert!(operator.counted(r#"resilience_operator_unreadable_objects_total{kind="EndpointSlice"} 1"#));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_says_so_and_stops_nobody() {
    let fake = fake_with(&["good"]);
    let mut bad = policy("bad");
    bad["spec"]["fieldOfTomorrow"] = json!(1);
    fake.put(POLICIES, bad);
    let operator = Operator::start(&fake);
    until_programmed(&fake, "good").await;
    until("bad is invalid", || condition(&fake, "bad", "Accepted") == "False/Invalid").await;
    let status = fake.get(POLICIES, "bad").unwrap()["status"].to_string();
    assert!(status.contains("fieldOfTomorrow"), "{status}");
    operator.crash().await;

    // And says it once.
    let before = fake.writes().len();
    let _operator = Operator::start(&fake);
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake)[before..], Vec::<String>::new());
}

#[tokio::test]
async fn what_a_deleted_policy_leaves_goes_routes_before_rule_and_the_next_one_takes_over() {
    let fake = fake_with(&["web"]);
    let mut next = policy_for("next", "web");
    next["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:09Z");
    fake.put(POLICIES, next);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    until("next stands back", || condition(&fake, "next", "Accepted") == "False/Conflicted").await;
    let before = fake.writes().len();
    fake.delete(POLICIES, "web");
    until_programmed(&fake, "next").await;
    let deletions: Vec<_> =
        fake.writes().into_iter().skip(before).filter(|write| write.starts_with("delete")).collect();
    assert_eq!(deletions, ["delete virtualservices/web", "delete destinationrules/web"]);
    assert_eq!(fake.get(DR, "web").unwrap()["metadata"]["ownerReferences"][0]["name"], "next");
}

#[tokio::test]
async fn a_policy_in_foreground_deletion_is_cleaned_up_and_written_no_more() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.patch(POLICIES, "web", &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"}}));
    until("both are gone", || fake.get(DR, "web").is_none() && fake.get(VS, "web").is_none()).await;
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake)[3..], ["delete virtualservices/web", "delete destinationrules/web"]);
}

#[tokio::test]
async fn what_was_deleted_while_the_operator_was_down_is_cleaned_up_at_its_start() {
    let fake = fake_with(&["web"]);
    let operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    operator.crash().await;
    fake.delete(POLICIES, "web");

    let _operator = Operator::start(&fake);
    until("both are gone", || fake.get(DR, "web").is_none() && fake.get(VS, "web").is_none()).await;
}

#[tokio::test]
async fn a_deletion_that_did_not_happen_takes_nothing_away() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    // As from a list of an API server that lags behind.
    let alive = fake.get(POLICIES, "web").unwrap();
    fake.state().tell("DELETED", POLICIES, &alive);
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake), CREATION);
}

#[tokio::test]
async fn of_two_policies_of_one_second_the_loser_lets_go_and_the_winner_acts() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    // As old by the clock, and first by name.
    fake.put(POLICIES, policy_for("a", "web"));
    until_programmed(&fake, "a").await;
    until("web stands back", || condition(&fake, "web", "Accepted") == "False/Conflicted").await;
    let status = fake.get(POLICIES, "web").unwrap()["status"].clone();
    assert!(status.get("targets").is_none(), "{status}");
}

#[tokio::test]
async fn nothing_is_decided_before_everything_is_listed() {
    let fake = fake_with(&["web"]);
    let (release, held) = oneshot::channel();
    fake.fault("list virtualservices", Fault::Hold(held));
    let operator = Operator::start(&fake);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fake.writes(), Vec::<String>::new());
    assert_eq!(operator.health.blockers().len(), 1);
    release.send(()).unwrap();
    until_programmed(&fake, "web").await;
    assert_eq!(operator.health.blockers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_reconcile_under_way_is_finished_after_the_signal_and_nothing_new_begun() {
    let fake = fake_with(&["web"]);
    let (release, held) = oneshot::channel();
    fake.fault("create destinationrules/web", Fault::Hold(held));
    let operator = Operator::start(&fake);
    until("the rule is under way", || fake.writes().len() == 1).await;
    operator.stop.cancel();
    fake.put("services", service("late"));
    fake.put(POLICIES, policy("late"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    release.send(()).unwrap();
    within(operator.task).await.unwrap().unwrap();
    assert_eq!(fake.writes(), CREATION);
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), what).await.expect("did not end")
}

/// Puts the world of a golden file into the API server, and gives the name of its policy.
fn put_world(fake: &Fake, golden: &str) -> String {
    let path = crate::support::root().join(format!("tests/translate/{golden}.in.yaml"));
    let (mut policy, mut schemas) = (String::new(), json!({}));
    for object in input::read(&[path], &mut std::io::empty()).objects {
        let mut object = object.value;
        let kind = object["kind"].as_str().unwrap().to_owned();
        if kind == "CustomResourceDefinition" {
            let kind = object["spec"]["names"]["kind"].clone();
            let mut schema = object["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": names::ISTIO_GROUP, "version": "v1", "kind": kind}]);
            schemas[kind.as_str().unwrap()] = schema;
            continue;
        }
        let plural = match kind.as_str() {
            "ServiceEntry" => "serviceentries".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        if kind == "Namespace" {
            (object["metadata"]["name"], object["metadata"]["namespace"]) = (json!("ns"), json!(""));
        } else if object["metadata"]["namespace"].as_str().is_none_or(|namespace| namespace == "default") {
            object["metadata"]["namespace"] = json!("ns");
        }
        if let Some(parent) = object.pointer_mut("/spec/parentRefs/0") {
            parent["namespace"] = json!("ns");
            fake.install(crate::installed::open_api("nothing"), true);
            fake.install_gateway_api(true);
        }
        if kind == names::KIND {
            object["metadata"]["name"].as_str().unwrap().clone_into(&mut policy);
        }
        fake.put(&plural, serde_json::from_str(&object.to_string().replace(".default.svc.", ".ns.svc.")).unwrap());
    }
    if schemas != json!({}) {
        // Istio's document describes all of its kinds, whichever a file is about.
        for kind in
            Kind::ALL.into_iter().map(Kind::as_str).filter(|kind| schemas.get(kind).is_none()).collect::<Vec<_>>()
        {
            schemas[kind] = json!({
                "x-kubernetes-group-version-kind": [{"group": names::ISTIO_GROUP, "version": "v1", "kind": kind}],
                "properties": {"spec": {"x-kubernetes-preserve-unknown-fields": true}},
            });
        }
        fake.install(json!({"components": {"schemas": schemas}}), true);
    }
    policy
}

/// `CODE message` of each, sorted.
fn lines<'a>(warnings: impl IntoIterator<Item = &'a Value>, code: &str, message: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<String> =
        warnings.into_iter().map(|one| format!("{} {}", text(&one[code]), text(&one[message]))).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_warning_has_the_same_words_in_status_event_and_on_the_command_line() {
    for golden in crate::coverage::warnings::warned() {
        let fake = Fake::default();
        let name = put_world(&fake, golden);
        let _operator = Operator::start(&fake);
        let programmed = || condition(&fake, &name, "Programmed") == "True/Programmed";
        until(&format!("{golden} is Programmed"), programmed).await;
        let policy = fake.get(POLICIES, &name).unwrap();
        let status = lines(policy["status"]["warnings"].as_array().unwrap(), "code", "message");
        assert!(!status.is_empty(), "{golden}");
        let told = || {
            let events = fake.events();
            lines(events.iter().filter(|event| event["reason"].as_str().unwrap().starts_with("RES")), "reason", "note")
        };
        until(&format!("{golden}: as many events as warnings"), || told().len() == status.len()).await;
        assert_eq!(told(), status, "{golden}");

        let file = format!("tests/translate/{golden}.in.yaml");
        let arguments = ["validate", "-o", "json", "-f", &file];
        let output = std::process::Command::new(crate::support::PROGRAM).args(arguments).output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        let report = report.replace(".default.svc.", ".ns.svc.").replace(" default/", " ns/");
        let report: Value = serde_json::from_str(&report.replace("namespace default ", "namespace ns ")).unwrap();
        let said = report["resiliences"][0]["warnings"].as_array().unwrap();
        assert_eq!(lines(said, "code", "message"), status, "{golden}");
    }
}
