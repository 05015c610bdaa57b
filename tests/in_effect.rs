//! What the controller makes of istiods that tell what proxies have: against the API server in the process,
//! and istiods that say what a test lets them say.

use std::{
    collections::BTreeMap,
    future::IntoFuture as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use resilience_operator::{controller::Options, proof};
use serde_json::{Value, json};

use crate::{
    fake::Fake,
    reconcile::{Operator, POLICIES, condition, fake_with, settle, until, until_programmed, writes_but_markers},
};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const CLUSTER: &str = "outbound|8000||web.ns.svc.cluster.local";
const OURS: &str = "ns/destination-rule/web";
/// What the policies of these tests allow.
const LIMIT: u32 = 5;

/// A proxy as an istiod has it.
#[derive(Clone)]
struct Proxy {
    limit: u32,
    rule: &'static str,
    sent: u32,
    acknowledged: u32,
    refusal: String,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { limit: LIMIT, rule: OURS, sent: 1, acknowledged: 1, refusal: String::new() }
    }
}

#[derive(Default)]
struct Mesh {
    proxies: BTreeMap<String, Proxy>,
    token: String,
    asked: usize,
    is_down: bool,
}

/// One istiod.
#[derive(Clone, Default)]
struct Istiod(Arc<Mutex<Mesh>>);

