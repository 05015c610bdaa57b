//! What the controller makes of the Istio that is installed, and of another one that comes, against the
//! API server in the process and an istiod that says what a test lets it say.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use resilience_operator::{
    controller::Options,
    istio::{Kind, written_fields},
};
use serde_json::{Value, json};

use crate::{
    fake::Fake,
    reconcile::{Operator, condition, fake_with, policy, service, settle, until, until_programmed},
};

const POLICIES: &str = "resiliences";
const BUDGET: &str = "trafficPolicy.retryBudget";

/// The OpenAPI document of an Istio that has all that we write, but for what begins with `missing`.
pub fn open_api(missing: &str) -> Value {
    let mut schemas = json!({});
    for kind in Kind::ALL {
        let mut schema = json!({"x-kubernetes-group-version-kind":
            [{"group": "networking.istio.io", "version": "v1", "kind": kind.as_str()}]});
        for field in written_fields(kind).iter().filter(|field| !field.path.starts_with(missing)) {
            let mut node = &mut schema;
            for part in std::iter::once("spec").chain(field.path.split('.')) {
                node = &mut node["properties"][part.trim_end_matches("[]")];
                if part.ends_with("[]") {
                    node = &mut node["items"];
                }
            }
            node["declared"] = json!(true);
        }
        schemas[kind.as_str()] = schema;
    }
    json!({"components": {"schemas": schemas}})
}

fn with_budget(name: &str) -> Value {
    let mut policy = policy(name);
    policy["spec"]["retries"] = json!({"attempts": 1, "budget": {"percent": 20}});
    policy
}

fn quick() -> Options {
    Options { istio_recheck: Duration::from_millis(20), istiod_address: String::new(), ..Options::default() }
}

/// Every look but the first one has to be asked for.
fn asked() -> Options {
    Options { istio_recheck: Duration::from_hours(1), ..quick() }
}

fn message(fake: &Fake, name: &str) -> String {
    fake.get(POLICIES, name).unwrap_or_default()["status"]["conditions"].to_string()
}

#[tokio::test]
async fn what_the_installed_istio_lacks_is_told_by_path_and_heals_with_its_upgrade() {
    let fake = fake_with(&["plain"]);
    fake.install(open_api(BUDGET), true);
    fake.put("services", service("web"));
    fake.put(POLICIES, with_budget("web"));
    let operator = Operator::start_with(&fake, quick());
    until("web is unsupported", || condition(&fake, "web", "Accepted") == "False/Unsupported").await;
    assert_eq!(condition(&fake, "web", "Stalled"), "True/Unsupported");
    let said = message(&fake, "web");
    assert!(said.contains("spec.retries.budget: Istio's CRD here has no trafficPolicy.retryBudget"), "{said}");
    assert!(fake.get("destinationrules", "web").is_none());
    // Who needs nothing of it goes ahead.
    until_programmed(&fake, "plain").await;
    let metrics = operator.metrics.encode().unwrap();
    assert!(metrics.contains("resilience_operator_istio_missing_fields 3"), "{metrics}");

    fake.install(open_api("nothing"), true);
    until_programmed(&fake, "web").await;
    let rule = fake.get("destinationrules", "web").unwrap();
    assert_eq!(rule["spec"]["trafficPolicy"]["retryBudget"]["percent"], 20);
}

#[tokio::test]
async fn the_document_is_read_once_for_each_istio_and_at_rest_nothing_is_written() {
    let fake = fake_with(&["web"]);
    fake.install(open_api("nothing"), true);
    let _operator = Operator::start_with(&fake, quick());
    until_programmed(&fake, "web").await;
    let (looks, writes) = (fake.looks(), fake.writes().len());
    until("it looked ten times more", || fake.looks() >= looks + 10).await;
    assert_eq!((fake.documents_read(), fake.writes().len()), (1, writes));
    fake.install(open_api(BUDGET), true);
    until("the other document is read", || fake.documents_read() == 2).await;
    settle(&fake).await;
    assert_eq!(fake.documents_read(), 2);
}

