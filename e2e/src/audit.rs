//! In: the log of a lab's API server. Out: what the accounts of the operator's namespace asked it, and what
//! it answered; of nobody else is anything logged (`config/audit.yaml`).

use std::fs;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::checkout::Checkout;
use crate::operator;

/// One request. A watch shows twice: as it begins and as it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The service account, without its namespace.
    pub account: String,
    /// The pod that it came from; a process that holds a token by hand has none.
    pub pod: Option<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` …
    pub verb: String,
    /// `GROUP/RESOURCE`, of the core group `RESOURCE` alone, with `/SUBRESOURCE` behind it where there is one;
    /// for what is no resource its path: `/openapi/v3`.
    pub what: String,
    /// The object's namespace, if it has one.
    pub namespace: Option<String>,
    /// As it was sent.
    pub uri: String,
    /// The answer's code; a watch that has begun has 200.
    pub code: i64,
    /// What a refusal says.
    pub message: String,
    /// When it came.
    pub from: Timestamp,
    /// When it was answered.
    pub to: Timestamp,
}

impl Request {
    /// Whether it would change something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        ["create", "update", "patch", "delete", "deletecollection"].contains(&self.verb.as_str())
    }

    /// Whether the account may not do it. Also where the rule of another verb is missing: an apply that
    /// would create is a `patch` here, and refused for want of `create`.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.code == 403
    }

    /// Whether it is about who leads.
    #[must_use]
    pub fn is_about_lease(&self) -> bool {
        self.what == "coordination.k8s.io/leases"
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |path: &str| entry.pointer(path).and_then(Value::as_str);
        let time = |path: &str| text(path)?.parse::<Timestamp>().ok();
        let uri = text("/requestURI")?;
        let what = text("/objectRef/resource").map_or_else(
            || uri.split('?').next().unwrap_or_default().to_owned(),
            |resource| {
                let group = text("/objectRef/apiGroup").map(|group| format!("{group}/")).unwrap_or_default();
                let below = text("/objectRef/subresource").map(|below| format!("/{below}")).unwrap_or_default();
                format!("{group}{resource}{below}")
            },
        );
        Some(Self {
            account: text("/user/username")?.rsplit(':').next()?.to_owned(),
            pod: text("/user/extra/authentication.kubernetes.io~1pod-name/0").map(str::to_owned),
            verb: text("/verb")?.to_owned(),
            what,
            namespace: text("/objectRef/namespace").map(str::to_owned),
            uri: uri.to_owned(),
            code: entry.pointer("/responseStatus/code").and_then(Value::as_i64).unwrap_or_default(),
            message: text("/responseStatus/message").unwrap_or_default().to_owned(),
            from: time("/requestReceivedTimestamp")?,
            to: time("/stageTimestamp")?,
        })
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { account, verb, uri, code, from, .. } = self;
        write!(f, "{verb} {uri} by {account} at {from}: {code}")
    }
}

/// Everything since the API server began, in the order of the answers.
///
/// # Errors
/// When the log cannot be read.
pub fn requests(checkout: &Checkout) -> Result<Vec<Request>> {
    let path = checkout.logs().join("audit.log");
    let text = fs::read_to_string(&path).with_context(|| format!("the audit log {} cannot be read", path.display()))?;
    // The last line may be half written.
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(entries.filter_map(|entry| Request::read(&entry)).collect())
}

/// What the operator's own account wrote, but for what says who leads.
///
/// # Errors
/// As [`requests`].
pub fn writes(checkout: &Checkout) -> Result<Vec<Request>> {
    let mut all = requests(checkout)?;
    all.retain(|request| request.account == operator::ACCOUNT && request.is_write() && !request.is_about_lease());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(more: &Value) -> Value {
        let mut entry = serde_json::json!({
            "stage": "ResponseComplete", "verb": "patch",
            "requestURI": "/apis/resilience.dev/v1alpha1/namespaces/shop/resiliences/a/status?force=true",
            "user": {"username": "system:serviceaccount:resilience-system:resilience-operator",
                "extra": {"authentication.kubernetes.io/pod-name": ["operator-1"]}},
            "objectRef": {"resource": "resiliences", "namespace": "shop", "name": "a", "apiGroup": "resilience.dev", "subresource": "status"},
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z", "stageTimestamp": "2026-01-01T00:00:01.000000Z",
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    }

    #[test]
    fn a_line_tells_who_asked_for_what_and_whether_he_might() {
        let request = Request::read(&entry(&serde_json::json!({}))).unwrap();
        assert_eq!(request.account, "resilience-operator");
        assert_eq!(request.pod.as_deref(), Some("operator-1"));
        assert_eq!((request.verb.as_str(), request.what.as_str()), ("patch", "resilience.dev/resiliences/status"));
        assert!(!request.is_denied() && request.is_write() && !request.is_about_lease());
        let denied = Request::read(&entry(&serde_json::json!({
            "verb": "list", "objectRef": {"resource": "services"},
            "responseStatus": {"code": 403, "message": "services is forbidden"},
        })));
        let denied = denied.unwrap();
        assert_eq!((denied.what.as_str(), denied.is_denied(), denied.is_write()), ("services", true, false));
        assert_eq!(denied.message, "services is forbidden");
    }

    #[test]
    fn what_is_no_resource_is_its_path() {
        let mut request = entry(&serde_json::json!({"verb": "get", "requestURI": "/openapi/v3?hash=1"}));
        request.as_object_mut().unwrap().remove("objectRef");
        assert_eq!(Request::read(&request).unwrap().what, "/openapi/v3");
    }
}
