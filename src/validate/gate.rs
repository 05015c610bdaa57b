//! What the installed Istio does not understand of what would be written.
//!
//! Looks at the objects themselves, so that no field can be forgotten. Refused where something else
//! would hold without the field; where its value is what holds without it, it is left out.

use serde_json::Value;

use super::{Valid, Violation};
use crate::{
    api::{Duration, ResilienceSpec, Warning, warnings::Code},
    istio::{Fate, Field, Kind, Knows, written_fields},
    translate::translate,
};

/// Takes out what can be left out, and says so.
///
/// # Errors
/// One for each field of the spec that would be lost.
pub(super) fn gate(spec: &ResilienceSpec, valid: &mut Valid, istio: &Knows) -> Result<Vec<Warning>, Vec<Violation>> {
    let fates = Kind::ALL
        .into_iter()
        .flat_map(|kind| written_fields(kind).iter().map(move |field| (kind, istio.fate(kind, field), field)));
    let lost: Vec<(Kind, Fate, &Field)> = fates.filter(|(_, fate, _)| *fate != Fate::Understood).collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let said = serde_json::to_value(spec).unwrap_or_default();
    let (mut violations, mut left_out) = (Vec::new(), Vec::new());
    for object in translate(valid).objects() {
        let mut leaves = Vec::new();
        walk(object.json.get("spec").unwrap_or(&Value::Null), Leaf::default(), &mut leaves);
        for leaf in leaves {
            // The shortest first: a block that is missing is named, and not each of its fields.
            let missing = lost.iter().filter(|(kind, _, field)| *kind == object.kind && leaf.is_within(&field.path));
            let Some((_, fate, field)) = missing.min_by_key(|(_, _, field)| field.path.len()) else { continue };
            let same = field.path == leaf.path && field.without.is_some_and(|without| same(&leaf.value, without));
            match fate {
                Fate::Understood => {}
                Fate::Ignored(_) if same => {}
                Fate::Undeclared if same => left_out.push(*field),
                Fate::Undeclared | Fate::Ignored(_) => {
                    violations.push(Violation::new(place(&said, &leaf), complaint(field, *fate)));
                }
            }
        }
    }
    violations.sort();
    violations.dedup();
    if !violations.is_empty() {
        return Err(violations);
    }
    left_out.dedup();
    for field in &left_out {
        leave_out(valid, field);
    }
    Ok(left_out.into_iter().map(warning).collect())
}

/// A value that would be written.
#[derive(Clone, Debug, Default)]
struct Leaf {
    /// As [`Field::path`].
    path: String,
    /// The port that its entry or route is for.
    port: Option<u64>,
    value: Value,
}

impl Leaf {
    fn is_within(&self, path: &str) -> bool {
        self.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

fn walk(value: &Value, at: Leaf, found: &mut Vec<Leaf>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let path = if at.path.is_empty() { key.clone() } else { format!("{}.{key}", at.path) };
                walk(inner, Leaf { path, ..at.clone() }, found);
            }
        }
        Value::Array(list) => {
            for inner in list {
                let port = inner.pointer("/port/number").or_else(|| inner.pointer("/match/0/port"));
                let port = port.and_then(Value::as_u64).or(at.port);
                walk(inner, Leaf { path: format!("{}[]", at.path), port, ..at.clone() }, found);
            }
        }
        _ => found.push(Leaf { value: value.clone(), ..at }),
    }
}

/// By meaning: `0s25ms` is `25ms`.
fn same(value: &Value, without: &str) -> bool {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let millis = |text: &str| Duration::new(text).as_millis();
    text == without || (millis(&text).is_some() && millis(&text) == millis(without))
}

/// The field of the spec that a value comes from; of a fill-in, the block that asks for it.
fn place(said: &Value, leaf: &Leaf) -> String {
    let ours: Vec<&str> = declared_as(&leaf.path).split('.').collect();
    let entries = said.get("ports").and_then(Value::as_array);
    let own = entries
        .into_iter()
        .flatten()
        .enumerate()
        .find(|(_, entry)| leaf.port.is_some() && entry.get("port").and_then(Value::as_u64) == leaf.port);
    let own = own.map(|(index, entry)| (format!("spec.ports[{index}]"), entry));
    for depth in (1..=ours.len()).rev() {
        let pointer: String = ours[..depth].iter().flat_map(|part| ["/", part]).collect();
        for (prefix, blocks) in own.iter().cloned().chain([("spec".to_owned(), said)]) {
            if blocks.pointer(&pointer).is_some() {
                return format!("{prefix}.{}", ours[..depth].join("."));
            }
        }
    }
    "spec".to_owned()
}

