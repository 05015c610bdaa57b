//! Rules of a Sidecar (istio `pkg/config/validation/validation.go`, `ValidateSidecar`).

use serde_json::Value;

use super::{Fault, Stricter, check::Check};

/// Faults of a Sidecar's spec.
#[must_use]
pub fn sidecar_faults(spec: &Value) -> Vec<Fault> {
    let mut check = Check::default();
    let known = ["workloadSelector", "inboundConnectionPool"];
    let Some(spec) = check.object("spec", spec, &known) else { return check.faults };
    // «sidecar: empty configuration provided»: a selector alone is none.
    let pool = spec.get("inboundConnectionPool");
    check.istio(pool.is_some(), "spec", "must have inboundConnectionPool");
    check.connection_pool("spec.inboundConnectionPool", pool);
    check.workload_selector(spec.get("workloadSelector"));
    check.faults
}

impl Check {
    /// istio `ValidateAlphaWorkloadSelector`, and the CRD's bounds.
    fn workload_selector(&mut self, selector: Option<&Value>) {
        /// The CRD's `maxProperties`.
        const MOST: usize = 256;
        /// The CRD's `maxLength` of a value.
        const LONGEST: usize = 63;
        let path = "spec.workloadSelector";
        let mut selected = 0;
        if let Some(selector) = selector.and_then(|selector| self.object(path, selector, &["labels"])) {
            let path = format!("{path}.labels");
            let labels = selector.get("labels");
            self.istio(labels.is_none_or(Value::is_object), &path, "must be an object");
            for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
                // As of any map, an API server drops a null.
                self.ours(Stricter::WrittenNull, !value.is_null(), &path, &format!("{key} must not be null"));
                if value.is_null() {
                    continue;
                }
                selected += 1;
                let text = self.text(&path, Some(value));
                self.istio(!key.is_empty(), &path, "an empty key is no label");
                self.istio(!key.contains('*') && !text.contains('*'), &path, &format!("{key}={text} has a wildcard"));
                self.istio(text.chars().count() <= LONGEST, &path, &format!("{text} is longer than {LONGEST}"));
            }
            self.istio(selected <= MOST, &path, "must have at most 256 labels");
        }
        // Taken with a warning, or as the Sidecar of the whole namespace.
        self.ours(Stricter::SelectsAll, selected > 0, path, "must have a label, or it selects every workload");
    }
}
