//! In: a checkout. Out: namespaces of its own for network, mounts and processes, in which the lab's
//! daemons run, and the means to start commands there, to end everything, and to see what is left.
//!
//! ```text
//! unshare --net --mount --pid --fork --kill-child     the keeper, a process of the host
//!   └─ lab sandbox-init ID STATE                      process 1 inside (init.rs)
//!        └─ daemons, shims, pods
//! ```
//!
//! Whether a lab runs is read from /proc and never from a file, so no kill at whatever point can make the
//! two disagree. The kernel ends everything inside when process 1 ends, and with the last process go the
//! mounts, the links and the rules; only cgroups are the host's and are removed by hand.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::checkout::Checkout;
use crate::run::{own_program, tail};
use crate::wait::{self, Seen};

pub mod init;

/// The node's address: on a bridge of its own, since endpoints refuse loopback addresses.
pub const NODE_ADDRESS: &str = "10.200.0.1";

/// The hidden subcommand that process 1 runs, and the mark by which a lab's processes are found.
pub const INIT_COMMAND: &str = "sandbox-init";

/// Folders inside which neither the checkout nor the cache may be: the sandbox covers them.
const COVERED: &[&str] = &["/run", "/var/run", "/etc", "/var/lib", "/var/log"];

/// The namespaces of one checkout's lab, running or not.
#[derive(Debug, Clone)]
pub struct Sandbox {
    checkout: Checkout,
}

/// The processes that keep a sandbox alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Process 1 of the inside, by its number outside.
    pub init: Pid,
    /// Its parent, `unshare`; gone when someone killed it a moment ago.
    pub keeper: Option<Pid>,
}

impl Sandbox {
    /// The sandbox of this checkout.
    #[must_use]
    pub fn of(checkout: &Checkout) -> Self {
        Self { checkout: checkout.clone() }
    }

    /// The processes that keep it alive, if it runs.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn running(&self) -> Result<Option<Running>> {
        let (mut init, mut keeper) = (None, None);
        for (pid, words) in processes()? {
            if !self.is_ours(&words) {
                continue;
            }
            match words[0].rsplit('/').next() {
                Some("unshare") => keeper = keeper.or(Some(pid)),
                Some("setsid") => {}
                _ => init = Some(pid),
            }
        }
        Ok(init.map(|init| Running { init, keeper }))
    }

    /// Starts process 1 and waits until mounts and network are set up.
    ///
    /// # Errors
    /// When the namespaces cannot be made, or the checkout lies where the sandbox would cover it.
    pub fn start(&self) -> Result<Running> {
        let state = self.checkout.state();
        let cache = crate::cache::Cache::open()?;
        for (what, path) in [("checkout", self.checkout.root()), ("cache", cache.root())] {
            if let Some(covered) = COVERED.iter().find(|folder| path.starts_with(folder)) {
                bail!("the {what} is {}, but inside the lab {covered} is private: put it elsewhere", path.display());
            }
        }
        for folder in [&state, &self.checkout.logs()] {
            fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        }
        let ready = state.join("sandbox-ready");
        remove_file(&ready)?;
        make_cgroups(&self.checkout.cgroup())?;
        let log_path = self.checkout.logs().join("sandbox.log");
        let log = File::create(&log_path).with_context(|| format!("{} cannot be made", log_path.display()))?;
        let program = own_program()?;
        // A session of its own, so that Ctrl-C at the terminal of `up` does not reach it later.
        let mut command = Command::new("setsid");
        command.args(["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command.arg(program).arg(INIT_COMMAND).arg(self.checkout.id()).arg(&state);
        command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut keeper = command.spawn().context("`setsid unshare` cannot be started: install util-linux")?;
        wait::until("the sandbox is set up", Duration::from_secs(20), || {
            if let Some(status) = keeper.try_wait()? {
                let words = fs::read_to_string(&log_path).unwrap_or_default();
                bail!("the sandbox ended with {status}: {}\n`cargo lab doctor` may know more", tail(&words, 5));
            }
            if !ready.exists() {
                return Ok(Seen::NotYet("no word from its process 1".to_owned()));
            }
            Ok(self.running()?.map_or_else(|| Seen::NotYet("process 1 is not in /proc".to_owned()), Seen::Done))
        })
    }

    /// A command that will run inside, in the caller's folder.
    ///
    /// # Errors
    /// When the sandbox does not run.
    pub fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let Some(running) = self.running()? else {
            bail!("no lab is running in {}: `cargo lab up` starts one", self.checkout.root().display());
        };
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target"]).arg(running.init.to_string());
        // Entering a mount namespace forgets the current folder.
        command.args(["--", "env", "-C"]).arg(here);
        // A proxy that the caller uses for the world outside is not to be asked for the inside.
        command.args(["NO_PROXY=*", "no_proxy=*"]).arg(program);
        Ok(command)
    }

    /// A command with the sandbox's network and files that is a child of the caller all the same: ending it ends
    /// it, and not only what entered.
    ///
    /// # Errors
    /// When no lab runs.
    pub fn beside(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let Some(running) = self.running()? else {
            bail!("no lab is running in {}: `cargo lab up` starts one", self.checkout.root().display());
        };
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target"]).arg(running.init.to_string()).arg("--").arg(program);
        Ok(command)
    }

    /// Starts a daemon inside, detached: its parent is process 1, its words go to its log.
    ///
    /// # Errors
    /// When the sandbox does not run or the daemon's file is not there.
    pub fn spawn(&self, name: &str, program: &Path, args: &[String], environment: &[(String, String)]) -> Result<()> {
        if !program.is_file() {
            bail!("{name} cannot be started: {} is not there", program.display());
        }
        let log_path = self.checkout.logs().join(format!("{name}.log"));
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("{} cannot be written", log_path.display()))?;
        let mut command = self.enter("setsid")?;
        // Nothing of the caller's environment: etcd, for one, takes any ETCD_… variable for a setting.
        command.args(["--fork", "env", "-i", "HOME=/root"]);
        command.args(environment.iter().map(|(key, value)| format!("{key}={value}")));
        command.arg(program).args(args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status().with_context(|| format!("{name} cannot be started"))?;
        if !status.success() {
            bail!("{name} cannot be started ({status}); see {}", log_path.display());
        }
        Ok(())
    }

    /// Whether a daemon with this file runs inside.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn runs(&self, program: &Path) -> Result<Option<Pid>> {
        let Some(running) = self.running()? else { return Ok(None) };
        let inside = namespace(running.init, "pid");
        let program = program.to_string_lossy();
        Ok(processes()?
            .into_iter()
            .find(|(pid, words)| words[0] == program && namespace(*pid, "pid") == inside)
            .map(|(pid, _)| pid))
    }

    /// Ends everything inside and removes what the kernel does not remove by itself. Also right when
    /// nothing runs, and after any kill at any point.
    ///
    /// # Errors
    /// When something does not go away.
    pub fn stop(&self) -> Result<()> {
        let mut known = BTreeMap::new();
        wait::until("the lab's processes end", Duration::from_secs(30), || {
            for (pid, name) in self.processes()? {
                match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => known.insert(pid, name),
                    Err(error) => bail!("process {pid} ({name}) cannot be ended: {error}"),
                };
            }
            known.retain(|pid, _| !has_ended(*pid));
            Ok(if known.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("{known:?}")) })
        })?;
        remove_cgroups(&self.checkout.cgroup())?;
        let state = self.checkout.state();
        if state.exists() {
            fs::remove_dir_all(&state).with_context(|| format!("{} cannot be removed", state.display()))?;
        }
        Ok(())
    }

    /// The keeper and process 1, and every process of the host that is in one of the sandbox's namespaces.
    fn processes(&self) -> Result<Vec<(Pid, String)>> {
        let all = processes()?;
        let init = self.running()?.map(|running| namespace(running.init, "net"));
        let ours = Pid::this();
        let own = namespace(ours, "net");
        let found = all.into_iter().filter(|(pid, words)| {
            let inside =
                init.as_ref().is_some_and(|net| net.is_some() && *net != own && namespace(*pid, "net") == *net);
            *pid != ours && (self.is_ours(words) || inside)
        });
        Ok(found.map(|(pid, words)| (pid, words[0].clone())).collect())
    }

    fn is_ours(&self, words: &[String]) -> bool {
        words.windows(2).any(|pair| pair[0] == INIT_COMMAND && pair[1] == self.checkout.id())
    }
}

