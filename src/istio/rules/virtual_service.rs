//! Rules of a VirtualService (istio `pkg/config/validation/validation.go` and `virtualservice.go`).

use serde_json::{Map, Value};

use super::{
    Fault, Stricter,
    check::{Check, INT32, UINT32},
    words::{self, Word},
};

/// What a route matches: a port, and a method or any.
type Matched = (i64, Option<String>);

/// Faults of a VirtualService's spec.
#[must_use]
pub fn virtual_service_faults(spec: &Value) -> Vec<Fault> {
    let mut check = Check::default();
    let Some(spec) = check.object("spec", spec, &["hosts", "exportTo", "http"]) else { return check.faults };
    check.hosts(spec.get("hosts"));
    check.export(spec.get("exportTo"));
    let routes = check.list("spec.http", spec.get("http"));
    check.istio(!routes.is_empty(), "spec.http", "must have at least one entry");
    let mut seen: Vec<Matched> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let path = format!("spec.http[{index}]");
        for one in check.route(&path, route) {
            // istio warns of a rule that an earlier one hides: «unreachable».
            let hidden = seen.iter().any(|(port, method)| *port == one.0 && (*method == one.1 || method.is_none()));
            check.ours(Stricter::RouteReach, !hidden, &path, "matches what an earlier route has");
            seen.push(one);
        }
    }
    for (port, _) in &seen {
        // Whatever no route takes gets 404 (measured M45).
        let caught = seen.iter().any(|(other, method)| other == port && method.is_none());
        let what = format!("leaves calls of port {port} without a route");
        check.ours(Stricter::RouteReach, caught, "spec.http", &what);
    }
    check.faults
}

