//! Two replicas against one API server, over real connections: who writes, who is ready to, and what
//! happens in between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Config;
use resilience_operator::{
    cli::run::operate,
    runtime::{
        admin::Health,
        lease::{self, timing::Timing},
        metrics::Metrics,
        settings::Settings,
    },
};
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    fake::{Fake, Fault},
    reconcile::{fake_with, policy, service, until, until_programmed},
};

const LEASES: &str = "leases";
const LEASE: &str = "resilience-operator";
const POLICIES: &str = "resiliences";

const TIMING: Timing = Timing {
    lease_duration: Duration::from_secs(2),
    renew_deadline: Duration::from_millis(900),
    retry_period: Duration::from_millis(200),
};

/// A process of its own, as far as that goes: with threads of its own.
struct Replica {
    process: Option<Runtime>,
    task: Option<JoinHandle<anyhow::Result<()>>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Replica {
    fn start(url: &str) -> Self {
        let (health, metrics, stop) =
            (Arc::new(Health::default()), Arc::new(Metrics::default()), CancellationToken::new());
        let mut config = Config::new(url.parse().unwrap());
        config.default_namespace = "ns".to_owned();
        let settings = Settings { istiod_address: String::new(), timing: TIMING, ..Settings::default() };
        let process = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let task = process.spawn(operate(config, settings, metrics.clone(), health.clone(), stop.clone()));
        Self { process: Some(process), task: Some(task), health, metrics, stop }
    }

    fn leads(&self) -> bool {
        self.metrics.encode().unwrap().lines().any(|line| line == "resilience_operator_leader 1")
    }

    /// Everything is listed, and the lease was asked for.
    async fn until_standing_by(&self) {
        until("it stands by", || {
            let listed = self.metrics.encode().unwrap().lines().any(|line| line == "resilience_operator_leader 0");
            listed && self.health.blockers().is_empty()
        })
        .await;
    }

    /// How it ended by itself.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let task = self.task.take().unwrap();
        timeout(Duration::from_secs(5), task).await.expect("it did not end").unwrap()
    }

    /// As SIGTERM; how it ended.
    async fn leave(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.ended().await
    }
}

/// As `kill -9`.
impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }
}

/// Every write of Istio's objects.
fn writes(fake: &Fake) -> Vec<String> {
    fake.writes().into_iter().filter(|write| !write.contains(LEASES) && !write.contains(POLICIES)).collect()
}

