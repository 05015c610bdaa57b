//! The objects of the bench: policies and their Services, rules and routes of others, and what the operator makes
//! of one policy.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Policies are spread over so many namespaces.
const NAMESPACES: u32 = 20;

/// What every policy says: a rule, routes and a status. No limit per client, whose warnings would be events
/// besides, and every number given, since there are no endpoints for it to follow.
fn spec(service: &str) -> Value {
    json!({
        "targetRefs": [{"kind": "Service", "name": service}],
        "ejection": {"consecutive5xx": 5, "consecutiveGateway": 3, "interval": "10s", "baseTime": "30s", "maxPercent": 50,
            "minHealthyPercent": 0},
        "timeouts": {"connect": "1s", "request": "3s"},
        "retries": {"attempts": 2, "retryOn": ["ConnectFailure", "RefusedStream"]},
    })
}

/// The namespaces as YAML.
#[must_use]
pub fn namespaces() -> String {
    let all = (0..NAMESPACES)
        .map(|number| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(number)}}));
    all.map(|one| one.to_string()).collect::<Vec<_>>().join("\n---\n")
}

fn namespace(number: u32) -> String {
    format!("bench-{}", number % NAMESPACES)
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

/// The Service of a policy.
#[must_use]
pub fn service(number: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number), "namespace": namespace(number)},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

/// A policy.
#[must_use]
pub fn policy(number: u32) -> Value {
    json!({"apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience",
        "metadata": {"name": name(number), "namespace": namespace(number)}, "spec": spec(&name(number))})
}

/// The same wish as an instance of kro's kind.
#[must_use]
pub fn kro_instance(number: u32) -> Value {
    let spec = spec(&name(number));
    json!({"apiVersion": "kro.run/v1alpha1", "kind": "Breaker",
        "metadata": {"name": name(number), "namespace": namespace(number)},
        "spec": {"ejection": spec["ejection"], "timeouts": spec["timeouts"], "attempts": spec["retries"]["attempts"]}})
}

/// A rule or a route of somebody else, for a host that no policy has.
fn of_others(number: u32) -> Value {
    let (namespace, name) = (namespace(number / 2), format!("others-{number}"));
    let host = format!("{name}.{namespace}.svc.cluster.local");
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"bench.example/of": "others"}});
    if number.is_multiple_of(2) {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata,
            "spec": {"host": host, "trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "1s"}}}}})
    } else {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
            "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]}})
    }
}

/// Objects of others, half of them rules.
pub fn others(count: u32) -> impl Iterator<Item = Value> {
    (0..count).map(of_others)
}

/// Writes objects as lines for the client's `seed` and `one`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_lines(file: &Path, objects: impl Iterator<Item = Value>) -> Result<PathBuf> {
    let mut text = String::new();
    for object in objects {
        writeln!(text, "{}", json!({"path": collection(&object), "object": object}))?;
    }
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file.to_owned())
}

fn collection(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, namespace) = (text("/apiVersion"), text("/metadata/namespace"));
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = text("/kind").to_lowercase() + "s";
    format!("{root}/namespaces/{namespace}/{plural}")
}

/// Where the objects of a policy are.
#[must_use]
pub fn paths(number: u32) -> [String; 3] {
    let (namespace, name) = (namespace(number), name(number));
    let istio = format!("/apis/networking.istio.io/v1/namespaces/{namespace}");
    [
        format!("{istio}/destinationrules/{name}"),
        format!("{istio}/virtualservices/{name}"),
        format!("/apis/resilience.dev/v1alpha1/namespaces/{namespace}/resiliences/{name}"),
    ]
}

/// What the operator made of a policy, as what the bare writer is to make of any: names give way to marks.
#[must_use]
pub fn template(number: u32, [rule, routes, policy]: &[Value; 3]) -> Value {
    let uid = policy.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let marked = |object: &Value| {
        let text = object.to_string().replace(uid, "@uid@");
        text.replace(&name(number), "@name@").replace(&namespace(number), "@namespace@")
    };
    let generated = |object: &Value| {
        let metadata = &object["metadata"];
        let kept = ["name", "namespace", "labels", "annotations", "ownerReferences"];
        let kept = kept.into_iter().filter_map(|key| Some((key.to_owned(), metadata.get(key)?.clone())));
        marked(&json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"],
            "metadata": kept.collect::<serde_json::Map<_, _>>()}))
    };
    let status = json!({"apiVersion": policy["apiVersion"], "kind": policy["kind"], "status": policy["status"],
        "metadata": {"name": policy["metadata"]["name"], "namespace": policy["metadata"]["namespace"], "uid": uid}});
    json!({"rule": generated(rule), "routes": generated(routes), "status": marked(&status)})
}

/// A template's object for one policy, which has that uid.
#[must_use]
pub fn filled(template: &str, number: u32, uid: &str) -> String {
    template.replace("@name@", &name(number)).replace("@namespace@", &namespace(number)).replace("@uid@", uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_where_an_object_belongs() {
        assert_eq!(collection(&service(1)), "/api/v1/namespaces/bench-1/services");
        assert_eq!(collection(&of_others(0)), "/apis/networking.istio.io/v1/namespaces/bench-0/destinationrules");
        assert_eq!(collection(&policy(21)), "/apis/resilience.dev/v1alpha1/namespaces/bench-1/resiliences");
    }

    #[test]
    fn a_template_keeps_what_is_written_and_marks_what_is_a_policys_own() {
        let rule = json!({"apiVersion": "a", "kind": "b", "metadata": {"name": "service-7", "namespace": "bench-7",
            "uid": "own", "resourceVersion": "4", "managedFields": [], "ownerReferences": [{"uid": "uid-7"}]},
            "spec": {"host": "service-7.bench-7"}});
        let policy =
            json!({"metadata": {"name": "service-7", "namespace": "bench-7", "uid": "uid-7"}, "status": {"x": 1}});
        let made = template(7, &[rule.clone(), rule, policy]);
        let text = made["rule"].as_str().unwrap();
        assert!(text.contains("@name@.@namespace@") && text.contains("@uid@"), "{text}");
        assert!(
            !text.contains("own\"") && !text.contains("resourceVersion") && !text.contains("managedFields"),
            "{text}"
        );
        assert!(made["status"].as_str().unwrap().contains("@uid@"));
    }
}
