//! Each cause by its evidence, and nothing without.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    observed::proxies::Origin,
    top::{Cluster, Endpoint, Proxy, Target},
};

const HOST: &str = "web.shop.svc.cluster.local";
/// What a proxy tells that is told to count.
const TOLD: [&str; 13] = [
    "upstream_cx_connect_fail",
    "upstream_cx_destroy_remote_with_active_rq",
    "upstream_cx_none_healthy",
    "upstream_rq_5xx",
    "upstream_rq_503",
    "upstream_rq_active_overflow",
    "upstream_rq_pending_overflow",
    "upstream_rq_per_try_timeout",
    "upstream_rq_retry",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_timeout",
    "upstream_rq_total",
];

fn target() -> Target {
    Target { host: HOST.to_owned(), port: 80, subset: String::new() }
}

/// All counters at 0, and two endpoints that are well.
fn cluster() -> Cluster {
    let endpoints = ["10.0.0.1:8080", "10.0.0.2:8080"].map(|address| (address.to_owned(), Endpoint::default()));
    let counted = TOLD.iter().map(|name| ((*name).to_owned(), 0)).collect();
    Cluster { endpoints: endpoints.into(), counted, ..Cluster::default() }
}

fn origin(kind: &str, name: &str) -> Origin {
    Origin { kind: kind.to_owned(), namespace: "shop".to_owned(), name: name.to_owned() }
}

fn route(name: &str) -> Route {
    Route {
        port: 80,
        origin: Some(origin("VirtualService", name)),
        clusters: vec!["outbound|80||web.shop.svc.cluster.local".to_owned()],
        takes_all: true,
        ..Route::default()
    }
}

fn proxy(pod: &str) -> Proxy {
    Proxy { namespace: "shop".to_owned(), pod: pod.to_owned(), workload: None }
}

fn seen_twice(pod: &str, snapshot: &Snapshot) -> ProxySeen {
    ProxySeen { proxy: proxy(pod), first: Some(snapshot.clone()), last: snapshot.clone() }
}

/// A client that calls, a server that answers, a policy that is in force: all is well.
fn calm() -> Seen {
    let config = ClusterConfig { rule: Some(origin("DestinationRule", "web")), encryption: Encryption::WhereBothCan };
    let client = Snapshot {
        outbound: BTreeMap::from([(target(), cluster())]),
        configured: Configured {
            clusters: BTreeMap::from([(target(), config)]),
            routes: vec![route("web")],
            tables: BTreeMap::from([(80, true)]),
            lets_unknown_out: true,
        },
        ..Snapshot::default()
    };
    let server = Snapshot { inbound: BTreeMap::from([(8080, cluster())]), ..Snapshot::default() };
    let seen = Seen {
        looked: Duration::from_secs(10),
        target: TargetSeen {
            host: HOST.to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            ports: BTreeMap::from([(80, true)]),
            selector: "app=web".to_owned(),
            ready: Some(2),
            pods: Some(BTreeMap::from([("web-1".to_owned(), String::new()), ("web-2".to_owned(), String::new())])),
            ..TargetSeen::default()
        },
        policy: Some(PolicySeen {
            name: "web".to_owned(),
            generated: vec!["DestinationRule shop/web".to_owned(), "VirtualService shop/web".to_owned()],
            complaints: Vec::new(),
        }),
        clients: vec![seen_twice("client", &client)],
        servers: vec![seen_twice("web-1", &server)],
        peers: Some(Peers { mode: "PERMISSIVE".to_owned(), object: None, differs_by_port: false }),
        ..Seen::default()
    };
    seen.client(&[("upstream_rq_total", 100)])
}

impl Seen {
    /// The client counted so much more.
    fn client(mut self, counters: &[(&str, u64)]) -> Self {
        let cluster = self.outbound();
        for (name, added) in counters {
            *cluster.counted.get_mut(*name).unwrap() += added;
        }
        self
    }

    /// The server counted so much more.
    fn server(mut self, counters: &[(&str, u64)]) -> Self {
        let cluster = self.servers[0].last.inbound.get_mut(&8080).unwrap();
        for (name, added) in counters {
            *cluster.counted.get_mut(*name).unwrap() += added;
        }
        self
    }

