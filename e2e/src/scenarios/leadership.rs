//! Of two replicas one writes: whatever happens to it, the other follows in the lease's time, and at no
//! moment do both write. Judged at the API server's audit log, which has the pod and the time of each
//! write; a policy is edited all the while, so that there is always something to write.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::stage::{SOON, policy};
use crate::audit::{self, Log, Request};
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::replicas::{self, leader, pod_of, process, ready, signal, system};
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
        let holder = replicas::holder(&lab)?;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "edited"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        kubectl.apply(&service.to_string())?;
        let mut log = Log::from_now(checkout)?;
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
                if acting.is_none() && !of_both(log.read()?, &holder).1.is_empty() {
                    return Ok(edits);
                }
            }
            let leads = replicas::holder(&lab)?;
            bail!("no other than {holder} was at work within {} s; {leads:?} has the lease", SOON.as_secs() * 2)
        })?;
        applied(kubectl, edits)?;
        judge(log.read()?, &holder, shortest, longest)
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

/// The work of the process that held the lease, and of those that came after it. Usually that is another pod;
/// but after `kill -9` the container begins again within a moment, and may be the first to see the lease over.
fn of_both<'a>(log: &'a [Request], holder: &str) -> (Vec<&'a Request>, Vec<&'a Request>) {
    let is_next = |one: &&Request| {
        one.is_of_the_lease()
            && one.took_effect()
            && one.holder.as_deref().is_some_and(|by| by != holder && !by.is_empty())
    };
    let next = log.iter().find(is_next);
    let is_old = |write: &&Request| {
        write.pod.as_deref() == pod_of(holder)
            && next.is_none_or(|next| next.pod != write.pod || write.from < next.from)
    };
    audit::work(log).into_iter().partition(is_old)
}

/// The old leader's writes are over before another's begin, and the gap between is within bounds.
fn judge(log: &[Request], holder: &str, shortest: Duration, longest: Duration) -> Result<()> {
    let (old, new) = of_both(log, holder);
    let (Some(last), Some(first)) = (old.iter().max_by_key(|write| write.to), new.first()) else {
        bail!("{} writes of the old leader, {} of the new one", old.len(), new.len());
    };
    ensure!(last.to <= first.from, "two wrote at a time: {last} and {first}");
    let pods: std::collections::BTreeSet<&str> = new.iter().filter_map(|write| write.pod.as_deref()).collect();
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
    use crate::audit::write;

    fn judged(writes: &[Request]) -> Result<()> {
        judge(writes, "old_1", Duration::from_secs(1), Duration::from_secs(2))
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

    #[test]
    fn a_process_that_begins_again_in_the_same_pod_is_another_one() {
        let lease = |holder: &str, from| Request {
            what: "coordination.k8s.io/leases".to_owned(),
            holder: Some(holder.to_owned()),
            ..write("old", from, from + 1)
        };
        let log = |next| [write("old", 0, 10), lease("old_1", 20), lease(next, 1_400), write("old", 1_500, 1_510)];
        judged(&log("old_2")).unwrap();
        assert!(judged(&log("old_1")).unwrap_err().to_string().contains("0 of the new one"));
        // The old one must be over all the same.
        let early = [write("old", 0, 10), lease("old_2", 300), write("old", 500, 510)];
        assert!(judged(&early).unwrap_err().to_string().contains("the lease was not over"));
    }
}
