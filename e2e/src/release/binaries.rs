//! The program for each machine that it is released for. In: a target, and a folder of binaries that were built
//! elsewhere. Out: the binary: of the right kind, static where that is promised, and without a path of the machine
//! that built it.
//!
//! For Linux it is built here, whatever this machine is, against musl and by Zig as the C compiler and linker. For
//! macOS the frameworks of its SDK are needed, so the release workflow builds on macOS itself.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Release;
use super::tools;
use crate::run::{check, of_no_package};

/// The program's file.
pub(super) const PROGRAM: &str = "resilience-operator";

/// What it is released for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As rustc names it.
    pub(super) triple: &'static str,
    /// As Go names it, and with it krew and images.
    pub(super) os: &'static str,
    /// Likewise.
    pub(super) arch: &'static str,
}

/// All of them; `.github/workflows/release.yml` has those of macOS.
pub(super) const TARGETS: &[Target] = &[
    Target { triple: "x86_64-unknown-linux-musl", os: LINUX, arch: "amd64" },
    Target { triple: "aarch64-unknown-linux-musl", os: LINUX, arch: "arm64" },
    Target { triple: "x86_64-apple-darwin", os: "darwin", arch: "amd64" },
    Target { triple: "aarch64-apple-darwin", os: "darwin", arch: "arm64" },
];

pub(super) const LINUX: &str = "linux";

impl Target {
    /// The name of its archive.
    pub(super) fn archive(&self, version: &str) -> String {
        format!("{PROGRAM}_{version}_{}_{}.tar.gz", self.os, self.arch)
    }

    /// Whether its binary can be built here, or was given.
    pub(super) fn is_to_be_had(&self, given: Option<&Path>) -> bool {
        self.os == LINUX || given.is_some_and(|folder| self.given(folder).is_file())
    }

    /// Why it is not.
    pub(super) fn not_here(&self) -> String {
        format!(
            "{} {}: linking needs macOS's SDK; the release workflow builds it on macOS (--binaries FOLDER takes \
             FOLDER/{}/{PROGRAM})",
            self.os, self.arch, self.triple
        )
    }

    fn given(&self, folder: &Path) -> PathBuf {
        folder.join(self.triple).join(PROGRAM)
    }

    /// Whether this very machine can run it: a musl binary runs on any Linux.
    pub(super) fn runs_here(&self) -> bool {
        self.os == std::env::consts::OS && self.triple.starts_with(std::env::consts::ARCH)
    }
}

/// Its binary, as given or built, and judged.
///
/// # Errors
/// When it does not build, or is not what it should be.
pub(super) fn get(release: &Release<'_>, target: &Target, given: Option<&Path>) -> Result<PathBuf> {
    let binary = match given.map(|folder| target.given(folder)).filter(|file| file.is_file()) {
        Some(file) => file,
        None => build(release, target)?,
    };
    let bytes = fs::read(&binary).with_context(|| format!("{} cannot be read", binary.display()))?;
    let judged = kind_of(&bytes).and_then(|kind| is_of(target, &kind)).and_then(|()| tells_no_path(release, &bytes));
    judged.with_context(|| format!("{} is no binary for {}", binary.display(), target.triple))?;
    if target.runs_here() {
        let said = check(Command::new(&binary).arg("--version"))?;
        ensure!(
            said.split_whitespace().last() == Some(release.version),
            "{} says that it is {}, not {}",
            binary.display(),
            said.trim(),
            release.version
        );
    }
    Ok(binary)
}

fn build(release: &Release<'_>, target: &Target) -> Result<PathBuf> {
    let root = release.checkout.root();
    let zig = tools::zig(release.checkout, release.report)?;
    let zigbuild = tools::zigbuild(release.checkout, release.report)?;
    let folder = super::dist(release.checkout).join("build");
    release.report.step(&format!("build for {} {}", target.os, target.arch), || {
        let mut rustup = Command::new("rustup");
        check(rustup.current_dir(root).args(["target", "add", target.triple]))
            .with_context(|| format!("rustup has no standard library for {}", target.triple))?;
        let mut command = Command::new(&zigbuild);
        of_no_package(&mut command).current_dir(root).args([
            "zigbuild",
            "--locked",
            "--release",
            "--target",
            target.triple,
        ]);
        command.args(["--package", PROGRAM, "--bin", PROGRAM, "--target-dir"]).arg(&folder);
        command.env("CARGO_ZIGBUILD_ZIG_PATH", &zig);
        // What Zig and its wrapper keep for themselves, beside what cargo keeps.
        command.env("CARGO_ZIGBUILD_CACHE_DIR", folder.join("zigbuild"));
        command.env("ZIG_GLOBAL_CACHE_DIR", folder.join("zig")).env("ZIG_LOCAL_CACHE_DIR", folder.join("zig"));
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags(root)?);
        command.env("CARGO_INCREMENTAL", "0").env("SOURCE_DATE_EPOCH", release.time.to_string());
        check(&mut command).context("the program does not build")?;
        Ok(())
    })?;
    Ok(folder.join(target.triple).join("release").join(PROGRAM))
}

/// Where sources lie is left out of the binary: it is nobody's business, and differs from machine to machine.
fn flags(root: &Path) -> Result<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut instead = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    };
    instead(root, "/resilience");
    for sources in registries()? {
        instead(&sources, "/registry");
    }
    Ok(flags.join(std::ffi::OsStr::new("\u{1f}")))
}

/// The folders in which cargo keeps packages' sources, one for each registry.
fn registries() -> Result<Vec<PathBuf>> {
    let home = home().context("neither CARGO_HOME nor HOME is set")?;
    let entries = fs::read_dir(home.join("registry/src")).into_iter().flatten();
    Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
}