    fn outbound(&mut self) -> &mut Cluster {
        self.clients[0].last.outbound.get_mut(&target()).unwrap()
    }

    fn configured(&mut self) -> &mut Configured {
        &mut self.clients[0].last.configured
    }

    fn config(&mut self) -> &mut ClusterConfig {
        self.configured().clusters.get_mut(&target()).unwrap()
    }

    fn without_counters(mut self) -> Self {
        let client = &mut self.clients[0];
        let clusters = [client.first.as_mut().unwrap(), &mut client.last];
        for one in clusters {
            one.outbound.get_mut(&target()).unwrap().counted.clear();
        }
        self
    }
}

fn causes(seen: &Seen) -> Vec<(Kind, Class)> {
    judge(seen).causes.iter().map(|cause| (cause.cause, cause.class)).collect()
}

/// The only cause of that, seen now.
fn only(seen: &Seen, kind: Kind) -> Cause {
    let why = judge(seen);
    let [cause] = why.causes.as_slice() else { panic!("{kind:?} should be the only cause: {why:#?}") };
    assert_eq!((cause.cause, cause.class), (kind, Class::SeenNow), "{why:#?}");
    assert!(why.failing && why.headline.ends_with(&cause.summary));
    assert!(!cause.evidence.is_empty() && !cause.next.is_empty(), "{cause:#?}");
    cause.clone()
}

#[test]
fn where_nothing_fails_it_is_said_of_how_many_calls() {
    let why = judge(&calm());
    assert_eq!((causes(&calm()).len(), why.failing, why.sent), (0, false, Some(100)));
    assert_eq!(why.headline, "nobody was refused in 10 s: 100 calls of Service shop/web went through");
    assert_eq!(why.not_seen, Vec::<String>::new());
    let looked_at: Vec<&str> = why.looked_at.iter().map(|look| look.what.as_str()).collect();
    assert_eq!(
        looked_at,
        [
            "endpoints",
            "routes",
            "mutual TLS",
            "limits of clients",
            "limits of servers",
            "timeouts",
            "retries",
            "connections",
            "answers of the application",
            "policy"
        ]
    );
}

#[test]
fn where_nobody_calls_nothing_could_fail() {
    let mut seen = calm();
    seen.clients[0].first = Some(seen.clients[0].last.clone());
    let why = judge(&seen);
    assert_eq!((why.failing, why.sent), (false, Some(0)));
    assert_eq!(why.headline, "nobody called Service shop/web in 10 s: nothing could fail");
}

#[test]
fn what_a_clients_own_proxy_refuses_is_its_limit() {
    let mut seen =
        calm().client(&[("upstream_rq_active_overflow", 40), ("upstream_rq_5xx", 40), ("upstream_rq_503", 40)]);
    seen.outbound().limits.insert("max_requests".to_owned(), 3);
    let cause = only(&seen, Kind::ClientLimit);
    assert_eq!(cause.calls, Some(40));
    assert!(cause.summary.contains("3 activeRequests, of DestinationRule shop/web"), "{}", cause.summary);
    let evidence = &cause.evidence[0];
    assert_eq!((evidence.added, evidence.counter.as_deref()), (Some(40), Some("upstream_rq_active_overflow")));
    // An Envoy before 1.38 counts both in one.
    let mut older = calm();
    let client = &mut older.clients[0];
    for one in [client.first.as_mut().unwrap(), &mut client.last] {
        one.outbound.get_mut(&target()).unwrap().counted.remove("upstream_rq_active_overflow");
    }
    assert_eq!(only(&older.client(&[("upstream_rq_pending_overflow", 5)]), Kind::ClientLimit).calls, Some(5));
}

#[test]
fn what_a_servers_own_proxy_refuses_is_its_limit_and_not_the_applications_answer() {
    let refused = [("upstream_rq_active_overflow", 60), ("upstream_rq_5xx", 61), ("upstream_rq_503", 61)];
    let seen = calm().server(&refused).client(&[("upstream_rq_5xx", 61), ("upstream_rq_503", 61)]);
    // Its counters are not of one instant: one more is none.
    let cause = only(&seen, Kind::ServerLimit);
    assert!(cause.next[0].contains("limits.perServer of Resilience shop/web"), "{:?}", cause.next);
}

