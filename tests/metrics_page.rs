//! `docs/metrics.md` names every metric, from the code that counts, so that none comes, goes or is renamed in
//! silence; and what is served is what it says. The conventions are for `promtool check metrics` to judge.
//!
//! `UPDATE_GOLDEN=1 cargo test metrics_page` writes the page anew.

use std::fmt::Write as _;

use resilience_operator::runtime::metrics::{Metrics, Tally, classic, limits};

use crate::support::{difference, read, root};

const HEAD: &str = "# Metrics of the operator

Served by each replica at `:8080/metrics`, in the text format of Prometheus or, to who asks for it, of OpenMetrics.
Times are in seconds. A histogram has `_bucket`, `_sum` and `_count` behind its name. No label holds a name of an
object: the number of series does not grow with the number of policies. Only the replica that leads reconciles; what
is counted of policies each replica counts from its own caches, so take the greatest, not the sum.
[Monitoring](monitoring.md) tells what to make of them, and what proxies tell.

| metric | type | labels | |
|---|---|---|---|
";

const LIMITS: &str = "
## Limits by policy

Apart, at `:8080/metrics/policies`, and only with `--limit-metrics` (the component `deploy/limit-metrics`): it has
names in its labels and grows with the number of policies. Without it all is told but how full a limit is.

| metric | type | labels | |
|---|---|---|---|
";

#[test]
fn every_metric_is_in_the_documentation() {
    let mut page = HEAD.to_owned();
    let metrics = Metrics::default();
    for one in metrics.described() {
        let labels = one.labels.replace('|', "\\|");
        let _ = writeln!(page, "| `{}` | {} | {labels} | {}. |", one.name, one.kind, one.help);
    }
    page.push_str(LIMITS);
    let labels = "`policy_namespace`, `policy`: of the policy; `destination_service`, `destination_port`: its target, as Istio names it; `limit`: `connections`, `pendingRequests` or `activeRequests`";
    let _ = writeln!(page, "| `{}` | gauge | {labels} | {}. |", limits::NAME, limits::HELP);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(root().join("docs/metrics.md"), &page).unwrap();
    }
    let have = read("docs/metrics.md");
    let hint = "docs/metrics.md is stale: UPDATE_GOLDEN=1 cargo test metrics_page";
    assert!(have == page, "{hint}\n{}", difference(&have, &page));
}

#[test]
fn every_metric_is_served_under_its_documented_name_with_its_type() {
    let metrics = Metrics::default();
    // One of each that has labels: what nobody has counted yet is not served.
    metrics.reconciled("programmed", std::time::Duration::ZERO);
    metrics.wrote("DestinationRule", "create");
    metrics.watch_broke("Service");
    metrics.unread("Service");
    metrics.told_late("Service");
    metrics.read_live("Service");
    metrics.asked_istiod("syncz", "answered");
    metrics.tally_with(|| Tally {
        conditions: vec![("Ready", "True", 1)],
        reasons: vec![("Ready", "True", "Ready", 1)],
        warnings: vec![("RES010".to_owned(), 0)],
        ..Tally::default()
    });
    let text = classic(&metrics.encode().unwrap());
    for one in metrics.described() {
        let head = format!("# TYPE {} {}\n", one.name, one.kind);
        assert!(text.contains(&head), "{head}is missing in\n{text}");
        let is_sample = |line: &str| line.starts_with(&one.name) && !line.starts_with('#');
        assert!(text.lines().any(is_sample), "no sample of {} in\n{text}", one.name);
    }
    assert_eq!(text.matches("# TYPE ").count(), metrics.described().len(), "more is served than is documented");
}
