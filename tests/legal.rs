//! Legal policies and the worlds that they meet, drawn at random. Also the lab's source of policies to
//! put to Istio's own validators.

use kube::api::ObjectMeta;
use proptest::{collection, option, prelude::*, sample, string};
use resilience_operator::{
    api::{
        Blocks, Coexistence, Duration, Ejection, Limits, LocalityFailover, Method, Mode, PerClientLimits,
        PerServerLimits, PortEntry, RETRIABLE_STATUS_CODES, Resilience, ResilienceSpec, Retries, RetryBudget, RetryOn,
        ServerMode, TargetKind, TargetRef, Timeouts,
    },
    istio::Protocol,
    observed::{Discovery, Endpoints, Membership, Observed, PortView, ServiceView, Target},
};

pub const UID: &str = "0b3f6c1e-0000-4000-8000-000000000001";

fn duration() -> impl Strategy<Value = Duration> {
    // Parsed once, and not for each value.
    let any = string::string_regex("([0-9]{1,5}(h|m|s|ms)){1,4}")
        .expect("a pattern")
        .prop_map(Duration::new)
        .prop_filter("at least 1ms", |duration| duration.as_millis().is_some_and(|millis| millis > 0));
    prop_oneof![
        8 => any,
        1 => Just(Duration::new("1ms")),
        1 => Just(Duration::new("99999h99999h99999h99999h")),
    ]
}

fn counter() -> impl Strategy<Value = Option<i32>> {
    option::of(prop_oneof![Just(1), Just(i32::MAX), 1..i32::MAX])
}

fn detector() -> impl Strategy<Value = Option<u32>> {
    option::of(prop_oneof![Just(0_u32), Just(2_147_483_647), 1..2_147_483_647_u32])
}

fn per_client() -> impl Strategy<Value = PerClientLimits> {
    (counter(), counter(), counter(), counter(), counter()).prop_map(
        |(connections, pending_requests, active_requests, requests_per_connection, concurrent_retries)| {
            PerClientLimits {
                connections,
                pending_requests,
                active_requests,
                requests_per_connection,
                concurrent_retries,
            }
        },
    )
}

fn per_server() -> impl Strategy<Value = PerServerLimits> {
    let limited = (counter(), counter(), counter(), counter()).prop_map(
        |(connections, pending_requests, active_requests, requests_per_connection)| PerServerLimits {
            mode: ServerMode::Limited,
            connections,
            pending_requests,
            active_requests,
            requests_per_connection,
        },
    );
    let none = PerServerLimits {
        mode: ServerMode::Unlimited,
        connections: None,
        pending_requests: None,
        active_requests: None,
        requests_per_connection: None,
    };
    let empty = PerServerLimits { mode: ServerMode::Limited, ..none.clone() };
    prop_oneof![1 => Just(none), 2 => limited.prop_filter("it limits", move |limits| *limits != empty)]
}

/// Takes out what nothing but a Service can have.
pub fn without_server_side(spec: &mut ResilienceSpec) {
    if let Some(limits) = &mut spec.limits {
        limits.per_server = None;
        limits.per_client.get_or_insert_with(|| PerClientLimits { connections: Some(1), ..PerClientLimits::default() });
    }
}

fn ejection() -> impl Strategy<Value = Ejection> {
    let local = option::of(prop_oneof![Just(1), 1..2_147_483_647_u32]);
    let failover = option::of(sample::select(vec![LocalityFailover::Inherit, LocalityFailover::Disabled]));
    let fields = (
        (detector(), detector(), local),
        (option::of(duration()), option::of(duration())),
        option::of(prop_oneof![Just(1), Just(100), 1..=100_u32]),
        option::of(prop_oneof![Just(0), Just(100), 0..=100_u32]),
        failover,
    );
    fields.prop_map(|(detectors, (interval, base_time), max_percent, min_healthy_percent, locality_failover)| {
        let (consecutive_5xx, consecutive_gateway, consecutive_local_origin) = detectors;
        Ejection {
            consecutive_5xx,
            consecutive_gateway,
            consecutive_local_origin,
            interval,
            base_time,
            max_percent,
            min_healthy_percent,
            locality_failover,
        }
    })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let time = || option::of(duration());
    (time(), time(), time(), time()).prop_map(|(connect, request, idle, lifetime)| Timeouts {
        connect,
        request,
        idle,
        lifetime,
    })
}

