//! In: the configuration of an Envoy. Out: what it enforces, in the words of the API. A setting of these
//! blocks that the API has no word for is given as `envoy.…`, so that it differs from whatever is declared.

use serde_json::{Map, Value};

use super::expect::{Values, spelled};
use crate::config_dump::ConfigDump;

/// A limit that limits nothing, as Istio writes it (`math.MaxUint32`).
const UNLIMITED: u64 = 4_294_967_295;

/// Each of Envoy's thresholds, its word in the API, and Envoy's own number where none is sent.
const THRESHOLDS: [(&str, &str, u64); 4] = [
    ("max_connections", "limits.perClient.connections", 1024),
    ("max_pending_requests", "limits.perClient.pendingRequests", 1024),
    ("max_requests", "limits.perClient.activeRequests", 1024),
    ("max_retries", "limits.perClient.concurrentRetries", 3),
];

/// Where the client stands, as some endpoints of goldens do.
pub const CLIENT_REGION: &str = "eu";

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What a cluster enforces; `None` if there is none of that name.
#[must_use]
pub fn cluster(dump: &ConfigDump, name: &str) -> Option<Values> {
    let cluster = dump.cluster(name)?;
    let mut values = Values::new();
    thresholds(cluster, &mut values);
    put(&mut values, "timeouts.connect", cluster.get("connect_timeout"));
    let options = cluster.pointer(&format!("/typed_extension_protocol_options/{HTTP_OPTIONS}"));
    let mut options = Fields::of(options.and_then(|options| options.get("common_http_protocol_options")));
    put(&mut values, "timeouts.idle", options.take("idle_timeout").as_ref());
    put(&mut values, "timeouts.lifetime", options.take("max_connection_duration").as_ref());
    put(&mut values, "limits.perClient.requestsPerConnection", options.take("max_requests_per_connection").as_ref());
    options.rest("common_http_protocol_options", &mut values);
    if let Some(detection) = cluster.get("outlier_detection") {
        ejection(cluster, detection, &mut values);
        if let Some(failover) = failover(dump, cluster, name) {
            values.insert("ejection.localityFailover".to_owned(), failover.to_owned());
        }
    }
    for word in ["locality_weighted_lb_config", "zone_aware_lb_config"] {
        put(&mut values, &format!("envoy.{word}"), cluster.pointer(&format!("/common_lb_config/{word}")));
    }
    Some(values)
}

/// What the cluster in front of a server's application enforces, as [`cluster`]; the most that Istio's API
/// can say is no limit.
#[must_use]
pub fn server(dump: &ConfigDump, container_port: u16) -> Option<Values> {
    let most = i32::MAX.to_string();
    let values = cluster(dump, &format!("inbound|{container_port}||"))?.into_iter();
    let limits = values.filter(|(path, value)| !(path.starts_with("limits.") && *value == most));
    Some(limits.map(|(path, value)| (path.replace("limits.perClient.", "limits.perServer."), value)).collect())
}

fn thresholds(cluster: &Value, values: &mut Values) {
    let all = cluster.pointer("/circuit_breakers/thresholds").and_then(Value::as_array);
    // Priority DEFAULT, which is not printed; Istio sets no other.
    let mut fields = Fields::of(all.and_then(|all| all.first()));
    for (word, path, default) in THRESHOLDS {
        let number = fields.take(word).and_then(|number| number.as_u64()).unwrap_or(default);
        if number != UNLIMITED {
            values.insert(path.to_owned(), number.to_string());
        }
    }
    if let Some(budget) = fields.take("retry_budget") {
        let mut budget = Fields::of(Some(&budget));
        // Envoy's own numbers where none are sent.
        let share = budget.take("budget_percent").map_or_else(|| "20".to_owned(), |percent| percent_of(&percent));
        values.insert("retries.budget.percent".to_owned(), share);
        let least = budget.take("min_retry_concurrency").unwrap_or_else(|| 3.into());
        put(values, "retries.budget.minConcurrency", Some(&least));
        budget.rest("retry_budget", values);
    }
    fields.take("track_remaining");
    fields.rest("circuit_breakers", values);
    if let Some(more) = all.filter(|all| all.len() > 1) {
        values.insert("envoy.circuit_breakers.thresholds".to_owned(), more.len().to_string());
    }
}

