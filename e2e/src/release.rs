//! `cargo lab release`: everything that a tag publishes, but for publishing it. In: a checkout, and the binaries of
//! machines that this one cannot build for. Out: `target/dist/release/` with archives, image, chart, manifests,
//! lists of what is in them, and sums; and a table of it.
//!
//! ```text
//! readiness ─> binaries ─> archive, sbom ─┐
//!                     └──> oci            ├─> krew ─> sums ─> table
//!              manifests: CRD, install, chart ┘
//! ```
//!
//! Nothing here uploads: `.github/workflows/release.yml` does, with what this made.

pub(crate) mod archive;
mod binaries;
mod krew;
mod manifests;
mod notes;
mod oci;
mod readiness;
mod sums;
mod tools;
mod tried;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::checkout::Checkout;
use crate::doctor;
use crate::report::Report;
use crate::run::check;
use crate::supply;
use binaries::{TARGETS, Target};

/// What is to be made.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// Make all of it on this machine, whatever is not ready for a release: that is told
    #[arg(long, conflicts_with = "tag")]
    dry_run: bool,
    /// Make what this tag publishes, or refuse with everything that is not ready; the release workflow says this
    #[arg(long)]
    tag: Option<String>,
    /// Take binaries from here that were built elsewhere, as FOLDER/TARGET/resilience-operator
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// Then try image and manifests on the lab of this checkout, which must be up
    #[arg(long)]
    on_the_lab: bool,
    /// Where it is published from
    #[arg(long, value_name = "OWNER/NAME", env = "GITHUB_REPOSITORY")]
    repository: Option<String>,
}

/// Everything of releases on disk.
fn dist(checkout: &Checkout) -> PathBuf {
    checkout.root().join("target/dist")
}

/// What is published, within what the workflow hands on.
const FILES: &str = "files";

/// What stands in the place of a repository that is not named.
const NO_REPOSITORY: &str = "example/resilience";

/// What all that is made is named after.
struct Release<'a> {
    checkout: &'a Checkout,
    report: &'a Report,
    version: &'static str,
    /// On GitHub, as `OWNER/NAME`.
    repository: &'a str,
    /// The commit.
    revision: String,
    /// When that was made, in seconds since 1970: the time of every file.
    time: u64,
    /// The files that are published.
    folder: PathBuf,
    /// The words that are published with them.
    notes: PathBuf,
    /// What is not.
    work: PathBuf,
}

impl Release<'_> {
    /// The image, with its version as the tag. Its registry knows no capitals.
    fn image(&self) -> String {
        format!("{}:{}", self.image_name(), self.version)
    }

    fn image_name(&self) -> String {
        format!("ghcr.io/{}/resilience-operator", self.owner().to_lowercase())
    }

    fn owner(&self) -> &str {
        self.repository.split('/').next().unwrap_or_default()
    }

    /// Where a file of this release is fetched.
    fn url(&self, file: &str) -> String {
        format!("https://github.com/{}/releases/download/v{}/{file}", self.repository, self.version)
    }

    fn put(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// A folder for what is only needed on the way, empty.
    fn scratch(&self, name: &str) -> Result<PathBuf> {
        empty(&self.work.join(name))
    }
}

fn empty(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder.to_owned())
}

/// Makes it, and prints what was made.
///
/// # Errors
/// When nothing was asked for, when a tag's release is not ready, with all that is not, or what the first step that
/// fails says.
pub fn run(checkout: &Checkout, wanted: &Wanted) -> Result<()> {
    ensure!(
        wanted.dry_run || wanted.tag.is_some(),
        "releases are published by .github/workflows/release.yml when a tag such as v{} is pushed; `cargo lab release \
         --dry-run` makes all of it here, and uploads nothing",
        env!("CARGO_PKG_VERSION")
    );
    let report = Report::new();
    let state = readiness::State::of(checkout, wanted.tag.as_deref(), wanted.repository.as_deref())?;
    let mut faults = state.faults();
    let elsewhere: Vec<&Target> =
        TARGETS.iter().filter(|target| !target.is_to_be_had(wanted.binaries.as_deref())).collect();
    faults.extend(elsewhere.iter().map(|target| target.not_here()));
    if wanted.tag.is_some() && !faults.is_empty() {
        bail!("this is no release yet:\n  {}", faults.join("\n  "));
    }
    for fault in &faults {
        report.note(&format!("  not as for a release: {fault}"));
    }
    let version = env!("CARGO_PKG_VERSION");
    let dist = dist(checkout);
    let place = dist.join("release");
    let before = sums::read(&place.join(FILES));
    let release = Release {
        checkout,
        report: &report,
        version,
        repository: wanted.repository.as_deref().unwrap_or(NO_REPOSITORY),
        revision: git(checkout, &["rev-parse", "HEAD"])?,
        time: git(checkout, &["log", "-1", "--format=%ct"])?.parse().context("git tells no time of HEAD")?,
        notes: empty(&place)?.join("notes.md"),
        folder: empty(&place.join(FILES))?,
        work: dist.join("work"),
    };
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| !elsewhere.contains(target)).collect();
    make(&release, &targets, wanted.binaries.as_deref())?;
    if wanted.on_the_lab {
        doctor::possible()?;
        tried::on_the_lab(&release)?;
    }
    println!("{}", told(&release, &elsewhere, before.as_ref())?);
    Ok(())
}

