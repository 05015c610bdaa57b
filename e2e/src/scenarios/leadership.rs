//! Of two replicas one writes: whatever happens to it, the other follows in the lease's time, and at no
//! moment do both write. Judged at the API server's audit log, which has the pod and the time of each
//! write; a policy is edited all the while, so that there is always something to write.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::stage::{SOON, policy};
use crate::audit;
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::operator;
use crate::run::check;
use crate::wait::{self, Seen};

/// The defaults of `resilience-operator run`.
const LEASE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
/// A lease less two retries: the leader may have been about to renew, and wrote until then.
const NOT_BEFORE: Duration = Duration::from_secs(11);
/// A busy machine, and the edits come one after the other.
const SLACK: Duration = Duration::from_secs(5);

/// SIGTERM: the lease is given back.
///
/// # Errors
/// When the gap is longer than a retry, or two write at a time.
pub fn told_to_stop(checkout: &Checkout) -> Result<()> {
    hand_over(checkout, "told-to-stop", Duration::ZERO, RETRY + SLACK, |lab, leader| {
        system(lab).run(&["delete", "pod", leader, "--wait=false"]).map(drop)
    })
}

/// `kill -9`: nothing is given back.
///
/// # Errors
/// When the gap is not that of the lease, or two write at a time.
pub fn killed(checkout: &Checkout) -> Result<()> {
    hand_over(checkout, "killed", NOT_BEFORE, LEASE + RETRY + SLACK, |lab, leader| {
        signal(process(lab, leader)?, Signal::SIGKILL)
    })
}

/// SIGSTOP for longer than the lease, then SIGCONT: the woken one writes nothing and ends.
///
/// # Errors
/// When the gap is not that of the lease, two write at a time, or the woken one goes on.
pub fn stopped_and_woken(checkout: &Checkout) -> Result<()> {
    hand_over(checkout, "stopped", NOT_BEFORE, LEASE + RETRY + SLACK, |lab, leader| {
        let process = process(lab, leader)?;
        signal(process, Signal::SIGSTOP)?;
        let followed = until_another_leads(lab, leader);
        signal(process, Signal::SIGCONT)?;
        followed?;
        until_ended_by_itself(lab, leader)
    })
}

/// The network between the leader and the API server is cut: it ends before another one begins.
///
/// # Errors
/// When the gap is not that of the lease, two write at a time, or the leader goes on.
pub fn cut_off(checkout: &Checkout) -> Result<()> {
    hand_over(checkout, "cut-off", NOT_BEFORE, LEASE + RETRY + SLACK, |lab, leader| {
        let address = system(lab).json(&["get", "pod", leader])?["status"]["podIP"].clone();
        let address = address.as_str().context("the leader has no address")?.to_owned();
        cut(lab, &address)?;
        let ended = until_ended_by_itself(lab, leader).and_then(|()| until_another_leads(lab, leader));
        // Whatever happened.
        heal(lab)?;
        ended
    })
}

fn system(lab: &Lab) -> Kubectl {
    lab.namespace(operator::NAMESPACE)
}

/// The pod that leads.
fn leader(lab: &Lab) -> Result<Option<String>> {
    let found =
        system(lab).try_run(&["get", "lease", "resilience-operator", "-o", "jsonpath={.spec.holderIdentity}"])?;
    // Behind the pod's name stands a number of the process.
    Ok(found.stdout.rsplit_once('_').map(|(pod, _)| pod.to_owned()))
}

