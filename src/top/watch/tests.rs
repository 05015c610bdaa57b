use super::*;
use crate::top::{Endpoint, Wanted};

const HOST: &str = "a.shop.svc.cluster.local";

fn proxy(pod: &str) -> Proxy {
    Proxy { namespace: "web".to_owned(), pod: pod.to_owned(), workload: Some("web".to_owned()) }
}

/// What a proxy says that sent `requests` to its one endpoint and counts so.
fn sample(requests: u64, counted: &[(&str, u64)]) -> Sample {
    let cluster = Cluster {
        limits: BTreeMap::from([("max_requests".to_owned(), 4)]),
        endpoints: BTreeMap::from([(
            "10.0.0.1:80".to_owned(),
            Endpoint { requests, active: 2, connections: 1, ..Endpoint::default() },
        )]),
        counted: counted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        ejection: None,
    };
    let target = Target { host: HOST.to_owned(), port: 80, subset: String::new() };
    Sample { clusters: BTreeMap::from([(target, cluster)]) }
}

fn after(watch: &mut Watch, seconds: u64, sample: Sample) -> Top {
    let reading = Reading { proxy: proxy("web-1"), taken: Duration::from_secs(seconds), sample: Ok(sample) };
    watch.take(Timestamp::UNIX_EPOCH, vec![reading], Vec::new())
}

/// Rates are quotients of small whole numbers here.
fn is(number: Option<f64>, wanted: f64) -> bool {
    number.is_some_and(|number| (number - wanted).abs() < 1e-9)
}

#[test]
fn two_readings_make_rates_and_one_makes_none() {
    let counted = |total, overflow| {
        [("upstream_rq_total", total), ("upstream_rq_pending_overflow", overflow), ("upstream_rq_active_overflow", 0)]
    };
    let mut watch = Watch::default();
    let first = &after(&mut watch, 0, sample(10, &counted(10, 5))).rows[0];
    assert_eq!((first.requests_per_s, first.refused.per_s), (None, None));
    assert_eq!(first.states, [State::Unknown]);
    let second = &after(&mut watch, 2, sample(40, &counted(40, 15))).rows[0];
    assert!(is(second.requests_per_s, 15.0) && is(second.refused.per_s, 5.0), "{second:?}");
    assert!(is(second.refused.percent, 25.0), "{second:?}");
    assert_eq!(second.states, [State::Limiting]);
    assert_eq!(second.history.requests_per_s.len(), 2);
    let third = &after(&mut watch, 4, sample(40, &counted(40, 15))).rows[0];
    assert_eq!(third.states, [State::Closed]);
    assert_eq!(third.refused.percent, None, "nothing was asked for");
}

#[test]
fn a_proxy_that_does_not_count_is_no_peaceful_zero() {
    let mut watch = Watch::default();
    after(&mut watch, 0, sample(10, &[]));
    let top = after(&mut watch, 2, sample(30, &[]));
    let row = &top.rows[0];
    assert_eq!((row.counted, row.refused.per_s, row.pending_requests.used), (false, None, None));
    assert_eq!(row.states, [State::Unknown]);
    // What `/clusters` always has is told all the same.
    assert!(is(row.requests_per_s, 10.0));
    assert_eq!(row.active_requests, Used { used: Some(2), allowed: Some(4) });
    assert_eq!(row.active_requests.percent(), Some(50));
    assert!(top.notes[0].contains("web/web-1") && top.notes[0].contains(SNIPPET), "{:?}", top.notes);
}

#[test]
fn where_there_is_no_endpoint_nobody_panics() {
    let counted = |total| [("lb_healthy_panic", total), ("upstream_cx_none_healthy", total)];
    let panics = |mut empty: Sample, total: u64, gone: bool| {
        if gone {
            empty.clusters.values_mut().for_each(|cluster| cluster.endpoints.clear());
        }
        let mut watch = Watch::default();
        after(&mut watch, 0, empty.clone());
        empty.clusters.values_mut().for_each(|cluster| {
            cluster.counted.extend(counted(total).map(|(name, count)| (name.to_owned(), count)));
        });
        after(&mut watch, 2, empty).rows[0].states.contains(&State::Panic)
    };
    assert!(panics(sample(10, &counted(5)), 9, false));
    assert!(!panics(sample(10, &counted(5)), 9, true));
}

