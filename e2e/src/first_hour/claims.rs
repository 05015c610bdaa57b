//! What the pages say of their commands, beyond what they show: how a command ends, and what is in its answer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pages::{Act, Step};
use super::place::Place;
use crate::run::{Finished, tail};
use crate::wait::{self, Seen};

/// What is said of one command.
pub(super) struct Claim {
    pub(super) page: &'static str,
    /// How the command begins.
    pub(super) command: &'static str,
    /// Its exit code.
    code: i32,
    /// What is in its answer, whatever the spaces between the words.
    says: &'static [&'static str],
    /// Whether it only looks, at what becomes so a moment later: then it is asked again, as a person would.
    looks: bool,
    /// Whether the YAML behind it on the page is part of what it prints.
    is_shown_as_yaml: bool,
}

const NOTHING: Claim = Claim { page: "", command: "", code: 0, says: &[], looks: false, is_shown_as_yaml: false };

const README: Claim = Claim { page: "README.md", ..NOTHING };
const TUTORIAL: Claim = Claim { page: "docs/tutorial.md", ..NOTHING };

/// Of all other commands the pages say that they work: they end with 0.
pub(super) const CLAIMS: &[Claim] = &[
    Claim { command: "cargo lab measured --list", says: &["M10", "R"], ..README },
    Claim { command: "kubectl get resilience -n shop", says: &["httpbin"], ..README },
    Claim {
        command: "kubectl describe resilience httpbin -n shop",
        says: &["Accepted", "Programmed", "InEffect", "Ready", "Stalled", "Verified", "Effective", "RES0"],
        looks: true,
        ..README
    },
    Claim { command: "resilience-operator validate", says: &["RES010"], ..README },
    Claim { command: "resilience-operator render", says: &["kind: DestinationRule"], ..README },
    Claim { command: "kubectl resilience diff", code: 1, ..README },
    Claim { command: "kubectl resilience explain svc/httpbin", looks: true, ..README },
    Claim {
        command: "cargo lab kubectl -- get pods -n resilience-demo",
        says: &["httpbin-", "fortio-", "2/2"],
        ..TUTORIAL
    },
    Claim { command: "target/debug/resilience-operator validate", says: &["RES010"], ..TUTORIAL },
    Claim { command: "target/debug/resilience-operator render", is_shown_as_yaml: true, ..TUTORIAL },
    Claim {
        command: "cargo lab exec -- target/debug/resilience-operator diff",
        code: 1,
        says: &["+kind: DestinationRule"],
        ..TUTORIAL
    },
    Claim {
        command: "cargo lab exec -- target/debug/resilience-operator explain svc/httpbin",
        says: &["limits.perClient.connections 1 Spec", "timeouts.connect 10s Istio's default", "proxies have it"],
        ..TUTORIAL
    },
    Claim {
        command: "cargo lab exec -- target/debug/resilience-operator top httpbin -n resilience-demo --once",
        looks: true,
        ..TUTORIAL
    },
    Claim {
        command: "cargo lab kubectl -- get destinationrules,sidecars",
        says: &["kind: DestinationRule", "kind: Sidecar"],
        looks: true,
        ..TUTORIAL
    },
    Claim {
        command: "cargo lab exec -- target/debug/resilience-operator verify httpbin",
        says: &["This is load on a live service"],
        ..TUTORIAL
    },
    Claim {
        command: "cargo lab kubectl -- get resilience httpbin -n resilience-demo -o jsonpath",
        says: &["\"ejectableEndpoints\":1", "\"endpoints\":3"],
        looks: true,
        ..TUTORIAL
    },
    Claim {
        command: "cargo lab kubectl -- get destinationrules,virtualservices,sidecars",
        says: &["No resources found"],
        looks: true,
        ..TUTORIAL
    },
];

impl Claim {
    /// Whether it is said of this step.
    pub(super) fn is_of(&self, step: &Step) -> bool {
        step.page == self.page && matches!(&step.act, Act::Run(line) if line.starts_with(self.command))
    }
}

/// How long a look may take to find what the page says.
const SOON: Duration = Duration::from_mins(2);

/// Runs a command, and holds its answer to what the page says and shows.
///
/// # Errors
/// When it is not so.
pub(super) fn hold(place: &Place, step: &Step, line: &str) -> Result<()> {
    let claim = CLAIMS.iter().find(|claim| claim.is_of(step)).unwrap_or(&NOTHING);
    if !claim.looks {
        return judge(claim, step, &place.run(line)?);
    }
    wait::until("it is as the page says", SOON, || {
        let answer = place.run(line)?;
        Ok(judge(claim, step, &answer).map_or_else(|error| Seen::NotYet(format!("{error:#}")), Seen::Done))
    })
}

