//! What the incident does not have and alerts speak of: trouble of policies, servers' own limits, panic, nobody left,
//! an operator without rights, and none at all.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;

use super::moment::{NOBODY, PANIC, SERVERS_LIMIT, TROUBLE};
use super::watch::{Watch, until};
use super::{METRICS, dashboard, operators};
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::operator;
use crate::replicas;
use crate::scenarios::in_effect;
use crate::scenarios::incident::{ACTIVE_REQUESTS, CLIENT, Calls, until_counted};
use crate::scenarios::stage::{CONTAINER_PORT, SOON};
use crate::wait::Seen;
use crate::workloads::add_failing_replica;

/// A second policy for the same Service, a patch of what was programmed that proxies refuse, and a client whose proxy
/// tells nothing (`add_quiet`); and their end.
pub fn trouble(watch: &Watch<'_>) -> Result<()> {
    let kubectl = watch.stage.kubectl;
    let rival =
        |limit: u32| watch.stage.apply_policy("rival", &json!({"limits": {"perClient": {"activeRequests": limit}}}));
    kubectl.rolled_out("deployment/quiet", SOON * 2)?;
    let broken = in_effect::broken(&watch.stage.host()).to_string();
    kubectl.apply(&broken)?;
    // A status that is written has the proxies asked for soon.
    rival(ACTIVE_REQUESTS)?;
    watch.look(&TROUBLE)?;
    kubectl.delete(&broken)?;
    rival(ACTIVE_REQUESTS + 1)?;
    watch.stage.until_condition("httpbin", "InEffect", "True")?;
    kubectl.run(&["delete", "resilience/rival", "deployment/quiet"]).map(drop)
}

/// What comes after the recovery, with its calls under way.
pub fn play(checkout: &Checkout, watch: &Watch<'_>) -> Result<()> {
    let (stage, kubectl) = (watch.stage, watch.stage.kubectl);
    stage.policy(&json!({"limits": {"perServer": {"mode": "Limited", "activeRequests": 1}}}))?;
    // Envoy's own, as Istio has it where nothing is declared.
    stage.until_threshold(CLIENT, "max_requests", u32::MAX.into())?;
    let many = Calls::too_often(kubectl)?;
    watch.look(&SERVERS_LIMIT)?;
    servers_agree(watch)?;
    many.stop(kubectl)?;

    stage.policy(&json!({"ejection": {
        "consecutive5xx": 3, "interval": "1s", "baseTime": "300s", "maxPercent": 100, "minHealthyPercent": 50,
    }}))?;
    add_failing_replica(checkout, kubectl)?;
    kubectl.run(&["scale", "deployment/httpbin", "--replicas=0"])?;
    until_counted(stage, "calls are sent whatever the health", "lb_healthy_panic", |calls| calls > 0)?;
    watch.look(&PANIC)?;

    kubectl.run(&["delete", "deployment", "httpbin-failing", "--wait"])?;
    until_counted(stage, "calls find nobody", "upstream_cx_none_healthy", |calls| calls > 0)?;
    watch.look(&NOBODY)?;

    // What is failing is counted for a while, so there have to be edits all along; nobody is there all the while.
    watch.lab.kubectl().run(&["delete", "clusterrolebinding", operator::ACCOUNT])?;
    let wanted = ["behind", "failing"].map(|why| format!("ResilienceOperatorNotReconciling {why}"));
    let wanted: BTreeSet<String> = NOBODY.alerts.iter().copied().map(str::to_owned).chain(wanted).collect();
    let mut edits = ACTIVE_REQUESTS;
    until("edits are in vain", || {
        edits += 1;
        stage.apply_policy("httpbin", &json!({"limits": {"perClient": {"activeRequests": edits}}}))?;
        let firing = dashboard::alerts(&watch.firing()?);
        Ok(if firing == wanted { Seen::Done(()) } else { Seen::NotYet(format!("{firing:?}")) })
    })?;

    let rights = checkout.root().join("deploy/rbac.yaml").display().to_string();
    watch.lab.kubectl().run(&["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", &rights])?;
    kubectl.run(&["scale", "deployment/httpbin", "--replicas=2"])?;
    kubectl.rolled_out("deployment/httpbin", SOON * 2)?;
    stage.policy(&json!({"limits": {"perClient": {"activeRequests": ACTIVE_REQUESTS}}}))?;
    watch.follow()?;
    watch.until_alerts("all is over", &[])?;

    replicas::scale(watch.lab, 0)?;
    watch.until_alerts("no operator is there", &["ResilienceOperatorNotReconciling noLeader"])?;
    in_effect::take_away(checkout, watch.lab)?;
    replicas::until_one_leads(watch.lab, SOON * 2)?;
    watch.prometheus.scrape(&operators(watch.lab, &[METRICS])?)?;
    watch.until_alerts("one leads again", &[])?;
    watch.nothing_was_left_out()
}

/// The servers that are told to refuse are those whose Envoys have.
fn servers_agree(watch: &Watch<'_>) -> Result<()> {
    let kubectl = watch.stage.kubectl;
    let query = watch.filled_in(&watch.dashboard.panel("Refused by servers' own proxies")?.queries[0].expression);
    let pods = kubectl.json(&["get", "pods", "-l", "app=httpbin", "--field-selector=status.phase=Running"])?;
    let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
    for name in names {
        until(&format!("{name} refuses, by Envoy and by Prometheus"), || {
            let envoy = Stats::of(kubectl, &format!("pod/{name}"))?;
            let counted = envoy.inbound(CONTAINER_PORT, "upstream_rq_active_overflow");
            let answer = watch.prometheus.query(&query)?;
            let told = answer.iter().any(|sample| {
                sample.label("pod") == name && sample.label("cause") == "activeRequests" && sample.value > 0.0
            });
            Ok(if counted > 0 && told { Seen::Done(()) } else { Seen::NotYet(format!("{counted}; {answer:?}")) })
        })?;
    }
    Ok(())
}