/// Envoy's own numbers stand where none is sent (envoy `outlier_detection.proto`).
fn ejection(cluster: &Value, detection: &Value, values: &mut Values) {
    let mut fields = Fields::of(Some(detection));
    let split = fields.take("split_external_local_origin_errors") == Some(Value::Bool(true));
    let mut detector = |count: &str, enforcing: &str, enforced: u64| {
        let count = fields.take(count).and_then(|count| count.as_u64()).unwrap_or(5);
        match fields.take(enforcing).and_then(|share| share.as_u64()).unwrap_or(enforced) {
            0 => "0".to_owned(),
            100 => count.to_string(),
            share => format!("{count} in {share} % of the cases"),
        }
    };
    let answers = detector("consecutive_5xx", "enforcing_consecutive_5xx", 100);
    let gateway = detector("consecutive_gateway_failure", "enforcing_consecutive_gateway_failure", 0);
    let origin = detector("consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure", 100);
    values.insert("ejection.consecutive5xx".to_owned(), answers);
    values.insert("ejection.consecutiveGateway".to_owned(), gateway);
    if split {
        values.insert("ejection.consecutiveLocalOrigin".to_owned(), origin);
    }
    let time = |value: Option<Value>, default: &str| value.unwrap_or_else(|| default.into());
    put(values, "ejection.interval", Some(&time(fields.take("interval"), "10s")));
    put(values, "ejection.baseTime", Some(&time(fields.take("base_ejection_time"), "30s")));
    put(values, "ejection.maxPercent", Some(&fields.take("max_ejection_percent").unwrap_or_else(|| 10.into())));
    // Istio switches detection by success rate off, always.
    for rate in ["enforcing_success_rate", "enforcing_local_origin_success_rate"] {
        if fields.0.get(rate) == Some(&Value::from(0)) {
            fields.take(rate);
        }
    }
    fields.rest("outlier_detection", values);
    let threshold = cluster.pointer("/common_lb_config/healthy_panic_threshold");
    let threshold = threshold.map_or_else(|| "50".to_owned(), percent_of);
    values.insert("ejection.minHealthyPercent".to_owned(), threshold);
}

/// Whether calls keep to the nearest endpoints: shows where some are in the client's region and some are not.
fn failover(dump: &ConfigDump, cluster: &Value, name: &str) -> Option<&'static str> {
    let sent = dump.endpoints(name).or_else(|| cluster.get("load_assignment"))?;
    let groups = sent.get("endpoints").and_then(Value::as_array)?;
    let near = |group: &&Value| group.pointer("/locality/region").is_some_and(|region| region == CLIENT_REGION);
    let nearby = groups.iter().filter(near).count();
    if nearby == 0 || nearby == groups.len() {
        return None;
    }
    let ranked = groups.iter().any(|group| group.get("priority").and_then(Value::as_u64).unwrap_or(0) > 0);
    Some(if ranked { "Inherit" } else { "Disabled" })
}

/// What each chain of filters enforces that hands a cluster's bytes on as they are.
#[must_use]
pub fn bytes(dump: &ConfigDump, cluster: &str) -> Vec<Values> {
    let chains = dump.listeners().iter().flat_map(|listener| {
        let listed = listener.get("filter_chains").and_then(Value::as_array).into_iter().flatten();
        listed.chain(listener.get("default_filter_chain"))
    });
    let filters = chains.flat_map(|chain| chain.get("filters").and_then(Value::as_array).into_iter().flatten());
    let proxies = filters.filter_map(|filter| filter.get("typed_config")).filter(|proxy| {
        proxy["cluster"] == cluster && proxy["@type"].as_str().is_some_and(|kind| kind.ends_with(".TcpProxy"))
    });
    let times = |proxy: &Value| {
        let mut values = Values::new();
        put(&mut values, "timeouts.idle", proxy.get("idle_timeout"));
        put(&mut values, "timeouts.lifetime", proxy.get("max_downstream_connection_duration"));
        values
    };
    proxies.map(times).collect()
}

