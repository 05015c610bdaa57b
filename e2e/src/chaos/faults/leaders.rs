//! The one that leads goes, hangs, is cut off, or is put in doubt.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::chaos::invariants::Invariants;
use crate::chaos::plan;
use crate::chaos::proxy::rules::{Act, Rule, What};
use crate::chaos::settle::until_as_wanted;
use crate::chaos::stage::{PRESENT, PREVIOUS, SOON, Stage};
use crate::replicas::{self, signal, system};
use crate::wait::{self, Seen};

/// SIGTERM, by the deletion of its pod, amid edits.
pub fn told_to_stop(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let leader = stage.leader()?;
    system(&stage.lab).run(&["delete", "pod", &leader, "--wait=false"])?;
    stage.until_another_leads(&leader)?;
    replicas::ready(&stage.lab)?;
    Ok(1)
}

/// `kill -9` amid edits; at times of the other one as well.
pub fn killed(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let leader = stage.leader()?;
    let both = random.bool();
    let mut bites = 0;
    for (pod, pid) in replicas::processes(&stage.lab)? {
        if both || pod == leader {
            signal(pid, Signal::SIGKILL)?;
            bites += 1;
        }
    }
    ensure!(bites > 0, "no process of {leader} was found");
    until_led_anew(stage)?;
    Ok(bites)
}

/// Whoever it is, under a name that the lease did not have before.
fn until_led_anew(stage: &Stage) -> Result<()> {
    let before = replicas::holder(&stage.lab)?;
    wait::until("the lease has another holder", SOON * 2, || {
        let now = replicas::holder(&stage.lab)?;
        Ok(if now.is_empty() || now == before { Seen::NotYet(now) } else { Seen::Done(()) })
    })
}

/// SIGSTOP for longer than the lease, then SIGCONT.
pub fn stopped_and_woken(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let leader = stage.leader()?;
    let process = replicas::process(&stage.lab, &leader)?;
    signal(process, Signal::SIGSTOP)?;
    let followed = stage.until_another_leads(&leader);
    signal(process, Signal::SIGCONT)?;
    followed.map(|()| 1)
}

/// Nothing that the leader sends arrives any more, and nothing is said to it.
pub fn cut_off(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let leader = stage.leader()?;
    let address = system(&stage.lab).json(&["get", "pod", &leader])?["status"]["podIP"].clone();
    let address = address.as_str().context("the leader has no address")?.parse()?;
    stage.set_rules(vec![Rule::new(What::All, Act::Hang).from(address)])?;
    let bites = stage.until_another_leads(&leader).and_then(|()| stage.until_bitten(2));
    stage.set_rules(Vec::new())?;
    bites
}

/// Somebody deletes the lease, empties it, or writes himself in, with a clock that is an hour off.
pub fn hand_on_the_lease(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let system = system(&stage.lab);
    let hours = if random.bool() { 1 } else { -1 };
    let now = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(hours))?;
    // As the API has it: six digits, whatever they are.
    let now = format!("{now:.6}");
    let patch = match random.u32(0..3) {
        0 => {
            system.run(&["delete", "lease", "resilience-operator"])?;
            None
        }
        1 => Some(json!({"spec": null})),
        _ => Some(
            json!({"spec": {"holderIdentity": "somebody_else", "leaseDurationSeconds": 15, "renewTime": now, "acquireTime": now}}),
        ),
    };
    if let Some(patch) = patch {
        system.run(&["patch", "lease", "resilience-operator", "--type=merge", "-p", &patch.to_string()])?;
    }
    wait::until("a replica leads again", SOON * 2, || {
        let leader = replicas::leader(&stage.lab)?.unwrap_or_default();
        let pods = replicas::pods(&stage.lab)?;
        let known = pods.iter().any(|pod| pod["metadata"]["name"] == leader.as_str());
        Ok(if known { Seen::Done(1) } else { Seen::NotYet(leader) })
    })
}

/// Another version of the operator, which renders every host differently, is rolled out and taken back. Each
/// rule changes once each time: two that write in turn would make it go back and forth.
pub fn two_versions_differ(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    let mut bites = 0;
    for (variables, end) in
        [(&[("RESILIENCE_CLUSTER_DOMAIN", "other.local")][..], ".other.local"), (&[], ".cluster.local")]
    {
        stage.watcher.with(Invariants::forget_courses);
        stage.deploy(variables, PRESENT)?;
        wait::until(&format!("every rule has a host that ends with {end}"), SOON, || {
            let there = rules(stage)?;
            let others: Vec<&String> = there.iter().filter(|host| !host.ends_with(end)).collect();
            Ok(if others.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("{others:?}")) })
        })?;
        bites += stage.watcher.with(|invariants| {
            for ((namespace, name), hosts) in invariants.courses() {
                ensure!(hosts.len() <= 2, "{namespace}/{name} went back and forth: {hosts:?}");
            }
            Ok(invariants.courses().values().filter(|hosts| hosts.len() == 2).count() as u64)
        })?;
    }
    ensure!(bites > 0, "no rule changed with the version");
    Ok(bites)
}

/// The operator as it was at an earlier commit is rolled out, works, and is followed by the present one. The
/// CRD and the rights stay those of the present one.
pub fn downgraded_and_upgraded(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(usize::MAX)?;
    let present = until_as_wanted(stage, SOON).and_then(|()| stage.deploy(&[], PREVIOUS));
    present.and_then(|()| until_as_wanted(stage, SOON * 2)).inspect_err(|_| {
        // What failed is told; what comes after it needs the present one.
        let _ = stage.deploy(&[], PRESENT);
    })?;
    stage.deploy(&[], PRESENT)?;
    Ok(2)
}

fn rules(stage: &Stage) -> Result<BTreeSet<String>> {
    let mut hosts = BTreeSet::new();
    for namespace in plan::NAMESPACES {
        let list =
            stage.lab.namespace(namespace).json(&["get", "destinationrules", "-l", "resilience.dev/owner-uid"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        hosts.extend(items.iter().filter_map(|item| item["spec"]["host"].as_str().map(str::to_owned)));
    }
    Ok(hosts)
}

/// No replica is there while policies are deleted; the next one finds nothing left to do, or does it.
pub fn away_while_policies_go(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    replicas::scale(&stage.lab, 0)?;
    let slot = stage.some_slot(random)?;
    stage.lab.namespace(plan::namespace(slot)).run(&[
        "delete",
        "resilience",
        &plan::name(slot),
        "--ignore-not-found",
    ])?;
    stage.until_edits(usize::MAX)?;
    heal(stage)?;
    Ok(1)
}

/// All replicas, again.
pub fn heal(stage: &Stage) -> Result<()> {
    system(&stage.lab).run(&["scale", "deployment", "resilience-operator", "--replicas=2"])?;
    for (_, pid) in replicas::processes(&stage.lab)? {
        signal(pid, Signal::SIGCONT)?;
    }
    system(&stage.lab).rolled_out("deployment", Duration::from_mins(2))
}