#[test]
fn where_all_endpoints_are_ejected_it_is_ejection() {
    let mut seen = calm().client(&[("upstream_cx_none_healthy", 30), ("upstream_rq_5xx", 30)]);
    for endpoint in seen.outbound().endpoints.values_mut() {
        (endpoint.ejected, endpoint.out) = (true, true);
    }
    let cause = only(&seen, Kind::Ejection);
    assert!(cause.evidence.iter().any(|one| one.says.contains("10.0.0.1:8080, 10.0.0.2:8080")), "{cause:#?}");
    // Whether anybody calls or not.
    seen.clients[0].first = Some(seen.clients[0].last.clone());
    assert_eq!(causes(&seen), [(Kind::Ejection, Class::MustFail)]);
    // One that leaves another is no failure.
    *seen.outbound().endpoints.get_mut("10.0.0.1:8080").unwrap() = Endpoint::default();
    let why = judge(&seen);
    let ejection = why.looked_at.iter().find(|look| look.what == "ejection").unwrap();
    assert_eq!((why.failing, ejection.says.as_str()), (false, "1 of 2 endpoints out at shop/client: 10.0.0.2:8080"));
}

#[test]
fn where_nobody_is_ready_there_is_no_endpoint_and_why_is_told() {
    let mut seen = calm().client(&[("upstream_cx_none_healthy", 30), ("upstream_rq_5xx", 30)]);
    (seen.target.ready, seen.target.pods) = (Some(0), Some(BTreeMap::new()));
    seen.servers.clear();
    let cause = only(&seen, Kind::NoEndpoints);
    assert!(cause.summary.contains("no pod has the labels app=web"), "{}", cause.summary);
    seen.target.pods = Some(BTreeMap::from([("web-1".to_owned(), "container web: CrashLoopBackOff".to_owned())]));
    let cause = only(&seen, Kind::NoEndpoints);
    assert!(cause.evidence.iter().any(|one| one.seen_at == "Pod shop/web-1" && one.says.contains("CrashLoop")));
    seen.clients.clear();
    assert_eq!(causes(&seen), [(Kind::NoEndpoints, Class::MustFail)]);
    seen.target.ready = Some(2);
    seen.target.ports.insert(81, false);
    let why = judge(&seen);
    assert_eq!(why.causes[0].summary, "port 81 of Service shop/web has no endpoint, and other ports of it have");
}

#[test]
fn a_limit_or_a_fault_of_somebody_elses_is_another_rule() {
    let mut seen = calm().client(&[("upstream_rq_pending_overflow", 9)]);
    seen.config().rule = Some(origin("DestinationRule", "theirs"));
    let cause = only(&seen, Kind::OtherRule);
    assert!(cause.summary.starts_with("DestinationRule shop/theirs, which counts instead of Resilience shop/web"));
    // Without a policy it is nobody else's.
    seen.policy = None;
    only(&seen, Kind::ClientLimit);

    let mut seen = calm();
    seen.configured().routes = vec![Route { abort: Some((503, 250_000)), ..route("theirs") }];
    assert_eq!(causes(&seen), [(Kind::OtherRule, Class::MustFail)]);
    let why = judge(&seen);
    assert!(why.causes[0].summary.ends_with("answers 25 % of calls with 503 itself") && why.failing, "{why:#?}");
}

#[test]
fn a_policy_that_is_not_in_force_is_a_possible_cause_alone() {
    let mut seen = calm();
    seen.policy.as_mut().unwrap().complaints.push("InEffect=False, Shadowed: by DestinationRule a/b".to_owned());
    assert_eq!(causes(&seen), [(Kind::OtherRule, Class::Possible)]);
    assert!(!judge(&seen).failing);
}

#[test]
fn a_call_that_is_cut_off_is_a_timeout_of_that_route() {
    let mut seen = calm().client(&[("upstream_rq_timeout", 12), ("upstream_rq_5xx", 12)]);
    seen.configured().routes = vec![Route { timeout: Some("0.200s".to_owned()), ..route("web") }];
    let cause = only(&seen, Kind::Timeout);
    assert!(cause.summary.ends_with("0.200s of VirtualService shop/web"), "{}", cause.summary);
}