/// What becomes of a call with this method to a virtual host.
#[must_use]
pub fn route(host: &Value, method: &str) -> Values {
    let mut values = Values::new();
    let routes = host.get("routes").and_then(Value::as_array);
    let Some(route) = routes.into_iter().flatten().find(|route| takes(route, method)) else {
        values.insert("envoy.route".to_owned(), "none: 404".to_owned());
        return values;
    };
    let action = &route["route"];
    if let Some(time) = action.get("timeout").filter(|time| *time != "0s") {
        put(&mut values, "timeouts.request", Some(time));
    }
    put(&mut values, "envoy.destination", action.get("cluster"));
    for word in ["idle_timeout", "hedge_policy", "retry_policy_typed_config"] {
        put(&mut values, &format!("envoy.{word}"), action.get(word));
    }
    retries(action.get("retry_policy").or_else(|| host.get("retry_policy")), &mut values);
    values
}

fn takes(route: &Value, method: &str) -> bool {
    let headers = route.pointer("/match/headers").and_then(Value::as_array).into_iter().flatten();
    let mut of_method = headers.filter(|header| header["name"] == ":method");
    of_method.all(|header| header.pointer("/string_match/exact").is_some_and(|exact| exact == method))
}

fn retries(policy: Option<&Value>, values: &mut Values) {
    let Some(policy) = policy else {
        values.insert("retries.attempts".to_owned(), "0".to_owned());
        return;
    };
    let mut fields = Fields::of(Some(policy));
    put(values, "retries.attempts", Some(&fields.take("num_retries").unwrap_or_else(|| 1.into())));
    let codes = fields.take("retriable_status_codes");
    let codes: Vec<String> = codes.iter().filter_map(Value::as_array).flatten().map(ToString::to_string).collect();
    let words = fields.take("retry_on");
    let words = words.as_ref().and_then(Value::as_str).unwrap_or_default();
    let by_code = words.split(',').any(|word| word == "retriable-status-codes");
    let words = words.split(',').filter(|word| *word != "retriable-status-codes").map(word).collect::<Vec<_>>();
    values.insert("retries.retryOn".to_owned(), spelled("retries.retryOn", &words.join(", ")));
    if by_code && !codes.is_empty() {
        values.insert("retries.statusCodes".to_owned(), spelled("retries.statusCodes", &codes.join(", ")));
    }
    put(values, "retries.perTryTimeout", fields.take("per_try_timeout").as_ref());
    if let Some(wait) = fields.take("retry_back_off") {
        let mut wait = Fields::of(Some(&wait));
        put(values, "retries.backoff", wait.take("base_interval").as_ref());
        wait.rest("retry_back_off", values);
    }
    // How the next endpoint is chosen; Istio's, always the same.
    fields.take("retry_host_predicate");
    fields.take("host_selection_retry_max_attempts");
    fields.rest("retry_policy", values);
}

/// The API's word for one of Envoy's `retry_on`.
fn word(envoy: &str) -> String {
    let word = match envoy {
        "connect-failure" => "ConnectFailure",
        "refused-stream" => "RefusedStream",
        "reset" => "Reset",
        "reset-before-request" => "ResetBeforeRequest",
        "5xx" => "5xx",
        "gateway-error" => "GatewayError",
        "retriable-4xx" => "Retriable4xx",
        "cancelled" => "Cancelled",
        "deadline-exceeded" => "DeadlineExceeded",
        "internal" => "Internal",
        "resource-exhausted" => "ResourceExhausted",
        "unavailable" => "Unavailable",
        other => return format!("envoy's {other}"),
    };
    word.to_owned()
}

