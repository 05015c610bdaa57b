//! `down` leaves nothing on the host: after a lab that stood, after an `up` that was killed, and after the
//! sandbox itself was killed. Each looks first that the same check sees the lab while it is there: a check
//! that cannot fail would prove nothing.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::footprint::{Footprint, SecondCheckout};
use crate::checkout::Checkout;
use crate::doctor;
use crate::run::check;
use crate::sandbox::{Sandbox, cgroup_roots};
use crate::wait;

/// Makes one thing of each kind on the host, looks whether the check sees it, and removes it again.
///
/// # Errors
/// When it misses one.
pub fn footprint_sees(checkout: &Checkout) -> Result<()> {
    let Some(cgroup) = cgroup_roots().first().map(|root| root.join(checkout.cgroup() + "-left").display().to_string())
    else {
        bail!("no cgroup hierarchy is mounted");
    };
    let folder = tempfile::tempdir()?;
    let folder = folder.path().display().to_string();
    let nft = doctor::find_nft().context("there is no nft yet: `cargo lab up` brings it")?.display().to_string();
    let things: [(&str, String, String); 5] = [
        ("mount", format!("mount -t tmpfs left {folder}"), format!("umount {folder}")),
        ("link", "ip link add lab-left type bridge".to_owned(), "ip link delete lab-left".to_owned()),
        ("rule", format!("{nft} add table ip lab-left"), format!("{nft} delete table ip lab-left")),
        ("cgroup", format!("mkdir {cgroup}"), format!("rmdir {cgroup}")),
        ("in /run", "mkdir /run/lab-left".to_owned(), "rmdir /run/lab-left".to_owned()),
    ];
    for (kind, make, remove) in things {
        let before = Footprint::take(checkout)?;
        check(Command::new("sh").args(["-c", &make]))?;
        let added = Footprint::take(checkout).map(|after| after.added_to(&before));
        check(Command::new("sh").args(["-c", &remove]))?;
        ensure!(added?.has(kind), "the check does not see what `{make}` makes");
        ensure!(Footprint::take(checkout)?.added_to(&before).is_empty(), "the check sees a {kind} that is gone");
    }
    Ok(())
}

/// After a lab that stood.
///
/// # Errors
/// When something is left, or the check does not see a lab that stands.
pub fn after_down(checkout: &Checkout) -> Result<()> {
    leaves_nothing(checkout, "after a whole lab", |second| {
        check(&mut second.lab(&["up", "--without-operator"]))?;
        Ok(())
    })
}

/// After `up` was killed as soon as there was a sandbox.
///
/// # Errors
/// As [`after_down`].
pub fn after_early_kill(checkout: &Checkout) -> Result<()> {
    leaves_nothing(checkout, "after an `up` killed early", |second| {
        let place = second.checkout()?;
        kill_up_when(second, || Ok(place.state().join("sandbox-ready").exists()))
    })
}

/// After `up` was killed when the first pods had started.
///
/// # Errors
/// As [`after_down`].
pub fn after_late_kill(checkout: &Checkout) -> Result<()> {
    leaves_nothing(checkout, "after an `up` killed late", |second| {
        let pods = second.checkout()?.cgroup() + "/kubepods/burstable";
        let some_pod = move || {
            let groups = cgroup_roots().into_iter().map(|root| root.join(&pods));
            Ok(groups.flat_map(std::fs::read_dir).flatten().filter_map(Result::ok).any(|entry| entry.path().is_dir()))
        };
        kill_up_when(second, some_pod)
    })
}

/// After the process that keeps the sandbox was killed under a lab that stood.
///
/// # Errors
/// As [`after_down`].
pub fn after_keeper_kill(checkout: &Checkout) -> Result<()> {
    let nothing = Footprint::take(checkout)?;
    let second = SecondCheckout::of(checkout)?;
    check(&mut second.lab(&["up", "--without-operator"]))?;
    let sandbox = Sandbox::of(&second.checkout()?);
    let running = sandbox.running()?.context("the lab came up without a sandbox")?;
    kill(running.keeper.context("the sandbox has no keeper")?, Signal::SIGKILL)?;
    wait::until_true("the sandbox ends with its keeper", Duration::from_secs(20), || Ok(sandbox.running()?.is_none()))?;
    end_and_compare(&second, &nothing, "after its keeper was killed")
}

fn leaves_nothing(checkout: &Checkout, when: &str, make: impl FnOnce(&SecondCheckout) -> Result<()>) -> Result<()> {
    let second = SecondCheckout::of(checkout)?;
    let place = second.checkout()?;
    let before = Footprint::take(&place)?;
    make(&second)?;
    let during = Footprint::take(&place)?.added_to(&before);
    for kind in ["process", "namespace", "cgroup"] {
        ensure!(during.has(kind), "the check is blind: it sees no {kind} of the lab {when}:\n{during}");
    }
    end_and_compare(&second, &before, when)
}

fn end_and_compare(second: &SecondCheckout, before: &Footprint, when: &str) -> Result<()> {
    check(&mut second.lab(&["down"]))?;
    let left = Footprint::take(&second.checkout()?)?.added_to(before);
    ensure!(left.is_empty(), "`down` {when} left:\n{left}");
    Ok(())
}

/// Starts `up`, and kills it the hard way as soon as the condition holds.
fn kill_up_when(second: &SecondCheckout, condition: impl Fn() -> Result<bool>) -> Result<()> {
    let mut up = second.lab(&["up", "--without-operator"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let reached = wait::until_true("`up` gets to where it is to be killed", Duration::from_mins(4), || {
        ensure!(up.try_wait()?.is_none(), "`up` ended before it could be killed");
        condition()
    });
    kill(Pid::from_raw(i32::try_from(up.id())?), Signal::SIGKILL)?;
    up.wait()?;
    reached
}
