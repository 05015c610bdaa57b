//! `verify`: the caller against a proxy and a target in the process, whose guards are tripped one by one; and the
//! program itself against an API server in the process, with the Job's part played by a log.

use std::{
    collections::BTreeMap,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use resilience_operator::{
    api::LimitResult,
    verification::{self, Act, Caps, Evidence, Guard, HeldBy, Line, Plan, Reading, Report, Sign, Step, counters},
    verify::{
        caller::carry_out,
        job::Told,
        proxy::{OwnProxy, Places},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    fake::{Fake, Fault},
    installed::open_api,
    reconcile::{Operator, condition, policy, service, settle, until, until_programmed},
    support::{PROGRAM, root},
};

/// A proxy with a limit on calls, and the target behind it.
#[derive(Default)]
struct Envoy {
    limit: u64,
    /// Calls that are answered before what follows.
    well: u64,
    /// What is answered from then on: with this status, or never.
    then: Then,
    under_way: AtomicU64,
    answered: AtomicU64,
    counters: Mutex<BTreeMap<&'static str, u64>>,
    /// Cancelled with the first call after those that are answered well.
    turned: CancellationToken,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Then {
    #[default]
    Well,
    Status(u16),
    Never,
}

impl Envoy {
    fn count(&self, counter: &'static str) {
        *self.counters.lock().unwrap().entry(counter).or_default() += 1;
    }
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::from(code.to_string())).unwrap()
}

async fn answer(State(envoy): State<Arc<Envoy>>, request: Request) -> Response {
    match request.uri().path() {
        "/config_dump" => {
            // Both resources in one answer: each reader takes its own.
            let cluster = json!({
                "name": format!("outbound|{}||127.0.0.1", request.headers()["host"].to_str().unwrap().rsplit(':').next().unwrap()),
                "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/ns/destination-rule/shop"}}},
            });
            Response::new(Body::from(json!({"configs": [{"cluster": cluster}]}).to_string()))
        }
        "/stats" => {
            let port = request.headers()["host"].to_str().unwrap().rsplit(':').next().unwrap().to_owned();
            let counters = envoy.counters.lock().unwrap();
            let lines =
                counters.iter().map(|(name, count)| format!("cluster.outbound|{port}||127.0.0.1;.{name}: {count}\n"));
            Response::new(Body::from(lines.collect::<String>()))
        }
        "/ready" => status(200),
        _ => call(&envoy).await,
    }
}

async fn call(envoy: &Envoy) -> Response {
    envoy.count(counters::CALLS);
    if envoy.under_way.fetch_add(1, Ordering::SeqCst) >= envoy.limit {
        envoy.under_way.fetch_sub(1, Ordering::SeqCst);
        envoy.count(counters::ACTIVE);
        let overloaded = Response::builder().status(503).header("x-envoy-overloaded", "true");
        return overloaded.body(Body::empty()).unwrap();
    }
    let before = envoy.answered.fetch_add(1, Ordering::SeqCst);
    let turned = before >= envoy.well && envoy.then != Then::Well;
    let answer = match envoy.then {
        Then::Status(code) if turned => status(code),
        Then::Never if turned => {
            envoy.turned.cancel();
            std::future::pending().await
        }
        // Long enough for others to be under way as well.
        _ => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            status(200)
        }
    };
    envoy.under_way.fetch_sub(1, Ordering::SeqCst);
    answer
}

fn line(number: u32) -> Line {
    let sign = Sign::Counter(counters::ACTIVE.to_owned());
    Line {
        path: "limits.perClient.activeRequests".to_owned(),
        value: number.to_string(),
        held_by: HeldBy::Rule,
        step: Step::Drive(Act::Callers { sign, within: Some(number), past: vec![number + 2], failing: false }),
    }
}