fn retries() -> impl Strategy<Value = Retries> {
    let methods = [
        Method::Get,
        Method::Head,
        Method::Options,
        Method::Trace,
        Method::Put,
        Method::Delete,
        Method::Post,
        Method::Patch,
        Method::Connect,
    ];
    let percent = prop_oneof![Just(1), Just(100), 1..=100_u32];
    let least = option::of(prop_oneof![Just(1), Just(2_147_483_647), 1..2_147_483_647_u32]);
    let budget = (percent, least).prop_map(|(percent, min_concurrency)| RetryBudget { percent, min_concurrency });
    let lists = (
        option::of(sample::subsequence(RetryOn::ALL.to_vec(), 1..=RetryOn::ALL.len()).prop_shuffle()),
        option::of(sample::subsequence(RETRIABLE_STATUS_CODES.to_vec(), 1..=16).prop_shuffle()),
        option::of(sample::subsequence(methods.to_vec(), 1..=methods.len()).prop_shuffle()),
    );
    let times = (option::of(duration()), option::of(duration()));
    let on = (option::weighted(0.9, 1..=10_i32), lists, times, option::weighted(0.2, budget)).prop_map(
        |(attempts, (retry_on, status_codes, methods), (per_try_timeout, backoff), budget)| Retries {
            attempts,
            retry_on,
            status_codes,
            methods,
            per_try_timeout,
            backoff,
            budget,
        },
    );
    prop_oneof![1 => Just(Retries { attempts: Some(0), ..Retries::default() }), 4 => on]
}

/// Blocks that are legal as a port's own: none is empty.
fn blocks() -> BoxedStrategy<Blocks> {
    // Boxed: nested as they are, they would not fit the stack of a test's thread.
    let fields = (
        option::of(per_client()).boxed(),
        option::of(ejection()).boxed(),
        option::of(timeouts()).boxed(),
        option::of(retries()).boxed(),
    );
    fields
        .prop_map(|(limits, ejection, timeouts, retries)| Blocks {
            limits: limits
                .filter(|limits| *limits != PerClientLimits::default())
                .map(|limits| Limits { per_client: Some(limits), per_server: None }),
            ejection: ejection.filter(|ejection| *ejection != Ejection::default()),
            timeouts: timeouts.filter(|timeouts| *timeouts != Timeouts::default()),
            retries: retries.filter(|retries| *retries != Retries::default()),
        })
        .boxed()
}

/// Whether the rules of whole blocks hold.
fn is_whole(blocks: &Blocks) -> bool {
    let detects = |ejection: &Ejection| {
        ejection.consecutive_5xx.unwrap_or(0) > 0
            || ejection.consecutive_gateway.unwrap_or(0) > 0
            || ejection.consecutive_local_origin.is_some()
    };
    let millis = |duration: Option<&Duration>| duration.and_then(Duration::as_millis);
    let request = millis(blocks.timeouts.as_ref().and_then(|timeouts| timeouts.request.as_ref()));
    let per_try = millis(blocks.retries.as_ref().and_then(|retries| retries.per_try_timeout.as_ref()));
    let bounded = blocks.limits.as_ref().and_then(|limits| limits.per_client.as_ref()?.concurrent_retries).is_some();
    blocks.ejection.as_ref().is_none_or(detects)
        && blocks
            .retries
            .as_ref()
            .is_none_or(|retries| retries.attempts.is_some() && !(bounded && retries.budget.is_some()))
        && request.is_none_or(|request| per_try.is_none_or(|per_try| per_try < request))
}

