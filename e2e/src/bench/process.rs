//! A process that is measured: started, looked at through /proc, ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::run::tail;

/// Clock ticks a second in /proc; the kernel's ABI, whatever its own clock does.
const TICKS: f64 = 100.0;

/// A process that ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: std::path::PathBuf,
    words: Option<BufReader<ChildStdout>>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// Seconds of CPU, user and system.
    pub cpu_seconds: f64,
    /// Memory that it holds now, in MiB.
    pub rss_mib: f64,
    /// Most that it ever held, in MiB.
    pub peak_mib: f64,
}

impl Process {
    /// Starts it; what it writes goes to a file of its name in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let (log, file) = log_of(name, folder)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, name: name.to_owned(), log, words: None })
    }

    /// As [`Process::start`], but its standard output is read line by line ([`Process::line`]).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn talking(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let (log, file) = log_of(name, folder)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn();
        let mut child = child.with_context(|| format!("{name} cannot be started"))?;
        let words = child.stdout.take().map(BufReader::new);
        Ok(Self { child, name: name.to_owned(), log, words })
    }

    /// The next line that it prints, which is JSON. Waits for it.
    ///
    /// # Errors
    /// When it ends instead, with its last words.
    pub fn line(&mut self) -> Result<Value> {
        let words = self.words.as_mut().with_context(|| format!("{} was not asked to talk", self.name))?;
        let mut line = String::new();
        words.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{} ended: {}", self.name, self.last_words());
        serde_json::from_str(&line).with_context(|| format!("{} said: {line}", self.name))
    }

    /// What it wrote last.
    #[must_use]
    pub fn last_words(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default(), 8)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When it ended, with its last words.
    pub fn lives(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} ended: {}", self.name, self.last_words());
        Ok(())
    }

    /// What it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage> {
        let folder = format!("/proc/{}", self.child.id());
        let stat = fs::read_to_string(format!("{folder}/stat"));
        let stat = stat.with_context(|| format!("{} has ended: {}", self.name, self.last_words()))?;
        let status = fs::read_to_string(format!("{folder}/status"))?;
        usage(&stat, &status).with_context(|| format!("{folder} does not read as expected"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // As hard as can be: what it leaves behind is part of what is measured, and its data are thrown away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(name: &str, folder: &Path) -> Result<(std::path::PathBuf, File)> {
    let log = folder.join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| format!("{} cannot be made", log.display()))?;
    Ok((log, file))
}

fn usage(stat: &str, status: &str) -> Option<Usage> {
    // The name before them may hold anything but ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    let mib = |key: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
    };
    Some(Usage { cpu_seconds: ticks / TICKS, rss_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_what_it_used_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 100 1000 10 1";
        let seen = usage(stat, "Name:\ta\nVmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\n").unwrap();
        assert!((seen.cpu_seconds - 2.0).abs() < 1e-9 && (seen.rss_mib - 2.0).abs() < 1e-9);
        assert!((seen.peak_mib - 4.0).abs() < 1e-9);
        assert!(usage("7 (a) S", "").is_none());
    }

    #[test]
    fn one_that_ends_says_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        let mut process =
            Process::talking("sh", folder.path(), shell.args(["-c", "echo '{}'; echo over >&2"])).unwrap();
        assert_eq!(process.line().unwrap(), serde_json::json!({}));
        assert!(process.line().unwrap_err().to_string().contains("ended"));
    }
}
