//! What the process counts. Every label has few values that are known beforehand; none is a name.

use std::{
    fmt,
    sync::{Mutex, OnceLock, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

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

/// How many policies have a condition with a status: condition, status, number.
pub type Tally = Vec<(&'static str, &'static str, i64)>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ByOutcome, Counter>,
    seconds: Histogram,
    writes: Family<ByWrite, Counter>,
    watch_errors: Family<ByKind, Counter>,
    unreadable: Family<ByKind, Counter>,
    late_events: Family<ByKind, Counter>,
    live_reads: Family<ByKind, Counter>,
    policies: Family<ByCondition, Gauge>,
    panics: Counter<u64, AtomicU64>,
    missing_fields: Gauge,
    leader: Gauge,
    lease_seconds: Histogram,
    lease_failures: Counter,
    questions: Family<ByQuestion, Counter>,
    answer_age: Gauge,
    answered: Mutex<Option<Instant>>,
    tally: OnceLock<Box<dyn Fn() -> Tally + Send + Sync>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Seconds: a reconcile without writes takes less than a millisecond, one with three slow ones 30 s.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("resilience_operator");
        let reconciles = Family::default();
        registry.register("reconciles", "Reconciles by how they ended", reconciles.clone());
        let seconds = Histogram::new(BUCKETS);
        registry.register("reconcile_seconds", "How long a reconcile took, its writes included", seconds.clone());
        let writes = Family::default();
        registry.register("writes", "Writes that the API server took, by kind and verb", writes.clone());
        let watch_errors = Family::default();
        registry.register("watch_errors", "Watches that broke and were started anew", watch_errors.clone());
        let unreadable = Family::default();
        registry.register(
            "unreadable_objects",
            "Objects of a watch that are not of the types we know",
            unreadable.clone(),
        );
        let late_events = Family::default();
        let help = "Objects that a watch or a list told of later than our own calls had";
        registry.register("late_events", help, late_events.clone());
        let live_reads = Family::default();
        let help = "Objects that were read since no watch had shown what we wrote, or a write's end is not known";
        registry.register("live_reads", help, live_reads.clone());
        let policies = Family::default();
        registry.register("policies", "Policies by condition and its status", policies.clone());
        let panics = Counter::default();
        registry.register("panics", "Reconciles that panicked: each is a bug", panics.clone());
        let missing_fields = Gauge::default();
        let help = "Fields that the operator may write and the installed Istio does not have";
        registry.register("istio_missing_fields", help, missing_fields.clone());
        let leader = Gauge::default();
        registry.register("leader", "1 if this replica leads, and so writes; 0 if it stands by", leader.clone());
        let lease_seconds = Histogram::new(BUCKETS);
        registry.register(
            "lease_seconds",
            "How long the API server took for a renewal of the lease",
            lease_seconds.clone(),
        );
        let lease_failures = Counter::default();
        registry.register("lease_failures", "Calls about the lease that failed", lease_failures.clone());
        let questions = Family::default();
        registry.register(
            "istiod_questions",
            "Questions to istiod about proxies, by how they ended",
            questions.clone(),
        );
        let answer_age = Gauge::default();
        let help = "Since istiod last told what proxies have; -1: it never did, or nobody asks";
        registry.register("istiod_answer_age_seconds", help, answer_age.clone());
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        Self {
            registry,
            reconciles,
            seconds,
            writes,
            watch_errors,
            unreadable,
            late_events,
            live_reads,
            policies,
            panics,
            missing_fields,
            leader,
            lease_seconds,
            lease_failures,
            questions,
            answer_age,
            answered: Mutex::default(),
            tally: OnceLock::new(),
        }
    }
}

impl Metrics {
    /// A reconcile ended.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ByOutcome { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
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

    /// Who counts policies; asked at each scrape, so that nothing is counted for nobody.
    pub fn tally_with(&self, tally: impl Fn() -> Tally + Send + Sync + 'static) {
        // The first one stays: there is one controller in a process.
        let _taken = self.tally.set(Box::new(tally));
    }

    /// All of it in the text format.
    ///
    /// # Errors
    /// If a metric cannot be written, which a `String` does not do.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        if let Some(tally) = self.tally.get() {
            for (condition, status, number) in tally() {
                self.policies.get_or_create(&ByCondition { condition, status }).set(number);
            }
        }
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        self.answer_age.set(answered.map_or(-1, |at| i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX)));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
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
        metrics.panicked();
        metrics.missing(3);
        metrics.leads(true);
        metrics.lease_renewed(Duration::from_millis(3));
        metrics.lease_failed();
        metrics.asked_istiod("syncz", "answered");
        assert!(metrics.encode().unwrap().contains("resilience_operator_istiod_answer_age_seconds -1"));
        metrics.istiod_answered();
        metrics.tally_with(|| vec![("Ready", "True", 4)]);
        let text = metrics.encode().unwrap();
        for line in [
            r#"resilience_operator_reconciles_total{outcome="programmed"} 1"#,
            r#"resilience_operator_reconcile_seconds_bucket{le="0.005"} 1"#,
            r#"resilience_operator_writes_total{kind="DestinationRule",verb="create"} 1"#,
            r#"resilience_operator_watch_errors_total{kind="Service"} 1"#,
            r#"resilience_operator_policies{condition="Ready",status="True"} 4"#,
            r#"resilience_operator_unreadable_objects_total{kind="Service"} 1"#,
            r#"resilience_operator_late_events_total{kind="DestinationRule"} 1"#,
            r#"resilience_operator_live_reads_total{kind="DestinationRule"} 1"#,
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
