//! How rules come to a client's Envoy: from one object or several, from several writers, and who may look.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::QUIET;
use crate::measured::raw_stage::{CLIENT, RawStage, destination_rule, limit, requests};
use crate::report::seconds;
use crate::scenarios::stage::SOON;
use crate::wait::Seen;
use crate::workloads::NAMESPACE;

/// istiod waits for 100 ms without an edit before it pushes (`PILOT_DEBOUNCE_AFTER`, pilot/pkg/features/tuning.go).
/// How long a push takes is for no assertion: it is only told.
pub(super) fn edits_are_gathered(stage: &RawStage) -> Result<()> {
    let begun = Instant::now();
    stage.rule_for_requests(1000)?;
    eprintln!("          one edit was seen in the Envoy within {}", seconds(begun.elapsed()));
    let edit = |limit: u64| destination_rule("rule", &json!({"host": stage.host(), "trafficPolicy": requests(limit)}));
    let edits: Vec<Value> = (1001..=1020).map(edit).collect();
    let ((), counted) = stage.meanwhile(&[CLIENT], || {
        stage.apply(&edits)?;
        stage.until_limit(CLIENT, "max_requests", 1020)
    })?;
    let pushes = counted[0].value("cluster_manager.cds.update_success");
    eprintln!("          {} edits came as {pushes} pushes", edits.len());
    ensure!(
        (1..edits.len() as u64).contains(&pushes),
        "{} edits came as {pushes} pushes: they are not gathered",
        edits.len()
    );
    Ok(())
}

/// A rule for the server, exported to these, with a number to tell it by.
fn exported(stage: &RawStage, name: &str, to: &str, number: u64) -> Value {
    destination_rule(name, &json!({"host": stage.host(), "exportTo": [to], "trafficPolicy": requests(number)}))
}

/// Waits until a rule that is made now is younger than this one: their times have whole seconds.
fn until_older(stage: &RawStage, name: &str) -> Result<()> {
    let time = |object: &Value| object.pointer("/metadata/creationTimestamp").cloned().unwrap_or_default().to_string();
    let older = time(&stage.kubectl.json(&["get", "destinationrule", name])?);
    stage.kubectl.until("the next second", SOON, |kubectl| {
        let now = time(&kubectl.json(&["create", "configmap", "now", "--dry-run=server"])?);
        Ok(if now > older { Seen::Done(()) } else { Seen::NotYet(now) })
    })
}

pub(super) fn the_oldest_wins(stage: &RawStage) -> Result<()> {
    // By name they stand the other way round.
    stage.apply(&[exported(stage, "b", "*", 11)])?;
    stage.until_limit(CLIENT, "max_requests", 11)?;
    until_older(stage, "b")?;
    let mut younger = exported(stage, "a", "*", 22);
    younger["spec"]["subsets"] = json!([{"name": "young", "labels": {"app": "httpbin"}}]);
    stage.apply(&[younger])?;
    // Its subset tells that it has arrived.
    let subset = stage.outbound().replace("||", "|young|");
    let young = stage.until_cluster(CLIENT, &subset, "at all", Value::is_object)?;
    ensure!(limit(&young, "max_requests") == Some(11), "the subset does not inherit from the oldest: {young}");
    let cluster = stage.cluster(CLIENT, &stage.outbound())?.context("the cluster has gone")?;
    ensure!(limit(&cluster, "max_requests") == Some(11), "the youngest has the host: {cluster}");
    stage.kubectl.run(&["delete", "destinationrule", "b"])?;
    stage.until_limit(CLIENT, "max_requests", 22)
}

pub(super) fn the_youngest_wins(stage: &RawStage) -> Result<()> {
    for (older, younger, first) in [("*", ".", 11), (".", "*", 33)] {
        stage.apply(&[exported(stage, "older", older, first)])?;
        stage.until_limit(CLIENT, "max_requests", first)?;
        until_older(stage, "older")?;
        stage.apply(&[exported(stage, "younger", younger, first + 11)])?;
        stage.until_limit(CLIENT, "max_requests", first + 11)?;
        stage.kubectl.run(&["delete", "destinationrule", "younger"])?;
        stage.until_limit(CLIENT, "max_requests", first)?;
    }
    Ok(())
}

pub(super) fn two_managers_share_a_rule(stage: &RawStage) -> Result<()> {
    let theirs = destination_rule(
        "shared",
        &json!({
            "host": stage.host(),
            "subsets": [{"name": "all", "labels": {"app": "httpbin"}}],
            "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}},
        }),
    );
    let mut policy = requests(33);
    policy["outlierDetection"] = json!({"consecutive5xxErrors": 7});
    let ours = destination_rule("shared", &json!({"trafficPolicy": policy}));
    let spec = || -> Result<Value> { Ok(stage.kubectl.json(&["get", "destinationrule", "shared"])?["spec"].take()) };
    stage.apply_as("user", &theirs)?;
    let before = spec()?;
    stage.apply_as("ours", &ours)?;
    stage.until_cluster(CLIENT, &stage.outbound(), "with what both wrote", |cluster| {
        cluster["lb_policy"] == "RANDOM"
            && limit(cluster, "max_requests") == Some(33)
            && cluster.pointer("/outlier_detection/consecutive_5xx") == Some(&json!(7))
    })?;
    stage.apply_as("ours", &destination_rule("shared", &json!({})))?;
    let after = spec()?;
    ensure!(after == before, "given up, our blocks leave {after} of {before}");
    stage.until_cluster(CLIENT, &stage.outbound(), "with what the user wrote", |cluster| {
        cluster["lb_policy"] == "RANDOM"
            && limit(cluster, "max_requests") != Some(33)
            && cluster.get("outlier_detection").is_none()
    })?;
    Ok(())
}

