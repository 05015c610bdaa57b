//! What is said of things that have no counterpart: why, and what to do.

use serde_json::Value;

use super::{
    report::{Fate, Left},
    words::text,
};
use crate::istio::{Existing, Handler, Kind};

pub(super) fn left(object: &Existing, path: &str, value: &Value, fate: Fate, message: impl Into<String>) -> Left {
    let value = if value.is_null() { String::new() } else { text(value) };
    Left { object: object.whole(), path: path.to_owned(), value, fate, message: message.into() }
}

/// An object whose host is none of a Service or ServiceEntry here.
pub(super) fn not_a_target(object: &Existing, namespace: &str) -> Left {
    let path = if object.kind == Kind::DestinationRule { "spec.host" } else { "spec.hosts" };
    let value = object.spec.get(&path[5..]).cloned().unwrap_or_default();
    let message = if text(&value).contains('*') {
        "a policy is for one Service or ServiceEntry, and a wildcard is for many: import those that have rules of their own, or leave it".to_owned()
    } else {
        format!(
            "no Service or ServiceEntry of namespace {namespace} that is known here has this host, and a policy stands beside its target: give its file too, import in the namespace of the host, or delete the object if nothing has the host"
        )
    };
    left(object, path, &value, Fate::Stays, message)
}

/// The target has a policy already.
pub(super) fn has_policy(object: &Existing, policy: &str) -> Left {
    let message = format!(
        "Resilience {policy} has the target already: delete one of the two, or let `import --adopt` take the object over if it says the same"
    );
    left(object, "metadata.name", &object.name.clone().into(), Fate::Stays, message)
}

/// Why an object cannot be imported whatever it says; `None`: it may.
pub(super) fn untouchable(object: &Existing) -> Option<Left> {
    let stays = |path: &str, value: Value, message: &str| Some(left(object, path, &value, Fate::Stays, message));
    if object.deleting {
        return stays("metadata.deletionTimestamp", Value::Null, "is being deleted: import when it has gone");
    }
    if let Some(revision) = object.labels.get("istio.io/rev") {
        return stays(
            "metadata.labels.istio.io/rev",
            revision.clone().into(),
            "is for one revision of Istio, and what a policy generates is for all: leave it, or take the label off",
        );
    }
    if let Some(Handler::Flagger { canary }) = &object.handler {
        let canary = canary.clone().unwrap_or_default();
        return stays(
            "metadata.ownerReferences",
            canary.into(),
            "Flagger writes the whole of it anew from its Canary: keep limits and ejection in spec.service.trafficPolicy there",
        );
    }
    if object.has_workload_selector() {
        let selector = object.spec.get("workloadSelector").cloned().unwrap_or_default();
        return stays(
            "spec.workloadSelector",
            selector,
            "is for some clients, and a policy is for all: it stays, and goes before what is generated for those that it selects",
        );
    }
    None
}

/// What to do about a field of a DestinationRule without a counterpart; the path from `spec`.
pub(super) fn of_rule(path: &str) -> &'static str {
    let field = path.strip_prefix("trafficPolicy.").unwrap_or(path);
    let field =
        field.split_once("].").filter(|_| field.starts_with("portLevelSettings")).map_or(field, |(_, rest)| rest);
    match field {
        _ if field.starts_with("subsets") => {
            "a policy has no subsets: the rule stays for them, and each inherits limits and ejection and counts for itself (RES061)"
        }
        _ if field.starts_with("tls") => "a policy says nothing of encryption: the rule stays for it",
        "loadBalancer.localityLbSetting.enabled" => {
            "is a policy's own only beside ejection (ejection.localityFailover: Disabled): the rule stays for it"
        }
        _ if field.starts_with("loadBalancer") => "a policy does not balance: the rule stays for it",
        _ if field.starts_with("exportTo") => {
            "a policy is for all clients of its target, and of rules that are exported differently the youngest counts: leave the rule, or take exportTo out of it first"
        }
        _ if field.starts_with("connectionPool.tcp.tcpKeepalive") => "a policy has no keep-alive of TCP",
        "connectionPool.http.h2UpgradePolicy" | "connectionPool.http.useClientProtocol" => {
            "a policy does not choose the protocol: name the port of the Service http2-… or grpc-…, or leave the block"
        }
        _ if field.starts_with("connectionPool.http.http2KeepAlive")
            || field == "connectionPool.http.maxConcurrentStreams" =>
        {
            "a policy has no settings of HTTP/2 connections"
        }
        "outlierDetection.outlierDetectionHttpErrorCodes" => "a policy does not choose which codes count as failures",
        "retryBudget.budgetInterval" => {
            "a budget over an interval nearly removes it, and a policy counts those under way alone: take it out first"
        }
        "tunnel" | "proxyProtocol" => "a policy has no tunnels: the rule stays for it",
        _ => "a policy has no word for it",
    }
}

/// Likewise of a VirtualService.
pub(super) fn of_routes(path: &str) -> &'static str {
    let field = path.rsplit("].").next().unwrap_or(path);
    match field {
        "spec.gateways" => {
            "routes of a gateway are its own, and a policy is for the mesh: split the VirtualService in two"
        }
        "spec.hosts" => "a policy has one host: give the others a VirtualService of their own first",
        "spec.exportTo" => "a policy's routes go wherever its target is exported: leave it, or take exportTo out first",
        "spec.tls" | "spec.tcp" => "a policy routes HTTP alone",
        "fault" => "a policy injects no faults",
        "mirror" | "mirrors" | "mirrorPercent" | "mirrorPercentage" => "a policy does not mirror",
        "rewrite" | "redirect" | "directResponse" | "headers" | "corsPolicy" | "delegate" => {
            "a policy routes calls to its target and nothing else"
        }
        "retries.retryRemoteLocalities" | "retries.retryIgnorePreviousHosts" => {
            "a policy does not choose where a retry goes"
        }
        "destination.subset" => "a policy has no subsets",
        "destination.host" => "a policy sends calls to its own target alone",
        "route" => "a policy does not split calls by weight",
        _ if path.contains(".match[") => "a policy tells calls apart by port and, for retries, by method alone",
        _ => "a policy has no word for it",
    }
}

/// Of what has no effect, but for what it hides: of an exact host and a wildcard, the exact one counts.
pub(super) const SAYS_NOTHING: &str = "asks for nothing that Istio does not do by default, so a policy has nothing to say: leave it, or delete it if nothing for a wildcard waits behind it";

/// After a VirtualService that stays.
pub(super) const ROUTES_STAY: &str =
    "; the VirtualService stays whole, timeouts and retries with it, since a proxy takes the routes of one";
