//! In: an address and how to call it. Out: how many answers had which status, counted by fortio: a load
//! generator that is not ours.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::kubectl::Kubectl;

/// What fortio counted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answers {
    /// Answers by status; -1 is no answer at all.
    #[serde(rename = "RetCodes")]
    pub by_status: BTreeMap<i32, u64>,
}

impl Answers {
    /// Answers with this status.
    #[must_use]
    pub fn status(&self, status: i32) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    /// All answers.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_status.values().sum()
    }
}

/// Calls `url` from the pod `deploy/fortio` of the client's namespace, `requests` times by `callers`
/// at once, as fast as answers come.
///
/// # Errors
/// When fortio cannot be run. An answer of whatever status is none.
pub fn load(kubectl: &Kubectl, url: &str, callers: u32, requests: u32) -> Result<Answers> {
    // To fortio 0 is «as fast as it goes».
    load_at(kubectl, url, callers, requests, 0)
}

/// As [`load`], but so many a second.
///
/// # Errors
/// As [`load`].
pub fn load_at(kubectl: &Kubectl, url: &str, callers: u32, requests: u32, rate: u32) -> Result<Answers> {
    load_from(kubectl, "deploy/fortio", url, callers, requests, &["-qps", &rate.to_string()])
}

/// As [`load`], from another client's container `fortio`, and with more of fortio's options.
///
/// # Errors
/// As [`load`].
pub fn load_from(
    kubectl: &Kubectl,
    client: &str,
    url: &str,
    callers: u32,
    requests: u32,
    more: &[&str],
) -> Result<Answers> {
    let (callers, requests) = (callers.to_string(), requests.to_string());
    // Uniform: its callers would otherwise all call in the same instant.
    let options =
        ["-qps", "0", "-c", &callers, "-n", &requests, "-uniform", "-allow-initial-errors", "-quiet", "-json", "-"];
    // After 3 s, fortio's own patience, it would send a call anew, and count it once.
    let command = [&["fortio", "load"], options.as_slice(), &["-timeout", "30s"], more, &[url]].concat();
    let text = kubectl.exec(client, "fortio", &command)?;
    serde_json::from_str(&text).with_context(|| format!("fortio printed no JSON but: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split_by_status() {
        let answers: Answers =
            serde_json::from_str(r#"{"RetCodes": {"200": 60, "503": 39, "-1": 1}, "Other": 1}"#).unwrap();
        assert_eq!((answers.status(503), answers.status(500), answers.total()), (39, 0, 100));
    }
}