#[test]
fn retries_that_double_the_load_come_first_where_something_is_full_and_last_where_the_application_fails() {
    // 300 tries for 100 calls.
    let storm = [("upstream_rq_total", 200), ("upstream_rq_retry", 200), ("upstream_rq_retry_limit_exceeded", 50)];
    let full = calm().client(&storm).server(&[("upstream_rq_active_overflow", 250), ("upstream_rq_5xx", 250)]);
    let why = judge(&full);
    assert_eq!(causes(&full), [(Kind::RetryStorm, Class::SeenNow), (Kind::ServerLimit, Class::SeenNow)]);
    assert_eq!(why.causes[0].summary, "retries multiply the load: 300 tries were sent for 100 calls");
    let failing = calm().client(&storm).server(&[("upstream_rq_503", 300), ("upstream_rq_5xx", 300)]);
    assert_eq!(causes(&failing), [(Kind::Application, Class::SeenNow), (Kind::RetryStorm, Class::SeenNow)]);
    // Some are no storm.
    let some = calm().client(&[("upstream_rq_total", 40), ("upstream_rq_retry", 40)]);
    let retries = judge(&some).looked_at.into_iter().find(|look| look.what == "retries").unwrap();
    assert_eq!((causes(&some).len(), retries.says.as_str()), (0, "40 of 140 tries were repeated ones"));
}

#[test]
fn plain_text_to_servers_that_take_mutual_tls_alone_is_a_mismatch_and_no_lost_connection() {
    let lost = [("upstream_cx_destroy_remote_with_active_rq", 20), ("upstream_rq_5xx", 20), ("upstream_rq_503", 20)];
    let mut seen = calm().client(&lost);
    only(&seen, Kind::Connection);
    seen.config().encryption = Encryption::Plain;
    only(&seen, Kind::Connection);
    let strict = Peers {
        mode: "STRICT".to_owned(),
        object: Some("PeerAuthentication shop/all".to_owned()),
        differs_by_port: false,
    };
    seen.peers = Some(strict);
    let cause = only(&seen, Kind::MutualTls);
    assert!(cause.evidence.iter().any(|one| one.seen_at == "PeerAuthentication shop/all"), "{cause:#?}");
    seen.clients[0].first = Some(seen.clients[0].last.clone());
    assert_eq!(causes(&seen), [(Kind::MutualTls, Class::MustFail)]);
    seen.config().encryption = Encryption::WhereBothCan;
    assert!(!judge(&seen).failing);
    // The other way round: nobody there could take it.
    seen.config().encryption = Encryption::Mutual;
    assert!(!judge(&seen).failing);
    seen.servers.clear();
    seen.target.without_proxy = 1;
    assert_eq!(causes(&seen)[0], (Kind::MutualTls, Class::MustFail));
}

#[test]
fn a_5xx_that_no_proxy_gave_is_the_applications() {
    let seen = calm().client(&[("upstream_rq_5xx", 50), ("upstream_rq_503", 50)]);
    let seen = seen.server(&[("upstream_rq_5xx", 50), ("upstream_rq_503", 50)]);
    let cause = only(&seen, Kind::Application);
    assert!(cause.next[0].contains("kubectl logs -n shop -l app=web"), "{:?}", cause.next);
    // Also where its proxy refused many before.
    let mut seen = calm().server(&[("upstream_rq_active_overflow", 9_000), ("upstream_rq_5xx", 9_000)]);
    seen.servers[0].first = Some(seen.servers[0].last.clone());
    let told = causes(&seen.server(&[("upstream_rq_5xx", 50), ("upstream_rq_503", 50)]));
    assert_eq!(told, [(Kind::Application, Class::SeenNow), (Kind::ServerLimit, Class::SeenBefore)]);
    // A proxy that finds nobody at the application's port answers 503 too.
    let seen = calm().server(&[("upstream_rq_5xx", 50), ("upstream_cx_connect_fail", 150)]);
    let cause = only(&seen, Kind::Connection);
    assert!(cause.summary.contains("nothing listens there"), "{}", cause.summary);
}