prop_compose! {
    /// A target, blocks, and ports for it that differ.
    fn spec()(
        target in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        entry in any::<bool>(),
        common in blocks().prop_filter("whole", is_whole),
        server in option::of(per_server()),
        coexistence in prop_oneof![3 => Just(Coexistence::Refuse), 1 => Just(Coexistence::Merge)],
        mode in prop_oneof![8 => Just(Mode::Enforce), 1 => Just(Mode::Observe), 1 => Just(Mode::Suspend)],
        ports in prop_oneof![2 => Just(Vec::new()), 1 => collection::vec(blocks(), 1..PORTS.len())],
    ) -> ResilienceSpec {
        let (group, kind) =
            if entry { ("networking.istio.io", TargetKind::ServiceEntry) } else { ("", TargetKind::Service) };
        let target = TargetRef { group: group.to_owned(), kind, name: target };
        let ports = PORTS.iter().zip(ports).map(|(port, own)| {
            let Blocks { limits, ejection, timeouts, retries } = own;
            PortEntry { port: *port, limits, ejection, timeouts, retries }
        });
        let Blocks { mut limits, ejection, timeouts, retries } = common;
        if let Some(server) = server.filter(|_| !entry) {
            limits.get_or_insert(Limits { per_client: None, per_server: None }).per_server = Some(server);
        }
        let ports = ports.collect();
        ResilienceSpec { target_refs: vec![target], mode, coexistence, limits, ejection, timeouts, retries, ports }
    }
}

/// Ports that every Service of [`world`] has, for HTTP.
pub const PORTS: [u16; 4] = [80, 8080, 9000, 9090];

fn is_legal(spec: &ResilienceSpec) -> bool {
    let common = spec.blocks();
    let budget = |blocks: &Blocks| blocks.retries.as_ref().is_some_and(|retries| retries.budget.is_some());
    let port_is_legal = |entry: &PortEntry| {
        let own = entry.blocks();
        let merged = own.over(&common);
        let off = merged.retries.as_ref().is_some_and(|retries| retries.attempts == Some(0));
        let says_more = own.retries.as_ref().is_some_and(|retries| retries.attempts.is_none());
        own != Blocks::default() && is_whole(&merged) && !budget(&own) && !(off && says_more)
    };
    (common != Blocks::default() || !spec.ports.is_empty())
        && spec.ports.iter().all(port_is_legal)
        && (spec.ports.is_empty() || !budget(&common))
}

pub fn legal_spec() -> BoxedStrategy<ResilienceSpec> {
    spec().prop_filter("legal", is_legal).boxed()
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
    /// A Service or ServiceEntry with four HTTP ports, so that no target is a fault, and others.
    pub fn service()(
        discovery in sample::select(vec![
            Discovery::ClusterIp,
            Discovery::Headless,
            Discovery::Static,
            Discovery::Selected,
            Discovery::Dns,
            Discovery::DnsRoundRobin,
            Discovery::Passthrough,
        ]),
        prefers_near in any::<bool>(),
        http in sample::select(vec![Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Sniffed]),
        others in collection::vec((10_000..=u16::MAX, 0..7_usize), 0..4),
    ) -> ServiceView {
        let kinds = [
            Protocol::Http,
            Protocol::Http2,
            Protocol::Grpc,
            Protocol::Sniffed,
            Protocol::Tls,
            Protocol::Opaque,
            Protocol::Udp,
        ];
        let mut ports: Vec<PortView> = PORTS.iter().map(|number| PortView { number: *number, protocol: http }).collect();
        ports.extend(others.into_iter().map(|(number, kind)| PortView { number, protocol: kinds[kind] }));
        ports.sort_by_key(|port| port.number);
        ports.dedup_by_key(|port| port.number);
        let selector = [("app".to_owned(), "x".to_owned())].into();
        ServiceView {
            hosts: vec!["api.example.com".to_owned()],
            discovery,
            ports,
            selector,
            export_to: Vec::new(),
            listed: None,
            waypoint: None,
            prefers_near,
        }
    }
}

prop_compose! {
    /// Everything that a legal policy can meet without being refused.
    pub fn world()(
        service in service(),
        all in 0..2_000_u32,
        unready in 0..2_000_u32,
        zones in 0..4_u32,
        membership in option::of(sample::select(vec![
            Membership::Injected,
            Membership::Outside,
            Membership::Ambient { waypoint: true },
            Membership::Ambient { waypoint: false },
        ])),
    ) -> Observed {
        let endpoints = Endpoints { all, ready: all.saturating_sub(unready), zones };
        Observed { target: Target::Found(service), endpoints: Some(endpoints), membership, ..Observed::default() }
    }
}