/// Lets the caller carry out a plan for a limit of two, and gives what it saw and what is said of it.
async fn called(envoy: Arc<Envoy>, caps: Caps, stop: &CancellationToken) -> (Evidence, Report) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().fallback(answer).with_state(envoy);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let at = |path: &str| format!("http://127.0.0.1:{port}/{path}").parse().unwrap();
    let places = Places { admin: at(""), ready: at("ready"), quit: at("quit") };
    let proxy = OwnProxy::about(places, "127.0.0.1", port).unwrap();
    let plan = Plan {
        host: "127.0.0.1".to_owned(),
        asked: verification::Asked {
            port,
            http2: false,
            path: "/get".to_owned(),
            slow_path: None,
            fail_path: None,
            caps,
        },
        rule: Some("ns/shop".to_owned()),
        routes: None,
        lines: vec![line(2)],
    };
    let evidence = carry_out(&plan, &proxy, stop, |_| {}).await;
    let report = Report::new(("ns", "shop", "hash"), "ns", &plan, &evidence);
    (evidence, report)
}

const CAPS: Caps = Caps { callers: 10, rate_per_s: 1_000, duration_ms: 60_000, errors_percent: 10 };

fn guard(evidence: &Evidence) -> Option<Guard> {
    evidence.stopped.as_ref().map(|stopped| stopped.guard)
}

#[tokio::test]
async fn a_limit_is_driven_to_its_number_until_it_trips_and_once_past_it() {
    let envoy = Arc::new(Envoy { limit: 2, ..Envoy::default() });
    let (evidence, report) = called(envoy, CAPS, &CancellationToken::new()).await;
    assert_eq!(guard(&evidence), None, "{evidence:?}");
    assert_eq!(report.limits[0].finding.result, LimitResult::Tripped, "{report:?}");
    let callers: Vec<u32> = evidence.readings[&0].iter().map(|reading| reading.callers).collect();
    assert_eq!(callers, [2, 4, 4]);
    assert_eq!(evidence.readings[&0][0].counted(counters::ACTIVE), 0);
}

#[tokio::test]
async fn a_limit_of_another_number_is_seen_from_both_sides() {
    for (limit, expected) in [(1, "TooEarly"), (9, "NotSeen")] {
        let envoy = Arc::new(Envoy { limit, ..Envoy::default() });
        let (_, report) = called(envoy, CAPS, &CancellationToken::new()).await;
        assert_eq!(format!("{:?}", report.limits[0].finding.cause), expected);
    }
}

#[tokio::test]
async fn too_many_errors_stop_a_run() {
    let envoy = Arc::new(Envoy { limit: 2, well: 3, then: Then::Status(500), ..Envoy::default() });
    let (evidence, report) = called(envoy.clone(), CAPS, &CancellationToken::new()).await;
    assert_eq!(guard(&evidence), Some(Guard::Errors), "{evidence:?}");
    assert!(evidence.stopped.unwrap().message.contains("most of them with 500"));
    assert!(report.conclusion().is_none());
    // The round within the limit is noise still; the next one was the last.
    assert!(envoy.answered.load(Ordering::SeqCst) < 40);
}

#[tokio::test]
async fn a_run_ends_with_its_time() {
    let envoy = Arc::new(Envoy { limit: 2, well: 3, then: Then::Never, ..Envoy::default() });
    let caps = Caps { duration_ms: 700, ..CAPS };
    let (evidence, _) = called(envoy, caps, &CancellationToken::new()).await;
    assert_eq!(guard(&evidence), Some(Guard::Deadline), "{evidence:?}");
}

#[tokio::test]
async fn a_run_that_is_told_to_stop_stops_amid_a_call() {
    let envoy = Arc::new(Envoy { limit: 2, well: 3, then: Then::Never, ..Envoy::default() });
    let stop = envoy.turned.clone();
    let (evidence, _) = called(envoy, CAPS, &stop).await;
    assert_eq!(guard(&evidence), Some(Guard::Interrupted), "{evidence:?}");
}

#[tokio::test]
async fn a_path_that_fails_calmly_is_not_pressed() {
    let envoy = Arc::new(Envoy { limit: 2, well: 0, then: Then::Status(404), ..Envoy::default() });
    let (evidence, _) = called(envoy.clone(), CAPS, &CancellationToken::new()).await;
    assert_eq!(guard(&evidence), Some(Guard::Path), "{evidence:?}");
    assert!(evidence.stopped.unwrap().message.starts_with("/get is answered 404 even calmly"));
    assert_eq!(envoy.answered.load(Ordering::SeqCst), 3);
}

/// The program, a kubeconfig, and a cluster in which the operator has acted on `shop`.
struct Cluster {
    fake: Fake,
    folder: TempDir,
}

const POD: &str = "verify-pod";