#[test]
fn a_proxy_that_began_to_count_anew_has_no_rate() {
    let mut watch = Watch::default();
    let counted = |total| [("upstream_rq_total", total), ("upstream_rq_pending_overflow", total)];
    after(&mut watch, 0, sample(10, &counted(10)));
    let row = after(&mut watch, 2, sample(3, &counted(3))).rows.remove(0);
    assert_eq!((row.requests_per_s, row.refused.per_s, row.states), (None, None, vec![State::Unknown]));
}

#[test]
fn who_has_called_nothing_is_no_row_and_counts_as_idle() {
    let top = after(&mut Watch::default(), 0, sample(0, &[]));
    assert_eq!((top.rows.len(), top.idle), (0, 1));
    assert!(top.notes.is_empty(), "who calls nothing need not count: {:?}", top.notes);
}

#[test]
fn what_is_counted_from_the_first_call_on_was_zero_before() {
    let mut watch = Watch::default();
    after(&mut watch, 0, sample(0, &[]));
    let counted = [("upstream_rq_total", 8), ("upstream_rq_pending_overflow", 2)];
    let row = after(&mut watch, 2, sample(8, &counted)).rows.remove(0);
    assert!(is(row.requests_per_s, 4.0) && is(row.refused.per_s, 1.0), "{row:?}");
}

#[test]
fn a_retry_that_was_not_made_is_told_and_is_no_refused_request() {
    let mut watch = Watch::default();
    let counted = |retries| {
        [("upstream_rq_total", 5), ("upstream_rq_pending_overflow", 0), ("upstream_rq_retry_overflow", retries)]
    };
    after(&mut watch, 0, sample(5, &counted(0)));
    let row = after(&mut watch, 1, sample(5, &counted(3))).rows.remove(0);
    assert!(is(row.refused.per_s, 0.0));
    assert_eq!(row.states, [State::Closed]);
    let retries = row.refused.by_cause.iter().find(|line| line.cause == Cause::ConcurrentRetries);
    assert!(is(retries.and_then(|line| line.per_s), 3.0), "{row:?}");
}

#[test]
fn a_proxy_that_is_not_read_is_named_and_goes_on_where_it_was() {
    let mut watch = Watch::default();
    let counted = |total| [("upstream_rq_total", total)];
    after(&mut watch, 0, sample(10, &counted(10)));
    let unread = Reading { proxy: proxy("web-1"), taken: Duration::from_secs(2), sample: Err("no answer".to_owned()) };
    let top = watch.take(Timestamp::UNIX_EPOCH, vec![unread], vec!["a note".to_owned()]);
    assert_eq!((top.rows.len(), top.idle, top.notes.len()), (0, 0, 1));
    assert_eq!(top.unread[0].why, "no answer");
    let row = after(&mut watch, 4, sample(50, &counted(50))).rows.remove(0);
    assert!(is(row.requests_per_s, 10.0), "{row:?}");
}

#[test]
fn the_past_is_bounded_and_goes_with_its_pod() {
    let mut watch = Watch::default();
    for second in 0..100 {
        after(&mut watch, second, sample(1 + second, &[]));
    }
    assert_eq!(after(&mut watch, 100, sample(101, &[])).rows[0].history.requests_per_s.len(), REMEMBERED);
    watch.take(Timestamp::UNIX_EPOCH, Vec::new(), Vec::new());
    assert!(watch.last.is_empty() && watch.memories.is_empty());
}

#[test]
fn a_limit_of_nothing_is_always_full() {
    assert_eq!(Used { used: Some(0), allowed: Some(0) }.percent(), Some(100));
    assert_eq!(Used { used: Some(9), allowed: Some(4) }.percent(), Some(100));
    assert_eq!(Used { used: None, allowed: Some(4) }.percent(), None);
}

#[test]
fn wanted_hosts_alone_are_asked_for() {
    let filter = Wanted::Host(HOST.to_owned()).stats_filter();
    assert!(filter.contains(r"a\.shop\.svc\.cluster\.local;?\.(") && filter.ends_with(")$"), "{filter}");
}
