//! In: the log of a lab's API server. Out: what the accounts of the operator's namespace asked it and what it
//! answered, and every write of the operator's lease, whoever made it; of nothing else is anything logged
//! (`config/audit.yaml`).

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::checkout::Checkout;
use crate::operator;

/// Before the name of an account of the operator's namespace.
const ACCOUNTS: &str = "system:serviceaccount:resilience-system:";

/// One request. A watch shows twice: as it begins and as it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The service account of the operator's namespace; `None`: somebody else.
    pub account: Option<String>,
    /// The pod that its token was bound to; a process that holds a token by hand has none.
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
    pub code: u16,
    /// What a refusal says.
    pub message: String,
    /// When the API server had read it.
    pub from: Timestamp,
    /// When it was answered.
    pub to: Timestamp,
    /// The holder that it gave the lease, if that is what it wrote.
    pub holder: Option<String>,
}

impl Request {
    /// Whether the operator's own account asked.
    #[must_use]
    pub fn is_by_the_operator(&self) -> bool {
        self.account.as_deref() == Some(operator::ACCOUNT)
    }

    /// Whether it would change something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        ["create", "update", "patch", "delete", "deletecollection"].contains(&self.verb.as_str())
    }

    /// Whether the account may not do it. Also where the rule of another verb is missing: an apply that
    /// would create is a `patch` here, and refused for want of `create`. A namespace on its way out refuses
    /// with the same code, whatever the rights.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.code == 403 && !self.message.ends_with("because it is being terminated")
    }

    /// Whether the API server took it.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        self.code < 300
    }

    /// Whether it is about a lease.
    #[must_use]
    pub fn is_of_the_lease(&self) -> bool {
        self.what == "coordination.k8s.io/leases"
    }

    /// Whether it is about who leads: the lease, or an event on it.
    #[must_use]
    pub fn is_about_leading(&self) -> bool {
        let event = self.what.ends_with("events") && self.namespace.as_deref() == Some(operator::NAMESPACE);
        self.is_of_the_lease() || event
    }

    fn read(line: &str) -> Option<Self> {
        let entry: Value = serde_json::from_str(line).ok()?;
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
        let account = text("/user/username")?.strip_prefix(ACCOUNTS).map(str::to_owned);
        Some(Self {
            pod: text("/user/extra/authentication.kubernetes.io~1pod-name/0")
                .filter(|_| account.is_some())
                .map(str::to_owned),
            account,
            verb: text("/verb")?.to_owned(),
            what,
            namespace: text("/objectRef/namespace").map(str::to_owned),
            uri: uri.to_owned(),
            code: entry
                .pointer("/responseStatus/code")
                .and_then(Value::as_u64)
                .and_then(|code| code.try_into().ok())
                .unwrap_or_default(),
            message: text("/responseStatus/message").unwrap_or_default().to_owned(),
            from: time("/requestReceivedTimestamp")?,
            to: time("/stageTimestamp")?,
            holder: text("/requestObject/spec/holderIdentity").map(str::to_owned),
        })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, pod, verb, uri, code, from, to, .. } = self;
        let who = pod.as_deref().or(account.as_deref()).unwrap_or("somebody");
        write!(f, "{verb} {uri} ({code}) by {who} from {from} to {to}")
    }
}

fn path(checkout: &Checkout) -> PathBuf {
    checkout.logs().join("audit.log")
}

/// The log, and how much of it was read.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    offset: u64,
    half: String,
    since: Timestamp,
    kept: fn(&Request) -> bool,
    requests: Vec<Request>,
}

impl Log {
    /// The log of this checkout's lab, from its beginning, but of it only what would change something.
    #[must_use]
    pub fn of_writes(checkout: &Checkout) -> Self {
        Self { kept: Request::is_write, ..Self::at(path(checkout)) }
    }

    /// All that the API server receives from now on: what came before costs no look anything, and after many
    /// scenarios that is nearly all of it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn from_now(checkout: &Checkout) -> Result<Self> {
        Self::at(path(checkout)).since_its_end()
    }

    fn at(path: PathBuf) -> Self {
        Self { path, offset: 0, half: String::new(), since: Timestamp::MIN, kept: |_| true, requests: Vec::new() }
    }

    fn since_its_end(mut self) -> Result<Self> {
        self.since = Timestamp::now();
        // Half of a line may follow: it is no entry, and came before.
        self.offset = self.open()?.metadata()?.len();
        Ok(self)
    }

    fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("the audit log {} cannot be read", self.path.display()))
    }

    /// All that is in it by now, in the order in which it was answered.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self) -> Result<&[Request]> {
        let mut file = self.open()?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut more = String::new();
        self.offset += u64::try_from(file.read_to_string(&mut more)?)?;
        self.half.push_str(&more);
        // The last line may be half written.
        let whole = self.half.rfind('\n').map_or(0, |end| end + 1);
        let rest = self.half.split_off(whole);
        let read = self.half.lines().filter_map(Request::read);
        self.requests.extend(read.filter(|one| one.from >= self.since && (self.kept)(one)));
        self.half = rest;
        Ok(&self.requests)
    }
}

/// The writes of the operator's pods but those about who leads, by when they came.
#[must_use]
pub fn work(requests: &[Request]) -> Vec<&Request> {
    let is_work =
        |one: &&Request| one.is_by_the_operator() && one.pod.is_some() && one.is_write() && !one.is_about_leading();
    let mut work: Vec<&Request> = requests.iter().filter(is_work).collect();
    work.sort_by_key(|write| write.from);
    work
}

