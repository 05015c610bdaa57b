//! Which of several rules counts for a client, and what a rule's host means.

use anyhow::Result;
use serde_json::{Value, json};

use super::{NEAR, well};
use crate::config_dump::ConfigDump;
use crate::kubectl::Kubectl;
use crate::measured::Claim;
use crate::measured::bench::{Bench, by_rule, cluster, rule, same, service, source, threshold, with_spec};
use crate::scenarios::stage::SOON;
use crate::wait::Seen;

const PORT: u16 = 80;

pub(super) const CLAIMS: &[Claim<Bench>] = &[
    Claim {
        ids: &["R1.1a"],
        says: "a dotted short host matches nothing; one without a dot is a Service of the rule's namespace",
        judge: a_dotted_short_host_matches_nothing,
    },
    Claim {
        ids: &["R1.1c"],
        says: "a rule's host is taken letter by letter: one with a capital matches nothing; a VirtualService's is not",
        judge: a_host_with_a_capital,
    },
    Claim {
        ids: &["R1.1d"],
        says: "a ServiceEntry's host is taken letter by letter: a rule for it needs its capitals",
        judge: an_entrys_host_with_a_capital,
    },
    Claim {
        ids: &["R1.2a"],
        says: "clients of other namespaces get the rule of the Service's namespace",
        judge: clients_elsewhere_get_the_rule,
    },
    Claim {
        ids: &["R1.2b"],
        says: "a rule that is being deleted but held still counts",
        judge: a_rule_that_is_held_counts,
    },
    Claim {
        ids: &["R1.3a"],
        says: "of two rules as old, the first by name counts",
        judge: names_decide_between_equals,
    },
    Claim {
        ids: &["R1.3b"],
        says: "subsets of a younger rule count, with the older's policy",
        judge: subsets_of_the_younger_count,
    },
    Claim {
        ids: &["R1.3c"],
        says: "an older rule without a traffic policy leaves the younger's in force",
        judge: an_older_rule_without_a_policy,
    },
    Claim {
        ids: &["R1.4"],
        says: "exportTo unset and exportTo * are unequal: the younger of the two counts",
        judge: unset_and_everywhere_are_unequal,
    },
    Claim {
        ids: &["R1.5"],
        says: "a rule with a workloadSelector takes its workloads whole and leaves others alone",
        judge: a_selector_leaves_others_alone,
    },
];

/// A Service of the claim's own, so that nothing is left of the claim before.
fn target(bench: &Bench, name: &str) -> Result<()> {
    bench.apply(&[service(name, Some(well()), &json!([{"name": "http", "port": PORT, "targetPort": 8080}]))])
}

fn requests(number: u32) -> Value {
    json!({"connectionPool": {"http": {"http2MaxRequests": number}}})
}

fn limit(bench: &Bench, dump: &ConfigDump, service: &str) -> Result<Option<u64>> {
    Ok(threshold(cluster(dump, &bench.cluster(service, PORT))?, "max_requests"))
}

fn a_dotted_short_host_matches_nothing(bench: &Bench) -> Result<()> {
    target(bench, "dotted")?;
    target(bench, "undotted")?;
    let short = format!("dotted.{}", bench.kubectl.current_namespace());
    bench.apply(&[rule("r11a-dotted", &short, requests(1)), rule("r11a-svc", &format!("{short}.svc"), requests(1))])?;
    // What comes later is there: so is what came before, if anywhere.
    let dump = bench.rule("r11a-undotted", "undotted", PORT, requests(2))?;
    same("the rule of the undotted host", &limit(bench, &dump, "undotted")?, &Some(2))?;
    same("the limit of the dotted host", &limit(bench, &dump, "dotted")?, &None)
}

fn a_host_with_a_capital(bench: &Bench) -> Result<()> {
    target(bench, "casing")?;
    target(bench, "later")?;
    bench.apply(&[rule("r11c-capital", "Casing", requests(1))])?;
    let dump = bench.rule("r11c-later", "later", PORT, requests(2))?;
    same("the limit by a host with a capital", &limit(bench, &dump, "casing")?, &None)?;
    let route = json!([{"destination": {"host": "casing", "port": {"number": PORT}}}]);
    let spec = json!({"hosts": ["Casing"], "http": [{"route": route, "timeout": "3s"}]});
    bench.apply(&[with_spec("VirtualService", "r11c-routes", &spec)])?;
    bench.until_routes("r11c-routes", "casing", PORT).map(drop)
}