impl Cluster {
    async fn new() -> Self {
        let fake = Fake::default();
        fake.install(open_api("nothing"), true);
        let address = fake.serve_http().await;
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), config.to_string()).unwrap();
        fake.put("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}));
        fake.put("services", service("shop"));
        let mut shop = policy("shop");
        shop["spec"].as_object_mut().unwrap().remove("timeouts");
        fake.put("resiliences", shop);
        let operator = Operator::start(&fake);
        until_programmed(&fake, "shop").await;
        operator.crash().await;
        Self { fake, folder }
    }

    /// The Job's pod, as injection and the kubelet would have it.
    fn pod(&self, containers: &[&str]) {
        let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
        let state = json!({"terminated": {"exitCode": 0}});
        self.fake.put(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": "ns"},
                "spec": {"containers": containers},
                "status": {"containerStatuses": [
                    {"name": "verify", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state},
                ]},
            }),
        );
    }

    /// The log of a caller that saw this past the limit.
    fn saw(&self, refused: u64) {
        let reading = |callers: u32, refused: u64| {
            let mut reading = Reading { callers, calls: u64::from(callers) * 4, ..Reading::default() };
            reading.counters.insert(counters::ACTIVE.to_owned(), refused);
            reading.counters.insert(counters::CALLS.to_owned(), reading.calls);
            reading
        };
        let mut evidence = Evidence { calm: Some(reading(1, 0)), ..Evidence::default() };
        evidence.proxy = Some(resilience_operator::verification::Proxy {
            knows_target: true,
            rule: Some("ns/shop".to_owned()),
            ..Default::default()
        });
        evidence.readings.insert(0, vec![reading(5, 0), reading(6, refused)]);
        let lines = [
            Told::Progress("1 of 1: limits.perClient.activeRequests 5".to_owned()),
            Told::Evidence(Box::new(evidence)),
        ];
        let text: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        self.fake.log(POD, &(text.join("\n") + "\n"));
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(PROGRAM);
        command
            .arg("verify")
            .args(args)
            .args(["--image", "image"])
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        command.current_dir(root()).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    }

    async fn run(&self, code: i32, args: &[&str]) -> (String, String) {
        let output: Output = self.command(args).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (printed, said) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {printed}{said}");
        (printed, said)
    }

    /// Jobs that were made and taken away.
    fn jobs(&self) -> (usize, usize) {
        let writes = self.fake.writes();
        let number = |verb: &str| writes.iter().filter(|write| write.starts_with(verb)).count();
        (number("post jobs/"), number("delete jobs/"))
    }

    fn verification(&self) -> Value {
        self.fake.get("resiliences", "shop").unwrap()["status"]["verification"].clone()
    }
}

#[tokio::test]
async fn what_was_seen_is_printed_written_down_and_told_and_the_job_is_gone() {
    let cluster = Cluster::new().await;
    cluster.pod(&["verify", "istio-proxy"]);
    for (refused, code, result) in [(3, 0, "Passed"), (0, 1, "Failed")] {
        cluster.saw(refused);
        let (printed, said) = cluster.run(code, &["shop", "--yes", "-o", "json"]).await;
        let report: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(report["result"], result, "{printed}");
        assert!(said.contains("This is load on a live service: up to 22 calls at a time"), "{said}");
        assert!(said.contains("1 of 1: limits.perClient.activeRequests 5"), "{said}");
        let written = cluster.verification();
        assert_eq!(written["result"], result);
        assert_eq!(written["specHash"], report["specHash"]);
        assert_eq!(written["limits"][0]["path"], "limits.perClient.activeRequests");
        let events = cluster.fake.events();
        let event = events.last().unwrap();
        assert_eq!((&event["reportingController"], &event["action"]), (&json!("resilience-verify"), &json!("Verify")));
    }
    assert_eq!(cluster.jobs(), (2, 2));
    let (printed, _) = cluster.run(1, &["shop", "--yes", "-o", "junit"]).await;
    assert!(printed.contains("failures=\"1\""), "{printed}");
}

#[tokio::test]
async fn without_a_terminal_it_takes_a_yes_and_does_nothing_before() {
    let cluster = Cluster::new().await;
    let before = cluster.fake.writes();
    let (printed, said) = cluster.run(2, &["shop"]).await;
    assert!(printed.is_empty() && said.contains("say --yes to go on"), "{said}");
    assert!(said.contains("limits.perClient.activeRequests  5  is driven until it trips"), "{said}");
    assert_eq!(cluster.fake.writes(), before);
}