fn judge(claim: &Claim, step: &Step, answer: &Finished) -> Result<()> {
    let text = answer.all();
    let last = || tail(&text, 20);
    ensure!(
        answer.status.code() == Some(claim.code),
        "it ended with {}, not {}:\n{}",
        answer.status,
        claim.code,
        last()
    );
    for words in claim.says {
        ensure!(spaced(&text).contains(&spaced(words)), "«{words}» is not in its answer:\n{}", last());
    }
    if let Some(missing) = missing(&step.answer, &text) {
        anyhow::bail!("the page shows «{missing}», which is not in its answer, or not in that place:\n{}", last());
    }
    if claim.is_shown_as_yaml {
        let shown = step.yaml.as_deref().context("the page shows no YAML behind it any more")?;
        let shown: Value = serde_saphyr::from_str(shown).context("what the page shows is no YAML")?;
        let printed: Value = serde_saphyr::from_str(&answer.stdout).context("what it prints is no document of YAML")?;
        ensure!(is_part(&shown, &printed), "the page shows {shown}, and it prints {printed}");
    }
    Ok(())
}

/// With one space between words.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first line that is shown and not there, behind those before it. `…` stands for anything.
fn missing<'a>(shown: &'a [String], text: &str) -> Option<&'a String> {
    let mut lines = text.lines();
    shown.iter().filter(|line| line.trim() != "…" && !line.trim().is_empty()).find(|line| {
        let parts: Vec<String> = line.split('…').map(spaced).collect();
        !lines.any(|there| {
            let there = spaced(there);
            let mut rest = there.as_str();
            let begins = rest.starts_with(parts[0].as_str());
            begins && parts.iter().all(|part| rest.split_once(part.as_str()).map(|(_, behind)| rest = behind).is_some())
        })
    })
}

/// Whether everything of `part` is in `whole`; there may be more in it.
fn is_part(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|there| is_part(value, there)))
        }
        (part, whole) => part == whole,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, ExitStatus};

    use serde_json::json;

    use super::*;

    fn answer(code: i32, stdout: &str) -> Finished {
        let status: ExitStatus = Command::new("sh").args(["-c", &format!("exit {code}")]).status().unwrap();
        Finished { status, stdout: stdout.to_owned(), stderr: String::new() }
    }

    fn step(shown: &[&str], yaml: Option<&str>) -> Step {
        let answer = shown.iter().map(|&line| line.to_owned()).collect();
        Step {
            page: "p",
            line: 1,
            act: Act::Run("x".to_owned()),
            is_first: true,
            answer,
            yaml: yaml.map(str::to_owned),
        }
    }

    #[test]
    fn an_answer_that_is_not_what_the_page_says_or_shows_is_found() {
        let claim = Claim { says: &["limit 1 Spec"], is_shown_as_yaml: true, ..NOTHING };
        let printed = "limit:   1  Spec\nb: 2\n";
        let claim_of_words = Claim { is_shown_as_yaml: false, ..claim };
        let answered = answer(0, &printed.replace(":  ", " "));
        judge(&claim_of_words, &step(&["limit … Spec", "…", "b: 2"], None), &answered).unwrap();
        for (claim, step, answer, words) in [
            (NOTHING, step(&[], None), answer(1, ""), "ended with"),
            (claim_of_words, step(&[], None), answer(0, "limit 2 Spec"), "«limit 1 Spec» is not in"),
            (NOTHING, step(&["b: 2", "limit … Spec"], None), answer(0, printed), "the page shows «limit … Spec»"),
            (NOTHING, step(&["b: 3"], None), answer(0, printed), "the page shows «b: 3»"),
            (Claim { says: &[], ..claim }, step(&[], Some("a: {b: 2}")), answer(0, "a: {b: 1, c: 1}"), "and it prints"),
            (Claim { says: &[], ..claim }, step(&[], None), answer(0, "a: 1"), "no YAML behind it"),
        ] {
            let said = format!("{:#}", judge(&claim, &step, &answer).unwrap_err());
            assert!(said.contains(words), "{said} should say {words}");
        }
    }

    #[test]
    fn a_document_is_part_of_one_that_has_more() {
        let whole = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        assert!(is_part(&json!({"a": {"c": 2}, "d": [1]}), &whole));
        assert!(!is_part(&json!({"a": {"c": 3}}), &whole) && !is_part(&json!({"e": 1}), &whole));
    }
}