fn an_entrys_host_with_a_capital(bench: &Bench) -> Result<()> {
    let of = |name: &str, host: &str| {
        let endpoints = json!([{"address": "192.0.2.1"}]);
        super::targets::entry(name, &json!({"hosts": [host], "resolution": "STATIC", "endpoints": endpoints}))
    };
    bench.apply(&[
        of("small", "Small.Example.org"),
        of("capital", "Capital.Example.org"),
        rule("r11d-small", "small.example.org", requests(1)),
        rule("r11d-capital", "Capital.Example.org", requests(2)),
    ])?;
    let (small, capital) = ("outbound|80||Small.Example.org", "outbound|80||Capital.Example.org");
    let dump = bench.until("the client has the rule with capitals", |dump| by_rule(dump, capital, "r11d-capital"))?;
    same("its limit", &threshold(cluster(&dump, capital)?, "max_requests"), &Some(2))?;
    same("the limit by a host without capitals", &threshold(cluster(&dump, small)?, "max_requests"), &None)
}

fn clients_elsewhere_get_the_rule(bench: &Bench) -> Result<()> {
    target(bench, "visited")?;
    bench.apply(&[rule("r12a", "visited", requests(7))])?;
    let name = bench.cluster("visited", PORT);
    let elsewhere = Bench::new(&bench.kubectl.namespace(crate::workloads::NAMESPACE));
    let dump = elsewhere.until("a client elsewhere has the rule", |dump| by_rule(dump, &name, "r12a"))?;
    same("its limit", &threshold(cluster(&dump, &name)?, "max_requests"), &Some(7))
}

/// What would keep the namespace from going.
struct Held<'a>(&'a Kubectl, &'static str);

impl Held<'_> {
    fn release(&self) -> Result<()> {
        let none = r#"{"metadata": {"finalizers": null}}"#;
        let patched = self.0.try_run(&["patch", "destinationrule", self.1, "--type=merge", "-p", none])?;
        anyhow::ensure!(
            patched.status.success() || patched.all().contains("NotFound"),
            "{} is not released: {}",
            self.1,
            patched.all()
        );
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("{error:#}");
        }
    }
}

fn a_rule_that_is_held_counts(bench: &Bench) -> Result<()> {
    target(bench, "held")?;
    target(bench, "later")?;
    let held = Held(&bench.kubectl, "r12b-held");
    let mut first = rule(held.1, "held", requests(1));
    first["metadata"]["finalizers"] = json!(["lab.resilience.dev/held"]);
    bench.apply(&[first])?;
    bench.until_rule(held.1, "held", PORT)?;
    bench.apply_younger(("destinationrule", held.1), &rule("r12b-next", "held", requests(2)))?;
    bench.kubectl.run(&["delete", "destinationrule", held.1, "--wait=false"])?;
    let dump = bench.rule("r12b-later", "later", PORT, requests(3))?;
    same("the limit while the rule is being deleted", &limit(bench, &dump, "held")?, &Some(1))?;
    held.release()?;
    bench.until_rule("r12b-next", "held", PORT).map(drop)
}

fn names_decide_between_equals(bench: &Bench) -> Result<()> {
    target(bench, "equals")?;
    bench.kubectl.until("two rules are as old", SOON, |kubectl| {
        bench.apply(&[rule("r13a-second", "equals", requests(2)), rule("r13a-first", "equals", requests(1))])?;
        let rules = kubectl.json(&["get", "destinationrule", "r13a-second", "r13a-first"])?;
        if rules["items"][0]["metadata"]["creationTimestamp"] == rules["items"][1]["metadata"]["creationTimestamp"] {
            return Ok(Seen::Done(()));
        }
        kubectl.run(&["delete", "destinationrule", "r13a-second", "r13a-first", "--wait"])?;
        Ok(Seen::NotYet("one is older".to_owned()))
    })?;
    let dump = bench.until_rule("r13a-first", "equals", PORT)?;
    same("the limit", &limit(bench, &dump, "equals")?, &Some(1))
}

