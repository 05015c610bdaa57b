//! Metrics and what is said of them, in one place: what is registered without words does not compile.

use prometheus_client::{
    encoding::EncodeMetric,
    metrics::info::Info,
    registry::{Metric, Registry},
};

/// What stands before every name.
const PREFIX: &str = "resilience_operator";

/// A metric, for the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As a scraper knows it; a histogram has `_bucket`, `_sum` and `_count` behind it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Its labels, each between backticks, with what they hold; empty: none.
    pub labels: &'static str,
}

/// The registry and its table of contents.
#[derive(Debug)]
pub(super) struct Book {
    registry: Registry,
    described: Vec<Described>,
}

impl Default for Book {
    fn default() -> Self {
        Self { registry: Registry::with_prefix(PREFIX), described: Vec::new() }
    }
}

impl Book {
    /// Registers a metric under a name without its prefix and without the suffix of its type.
    pub(super) fn add<M: Metric + Clone>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static str,
        metric: M,
    ) -> M {
        self.registry.register(name, help, metric.clone());
        let (kind, suffix) = super::text::shown(EncodeMetric::metric_type(&metric).as_str());
        self.described.push(Described { name: format!("{PREFIX}_{name}{suffix}"), kind, help, labels });
        metric
    }

    /// And what never changes.
    pub(super) fn with_info(
        mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static str,
        info: Info<Vec<(&'static str, &'static str)>>,
    ) -> Self {
        self.registry.register(name, help, info);
        let (kind, suffix) = super::text::shown("info");
        self.described.push(Described { name: format!("{PREFIX}_{name}{suffix}"), kind, help, labels });
        self
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn described(&self) -> &[Described] {
        &self.described
    }
}