#[test]
fn a_5xx_of_the_servers_side_is_nobodys_where_the_servers_were_not_read() {
    let mut seen = calm().client(&[("upstream_rq_5xx", 50)]);
    seen.servers.clear();
    only(&seen, Kind::ServersSide);
    // By endpoints alone it is told as well, and a refused call or one under way is none of them.
    let mut seen = calm().without_counters();
    seen.servers.clear();
    let endpoint = seen.outbound().endpoints.get_mut("10.0.0.1:8080").unwrap();
    *endpoint = Endpoint { requests: 10, successes: 4, active: 1, errors: 5, ..Endpoint::default() };
    assert_eq!(only(&seen, Kind::ServersSide).calls, Some(5));
    assert!(judge(&seen).not_seen.iter().any(|line| line.contains("servers' own proxies")));
}

#[test]
fn a_route_that_leads_to_nothing_is_a_missing_one() {
    let mut seen = calm();
    let missing = vec!["outbound|80|v9|web.shop.svc.cluster.local".to_owned()];
    seen.configured().routes = vec![Route { missing, ..route("theirs") }];
    assert_eq!(causes(&seen), [(Kind::MissingRoute, Class::MustFail)]);
    // A host that is hidden is not there at all; whether its calls get out past the rules is told.
    let mut seen = calm();
    seen.clients[0].last.outbound.clear();
    seen.clients[0].first.as_mut().unwrap().outbound.clear();
    assert_eq!(causes(&seen), [(Kind::MissingRoute, Class::Possible)]);
    seen.configured().lets_unknown_out = false;
    assert_eq!(causes(&seen), [(Kind::MissingRoute, Class::MustFail)]);
    // Routes that leave some calls out.
    let mut seen = calm();
    seen.configured().routes = vec![Route { takes_all: false, ..route("theirs") }];
    assert_eq!(causes(&seen), [(Kind::MissingRoute, Class::Possible)]);
}

#[test]
fn of_two_causes_that_are_seen_the_one_that_costs_more_calls_comes_first() {
    let seen =
        |limit, timeout| calm().client(&[("upstream_rq_active_overflow", limit), ("upstream_rq_timeout", timeout)]);
    let now = |kind| (kind, Class::SeenNow);
    assert_eq!(causes(&seen(9, 4)), [now(Kind::ClientLimit), now(Kind::Timeout)]);
    assert_eq!(causes(&seen(4, 9)), [now(Kind::Timeout), now(Kind::ClientLimit)]);
}

#[test]
fn what_was_counted_before_is_no_failure_of_now_unless_it_is_asked_for() {
    let mut seen = calm().client(&[("upstream_rq_active_overflow", 9)]);
    seen.clients[0].first = Some(seen.clients[0].last.clone());
    seen = seen.client(&[("upstream_rq_total", 5)]);
    assert_eq!(causes(&seen), [(Kind::ClientLimit, Class::SeenBefore)]);
    assert_eq!(judge(&seen).headline, "nobody was refused in 10 s: 5 calls of Service shop/web went through");
    (seen.looked, seen.clients[0].first, seen.servers[0].first) = (Duration::ZERO, None, None);
    assert!(judge(&seen).failing);
    assert_eq!(judge(&seen).sent, Some(105));
}

#[test]
fn without_counters_limits_are_told_by_endpoints_and_the_rest_is_said_to_be_unseen() {
    let mut seen = calm().without_counters();
    let endpoint = seen.outbound().endpoints.get_mut("10.0.0.1:8080").unwrap();
    // 9 went there, 7 were answered well and two were not; 5 never went.
    *endpoint = Endpoint { requests: 9, successes: 7, errors: 7, ..Endpoint::default() };
    let cause = only(&seen, Kind::ClientLimit);
    assert_eq!(cause.evidence[0].counter.as_deref(), Some("rq_error of its endpoints without rq_total"));
    assert_eq!(cause.calls, Some(5));
    let why = judge(&calm().without_counters());
    assert_eq!(why.headline, "nobody called Service shop/web in 10 s: nothing could fail");
    let unseen = why.not_seen.iter().filter(|line| line.contains("sidecar.istio.io/statsInclusionPrefixes")).count();
    assert_eq!(unseen, 2, "{why:#?}");
}