/// Every process that has a command line, with the line. Those that ended but were not collected have none.
fn processes() -> Result<Vec<(Pid, Vec<String>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc cannot be read")?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since the folder was read.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        let words: Vec<String> = line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        if !words[0].is_empty() {
            found.push((Pid::from_raw(pid), words));
        }
    }
    Ok(found)
}

/// Whether a process has let go of everything that it had. What is not collected yet counts as ended once
/// its last thread is: who collects it may never do so, and it holds nothing any more.
fn has_ended(pid: Pid) -> bool {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
    let is_zombie = status.lines().any(|line| line.starts_with("State:\tZ"));
    let threads = fs::read_dir(folder.join("task")).map_or(0, Iterator::count);
    threads == 0 || (is_zombie && threads == 1)
}

/// The name of one of a process's namespaces, `net:[4026531840]`.
fn namespace(pid: Pid, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// The roots of the host's cgroup hierarchies: many with version 1, one with version 2.
#[must_use]
pub fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_cgroup = |kind: &str| kind == "cgroup" || kind == "cgroup2";
    let mut roots = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if words.len() > 2 && is_cgroup(words[2]) {
            roots.push(PathBuf::from(words[1]));
        }
    }
    roots
}

fn make_cgroups(name: &str) -> Result<()> {
    for root in cgroup_roots() {
        let group = root.join(name);
        fs::create_dir_all(&group).with_context(|| format!("{} cannot be made", group.display()))?;
        // Version 1: an empty cpuset takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(root.join(file))
                && root.join("cgroup.procs").exists()
                && group.join(file).exists()
            {
                let _ = fs::write(group.join(file), value);
            }
        }
    }
    Ok(())
}

fn remove_cgroups(name: &str) -> Result<()> {
    wait::until("the lab's cgroups are removed", Duration::from_secs(20), || {
        let mut left = String::new();
        for root in cgroup_roots() {
            let group = root.join(name);
            // The kernel lets go of a group a moment after its last process ended.
            if group.exists() && !remove_group(&group) {
                left = group.display().to_string();
            }
        }
        Ok(if left.is_empty() { Seen::Done(()) } else { Seen::NotYet(left) })
    })
}

/// Removes a group and those below it, deepest first: their files are not files and cannot be deleted.
fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