#[tokio::test]
async fn a_caller_without_a_proxy_is_refused_at_once_and_fails() {
    let cluster = Cluster::new().await;
    cluster.pod(&["verify"]);
    let (printed, _) = cluster.run(1, &["shop", "--yes"]).await;
    assert!(printed.contains("the traffic goes through no sidecar"), "{printed}");
    assert_eq!(cluster.jobs(), (1, 1));
    assert_eq!(cluster.verification()["result"], "Failed");
}

#[tokio::test]
async fn a_signal_takes_the_job_away_and_nothing_is_concluded() {
    for signal in ["-INT", "-TERM"] {
        let cluster = Cluster::new().await;
        cluster.pod(&["verify", "istio-proxy"]);
        let (_never, held) = tokio::sync::oneshot::channel();
        cluster.fake.fault(&format!("get pods/{POD}"), Fault::Hold(held));
        let child = cluster.command(&["shop", "--yes"]).spawn().unwrap();
        let id = child.id().unwrap().to_string();
        until("the Job is made", || cluster.jobs().0 == 1).await;
        // The log is asked for, and not answered.
        assert!(
            std::process::Command::new("sh").args(["-c", &format!("kill {signal} {id}")]).status().unwrap().success()
        );
        let output = child.wait_with_output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("stopped: nothing is concluded"), "{said}");
        assert_eq!(cluster.jobs(), (1, 1), "{signal}");
        assert!(cluster.verification().is_null());
    }
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_an_error_and_its_job_goes_all_the_same() {
    let cluster = Cluster::new().await;
    cluster.pod(&["verify", "istio-proxy"]);
    cluster.fake.log(POD, "another program\n");
    let (_, said) = cluster.run(2, &["shop", "--yes"]).await;
    assert!(said.contains("did not say what it saw"), "{said}");
    assert_eq!(cluster.jobs(), (1, 1));
    assert!(cluster.verification().is_null());
}

#[tokio::test]
async fn what_is_not_programmed_is_not_verified() {
    let cluster = Cluster::new().await;
    cluster.fake.patch("resiliences", "shop", &json!({"spec": {"limits": {"perClient": {"activeRequests": 7}}}}));
    let (_, said) = cluster.run(2, &["shop", "--yes"]).await;
    assert!(said.contains("has not looked at this version"), "{said}");
    assert_eq!(cluster.jobs(), (0, 0));
}

#[tokio::test]
async fn the_operator_says_what_was_verified_until_the_spec_is_another_and_never_owns_it() {
    let cluster = Cluster::new().await;
    let fake = &cluster.fake;
    assert_eq!(condition(fake, "shop", "Verified"), "Unknown/NeverVerified");
    let _operator = Operator::start(fake);
    cluster.pod(&["verify", "istio-proxy"]);
    cluster.saw(3);
    cluster.run(0, &["shop", "--yes"]).await;
    until("it is verified", || condition(fake, "shop", "Verified") == "True/Verified").await;
    assert_eq!(condition(fake, "shop", "Ready"), "True/Ready");
    let verification = cluster.verification();
    let spec = |requests: u32| json!({"spec": {"limits": {"perClient": {"activeRequests": requests}}}});
    fake.patch("resiliences", "shop", &spec(6));
    until("it is stale", || condition(fake, "shop", "Verified") == "Unknown/Stale").await;
    assert_eq!(condition(fake, "shop", "Ready"), "True/Ready");
    assert_eq!(cluster.verification(), verification);
    fake.patch("resiliences", "shop", &spec(5));
    until("it is as it was", || condition(fake, "shop", "Verified") == "True/Verified").await;
    // Whoever takes the verification back takes the condition with it: the operator keeps nothing of it.
    let mine = json!({
        "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
        "metadata": {"name": "shop", "namespace": "ns"}, "status": {},
    });
    fake.state().apply_status_as("resiliences", mine, "resilience-verify").unwrap();
    until("nobody says so", || condition(fake, "shop", "Verified") == "Unknown/NeverVerified").await;
    assert!(cluster.verification().is_null());
    settle(fake).await;
}
