//! In: a lab with our operator. Out: its replicas: which one leads, their processes, and signals to them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::operator;
use crate::wait::Seen;

/// How the operator is started in its pods.
const OPERATOR: &[u8] = b"/resilience-operator\0run";

/// How many `deploy/` wants.
const WANTED: usize = 2;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// The client in the operator's namespace.
#[must_use]
pub fn system(lab: &Lab) -> Kubectl {
    lab.namespace(operator::NAMESPACE)
}

/// The pod that leads, by the lease.
///
/// # Errors
/// When kubectl cannot be started.
pub fn leader(lab: &Lab) -> Result<Option<String>> {
    Ok(pod_of(&holder(lab)?).map(str::to_owned))
}

/// The pod of a holder of the lease: behind its name stands a number of the process.
#[must_use]
pub fn pod_of(holder: &str) -> Option<&str> {
    holder.rsplit_once('_').map(|(pod, _)| pod)
}

/// Who holds the lease, as it is written there; empty when nobody does.
///
/// # Errors
/// When kubectl cannot be started.
pub fn holder(lab: &Lab) -> Result<String> {
    let words = ["get", "lease", "resilience-operator", "-o", "jsonpath={.spec.holderIdentity}"];
    Ok(system(lab).try_run(&words)?.stdout)
}

/// The pods of the operator, those that are on their way out included.
///
/// # Errors
/// What the API server says.
pub fn pods(lab: &Lab) -> Result<Vec<Value>> {
    let list = system(lab).json(&["get", "pods", "-l", "app.kubernetes.io/name=resilience-operator"])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Scales the operator, and waits until it is so: of none also those on their way out are gone.
///
/// # Errors
/// When it is not so in time.
pub fn scale(lab: &Lab, replicas: u64) -> Result<()> {
    let system = system(lab);
    system.run(&["scale", "deployment/resilience-operator", &format!("--replicas={replicas}")])?;
    if replicas > 0 {
        return system.rolled_out("deployment/resilience-operator", SOON * 2);
    }
    system.until("no replica is there", SOON, |_| {
        let pods = pods(lab)?.len();
        Ok(if pods == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{pods} pods")) })
    })
}

/// Waits until all replicas are ready and one of them leads, and gives its pod.
///
/// # Errors
/// When it is not so within `limit`.
pub fn until_one_leads(lab: &Lab, limit: Duration) -> Result<String> {
    system(lab).until("two replicas are ready, and one of them leads", limit, |_| {
        let pods = pods(lab)?;
        let living: Vec<&str> = pods
            .iter()
            .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
            .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        Ok(match leader(lab)? {
            Some(leader) if living.len() == WANTED && living.contains(&leader.as_str()) => Seen::Done(leader),
            other => Seen::NotYet(format!("{living:?}, {other:?}")),
        })
    })
}

/// As [`until_one_leads`], when the Deployment has been rolled out.
///
/// # Errors
/// When one of the two is not so in time.
pub fn ready(lab: &Lab) -> Result<String> {
    system(lab).rolled_out("deployment", SOON * 2)?;
    until_one_leads(lab, SOON)
}

/// The operator's processes by pod.
///
/// # Errors
/// When no lab runs.
pub fn processes(lab: &Lab) -> Result<Vec<(String, Pid)>> {
    let names: Vec<String> =
        pods(lab)?.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
    let mut found = running(lab, OPERATOR)?;
    // Another checkout's lab has pods as well, of other names.
    found.retain(|(name, _)| names.contains(name));
    Ok(found)
}

/// The operator's process in a pod.
///
/// # Errors
/// When there is none.
pub fn process(lab: &Lab, pod: &str) -> Result<Pid> {
    process_of(lab, pod, OPERATOR)
}

/// The process of any pod whose command line begins so.
///
/// # Errors
/// When there is none.
pub fn process_of(lab: &Lab, pod: &str, command: &[u8]) -> Result<Pid> {
    let found = running(lab, command)?.into_iter().find(|(name, _)| name == pod);
    found.map(|(_, pid)| pid).with_context(|| format!("no process of pod {pod} was found"))
}

/// Processes in pods whose command lines begin so, by pod: a container's host name is its pod's.
fn running(lab: &Lab, command: &[u8]) -> Result<Vec<(String, Pid)>> {
    let inside = lab.sandbox().running()?.context("no lab runs")?.init;
    let space = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let host = space(&inside.to_string(), "net");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !words.starts_with(command) || space(&pid, "net") == host {
            continue;
        }
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let host_name = environment.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"HOSTNAME="));
        let host_name = String::from_utf8_lossy(host_name.unwrap_or_default()).into_owned();
        found.push((host_name, Pid::from_raw(pid.parse()?)));
    }
    Ok(found)
}

/// Sends a signal.
///
/// # Errors
/// When the process has gone.
pub fn signal(process: Pid, signal: Signal) -> Result<()> {
    kill(process, signal).with_context(|| format!("{signal} cannot be sent to {process}"))
}
