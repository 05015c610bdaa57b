//! In: the host at one moment. Out: everything on it that a lab could leave behind, so that two moments can
//! be compared. What another checkout's lab does meanwhile is not counted.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::run::{finish, own_program};
use crate::sandbox::{INIT_COMMAND, cgroup_roots};

/// Folders of the host in which daemons like to leave things.
const FOLDERS: &[&str] = &[
    "/run",
    "/etc",
    "/etc/cni",
    "/var/lib",
    "/var/log",
    "/var/lib/cni",
    "/opt",
    "/usr/libexec",
    "/dev/shm",
    "/dev/mqueue",
];

/// The host's own kernel settings that a kubelet would change.
const SETTINGS: &[&str] =
    &["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"];

/// One line for each thing there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Looks at processes, namespaces, mounts, links, nft rules, cgroups, folders and kernel settings.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn take(checkout: &Checkout) -> Result<Self> {
        let mut lines = BTreeSet::new();
        processes(checkout, &mut lines)?;
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            lines.insert(format!("mount {point}"));
        }
        names(Path::new("/sys/class/net"), "link", &mut lines);
        rules(&mut lines);
        for root in cgroup_roots() {
            groups(&root, checkout, &mut lines);
        }
        for folder in FOLDERS {
            names(Path::new(folder), &format!("in {folder}"), &mut lines);
        }
        for setting in SETTINGS {
            let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap_or_default();
            lines.insert(format!("setting {setting} = {}", value.trim()));
        }
        Ok(Self(lines))
    }

    /// What is there now and was not there before.
    #[must_use]
    pub fn added_to(&self, before: &Self) -> Self {
        Self(self.0.difference(&before.0).cloned().collect())
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has something of this kind: `process`, `namespace`, `mount`, `link`, `rule`, `cgroup`.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|line| line.starts_with(kind))
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(formatter, "  {line}"))
    }
}

/// Namespaces that some process is in, and processes of the lab's programs.
fn processes(checkout: &Checkout, lines: &mut BTreeSet<String>) -> Result<()> {
    let cache = Cache::open()?;
    let all: Vec<PathBuf> = fs::read_dir("/proc")?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    // What has ended and only waits to be collected has no mount namespace any more.
    let all: Vec<PathBuf> = all.into_iter().filter(|process| namespace(process, "mnt").is_some()).collect();
    let foreign = of_other_labs(checkout, &all);
    for process in all.iter().filter(|process| !foreign.contains(*process)) {
        for kind in ["mnt", "net", "pid"] {
            if let Some(name) = namespace(process, kind) {
                lines.insert(format!("namespace {}", name.display()));
            }
        }
        let program = fs::read_link(process.join("exe")).unwrap_or_default();
        if program.starts_with(cache.root()) || is_init(process, |id| id == checkout.id()) {
            lines.insert(format!("process {} {}", process.display(), program.display()));
        }
    }
    Ok(())
}

/// The processes of other checkouts' labs: their keepers, all that descend from them, and all in their network.
fn of_other_labs(checkout: &Checkout, all: &[PathBuf]) -> BTreeSet<PathBuf> {
    let is_other = |process: &&PathBuf| is_init(process, |id| id != checkout.id());
    let mut foreign: BTreeSet<PathBuf> = all.iter().filter(is_other).cloned().collect();
    let host = namespace(Path::new("/proc/self"), "net");
    let networks: BTreeSet<_> = foreign.iter().filter_map(|process| namespace(process, "net")).collect();
    foreign.extend(
        all.iter()
            .filter(|process| {
                namespace(process, "net").is_some_and(|net| Some(&net) != host.as_ref() && networks.contains(&net))
            })
            .cloned(),
    );
    loop {
        let is_child = |process: &&PathBuf| parent(process).is_some_and(|parent| foreign.contains(&parent));
        let more: Vec<PathBuf> =
            all.iter().filter(|process| !foreign.contains(*process)).filter(is_child).cloned().collect();
        if more.is_empty() {
            return foreign;
        }
        foreign.extend(more);
    }
}

fn parent(process: &Path) -> Option<PathBuf> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(Path::new("/proc").join(pid.trim()))
}

/// Whether this is a keeper or a process 1 of a lab with such an id.
fn is_init(process: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.windows(2).any(|pair| pair[0] == INIT_COMMAND.as_bytes() && wanted(&String::from_utf8_lossy(pair[1])))
}

fn namespace(process: &Path, kind: &str) -> Option<PathBuf> {
    fs::read_link(process.join("ns").join(kind)).ok()
}

fn names(folder: &Path, what: &str, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        lines.insert(format!("{what} {}", entry.file_name().to_string_lossy()));
    }
}

fn rules(lines: &mut BTreeSet<String>) {
    let Some(nft) = crate::doctor::find_nft() else { return };
    let Ok(listed) = finish(Command::new(nft).args(["list", "ruleset"])) else { return };
    listed.stdout.lines().filter(|line| !line.contains("counter")).for_each(|line| {
        lines.insert(format!("rule {}", line.trim()));
    });
}

fn groups(group: &Path, checkout: &Checkout, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let foreign =
            name.to_string_lossy().starts_with("resilience-lab-") && !name.to_string_lossy().contains(checkout.id());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !foreign {
            lines.insert(format!("cgroup {}", entry.path().display()));
            groups(&entry.path(), checkout, lines);
        }
    }
}

/// A checkout made of links to the present one's files, with a state and a lab of its own.
#[derive(Debug)]
pub struct SecondCheckout {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl SecondCheckout {
    /// Makes one. It goes with the value; its lab has to be ended before.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn of(checkout: &Checkout) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("resilience-checkout-").tempdir()?;
        for entry in fs::read_dir(checkout.root())?.filter_map(Result::ok).filter(|entry| entry.file_name() != "target")
        {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name()))?;
        }
        let program = own_program()?;
        Ok(Self { folder, program })
    }

    /// The checkout in it.
    ///
    /// # Errors
    /// When its folder was removed.
    pub fn checkout(&self) -> Result<Checkout> {
        Checkout::at(self.folder.path())
    }

    /// `cargo lab …` as typed there.
    #[must_use]
    pub fn lab(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.folder.path()).env_remove("CARGO_MANIFEST_DIR").args(args);
        command
    }
}

impl Drop for SecondCheckout {
    fn drop(&mut self) {
        // Also on the way out of a failed scenario: the folder goes away, and its lab must not stay.
        if let Err(error) = finish(&mut self.lab(&["down"])) {
            eprintln!("the second checkout's lab could not be ended: {error:#}");
        }
    }
}
