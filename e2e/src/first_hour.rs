//! `cargo lab first-hour`: what a new user does. In: this checkout's commit. Out: a fresh clone of it, with a lab of its
//! own, in which every block of the README and of the tutorial was run word for word and in order, up to a policy that
//! is verified; or the page and line of the first block that does not do what the page says of it.
//!
//! ```text
//! pages ─> steps: run, save, or leave (marked on the page, with why)
//!            given ──┐       beside them: what a reader has and the lab does not, such as a cluster of one's own
//!            claims ─┴─> run each in the clone ─> held to what the page shows and says of it
//! ```
//!
//! The clone shares nothing with this checkout but the caches outside of both. It is no part of `cargo lab test`: it
//! builds everything a second time.

mod claims;
mod given;
mod pages;
mod place;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::report::Report;
use claims::CLAIMS;
use given::GIVEN;
use pages::{Act, Step};
use place::Place;

/// What is played, in this order.
const PAGES: &[&str] = &["README.md", "docs/tutorial.md"];

/// How it is to be played.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// Clone to this folder, outside of this checkout, and keep it: a second time only what changed is built
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Only list what would be run, what is left out and why, and what is given
    #[arg(long)]
    list: bool,
}

/// Plays it.
///
/// # Errors
/// What is wrong, with the page and the line.
pub fn run(checkout: &Checkout, wanted: &Wanted) -> Result<()> {
    let steps = steps_of(checkout.root())?;
    if wanted.list {
        println!("{}", listed(&steps));
        return Ok(());
    }
    let report = Report::new();
    let kept = wanted.folder.as_ref().map(|folder| fs::create_dir_all(folder).map(|()| folder.clone())).transpose()?;
    let temporary = tempfile::Builder::new().prefix("resilience-first-hour-").tempdir()?;
    let folder = kept.unwrap_or_else(|| temporary.path().to_owned());
    let place = report.step("clone", || Place::clone_of(checkout, &folder))?;
    // The pages of the commit, should this checkout differ from it.
    let steps = steps_of(place.root())?;
    let played = play(&place, &steps, &report);
    let ended = report.step("end its lab", || Lab::down(place.checkout()));
    played.with_context(|| format!("everything that was printed is in {}", place.log().display()))?;
    ended?;
    println!("{}", listed(&steps));
    println!("\nplayed to its end in {}: the policy is verified", report.elapsed());
    Ok(())
}

fn play(place: &Place, steps: &[Step], report: &Report) -> Result<()> {
    for step in steps {
        let at = format!("{}:{}", step.page, step.line);
        let told = |error: anyhow::Error| error.context(format!("{at}: {}", step.act.shown()));
        for given in given::before(step) {
            report.step(&format!("given: {}", given.what), || (given.make)(place, report)).map_err(told)?;
        }
        match &step.act {
            Act::Leave { .. } => {}
            Act::Save { file, text } => {
                let path = place.root().join(file);
                fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
            }
            Act::Run(line) => {
                report.step(&format!("{at}: {line}"), || claims::hold(place, step, line)).map_err(told)?;
            }
        }
    }
    Ok(())
}

/// What the pages below a folder say to do. Every claim and everything that is given belongs to one of them.
fn steps_of(root: &Path) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for &page in PAGES {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("{page} cannot be read"))?;
        steps.extend(pages::steps(page, &text)?);
    }
    for claim in CLAIMS {
        let is_there = steps.iter().any(|step| claim.is_of(step));
        ensure!(is_there, "{} has no «{}» any more, of which a claim is known", claim.page, claim.command);
    }
    for given in GIVEN {
        let is_there = steps.iter().any(|step| given.is_before(step));
        ensure!(is_there, "{} has no «{}» any more, for which something is given", given.page, given.before);
    }
    Ok(steps)
}

fn listed(steps: &[Step]) -> String {
    let mut lines = Vec::new();
    for step in steps {
        lines.extend(given::before(step).map(|given| format!("        given: {}", given.what)));
        let verb = match &step.act {
            Act::Run(_) => "run  ",
            Act::Save { .. } => "save ",
            Act::Leave { .. } => "leave",
        };
        lines.push(format!("{verb}   {}:{} {}", step.page, step.line, step.act.shown()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_of_the_pages_is_run_or_marked_and_the_last_word_is_a_verified_policy() {
        let steps = steps_of(Checkout::find().unwrap().root()).unwrap();
        let run: Vec<&str> = steps
            .iter()
            .filter_map(|step| match &step.act {
                Act::Run(line) => Some(line.as_str()),
                _ => None,
            })
            .collect();
        assert!(run.len() > 35, "only {} commands are run: {run:?}", run.len());
        let place = |words: &str| run.iter().position(|line| line.contains(words));
        let (verify, verified) = (place("operator verify httpbin"), place("--for=condition=Verified"));
        assert!(verify.is_some() && verify < verified, "nothing waits for the policy to be verified: {run:?}");
        let left = steps.iter().filter(|step| matches!(step.act, Act::Leave { .. })).count();
        assert!(left < 10, "{left} blocks are left out");
    }
}