fn make(release: &Release<'_>, targets: &[&Target], given: Option<&Path>) -> Result<()> {
    let report = release.report;
    let mut built = Vec::new();
    for &target in targets {
        built.push((target, binaries::get(release, target, given)?));
    }
    let license = release.checkout.root().join("LICENSE");
    let mut archives = Vec::new();
    for (target, binary) in &built {
        let name = target.archive(release.version);
        let bytes = archive::of(&[("LICENSE", &license), (binaries::PROGRAM, binary)], release.time)?;
        release.put(&name, &bytes)?;
        archives.push((*target, name.clone()));
        let list = supply::sbom(release.checkout, target.triple, Some(release.time), report)?;
        let text = fs::read(&list).with_context(|| format!("{} cannot be read", list.display()))?;
        release.put(&format!("{}.cdx.json", name.trim_end_matches(".tar.gz")), &text)?;
    }
    report.step("write the image", || oci::write(release, &built))?;
    manifests::write(release)?;
    krew::write(release, &archives)?;
    let changelog = fs::read_to_string(release.checkout.root().join("CHANGELOG.md"))?;
    let notes = notes::of(&changelog, release.version).or_else(|| notes::of(&changelog, notes::UNRELEASED));
    let notes = notes.context("CHANGELOG.md has neither this version nor Unreleased")?;
    let notes = notes::with_whole_links(&notes, release.repository, release.version);
    sums::write(&release.folder)?;
    fs::write(&release.notes, notes).with_context(|| format!("{} cannot be written", release.notes.display()))
}

/// The table: each file with its size and sum, what is missing, and what another run made otherwise.
fn told(release: &Release<'_>, elsewhere: &[&Target], before: Option<&sums::Sums>) -> Result<String> {
    let now = sums::read(&release.folder).context("the sums that were written are not there")?;
    let mut text = String::new();
    writeln!(text, "{:<58} {:>11}  {:<12}", "file", "bytes", "sha256")?;
    for (file, sum) in &now {
        let bytes = fs::metadata(release.folder.join(file))?.len();
        writeln!(text, "{file:<58} {bytes:>11}  {}", &sum[..12])?;
    }
    writeln!(text, "\nimage      {}", release.image())?;
    writeln!(text, "files      {}", release.folder.display())?;
    writeln!(text, "notes      {}", release.notes.display())?;
    for target in elsewhere {
        writeln!(text, "not here   {}", target.not_here())?;
    }
    if let Some(before) = before {
        writeln!(text, "{}", sums::compared(before, &now))?;
    }
    write!(text, "nothing was uploaded")?;
    Ok(text)
}

/// What can be judged of a release before there is one: that the workflow is one, that krew takes the manifest, and
/// that the versions agree.
///
/// # Errors
/// What is wrong.
pub fn judge(checkout: &Checkout, report: &Report) -> Result<()> {
    tools::lint(checkout, report)?;
    krew::judge(checkout, report)?;
    let state = readiness::State::of(checkout, None, Some(NO_REPOSITORY))?;
    let faults = state.faults_of_versions();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn git(checkout: &Checkout, args: &[&str]) -> Result<String> {
    let text = check(Command::new("git").arg("-C").arg(checkout.root()).args(args))?;
    Ok(text.trim_end().to_owned())
}