/// The field of ours that a field of Istio's stands for, within `spec` or an entry of `ports`.
fn declared_as(path: &str) -> &'static str {
    let path = path.strip_prefix("trafficPolicy.").unwrap_or(path);
    match path.strip_prefix("portLevelSettings[].").unwrap_or(path) {
        "inboundConnectionPool.tcp.maxConnections" => "limits.perServer.connections",
        "inboundConnectionPool.http.http1MaxPendingRequests" => "limits.perServer.pendingRequests",
        "inboundConnectionPool.http.http2MaxRequests" => "limits.perServer.activeRequests",
        "inboundConnectionPool.http.maxRequestsPerConnection" => "limits.perServer.requestsPerConnection",
        "connectionPool.tcp.maxConnections" => "limits.perClient.connections",
        "connectionPool.tcp.connectTimeout" | "inboundConnectionPool.tcp.connectTimeout" => "timeouts.connect",
        "connectionPool.tcp.idleTimeout"
        | "connectionPool.http.idleTimeout"
        | "inboundConnectionPool.tcp.idleTimeout"
        | "inboundConnectionPool.http.idleTimeout" => "timeouts.idle",
        "connectionPool.tcp.maxConnectionDuration" | "inboundConnectionPool.tcp.maxConnectionDuration" => {
            "timeouts.lifetime"
        }
        "connectionPool.http.http1MaxPendingRequests" => "limits.perClient.pendingRequests",
        "connectionPool.http.http2MaxRequests" => "limits.perClient.activeRequests",
        "connectionPool.http.maxRequestsPerConnection" => "limits.perClient.requestsPerConnection",
        "connectionPool.http.maxRetries" => "limits.perClient.concurrentRetries",
        "outlierDetection.consecutive5xxErrors" => "ejection.consecutive5xx",
        "outlierDetection.consecutiveGatewayErrors" => "ejection.consecutiveGateway",
        "outlierDetection.splitExternalLocalOriginErrors" | "outlierDetection.consecutiveLocalOriginFailures" => {
            "ejection.consecutiveLocalOrigin"
        }
        "outlierDetection.interval" => "ejection.interval",
        "outlierDetection.baseEjectionTime" => "ejection.baseTime",
        "outlierDetection.maxEjectionPercent" => "ejection.maxPercent",
        "outlierDetection.minHealthPercent" => "ejection.minHealthyPercent",
        "loadBalancer.localityLbSetting.enabled" => "ejection.localityFailover",
        "retryBudget.percent" | "retryBudget.minRetryConcurrency" => "retries.budget",
        "port.number" => "ports",
        "http[].match[].method.exact" => "retries.methods",
        "http[].timeout" => "timeouts.request",
        "http[].retries.attempts" => "retries.attempts",
        "http[].retries.retryOn" => "retries.retryOn",
        "http[].retries.perTryTimeout" => "retries.perTryTimeout",
        "http[].retries.backoff" => "retries.backoff",
        // Hosts, destinations and matches, without which nothing of ours can be written.
        _ => "targetRefs",
    }
}

fn complaint(field: &Field, fate: Fate) -> String {
    let Field { path, since, without: _ } = field;
    let came = since.map(|since| format!(", which came with Istio {since}")).unwrap_or_default();
    match fate {
        Fate::Ignored(version) => {
            format!("istiod here is {version} and ignores {path}{came}: upgrade it, or leave this out")
        }
        Fate::Undeclared | Fate::Understood => {
            format!("Istio's CRD here has no {path}{came}: upgrade Istio, its CRDs included, or leave this out")
        }
    }
}

fn warning(field: &Field) -> Warning {
    let Field { path, since, without } = field;
    let came = since.map(|since| format!(" (it came with Istio {since})")).unwrap_or_default();
    let message = format!(
        "{} is not written, since Istio's CRD here has no {path}{came}; {} is what holds without it, so nothing is lost",
        declared_as(path),
        without.unwrap_or_default()
    );
    Warning { code: Code::FieldNotKnown, message }
}

