//! Faults of the world around, one at a time, on a clock that jumps: what `tests/explore.rs` does not play
//! with, and what is to be seen exactly. docs/faults.md has the list.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use resilience_operator::controller::Options;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    fake::{Delivery, Fake, Fault, State},
    reconcile::{
        DR, Operator, POLICIES, VS, condition, fake_with, policy, service, settle, until, until_programmed,
        writes_but_markers,
    },
};

const LIMIT: &str = "/spec/trafficPolicy/connectionPool/http/http2MaxRequests";
const RESYNC: Duration = Duration::from_mins(1);
/// By then, what follows at once has followed.
const MOMENT: Duration = Duration::from_secs(2);

fn limit(fake: &Fake, limit: u32) {
    fake.patch(POLICIES, "web", &json!({"spec": {"limits": {"perClient": {"activeRequests": limit}}}}));
}

async fn until_limited(fake: &Fake, limit: u32) {
    let held = || fake.get(DR, "web").is_some_and(|rule| rule.pointer(LIMIT) == Some(&json!(limit)));
    until(&format!("the limit is {limit}"), held).await;
}

fn quick() -> Options {
    Options { istiod_address: String::new(), resync: RESYNC, ..Options::default() }
}

async fn programmed() -> (Fake, Operator) {
    let fake = fake_with(&["web"]);
    let operator = Operator::start_with(&fake, quick());
    until_programmed(&fake, "web").await;
    (fake, operator)
}

