//! A breaker written by hand trips: the lab's Istio and Envoy do what everything else here builds on.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::envoy::Stats;
use crate::fortio::load;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::wait::Seen;
use crate::workloads::{TARGET, start_in};

const CALLERS: u32 = 3;
const REQUESTS: u32 = 300;

/// No rule: all 200. The rule: some 503s, each of them counted by the client's Envoy as a pending overflow.
/// The rule deleted: all 200 again.
///
/// # Errors
/// When one of these is not so.
pub fn trips(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let rule = manifest(checkout, "raw-breaker.yaml")?;
    with_namespace(&lab, "istio-raw-sample-trips", |kubectl| {
        start_in(checkout, kubectl)?;
        all_pass(kubectl)?;
        kubectl.apply(&rule)?;
        kubectl.until("the breaker trips", Duration::from_secs(20), some_refused)?;
        kubectl.delete(&rule)?;
        kubectl.until("all requests pass again", Duration::from_secs(20), |kubectl| {
            Ok(all_pass(kubectl).map_or_else(|error| Seen::NotYet(error.to_string()), Seen::Done))
        })
    })
}

fn url() -> String {
    format!("{TARGET}/get")
}

fn all_pass(kubectl: &Kubectl) -> Result<()> {
    let answers = load(kubectl, &url(), CALLERS, REQUESTS)?;
    ensure!(answers.status(200) == u64::from(REQUESTS), "not all answers are 200: {answers:?}");
    Ok(())
}

/// Done when some are refused and the client's Envoy counted exactly those as overflows.
fn some_refused(kubectl: &Kubectl) -> Result<Seen<()>> {
    let host = format!("httpbin.{}.svc.cluster.local", kubectl.current_namespace());
    let before = Stats::of(kubectl, "deploy/fortio")?;
    if !before.knows(&host) {
        bail!("the client's Envoy counts nothing for {host}: is sidecar.istio.io/statsInclusionPrefixes set?");
    }
    let answers = load(kubectl, &url(), CALLERS, REQUESTS)?;
    let refused = answers.status(503);
    if refused == 0 {
        return Ok(Seen::NotYet(format!("{answers:?}")));
    }
    let counted =
        Stats::of(kubectl, "deploy/fortio")?.since(&before).outbound(&host, 8000, "upstream_rq_pending_overflow");
    ensure!(answers.status(200) > 0, "nothing passes any more: {answers:?}");
    ensure!(
        counted == refused,
        "{refused} answers were 503, but the client's Envoy counted {counted} pending overflows"
    );
    Ok(Seen::Done(()))
}
