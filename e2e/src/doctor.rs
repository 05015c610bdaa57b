//! In: this machine. Out: for each thing that the lab needs, whether the machine does it, tried rather than
//! guessed, and what to do when it does not. Takes about a second and leaves nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::report::Report;
use crate::run::{finish, tail};
use crate::sandbox::cgroup_roots;

/// What one check found.
#[derive(Debug)]
pub enum Finding {
    /// It works; this is how.
    Works(String),
    /// It cannot be judged yet, and is not needed yet.
    Unknown(String),
    /// It does not work, and what to do.
    Missing(String),
}

use Finding::{Missing, Unknown, Works};

/// Whether there is any point in trying: asked before anything else is done.
///
/// # Errors
/// When this is not Linux, or not root.
pub fn possible() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the lab runs a Linux node from Linux's own means: use a Linux machine, real or virtual");
    }
    if !Uid::effective().is_root() {
        bail!(
            "the lab needs root for its namespaces, mounts and cgroups: run `sudo -E env \"PATH=$PATH\" cargo lab …`"
        );
    }
    Ok(())
}

/// All checks, each with its name.
#[must_use]
pub fn examine(checkout: &Checkout) -> Vec<(&'static str, Finding)> {
    // Without these two no other check can work.
    if let Err(error) = possible() {
        return vec![("Linux and root", Missing(error.to_string()))];
    }
    vec![
        ("unshare", attempt("true", "install util-linux; in a container, allow CAP_SYS_ADMIN and CAP_NET_ADMIN")),
        ("bridge", attempt("ip link add doctor0 type bridge", "install iproute2; load the kernel module `bridge`")),
        (
            "veth",
            attempt(
                "ip link add doctor0 type veth peer name doctor1",
                "install iproute2; load the kernel module `veth`",
            ),
        ),
        ("nft table", nft()),
        ("overlay mount", attempt(OVERLAY, "load the kernel module `overlay`; in a container, allow mounts")),
        ("cgroup", cgroup(checkout)),
        ("Go", go()),
        ("Python", python()),
        ("packages", tools(&["apt-get", "dpkg"], "the lab unpacks Debian's packages: use a Debian or an Ubuntu")),
        ("C compiler", tools(&["cc", "pkg-config"], "runc needs them: install gcc and pkg-config")),
        ("memory", memory()),
    ]
}

/// Ends with an error that lists what is missing, if anything is.
///
/// # Errors
/// When a check fails.
pub fn require(checkout: &Checkout, report: &Report) -> Result<()> {
    report.step("examine this machine", || {
        let missing: Vec<String> = examine(checkout)
            .into_iter()
            .filter_map(
                |(name, finding)| if let Missing(text) = finding { Some(format!("{name}: {text}")) } else { None },
            )
            .collect();
        if !missing.is_empty() {
            bail!("this machine cannot run the lab:\n  {}", missing.join("\n  "));
        }
        Ok(())
    })
}

/// Mounts what the sandbox mounts: an overlay whose upper folder is on a tmpfs, over a folder of the host.
const OVERLAY: &str = "mount -t tmpfs doctor /mnt && mkdir /mnt/upper /mnt/work && \
    mount -t overlay doctor -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc";

/// Runs a line of shell in namespaces of its own.
fn attempt(line: &str, cure: &str) -> Finding {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", line]);
    match finish(&mut command) {
        Ok(done) if done.status.success() => Works(String::new()),
        Ok(done) => Missing(format!("`{line}` says: {}; {cure}", tail(&done.all(), 2))),
        Err(error) => Missing(format!("{error:#}; {cure}")),
    }
}

fn nft() -> Finding {
    match find_nft() {
        Some(nft) => attempt(&format!("{} add table ip doctor", nft.display()), "load the kernel module `nf_tables`"),
        None => Unknown("no nft here yet: it comes with the first `cargo lab up`".to_owned()),
    }
}

/// The nft that an earlier `up` unpacked, or else the machine's own.
#[must_use]
pub fn find_nft() -> Option<PathBuf> {
    let unpacked = Cache::open().ok().and_then(|cache| {
        let parts = fs::read_dir(cache.root().join("parts")).ok()?;
        parts.filter_map(Result::ok).map(|part| part.path().join("bin/nft")).find(|file| file.is_file())
    });
    unpacked.or_else(|| find("nft"))
}

fn cgroup(checkout: &Checkout) -> Finding {
    let roots = cgroup_roots();
    if roots.is_empty() {
        return Missing("no cgroup hierarchy is mounted: mount one under /sys/fs/cgroup".to_owned());
    }
    for root in &roots {
        let group = root.join(format!("{}-doctor", checkout.cgroup()));
        if let Err(error) = fs::create_dir(&group).and_then(|()| fs::remove_dir(&group)) {
            return Missing(format!(
                "{} cannot be made: {error}; in a container, mount cgroups writable",
                group.display()
            ));
        }
    }
    let version = if roots.len() == 1 { "version 2" } else { "version 1" };
    Works(version.to_owned())
}

/// What the parts' go.mod files ask for.
const GO: (u32, u32) = (1, 26);

fn go() -> Finding {
    let cure = format!("install Go {}.{} or newer", GO.0, GO.1);
    let Ok(done) = finish(Command::new("go").args(["env", "GOVERSION"])) else { return Missing(cure) };
    let version = done.stdout.trim().trim_start_matches("go").to_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < GO {
        return Missing(format!("go is {version}: {cure}"));
    }
    Works(version)
}

fn python() -> Finding {
    let cure = "Envoy comes as a Python wheel: install python3 and python3-pip";
    match finish(Command::new("python3").args(["-c", "import platform, pip; print(platform.python_version())"])) {
        Ok(done) if done.status.success() => Works(done.stdout.trim().to_owned()),
        Ok(done) => Missing(format!("{}; {cure}", tail(&done.all(), 1))),
        Err(error) => Missing(format!("{error:#}; {cure}")),
    }
}

fn tools(names: &[&str], cure: &str) -> Finding {
    match names.iter().find(|name| find(name).is_none()) {
        Some(name) => Missing(format!("{name} is not on PATH: {cure}")),
        None => Works(names.join(", ")),
    }
}

/// Everything together takes about 3 GiB, images included: the sandbox keeps its files in memory.
const MEMORY: u64 = 4;

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 =
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0);
    let gib = kib / (1024 * 1024);
    if gib < MEMORY {
        return Missing(format!("{gib} GiB are free, the lab wants {MEMORY}: end something big"));
    }
    Works(format!("{gib} GiB free"))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
