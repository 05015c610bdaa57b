//! What the process counts. Every label has few values that are known beforehand; none is a name.
//! The one exception is apart, and served apart: [`limits`].

mod book;
pub mod limits;
mod text;

use std::{
    fmt,
    sync::{Mutex, OnceLock, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
};

use book::Book;
pub use book::Described;
pub use text::classic;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByWrite {
    kind: &'static str,
    verb: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByCondition {
    condition: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByQuestion {
    question: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReason {
    condition: &'static str,
    status: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByCode {
    code: String,
}

/// What is told of policies at each scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many policies have a condition with a status: condition, status, number.
    pub conditions: Vec<(&'static str, &'static str, i64)>,
    /// The same by reason: condition, status, reason, number.
    pub reasons: Vec<(&'static str, &'static str, &'static str, i64)>,
    /// How many policies have a warning: code, number.
    pub warnings: Vec<(String, i64)>,
    /// Policies whose status speaks of an older generation than they have.
    pub unobserved: i64,
    /// For how long the one of them that has waited longest waits, as far as this process knows.
    pub unobserved_age: Duration,
    /// Policies that wait for their turn.
    pub queue: i64,
}

/// All metrics of the process.
pub struct Metrics {
    book: Book,
    reconciles: Family<ByOutcome, Counter>,
    seconds: Histogram,
    writes: Family<ByWrite, Counter>,
    watch_errors: Family<ByKind, Counter>,
    unreadable: Family<ByKind, Counter>,
    late_events: Family<ByKind, Counter>,
    dropped_events: Counter,
    live_reads: Family<ByKind, Counter>,
    policies: Family<ByCondition, Gauge>,
    reasons: Family<ByReason, Gauge>,
    warnings: Family<ByCode, Gauge>,
    queue: Gauge,
    queue_seconds: Histogram,
    status_lag: Histogram,
    unobserved: Gauge,
    unobserved_age: Gauge,
    panics: Counter<u64, AtomicU64>,
    missing_fields: Gauge,
    leader: Gauge,
    lease_seconds: Histogram,
    lease_failures: Counter,
    questions: Family<ByQuestion, Counter>,
    answer_age: Gauge,
    answered: Mutex<Option<Instant>>,
    /// Two who scrape at once would find the series that the other is just counting anew gone.
    scrape: Mutex<()>,
    tally: OnceLock<Box<dyn Fn() -> Tally + Send + Sync>>,
    limits: OnceLock<Box<dyn Fn() -> Vec<limits::Limit> + Send + Sync>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Seconds: a reconcile without writes takes less than a millisecond, one with three slow ones 30 s.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Default for Metrics {
    #[allow(clippy::too_many_lines, reason = "a table: one metric after another, each with its words")]
    fn default() -> Self {
        let mut book = Book::default();
        let outcome = "`outcome`: that of the policy, or `error`, `panicked`, `leaving` (it is being deleted), `gone`";
        let kind = "`kind`: of the object";
        let condition = "`condition`, `status`: as on the object";
        Self {
            reconciles: book.add("reconciles", "Reconciles by how they ended", outcome, Family::default()),
            seconds: book.add(
                "reconcile_seconds",
                "How long a reconcile took, its writes included",
                "",
                Histogram::new(BUCKETS),
            ),
            writes: book.add(
                "writes",
                "Writes that the API server took, by kind and verb",
                "`kind`, `verb`: of the object, and what was done with it",
                Family::default(),
            ),
            watch_errors: book.add("watch_errors", "Watches that broke and were started anew", kind, Family::default()),
            unreadable: book.add(
                "unreadable_objects",
                "Objects of a watch that are not of the types we know",
                kind,
                Family::default(),
            ),
            late_events: book.add(
                "late_events",
                "Objects that a watch or a list told of later than our own calls had",
                kind,
                Family::default(),
            ),
            dropped_events: book.add(
                "dropped_events",
                "Events on policies that were not published, since too many waited",
                "",
                Counter::default(),
            ),
            live_reads: book.add(
                "live_reads",
                "Objects that were read since no watch had shown what we wrote, or a write's end is not known",
                kind,
                Family::default(),
            ),
            policies: book.add("policies", "Policies by condition and its status", condition, Family::default()),
            reasons: book.add(
                "policies_by_reason",
                "Policies by condition, its status and its reason; without those that no policy has",
                "`condition`, `status`, `reason`: as on the object; `Other` is a reason of another version",
                Family::default(),
            ),
            warnings: book.add(
                "warnings",
                "Policies that carry a warning, by its code",
                "`code`: `RES010` and so on, a page each in `docs/warnings`",
                Family::default(),
            ),
            queue: book.add(
                "queue_length",
                "Policies that wait for their turn; at a start or a take-over it holds 256 of them at a time",
                "",
                Gauge::default(),
            ),
            queue_seconds: book.add(
                "queue_seconds",
                "How long a policy waited for its turn after something that concerns it had changed",
                "",
                Histogram::new(BUCKETS),
            ),
            status_lag: book.add(
                "status_lag_seconds",
                "From when this process heard of a policy's generation to when its status speaks of it",
                "",
                Histogram::new(BUCKETS),
            ),
            unobserved: book.add(
                "unobserved_policies",
                "Policies whose status speaks of an older generation than they have",
                "",
                Gauge::default(),
            ),
            unobserved_age: book.add(
                "unobserved_age_seconds",
                "For how long the one of them that has waited longest waits; 0 where nobody waits, or another leads",
                "",
                Gauge::default(),
            ),
            panics: book.add("panics", "Reconciles that panicked: each is a bug", "", Counter::default()),
            missing_fields: book.add(
                "istio_missing_fields",
                "Fields that the operator may write and the installed Istio does not have",
                "",
                Gauge::default(),
            ),
            leader: book.add(
                "leader",
                "1 if this replica leads, and so writes; 0 if it stands by",
                "",
                Gauge::default(),
            ),
            lease_seconds: book.add(
                "lease_seconds",
                "How long the API server took for a renewal of the lease",
                "",
                Histogram::new(BUCKETS),
            ),
            lease_failures: book.add("lease_failures", "Calls about the lease that failed", "", Counter::default()),
            questions: book.add(
                "istiod_questions",
                "Questions to istiod about proxies, by how they ended",
                "`question`, `result`: what was asked, and how that ended",
                Family::default(),
            ),
            answer_age: book.add(
                "istiod_answer_age_seconds",
                "Since istiod last told what proxies have; -1: it never did, or nobody asks",
                "",
                Gauge::default(),
            ),
            book: book.with_info("build", "What is running", "`version`", Info::new(vec![("version", VERSION)])),
            answered: Mutex::default(),
            scrape: Mutex::default(),
            tally: OnceLock::new(),
            limits: OnceLock::new(),
        }
    }
}

impl Metrics {
    /// A reconcile ended.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ByOutcome { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A policy's turn came, so long after something had changed.
    pub fn waited(&self, since: Duration) {
        self.queue_seconds.observe(since.as_secs_f64());
    }

    /// A status speaks of its policy's generation, so long after it was heard of.
    pub fn told(&self, since: Duration) {
        self.status_lag.observe(since.as_secs_f64());
    }

    /// The API server took a write.
    pub fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&ByWrite { kind, verb }).inc();
    }

    /// A watch broke.
    pub fn watch_broke(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&ByKind { kind }).inc();
    }

    /// A watch told of an object that cannot be read.
    pub fn unread(&self, kind: &'static str) {
        self.unreadable.get_or_create(&ByKind { kind }).inc();
    }

    /// A watch told of an object as it was before we knew better.
    pub fn told_late(&self, kind: &'static str) {
        self.late_events.get_or_create(&ByKind { kind }).inc();
    }

    /// An event was not published: too many wait.
    pub fn dropped_event(&self) {
        self.dropped_events.inc();
    }

    /// An object was read, where a cache was not to be trusted.
    pub fn read_live(&self, kind: &'static str) {
        self.live_reads.get_or_create(&ByKind { kind }).inc();
    }

    /// A reconcile panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// So many fields are missing in what is installed.
    pub fn missing(&self, fields: usize) {
        self.missing_fields.set(i64::try_from(fields).unwrap_or(i64::MAX));
    }

    /// Whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The lease was taken or renewed.
    pub fn lease_renewed(&self, took: Duration) {
        self.lease_seconds.observe(took.as_secs_f64());
    }

    /// A call about the lease failed.
    pub fn lease_failed(&self) {
        self.lease_failures.inc();
    }

    /// A question to an istiod ended.
    pub fn asked_istiod(&self, question: &'static str, result: &'static str) {
        self.questions.get_or_create(&ByQuestion { question, result }).inc();
    }

    /// It is known again what proxies have.
    pub fn istiod_answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Who counts policies; asked at each scrape.
    pub fn tally_with(&self, tally: impl Fn() -> Tally + Send + Sync + 'static) {
        // The first one stays: there is one controller in a process.
        let _taken = self.tally.set(Box::new(tally));
    }

    /// Who knows what is allowed; asked at each scrape.
    pub fn limits_with(&self, limits: impl Fn() -> Vec<limits::Limit> + Send + Sync + 'static) {
        let _taken = self.limits.set(Box::new(limits));
    }

    /// Every metric, for the documentation: its full name, its type, what it means, its labels.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        self.book.described()
    }

    /// What policies allow, which has names in its labels; `None`: nobody has opted in to that.
    ///
    /// # Errors
    /// If a metric cannot be written, which a `String` does not do.
    pub fn encode_limits(&self) -> Option<Result<String, fmt::Error>> {
        self.limits.get().map(|limits| limits::encode(limits()))
    }

    /// All of it in the text format of `OpenMetrics`.
    ///
    /// # Errors
    /// If a metric cannot be written, which a `String` does not do.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = self.tally.get() {
            self.take(tally());
        }
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        self.answer_age.set(answered.map_or(-1, |at| i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX)));
        let mut text = String::new();
        encode(&mut text, self.book.registry())?;
        Ok(text)
    }

    fn take(&self, tally: Tally) {
        for (condition, status, number) in tally.conditions {
            self.policies.get_or_create(&ByCondition { condition, status }).set(number);
        }
        // A reason that nobody has any more is no series any more.
        self.reasons.clear();
        for (condition, status, reason, number) in tally.reasons {
            self.reasons.get_or_create(&ByReason { condition, status, reason }).set(number);
        }
        for (code, number) in tally.warnings {
            self.warnings.get_or_create(&ByCode { code }).set(number);
        }
        self.unobserved.set(tally.unobserved);
        self.unobserved_age.set(i64::try_from(tally.unobserved_age.as_secs()).unwrap_or(i64::MAX));
        self.queue.set(tally.queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_shows_under_its_documented_name() {
        let metrics = Metrics::default();
        metrics.reconciled("programmed", Duration::from_millis(3));
        metrics.wrote("DestinationRule", "create");
        metrics.watch_broke("Service");
        metrics.unread("Service");
        metrics.told_late("DestinationRule");
        metrics.read_live("DestinationRule");
        metrics.dropped_event();
        metrics.panicked();
        metrics.missing(3);
        metrics.leads(true);
        metrics.lease_renewed(Duration::from_millis(3));
        metrics.lease_failed();
        metrics.asked_istiod("syncz", "answered");
        assert!(metrics.encode().unwrap().contains("resilience_operator_istiod_answer_age_seconds -1"));
        metrics.istiod_answered();
        metrics.waited(Duration::from_millis(3));
        metrics.told(Duration::from_millis(3));
        metrics.tally_with(|| Tally {
            conditions: vec![("Ready", "True", 4)],
            reasons: vec![("Accepted", "False", "Conflicted", 2)],
            warnings: vec![("RES010".to_owned(), 3)],
            unobserved: 5,
            unobserved_age: Duration::from_secs(6),
            queue: 7,
        });
        let text = metrics.encode().unwrap();
        for line in [
            r#"resilience_operator_reconciles_total{outcome="programmed"} 1"#,
            r#"resilience_operator_reconcile_seconds_bucket{le="0.005"} 1"#,
            r#"resilience_operator_writes_total{kind="DestinationRule",verb="create"} 1"#,
            r#"resilience_operator_watch_errors_total{kind="Service"} 1"#,
            r#"resilience_operator_policies{condition="Ready",status="True"} 4"#,
            r#"resilience_operator_policies_by_reason{condition="Accepted",status="False",reason="Conflicted"} 2"#,
            r#"resilience_operator_warnings{code="RES010"} 3"#,
            "resilience_operator_unobserved_policies 5",
            "resilience_operator_unobserved_age_seconds 6",
            "resilience_operator_queue_length 7",
            r#"resilience_operator_queue_seconds_bucket{le="0.005"} 1"#,
            r#"resilience_operator_status_lag_seconds_bucket{le="0.005"} 1"#,
            r#"resilience_operator_unreadable_objects_total{kind="Service"} 1"#,
            r#"resilience_operator_late_events_total{kind="DestinationRule"} 1"#,
            r#"resilience_operator_live_reads_total{kind="DestinationRule"} 1"#,
            "resilience_operator_dropped_events_total 1",
            "resilience_operator_panics_total 1",
            "resilience_operator_istio_missing_fields 3",
            "resilience_operator_leader 1",
            r#"resilience_operator_lease_seconds_bucket{le="0.005"} 1"#,
            "resilience_operator_lease_failures_total 1",
            r#"resilience_operator_istiod_questions_total{question="syncz",result="answered"} 1"#,
            "resilience_operator_istiod_answer_age_seconds 0",
            "resilience_operator_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
