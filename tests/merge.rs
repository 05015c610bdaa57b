//! `coexistence: Merge` against the API server in the process: what is written into somebody else's rule, in
//! which order, and what is left of it.

use serde_json::{Value, json};

use crate::{
    fake::{Fake, Fault},
    reconcile::{
        DR, Operator, POLICIES, VS, condition, policy, service, settle, until, until_programmed, writes_but_markers,
    },
};

const LIMIT: &str = "/spec/trafficPolicy/connectionPool/http/http2MaxRequests";

fn merging() -> Value {
    let mut policy = policy("web");
    policy["spec"]["coexistence"] = "Merge".into();
    policy
}

/// A person's rule for the host, as he keeps it.
fn theirs() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "theirs", "namespace": "ns", "labels": {"team": "shop"}},
        "spec": {"host": "web", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}, "tls": {"mode": "ISTIO_MUTUAL"}}},
    })
}

fn with_limit(limit: i32) -> Value {
    let mut rule = theirs();
    rule["spec"]["trafficPolicy"]["connectionPool"] = json!({"http": {"http2MaxRequests": limit}});
    rule
}

fn apply_theirs(fake: &Fake, rule: Value) {
    fake.state().apply_as(DR, rule, "kubectl").unwrap_or_else(|(_, status)| panic!("{status}"));
}

/// A Service, a person's rule and a policy that shares it.
async fn merged() -> (Fake, Operator) {
    let fake = Fake::default();
    fake.put("services", service("web"));
    apply_theirs(&fake, theirs());
    fake.put(POLICIES, merging());
    let operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    (fake, operator)
}

fn rule(fake: &Fake) -> Value {
    fake.get(DR, "theirs").unwrap_or_default()
}

/// Whether the person's rule is as he wrote it, with nothing of ours.
fn is_theirs_alone(fake: &Fake) -> bool {
    let rule = rule(fake);
    rule["spec"] == theirs()["spec"]
        && rule["metadata"]["labels"] == theirs()["metadata"]["labels"]
        && rule["metadata"]["annotations"].as_object().is_none_or(serde_json::Map::is_empty)
}

fn message(fake: &Fake, kind: &str) -> String {
    let policy = fake.get(POLICIES, "web").unwrap();
    let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .find(|one| one["type"] == kind)
        .and_then(|one| one["message"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn blocks_stand_beside_what_is_their_owners_and_go_with_the_policy() {
    let (fake, _operator) = merged().await;
    let there = rule(&fake);
    assert_eq!(there.pointer(LIMIT), Some(&json!(5)));
    assert_eq!(there["spec"]["trafficPolicy"]["tls"], theirs()["spec"]["trafficPolicy"]["tls"]);
    assert!(there["metadata"].get("ownerReferences").is_none(), "the collector would take it with the policy: {there}");
    assert!(fake.get(DR, "web").is_none(), "a second rule");
    let status = fake.get(POLICIES, "web").unwrap()["status"].clone();
    let generated = json!({"kind": "DestinationRule", "name": "theirs", "ownership": "CoOwned"});
    assert_eq!(status["targets"][0]["generated"][0], generated);
    settle(&fake).await;
    assert_eq!(
        writes_but_markers(&fake),
        ["merge destinationrules/theirs", "create virtualservices/web", "status resiliences/web"]
    );

    fake.delete(POLICIES, "web");
    until("it is as it was", || is_theirs_alone(&fake)).await;
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake)[3..], ["delete virtualservices/web", "give-back destinationrules/theirs"]);
}

#[tokio::test]
async fn merged_and_at_rest_nothing_is_written_not_after_a_restart_either() {
    let (fake, operator) = merged().await;
    operator.crash().await;
    let _operator = Operator::start(&fake);
    settle(&fake).await;
    // A person applies his own fields again, with another value.
    let mut edited = theirs();
    edited["spec"]["trafficPolicy"]["loadBalancer"]["simple"] = "LEAST_REQUEST".into();
    apply_theirs(&fake, edited);
    settle(&fake).await;
    assert_eq!(writes_but_markers(&fake).len(), 3, "{:?}", writes_but_markers(&fake));
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(5)));
}

