//! Process 1 of the sandbox. In: fresh namespaces that `unshare` made. Out: private mounts over the folders
//! that daemons share, a network with the node's address, a word that it is ready; then it collects what
//! ends, and never ends itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::NODE_ADDRESS;
use crate::run::check;

/// Kernel settings that a kubelet wants. They belong to the host: the kubelet is shown what it wants to
/// see, and so leaves them alone.
const KUBELET_SETTINGS: &[(&str, &str)] = &[
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
    ("/proc/sys/kernel/keys/root_maxkeys", "1000000"),
    ("/proc/sys/kernel/keys/root_maxbytes", "25000000"),
];

/// Sets everything up and stays.
///
/// # Errors
/// When it is not process 1 of namespaces of its own, or a step of the set-up fails.
pub fn main(state: &Path) -> Result<()> {
    if std::process::id() != 1 {
        bail!("this is the lab's own process 1, not a command for people: use `cargo lab up`");
    }
    mounts()?;
    network()?;
    fs::write(state.join("sandbox-ready"), "").context("the word that the sandbox is ready cannot be written")?;
    collect()
}

fn mounts() -> Result<()> {
    // Nothing of ours reaches the host (unshare made everything private); pods' mounts reach each other.
    attach(None, "/", None, MsFlags::MS_SHARED | MsFlags::MS_REC, None)?;
    attach(Some("lab"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    for folder in ["tmp", "cni", "containerd", "kubelet"] {
        fs::create_dir_all(Path::new("/run/lab").join(folder))?;
    }
    // Daemons read these folders and write to them; what they write stays in here.
    for folder in ["/etc", "/var/lib", "/var/log"] {
        let layer = Path::new("/run/lab/layers").join(folder.trim_start_matches('/').replace('/', "-"));
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        attach(Some("lab"), folder, Some("overlay"), MsFlags::empty(), Some(&options))?;
    }
    for (index, (setting, value)) in KUBELET_SETTINGS.iter().enumerate() {
        if Path::new(setting).exists() {
            let shown = format!("/run/lab/setting-{index}");
            fs::write(&shown, format!("{value}\n"))?;
            attach(Some(&shown), setting, None, MsFlags::MS_BIND, None)?;
        }
    }
    Ok(())
}

fn attach(source: Option<&str>, target: &str, kind: Option<&str>, flags: MsFlags, options: Option<&str>) -> Result<()> {
    mount(source, target, kind, flags, options)
        .with_context(|| format!("{} cannot be mounted on {target}", kind.or(source).unwrap_or("propagation")))
}

fn network() -> Result<()> {
    let address = format!("{NODE_ADDRESS}/24");
    let steps: &[&[&str]] = &[
        &["link", "set", "lo", "up"],
        &["link", "add", "node0", "type", "bridge"],
        &["address", "add", &address, "dev", "node0"],
        &["link", "set", "node0", "up"],
        // It leads nowhere, but pods and kube-proxy want to see one.
        &["route", "add", "default", "dev", "node0"],
    ];
    for step in steps {
        check(Command::new("ip").args(*step)).context("the node's network cannot be set up")?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("packets between pods cannot be switched on")
}

/// Collects ended processes for ever: everything that loses its parent in here becomes a child of this one.
fn collect() -> Result<()> {
    let children = SigSet::from(Signal::SIGCHLD);
    children.thread_block()?;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => {
                children.wait()?;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("children cannot be waited for: {error}"),
        }
    }
}