fn home() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("CARGO_HOME").or_else(|| variable("HOME").map(|home| home.join(".cargo")))
}

/// No path of the checkout or of cargo's own folder is in it. One that was built elsewhere cannot have them.
fn tells_no_path(release: &Release<'_>, bytes: &[u8]) -> Result<()> {
    for path in [Some(release.checkout.root().to_owned()), home()].into_iter().flatten() {
        let path = path.as_os_str().as_encoded_bytes();
        // A short one, such as `/src`, is part of many words.
        let is_there = path.len() > 8 && bytes.windows(path.len()).any(|window| window == path);
        ensure!(!is_there, "it tells the path {}", String::from_utf8_lossy(path));
    }
    Ok(())
}

/// What kind of file a binary is, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Of Linux: for which machine, and whether the system's loader has to load it.
    Elf { machine: u16, is_static: bool },
    /// Of macOS: for which machine.
    MachO { cpu: u32 },
}

/// `EM_X86_64` and `EM_AARCH64` of the ELF specification.
const ELF_MACHINES: [(&str, u16); 2] = [("amd64", 62), ("arm64", 183)];

/// `CPU_TYPE_X86_64` and `CPU_TYPE_ARM64` of Darwin's `machine.h`.
const MACH_O_CPUS: [(&str, u32); 2] = [("amd64", 0x0100_0007), ("arm64", 0x0100_000c)];

/// Reads the header of a 64-bit, little-endian executable.
fn kind_of(bytes: &[u8]) -> Result<Kind> {
    let at = |offset: usize, length: usize| -> Result<u64> {
        let part = bytes.get(offset..offset + length).context("it ends within its header")?;
        Ok(part.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    };
    if bytes.starts_with(&[0xcf, 0xfa, 0xed, 0xfe]) {
        return Ok(Kind::MachO { cpu: u32::try_from(at(4, 4)?)? });
    }
    ensure!(bytes.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]), "it is neither a 64-bit ELF nor a 64-bit Mach-O file");
    let (table, size, count) = (usize::try_from(at(32, 8)?)?, usize::try_from(at(54, 2)?)?, at(56, 2)?);
    let mut is_static = true;
    for number in 0..usize::try_from(count)? {
        // PT_INTERP names the loader.
        is_static &= at(table + number * size, 4)? != 3;
    }
    Ok(Kind::Elf { machine: u16::try_from(at(18, 2)?)?, is_static })
}

fn is_of(target: &Target, kind: &Kind) -> Result<()> {
    let of = |name: &str| name == target.arch;
    match kind {
        Kind::Elf { machine, is_static } => {
            ensure!(target.os == LINUX, "it is an ELF file");
            let right = ELF_MACHINES.iter().any(|(name, number)| of(name) && number == machine);
            ensure!(right, "it is for the machine {machine} of ELF");
            ensure!(is_static, "it is not static: it names a loader");
        }
        Kind::MachO { cpu } => {
            ensure!(target.os == "darwin", "it is a Mach-O file");
            ensure!(MACH_O_CPUS.iter().any(|(name, number)| of(name) && number == cpu), "it is for the CPU {cpu:#x}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(os: &str, arch: &str) -> &'static Target {
        TARGETS.iter().find(|target| target.os == os && target.arch == arch).unwrap()
    }

    /// An ELF file of a header and one entry of its table.
    fn elf(machine: u16, entry: u32) -> Vec<u8> {
        let mut bytes = vec![0; 120];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&entry.to_le_bytes());
        bytes
    }

    #[test]
    fn a_binary_of_another_machine_or_one_that_is_not_static_is_refused() {
        let judge = |bytes: &[u8], os: &str, arch: &str| {
            let judged = kind_of(bytes).and_then(|kind| is_of(target(os, arch), &kind));
            judged.map_err(|error| error.to_string())
        };
        assert_eq!(judge(&elf(62, 1), LINUX, "amd64"), Ok(()));
        assert_eq!(judge(&elf(183, 1), LINUX, "arm64"), Ok(()));
        let mut mach_o = vec![0xcf, 0xfa, 0xed, 0xfe, 12, 0, 0, 1];
        assert_eq!(judge(&mach_o, "darwin", "arm64"), Ok(()));
        for (bytes, os, arch, words) in [
            (elf(62, 1), LINUX, "arm64", "machine 62"),
            (elf(62, 3), LINUX, "amd64", "not static"),
            (elf(62, 1), "darwin", "amd64", "ELF"),
            (elf(62, 1)[..60].to_vec(), LINUX, "amd64", "ends within"),
            (b"#!/bin/sh\n".to_vec(), LINUX, "amd64", "neither"),
            (std::mem::take(&mut mach_o), "darwin", "amd64", "CPU 0x100000c"),
        ] {
            let said = judge(&bytes, os, arch).unwrap_err();
            assert!(said.contains(words), "{said} should say {words}");
        }
    }

    #[test]
    fn this_very_program_is_read_as_one_of_this_machine() {
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        let Kind::Elf { machine, is_static } = kind_of(&bytes).unwrap() else { panic!("it is no ELF file") };
        assert!(!is_static && ELF_MACHINES.iter().any(|(_, number)| *number == machine));
    }

    #[test]
    fn the_workflow_builds_each_target_that_is_not_built_here() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workflow = fs::read_to_string(root.join(".github/workflows/release.yml")).unwrap();
        for target in TARGETS.iter().filter(|target| !target.is_to_be_had(None)) {
            assert!(workflow.contains(&format!("target: {}", target.triple)), "{} is built nowhere", target.triple);
        }
    }
}