/// `{"value": 20}`; a zero is not printed.
fn percent_of(percent: &Value) -> String {
    percent.get("value").map_or_else(|| "0".to_owned(), ToString::to_string)
}

fn put(values: &mut Values, path: &str, value: Option<&Value>) {
    let Some(value) = value else { return };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    values.insert(path.to_owned(), spelled(path, &text));
}

/// The fields of a message that nobody has looked at yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(message: Option<&Value>) -> Self {
        Self(message.and_then(Value::as_object).cloned().unwrap_or_default())
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    /// What is left has no word in the API.
    fn rest(self, message: &str, values: &mut Values) {
        values.extend(self.0.into_iter().map(|(field, value)| (format!("envoy.{message}.{field}"), value.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump(cluster: &Value, endpoints: &Value) -> ConfigDump {
        ConfigDump::parse(&json!({"configs": [
            {"dynamic_active_clusters": [{"cluster": cluster}]},
            {"dynamic_endpoint_configs": [{"endpoint_config": endpoints}]},
        ]}))
    }

    fn read(cluster: &Value) -> Vec<(String, String)> {
        let mut named = cluster.clone();
        named["name"] = "c".into();
        super::cluster(&dump(&named, &json!({})), "c").unwrap().into_iter().collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    const NO_LIMIT: u64 = UNLIMITED;

    #[test]
    fn thresholds_without_a_limit_are_nothing_and_each_limit_has_its_word() {
        let limits = |connections: u64, pending: u64, active: u64, retries: u64| {
            json!({"circuit_breakers": {"thresholds": [{"max_connections": connections, "max_pending_requests": pending,
                "max_requests": active, "max_retries": retries, "track_remaining": true}]}})
        };
        assert_eq!(read(&limits(NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT)), []);
        let four = [
            ("limits.perClient.activeRequests", "3"),
            ("limits.perClient.concurrentRetries", "4"),
            ("limits.perClient.connections", "1"),
            ("limits.perClient.pendingRequests", "2"),
        ];
        assert_eq!(read(&limits(1, 2, 3, 4)), pairs(&four));
    }

    #[test]
    fn a_cluster_without_thresholds_has_envoy_own_and_not_none() {
        assert_eq!(read(&json!({})).len(), 4);
    }

    #[test]
    fn what_the_api_has_no_word_for_is_not_passed_over() {
        let threshold = json!({"max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT,
            "max_retries": NO_LIMIT, "max_connection_pools": 5});
        let cluster = json!({"circuit_breakers": {"thresholds": [threshold, {}]},
            "outlier_detection": {"enforcing_success_rate": 100, "enforcing_failure_percentage": 100}});
        let found = read(&cluster);
        for path in [
            "envoy.circuit_breakers.max_connection_pools",
            "envoy.circuit_breakers.thresholds",
            "envoy.outlier_detection.enforcing_success_rate",
            "envoy.outlier_detection.enforcing_failure_percentage",
        ] {
            assert!(found.iter().any(|(found, _)| found == path), "{path} is not in {found:?}");
        }
    }

    #[test]
    fn a_detector_that_is_not_sent_is_as_envoy_has_it() {
        let thresholds = json!([{"max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT, "max_retries": NO_LIMIT}]);
        let cluster = json!({"circuit_breakers": {"thresholds": thresholds}, "outlier_detection": {
            "enforcing_success_rate": 0, "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100,
            "split_external_local_origin_errors": true, "enforcing_local_origin_success_rate": 0, "interval": "0.001s"}});
        let seven = [
            ("ejection.baseTime", "30s"),
            ("ejection.consecutive5xx", "5"),
            ("ejection.consecutiveGateway", "3"),
            ("ejection.consecutiveLocalOrigin", "5"),
            ("ejection.interval", "1ms"),
            ("ejection.maxPercent", "10"),
            ("ejection.minHealthyPercent", "50"),
        ];
        assert_eq!(read(&cluster), pairs(&seven));
        let off = json!({"circuit_breakers": cluster["circuit_breakers"], "common_lb_config": {"healthy_panic_threshold": {}},
            "outlier_detection": {"enforcing_success_rate": 0, "consecutive_5xx": 7, "enforcing_consecutive_5xx": 0}});
        let found = read(&off);
        assert!(found.contains(&("ejection.consecutive5xx".to_owned(), "0".to_owned())), "{found:?}");
        assert!(found.contains(&("ejection.minHealthyPercent".to_owned(), "0".to_owned())), "{found:?}");
    }

    #[test]
    fn failover_shows_where_endpoints_are_near_and_far() {
        let cluster = json!({"name": "c", "outlier_detection": {}});
        let failover = |groups: Value| {
            let dump = dump(&cluster, &json!({"cluster_name": "c", "endpoints": groups}));
            super::cluster(&dump, "c").unwrap().remove("ejection.localityFailover")
        };
        let group = |region: &str, priority: u64| json!({"locality": {"region": region}, "priority": priority});
        assert_eq!(failover(json!([group("eu", 0)])), None);
        assert_eq!(failover(json!([group("us", 0), group("asia", 0)])), None);
        assert_eq!(failover(json!([group("eu", 0), group("us", 0)])).as_deref(), Some("Disabled"));
        assert_eq!(failover(json!([group("eu", 0), group("us", 1)])).as_deref(), Some("Inherit"));
    }

    fn host() -> Value {
        json!({"routes": [
            {"match": {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
                "route": {"cluster": "c", "timeout": "7s", "max_grpc_timeout": "7s", "retry_policy": {
                    "num_retries": 2, "retry_on": "reset,connect-failure,retriable-status-codes", "retriable_status_codes": [503, 409],
                    "retry_host_predicate": [{}], "host_selection_retry_max_attempts": "5",
                    "per_try_timeout": "2s", "retry_back_off": {"base_interval": "0.025s"}}}},
            {"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "0s"}},
        ]})
    }

    #[test]
    fn a_call_has_what_the_first_route_says_that_takes_its_method() {
        let get = [
            ("envoy.destination", "c"),
            ("retries.attempts", "2"),
            ("retries.backoff", "25ms"),
            ("retries.perTryTimeout", "2s"),
            ("retries.retryOn", "ConnectFailure, Reset"),
            ("retries.statusCodes", "409, 503"),
            ("timeouts.request", "7s"),
        ];
        assert_eq!(route(&host(), "GET").into_iter().collect::<Vec<_>>(), pairs(&get));
        let post = [("envoy.destination", "c"), ("retries.attempts", "0")];
        assert_eq!(route(&host(), "POST").into_iter().collect::<Vec<_>>(), pairs(&post));
    }

    #[test]
    fn a_call_that_no_route_takes_is_said() {
        let mut host = host();
        host["routes"].as_array_mut().unwrap().pop();
        assert_eq!(route(&host, "POST")["envoy.route"], "none: 404");
    }

    #[test]
    fn every_chain_that_hands_on_bytes_is_found() {
        let proxy = |cluster: &str, idle: &str| {
            json!({"filters": [{"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "cluster": cluster, "idle_timeout": idle, "max_downstream_connection_duration": "9s"}}]})
        };
        let listener =
            json!({"filter_chains": [proxy("c", "5s"), proxy("d", "6s")], "default_filter_chain": proxy("c", "7s")});
        let dump =
            ConfigDump::parse(&json!({"configs": [{"dynamic_listeners": [{"active_state": {"listener": listener}}]}]}));
        let times: Vec<String> = bytes(&dump, "c").iter().map(|values| values["timeouts.idle"].clone()).collect();
        assert_eq!(times, ["5s", "7s"]);
        assert_eq!(bytes(&dump, "d")[0]["timeouts.lifetime"], "9s");
    }
}
