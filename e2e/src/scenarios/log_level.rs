//! How much is logged can be changed while the operator runs, and changes back.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::SOON;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::replicas::{ready, system};
use crate::run::Finished;
use crate::wait::Seen;

/// With what the image has, and without a restart.
///
/// # Errors
/// When more is not said, a slip changes something, or it does not go back.
pub fn changes_while_it_runs(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let leader = ready(&lab)?;
    let system = system(&lab);
    ensure!(level(&system, &leader)? == "info", "{leader} does not begin with info");
    let slip = ask(&system, &leader, &["dbug"])?;
    ensure!(slip.status.code() == Some(1) && slip.stderr.contains("no level"), "a slip: {}", slip.all());
    ensure!(!says_more(&system, &leader)?, "{leader} says more than info from the beginning");

    let done = ask(&system, &leader, &["debug", "--for", "10s"])?;
    ensure!(done.status.success() && done.stdout.contains(", then info"), "not changed: {}", done.all());
    system.until("more is said", SOON, |system| {
        Ok(if says_more(system, &leader)? { Seen::Done(()) } else { Seen::NotYet("no DEBUG".to_owned()) })
    })?;
    system.until("it goes back by itself", SOON, |system| {
        let level = level(system, &leader)?;
        Ok(if level == "info" { Seen::Done(()) } else { Seen::NotYet(level) })
    })
}

fn ask(system: &Kubectl, pod: &str, words: &[&str]) -> Result<Finished> {
    system.try_exec(pod, "operator", &[&["/resilience-operator", "log-level"], words].concat())
}

fn level(system: &Kubectl, pod: &str) -> Result<String> {
    let said = ask(system, pod, &["-o", "json"])?;
    let level: Value = serde_json::from_str(&said.stdout).with_context(|| format!("no level: {}", said.all()))?;
    Ok(level["filter"].as_str().unwrap_or_default().to_owned())
}

fn says_more(system: &Kubectl, pod: &str) -> Result<bool> {
    Ok(system.run(&["logs", pod, "-c", "operator"])?.contains("\"level\":\"DEBUG\""))
}