/// As [`work`], in one namespace, as far as the API server took it.
#[must_use]
pub fn work_in<'a>(requests: &'a [Request], namespace: &str) -> Vec<&'a Request> {
    let mut work = work(requests);
    work.retain(|write| write.namespace.as_deref() == Some(namespace) && write.took_effect());
    work
}

/// A write of a rule by a pod of the operator, in milliseconds.
#[cfg(test)]
pub(crate) fn write(pod: &str, from: i64, to: i64) -> Request {
    let time = |ms| Timestamp::from_millisecond(ms).unwrap();
    Request {
        account: Some(operator::ACCOUNT.to_owned()),
        pod: Some(pod.to_owned()),
        verb: "patch".to_owned(),
        what: "networking.istio.io/destinationrules".to_owned(),
        namespace: Some("a".to_owned()),
        uri: "/apis/networking.istio.io/v1/namespaces/a/destinationrules/b".to_owned(),
        code: 200,
        message: String::new(),
        from: time(from),
        to: time(to),
        holder: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(more: &Value) -> Request {
        let mut entry = json!({
            "stage": "ResponseComplete", "verb": "patch",
            "requestURI": "/apis/resilience.dev/v1alpha1/namespaces/shop/resiliences/a/status?force=true",
            "user": {"username": "system:serviceaccount:resilience-system:resilience-operator",
                "extra": {"authentication.kubernetes.io/pod-name": ["operator-1"]}},
            "objectRef": {"resource": "resiliences", "namespace": "shop", "name": "a", "apiGroup": "resilience.dev", "subresource": "status"},
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z", "stageTimestamp": "2026-01-01T00:00:01.000000Z",
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Request::read(&entry.to_string()).unwrap()
    }

    #[test]
    fn a_line_tells_who_asked_for_what_and_whether_he_might() {
        let request = read(&json!({}));
        assert!(request.is_by_the_operator());
        assert_eq!(request.pod.as_deref(), Some("operator-1"));
        assert_eq!((request.verb.as_str(), request.what.as_str()), ("patch", "resilience.dev/resiliences/status"));
        assert!(!request.is_denied() && request.is_write() && !request.is_about_leading() && request.took_effect());
        let denied = read(&json!({
            "verb": "list", "objectRef": {"resource": "services"},
            "responseStatus": {"code": 403, "message": "services is forbidden"},
        }));
        assert_eq!((denied.what.as_str(), denied.is_denied(), denied.is_write()), ("services", true, false));
        assert_eq!(denied.message, "services is forbidden");
        let late = read(&json!({"responseStatus": {"code": 403, "message":
            "sidecars.networking.istio.io \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated"}}));
        assert!(!late.is_denied() && !late.took_effect());
    }

    #[test]
    fn what_is_no_resource_is_its_path() {
        let request = read(&json!({"verb": "get", "requestURI": "/openapi/v3?hash=1", "objectRef": null}));
        assert_eq!(request.what, "/openapi/v3");
    }

    #[test]
    fn a_renewal_is_read_with_its_holder_whoever_makes_it() {
        let lease = json!({
            "verb": "update",
            "requestURI": "/apis/coordination.k8s.io/v1/namespaces/resilience-system/leases/resilience-operator",
            "objectRef": {"apiGroup": "coordination.k8s.io", "resource": "leases", "namespace": "resilience-system"},
            "requestObject": {"spec": {"holderIdentity": "a_1"}},
        });
        let renewal = read(&lease);
        assert!(renewal.is_of_the_lease() && renewal.is_about_leading());
        assert_eq!((renewal.pod.as_deref(), renewal.holder.as_deref()), (Some("operator-1"), Some("a_1")));
        let mut foreign = lease;
        foreign["user"] = json!({"username": "admin"});
        let foreign = read(&foreign);
        assert_eq!((foreign.account, foreign.pod, foreign.holder.as_deref()), (None, None, Some("a_1")));
    }

    #[test]
    fn a_line_that_is_half_written_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let line = r#"{"verb":"patch","requestURI":"/x","user":{"username":"a"},"requestReceivedTimestamp":"2026-11-29T12:00:00Z","stageTimestamp":"2026-11-29T12:00:00Z"}"#;
        std::fs::write(&path, &line[..40]).unwrap();
        let mut log = Log::at(path.clone());
        assert_eq!(log.read().unwrap().len(), 0);
        std::fs::write(&path, format!("{line}\n")).unwrap();
        assert_eq!(log.read().unwrap().len(), 1);
    }

    #[test]
    fn what_was_asked_before_is_left_out_also_when_it_is_answered_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let line = |uri: &str, from: Timestamp| {
            let entry = json!({"verb": "patch", "requestURI": uri, "user": {"username": "a"},
                "requestReceivedTimestamp": from.to_string(), "stageTimestamp": from.to_string()});
            format!("{entry}\n")
        };
        let before = Timestamp::now();
        let first = line("/before", before);
        std::fs::write(&path, &first[..40]).unwrap();
        let mut log = Log::at(path.clone()).since_its_end().unwrap();
        let late = line("/answered-late", before);
        let after = line("/after", Timestamp::now());
        std::fs::write(&path, [first, late, after].concat()).unwrap();
        let read = log.read().unwrap();
        assert_eq!(read.iter().map(|one| one.uri.as_str()).collect::<Vec<_>>(), ["/after"]);
    }
}
