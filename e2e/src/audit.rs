//! In: the API server's audit log. Out: every write of our operator, by which pod, from when to when; and
//! every write of its lease, whoever made it.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::checkout::Checkout;
use crate::operator;

/// A write that the API server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The pod that the token was bound to; `None`: somebody else than the operator.
    pub pod: Option<String>,
    /// When the API server had read it.
    pub from: Timestamp,
    /// When it was answered.
    pub to: Timestamp,
    /// The verb.
    pub verb: String,
    /// The path.
    pub uri: String,
    /// The status code of the answer.
    pub code: u16,
    /// The holder that it gave the lease, if that is what it wrote.
    pub holder: Option<String>,
}

impl Write {
    /// Whether it is a write of the lease.
    #[must_use]
    pub fn is_of_the_lease(&self) -> bool {
        self.uri.contains("/leases/") || self.uri.ends_with("/leases") || self.uri.contains("/leases?")
    }

    /// Whether it is about who leads: the lease, or an event on it.
    #[must_use]
    pub fn is_about_leading(&self) -> bool {
        self.is_of_the_lease() || self.uri.contains(&format!("/{}/events", operator::NAMESPACE))
    }

    /// Whether the API server took it.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        self.code < 300
    }

    fn read(line: &str) -> Option<Self> {
        let entry: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let time = |field: &str| entry[field].as_str()?.parse().ok();
        Some(Self {
            pod: text(&entry["user"]["extra"]["authentication.kubernetes.io/pod-name"][0])
                .filter(|_| entry["user"]["username"] == ACCOUNT),
            from: time("requestReceivedTimestamp")?,
            to: time("stageTimestamp")?,
            verb: text(&entry["verb"])?,
            uri: text(&entry["requestURI"])?,
            code: entry["responseStatus"]["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(0),
            holder: text(&entry["requestObject"]["spec"]["holderIdentity"]),
        })
    }
}

const ACCOUNT: &str = "system:serviceaccount:resilience-system:resilience-operator";

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, from, to, verb, uri, code, .. } = self;
        write!(f, "{verb} {uri} ({code}) by {} from {from} to {to}", pod.as_deref().unwrap_or("somebody"))
    }
}

/// The log, and how much of it was read.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    offset: u64,
    half: String,
    writes: Vec<Write>,
}

impl Log {
    /// The log of this checkout's lab, from its beginning.
    #[must_use]
    pub fn of(checkout: &Checkout) -> Self {
        Self { path: checkout.logs().join("audit.log"), offset: 0, half: String::new(), writes: Vec::new() }
    }

    /// All that is in it by now, in the order in which it was answered.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self) -> Result<&[Write]> {
        let shown = self.path.display();
        let mut file = File::open(&self.path).with_context(|| format!("the audit log {shown} cannot be read"))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut more = String::new();
        self.offset += u64::try_from(file.read_to_string(&mut more)?)?;
        self.half.push_str(&more);
        // The last line may be half written.
        let whole = self.half.rfind('\n').map_or(0, |end| end + 1);
        let rest = self.half.split_off(whole);
        self.writes.extend(self.half.lines().filter_map(Write::read));
        self.half = rest;
        Ok(&self.writes)
    }
}

/// The operator's writes but those about who leads, since then, by when they came.
///
/// # Errors
/// When the log cannot be read.
pub fn writes(checkout: &Checkout, since: Timestamp) -> Result<Vec<Write>> {
    let mut log = Log::of(checkout);
    let all = log.read()?.iter();
    let mut writes: Vec<Write> =
        all.filter(|write| write.from >= since && write.pod.is_some() && !write.is_about_leading()).cloned().collect();
    writes.sort_by_key(|write| write.from);
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_read_with_its_holder_and_its_pod() {
        let line = serde_json::json!({
            "verb": "update", "requestURI": "/apis/coordination.k8s.io/v1/namespaces/resilience-system/leases/resilience-operator?fieldManager=x",
            "user": {"username": ACCOUNT, "extra": {"authentication.kubernetes.io/pod-name": ["a"]}},
            "requestObject": {"spec": {"holderIdentity": "a_1"}}, "responseStatus": {"code": 200},
            "requestReceivedTimestamp": "2026-11-29T12:00:00.000001Z", "stageTimestamp": "2026-11-29T12:00:00.002Z",
        });
        let write = Write::read(&line.to_string()).unwrap();
        assert!(write.is_of_the_lease() && write.is_about_leading() && write.took_effect());
        assert_eq!((write.pod.as_deref(), write.holder.as_deref()), (Some("a"), Some("a_1")));
    }

    #[test]
    fn a_line_that_is_half_written_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let line = r#"{"verb":"patch","requestURI":"/x","requestReceivedTimestamp":"2026-11-29T12:00:00Z","stageTimestamp":"2026-11-29T12:00:00Z"}"#;
        std::fs::write(&path, &line[..40]).unwrap();
        let mut log = Log { path: path.clone(), offset: 0, half: String::new(), writes: Vec::new() };
        assert_eq!(log.read().unwrap().len(), 0);
        std::fs::write(&path, format!("{line}\n")).unwrap();
        assert_eq!(log.read().unwrap().len(), 1);
    }
}
