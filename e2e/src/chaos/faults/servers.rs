//! The API server and etcd: killed, held up, full.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;

use crate::chaos::stage::{IMPATIENT, SOON, Stage};
use crate::daemons::until_served;
use crate::wait::{self, Seen};

/// Longer than the lease, at times.
fn for_a_while(stage: &Stage, random: &mut fastrand::Rng) -> Result<()> {
    let while_ = Duration::from_secs(random.u64(3..22));
    let begun = Timestamp::now();
    // The only wait for a time: how long something is away is the fault.
    wait::until_true("the time of the fault is over", SOON, || {
        Ok(Timestamp::now().duration_since(begun) >= while_.try_into()?)
    })?;
    stage.until_edits(1)
}

/// kill -9, away for a while, started again.
pub fn api_server_is_killed(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let since = Timestamp::now();
    stage.daemons.api_server.kill(&stage.lab)?;
    for_a_while(stage, random)?;
    back(stage, since)
}

/// SIGSTOP for a while.
pub fn api_server_hangs(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let since = Timestamp::now();
    stage.daemons.api_server.stop(&stage.lab)?;
    for_a_while(stage, random)?;
    back(stage, since)
}

/// kill -9, away for a while, started again on the same data.
pub fn etcd_is_killed(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let since = Timestamp::now();
    stage.daemons.etcd.kill(&stage.lab)?;
    for_a_while(stage, random)?;
    back(stage, since)
}

/// SIGSTOP for a while.
pub fn etcd_hangs(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let since = Timestamp::now();
    stage.daemons.etcd.stop(&stage.lab)?;
    for_a_while(stage, random)?;
    back(stage, since)
}

fn back(stage: &Stage, since: Timestamp) -> Result<u64> {
    let back = stage.daemons.heal(&stage.lab);
    stage.stalled(since);
    back.map(|()| 1)
}

/// A quota that is reached: everything can be read, and nothing written, until the alarm is taken back.
pub fn etcd_is_full(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    stage.until_edits(random.usize(1..4))?;
    let since = Timestamp::now();
    stage.daemons.etcd.kill(&stage.lab)?;
    stage.daemons.etcd.run(&stage.lab, &["--quota-backend-bytes=65536".to_owned()])?;
    let full = stage.kubectl().until("nothing can be written", SOON, |kubectl| {
        let words = ["create", "configmap", "one-more", "-n", "default", "--dry-run=none", IMPATIENT];
        let answer = kubectl.try_run(&words)?;
        kubectl.try_run(&["delete", "configmap", "one-more", "-n", "default", "--ignore-not-found", IMPATIENT])?;
        Ok(if answer.all().contains("database space exceeded") { Seen::Done(()) } else { Seen::NotYet(answer.all()) })
    });
    let through = full.and_then(|()| for_a_while(stage, random));
    stage.daemons.etcd.kill(&stage.lab)?;
    stage.daemons.heal(&stage.lab).and_then(|()| stage.disarm())?;
    stage.stalled(since);
    through?;
    until_served(&stage.lab)?;
    let answer = stage.kubectl().try_run(&["create", "configmap", "one-more", "-n", "default", "--dry-run=server"])?;
    ensure!(answer.status.success(), "etcd is still full: {}", answer.all());
    Ok(1)
}