pub(super) fn an_envoy_filter_merges(stage: &RawStage) -> Result<()> {
    stage.endpoints(3)?;
    stage.lift_the_servers_limit()?;
    let mut policy = requests(44);
    policy["outlierDetection"] =
        json!({"consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": "300s", "maxEjectionPercent": 10});
    stage.rule(&policy)?;
    stage.until_limit(CLIENT, "max_requests", 44)?;
    // Ten per cent of three is none.
    let ejected = |what: &str, wanted: u64| {
        let refused = stage.counted(CLIENT, "outlier_detection.ejections_overflow")?;
        stage.kubectl.until(what, SOON, |_| {
            stage.call(CLIENT, "/status/500", 1, 30)?;
            let active = stage.counted(CLIENT, "outlier_detection.ejections_active")?;
            let more = stage.counted(CLIENT, "outlier_detection.ejections_overflow")? > refused;
            ensure!(active <= wanted, "{active} of three are ejected");
            Ok(if active == wanted && more { Seen::Done(()) } else { Seen::NotYet(format!("{active}, {more}")) })
        })
    };
    ejected("no endpoint of three is ejected at ten per cent", 0)?;
    let merged = json!({
        "outlier_detection": {
            "always_eject_one_host": true, "max_ejection_time": "600s", "max_ejection_time_jitter": "1s",
            "failure_percentage_threshold": 90, "failure_percentage_minimum_hosts": 4,
            "failure_percentage_request_volume": 60, "enforcing_failure_percentage": 1,
        },
        "circuit_breakers": {"per_host_thresholds": [{"max_connections": 77}]},
    });
    stage.apply(&[json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "merged"},
        "spec": {
            "workloadSelector": {"labels": {"app": "fortio"}},
            "configPatches": [{
                "applyTo": "CLUSTER",
                "match": {"context": "SIDECAR_OUTBOUND", "cluster": {"service": stage.host()}},
                "patch": {"operation": "MERGE", "value": merged},
            }],
        },
    })])?;
    let cluster = stage.until_cluster(CLIENT, &stage.outbound(), "with what the filter merges", |cluster| {
        cluster.pointer("/outlier_detection/always_eject_one_host") == Some(&json!(true))
    })?;
    let detection = merged["outlier_detection"].as_object().into_iter().flatten();
    for (field, value) in detection {
        ensure!(cluster["outlier_detection"][field] == *value, "{field} is not merged: {cluster}");
    }
    ensure!(
        cluster.pointer("/circuit_breakers/per_host_thresholds")
            == merged.pointer("/circuit_breakers/per_host_thresholds"),
        "per_host_thresholds is not merged: {cluster}"
    );
    ensure!(
        limit(&cluster, "max_requests") == Some(44)
            && cluster.pointer("/outlier_detection/max_ejection_percent") == Some(&json!(10)),
        "the rule's own values are lost: {cluster}"
    );
    ejected("one of three is ejected all the same", 1)
}

/// Who is asked for is in the token (pilot/pkg/xds/debug.go): istio-system may see everything; others may ask
/// for the configuration of proxies of their own namespace, and learn of another's only that there is none.
pub(super) fn debug_by_identity(stage: &RawStage) -> Result<()> {
    let here = stage.kubectl.current_namespace();
    let proxy = |namespace: &str| -> Result<String> {
        let pods = stage.kubectl.namespace(namespace).json(&["get", "pods", "-l", "app=fortio"])?;
        let name = pods.pointer("/items/0/metadata/name").and_then(Value::as_str).context("no pod of fortio")?;
        Ok(format!("{name}.{namespace}"))
    };
    let token = |namespace: &str, account: &str| {
        let created =
            stage.kubectl.namespace(namespace).run(&["create", "token", account, "--audience", "istio-ca"])?;
        Ok::<_, anyhow::Error>(created.trim().to_owned())
    };
    let (mine, elsewhere) = (proxy(here)?, proxy(NAMESPACE)?);
    let (system, other) = (token("istio-system", "istiod")?, token(here, "fortio")?);
    let paths =
        ["syncz".to_owned(), format!("config_dump?proxyID={elsewhere}"), format!("sidecarz?proxyID={elsewhere}")];
    let of_mine = format!("config_dump?proxyID={mine}");
    let cases = [
        (Some(&system), &paths[0], 200),
        (Some(&system), &paths[1], 200),
        (Some(&system), &paths[2], 200),
        (Some(&other), &paths[0], 403),
        (Some(&other), &paths[1], 404),
        (Some(&other), &paths[2], 403),
        (Some(&other), &of_mine, 200),
        (None, &paths[0], 401),
    ];
    for (token, path, wanted) in cases {
        let status = asked(stage, token.map(String::as_str), path)?;
        let whom = if token.is_some_and(|token| *token == system) { "istio-system" } else { "another, or no one" };
        ensure!(status == wanted, "/debug/{path} answers {status} to {whom}, not {wanted}");
    }
    Ok(())
}

/// The status of an answer of istiod's debug interface.
fn asked(stage: &RawStage, token: Option<&str>, path: &str) -> Result<u16> {
    let url = format!("http://istiod.istio-system:15014/debug/{path}");
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut command = vec!["fortio", "curl", "-quiet", "-timeout", "30s"];
    if let Some(header) = &header {
        command.extend(["-H", header]);
    }
    command.push(&url);
    // It ends with a failure when the status is one; the answer stands on its output all the same.
    let answer = stage.kubectl.try_exec(QUIET, "fortio", &command)?.all();
    let status = answer.lines().find_map(|line| line.trim().strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok());
    status.with_context(|| format!("istiod did not answer on /debug/{path}"))
}