#[test]
fn istios_own_metric_tells_by_flags_where_envoys_counters_are_not_told() {
    let line = |reporter: &str, code: u16, flags: &str, number: u64| {
        format!(
            "istio_requests_total{{response_code=\"{code}\",reporter=\"{reporter}\",source_workload=\"client\",destination_service=\"{HOST}\",destination_service_name=\"web\",response_flags=\"{flags}\"}} {number}\n"
        )
    };
    let before = line("source", 200, "-", 100);
    let told = |flags: &str| {
        let mut seen = calm().without_counters();
        seen.clients[0].first.as_mut().unwrap().requests = requests(&before, HOST);
        seen.clients[0].last.requests = requests(
            &(line("source", 200, "-", 110) + &line("source", 503, flags, 20) + &line("destination", 503, "-", 9)),
            HOST,
        );
        seen
    };
    for (flags, kind) in [
        ("UO", Kind::ClientLimit),
        ("UH", Kind::NoEndpoints),
        ("UT", Kind::Timeout),
        ("URX,UF", Kind::Connection),
        ("UC", Kind::Connection),
    ] {
        let cause = only(&told(flags), kind);
        assert_eq!(cause.calls, Some(20), "{flags}");
        let counter = cause.evidence[0].counter.as_deref().unwrap();
        assert_eq!(counter, format!("istio_requests_total, response_flags {flags}"));
    }
    // The answer came from the other side: whose it is the server's proxy tells.
    let mut seen = told("-");
    let server = &mut seen.servers[0];
    for one in [server.first.as_mut().unwrap(), &mut server.last] {
        one.inbound.get_mut(&8080).unwrap().counted.clear();
    }
    server.last.requests = requests(&line("destination", 503, "UO", 20), HOST);
    only(&seen, Kind::ServerLimit);
    seen.servers[0].last.requests = requests(&line("destination", 503, "-", 20), HOST);
    only(&seen, Kind::Application);
    assert!(requests(&line("source", 503, "UO", 1), "other.shop.svc.cluster.local").is_empty());
}

#[test]
fn of_peer_authentications_the_nearest_that_says_something_counts() {
    let of = |namespace: &str, name: &str, spec: Value| (namespace.to_owned(), name.to_owned(), spec);
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let mode = |all: &[(String, String, Value)]| strictest(all, "shop", "istio-system", &labels).to_string();
    assert_eq!(mode(&[]), "no PeerAuthentication speaks of the servers, which is PERMISSIVE");
    let root = of("istio-system", "default", json!({"mtls": {"mode": "STRICT"}}));
    assert_eq!(mode(std::slice::from_ref(&root)), "PeerAuthentication istio-system/default says STRICT");
    let own = of("shop", "own", json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "DISABLE"}}));
    let other = of("shop", "other", json!({"selector": {"matchLabels": {"app": "api"}}, "mtls": {"mode": "STRICT"}}));
    let unset = of("shop", "unset", json!({"mtls": {"mode": "UNSET"}}));
    assert_eq!(mode(&[other.clone(), own, root.clone()]), "PeerAuthentication shop/own says DISABLE");
    assert_eq!(mode(&[other, unset, root]), "PeerAuthentication istio-system/default says STRICT");
}

#[test]
fn clients_are_those_that_have_called_or_cannot() {
    let calling = calm().clients.remove(0);
    let mut idle = calling.clone();
    idle.proxy.pod = "idle".to_owned();
    idle.last = idle.first.clone().unwrap();
    let mut barred = idle.clone();
    barred.proxy.pod = "barred".to_owned();
    barred.last.configured.routes[0].abort = Some((503, 1));
    let names = |all: Vec<ProxySeen>| all.into_iter().map(|one| one.proxy.pod).collect::<Vec<_>>();
    assert_eq!(names(callers(vec![calling.clone(), idle.clone(), barred], false)), ["client", "barred"]);
    assert_eq!(names(callers(vec![calling, idle.clone()], true)), ["client", "idle"]);
    assert_eq!(names(callers(vec![idle], false)), ["idle"]);
}