/// Of the fields that have a value which is the same as none.
fn leave_out(valid: &mut Valid, field: &Field) {
    if declared_as(&field.path) == "retries.backoff" {
        for retries in valid.policies_mut().filter_map(|policy| policy.retries.as_mut()) {
            retries.backoff = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::Resilience,
        istio::{Protocol, Version},
        observed::{Discovery, Endpoints, Observed, PortView, ServiceView, Target},
        validate::{Refusal, Settings, validate},
    };

    fn policy(spec: &Value) -> Resilience {
        let mut object = json!({
            "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
            "metadata": {"name": "a", "namespace": "ns"},
            "spec": spec,
        });
        object["spec"]["targetRefs"] = json!([{"kind": "Service", "name": "a"}]);
        serde_json::from_value(object).unwrap()
    }

    fn world(istio: Knows) -> Observed {
        let port = |number| PortView { number, protocol: Protocol::Http };
        let service = ServiceView {
            hosts: Vec::new(),
            discovery: Discovery::ClusterIp,
            ports: vec![port(80), port(9000)],
            selector: [("app".to_owned(), "a".to_owned())].into(),
            export_to: Vec::new(),
            listed: None,
            waypoint: None,
            prefers_near: false,
        };
        let endpoints = Some(Endpoints { all: 4, ready: 3, zones: 1 });
        Observed { target: Target::Found(service), endpoints, istio, ..Observed::default() }
    }

    /// The CRDs of an Istio that declares all that we write but what is below `missing`.
    fn without(kind: Kind, missing: &str) -> Knows {
        let mut knows = Knows::default();
        for of in Kind::ALL {
            let mut schema = json!({"type": "object"});
            let lost = |path: &str| {
                let rest = path.strip_prefix(missing);
                of == kind && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            for field in written_fields(of).iter().filter(|field| !lost(&field.path)) {
                let mut node = &mut schema;
                for part in std::iter::once("spec").chain(field.path.split('.')) {
                    node = &mut node["properties"][part.trim_end_matches("[]")];
                    if part.ends_with("[]") {
                        node = &mut node["items"];
                    }
                }
                node["type"] = json!("any");
            }
            let version = json!({"name": "v1", "schema": {"openAPIV3Schema": schema}});
            let crd = json!({"spec": {
                "group": "networking.istio.io", "names": {"kind": of.as_str()}, "versions": [version],
            }});
            assert_eq!(knows.add_crd(&crd), Ok(true));
        }
        knows
    }

    fn verdict(spec: &Value, istio: Knows) -> Result<Valid, Vec<String>> {
        validate(&policy(spec), &world(istio), &Settings::default()).map_err(|refusal| match refusal {
            Refusal::Unsupported(violations) => violations.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        })
    }

    /// A spec that has every field written, at the top and for a port.
    fn whole() -> [Value; 2] {
        let blocks = json!({
            "limits": {"perClient": {
                "connections": 1, "pendingRequests": 1, "activeRequests": 1, "requestsPerConnection": 1,
                "concurrentRetries": 1,
            }},
            "ejection": {
                "consecutive5xx": 1, "consecutiveGateway": 1, "consecutiveLocalOrigin": 1, "interval": "1s",
                "baseTime": "1s", "maxPercent": 50, "minHealthyPercent": 1, "localityFailover": "Disabled",
            },
            "timeouts": {"connect": "1s", "request": "9s", "idle": "1s", "lifetime": "1s"},
            "retries": {
                "attempts": 1, "retryOn": ["Reset"], "methods": ["GET"], "perTryTimeout": "1s", "backoff": "1s",
            },
        });
        let mut of_port = blocks.clone();
        of_port["port"] = json!(9000);
        of_port["limits"]["perClient"]["connections"] = json!(2);
        let mut with_port = blocks.clone();
        with_port["ports"] = json!([of_port]);
        with_port["limits"]["perServer"] = json!({
            "mode": "Limited", "connections": 1, "pendingRequests": 1, "activeRequests": 1, "requestsPerConnection": 1,
        });
        let mut budgeted = blocks;
        budgeted["limits"]["perClient"].as_object_mut().unwrap().remove("concurrentRetries");
        budgeted["retries"]["budget"] = json!({"percent": 20});
        [with_port, budgeted]
    }

    #[test]
    fn no_field_that_we_write_is_lost_in_silence() {
        // Each stands in for the other in its place (`translate::destination_rule::Scope`).
        let never_written = [
            "trafficPolicy.connectionPool.http.idleTimeout",
            "trafficPolicy.portLevelSettings[].connectionPool.tcp.idleTimeout",
            "inboundConnectionPool.http.idleTimeout",
            // A word that our API has not for servers.
            "inboundConnectionPool.http.maxRetries",
            // Written where the target is not for everybody, which it is here.
            "exportTo",
        ];
        for kind in Kind::ALL {
            for field in written_fields(kind) {
                let knows = without(kind, &field.path);
                let refused: Vec<String> =
                    whole().iter().filter_map(|spec| verdict(spec, knows.clone()).err()).flatten().collect();
                assert_eq!(refused.is_empty(), never_written.contains(&field.path.as_str()), "{kind} {}", field.path);
                let named = format!("has no {}", field.path);
                assert!(refused.iter().all(|fault| fault.contains(&named)), "{}: {refused:?}", field.path);
            }
        }
    }

    #[test]
    fn with_every_field_declared_all_goes_ahead() {
        for spec in whole() {
            assert!(verdict(&spec, without(Kind::DestinationRule, "nothing")).is_ok());
            assert!(verdict(&spec, Knows::default()).is_ok());
        }
    }

    #[test]
    fn a_fault_has_the_path_of_the_field_that_asks_for_it() {
        let budget = json!({"retries": {"attempts": 1, "budget": {"percent": 20}}});
        assert_eq!(
            verdict(&budget, without(Kind::DestinationRule, "trafficPolicy.retryBudget")).unwrap_err(),
            [
                "spec.retries.budget: Istio's CRD here has no trafficPolicy.retryBudget, which came with Istio 1.27: upgrade Istio, its CRDs included, or leave this out"
            ]
        );
        // Inherited by the port, so it is the common field that asks for it; a port's own is the port's.
        let ports = json!({
            "retries": {"attempts": 1, "backoff": "1s"},
            "ports": [{"port": 9000, "retries": {"attempts": 2}}, {"port": 80, "retries": {"backoff": "2s"}}],
        });
        let faults = verdict(&ports, without(Kind::VirtualService, "http[].retries.backoff")).unwrap_err();
        let paths: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").next()).collect();
        assert_eq!(paths, ["spec.ports[1].retries.backoff", "spec.retries.backoff"]);
        // A fill-in is asked for by its block.
        let ejection = json!({"ejection": {"consecutive5xx": 5}});
        let faults = verdict(&ejection, without(Kind::DestinationRule, "trafficPolicy.outlierDetection.interval"));
        assert!(faults.unwrap_err()[0].starts_with("spec.ejection: "));
    }

    #[test]
    fn an_istiod_older_than_its_crds_is_not_given_what_it_would_ignore() {
        let budget = json!({"retries": {"attempts": 1, "budget": {"percent": 20}}});
        let of = |minor| without(Kind::DestinationRule, "nothing").with_version(Some(Version { major: 1, minor }));
        let faults = verdict(&budget, of(26)).unwrap_err();
        assert!(faults[0].starts_with("spec.retries.budget: istiod here is 1.26 and ignores"), "{faults:?}");
        assert!(verdict(&budget, of(27)).is_ok());
    }

    #[test]
    fn what_changes_nothing_is_left_out_with_a_warning() {
        let knows = || without(Kind::VirtualService, "http[].retries.backoff");
        for same in ["25ms", "0s25ms"] {
            let spec = json!({"retries": {"attempts": 1, "backoff": same}});
            let valid = verdict(&spec, knows()).unwrap();
            let codes: Vec<Code> = valid.warnings.iter().map(|warning| warning.code).collect();
            assert!(codes.contains(&Code::FieldNotKnown), "{codes:?}");
            let routes = translate(&valid).objects().pop().unwrap().json;
            assert!(routes.to_string().contains("attempts") && !routes.to_string().contains("backoff"), "{routes}");
            // It is in force all the same.
            assert!(valid.effective.iter().any(|value| value.path == "retries.backoff"));
        }
        let valid = verdict(&json!({"retries": {"attempts": 1, "backoff": "25ms"}}), Knows::default()).unwrap();
        assert!(translate(&valid).objects().pop().unwrap().json.to_string().contains("backoff"));
        assert!(valid.warnings.iter().all(|warning| warning.code != Code::FieldNotKnown));
    }

    #[test]
    fn before_1_31_only_endpoints_that_are_ready_are_counted() {
        let spec = json!({"ejection": {"consecutive5xx": 5}});
        let counted = |istio: Knows| {
            let valid = verdict(&spec, istio).unwrap();
            (valid.endpoints, valid.common.ejection.unwrap().max_percent)
        };
        let of = |minor| Knows::default().with_version(Some(Version { major: 1, minor }));
        // 4 are there, 3 of them ready: the step between the two is at 4.
        assert_eq!(counted(of(30)), (Some(3), 50));
        assert_eq!(counted(of(31)), (Some(4), 25));
        assert_eq!(counted(Knows::default()), (Some(4), 25));
    }

    #[test]
    fn a_service_that_prefers_near_endpoints_has_all_of_them_sent() {
        let spec = json!({"ejection": {"consecutive5xx": 5, "minHealthyPercent": 50}});
        let mut observed = world(Knows::default().with_version(Some(Version { major: 1, minor: 30 })));
        let counted = |observed: &Observed| validate(&policy(&spec), observed, &Settings::default()).unwrap().endpoints;
        assert_eq!(counted(&observed), Some(3));
        if let Target::Found(service) = &mut observed.target {
            service.prefers_near = true;
        }
        assert_eq!(counted(&observed), Some(4));
    }
}