#[tokio::test]
async fn a_policy_that_went_while_the_operator_was_away_leaves_nothing_behind() {
    let (fake, operator) = merged().await;
    operator.crash().await;
    fake.delete(POLICIES, "web");
    let _operator = Operator::start(&fake);
    until("it is as it was", || is_theirs_alone(&fake)).await;
}

#[tokio::test]
async fn a_policy_that_came_again_while_the_operator_was_away_shares_the_rule_again() {
    let (fake, operator) = merged().await;
    operator.crash().await;
    fake.delete(POLICIES, "web");
    fake.put(POLICIES, merging());
    let uid = fake.get(POLICIES, "web").unwrap()["metadata"]["uid"].clone();
    let _operator = Operator::start(&fake);
    let label = "/metadata/labels/resilience.dev~1co-owner-uid";
    until("it is its own", || rule(&fake).pointer(label) == Some(&uid)).await;
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(5)));
}

#[tokio::test]
async fn a_field_that_somebody_has_is_not_forced_and_his_leaving_it_heals() {
    let fake = Fake::default();
    fake.put("services", service("web"));
    apply_theirs(&fake, with_limit(7));
    fake.put(POLICIES, merging());
    let _operator = Operator::start(&fake);
    until("it is a conflict", || condition(&fake, "web", "Programmed") == "False/FieldConflict").await;
    assert_eq!(condition(&fake, "web", "Accepted"), "True/Accepted");
    let told = "kubectl owns spec.trafficPolicy.connectionPool.http.http2MaxRequests (7)";
    assert!(message(&fake, "Programmed").contains(told), "{}", message(&fake, "Programmed"));
    assert_eq!(fake.writes(), ["status resiliences/web"]);

    apply_theirs(&fake, theirs());
    until_programmed(&fake, "web").await;
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(5)));
}

#[tokio::test]
async fn an_equal_value_is_shared_and_stays_when_ours_goes() {
    let fake = Fake::default();
    fake.put("services", service("web"));
    apply_theirs(&fake, with_limit(5));
    fake.put(POLICIES, merging());
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.delete(POLICIES, "web");
    until("it is given back", || fake.writes().iter().any(|write| write == "give-back destinationrules/theirs")).await;
    settle(&fake).await;
    assert_eq!(rule(&fake)["spec"], with_limit(5)["spec"]);
}

#[tokio::test]
async fn a_field_that_is_taken_at_the_last_moment_is_not_forced() {
    let fake = Fake::default();
    fake.put("services", service("web"));
    apply_theirs(&fake, theirs());
    fake.put(POLICIES, merging());
    let faster = Box::new(|state: &mut crate::fake::State| drop(state.apply_as(DR, with_limit(7), "helm")));
    fake.fault("merge destinationrules/theirs", Fault::Before(faster));
    let _operator = Operator::start(&fake);
    until("it is a conflict", || condition(&fake, "web", "Programmed") == "False/FieldConflict").await;
    let told = message(&fake, "Programmed");
    assert!(told.contains("http2MaxRequests") && told.contains("helm"), "{told}");
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(7)));
}

#[tokio::test]
async fn who_does_not_share_any_more_gives_back_and_is_in_conflict() {
    let (fake, _operator) = merged().await;
    fake.patch(POLICIES, "web", &json!({"spec": {"coexistence": "Refuse"}}));
    until("it is in conflict", || condition(&fake, "web", "Accepted") == "False/Conflicted").await;
    assert!(is_theirs_alone(&fake), "{}", rule(&fake));
    assert!(fake.get(VS, "web").is_none(), "what is not accepted generates nothing");
    assert!(message(&fake, "Programmed").ends_with("is removed"), "{}", message(&fake, "Programmed"));
}

