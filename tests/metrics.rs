//! Metrics stay as many as they are, whatever objects are called and however many there are: a label with a
//! name in it would grow a scraper's memory at the will of whoever may create objects.

use std::collections::BTreeSet;

use resilience_operator::controller::Options;

use crate::{
    fake::Fake,
    reconcile::{DR, Operator, POLICIES, condition, foreign_rule, policy, service, until, until_programmed},
};

/// The series that there are after so many policies came, one was refused, and all went.
async fn series(names: &[String]) -> BTreeSet<String> {
    let fake = Fake::default();
    for name in names {
        fake.put("services", service(name));
        fake.put(POLICIES, policy(name));
    }
    let operator = Operator::start(&fake);
    for name in names {
        until_programmed(&fake, name).await;
    }
    fake.put("services", service("taken"));
    fake.put(DR, foreign_rule("in-the-way", "taken.ns.svc.cluster.local"));
    fake.put(POLICIES, policy("taken"));
    until("it is refused", || condition(&fake, "taken", "Accepted") == "False/Conflicted").await;
    for name in names {
        fake.delete(POLICIES, name);
    }
    until("what was generated is gone", || names.iter().all(|name| fake.get(DR, name).is_none())).await;
    let text = operator.metrics.encode().unwrap();
    for name in names.iter().map(String::as_str).chain(["taken", "in-the-way", "svc.cluster.local", "\"ns\""]) {
        assert!(!text.contains(name), "{name} is in a metric:\n{text}");
    }
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series.map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned()).collect()
}

#[tokio::test]
async fn what_policies_allow_is_told_by_name_and_only_where_it_was_opted_in_to() {
    for opted_in in [false, true] {
        let fake = Fake::default();
        fake.put("services", service("shop"));
        fake.put(POLICIES, policy("shop"));
        let operator = Operator::start_with(
            &fake,
            Options { limit_metrics: opted_in, istiod_address: String::new(), ..Options::default() },
        );
        until_programmed(&fake, "shop").await;
        if !opted_in {
            assert!(operator.metrics.encode_limits().is_none());
            continue;
        }
        let told = r#"policy="shop",destination_service="shop.ns.svc.cluster.local""#;
        until("the limit is told", || operator.metrics.encode_limits().unwrap().unwrap().contains(told)).await;
    }
}

#[tokio::test]
async fn the_lag_of_a_status_and_the_turn_of_a_policy_are_counted() {
    let fake = Fake::default();
    fake.put("services", service("shop"));
    fake.put(POLICIES, policy("shop"));
    let operator = Operator::start(&fake);
    until_programmed(&fake, "shop").await;
    until("its lag is counted", || operator.counted("resilience_operator_status_lag_seconds_count 1")).await;
    assert!(operator.counted("resilience_operator_unobserved_policies 0"));
    assert!(operator.counted("resilience_operator_unobserved_age_seconds 0"));
    let text = operator.metrics.encode().unwrap();
    let turns = text.lines().find_map(|line| line.strip_prefix("resilience_operator_queue_seconds_count ")).unwrap();
    assert!(turns.parse::<u64>().unwrap() > 0);
    let programmed =
        r#"resilience_operator_policies_by_reason{condition="Programmed",status="True",reason="Programmed"} 1"#;
    assert!(operator.counted(programmed), "{text}");
}

#[tokio::test]
async fn the_number_of_series_does_not_grow_with_the_names_of_objects() {
    let one = series(&["only-one".to_owned()]).await;
    let many: Vec<String> = (0..40).map(|number| format!("one-of-many-{number}")).collect();
    assert_eq!(series(&many).await, one);
}