/// The next event of a kind is never told.
fn lose_the_next(fake: &Fake, plural: &'static str) {
    let mut lost = false;
    fake.state().hooks.event = Some(Box::new(move |told| {
        if lost || told != plural {
            return Delivery::Now;
        }
        lost = true;
        Delivery::Never
    }));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_behind_our_own_writes_undoes_and_repeats_none_of_them() {
    let fake = fake_with(&["web"]);
    fake.state().hold(DR);
    fake.state().hold(VS);
    let operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    limit(&fake, 7);
    until_limited(&fake, 7).await;
    sleep(MOMENT).await;
    assert_eq!(
        fake.writes(),
        [
            "create destinationrules/web",
            "create virtualservices/web",
            "status resiliences/web",
            "update destinationrules/web",
            "status resiliences/web"
        ]
    );
    let read = r#"resilience_operator_live_reads_total{kind="DestinationRule"} 1"#;
    assert!(!operator.counted(read));

    // Its patience is over: what no watch has shown is read before it is decided upon.
    sleep(Duration::from_secs(10)).await;
    limit(&fake, 8);
    until_limited(&fake, 8).await;
    assert!(operator.counted(read), "{}", operator.metrics.encode().unwrap());
    sleep(MOMENT).await;
    fake.state().release(&[].into());
    sleep(MOMENT).await;
    assert_eq!(fake.writes().len(), 7, "{:?}", fake.writes());
    let late = r#"resilience_operator_late_events_total{kind="DestinationRule"} 2"#;
    assert!(operator.counted(late), "{}", operator.metrics.encode().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_end_is_not_known_is_looked_for_and_not_made_again() {
    for call in ["create destinationrules/web", "create virtualservices/web"] {
        for fault in [Fault::Lose, Fault::AnswerAfter(504, "etcdserver: request timed out")] {
            let fake = fake_with(&["web"]);
            fake.state().hold(DR);
            fake.state().hold(VS);
            fake.fault(call, fault);
            let _operator = Operator::start(&fake);
            until_programmed(&fake, "web").await;
            let writes = fake.writes();
            assert_eq!(writes.iter().filter(|write| *write == call).count(), 1, "{writes:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_in_the_moment_in_which_the_status_is_written_is_not_missed() {
    let fake = fake_with(&["web"]);
    let edit = json!({"spec": {"limits": {"perClient": {"activeRequests": 7}}}});
    let faster = Box::new(move |state: &mut State| state.patch(POLICIES, "web", &edit));
    fake.fault("status resiliences/web", Fault::Before(faster));
    let _operator = Operator::start(&fake);
    until_limited(&fake, 7).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_never_told_shows_in_the_next_list() {
    let (fake, _operator) = programmed().await;
    lose_the_next(&fake, VS);
    fake.delete(VS, "web");
    sleep(MOMENT).await;
    assert!(fake.get(VS, "web").is_none(), "it was told");
    sleep(RESYNC).await;
    assert!(fake.get(VS, "web").is_some());
}

#[tokio::test(start_paused = true)]
async fn there_and_back_between_two_looks_writes_no_rule() {
    let (fake, _operator) = programmed().await;
    lose_the_next(&fake, POLICIES);
    limit(&fake, 7);
    limit(&fake, 5);
    sleep(MOMENT).await;
    assert_eq!(fake.writes()[3..], ["status resiliences/web"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_was_made_anew_unseen_has_objects_of_its_own() {
    let (fake, _operator) = programmed().await;
    lose_the_next(&fake, POLICIES);
    fake.delete(POLICIES, "web");
    fake.put(POLICIES, policy("web"));
    until_programmed(&fake, "web").await;
    let uid = fake.get(POLICIES, "web").unwrap()["metadata"]["uid"].clone();
    fake.state().collect();
    for plural in [DR, VS] {
        assert_eq!(fake.get(plural, "web").unwrap()["metadata"]["ownerReferences"][0]["uid"], uid, "{plural}");
    }
}

#[tokio::test(start_paused = true)]
async fn however_a_watch_ends_what_happens_then_is_seen_and_nothing_else_done() {
    type End = fn(&Fake);
    let ends: [(&str, End); 5] = [
        ("the end", |fake| fake.end_watches(VS, "")),
        ("the end in the middle of a line", |fake| fake.end_watches(VS, r#"{"type":"MODIFIED","obj"#)),
        ("nonsense", |fake| fake.end_watches(VS, "no\n")),
        ("410", |fake| fake.break_watches(VS)),
        ("410 for the next one", |fake| {
            fake.fault("list virtualservices", Fault::Answer(410, "too old resource version"));
            fake.end_watches(VS, "");
        }),
    ];
    for (how, end) in ends {
        let (fake, _operator) = programmed().await;
        end(&fake);
        fake.delete(VS, "web");
        until(&format!("the routes are back after {how}"), || fake.get(VS, "web").is_some()).await;
        sleep(MOMENT).await;
        assert_eq!(fake.writes()[3..], ["create virtualservices/web"], "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_or_breaks_takes_nothing_away() {
    let (fake, _operator) = programmed().await;
    for (code, message) in [(500, "no"), (410, "too old"), (200, "no list")] {
        fake.fault("list virtualservices", Fault::Answer(code, message));
    }
    fake.break_watches(VS);
    settle(&fake).await;
    sleep(RESYNC).await;
    assert_eq!(writes_but_markers(&fake).len(), 3, "{:?}", writes_but_markers(&fake));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_is_found_out_within_two_minutes() {
    let fake = fake_with(&["web"]);
    let _operator = Operator::start(&fake);
    until_programmed(&fake, "web").await;
    fake.state().silence(VS);
    fake.delete(VS, "web");
    sleep(MOMENT).await;
    assert!(fake.get(VS, "web").is_none(), "it was told");
    sleep(Duration::from_mins(2)).await;
    assert!(fake.get(VS, "web").is_some());
}

#[tokio::test(start_paused = true)]
async fn one_right_that_is_missing_holds_up_that_alone_and_heals_without_a_restart() {
    let fake = fake_with(&["web"]);
    let message = r#"virtualservices.networking.istio.io is forbidden: User "operator" cannot patch"#;
    fake.fault("create virtualservices/web", Fault::Answer(403, message));
    let _operator = Operator::start(&fake);
    until("web failed", || condition(&fake, "web", "Programmed") == "False/WriteFailed").await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(fake.writes().len(), 3, "{:?}", fake.writes());
    assert!(fake.get(DR, "web").is_some());
    sleep(Duration::from_secs(10)).await;
    assert_eq!(condition(&fake, "web", "Programmed"), "True/Programmed");
}

#[tokio::test(start_paused = true)]
async fn a_label_or_an_owner_that_was_stripped_comes_back() {
    for metadata in [json!({"labels": null}), json!({"ownerReferences": null})] {
        let (fake, _operator) = programmed().await;
        let before = fake.get(DR, "web").unwrap();
        fake.patch(DR, "web", &json!({ "metadata": metadata }));
        sleep(MOMENT).await;
        let after = fake.get(DR, "web").unwrap();
        for key in ["labels", "ownerReferences", "uid"] {
            assert_eq!(after["metadata"][key], before["metadata"][key], "{metadata}");
        }
        assert_eq!(fake.writes()[3..], ["update destinationrules/web"], "{metadata}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_leaves_behind_is_known_by_its_label_when_its_owner_was_stripped() {
    let (fake, _operator) = programmed().await;
    // Suspended, it does not mend them.
    fake.patch(POLICIES, "web", &json!({"spec": {"mode": "Suspend"}}));
    sleep(MOMENT).await;
    for plural in [DR, VS] {
        fake.patch(plural, "web", &json!({"metadata": {"ownerReferences": null}}));
    }
    sleep(MOMENT).await;
    assert!(fake.get(DR, "web").unwrap()["metadata"]["ownerReferences"].is_null());
    fake.delete(POLICIES, "web");
    sleep(MOMENT).await;
    assert!(fake.get(DR, "web").is_none() && fake.get(VS, "web").is_none());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_something_holds_is_waited_for_and_not_taken_for_gone() {
    let (fake, _operator) = programmed().await;
    fake.patch(DR, "web", &json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    fake.delete(POLICIES, "web");
    until("the rule is on its way out", || {
        fake.get(DR, "web").is_some_and(|rule| !rule["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    fake.put(POLICIES, policy("web"));
    sleep(MOMENT).await;
    assert_ne!(condition(&fake, "web", "Programmed"), "True/Programmed");
    fake.delete(DR, "web");
    until_programmed(&fake, "web").await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_goes_while_its_objects_are_made_leaves_none() {
    for call in ["create destinationrules/web", "create virtualservices/web", "status resiliences/web"] {
        let fake = fake_with(&["web"]);
        let gone = Box::new(|state: &mut State| state.delete(POLICIES, "web"));
        fake.fault(call, Fault::Before(gone));
        let _operator = Operator::start(&fake);
        until("it is gone", || fake.get(POLICIES, "web").is_none()).await;
        sleep(MOMENT).await;
        assert!(fake.get(DR, "web").is_none() && fake.get(VS, "web").is_none(), "before {call}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_namespace_on_its_way_out_nothing_is_tried_again_soon() {
    let fake = fake_with(&["web"]);
    let message =
        "destinationrules is forbidden: unable to create new content in namespace ns because it is being terminated";
    fake.fault("create destinationrules/web", Fault::Answer(403, message));
    let _operator = Operator::start(&fake);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(fake.writes(), ["create destinationrules/web", "status resiliences/web"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_goes_with_its_objects_is_written_anew_when_it_is_back() {
    let (fake, _operator) = programmed().await;
    for _ in 0..3 {
        fake.fault("list virtualservices", Fault::Answer(404, "404 page not found"));
    }
    fake.break_watches(VS);
    fake.delete(VS, "web");
    until("the routes are back", || fake.get(VS, "web").is_some()).await;
    assert_eq!(fake.writes()[3..], ["create virtualservices/web"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_we_write_is_held_by_us() {
    let (fake, _operator) = programmed().await;
    for plural in [DR, VS, POLICIES] {
        let held = fake.get(plural, "web").unwrap()["metadata"]["finalizers"].clone();
        assert_eq!(held, Value::Null, "{plural}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_that_fail_hold_up_nobody_and_come_back_together_with_the_api_server() {
    const MANY: usize = 100;
    let names: Vec<String> = (0..MANY).map(|number| format!("bad-{number}")).collect();
    let fake = fake_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (away, tried) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_away, count) = (away.clone(), tried.clone());
    fake.state().hooks.call = Some(Box::new(move |call| {
        let fails = call.contains("/bad-") && is_away.load(Ordering::Relaxed);
        count.fetch_add(usize::from(fails), Ordering::Relaxed);
        fails.then_some(Fault::Answer(503, "away"))
    }));
    let _operator = Operator::start(&fake);
    sleep(Duration::from_mins(1)).await;
    fake.put("services", service("good"));
    fake.put(POLICIES, policy("good"));
    sleep(MOMENT).await;
    assert_eq!(condition(&fake, "good", "Programmed"), "True/Programmed");
    // A write and a status, or a read, at each of some seven tries.
    assert!(tried.load(Ordering::Relaxed) < MANY * 20, "{tried:?} calls in a minute");
    away.store(false, Ordering::Relaxed);
    sleep(Duration::from_mins(5)).await;
    for name in &names {
        assert_eq!(condition(&fake, name, "Programmed"), "True/Programmed", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_takes_holds_up_no_policy() {
    let fake = fake_with(&["a", "b", "c"]);
    // Each is waited for until its deadline.
    fake.state().hooks.call = Some(Box::new(|call| call.contains("events/").then_some(Fault::Hang)));
    let _operator = Operator::start_with(&fake, Options { concurrency: 1, ..quick() });
    let begun = tokio::time::Instant::now();
    for policy in ["a", "b", "c"] {
        until_programmed(&fake, policy).await;
    }
    // By the clock that jumps.
    assert!(begun.elapsed() < MOMENT, "{:?}", begun.elapsed());
    until("an event is told of", || !fake.events().is_empty()).await;
}