impl Istiod {
    /// Serves on loopback, and puts its address where istiods are found.
    async fn start(fake: &Fake, name: &str) -> Self {
        let istiod = Self::default();
        istiod.with(|mesh| "Bearer token-1".clone_into(&mut mesh.token));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/debug/syncz", get(syncz)).route("/debug/config_dump", get(config_dump));
        let app = app.route("/debug/connections", get(connections));
        tokio::spawn(axum::serve(listener, app.with_state(istiod.clone())).into_future());
        fake.put(
            "endpointslices",
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": "istio-system", "labels": {"istio": "pilot"}},
                "ports": [{"name": "http-monitoring", "port": port}],
                "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": name}}],
            }),
        );
        istiod
    }

    fn with<T>(&self, act: impl FnOnce(&mut Mesh) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    fn put(&self, name: &str, proxy: Proxy) {
        self.with(|mesh| mesh.proxies.insert(name.to_owned(), proxy));
    }

    fn edit(&self, name: &str, act: impl FnOnce(&mut Proxy)) {
        self.with(|mesh| act(mesh.proxies.get_mut(name).unwrap()));
    }

    fn asked(&self) -> usize {
        self.with(|mesh| mesh.asked)
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        self.with(|mesh| {
            mesh.asked += 1;
            if mesh.is_down {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
            if shown == Some(&mesh.token) { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
        })
    }
}

async fn syncz(State(istiod): State<Istiod>, headers: HeaderMap) -> Result<String, StatusCode> {
    istiod.admits(&headers)?;
    let entry = |(name, proxy): (&String, &Proxy)| {
        let told = json!({
            "sent": proxy.sent.to_string(), "acked": proxy.acknowledged.to_string(), "lastError": proxy.refusal,
        });
        json!({"proxy": name, "proxy_type": "sidecar",
            "resources": {CLUSTERS: told, ROUTES: {"sent": "1", "acked": "1"}}})
    };
    Ok(istiod.with(|mesh| Value::from(mesh.proxies.iter().map(entry).collect::<Vec<_>>())).to_string())
}

async fn connections(State(istiod): State<Istiod>, headers: HeaderMap) -> Result<String, StatusCode> {
    istiod.admits(&headers)?;
    let clients = |mesh: &mut Mesh| mesh.proxies.keys().map(|name| json!({"connectionId": connection(name)})).collect();
    Ok(json!({"clients": istiod.with::<Vec<Value>>(clients)}).to_string())
}

/// The number of a connection is that of no other: here, the length of the name, which differs in each test.
fn connection(name: &str) -> String {
    format!("{name}-{}", name.len())
}

async fn config_dump(
    State(istiod): State<Istiod>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    istiod.admits(&headers)?;
    let query = query.unwrap_or_default();
    let name = query.strip_prefix("proxyID=").and_then(|rest| rest.strip_suffix("&types=cds,rds")).unwrap();
    // As istiod does: the first whose connection has the text in it.
    let found = |mesh: &mut Mesh| {
        let mut proxies = mesh.proxies.iter();
        proxies.find(|(one, _)| connection(one).contains(name)).map(|(_, proxy)| proxy.clone())
    };
    let proxy = istiod.with(found).ok_or(StatusCode::NOT_FOUND)?;
    let made_of = |path: &str| json!({"filterMetadata": {"istio": {"config": format!("/apis/networking.istio.io/v1/namespaces/{path}")}}});
    let cluster = json!({
        "@type": CLUSTERS, "name": CLUSTER, "metadata": made_of(proxy.rule),
        "circuitBreakers": {"thresholds": [{"maxRequests": proxy.limit, "maxRetries": 4_294_967_295_u32}]},
    });
    let route = json!({"route": {"timeout": "3s"}, "metadata": made_of("ns/virtual-service/web")});
    let table = json!({"@type": ROUTES, "name": "8000",
        "virtualHosts": [{"domains": ["web.ns.svc.cluster.local", "web"], "routes": [route]}]});
    Ok(json!({"configs": [cluster, table]}).to_string())
}

fn options() -> Options {
    let in_effect = proof::Options {
        first: Duration::from_millis(10),
        rest: Duration::from_millis(40),
        settle: Duration::from_millis(1),
        ..proof::Options::new("resilience-reader", "istio-system", Duration::from_millis(400))
    };
    Options { istiod_address: String::new(), in_effect, ..Options::default() }
}

/// An API server with a policy, and the account by which istiod is asked.
fn meshed() -> Fake {
    let fake = fake_with(&["web"]);
    fake.put("serviceaccounts", json!({"metadata": {"name": "resilience-reader", "namespace": "istio-system"}}));
    fake
}

fn status(fake: &Fake) -> Value {
    fake.get(POLICIES, "web").unwrap_or_default()["status"].clone()
}

fn said(fake: &Fake) -> String {
    let conditions = status(fake)["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == "InEffect");
    found.and_then(|condition| condition["message"].as_str()).unwrap_or_default().to_owned()
}

async fn until_in_effect(fake: &Fake, is: &str) {
    let wait = tokio::time::timeout(Duration::from_secs(10), async {
        while condition(fake, "web", "InEffect") != is {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let ended = wait.await;
    assert!(ended.is_ok(), "never {is} but {}: {}", condition(fake, "web", "InEffect"), said(fake));
}

async fn until_asked_more(istiod: &Istiod) {
    let begun = istiod.asked();
    until("istiod was asked again and again", || istiod.asked() > begun + 12).await;
}

#[tokio::test]
async fn proxies_of_all_istiods_are_counted_and_at_rest_nothing_is_written() {
    let fake = meshed();
    let (one, two) = (Istiod::start(&fake, "istiod-a").await, Istiod::start(&fake, "istiod-b").await);
    one.put("a.ns", Proxy::default());
    one.put("b.ns", Proxy::default());
    two.put("c.other", Proxy::default());
    let operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "True/InEffect").await;
    assert_eq!(said(&fake), "3 of 3 proxies that hold web.ns.svc.cluster.local have it");
    assert_eq!(status(&fake)["targets"][0]["proxies"], json!({"total": 3, "inEffect": 3}));
    assert_eq!(condition(&fake, "web", "Ready"), "True/Ready");
    let writes = fake.writes().len();
    until_asked_more(&one).await;
    assert_eq!((fake.writes().len(), fake.tokens()), (writes, 1));
    let metrics = operator.metrics.encode().unwrap();
    assert!(metrics.contains(r#"istiod_questions_total{question="config_dump",result="answered"}"#), "{metrics}");
    assert!(metrics.contains(r#"policies{condition="InEffect",status="True"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_laggard_is_named_and_matters_only_after_the_grace() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.ns", Proxy::default());
    istiod.put("b.ns", Proxy { sent: 2, ..Proxy::default() });
    let mut options = options();
    // Long enough to look at what is said within it, on a busy machine too.
    options.in_effect.grace = Duration::from_secs(3);
    let _operator = Operator::start_with(&fake, options);
    until("a round has answered", || said(&fake).contains("1 of 2")).await;
    assert_eq!(condition(&fake, "web", "InEffect"), "Unknown/Progressing", "{}", said(&fake));
    assert!(said(&fake).contains("not acknowledged by b.ns"), "{}", said(&fake));
    assert_eq!(condition(&fake, "web", "Ready"), "True/Ready");
    until_in_effect(&fake, "False/Lagging").await;
    assert_eq!(status(&fake)["targets"][0]["proxies"], json!({"total": 2, "inEffect": 1}));
    assert_eq!(condition(&fake, "web", "Ready"), "False/NotReady");
    istiod.edit("b.ns", |proxy| proxy.acknowledged = 2);
    until_in_effect(&fake, "True/InEffect").await;
    assert_eq!(condition(&fake, "web", "Ready"), "True/Ready");
}

#[tokio::test]
async fn the_object_that_won_instead_is_named_and_it_heals() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.away", Proxy { rule: "away/destination-rule/theirs", limit: 900, ..Proxy::default() });
    istiod.put("b.ns", Proxy::default());
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "False/Shadowed").await;
    assert!(said(&fake).contains("DestinationRule away/theirs is what counts for a.away"), "{}", said(&fake));
    istiod.put("a.away", Proxy::default());
    until_in_effect(&fake, "True/InEffect").await;
}

#[tokio::test]
async fn a_proxy_is_not_taken_for_another_whose_name_contains_its_own() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("web-0.shop", Proxy::default());
    for name in ["my-web-0.shop", "web-0.shop-eu-1"] {
        istiod.put(name, Proxy { rule: "away/destination-rule/theirs", ..Proxy::default() });
    }
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "False/Shadowed").await;
    let words = "1 of 3 proxies that hold web.ns.svc.cluster.local have it: \
                 DestinationRule away/theirs is what counts for my-web-0.shop, web-0.shop-eu-1";
    assert_eq!(said(&fake), words);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_the_proxy_and_not_forgotten_with_the_next_push() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    let refusal = format!("Error adding/updating cluster(s) {CLUSTER}: it must be inside range [0, 100]");
    istiod.put("a.ns", Proxy { sent: 2, refusal: refusal.clone(), ..Proxy::default() });
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "False/RefusedByProxy").await;
    assert!(said(&fake).contains(&format!("refused by a.ns: {refusal}")), "{}", said(&fake));
    // Something else is pushed and taken: what was refused is still not there.
    istiod.edit("a.ns", |proxy| *proxy = Proxy { sent: 3, acknowledged: 3, ..Proxy::default() });
    until_in_effect(&fake, "Unknown/Unproven").await;
    assert_eq!(status(&fake)["targets"][0]["proxies"], json!({"total": 1, "inEffect": 0}));
}

#[tokio::test]
async fn a_change_is_not_in_effect_before_proxies_have_just_that() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.ns", Proxy::default());
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "True/InEffect").await;
    fake.patch(POLICIES, "web", &json!({"spec": {"limits": {"perClient": {"activeRequests": 6}}}}));
    until_in_effect(&fake, "Unknown/Progressing").await;
    until_in_effect(&fake, "False/Differs").await;
    assert!(said(&fake).contains("limits.perClient.activeRequests 5 instead of 6"), "{}", said(&fake));
    istiod.edit("a.ns", |proxy| proxy.limit = 6);
    until_in_effect(&fake, "True/InEffect").await;
}

#[tokio::test]
async fn an_istiod_that_does_not_answer_makes_it_unknown_and_never_true() {
    let fake = meshed();
    let (one, two) = (Istiod::start(&fake, "istiod-a").await, Istiod::start(&fake, "istiod-b").await);
    one.put("a.ns", Proxy::default());
    two.put("b.ns", Proxy::default());
    two.with(|mesh| mesh.is_down = true);
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "Unknown/Partial").await;
    assert!(said(&fake).contains("istiod-b: it answers 503"), "{}", said(&fake));
    two.with(|mesh| mesh.is_down = false);
    until_in_effect(&fake, "True/InEffect").await;
    for istiod in [&one, &two] {
        istiod.with(|mesh| mesh.is_down = true);
    }
    until_in_effect(&fake, "Unknown/Unreachable").await;
    assert!(status(&fake)["targets"][0].get("proxies").is_none());
    assert_eq!(condition(&fake, "web", "Ready"), "True/Ready");
}

#[tokio::test]
async fn an_istiod_that_is_away_for_less_than_the_grace_changes_nothing() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.ns", Proxy::default());
    let mut options = options();
    options.in_effect.grace = Duration::from_mins(1);
    let _operator = Operator::start_with(&fake, options);
    until_in_effect(&fake, "True/InEffect").await;
    let writes = fake.writes().len();
    istiod.with(|mesh| mesh.is_down = true);
    until_asked_more(&istiod).await;
    assert_eq!((condition(&fake, "web", "InEffect").as_str(), fake.writes().len()), ("True/InEffect", writes));
}