#[tokio::test]
async fn a_field_that_the_api_server_does_not_know_makes_it_look_again_at_once() {
    let fake = fake_with(&[]);
    fake.install(open_api("nothing"), true);
    let _operator = Operator::start_with(&fake, asked());
    until("it looked", || fake.documents_read() == 1).await;
    // Somebody puts older CRDs there, and no look is due for an hour.
    fake.install(open_api(BUDGET), true);
    fake.put("services", service("web"));
    fake.put(POLICIES, with_budget("web"));
    until("web is unsupported", || condition(&fake, "web", "Accepted") == "False/Unsupported").await;
    assert_eq!(fake.documents_read(), 2);
}

#[tokio::test]
async fn what_was_never_read_gates_nothing_and_the_refusal_is_not_tried_again_soon() {
    let fake = fake_with(&[]);
    fake.install(open_api(BUDGET), false);
    fake.put("services", service("web"));
    fake.put(POLICIES, with_budget("web"));
    let _operator = Operator::start_with(&fake, quick());
    until("web is refused", || condition(&fake, "web", "Programmed") == "False/Refused").await;
    let said = message(&fake, "web");
    assert!(said.contains("field not declared in schema") && said.contains("upgrade it"), "{said}");
    // Retries of what may heal by itself come after a second at most.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fake.writes(), ["create destinationrules/web", "status resiliences/web"]);
}

/// An istiod that gives these answers in turn, and the number of those that it gave.
async fn istiod(answers: Arc<Mutex<Vec<&'static str>>>) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = move || {
        let answers = answers.lock().unwrap();
        let answer = answers[count.fetch_add(1, Ordering::Relaxed) % answers.len()];
        std::future::ready(answer)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(axum::serve(listener, Router::new().route("/version", get(answer))).into_future());
    (address, asked)
}

fn ejecting() -> Fake {
    let fake = Fake::default();
    fake.put("services", service("web"));
    let mut policy = policy("web");
    policy["spec"]["ejection"] = json!({"consecutive5xx": 5});
    fake.put(POLICIES, policy);
    let endpoint = |number: u8, ready: bool| json!({"addresses": [format!("10.0.0.{number}")], "conditions": {"ready": ready, "terminating": false}});
    fake.put(
        "endpointslices",
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [endpoint(1, true), endpoint(2, true), endpoint(3, true), endpoint(4, false)],
        }),
    );
    fake
}

fn counted(fake: &Fake) -> (Value, Value) {
    let policy = fake.get(POLICIES, "web").unwrap_or_default();
    let rule = fake.get("destinationrules", "web").unwrap_or_default();
    let detection = &rule["spec"]["trafficPolicy"]["outlierDetection"];
    (policy["status"]["targets"][0]["endpoints"].clone(), detection["maxEjectionPercent"].clone())
}

#[tokio::test]
async fn endpoints_are_counted_as_the_istiod_that_runs_sends_them() {
    let fake = ejecting();
    let answers = Arc::new(Mutex::new(vec!["1.30.2-0123-Clean"]));
    let (address, _) = istiod(answers.clone()).await;
    let _operator = Operator::start_with(&fake, Options { istiod_address: address, ..quick() });
    until_programmed(&fake, "web").await;
    // Right from the first write, which is before any second look.
    assert_eq!(counted(&fake), (json!(3), json!(50)));
    *answers.lock().unwrap() = vec!["1.31.0-4567-Clean"];
    until("the one that is not ready counts too", || counted(&fake) == (json!(4), json!(25))).await;
}

#[tokio::test]
async fn answers_in_turn_and_answers_that_are_no_version_change_nothing() {
    let fake = ejecting();
    let answers = Arc::new(Mutex::new(vec!["1.30.2"]));
    let (address, asked) = istiod(answers.clone()).await;
    let _operator = Operator::start_with(&fake, Options { istiod_address: address, ..quick() });
    until_programmed(&fake, "web").await;
    let before = (counted(&fake), fake.writes().len());
    for turns in [vec!["1.30.2", "1.31.0"], vec!["unknown-unknown-unknown"], vec![""]] {
        *answers.lock().unwrap() = turns.clone();
        let begun = asked.load(Ordering::Relaxed);
        until("istiod was asked ten times", || asked.load(Ordering::Relaxed) >= begun + 10).await;
        settle(&fake).await;
        let writes = fake.writes().into_iter().filter(|write| !write.contains("marker-")).count();
        assert_eq!((counted(&fake), writes), before, "{turns:?}");
    }
}
