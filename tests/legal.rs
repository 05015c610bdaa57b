//! Legal policies and the worlds that they meet, drawn at random. Also the lab's source of policies to
//! put to Istio's own validators.

use kube::api::ObjectMeta;
use proptest::{collection, option, prelude::*, sample};
use resilience_operator::{
    api::{
        Duration, Ejection, Limits, PerClientLimits, RETRIABLE_STATUS_CODES, Resilience, ResilienceSpec, Retries,
        RetryOn, TargetKind, TargetRef, Timeouts,
    },
    istio::Protocol,
    observed::{Discovery, Observed, PortView, ServiceView, Target},
};

pub const UID: &str = "0b3f6c1e-0000-4000-8000-000000000001";

fn duration() -> impl Strategy<Value = Duration> {
    "([0-9]{1,5}(h|m|s|ms)){1,4}"
        .prop_map(Duration::new)
        .prop_filter("at least 1ms", |duration| duration.as_millis().is_some_and(|millis| millis > 0))
}

fn counter() -> impl Strategy<Value = Option<i32>> {
    option::of(prop_oneof![Just(1), Just(i32::MAX), 1..i32::MAX])
}

fn detector() -> impl Strategy<Value = Option<u32>> {
    option::of(prop_oneof![Just(0_u32), Just(2_147_483_647), 1..2_147_483_647_u32])
}

fn limits() -> impl Strategy<Value = Limits> {
    let fields = (counter(), counter(), counter(), counter(), counter());
    fields.prop_filter_map("at least one limit", |numbers| {
        let (connections, pending_requests, active_requests, requests_per_connection, concurrent_retries) = numbers;
        let limits = PerClientLimits {
            connections,
            pending_requests,
            active_requests,
            requests_per_connection,
            concurrent_retries,
        };
        (limits != PerClientLimits::default()).then_some(Limits { per_client: Some(limits) })
    })
}

fn ejection() -> impl Strategy<Value = Ejection> {
    let local = option::of(prop_oneof![Just(1), 1..2_147_483_647_u32]);
    let fields = (
        detector(),
        detector(),
        local,
        option::of(duration()),
        option::of(duration()),
        option::of(prop_oneof![Just(1), Just(100), 1..=100_u32]),
    );
    fields.prop_filter_map("at least one detector on", |fields| {
        let (consecutive_5xx, consecutive_gateway, consecutive_local_origin, interval, base_time, max_percent) = fields;
        let on = consecutive_5xx.unwrap_or(0) > 0
            || consecutive_gateway.unwrap_or(0) > 0
            || consecutive_local_origin.is_some();
        on.then_some(Ejection {
            consecutive_5xx,
            consecutive_gateway,
            consecutive_local_origin,
            interval,
            base_time,
            max_percent,
        })
    })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (option::of(duration()), option::of(duration())).prop_filter_map("at least one timeout", |(connect, request)| {
        (connect.is_some() || request.is_some()).then_some(Timeouts { connect, request })
    })
}

fn retries() -> impl Strategy<Value = Retries> {
    let words = [
        RetryOn::ConnectFailure,
        RetryOn::RefusedStream,
        RetryOn::Reset,
        RetryOn::ResetBeforeRequest,
        RetryOn::Http5xx,
        RetryOn::GatewayError,
        RetryOn::Retriable4xx,
        RetryOn::Cancelled,
        RetryOn::DeadlineExceeded,
        RetryOn::Internal,
        RetryOn::ResourceExhausted,
        RetryOn::Unavailable,
    ];
    let retry_on = option::of(sample::subsequence(words.to_vec(), 1..=words.len()).prop_shuffle());
    let status_codes = option::of(sample::subsequence(RETRIABLE_STATUS_CODES.to_vec(), 1..=16).prop_shuffle());
    let on = (1..=10_i32, retry_on, status_codes, option::of(duration()), option::of(duration())).prop_map(
        |(attempts, retry_on, status_codes, per_try_timeout, backoff)| Retries {
            attempts,
            retry_on,
            status_codes,
            per_try_timeout,
            backoff,
        },
    );
    let off = Retries { attempts: 0, retry_on: None, status_codes: None, per_try_timeout: None, backoff: None };
    prop_oneof![1 => Just(off), 4 => on]
}

prop_compose! {
    fn spec()(
        target in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        limits in option::of(limits()),
        ejection in option::of(ejection()),
        timeouts in option::of(timeouts()),
        retries in option::of(retries()),
    ) -> ResilienceSpec {
        let target = TargetRef { group: String::new(), kind: TargetKind::Service, name: target };
        ResilienceSpec { target_refs: vec![target], limits, ejection, timeouts, retries }
    }
}

fn is_legal(spec: &ResilienceSpec) -> bool {
    let millis = |duration: Option<&Duration>| duration.and_then(Duration::as_millis);
    let request = millis(spec.timeouts.as_ref().and_then(|timeouts| timeouts.request.as_ref()));
    let per_try = millis(spec.retries.as_ref().and_then(|retries| retries.per_try_timeout.as_ref()));
    let says_something =
        spec.limits.is_some() || spec.ejection.is_some() || spec.timeouts.is_some() || spec.retries.is_some();
    says_something && request.is_none_or(|request| per_try.is_none_or(|per_try| per_try < request))
}

pub fn legal_spec() -> impl Strategy<Value = ResilienceSpec> {
    spec().prop_filter("legal", is_legal)
}

prop_compose! {
    /// A legal policy.
    pub fn policy()(
        spec in legal_spec(),
        name in "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?",
        uid in option::of(Just(UID.to_owned())),
    ) -> Resilience {
        let mut policy = Resilience::new(&name, spec);
        policy.metadata = ObjectMeta { name: Some(name), namespace: Some("shop".to_owned()), uid, ..ObjectMeta::default() };
        policy
    }
}

prop_compose! {
    /// A Service with at least one HTTP port, so that no target is a fault.
    pub fn service()(
        headless in any::<bool>(),
        first in 1..=u16::MAX,
        others in collection::vec((1..=u16::MAX, 0..4_usize), 0..4),
    ) -> ServiceView {
        let kinds = [Protocol::Http, Protocol::Sniffed, Protocol::Opaque, Protocol::Udp];
        let mut ports = vec![PortView { number: first, protocol: Protocol::Http }];
        ports.extend(others.into_iter().map(|(number, kind)| PortView { number, protocol: kinds[kind] }));
        ports.sort_by_key(|port| port.number);
        ports.dedup_by_key(|port| port.number);
        ports.iter_mut().filter(|port| port.number == first).for_each(|port| port.protocol = Protocol::Http);
        ServiceView { discovery: if headless { Discovery::Headless } else { Discovery::ClusterIp }, ports }
    }
}

prop_compose! {
    pub fn world()(service in service(), endpoints in 0..2_000_u32) -> Observed {
        Observed { target: Target::Found(service), endpoints: Some(endpoints), ..Observed::default() }
    }
}
