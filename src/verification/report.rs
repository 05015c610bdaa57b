//! What `verify` says, as data and as `JUnit` XML.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Evidence, Finding, Plan, Stopped, judge};
use crate::api::{LimitResult, VerificationResult, VerifiedLimit};

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Namespace of the policy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// By what the spec that was verified is known again.
    pub spec_hash: String,
    /// Fully qualified host that was called.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Namespace of the caller.
    pub from: String,
    /// What came of it all.
    pub result: Conclusion,
    /// Why it stopped before its end; null: it did not.
    pub stopped: Option<Stopped>,
    /// Calls that were made.
    pub calls: u64,
    /// Every limit, in the order in which they were tried.
    pub limits: Vec<LimitReport>,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Conclusion {
    /// At least one limit was tried, and every one that was tripped as configured: exit code 0.
    Passed,
    /// At least one did not: exit code 1.
    Failed,
    /// Nothing could be tried: exit code 2.
    NothingTried,
    /// A guard stopped it, and nothing is concluded: exit code 2.
    Stopped,
}

/// What is said of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitReport {
    /// Path of the field, from `spec`.
    pub path: String,
    /// Its value, as text.
    pub value: String,
    /// What was found, and why.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Report {
    /// The report on what was seen of a plan for the policy of that name.
    #[must_use]
    pub fn new((namespace, name, spec_hash): (&str, &str, &str), from: &str, plan: &Plan, evidence: &Evidence) -> Self {
        let limits: Vec<LimitReport> = plan
            .lines
            .iter()
            .zip(judge(plan, evidence))
            .map(|(line, finding)| LimitReport { path: line.path.clone(), value: line.value.clone(), finding })
            .collect();
        let any = |result| limits.iter().any(|limit| limit.finding.result == result);
        let result = match () {
            () if evidence.stopped.is_some() => Conclusion::Stopped,
            () if any(LimitResult::NotTripped) => Conclusion::Failed,
            () if any(LimitResult::Tripped) => Conclusion::Passed,
            () => Conclusion::NothingTried,
        };
        let calm = evidence.calm.iter();
        // Lines may share their readings; those are the same calls.
        let mut counted: Vec<&Vec<super::Reading>> = Vec::new();
        for (number, readings) in &evidence.readings {
            let step = plan.lines.get(*number).map(|line| &line.step);
            let shared = plan.lines.iter().take(*number).any(|line| Some(&line.step) == step);
            if !shared {
                counted.push(readings);
            }
        }
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            spec_hash: spec_hash.to_owned(),
            host: plan.host.clone(),
            port: plan.asked.port,
            from: from.to_owned(),
            result,
            stopped: evidence.stopped.clone(),
            calls: calm.chain(counted.into_iter().flatten()).map(|reading| reading.calls).sum(),
            limits,
        }
    }

    /// How many limits have that result.
    #[must_use]
    pub fn count(&self, result: LimitResult) -> usize {
        self.limits.iter().filter(|limit| limit.finding.result == result).count()
    }

    /// What is worth writing into the status; `None` of a run that concludes nothing.
    #[must_use]
    pub fn conclusion(&self) -> Option<(VerificationResult, Vec<VerifiedLimit>)> {
        let result = match self.result {
            Conclusion::Passed => VerificationResult::Passed,
            Conclusion::Failed => VerificationResult::Failed,
            Conclusion::NothingTried | Conclusion::Stopped => return None,
        };
        let limit = |limit: &LimitReport| VerifiedLimit {
            path: limit.path.clone(),
            value: limit.value.clone(),
            result: limit.finding.result,
        };
        Some((result, self.limits.iter().map(limit).collect()))
    }

    /// As `JUnit` XML: one suite, a case a limit; what was not tried is skipped, and a run that concludes nothing
    /// is an error of a case of its own.
    #[must_use]
    pub fn junit(&self) -> String {
        let failures = self.count(LimitResult::NotTripped);
        let skipped = self.count(LimitResult::NotTried);
        let error = match (&self.stopped, self.result) {
            (Some(stopped), _) => Some(stopped.message.as_str()),
            (None, Conclusion::NothingTried) => Some("nothing could be tried"),
            (None, _) => None,
        };
        let errors = usize::from(error.is_some());
        let tests = self.limits.len() + errors;
        let suite = escaped(&format!("verify {}/{}", self.namespace, self.name));
        // Writing to a String cannot fail.
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{suite}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">"
        );
        for limit in &self.limits {
            let name = escaped(&format!("{} {}", limit.path, limit.value));
            let Finding { result, cause, message } = &limit.finding;
            let (message, cause) = (escaped(message), format!("{cause:?}"));
            let _ = writeln!(xml, "    <testcase classname=\"{suite}\" name=\"{name}\">");
            let _ = match result {
                LimitResult::Tripped => writeln!(xml, "      <system-out>{message}</system-out>"),
                LimitResult::NotTripped => writeln!(xml, "      <failure type=\"{cause}\" message=\"{message}\"/>"),
                LimitResult::NotTried => writeln!(xml, "      <skipped message=\"{message}\"/>"),
            };
            xml.push_str("    </testcase>\n");
        }
        if let Some(error) = error {
            let _ = writeln!(
                xml,
                "    <testcase classname=\"{suite}\" name=\"the run\">\n      <error message=\"{}\"/>\n    </testcase>",
                escaped(error)
            );
        }
        xml.push_str("  </testsuite>\n</testsuites>\n");
        xml
    }
}

/// As text or as an attribute of XML 1.0, which has no way at all to hold most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}