fn until_another_leads(lab: &Lab, before: &str) -> Result<()> {
    wait::until("another replica leads", SOON, || {
        let now = leader(lab)?;
        Ok(match now {
            Some(now) if now != before => Seen::Done(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
}

/// Its container ended with an error, and not because somebody killed it.
fn until_ended_by_itself(lab: &Lab, pod: &str) -> Result<()> {
    system(lab).until("it ended by itself", SOON, |kubectl| {
        let status = kubectl.json(&["get", "pod", pod])?["status"]["containerStatuses"][0].clone();
        let ended = |state: &str| status[state]["terminated"]["exitCode"].as_i64();
        Ok(match ended("state").or(ended("lastState")) {
            None => Seen::NotYet(status.to_string()),
            Some(2) => Seen::Done(()),
            Some(other) => bail!("it ended with {other} and not with an error of its own: {status}"),
        })
    })
}

/// The operator's process in a pod: a container's host name is its pod's.
fn process(lab: &Lab, pod: &str) -> Result<Pid> {
    let inside = lab.sandbox().running()?.context("no lab runs")?.init;
    let space = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let host = space(&inside.to_string(), "net");
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let named = environment.split(|byte| *byte == 0).any(|line| line == format!("HOSTNAME={pod}").as_bytes());
        if words.starts_with(b"/resilience-operator\0run") && named && space(&pid, "net") != host {
            return Ok(Pid::from_raw(pid.parse()?));
        }
    }
    bail!("no process of pod {pod} was found")
}

fn signal(process: Pid, signal: Signal) -> Result<()> {
    kill(process, signal).with_context(|| format!("{signal} cannot be sent to {process}"))
}

/// Nothing goes from a pod to the API server any more, or back; until [`heal`].
fn cut(lab: &Lab, address: &str) -> Result<()> {
    let commands = format!(
        "add table inet cut-off; \
         add chain inet cut-off there {{ type filter hook input priority -10; }}; \
         add chain inet cut-off back {{ type filter hook output priority -10; }}; \
         add rule inet cut-off there ip saddr {address} tcp dport 6443 drop; \
         add rule inet cut-off back ip daddr {address} tcp sport 6443 drop"
    );
    check(lab.inside("nft")?.arg(commands)).map(drop)
}

fn heal(lab: &Lab) -> Result<()> {
    check(lab.inside("nft")?.arg("delete table inet cut-off")).map(drop)
}

/// Both replicas are there, one of them leads, and none was ended lately.
fn ready(lab: &Lab) -> Result<String> {
    let system = system(lab);
    system.rolled_out("deployment", SOON * 2)?;
    system.until("two replicas are ready, and one of them leads", SOON, |kubectl| {
        let pods = kubectl.json(&["get", "pods", "-l", "app.kubernetes.io/name=resilience-operator"])?;
        let living: Vec<&str> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
            .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        Ok(match leader(lab)? {
            Some(leader) if living.len() == 2 && living.contains(&leader.as_str()) => Seen::Done(leader),
            other => Seen::NotYet(format!("{living:?}, {other:?}")),
        })
    })
}

/// New pods, so that an exit of an earlier scenario is not taken for one of this.
fn fresh(lab: &Lab) -> Result<String> {
    system(lab).run(&["rollout", "restart", "deployment"])?;
    ready(lab)
}

fn hand_over(
    checkout: &Checkout,
    name: &str,
    shortest: Duration,
    longest: Duration,
    act: impl FnOnce(&Lab, &str) -> Result<()> + Send,
) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    with_namespace(&lab, name, |kubectl| {
        let leader = fresh(&lab)?;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "edited"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        kubectl.apply(&service.to_string())?;
        let begun = Timestamp::now();
        let mut edits = 0;
        edit(kubectl, &mut edits)?;
        applied(kubectl, edits)?;
        let edits = std::thread::scope(|scope| {
            let mut acting = Some(scope.spawn(|| act(&lab, &leader)));
            let start = Instant::now();
            // Edited until the act is over and another one is at work.
            while start.elapsed() < SOON * 2 {
                edit(kubectl, &mut edits)?;
                if acting.as_ref().is_some_and(std::thread::ScopedJoinHandle::is_finished) {
                    acting
                        .take()
                        .map_or(Ok(Ok(())), std::thread::ScopedJoinHandle::join)
                        .unwrap_or_else(|_| bail!("the act panicked"))?;
                }
                if acting.is_none() && last_writer(checkout, begun)?.is_some_and(|pod| pod != leader) {
                    return Ok(edits);
                }
            }
            bail!("no other replica was at work within {} s", SOON.as_secs() * 2)
        })?;
        applied(kubectl, edits)?;
        judge(&writes(checkout, begun)?, &leader, shortest, longest)
    })
}

/// One more edit of the policy.
fn edit(kubectl: &Kubectl, edits: &mut u64) -> Result<()> {
    *edits += 1;
    let spec = json!({"limits": {"perClient": {"activeRequests": 100 + *edits}}});
    kubectl.apply(&policy("edited", "edited", &spec)).map(drop)
}

/// The last edit is in the rule.
fn applied(kubectl: &Kubectl, edits: u64) -> Result<()> {
    kubectl.until(&format!("edit {edits} is in the rule"), SOON, |kubectl| {
        let found = kubectl.try_run(&[
            "get",
            "destinationrule",
            "edited",
            "-o",
            "jsonpath={.spec.trafficPolicy.connectionPool.http.http2MaxRequests}",
        ])?;
        Ok(if found.stdout == (100 + edits).to_string() { Seen::Done(()) } else { Seen::NotYet(found.all()) })
    })
}

/// A write at the API server: by which pod, and from when to when.
#[derive(Clone)]
struct Write {
    pod: String,
    from: Timestamp,
    to: Timestamp,
    what: String,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, from, to, what } = self;
        write!(f, "{what} by {pod} from {from} to {to}")
    }
}

/// Every write of the operator since then, but those that say who leads, by time.
fn writes(checkout: &Checkout, since: Timestamp) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for request in audit::writes(checkout)?.into_iter().filter(|request| request.from >= since) {
        if request.uri.contains(&format!("/{}/events", operator::NAMESPACE)) {
            continue;
        }
        let what = format!("{} {}", request.verb, request.uri);
        let pod = request.pod.with_context(|| format!("the audit log does not say which pod wrote: {what}"))?;
        writes.push(Write { pod, from: request.from, to: request.to, what });
    }
    writes.sort_by_key(|write| write.from);
    Ok(writes)
}