impl Check {
    /// Of istio `ValidateVirtualService`: without hosts it is a delegate; an address is a host; `*` is none
    /// for the mesh; none covers another.
    fn hosts(&mut self, hosts: Option<&Value>) {
        let hosts = self.list("spec.hosts", hosts);
        self.ours(Stricter::RouteShape, !hosts.is_empty(), "spec.hosts", "must have at least one entry");
        let mut earlier: Vec<&str> = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let path = format!("spec.hosts[{index}]");
            let host = self.text(&path, Some(host));
            if words::host(host) == Word::Refused && words::is_address(host) {
                self.ours(Stricter::NotOneHost, false, &path, &format!("{host:?} is an address"));
            } else {
                self.host(&path, host);
                self.istio(host != "*", &path, "* is not for the mesh");
            }
            let overlaps = earlier.iter().any(|one| words::overlap(one, host));
            self.istio(!overlaps, &path, "an earlier host covers it, or it covers one");
            earlier.push(host);
        }
    }

    /// istio `validateExportTo`. Of `.` beside the namespace's own name nothing is known here.
    fn export(&mut self, namespaces: Option<&Value>) {
        let namespaces = self.list("spec.exportTo", namespaces);
        let mut earlier: Vec<&str> = Vec::new();
        for (index, namespace) in namespaces.iter().enumerate() {
            let path = format!("spec.exportTo[{index}]");
            let name = self.text(&path, Some(namespace));
            let is_name = matches!(name, "." | "*") || words::is_label(name);
            self.istio(is_name, &path, &format!("{name:?} is no namespace"));
            self.istio(!earlier.contains(&name), &path, "an earlier entry is the same");
            earlier.push(name);
        }
        let is_public = earlier.contains(&"*");
        self.istio(!is_public || earlier.len() == 1, "spec.exportTo", "* is for all, and stands alone");
    }

    /// istio `validateHTTPRoute`; gives what it matches.
    fn route(&mut self, path: &str, route: &Value) -> Vec<Matched> {
        let known = ["name", "match", "route", "timeout", "retries"];
        let Some(route) = self.object(path, route, &known) else { return Vec::new() };
        self.text(&format!("{path}.name"), route.get("name"));
        let matches = self.list(&format!("{path}.match"), route.get("match"));
        self.ours(Stricter::RouteShape, !matches.is_empty(), path, "must match a port");
        let mut found = Vec::new();
        for (index, one) in matches.iter().enumerate() {
            found.extend(self.matched(&format!("{path}.match[{index}]"), one));
        }
        let port = found.first().map(|(port, _)| *port);
        let one_port = found.iter().all(|(one, _)| Some(*one) == port);
        self.ours(Stricter::RouteShape, one_port, path, "must match exactly one port");
        self.destinations(path, &route, port);
        self.duration(path, &route, "timeout");
        if let Some(retries) = route.get("retries") {
            self.retries(&format!("{path}.retries"), retries);
        }
        let acts = route.contains_key("timeout") || route.contains_key("retries");
        self.ours(Stricter::DoesNothing, acts, path, "changes nothing");
        found
    }

    /// istio `validateHTTPRouteMatchRequest`: port 0 is any.
    fn matched(&mut self, path: &str, one: &Value) -> Option<Matched> {
        let one = self.object(path, one, &["port", "method"])?;
        let port = self.integer(&format!("{path}.port"), one.get("port"), UINT32);
        let any = port.unwrap_or(0) == 0;
        if !any {
            self.istio(port.is_some_and(|port| port <= 65_535), &format!("{path}.port"), "must be at most 65535");
        }
        self.ours(Stricter::RouteShape, !any, path, "must match a port");
        let method = one.get("method").map(|method| self.method(&format!("{path}.method"), method));
        port.filter(|_| !any).map(|port| (port, method))
    }

    /// istio `validateStringMatch`, and the CRD: one of the three at most.
    fn method(&mut self, path: &str, method: &Value) -> String {
        // An expression would need Go's syntax of them.
        let Some(method) = self.object(path, method, &["exact", "prefix"]) else { return String::new() };
        self.istio(method.len() < 2, path, "must be one of exact, prefix and regex");
        let exact = self.text(&format!("{path}.exact"), method.get("exact"));
        let prefix = self.text(&format!("{path}.prefix"), method.get("prefix"));
        self.istio(!method.contains_key("prefix") || !prefix.is_empty(), path, "prefix must not be empty");
        self.ours(Stricter::RouteShape, !exact.is_empty(), path, "must be exact");
        exact.to_owned()
    }

    /// istio `validateHTTPRouteDestinations`. Several need weights; ours is one, without.
    fn destinations(&mut self, path: &str, route: &Map<String, Value>, port: Option<i64>) {
        let destinations = self.list(&format!("{path}.route"), route.get("route"));
        self.istio(!destinations.is_empty(), path, "must have a destination");
        // Without weights they have none in total, and that Istio refuses.
        self.istio(destinations.len() < 2, path, "must have exactly one destination, as it has no weight");
        for (index, weighted) in destinations.iter().enumerate() {
            let path = format!("{path}.route[{index}].destination");
            let Some(weighted) = self.object(&path, weighted, &["destination"]) else { continue };
            self.istio(weighted.contains_key("destination"), &path, "must be there");
            let Some(destination) = weighted.get("destination") else { continue };
            let Some(destination) = self.object(&path, destination, &["host", "port"]) else { continue };
            let host = self.text(&format!("{path}.host"), destination.get("host"));
            self.host(&format!("{path}.host"), host);
            // istio `validateDestination`.
            self.istio(host != "*", &path, "must be one host");
            let number = destination.get("port").and_then(|port| self.object(&path, port, &["number"]));
            let number = number.and_then(|port| {
                let number = self.integer(&path, port.get("number"), UINT32);
                self.istio(number.is_some_and(|n| (1..=65_535).contains(&n)), &path, "must be a port from 1 to 65535");
                number
            });
            // Another port's traffic would go astray (measured M43).
            self.ours(Stricter::RouteShape, number == port, &path, "goes to another port than it matches");
        }
    }

    /// istio `validateHTTPRetry`.
    fn retries(&mut self, path: &str, retries: &Value) {
        let known = ["attempts", "retryOn", "perTryTimeout", "backoff"];
        let Some(retries) = self.object(path, retries, &known) else { return };
        let attempts = self.integer(&format!("{path}.attempts"), retries.get("attempts"), INT32);
        self.ours(Stricter::DefaultUnseen, retries.contains_key("attempts"), path, "attempts must be written");
        let on = self.text(&format!("{path}.retryOn"), retries.get("retryOn"));
        self.istio(attempts.is_none_or(|attempts| attempts >= 0), path, "attempts must not be negative");
        if attempts.unwrap_or(0) == 0 {
            let more = !on.is_empty() || retries.contains_key("perTryTimeout");
            self.istio(!more, path, "attempts 0 stands without retryOn and perTryTimeout");
            self.ours(Stricter::DoesNothing, !retries.contains_key("backoff"), path, "attempts 0 stands alone");
        } else {
            // Without a list of its own Istio's default acts.
            self.ours(Stricter::DefaultUnseen, !on.is_empty(), path, "retryOn must be written");
        }
        self.duration(path, &retries, "perTryTimeout");
        self.duration(path, &retries, "backoff");
        for word in on.split(',').filter(|_| !on.is_empty()) {
            let taken = words::retry_word(word);
            self.istio(taken != Word::Refused, path, &format!("{word:?} is not a valid retryOn policy"));
            self.ours(Stricter::RetryWord, taken != Word::Odd, path, &format!("{word:?} is no retryOn policy of ours"));
        }
    }
}
