//! In: a namespace with clients and a server. Out: raw rules in the clients' Envoys, calls counted on both
//! sides, and a sweep that lets no claim see what the one before wrote: what the claims of limits and of
//! ejection have in common.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::config_dump::ConfigDump;
use crate::envoy::Stats;
use crate::fortio::{Answers, load_from};
use crate::kubectl::Kubectl;
use crate::run::check_with_input;
use crate::scenarios::stage::{CONTAINER_PORT, PORT, SOON};
use crate::wait::Seen;

/// The client whose proxy has one worker thread and counts everything.
pub(super) const CLIENT: &str = "deploy/fortio";

/// What a claim may have written.
const WRITTEN: &str = "destinationrules,virtualservices,sidecars,envoyfilters,serviceentries";

/// Clients and a server.
pub(super) struct RawStage {
    /// The client in this namespace.
    pub kubectl: Kubectl,
    /// The Service that is called, and its Deployment.
    pub server: &'static str,
    /// The Deployments of the clients.
    clients: &'static [&'static str],
    /// Each proxy's cluster as it was before any rule.
    untouched: Vec<(String, String, Value)>,
}

impl RawStage {
    /// The stage of workloads that are available. Waits until every client reaches the server.
    pub(super) fn set(
        kubectl: &Kubectl,
        server: &'static str,
        clients: &'static [&'static str],
        sidecar: bool,
    ) -> Result<Self> {
        let mut stage = Self { kubectl: kubectl.clone(), server, clients, untouched: Vec::new() };
        for client in clients {
            stage.until_answers(client, &format!("{server} answers {client}"), "/get", 1, |answers| {
                answers.status(200) == answers.total()
            })?;
        }
        let mut proxies: Vec<_> = clients.iter().map(|&client| (client.to_owned(), stage.outbound())).collect();
        if sidecar {
            proxies.push((format!("deploy/{server}"), inbound()));
        }
        for (proxy, cluster) in proxies {
            let before = stage.cluster(&proxy, &cluster)?.with_context(|| format!("{proxy} has no {cluster}"))?;
            stage.untouched.push((proxy, cluster, before));
        }
        Ok(stage)
    }

    /// Deletes what a claim wrote, leaves the server one endpoint, and waits until every proxy is as it was.
    pub(super) fn sweep(&self) -> Result<()> {
        self.kubectl.run(&["delete", WRITTEN, "--all", "--wait"])?;
        if self.kubectl.json(&["get", "deployment", self.server])?["spec"]["replicas"] != 1 {
            self.endpoints(1)?;
        }
        for (proxy, name, before) in &self.untouched {
            self.until_cluster(proxy, name, "as before any rule", |cluster| cluster == before)?;
        }
        Ok(())
    }

    /// The FQDN of the server.
    pub(super) fn host(&self) -> String {
        self.host_of(self.server)
    }

    /// The FQDN of a Service here.
    pub(super) fn host_of(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.kubectl.current_namespace())
    }

    /// The clients' cluster for the server.
    pub(super) fn outbound(&self) -> String {
        format!("outbound|{PORT}||{}", self.host())
    }

    /// Applies objects, in this order.
    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        self.kubectl.apply(&documents.join("\n---\n")).map(drop)
    }

    /// Applies an object as another field manager, that takes nothing from anyone.
    pub(super) fn apply_as(&self, manager: &str, object: &Value) -> Result<()> {
        let manager = format!("--field-manager={manager}");
        let mut command = self.kubectl.command(&["apply", "--server-side", &manager, "-f", "-"])?;
        check_with_input(&mut command, &object.to_string()).map(drop)
    }

    /// Gives the server this traffic policy, in place of the one before.
    pub(super) fn rule(&self, policy: &Value) -> Result<()> {
        self.apply(&[destination_rule("rule", &json!({"host": self.host(), "trafficPolicy": policy}))])
    }

    /// As [`RawStage::rule`] with `http2MaxRequests`, and waits until the client's Envoy has it.
    pub(super) fn rule_for_requests(&self, limit: u64) -> Result<()> {
        self.rule(&requests(limit))?;
        self.until_limit(CLIENT, "max_requests", limit)
    }

    /// As [`RawStage::rule`] with this outlier detection, and waits until the client's Envoy has it, in a
    /// cluster that has ejected nothing yet.
    pub(super) fn detect(&self, detection: &Value) -> Result<()> {
        self.rule(&json!({"outlierDetection": detection}))?;
        self.until_detects(&self.outbound(), detection)
    }

    /// Waits until a cluster of the client's has the percentages and the time of an outlier detection.
    pub(super) fn until_detects(&self, cluster: &str, detection: &Value) -> Result<()> {
        self.until_cluster(CLIENT, cluster, &format!("with {detection}"), |cluster| {
            let there = &cluster["outlier_detection"];
            let same = [("max_ejection_percent", "maxEjectionPercent"), ("base_ejection_time", "baseEjectionTime")];
            let panic = cluster.pointer("/common_lb_config/healthy_panic_threshold/value");
            same.iter().all(|(theirs, ours)| there[*theirs] == detection[*ours])
                && panic.and_then(Value::as_f64) == detection["minHealthPercent"].as_f64()
        })?;
        Ok(())
    }

    /// A cluster that a proxy holds, if it does.
    pub(super) fn cluster(&self, proxy: &str, name: &str) -> Result<Option<Value>> {
        Ok(ConfigDump::of(&self.kubectl, proxy)?.cluster(name).cloned())
    }

    /// Waits until a proxy holds a cluster of this kind; gives the cluster.
    pub(super) fn until_cluster(
        &self,
        proxy: &str,
        name: &str,
        what: &str,
        right: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.kubectl.until(&format!("{proxy} holds {name} {what}"), SOON, |_| {
            let cluster = self.cluster(proxy, name)?.unwrap_or_default();
            Ok(if right(&cluster) { Seen::Done(cluster) } else { Seen::NotYet(cluster.to_string()) })
        })
    }

    /// Waits until a client holds this threshold, as `max_requests`, for the server.
    pub(super) fn until_limit(&self, client: &str, name: &str, value: u64) -> Result<()> {
        let what = format!("with {name} {value}");
        self.until_cluster(client, &self.outbound(), &what, |cluster| limit(cluster, name) == Some(value)).map(drop)
    }

    /// Waits until the proxy of each of the server's pods holds this threshold for its own container.
    pub(super) fn until_own_limit(&self, name: &str, value: u64) -> Result<()> {
        for pod in self.pods()? {
            self.until_cluster(&pod, &inbound(), &format!("with {name} {value}"), |cluster| {
                limit(cluster, name) == Some(value)
            })?;
        }
        Ok(())
    }

    /// The server's pods that stay: `pod/…`.
    fn pods(&self) -> Result<Vec<String>> {
        let list = self.kubectl.json(&["get", "pods", "-l", &format!("app={}", self.server)])?;
        let pods = list["items"].as_array().into_iter().flatten();
        let staying = pods.filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        Ok(staying.map(|pod| format!("pod/{}", pod["metadata"]["name"].as_str().unwrap_or_default())).collect())
    }

    /// Lifts the limit that the server's own sidecar would take from the rule, so that the clients' is judged
    /// alone.
    pub(super) fn lift_the_servers_limit(&self) -> Result<()> {
        let many = 10_000;
        self.apply(&[json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "server"},
            "spec": {
                "workloadSelector": {"labels": {"app": self.server}},
                "inboundConnectionPool": {"http": {"http2MaxRequests": many}},
            },
        })])?;
        self.until_own_limit("max_requests", many)
    }

    /// Gives the server so many endpoints, and waits until every client knows exactly these.
    pub(super) fn endpoints(&self, wanted: u64) -> Result<()> {
        let deployment = format!("deployment/{}", self.server);
        self.kubectl.run(&["scale", &deployment, &format!("--replicas={wanted}")])?;
        self.kubectl.rolled_out(&deployment, SOON * 2)?;
        for client in self.clients {
            self.kubectl.until(&format!("{client} knows {wanted} endpoints"), SOON, |_| {
                let known = self.open_connections(client)?.len();
                Ok(if known as u64 == wanted { Seen::Done(()) } else { Seen::NotYet(format!("{known}")) })
            })?;
        }
        Ok(())
    }

    /// The connections that a client's proxy has open to each of the server's endpoints.
    pub(super) fn open_connections(&self, client: &str) -> Result<Vec<u64>> {
        let text = self.kubectl.exec(client, "istio-proxy", &["pilot-agent", "request", "GET", "clusters"])?;
        let mine = format!("{}::", self.outbound());
        let values = text.lines().filter(|line| line.starts_with(&mine)).filter_map(|line| {
            let (_, value) = line.rsplit_once("::cx_active::")?;
            value.parse().ok()
        });
        Ok(values.collect())
    }

    /// Calls a path of the server from a client.
    pub(super) fn call(&self, client: &str, path: &str, callers: u32, requests: u32) -> Result<Answers> {
        // A call that a busy machine holds up is late, not lost.
        load_from(&self.kubectl, client, &self.url(path), callers, requests, &["-timeout", "30s"])
    }

    /// Where a path of the server is.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}:{PORT}{path}", self.server)
    }

    /// As [`RawStage::call`], by several clients at the same time.
    pub(super) fn call_together(
        &self,
        clients: &[&str],
        path: &str,
        callers: u32,
        requests: u32,
    ) -> Result<Vec<Answers>> {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                clients.iter().map(|client| scope.spawn(|| self.call(client, path, callers, requests))).collect();
            let ends = running.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a caller panicked")));
            ends.collect()
        })
    }

    /// Calls, 20 times a round, until all answers of a round are right.
    pub(super) fn until_answers(
        &self,
        client: &str,
        what: &str,
        path: &str,
        callers: u32,
        right: impl Fn(&Answers) -> bool,
    ) -> Result<()> {
        self.kubectl.until(what, SOON, |_| {
            let answers = self.call(client, path, callers, 20)?;
            Ok(if right(&answers) { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
        })
    }

    /// What a client's Envoy has counted for the server.
    pub(super) fn counted(&self, client: &str, counter: &str) -> Result<u64> {
        Ok(Stats::of(&self.kubectl, client)?.outbound(&self.host(), PORT, counter))
    }

    /// What the Envoys of `proxies` counted while `work` ran.
    pub(super) fn meanwhile<T>(&self, proxies: &[&str], work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Stats>)> {
        let look = || proxies.iter().map(|proxy| Stats::of(&self.kubectl, proxy)).collect::<Result<Vec<_>>>();
        let before = look()?;
        let value = work()?;
        let counted = look()?.iter().zip(&before).map(|(after, before)| after.since(before)).collect();
        Ok((value, counted))
    }
}

/// A DestinationRule.
pub(super) fn destination_rule(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name}, "spec": spec,
    })
}

/// A traffic policy with `http2MaxRequests` alone.
pub(super) fn requests(limit: u64) -> Value {
    json!({"connectionPool": {"http": {"http2MaxRequests": limit}}})
}

/// The server's own cluster for its container.
pub(super) fn inbound() -> String {
    format!("inbound|{CONTAINER_PORT}||")
}

/// A threshold of a cluster, as `max_requests`.
pub(super) fn limit(cluster: &Value, name: &str) -> Option<u64> {
    cluster.pointer("/circuit_breakers/thresholds/0")?.get(name)?.as_u64()
}

/// Fails unless some answers are 200 and some 503, and none is anything else. How many of each depends on the
/// machine.
pub(super) fn ensure_mixed(answers: &Answers) -> Result<()> {
    let (good, refused) = (answers.status(200), answers.status(503));
    ensure!(
        good > 0 && refused > 0 && good + refused == answers.total(),
        "some answers should be 200, some 503, none another: {answers:?}"
    );
    Ok(())
}
