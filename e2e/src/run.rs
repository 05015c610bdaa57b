//! In: a command. Out: what it printed, or an error that says which command, how it ended, and its last words.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// How a command ended and what it printed.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output, as text.
    pub stdout: String,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Both streams, for messages and for searching.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end; only a command that cannot be started is an error.
///
/// # Errors
/// When the program cannot be started.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("`{}` cannot be started", line(command)))?;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that must succeed, and gives what it printed.
///
/// # Errors
/// When it cannot be started or ends with another code than 0.
pub fn check(command: &mut Command) -> Result<String> {
    let finished = finish(command)?;
    judge(command, finished)
}

/// As [`check`], with something to read on its standard input.
///
/// # Errors
/// When it cannot be started, does not read its input, or ends with another code than 0.
pub fn check_with_input(command: &mut Command, input: &str) -> Result<String> {
    let finished = finish_with_input(command, input)?;
    judge(command, finished)
}

/// As [`finish`], with something to read on its standard input.
///
/// # Errors
/// When it cannot be started or does not read its input.
pub fn finish_with_input(command: &mut Command, input: &str) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` cannot be started", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends before it has read everything says why in its own words.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("`{}` was lost", line(command)))?;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn judge(command: &Command, finished: Finished) -> Result<String> {
    if !finished.status.success() {
        bail!("`{}` ended with {}:\n{}", line(command), finished.status, tail(&finished.all(), 15));
    }
    Ok(finished.stdout)
}

/// cargo, as a person calls it in this folder.
#[must_use]
pub fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    of_no_package(&mut cargo).current_dir(folder);
    cargo
}

/// `cargo run` tells this very program of its own package. ring's build script looks at such variables: with them it
/// would be built anew, and all that is built on it, whenever a person calls cargo in between.
pub fn of_no_package(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let of_a_package =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if of_a_package {
            command.env_remove(name);
        }
    }
    command
}

/// The command as a person would type it, cut to a readable length.
#[must_use]
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let mut text = words.join(" ");
    if text.chars().count() > 300 {
        text = text.chars().take(300).chain("…".chars()).collect();
    }
    text
}

/// The file of this very program. When it was built again meanwhile, the new one.
///
/// # Errors
/// When the system does not tell.
pub fn own_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("this program's own file is not known")?;
    let text = program.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| program.clone(), PathBuf::from))
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_told_nothing_of_our_own_package() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "the tests do not run under cargo");
        let cargo = cargo(Path::new("/"));
        let is_removed = |name: &str| cargo.get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(is_removed("CARGO_PKG_NAME") && is_removed("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn a_failure_names_the_command_its_code_and_its_last_words() {
        let error =
            check(Command::new("sh").args(["-c", "echo the disk is full >&2; exit 3"])).unwrap_err().to_string();
        assert!(
            error.contains("sh -c") && error.contains("exit status: 3") && error.contains("the disk is full"),
            "{error}"
        );
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(check_with_input(&mut Command::new("cat"), "abc").unwrap(), "abc");
    }
}
