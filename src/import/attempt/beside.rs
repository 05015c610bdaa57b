//! What stands in a rule beside the blocks that a policy has words for.

use serde_json::{Value, json};

use super::{
    super::{
        left::{self, left},
        report::{Fate, Left},
        rule::meaning,
        words::{fields, items},
    },
    Attempt, Part,
};
use crate::istio::Existing;

impl Attempt<'_> {
    /// What stands in a rule beside the blocks that have words: what it must stay for, and what Istio ignores.
    pub(super) fn beside_blocks(&self, rule: &Existing) -> (Vec<Left>, Vec<Left>) {
        let (mut rest, mut ignored) = (Vec::new(), Vec::new());
        let mut stays = |path: String, value: &Value| {
            let message = left::of_rule(path.strip_prefix("spec.").unwrap_or(&path));
            rest.push(left(rule, &path, value, Fate::Stays, message));
        };
        for (key, value) in fields(Some(&rule.spec)) {
            let known = match key.as_str() {
                "host" | "trafficPolicy" => true,
                "exportTo" => *value == json!(["*"]) || *value == json!([]),
                _ => *value == json!([]),
            };
            if !known {
                stays(format!("spec.{key}"), value);
            }
        }
        let top = rule.spec.get("trafficPolicy").cloned().unwrap_or_default();
        let entries = items(&top, "portLevelSettings").iter().enumerate();
        let entries = entries.map(|(index, entry)| (format!("spec.trafficPolicy.portLevelSettings[{index}]"), entry));
        for (path, policy) in [("spec.trafficPolicy".to_owned(), &top)].into_iter().chain(entries) {
            let port = policy.pointer("/port/number").and_then(Value::as_u64);
            if port.is_some_and(|port| !self.group.service.ports.iter().any(|one| u64::from(one.number) == port)) {
                let message = "the target has no such port";
                ignored.push(left(rule, &path, &port.into(), Fate::Ignored, message));
                continue;
            }
            let ejects = policy.get("outlierDetection").is_some_and(|block| !block.is_null());
            let said = meaning(policy);
            for (key, value) in &said {
                let block = key.split('.').next().unwrap_or_default();
                let known = match key.as_str() {
                    "loadBalancer.localityLbSetting.enabled" => ejects && *value == json!(false),
                    _ => {
                        Part::OF_RULE.iter().any(|part| part.field() == block)
                            || matches!(block, "port" | "portLevelSettings")
                    }
                };
                if !known {
                    stays(format!("{path}.{key}"), value);
                }
            }
            if let Some(errors) = policy.pointer("/outlierDetection/consecutiveErrors") {
                let message = "is deprecated, and read by nobody: consecutive5xxErrors is what counts";
                ignored.push(left(
                    rule,
                    &format!("{path}.outlierDetection.consecutiveErrors"),
                    errors,
                    Fate::Ignored,
                    message,
                ));
            }
            if let Some(retries) =
                policy.pointer("/connectionPool/http/maxRetries").filter(|_| said.contains_key("retryBudget.percent"))
            {
                let message = "Envoy takes the budget beside it";
                ignored.push(left(
                    rule,
                    &format!("{path}.connectionPool.http.maxRetries"),
                    retries,
                    Fate::Ignored,
                    message,
                ));
            }
        }
        (rest, ignored)
    }
}
