//! `diff` and `explain` as people run them: the program itself, against an API server in the process
//! that the real controller has worked on.
//!
//! `UPDATE_GOLDEN=1 cargo test live` writes the pages in `tests/live/` anew; read each before you keep it.

use std::{path::PathBuf, process::Output};

use resilience_operator::names;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fake::{Fake, Fault},
    installed::open_api,
    reconcile::{Operator, foreign_rule, service, until_programmed},
    support::{PROGRAM, difference, root},
};

/// The program, a kubeconfig, and a cluster behind it.
pub struct Stage {
    pub fake: Fake,
    folder: TempDir,
}

impl Stage {
    pub async fn new() -> Self {
        let fake = Fake::default();
        fake.install(open_api("nothing"), true);
        let address = fake.serve_http().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig(&address)).unwrap();
        fake.put(
            "namespaces",
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "ns", "labels": {"istio-injection": "enabled"}},
            }),
        );
        Self { fake, folder }
    }

    /// With a Service of one port and three endpoints, and this policy, on which the operator has acted.
    async fn with(spec: &Value) -> Self {
        let stage = Self::new().await;
        stage.fake.put("services", service("shop"));
        stage.fake.put("endpointslices", slice("shop", 3));
        stage.fake.put("resiliences", policy("shop", spec));
        let operator = Operator::start(&stage.fake);
        until_programmed(&stage.fake, "shop").await;
        operator.crash().await;
        stage
    }

    /// The page is as the file has it, but for uids and folders, which differ from run to run.
    fn page(&self, name: &str, printed: &str) {
        let mut printed = printed.replace(&self.folder.path().display().to_string(), "");
        while let Some(at) = printed.find("uid-") {
            let end = printed[at + 4..].find(|c: char| !c.is_ascii_digit()).map_or(printed.len(), |end| at + 4 + end);
            printed.replace_range(at..end, "UID");
        }
        let path: PathBuf = root().join("tests/live").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &printed).unwrap();
        }
        let have = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(have == printed, "{} is not what is printed:\n{}", path.display(), difference(&have, &printed));
    }

    fn file(&self, name: &str, objects: &[Value]) -> String {
        let path = self.folder.path().join(name);
        let text: Vec<String> = objects.iter().map(ToString::to_string).collect();
        std::fs::write(&path, text.join("\n---\n")).unwrap();
        path.display().to_string()
    }

    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(args).env("KUBECONFIG", self.folder.path().join("kubeconfig")).current_dir(root());
        command.output().await.unwrap()
    }

    /// What a run prints that ends so.
    async fn prints(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    async fn json(&self, code: i32, args: &[&str]) -> Value {
        serde_json::from_str(&self.prints(code, &[args, &["-o", "json"]].concat()).await).unwrap()
    }

    /// What a run says that fails.
    async fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
        text(&output.stderr)
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `ns` is the namespace of the context.
fn kubeconfig(address: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": address}}, {"name": "gone", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ns"}},
            {"name": "gone", "context": {"cluster": "gone", "user": "u"}},
        ],
    })
    .to_string()
}

fn policy(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec.get("targetRefs").is_none() {
        spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "shop"}]);
    }
    json!({"apiVersion": names::API_VERSION, "kind": names::KIND, "metadata": {"name": name, "namespace": "ns"}, "spec": spec})
}