fn subsets_of_the_younger_count(bench: &Bench) -> Result<()> {
    target(bench, "subsets")?;
    // By name the younger one would come first.
    bench.rule("r13b-second", "subsets", PORT, requests(1))?;
    let mut younger = rule("r13b-first", "subsets", requests(2));
    younger["spec"]["subsets"] = json!([{"name": "v1", "labels": {"version": "v1"}}]);
    bench.apply_younger(("destinationrule", "r13b-second"), &younger)?;
    let subset = format!("outbound|{PORT}|v1|{}", bench.host("subsets"));
    let dump = bench.until("the client has the subset", |dump| {
        dump.cluster(&subset).map(drop).ok_or_else(|| "not yet".to_owned())
    })?;
    same("the subset's limit", &threshold(cluster(&dump, &subset)?, "max_requests"), &Some(1))?;
    same("the limit", &limit(bench, &dump, "subsets")?, &Some(1))
}

fn an_older_rule_without_a_policy(bench: &Bench) -> Result<()> {
    target(bench, "unruled")?;
    let subsets = json!([{"name": "v1", "labels": {"version": "v1"}}]);
    bench.apply(&[with_spec("DestinationRule", "r13c-older", &json!({"host": "unruled", "subsets": subsets}))])?;
    bench.apply_younger(("destinationrule", "r13c-older"), &rule("r13c-younger", "unruled", requests(2)))?;
    // A cluster of two rules names the older.
    let name = bench.cluster("unruled", PORT);
    let subset = format!("outbound|{PORT}|v1|{}", bench.host("unruled"));
    let dump = bench.until("the younger's policy is in force", |dump| {
        let seen = dump.cluster(&name).and_then(|cluster| threshold(cluster, "max_requests"));
        if seen == Some(2) { Ok(()) } else { Err(format!("{seen:?}")) }
    })?;
    same("the subset's limit", &threshold(cluster(&dump, &subset)?, "max_requests"), &Some(2))
}

fn unset_and_everywhere_are_unequal(bench: &Bench) -> Result<()> {
    target(bench, "exported")?;
    bench.rule("r14-older", "exported", PORT, requests(1))?;
    let mut younger = rule("r14-younger", "exported", requests(2));
    younger["spec"]["exportTo"] = json!(["*"]);
    bench.apply_younger(("destinationrule", "r14-older"), &younger)?;
    let dump = bench.until_rule("r14-younger", "exported", PORT)?;
    same("the limit", &limit(bench, &dump, "exported")?, &Some(2))
}

fn a_selector_leaves_others_alone(bench: &Bench) -> Result<()> {
    for (number, service) in ["selector-first", "selector-last"].into_iter().enumerate() {
        target(bench, service)?;
        let (ours, theirs) = (format!("r15-ours-{number}"), format!("r15-selector-{number}"));
        let mut selecting = rule(&theirs, service, json!({"outlierDetection": {"consecutive5xxErrors": 9}}));
        selecting["spec"]["workloadSelector"] = json!({"matchLabels": {"app": NEAR}});
        let plain = rule(&ours, service, requests(1));
        let (older, younger) = if number == 0 { (&selecting, &plain) } else { (&plain, &selecting) };
        bench.apply(std::slice::from_ref(older))?;
        let first = older["metadata"]["name"].as_str().unwrap_or_default();
        bench.apply_younger(("destinationrule", first), younger)?;
        let name = bench.cluster(service, PORT);
        bench.until_at("deploy/near", "the selected client has the selector's rule", |dump| {
            let there = cluster(dump, &name).map_err(|error| error.to_string())?;
            let detection = there.pointer("/outlier_detection/consecutive_5xx");
            let whole = detection == Some(&json!(9)) && threshold(there, "max_requests").is_none();
            if whole { Ok(()) } else { Err(format!("{detection:?} by {}", source(there))) }
        })?;
        let dump = bench.until_rule(&ours, service, PORT)?;
        same("the limit of a client that is not selected", &limit(bench, &dump, service)?, &Some(1))?;
        let detection = cluster(&dump, &name)?.get("outlier_detection").cloned();
        same("its detection", &detection, &None)?;
    }
    Ok(())
}
