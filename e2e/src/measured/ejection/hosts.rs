//! Hosts that are no ordinary Service.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::detection;
use crate::envoy::Stats;
use crate::fortio::{Answers, load_from};
use crate::measured::raw_stage::{CLIENT, RawStage, destination_rule, ensure_mixed, limit, requests};
use crate::scenarios::stage::{CONTAINER_PORT, PORT, SOON};
use crate::wait::Seen;

/// A host, and how the client calls it.
struct Host<'a> {
    stage: &'a RawStage,
    name: String,
    port: u16,
    /// Where its calls go, when that is not its name.
    through: String,
}

impl Host<'_> {
    fn cluster(&self) -> String {
        format!("outbound|{}||{}", self.port, self.name)
    }

    fn rule(&self, policy: &Value) -> Result<()> {
        self.stage.apply(&[destination_rule("rule", &json!({"host": self.name, "trafficPolicy": policy}))])
    }

    fn call(&self, path: &str, callers: u32, requests: u32) -> Result<Answers> {
        let url = format!("http://{}:{}{path}", self.through, self.port);
        let named = format!("Host: {}", self.name);
        load_from(&self.stage.kubectl, CLIENT, &url, callers, requests, &["-H", &named])
    }

    fn counted(&self, counter: &str) -> Result<u64> {
        Ok(Stats::of(&self.stage.kubectl, CLIENT)?.outbound(&self.name, self.port, counter))
    }

    /// The cluster is of this kind, and one call at a time is taken of eight.
    fn is_limited(&self, kind: &str) -> Result<()> {
        self.rule(&requests(1))?;
        let cluster = self.stage.until_cluster(CLIENT, &self.cluster(), "with max_requests 1", |cluster| {
            limit(cluster, "max_requests") == Some(1)
        })?;
        ensure!(cluster["type"] == kind, "the cluster is no {kind}: {cluster}");
        let before = self.counted("upstream_rq_active_overflow")?;
        let answers = self.call("/get", 8, 100)?;
        ensure_mixed(&answers)?;
        let overflows = self.counted("upstream_rq_active_overflow")? - before;
        ensure!(
            overflows == answers.status(503),
            "{answers:?}, but the client's Envoy counted {overflows} active overflows"
        );
        Ok(())
    }

    /// Gives the host a detection that one failure trips.
    fn detects(&self) -> Result<()> {
        let detection = detection(100, "300s");
        self.rule(&json!({"outlierDetection": detection}))?;
        self.stage.until_detects(&self.cluster(), &detection)
    }

    fn ejected(&self) -> Result<u64> {
        self.counted("outlier_detection.ejections_active")
    }

    /// One failure ejects the only endpoint, and nothing is sent there any more.
    fn ejects(&self) -> Result<()> {
        self.detects()?;
        let failed = self.call("/status/500", 1, 1)?;
        ensure!(failed.status(500) == 1, "the endpoint was not asked: {failed:?}");
        self.stage.kubectl.until("the endpoint is ejected", SOON, |_| {
            let ejected = self.ejected()?;
            Ok(if ejected == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{ejected} are")) })
        })?;
        self.stage.kubectl.until("nothing is sent to the ejected endpoint", SOON, |_| {
            let before = self.counted("upstream_rq_total")?;
            let answers = self.call("/status/200", 1, 14)?;
            let sent = self.counted("upstream_rq_total")? - before;
            let out = answers.status(503) == 14 && sent == 0;
            Ok(if out { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}, {sent} sent")) })
        })
    }
}

/// Its cluster has no endpoints of its own: each call goes where the client wanted it to go. An address that
/// is not called for five seconds is forgotten, and its ejection with it.
pub(super) fn headless(stage: &RawStage) -> Result<()> {
    let name = stage.host_of("headless");
    let host = Host { stage, through: name.clone(), name, port: CONTAINER_PORT };
    host.is_limited("ORIGINAL_DST")?;
    host.detects()?;
    stage.kubectl.until("an ejection is counted", SOON, |_| {
        let failed = host.call("/status/500", 1, 1)?;
        let before = host.ejected()?;
        let answers = host.call("/status/200", 1, 10)?;
        let after = host.ejected()?;
        ensure!(answers.status(200) == 10, "calls do not go to an ejected address: {answers:?}");
        let counted = before == 1 && after == 1;
        Ok(if counted { Seen::Done(()) } else { Seen::NotYet(format!("{failed:?}, then {before} and {after} are")) })
    })
}

pub(super) fn static_entry(stage: &RawStage) -> Result<()> {
    let pods = stage.kubectl.json(&["get", "pods", "-l", "app=plain"])?;
    let address = pods.pointer("/items/0/status/podIP").and_then(Value::as_str).context("the server has no pod")?;
    entry(stage, "STATIC", "EDS", address, CONTAINER_PORT)
}

pub(super) fn dns_entry(stage: &RawStage) -> Result<()> {
    entry(stage, "DNS", "STRICT_DNS", &stage.host(), PORT)
}

fn entry(stage: &RawStage, resolution: &str, kind: &str, address: &str, port: u16) -> Result<()> {
    let name = format!("{}.{}.example", resolution.to_lowercase(), stage.kubectl.current_namespace());
    stage.apply(&[json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "outside"},
        "spec": {
            "hosts": [name], "location": "MESH_EXTERNAL", "resolution": resolution,
            "ports": [{"number": PORT, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": address, "ports": {"http": port}}],
        },
    })])?;
    // Its name is in no DNS: the client's proxy goes by the Host header.
    let host = Host { stage, name, port: PORT, through: stage.server.to_owned() };
    host.is_limited(kind)?;
    host.ejects()
}