fn slice(service: &str, endpoints: usize) -> Value {
    let endpoints: Vec<Value> = (1..=endpoints)
        .map(|one| json!({"addresses": [format!("10.0.0.{one}")], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints,
    })
}

fn breaker(requests: u32) -> Value {
    json!({
        "limits": {"perClient": {"activeRequests": requests}},
        "ejection": {"consecutive5xx": 5},
        "timeouts": {"request": "3s"},
    })
}

fn actions(report: &Value) -> Vec<String> {
    let objects = report["resiliences"][0]["objects"].as_array().unwrap();
    let word = |object: &Value| format!("{} {}", object["action"].as_str().unwrap(), object["kind"].as_str().unwrap());
    objects.iter().map(word).collect()
}

#[tokio::test]
async fn what_the_operator_has_written_is_no_difference() {
    let stage = Stage::with(&breaker(5)).await;
    let file = stage.file("same.yaml", &[policy("shop", &breaker(5))]);
    assert_eq!(stage.prints(0, &["diff", "-f", &file]).await, "1 Resilience: no difference\n");
    assert_eq!(stage.fake.writes().iter().filter(|write| !write.starts_with("status")).count(), 2, "diff wrote");
}

#[tokio::test]
async fn a_change_is_shown_as_it_is_and_as_it_would_be_with_the_reason() {
    let stage = Stage::with(&breaker(5)).await;
    let mut spec = breaker(9);
    spec["timeouts"] = json!({"connect": "1s"});
    spec["limits"]["perClient"]["connections"] = json!(7);
    let file = stage.file("changed.yaml", &[policy("shop", &spec)]);
    stage.page("diff.txt", &stage.prints(1, &["diff", "-f", &file]).await);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    assert_eq!(actions(&report), ["Update Resilience", "Update DestinationRule", "Delete VirtualService"]);
    assert_eq!(report["differences"], true);
    let rule = &report["resiliences"][0]["objects"][1];
    let change = rule["changes"].as_array().unwrap().iter().find(|change| change["after"] == json!(9)).unwrap();
    assert_eq!(change["path"], "spec.trafficPolicy.connectionPool.http.http2MaxRequests");
    assert_eq!(
        (&change["before"], &change["reason"]),
        (&json!(5), &json!("limits.perClient.activeRequests, as the spec says"))
    );
    assert_eq!(rule["after"]["spec"]["trafficPolicy"]["connectionPool"]["tcp"]["maxConnections"], 7);
    assert_eq!(rule["before"]["spec"]["trafficPolicy"]["connectionPool"].get("tcp"), None);
}

#[tokio::test]
async fn a_new_policy_is_shown_whole_and_a_service_beside_it_counts_as_applied() {
    let stage = Stage::new().await;
    let alone = stage.file("alone.yaml", &[policy("shop", &breaker(5))]);
    let waits = stage.json(1, &["diff", "-f", &alone]).await;
    assert_eq!(waits["resiliences"][0]["outcome"]["reason"], "TargetNotFound");
    assert_eq!(actions(&waits), ["Create Resilience"]);

    let both = stage.file("both.yaml", &[service("shop"), slice("shop", 3), policy("shop", &breaker(5))]);
    stage.page("diff-new.txt", &stage.prints(1, &["diff", "-f", &both]).await);
    let report = stage.json(1, &["diff", "-f", &both]).await;
    assert_eq!(report["resiliences"][0]["outcome"]["reason"], "Accepted");
    assert_eq!(actions(&report), ["Create Resilience", "Create DestinationRule", "Create VirtualService"]);
    assert_eq!(report["resiliences"][0]["outcomeNow"], Value::Null);
}

#[tokio::test]
async fn a_refusal_tells_every_fault_by_path_and_leaves_what_is_there() {
    let stage = Stage::with(&breaker(5)).await;
    let spec = json!({"limits": {"perClient": {"activeRequests": 0, "activ": 1}}, "timeouts": {"request": "0.5s"}});
    let file = stage.file("faulty.yaml", &[policy("shop", &spec)]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    let one = &report["resiliences"][0];
    assert_eq!((&one["outcome"]["reason"], &one["outcomeNow"]), (&json!("Invalid"), &json!("Accepted")));
    let paths: Vec<&str> =
        one["outcome"]["faults"].as_array().unwrap().iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["spec.limits.perClient.activ", "spec.limits.perClient.activeRequests", "spec.timeouts.request"]);
    assert_eq!(one["objects"], json!([]));
}

#[tokio::test]
async fn a_conflict_names_whose_rule_is_in_the_way() {
    let stage = Stage::new().await;
    stage.fake.put("services", service("shop"));
    stage.fake.put("destinationrules", foreign_rule("theirs", "shop"));
    let file = stage.file("late.yaml", &[policy("shop", &json!({"limits": {"perClient": {"activeRequests": 5}}}))]);
    let printed = stage.prints(1, &["diff", "-f", &file]).await;
    assert!(printed.contains("Conflicted") && printed.contains("DestinationRule ns/theirs"), "{printed}");
    assert!(!printed.contains("+++ DestinationRule"), "{printed}");
}

#[tokio::test]
async fn a_second_policy_for_a_service_is_told_that_the_older_has_it() {
    let stage = Stage::with(&breaker(5)).await;
    let file = stage.file("second.yaml", &[policy("second", &breaker(7))]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    let outcome = &report["resiliences"][0]["outcome"];
    assert_eq!(outcome["reason"], "Conflicted");
    assert!(outcome["message"].as_str().unwrap().contains("Resilience shop, older"), "{outcome}");
}

#[tokio::test]
async fn warnings_come_and_go_against_those_of_the_status() {
    let stage = Stage::with(&breaker(5)).await;
    let mut spec = breaker(5);
    spec["ejection"]["maxPercent"] = json!(10);
    let file = stage.file("ten.yaml", &[policy("shop", &spec)]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    let codes = |what: &str| -> Vec<String> {
        let list = report["resiliences"][0]["warnings"][what].as_array().unwrap();
        list.iter().map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(codes("new"), ["RES014"]);
    assert!(codes("staying").contains(&"RES010".to_owned()), "{report}");
    assert_eq!(codes("gone"), ["RES011"]);
    assert_eq!(report["resiliences"][0]["warnings"]["new"][0]["page"], "docs/warnings/RES014.md");
}

#[tokio::test]
async fn the_page_of_a_policy_tells_every_value_with_its_origin() {
    let mut spec = breaker(5);
    spec["retries"] = json!({"attempts": 1});
    let stage = Stage::with(&spec).await;
    let printed = stage.prints(0, &["explain", "shop"]).await;
    stage.page("explain.txt", &printed);
    for way in ["resilience/shop", "rsl/shop", "svc/shop", "Service/shop"] {
        assert_eq!(stage.prints(0, &["explain", way]).await, printed, "{way}");
    }
    // Before and after the name, as kubectl takes them.
    assert_eq!(stage.prints(0, &["explain", "-n", "ns", "--context", "here", "shop"]).await, printed);
    let json = stage.json(0, &["explain", "shop", "-n", "ns"]).await;
    let origin = |path: &str| {
        let value = json["values"].as_array().unwrap().iter().find(|value| value["path"] == path).unwrap();
        (value["value"].as_str().unwrap().to_owned(), value["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(origin("limits.perClient.activeRequests"), ("5".into(), "Spec".into()));
    assert_eq!(origin("ejection.maxPercent"), ("50".into(), "Endpoints".into()));
    assert_eq!(origin("ejection.interval"), ("10s".into(), "Default".into()));
    assert_eq!(origin("limits.perClient.connections"), ("unlimited".into(), "Istio".into()));
    assert_eq!(json["ejection"], json!([{"port": null, "endpoints": 3, "maxPercent": 50, "ejectable": 1}]));
    assert_eq!(json["valuesAre"], "Held");
    let yaml = stage.prints(0, &["explain", "shop", "-o", "yaml"]).await;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json);
}

#[tokio::test]
async fn drift_is_shown_by_field_with_what_should_be_there() {
    let mut spec = breaker(5);
    spec["mode"] = json!("Enforce");
    let stage = Stage::with(&spec).await;
    let drift =
        json!({"spec": {"exportTo": ["."], "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 7}}}}});
    stage.fake.patch("destinationrules", "shop", &drift);
    let json = stage.json(0, &["explain", "shop"]).await;
    assert_eq!(json["valuesAre"], "Wanted");
    let states: Vec<&str> =
        json["generated"].as_array().unwrap().iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Drifted", "AsWanted"]);
    let printed = stage.prints(0, &["explain", "shop"]).await;
    assert!(
        printed.contains("http2MaxRequests: 7, should be 5 (limits.perClient.activeRequests, as the spec says)"),
        "{printed}"
    );
    assert!(
        printed.contains(r#"spec.exportTo: ["."], should be unset (not ours, and it would void the policy)"#),
        "{printed}"
    );
}

#[tokio::test]
async fn ports_are_told_where_they_differ() {
    let stage = Stage::new().await;
    let mut service = service("shop");
    service["spec"]["ports"] = json!([{"name": "http", "port": 8000}, {"name": "grpc", "port": 9000}]);
    stage.fake.put("services", service);
    stage.fake.put("endpointslices", slice("shop", 3));
    let mut spec = breaker(5);
    spec["ports"] = json!([{"port": 9000, "timeouts": {"request": "30s"}, "ejection": {"maxPercent": 70}}]);
    stage.fake.put("resiliences", policy("shop", &spec));
    stage.page("explain-ports.txt", &stage.prints(0, &["explain", "shop"]).await);
    let json = stage.json(0, &["explain", "shop"]).await;
    assert_eq!(json["ejection"][1], json!({"port": 9000, "endpoints": 3, "maxPercent": 70, "ejectable": 2}));
    let inherited = json["values"].as_array().unwrap().iter().filter(|value| value["origin"] == "Inherited").count();
    assert!(inherited > 0, "{json}");
}

#[tokio::test]
async fn a_service_without_a_policy_has_a_page_that_names_what_concerns_it() {
    let stage = Stage::new().await;
    stage.fake.put("services", service("shop"));
    stage.fake.put("services", service("alone"));
    stage.fake.put("destinationrules", foreign_rule("theirs", "shop"));
    stage.page("explain-service.txt", &stage.prints(0, &["explain", "svc/shop"]).await);
    stage.page("explain-alone.txt", &stage.prints(0, &["explain", "alone"]).await);
    let json = stage.json(0, &["explain", "shop"]).await;
    assert_eq!((&json["policy"], &json["valuesAre"]), (&Value::Null, &json!("Others")));
    assert_eq!(json["beside"][0]["name"], "theirs");
    assert_eq!(json["values"], json!([]));
}

#[tokio::test]
async fn what_a_refused_policy_left_in_force_is_told_as_left() {
    let stage = Stage::with(&breaker(5)).await;
    let bytes = json!([{"name": "tcp", "port": 9000}]);
    stage.fake.patch("services", "shop", &json!({"spec": {"ports": bytes}}));
    stage.page("explain-refused.txt", &stage.prints(0, &["explain", "shop"]).await);
    let json = stage.json(0, &["explain", "shop"]).await;
    assert_eq!((&json["policy"]["outcome"]["reason"], &json["valuesAre"]), (&json!("Invalid"), &json!("Left")));
    assert!(json["policy"]["outcome"]["faults"][0]["path"].as_str().unwrap().starts_with("spec.timeouts"), "{json}");
}

#[tokio::test]
async fn what_the_installed_istio_lacks_is_refused_by_diff_as_by_the_operator() {
    let stage = Stage::with(&breaker(5)).await;
    stage.fake.install(open_api("trafficPolicy.retryBudget"), true);
    let mut spec = breaker(5);
    spec["retries"] = json!({"attempts": 1, "budget": {"percent": 20}});
    let file = stage.file("budget.yaml", &[policy("shop", &spec)]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    let outcome = &report["resiliences"][0]["outcome"];
    assert_eq!(
        (&outcome["reason"], &outcome["faults"][0]["path"]),
        (&json!("Unsupported"), &json!("spec.retries.budget"))
    );
    stage.fake.install(Value::Null, true);
    let said = stage.fails(1, &["explain", "nobody"]).await;
    assert!(said.contains("nothing here is held against what the installed Istio understands"), "{said}");
}

#[tokio::test]
async fn nothing_of_that_name_ends_with_1_and_says_where_it_looked() {
    let stage = Stage::new().await;
    let said = stage.fails(1, &["explain", "nobody"]).await;
    assert_eq!(
        said,
        "error: there is no Resilience, Service or ServiceEntry nobody in namespace ns: -n says which namespace\n"
    );
    let said = stage.fails(1, &["explain", "se/nobody", "-n", "other"]).await;
    assert!(said.contains("no ServiceEntry nobody in namespace other"), "{said}");
    assert!(said.contains("warning: namespace other does not exist"), "{said}");
}

#[tokio::test]
async fn a_missing_permission_names_the_resource_and_how_to_learn_of_it() {
    let stage = Stage::with(&breaker(5)).await;
    // The rules in all namespaces, then in this one and in the root namespace.
    for resource in ["destinationrules", "destinationrules", "destinationrules", "services"] {
        let words = "resource is forbidden: User \"eve\" cannot list it";
        stage.fake.fault(&format!("list {resource}"), Fault::Answer(403, words));
    }
    let said = stage.fails(2, &["explain", "shop"]).await;
    assert!(said.contains("kubectl auth can-i list destinationrules.networking.istio.io -n ns"), "{said}");
    assert!(said.contains("kubectl auth can-i list services -n ns"), "both are told at once: {said}");
}

#[tokio::test]
async fn labels_that_may_not_be_read_are_a_warning_and_no_more() {
    let stage = Stage::with(&breaker(5)).await;
    stage.fake.fault("get namespaces/ns", Fault::Answer(403, "namespaces is forbidden"));
    let output = stage.run(&["explain", "shop"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("warning: the labels of namespace ns cannot be read"));
    assert!(text(&output.stdout).contains("whether its pods have a sidecar"));
}

#[tokio::test]
async fn a_kind_that_is_not_served_says_what_to_install() {
    let stage = Stage::new().await;
    stage.fake.fault("list resiliences", Fault::Answer(404, "404 page not found"));
    stage.fake.fault("list virtualservices", Fault::Answer(404, "404 page not found"));
    let said = stage.fails(2, &["explain", "shop"]).await;
    assert!(said.contains("resiliences.resilience.dev is not served: apply crds/resilience.yaml"), "{said}");
    assert!(said.contains("virtualservices.networking.istio.io is not served: install Istio"), "{said}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_ends_with_2_and_is_told_once() {
    let stage = Stage::new().await;
    let file = stage.file("p.yaml", &[policy("shop", &breaker(5))]);
    for args in [&["explain", "shop", "--context", "gone"][..], &["diff", "-f", &file, "--context", "gone"]] {
        let said = stage.fails(2, args).await;
        assert_eq!(said.matches("cannot be reached").count(), 1, "{said}");
        assert!(said.contains("http://127.0.0.1:1") && said.contains("Connection refused"), "{said}");
    }
    let said = stage.fails(2, &["explain", "shop", "--context", "nowhere"]).await;
    assert!(said.contains("--context nowhere"), "{said}");
    let said = stage.fails(2, &["explain", "shop", "--kubeconfig", "no/such/file"]).await;
    assert!(said.contains("--kubeconfig no/such/file"), "{said}");
}

#[tokio::test]
async fn a_list_in_chunks_is_read_to_its_end() {
    let stage = Stage::new().await;
    for number in 0..501 {
        stage.fake.put("services", service(&format!("s{number:03}")));
    }
    // The last by name is in the second chunk.
    assert!(stage.prints(0, &["explain", "s500"]).await.contains("s500.ns.svc.cluster.local"));
}

#[tokio::test]
async fn as_a_kubectl_plugin_it_does_the_same() {
    let stage = Stage::with(&breaker(5)).await;
    let plugin = stage.folder.path().join("kubectl-resilience");
    std::os::unix::fs::symlink(PROGRAM, &plugin).unwrap();
    let mut command = tokio::process::Command::new(&plugin);
    command.args(["explain", "shop", "-n", "ns"]).env("KUBECONFIG", stage.folder.path().join("kubeconfig"));
    let output = command.output().await.unwrap();
    assert_eq!(text(&output.stdout), stage.prints(0, &["explain", "shop"]).await);
}

fn foreign_routes(host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "theirs", "namespace": "ns"},
        "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]},
    })
}

#[tokio::test]
async fn routes_that_another_has_are_told_as_theirs() {
    let stage = Stage::with(&breaker(5)).await;
    stage.fake.put("virtualservices", foreign_routes("shop"));
    let json = stage.json(0, &["explain", "shop"]).await;
    let of = |path: &str| {
        let value = json["values"].as_array().unwrap().iter().find(|value| value["path"] == path).unwrap();
        value["origin"].as_str().unwrap().to_owned()
    };
    assert_eq!((of("timeouts.request"), of("retries.attempts")), ("Others".into(), "Others".into()));
    assert_eq!(of("limits.perClient.activeRequests"), "Spec");
    assert_eq!(json["beside"][0]["concern"], "has the routes of the host: timeouts and retries are its own");
    let states: Vec<(&str, &str)> = json["generated"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["kind"].as_str().unwrap(), line["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("DestinationRule", "AsWanted"), ("VirtualService", "Unwanted")]);
}

#[tokio::test]
async fn with_mode_observe_all_would_go_and_with_mode_suspend_nothing_is_touched() {
    let stage = Stage::with(&breaker(5)).await;
    let mut spec = breaker(9);
    spec["mode"] = json!("Observe");
    let file = stage.file("observe.yaml", &[policy("shop", &spec)]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    assert_eq!(actions(&report), ["Update Resilience", "Delete VirtualService", "Delete DestinationRule"]);
    spec["mode"] = json!("Suspend");
    let file = stage.file("suspend.yaml", &[policy("shop", &spec)]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    assert_eq!(actions(&report), ["Update Resilience"]);
    let message = report["resiliences"][0]["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("Enforce would update DestinationRule shop"), "{message}");
}

#[tokio::test]
async fn an_owner_that_was_stripped_is_one_field_and_comes_back_beside_others() {
    let stage = Stage::with(&breaker(5)).await;
    let uid = stage.fake.get("resiliences", "shop").unwrap()["metadata"]["uid"].clone();
    let mut rule = stage.fake.get("destinationrules", "shop").unwrap();
    rule["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "other", "uid": "other"}]);
    stage.fake.put("destinationrules", rule);
    let file = stage.file("same.yaml", &[policy("shop", &breaker(5))]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    assert_eq!(actions(&report), ["Update DestinationRule"]);
    let object = &report["resiliences"][0]["objects"][0];
    assert_eq!(object["changes"][0]["path"], "metadata.ownerReferences");
    assert_eq!(object["changes"][0]["reason"], "says whose the object is");
    let owners = object["after"]["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!(owners.iter().map(|owner| &owner["uid"]).collect::<Vec<_>>(), [&json!("other"), &uid]);
}

#[tokio::test]
async fn a_service_entry_has_a_page_under_its_own_host() {
    let stage = Stage::new().await;
    stage.fake.put(
        "serviceentries",
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "pay", "namespace": "ns"},
            "spec": {"hosts": ["api.pay.example"], "resolution": "DNS", "ports": [{"number": 443, "protocol": "TLS", "name": "tls"}]},
        }),
    );
    let json = stage.json(0, &["explain", "serviceentry/pay"]).await;
    assert_eq!((&json["target"]["host"], &json["target"]["discovery"]), (&json!("api.pay.example"), &json!("Dns")));
    assert_eq!(json["target"]["endpoints"], Value::Null);
    let printed = stage.prints(0, &["explain", "pay"]).await;
    assert!(printed.contains("cannot be counted (Dns)"), "{printed}");
    assert!(!printed.contains("retries."), "calls of a TLS port cannot be seen: {printed}");
}

#[tokio::test]
async fn a_rule_in_the_files_counts_as_applied() {
    let stage = Stage::new().await;
    stage.fake.put("services", service("shop"));
    let limits = json!({"limits": {"perClient": {"activeRequests": 5}}});
    let file = stage.file("both.yaml", &[foreign_rule("theirs", "shop"), policy("shop", &limits)]);
    let report = stage.json(1, &["diff", "-f", &file]).await;
    assert_eq!(report["resiliences"][0]["outcome"]["reason"], "Conflicted");
}

#[tokio::test]
async fn a_policy_that_is_in_the_files_twice_is_no_question() {
    let stage = Stage::new().await;
    let file = stage.file("twice.yaml", &[policy("shop", &breaker(5)), policy("shop", &breaker(6))]);
    let said = stage.fails(2, &["diff", "-f", &file]).await;
    assert!(said.contains("(document 2): Resilience ns/shop is in the files twice"), "{said}");
}

/// A DestinationRule or VirtualService of somebody else for the Service `shop`.
fn theirs(kind: &str, place: &str, more: &Value) -> Value {
    let (namespace, name) = place.split_once('/').unwrap();
    let host = "shop.ns.svc.cluster.local";
    let mut spec = match kind {
        "DestinationRule" => json!({"host": host, "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}}),
        _ => json!({"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]}),
    };
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
    })
}

impl Stage {
    /// With a client namespace that has a rule of its own for some pods and routes of its own for all, and
    /// rules elsewhere that never count.
    async fn with_clients() -> Self {
        let stage = Self::with(&breaker(5)).await;
        let batch = json!({"workloadSelector": {"matchLabels": {"app": "batch"}}});
        stage.fake.put("destinationrules", theirs("DestinationRule", "web/some", &batch));
        stage.fake.put("destinationrules", theirs("DestinationRule", "third/all", &json!({"exportTo": ["*"]})));
        stage.fake.put("destinationrules", theirs("DestinationRule", "istio-system/all", &json!({"host": "*.local"})));
        stage.fake.put("virtualservices", theirs("VirtualService", "web/own", &json!({"exportTo": ["."]})));
        for app in ["batch", "front"] {
            let template = json!({"metadata": {"labels": {"app": app}}});
            stage.fake.put(
                "deployments",
                json!({
                    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "namespace": "web"},
                    "spec": {"template": template},
                }),
            );
        }
        stage
    }
}

#[tokio::test]
async fn a_client_is_told_what_it_gets_and_what_is_shadowed_by_whom() {
    let stage = Stage::with_clients().await;
    let lists = |page: &Value| (page["destinationRules"].clone(), page["virtualServices"].clone());
    stage.page("explain-client.txt", &stage.prints(0, &["explain", "shop", "--client", "web/batch"]).await);
    let batch = stage.json(0, &["explain", "shop", "--client", "web/batch"]).await;
    assert_eq!(lists(&batch), (json!(["web/some"]), json!(["web/own"])));
    assert_eq!(batch["client"]["workload"], "Deployment batch");
    assert_eq!(batch["client"]["trafficPolicyOf"], "web/some");
    // Nothing selects these, and the owner's rule is lost to them all the same (istio/istio#57719).
    let front = stage.json(0, &["explain", "svc/shop", "--client", "web/front"]).await;
    assert_eq!(lists(&front), (json!([]), json!(["web/own"])));
    let other = stage.json(0, &["explain", "shop", "--client", "elsewhere"]).await;
    assert_eq!(lists(&other), (json!(["ns/shop"]), json!(["ns/shop"])));
    assert_eq!(other["client"]["workload"], Value::Null);
    let whole = stage.json(0, &["explain", "shop", "--client", "web"]).await;
    let unknown = whole["notObserved"].as_array().unwrap().iter().filter_map(Value::as_str);
    assert!(unknown.into_iter().any(|line| line.contains("DestinationRule web/some is for workloads with")), "{whole}");
}

#[tokio::test]
async fn without_a_client_the_page_names_who_gets_something_else() {
    let stage = Stage::with_clients().await;
    stage.page("explain-others.txt", &stage.prints(0, &["explain", "shop"]).await);
    let json = stage.json(0, &["explain", "shop"]).await;
    assert_eq!(
        (&json["client"], &json["destinationRules"], &json["virtualServices"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let others = json["others"].as_array().unwrap().iter().map(|one| {
        let text = |key: &str| one[key].as_str().unwrap_or("nothing").to_owned();
        format!("{}: {} instead of our {}", text("clients"), text("gets"), text("kind"))
    });
    let expected = [
        "clients in namespace third: DestinationRule third/all instead of our DestinationRule",
        "clients in namespace web but those labelled app=batch in namespace web: nothing instead of our DestinationRule",
        "clients labelled app=batch in namespace web: DestinationRule web/some instead of our DestinationRule",
        "clients in namespace web: VirtualService web/own instead of our VirtualService",
    ];
    assert_eq!(others.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_sidecar_that_hides_the_host_and_routes_of_the_gateway_api_are_told() {
    let stage = Stage::with(&breaker(5)).await;
    let sidecar = |namespace: &str| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": "default", "namespace": namespace}, "spec": {"egress": [{"hosts": ["./*"]}]},
        })
    };
    stage.fake.put("sidecars", sidecar("closed"));
    let parent = json!({"group": "", "kind": "Service", "name": "shop", "namespace": "ns"});
    stage.fake.put(
        "httproutes",
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "consumer", "namespace": "web"}, "spec": {"parentRefs": [parent], "rules": [{}]},
        }),
    );
    let closed = stage.json(0, &["explain", "shop", "--client", "closed"]).await;
    assert_eq!((&closed["destinationRules"], &closed["client"]["seesHost"]), (&json!([]), &json!(false)));
    let printed = stage.prints(0, &["explain", "shop", "--client", "closed"]).await;
    assert!(printed.contains("the host is not there for it"), "{printed}");
    let web = stage.json(0, &["explain", "shop", "--client", "web"]).await;
    assert_eq!((&web["destinationRules"], &web["virtualServices"]), (&json!(["ns/shop"]), &json!([])));
    assert_eq!(web["client"]["ports"][0]["gatewayRoutes"], json!(["HTTPRoute web/consumer"]));
}

#[tokio::test]
async fn routes_that_a_sidecar_imports_show_the_hosts_that_they_lead_to_whatever_they_carry() {
    let stage = Stage::with(&breaker(5)).await;
    let closed = |namespace: &str| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": "default", "namespace": namespace}, "spec": {"egress": [{"hosts": ["./*"]}]},
        })
    };
    let destination = json!({"host": "shop.ns.svc.cluster.local"});
    let leads = json!({"hosts": ["own.example.org"], "http": null, "tcp": [{"route": [{"destination": destination}]}]});
    stage.fake.put("sidecars", closed("web"));
    stage.fake.put("virtualservices", theirs("VirtualService", "web/leads", &leads));
    let json = stage.json(0, &["explain", "shop", "--client", "web"]).await;
    assert_eq!((&json["client"]["seesHost"], &json["destinationRules"]), (&json!(true), &json!(["ns/shop"])));
}

#[tokio::test]
async fn a_service_that_is_exported_to_some_namespaces_is_not_there_for_clients_of_others() {
    let stage = Stage::with(&breaker(5)).await;
    stage.fake.patch(
        "services",
        "shop",
        &json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "., web"}}}),
    );
    let sees = async |client: &str| {
        stage.json(0, &["explain", "shop", "--client", client]).await["client"]["seesHost"].clone()
    };
    assert_eq!(
        [sees("ns").await, sees("web").await, sees("elsewhere").await],
        [json!(true), json!(true), json!(false)]
    );
}

#[tokio::test]
async fn what_may_not_be_listed_in_all_namespaces_is_read_nearby_and_said() {
    let stage = Stage::with_clients().await;
    stage.fake.fault("list httproutes", Fault::Answer(403, "httproutes is forbidden"));
    let json = stage.json(0, &["explain", "shop", "--client", "web/front"]).await;
    let said = json["notObserved"].as_array().unwrap();
    let line = "HTTPRoutes of all namespaces: you may not list them, and only those of istio-system, ns, web were read";
    assert!(said.contains(&json!(line)), "{json}");
    stage.fake.fault("list grpcroutes", Fault::Answer(404, "404 page not found"));
    let json = stage.json(0, &["explain", "shop", "--client", "web/front"]).await;
    assert!(!json["notObserved"].to_string().contains("GRPCRoute"), "a kind that is not installed has none: {json}");
}

#[tokio::test]
async fn a_client_that_is_not_there_is_no_question() {
    let stage = Stage::with_clients().await;
    let said = stage.fails(2, &["explain", "shop", "--client", "web/nobody"]).await;
    assert!(said.contains("namespace web has no workload nobody (Deployment, StatefulSet, DaemonSet, Pod)"), "{said}");
    let said = stage.fails(2, &["explain", "shop", "--client", "web/a/b"]).await;
    assert!(said.contains("must be NAMESPACE or NAMESPACE/WORKLOAD"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_rule_is_shown_as_shared_and_what_giving_it_back_would_change() {
    let stage = Stage::new().await;
    let mut theirs = foreign_rule("theirs", "shop");
    let ejection = json!({"consecutive5xxErrors": 7});
    theirs["spec"]["trafficPolicy"] = json!({"loadBalancer": {"simple": "RANDOM"}, "outlierDetection": ejection});
    let fields = json!({"f:spec": {"f:trafficPolicy": {"f:outlierDetection": {"f:consecutive5xxErrors": {}}}}});
    theirs["metadata"]["managedFields"] = json!([{"manager": "kubectl", "operation": "Apply", "fieldsV1": fields}]);
    stage.fake.put("services", service("shop"));
    stage.fake.put("endpointslices", slice("shop", 3));
    stage.fake.put("destinationrules", theirs.clone());
    let sharing = json!({"coexistence": "Merge", "limits": {"perClient": {"activeRequests": 5}}});
    stage.fake.put("resiliences", policy("shop", &sharing));
    let operator = Operator::start(&stage.fake);
    until_programmed(&stage.fake, "shop").await;
    operator.crash().await;

    stage.page("explain-shared.txt", &stage.prints(0, &["explain", "shop"]).await);
    let page = stage.json(0, &["explain", "shop"]).await;
    assert_eq!(
        (&page["generated"][0]["name"], &page["generated"][0]["ownership"]),
        (&json!("theirs"), &json!("CoOwned"))
    );
    // The owner's file has nothing of ours, and its apply would leave ours alone.
    let own = stage.file("own.json", &[theirs, policy("shop", &sharing)]);
    assert_eq!(stage.json(0, &["diff", "-f", &own]).await["differences"], false);

    let mut refusing = sharing;
    refusing["coexistence"] = "Refuse".into();
    let file = stage.file("refusing.json", &[policy("shop", &refusing)]);
    stage.page("diff-shared.txt", &stage.prints(1, &["diff", "-f", &file]).await);
}

#[tokio::test]
async fn of_a_target_that_is_not_there_a_client_gets_nothing() {
    let stage = Stage::new().await;
    stage.fake.put("resiliences", policy("shop", &breaker(5)));
    stage.fake.put("destinationrules", theirs("DestinationRule", "ns/all", &json!({"host": "*.local"})));
    let json = stage.json(0, &["explain", "shop", "--client", "web"]).await;
    assert_eq!((&json["destinationRules"], &json["virtualServices"]), (&json!([]), &json!([])));
    assert_eq!((&json["client"]["namespace"], &json["client"]["seesHost"]), (&json!("web"), &json!(false)));
}

#[tokio::test]
async fn top_says_which_service_is_not_there_which_right_is_missing_and_that_there_is_no_proxy() {
    let stage = Stage::new().await;
    stage.fake.put("services", service("shop"));
    let said = stage.fails(1, &["top", "no-such"]).await;
    assert!(said.contains("there is no Service no-such in namespace ns: -n says which namespace"), "{said}");
    for args in [&["top", "shop", "--interval", "1s"][..], &["top", "--interval", "1s", "-o", "json"]] {
        let said = stage.fails(2, args).await;
        assert!(said.contains("there is no pod with a proxy"), "{args:?}: {said}");
    }
    stage.fake.bar("pods", "", true);
    let said = stage.fails(2, &["top", "svc/shop", "--interval", "1s"]).await;
    assert!(said.contains("clients of other namespaces than ns are not looked at"), "{said}");
    stage.fake.bar("pods", "ns", true);
    let said = stage.fails(2, &["top", "shop.ns.svc.cluster.local"]).await;
    assert!(said.contains("ask for the right to list pods in namespace ns"), "{said}");
}

#[tokio::test]
async fn why_tells_what_the_api_server_holds_where_no_proxy_can_be_read_and_names_what_is_missing() {
    let stage = Stage::new().await;
    let mut shop = service("shop");
    shop["spec"]["selector"] = json!({"app": "shop"});
    stage.fake.put("services", shop);
    stage.fake.put("endpointslices", slice("shop", 3));
    let said = stage.fails(1, &["why", "no-such"]).await;
    assert!(said.contains("there is no Service no-such in namespace ns: -n says which namespace"), "{said}");
    let page = stage.prints(2, &["why", "shop", "--for", "0"]).await;
    assert!(
        page.starts_with("no proxy that calls Service ns/shop was read: nothing is known of its calls\n"),
        "{page}"
    );

    // One endpoint is on its way out, and nobody is ready; the pod's proxy gives no way in.
    stage.fake.put("endpointslices", slice("shop", 0));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "shop-1", "namespace": "ns",
            "labels": {"app": "shop", "service.istio.io/canonical-name": "shop"},
            "annotations": {"sidecar.istio.io/status": "{}"},
        },
        "spec": {"containers": []},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "shop", "ready": false, "image": "", "imageID": "", "restartCount": 7,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }]},
    });
    stage.fake.put("pods", pod);
    let why = stage.json(1, &["why", "svc/shop", "--for", "0", "--client", "ns/shop"]).await;
    let cause = &why["causes"][0];
    assert_eq!((&cause["cause"], &cause["class"]), (&json!("NoEndpoints"), &json!("MustFail")));
    let evidence = &cause["evidence"][0];
    assert_eq!(
        (&evidence["seenAt"], &evidence["says"]),
        (&json!("Pod ns/shop-1"), &json!("is not ready: container shop: CrashLoopBackOff"))
    );
    let not_seen = why["notSeen"].to_string();
    assert!(not_seen.contains("the proxy of ns/shop-1: the API server forwards no port to it"), "{not_seen}");
    let page = stage.prints(1, &["why", "shop", "--for", "0"]).await;
    assert!(
        page.contains("1. no endpoint (it cannot but fail): Service ns/shop has no endpoint that is ready"),
        "{page}"
    );

    stage.fake.bar("peerauthentications", "istio-system", true);
    let page = stage.prints(1, &["why", "shop", "--for", "0"]).await;
    let right = "ask for the right to list peerauthentications.security.istio.io in namespace istio-system";
    assert!(page.contains(right), "{page}");
    let said = stage.fails(2, &["why", "shop", "--for", "0", "--client", "nowhere"]).await;
    assert!(said.contains("there is no running pod with a proxy of nowhere"), "{said}");
    stage.fake.bar("pods", "", true);
    stage.fake.bar("pods", "ns", true);
    let said = stage.fails(2, &["why", "shop", "--for", "0"]).await;
    assert!(said.contains("ask for the right to list pods in namespace ns"), "{said}");
    let writes = stage.fake.writes();
    assert!(writes.is_empty(), "why wrote: {writes:?}");
}

#[tokio::test]
async fn status_tells_each_policy_on_a_line_and_one_with_all_its_conditions() {
    let stage = Stage::with(&breaker(5)).await;
    let page = stage.prints(0, &["status"]).await;
    let rows: Vec<Vec<&str>> =
        page.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect()).collect();
    assert_eq!(rows[0], ["NAME", "TARGET", "READY", "SINCE", "REASON", "INEFFECT", "WARNINGS"]);
    assert_eq!((rows[1][0], rows[1][1], rows[1][2]), ("shop", "Service shop", "True"), "{page}");
    assert_eq!(stage.prints(0, &["get"]).await.lines().count(), 2);
    let page = stage.prints(0, &["status", "rsl/shop"]).await;
    assert!(page.starts_with("Resilience ns/shop for Service shop\n"), "{page}");
    for condition in ["Accepted", "Programmed", "InEffect", "Ready", "Stalled"] {
        assert!(page.lines().any(|line| line.trim().starts_with(condition)), "no {condition}: {page}");
    }
    // A spec that nobody has looked at is not ready, whatever was said of the one before.
    stage.fake.patch("resiliences", "shop", &json!({"spec": {"limits": {"perClient": {"activeRequests": 6}}}}));
    let report = stage.json(1, &["status", "shop"]).await;
    assert_eq!((&report["ready"], &report["policies"][0]["current"]), (&json!(false), &json!(false)));
    let said = stage.fails(1, &["status", "no-such"]).await;
    assert!(said.contains("there is no Resilience no-such in namespace ns: -n says which namespace"), "{said}");
    stage.fake.bar("resiliences", "ns", true);
    let said = stage.fails(2, &["status"]).await;
    assert!(said.contains("ask for the right to list resiliences.resilience.dev in namespace ns"), "{said}");
}
