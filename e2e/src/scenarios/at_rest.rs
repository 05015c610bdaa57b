//! At rest nothing is written: counted at the API server, in the audit log of the operator's account.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, policy};
use crate::audit::{Log, Request};
use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::wait::{self, Seen};

const POLICIES: usize = 100;
/// How long nothing may be written.
const REST: Duration = Duration::from_mins(1);

/// A hundred policies, a minute: no write by the operator.
///
/// # Errors
/// When there is one, or the audit log does not show the writes that made them.
pub fn nothing_is_written(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    until_nobody_leaves(&lab)?;
    with_namespace(&lab, "at-rest", |kubectl| {
        let mut log = Log::from_now(checkout)?;
        let objects = (0..POLICIES).flat_map(|number| {
            let name = format!("service-{number}");
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}});
            let spec = json!({"limits": {"perClient": {"activeRequests": 10}}, "timeouts": {"request": "3s"}, "ejection": {"consecutive5xx": 5}});
            [service.to_string(), policy(&name, &name, &spec)]
        });
        kubectl.apply(&objects.collect::<Vec<_>>().join("\n---\n"))?;
        kubectl.until("all are Ready", SOON * 2, |kubectl| {
            let list = kubectl.json(&["get", "resilience"])?;
            let ready = list["items"].as_array().into_iter().flatten().filter(|object| ready(object)).count();
            Ok(if ready == POLICIES { Seen::Done(()) } else { Seen::NotYet(format!("{ready} of {POLICIES}")) })
        })?;
        let made = writes(&mut log)?.len();
        // A rule, routes and a status each; events come on top.
        ensure!(
            made >= 3 * POLICIES,
            "the audit log shows {made} writes for {POLICIES} policies: does it see the operator at all?"
        );
        let settled = settled(&mut log)?;
        let start = Instant::now();
        wait::until("a minute passes without a write", REST * 2, || {
            let now = writes(&mut log)?;
            ensure!(
                now.len() == settled,
                "written at rest:\n{}",
                now[settled..].iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            );
            Ok(if start.elapsed() >= REST { Seen::Done(()) } else { Seen::NotYet(format!("{:?}", start.elapsed())) })
        })
    })
}

/// A namespace on its way out is not at rest: its Services go before its policies, which say so.
fn until_nobody_leaves(lab: &Lab) -> Result<()> {
    lab.kubectl().until("no namespace is on its way out", SOON * 2, |kubectl| {
        let list = kubectl.json(&["get", "namespaces"])?;
        let namespaces = list["items"].as_array().into_iter().flatten();
        let leaving = namespaces.filter(|one| one["metadata"].get("deletionTimestamp").is_some());
        let names: Vec<&str> = leaving.filter_map(|one| one["metadata"]["name"].as_str()).collect();
        Ok(if names.is_empty() { Seen::Done(()) } else { Seen::NotYet(names.join(", ")) })
    })
}

/// Events are written beside the work; at rest means that they are out, too: no write for three seconds.
fn settled(log: &mut Log) -> Result<usize> {
    wait::until_unchanged("the operator's writes", SOON, Duration::from_secs(3), || Ok(writes(log)?.len()))
}

/// Every write of the operator's account that the API server has logged, but renewals of its lease: that is
/// renewed at rest as well.
fn writes(log: &mut Log) -> Result<Vec<&Request>> {
    let is_write = |one: &&Request| one.is_write() && one.pod.is_some() && !one.is_of_the_lease();
    Ok(log.read()?.iter().filter(is_write).collect())
}

fn ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
