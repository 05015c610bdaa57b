//! A number changes in a rule: how long until a client's Envoy has it. By the operator, whose policy is changed, and
//! by hand, whose rule is changed; in turn.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::{Request, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{calls, times::Times};

/// The port of Envoy's admin interface in a pod with a sidecar.
const ADMIN: u16 = 15_000;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Rest before each change: istiod gathers changes that come within 100 ms of each other (`PILOT_DEBOUNCE_AFTER`),
/// and one that comes into the gathering of another would be faster than it is.
const REST: Duration = Duration::from_millis(400);

/// Where, and how often.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The namespace of it all
    #[arg(long)]
    namespace: String,
    /// The client's pod
    #[arg(long)]
    pod: String,
    /// The Service with a policy of its name
    #[arg(long)]
    ours: String,
    /// The Service with a rule of its name, and without a policy
    #[arg(long)]
    raw: String,
    /// The port of both Services
    #[arg(long)]
    port: u16,
    /// Changes of each
    #[arg(long, default_value_t = 50)]
    count: u32,
}

/// Changes and waits.
///
/// # Errors
/// When a change is refused, the Envoy cannot be asked, or it has not got one within a minute.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let mut admin = Admin::open(client, &args.namespace, &args.pod).await?;
    let Args { namespace, ours, raw, port, .. } = args;
    let policy = format!("/apis/resilience.dev/v1alpha1/namespaces/{namespace}/resiliences/{ours}");
    let rule = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destinationrules/{raw}");
    let mut times = [Times::new()?, Times::new()?];
    for number in 0..args.count {
        // A value that neither had before.
        let limit = 1_000 + number;
        let of_policy = json!({"spec": {"limits": {"perClient": {"activeRequests": limit}}}});
        let of_rule = json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": limit}}}}});
        for (at, service, path, change) in [(0, raw, &rule, of_rule), (1, ours, &policy, of_policy)] {
            let cluster = format!("outbound|{port}||{service}.{namespace}.svc.cluster.local");
            sleep(REST).await;
            let begun = Instant::now();
            calls::merge(client, path, &change).await?;
            admin.until_limit(&cluster, limit).await?;
            times[at].add(begun.elapsed());
        }
    }
    let [raw, ours] = times;
    println!("{}", json!({"raw": raw.report(), "ours": ours.report(), "look_ms": admin.look_ms()}));
    Ok(())
}

/// The admin interface of an Envoy, by one connection.
struct Admin {
    sender: http1::SendRequest<Empty<Bytes>>,
    looks: Times,
}

impl Admin {
    async fn open(client: &Client, namespace: &str, pod: &str) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let mut forwarder = pods.portforward(pod, &[ADMIN]).await?;
        let stream = forwarder.take_stream(ADMIN).context("the port was not forwarded")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever asks by it next sees that it has ended, and why.
            let _ended = connection.await;
            drop(forwarder);
        });
        Ok(Self { sender, looks: Times::new()? })
    }

    async fn until_limit(&mut self, cluster: &str, limit: u32) -> Result<()> {
        let line = format!("{cluster};::default_priority::max_requests::{limit}\n");
        let plain = format!("{cluster}::default_priority::max_requests::{limit}\n");
        let mut said = String::new();
        let wait = async {
            loop {
                let begun = Instant::now();
                said = self.clusters().await?;
                self.looks.add(begun.elapsed());
                if said.contains(&line) || said.contains(&plain) {
                    return anyhow::Ok(());
                }
                sleep(LOOK).await;
            }
        };
        if let Ok(done) = timeout(Duration::from_mins(1), wait).await {
            return done;
        }
        let known: Vec<&str> = said.lines().filter(|line| line.contains(cluster)).collect();
        bail!("{cluster} has not got {limit} after a minute: {}", known.join("; "))
    }

    async fn clusters(&mut self) -> Result<String> {
        let request = Request::get("/clusters").header(HOST, "localhost").body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// How long one look takes: what is found is late by half of it.
    fn look_ms(&self) -> Value {
        self.looks.report()
    }
}