fn holder(fake: &Fake) -> String {
    let lease = fake.get(LEASES, LEASE).unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_ready_and_writes_nothing_until_the_leader_has_left() {
    let fake = fake_with(&["web"]);
    let url = fake.serve_http().await;
    let first = Replica::start(&url);
    until_programmed(&fake, "web").await;
    assert!(first.leads());
    let second = Replica::start(&url);
    second.until_standing_by().await;
    let before = holder(&fake);

    fake.put("services", service("later"));
    fake.put(POLICIES, policy("later"));
    until_programmed(&fake, "later").await;
    assert_eq!(writes(&fake).len(), 4, "{:?}", writes(&fake));
    assert_eq!(holder(&fake), before);

    first.leave().await.unwrap();
    let left = Instant::now();
    until("the other one leads", || second.leads()).await;
    assert!(left.elapsed() < TIMING.lease_duration, "{:?}: it was not released", left.elapsed());
    assert_ne!(holder(&fake), before);
    fake.put("services", service("last"));
    fake.put(POLICIES, policy("last"));
    until_programmed(&fake, "last").await;
    // A hand-over by itself costs nothing.
    assert_eq!(writes(&fake).len(), 6, "{:?}", writes(&fake));
    let told = |what: &str| {
        fake.events().iter().any(|event| {
            event["reason"] == "LeaderElection"
                && event["regarding"]["name"] == LEASE
                && event["note"].as_str().unwrap().ends_with(what)
        })
    };
    assert!(told("stopped leading"), "{:?}", fake.events());
    until("it is told who leads", || told("became leader")).await;

    second.leave().await.unwrap();
    assert_eq!(holder(&fake), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_while_nobody_led_is_done_by_the_next_one() {
    let fake = fake_with(&["edited", "deleted", "orphaned"]);
    let url = fake.serve_http().await;
    let first = Replica::start(&url);
    for name in ["edited", "deleted", "orphaned"] {
        until_programmed(&fake, name).await;
    }
    let second = Replica::start(&url);
    second.until_standing_by().await;
    drop(first);
    let killed = Instant::now();

    fake.patch(POLICIES, "edited", &json!({"spec": {"limits": {"perClient": {"activeRequests": 7}}}}));
    fake.put("services", service("new"));
    fake.put(POLICIES, policy("new"));
    fake.delete("virtualservices", "deleted");
    fake.delete(POLICIES, "orphaned");
    until("another one leads", || second.leads()).await;
    assert!(killed.elapsed() > TIMING.lease_duration - TIMING.retry_period * 2, "{:?}", killed.elapsed());
    until_programmed(&fake, "new").await;
    let limit = "/spec/trafficPolicy/connectionPool/http/http2MaxRequests";
    let edited = || fake.get("destinationrules", "edited").unwrap().pointer(limit) == Some(&json!(7));
    until("the edit is applied", edited).await;
    until("the VirtualService is back", || fake.get("virtualservices", "deleted").is_some()).await;
    until("the orphan is gone", || fake.get("destinationrules", "orphaned").is_none()).await;
    second.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_renew_ends_by_itself_before_its_lease_does() {
    let fake = fake_with(&["web"]);
    let url = fake.serve_http().await;
    let mut leader = Replica::start(&url);
    until_programmed(&fake, "web").await;
    for _ in 0..30 {
        fake.fault("replace leases/resilience-operator", Fault::Hang);
        fake.fault("get leases/resilience-operator", Fault::Answer(500, "no"));
    }
    let cut = Instant::now();
    let error = format!("{:#}", leader.ended().await.unwrap_err());
    assert!(error.starts_with("not the leader any more: the lease could not be renewed"), "{error}");
    assert!(cut.elapsed() < TIMING.lease_duration, "{:?}", cut.elapsed());
    let written = writes(&fake).len();
    fake.put("services", service("late"));
    fake.put(POLICIES, policy("late"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(writes(&fake).len(), written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_lease_was_taken_by_force_ends_at_its_next_renewal() {
    let fake = fake_with(&["web"]);
    let url = fake.serve_http().await;
    let mut leader = Replica::start(&url);
    until_programmed(&fake, "web").await;
    fake.patch(LEASES, LEASE, &json!({"spec": {"holderIdentity": "somebody"}}));
    let error = format!("{:#}", leader.ended().await.unwrap_err());
    assert!(error.contains(r#"the lease is held by "somebody" now"#), "{error}");
    assert_eq!(holder(&fake), "somebody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_for_the_lease_is_not_ready_and_says_why() {
    let fake = fake_with(&["web"]);
    for _ in 0..100 {
        fake.fault("get leases/resilience-operator", Fault::Answer(403, "leases.coordination.k8s.io is forbidden"));
    }
    let url = fake.serve_http().await;
    let replica = Replica::start(&url);
    until("it says why", || {
        let blockers = replica.health.blockers();
        blockers.iter().any(|line| line.starts_with(lease::GATE) && line.contains("is forbidden"))
    })
    .await;
    assert_eq!(writes(&fake), Vec::<String>::new());
    replica.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_stop_before_it_has_listed_leaves_at_once() {
    let fake = fake_with(&["web"]);
    let (_never, held) = tokio::sync::oneshot::channel();
    fake.fault("list virtualservices", Fault::Hold(held));
    let url = fake.serve_http().await;
    let replica = Replica::start(&url);
    until("it waits for the list", || replica.health.blockers().len() == 2).await;
    replica.leave().await.unwrap();
    assert!(fake.get(LEASES, LEASE).is_none());
}