fn last_writer(checkout: &Checkout, since: Timestamp) -> Result<Option<String>> {
    Ok(writes(checkout, since)?.last().map(|write| write.pod.clone()))
}

/// The old leader's writes are over before another's begin, and the gap between is within bounds.
fn judge(writes: &[Write], leader: &str, shortest: Duration, longest: Duration) -> Result<()> {
    let (old, new): (Vec<&Write>, Vec<&Write>) = writes.iter().partition(|write| write.pod == leader);
    let (Some(last), Some(first)) = (old.iter().max_by_key(|write| write.to), new.first()) else {
        bail!("{} writes of the old leader, {} of the new one", old.len(), new.len());
    };
    ensure!(last.to <= first.from, "two wrote at a time: {last} and {first}");
    let pods: std::collections::BTreeSet<&str> = new.iter().map(|write| write.pod.as_str()).collect();
    ensure!(pods.len() == 1, "several followed: {pods:?}");
    let gap = Duration::try_from(first.from.duration_since(last.to)).context("the gap is negative")?;
    println!("{} writes, then none for {:.1} s, then {}", old.len(), gap.as_secs_f64(), new.len());
    ensure!(gap >= shortest, "the lease was not over: {gap:?} between {last} and {first}");
    ensure!(gap <= longest, "too long without a leader: {gap:?} between {last} and {first}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(pod: &str, from: i64, to: i64) -> Write {
        let time = |ms| Timestamp::from_millisecond(ms).unwrap();
        Write { pod: pod.to_owned(), from: time(from), to: time(to), what: String::new() }
    }

    fn judged(writes: &[Write]) -> Result<()> {
        judge(writes, "old", Duration::from_secs(1), Duration::from_secs(2))
    }

    #[test]
    fn an_overlap_a_gap_out_of_bounds_and_a_third_writer_are_seen() {
        let (one, two) = (write("old", 0, 10), write("old", 20, 400));
        judged(&[one.clone(), two.clone(), write("new", 1_500, 1_510)]).unwrap();
        for (wrong, words) in [
            (vec![one.clone(), two.clone(), write("new", 399, 410)], "two wrote at a time"),
            (vec![one.clone(), write("new", 1_500, 1_510), write("old", 1_600, 1_610)], "two wrote at a time"),
            (vec![one.clone(), two.clone(), write("new", 1_300, 1_310)], "the lease was not over"),
            (vec![one.clone(), two.clone(), write("new", 2_500, 2_510)], "too long without a leader"),
            (vec![one.clone(), two.clone(), write("new", 1_500, 1_510), write("third", 1_600, 1_610)], "several"),
            (vec![one.clone(), two.clone()], "0 of the new one"),
        ] {
            let error = judged(&wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
