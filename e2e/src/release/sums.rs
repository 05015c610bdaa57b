//! The sums of all files of a folder, in the form that `sha256sum --check` reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::run::check;

/// The file that holds them.
pub(super) const FILE: &str = "checksums.txt";

/// A file's name, and its SHA-256 in hexadecimal digits.
pub(super) type Sums = BTreeMap<String, String>;

/// The sum of one file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn of(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// Writes the sums of everything in the folder, and has them checked as a user would.
///
/// # Errors
/// When a file cannot be read, or is not what its sum says.
pub(super) fn write(folder: &Path) -> Result<()> {
    let mut sums = Sums::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a file's name is no text")?;
        if name != FILE {
            sums.insert(name.to_owned(), of(&path)?);
        }
    }
    let mut text = String::new();
    for (name, sum) in &sums {
        writeln!(text, "{sum}  {name}")?;
    }
    fs::write(folder.join(FILE), text).with_context(|| format!("{FILE} cannot be written"))?;
    check(Command::new("sha256sum").current_dir(folder).args(["--check", "--strict", "--quiet", FILE])).map(drop)
}

/// The sums that a folder has, if it has any.
pub(super) fn read(folder: &Path) -> Option<Sums> {
    let text = fs::read_to_string(folder.join(FILE)).ok()?;
    Some(
        text.lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
            .collect(),
    )
}

/// What two runs made alike, and what not.
pub(super) fn compared(before: &Sums, now: &Sums) -> String {
    let both: Vec<&String> = now.keys().filter(|name| before.contains_key(*name)).collect();
    let differ: Vec<&str> =
        both.iter().filter(|name| before.get(**name) != now.get(**name)).map(|name| name.as_str()).collect();
    let which = if differ.is_empty() { String::new() } else { format!("; not {}", differ.join(", ")) };
    format!(
        "as before  {} of {} files are what the run before this one made{which}",
        both.len() - differ.len(),
        now.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_checked_and_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b"), "b").unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        write(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.starts_with("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n"), "{text}");
        let sums = read(folder.path()).unwrap();
        assert_eq!(sums.len(), 2);
        // A second time the sums are not among what they are of.
        write(folder.path()).unwrap();
        assert_eq!(read(folder.path()), Some(sums));
    }

    #[test]
    fn what_two_runs_made_otherwise_is_named() {
        let sums = |of: &[(&str, &str)]| {
            of.iter().map(|(name, sum)| ((*name).to_owned(), (*sum).to_owned())).collect::<Sums>()
        };
        let (before, now) =
            (sums(&[("a", "1"), ("b", "2"), ("gone", "3")]), sums(&[("a", "1"), ("b", "3"), ("new", "4")]));
        assert!(compared(&before, &now).ends_with("1 of 3 files are what the run before this one made; not b"));
        assert!(compared(&now, &now).ends_with("3 of 3 files are what the run before this one made"));
    }
}
