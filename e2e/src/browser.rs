//! In: the address of a page. Out: what a real browser makes of it. Debian's headless Chromium, unpacked into the
//! cache with the libraries that this machine lacks; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key, files_below};
use crate::kubectl::Kubectl;
use crate::report::Report;
use crate::run::{check, finish};

/// The browser, and a font to write with.
const PACKAGES: &[&str] = &["chromium-headless-shell", "fonts-dejavu-core"];

/// For pages, in milliseconds of their own time, which does not pass while they wait for an answer.
const BUDGET: &str = "--virtual-time-budget=1500";

/// For the whole of a look, in seconds; it takes one.
const PATIENCE: &str = "20";

/// A browser in the cache.
#[derive(Debug)]
pub struct Browser {
    root: PathBuf,
}

impl Browser {
    /// Finds it, or fetches it.
    ///
    /// # Errors
    /// When this is no Debian, or what its package manager says.
    pub fn get(report: &Report) -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let release: String =
            release.lines().filter(|line| line.starts_with("ID=") || line.starts_with("VERSION_ID=")).collect();
        let key = Key::new("browser").with(PACKAGES.join(" ")).with(release).with(FONTS);
        let cache = Cache::open()?;
        let place = cache.path("parts", "browser", &key);
        if place.is_dir() {
            return Ok(Self { root: place });
        }
        let root =
            report.step("unpack a browser", || cache.get("parts", "browser", &key, |folder| fill(folder, &place)))?;
        Ok(Self { root })
    }

    /// What a page has become once its scripts have run: its elements as text.
    ///
    /// # Errors
    /// What the browser says.
    pub fn dom(&self, kubectl: &Kubectl, url: &str) -> Result<String> {
        check(self.command(kubectl)?.args(["--dump-dom", url]))
    }

    /// Paints a page into a PNG file.
    ///
    /// # Errors
    /// What the browser says.
    pub fn picture(&self, kubectl: &Kubectl, url: &str, size: (u32, u32), file: &Path) -> Result<()> {
        let mut command = self.command(kubectl)?;
        command.arg(format!("--screenshot={}", file.display())).arg(format!("--window-size={},{}", size.0, size.1));
        check(command.arg(url)).map(drop)
    }

    /// Where the lab's loopback is.
    fn command(&self, kubectl: &Kubectl) -> Result<Command> {
        let root = self.root.display();
        let libraries = format!("{root}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let mut command = kubectl.inside("env")?;
        command
            .arg(format!("LD_LIBRARY_PATH={libraries}:{libraries}/pulseaudio"))
            .arg(format!("FONTCONFIG_FILE={root}/fonts.conf"))
            // One that hangs must not hang the lab.
            .args(["timeout", PATIENCE])
            .arg(format!("{root}/usr/lib/chromium/chromium-headless-shell"))
            // Its own sandbox is no use within the lab's, where it is root.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .args(["--no-first-run", "--disable-background-networking", BUDGET]);
        Ok(command)
    }
}

/// The fonts that were unpacked beside it, and no others.
const FONTS: &str = r#"<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>ROOT/usr/share/fonts</dir><cachedir>ROOT/fonts-cache</cachedir></fontconfig>
"#;

/// Fetches the packages with all that they need and this machine does not have, and unpacks them.
fn fill(folder: &Path, place: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("archives/partial"))?;
    let fetch = || {
        let mut command = Command::new("apt-get");
        command.args(["--quiet", "--yes", "--no-install-recommends", "--download-only", "--reinstall"]);
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o"]);
        command.arg(format!("Dir::Cache::archives={}/", folder.join("archives").display()));
        command.arg("install").args(PACKAGES);
        command
    };
    let first = finish(&mut fetch()).context("the browser is Debian's chromium-headless-shell")?;
    if !first.status.success() {
        check(Command::new("apt-get").args(["--quiet", "update"]))?;
        check(&mut fetch()).context("the browser is Debian's chromium-headless-shell")?;
    }
    for archive in
        files_below(&folder.join("archives"))?.iter().filter(|file| file.extension().is_some_and(|end| end == "deb"))
    {
        check(Command::new("dpkg").arg("-x").arg(archive).arg(folder))?;
    }
    fs::remove_dir_all(folder.join("archives"))?;
    fs::write(folder.join("fonts.conf"), FONTS.replace("ROOT", &place.display().to_string()))?;
    Ok(())
}