#[tokio::test]
async fn a_block_that_is_not_declared_any_more_goes_alone() {
    let fake = Fake::default();
    fake.put("services", service("web"));
    apply_theirs(&fake, theirs());
    let mut both = merging();
    both["spec"]["ejection"] = json!({"consecutive5xx": 5});
    fake.put(POLICIES, both);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    assert!(rule(&fake).pointer("/spec/trafficPolicy/outlierDetection").is_some());
    fake.patch(POLICIES, "web", &json!({"spec": {"ejection": null}}));
    until("ejection is gone", || rule(&fake).pointer("/spec/trafficPolicy/outlierDetection").is_none()).await;
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(5)));
}

#[tokio::test]
async fn to_observe_is_to_give_back_and_to_suspend_is_to_leave() {
    let (fake, _operator) = merged().await;
    fake.patch(POLICIES, "web", &json!({"spec": {"mode": "Suspend"}}));
    until("it is suspended", || condition(&fake, "web", "Programmed") == "True/Suspended").await;
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(5)));
    fake.patch(POLICIES, "web", &json!({"spec": {"mode": "Observe"}}));
    until("it observes", || condition(&fake, "web", "Programmed") == "False/Observing").await;
    assert!(is_theirs_alone(&fake), "{}", rule(&fake));
}

#[tokio::test]
async fn ours_moves_into_a_rule_that_comes_later_and_stands_until_it_has() {
    let fake = Fake::default();
    fake.put("services", service("web"));
    fake.put(POLICIES, merging());
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    assert!(fake.get(DR, "web").is_some());
    apply_theirs(&fake, theirs());
    until("ours is gone", || fake.get(DR, "web").is_none()).await;
    settle(&fake).await;
    assert_eq!(rule(&fake).pointer(LIMIT), Some(&json!(5)));
    let moved = ["merge destinationrules/theirs", "delete destinationrules/web", "status resiliences/web"];
    assert_eq!(writes_but_markers(&fake)[3..], moved);

    fake.delete(DR, "theirs");
    until("ours is back", || fake.get(DR, "web").is_some()).await;
    until_programmed(&fake, "web").await;
}

#[tokio::test]
async fn a_rule_that_turns_to_another_host_is_given_back_after_ours_stands() {
    let (fake, _operator) = merged().await;
    let mut elsewhere = theirs();
    elsewhere["spec"]["host"] = "elsewhere.example".into();
    apply_theirs(&fake, elsewhere);
    until("it is given back", || rule(&fake).pointer(LIMIT).is_none()).await;
    settle(&fake).await;
    let moved = ["create destinationrules/web", "give-back destinationrules/theirs", "status resiliences/web"];
    assert_eq!(writes_but_markers(&fake)[3..], moved);
}

#[tokio::test]
async fn a_mark_that_is_stripped_comes_back() {
    let (fake, _operator) = merged().await;
    let marks = json!({"metadata": {"labels": {"resilience.dev/co-owner-uid": null}, "annotations": {"resilience.dev/co-owner": null}}});
    fake.patch(DR, "theirs", &marks);
    until("it is marked", || rule(&fake).pointer("/metadata/annotations/resilience.dev~1co-owner").is_some()).await;
    until_programmed(&fake, "web").await;
}

#[tokio::test]
async fn a_rule_that_would_be_left_with_an_empty_policy_is_left_without_one() {
    let fake = Fake::default();
    fake.put("services", service("web"));
    let mut bare = theirs();
    bare["spec"] = json!({"host": "web", "trafficPolicy": {}});
    apply_theirs(&fake, bare);
    fake.put(POLICIES, merging());
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    let message = "spec.trafficPolicy: Invalid value: \"null\": must be of type object";
    fake.fault("give-back destinationrules/theirs", Fault::Answer(422, message));
    fake.delete(POLICIES, "web");
    let given = ["strip destinationrules/theirs", "give-back destinationrules/theirs"];
    until("it is given back", || fake.writes().ends_with(&given.map(str::to_owned))).await;
    until("nothing is left", || rule(&fake)["spec"] == json!({"host": "web"})).await;
}