#[tokio::test]
async fn where_nobody_holds_the_host_nothing_is_claimed() {
    let fake = meshed();
    let _istiod = Istiod::start(&fake, "istiod-a").await;
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "Unknown/NoProxies").await;
    assert_eq!(status(&fake)["targets"][0]["proxies"], json!({"total": 0, "inEffect": 0}));
    assert_eq!(condition(&fake, "web", "Ready"), "True/Ready");
}

#[tokio::test]
async fn without_an_identity_nobody_is_asked_and_the_cure_is_told() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.ns", Proxy::default());
    let _operator = Operator::start(&fake);
    until_in_effect(&fake, "Unknown/NoIdentity").await;
    settle(&fake).await;
    assert!(said(&fake).contains("docs/in-effect.md"), "{}", said(&fake));
    assert_eq!((istiod.asked(), fake.tokens()), (0, 0));
    assert_eq!(writes_but_markers(&fake).len(), 3);
}

#[tokio::test]
async fn an_account_that_is_not_there_is_told_with_its_name() {
    let fake = fake_with(&["web"]);
    let istiod = Istiod::start(&fake, "istiod-a").await;
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "Unknown/Unreachable").await;
    assert!(said(&fake).contains("no token for ServiceAccount istio-system/resilience-reader"), "{}", said(&fake));
    assert_eq!(istiod.asked(), 0);
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_replaced() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.ns", Proxy::default());
    istiod.with(|mesh| mesh.token = "Bearer token-2".to_owned());
    let _operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "True/InEffect").await;
    assert_eq!(fake.tokens(), 2);
}

#[tokio::test]
async fn after_a_restart_what_was_found_stays_until_it_is_asked_again() {
    let fake = meshed();
    let istiod = Istiod::start(&fake, "istiod-a").await;
    istiod.put("a.ns", Proxy::default());
    let operator = Operator::start_with(&fake, options());
    until_in_effect(&fake, "True/InEffect").await;
    operator.crash().await;
    let writes = fake.writes().len();
    let mut later = options();
    later.in_effect.first = Duration::from_hours(1);
    let _operator = Operator::start_with(&fake, later);
    until_programmed(&fake, "web").await;
    settle(&fake).await;
    let own = fake.writes().into_iter().skip(writes).filter(|write| !write.contains("marker-")).count();
    assert_eq!((condition(&fake, "web", "InEffect").as_str(), own), ("True/InEffect", 0));
}
