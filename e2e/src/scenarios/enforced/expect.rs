//! In: `status.effective`. Out: what an Envoy that enforces exactly this must hold, in the words of the API;
//! and how what it holds differs. Reads the status as a person would, and knows none of the operator's code.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// Path of a field, from `spec`, and its value in one spelling.
pub type Values = BTreeMap<String, String>;

/// Istio's connect timeout where nothing is declared (`meshConfig.connectTimeout`).
const CONNECT: &str = "10s";
/// Istio's retries where nothing is declared (istio `pilot/pkg/networking/core/route/retry/retry.go`).
const RETRIES: [(&str, &str); 2] =
    [("retries.attempts", "2"), ("retries.retryOn", "Cancelled, ConnectFailure, RefusedStream, Unavailable")];

/// What a status declares for a port: what stands there for the port alone or, if nothing does, for all.
#[must_use]
pub fn declared(effective: &Value, port: u16) -> Values {
    let prefix = format!("ports[{port}].");
    let own = values(effective, |path| path.strip_prefix(&prefix));
    if own.is_empty() { declared_for_all(effective) } else { own }
}

/// What a status declares for all ports without an entry of their own.
#[must_use]
pub fn declared_for_all(effective: &Value) -> Values {
    values(effective, |path| (!path.starts_with("ports[")).then_some(path))
}

/// The values whose path `belongs`, under what it makes of the path.
fn values(effective: &Value, belongs: impl Fn(&str) -> Option<&str>) -> Values {
    let entries = effective.as_array().into_iter().flatten();
    let entry = |entry: &Value| {
        let path = belongs(entry["path"].as_str()?)?;
        Some((path.to_owned(), spelled(path, entry["value"].as_str()?)))
    };
    entries.filter_map(entry).collect()
}

/// What the cluster of a port must hold: limits, ejection, connect timeout, times of connections, budget.
#[must_use]
pub fn cluster(declared: &Values) -> Values {
    let of_routes = |path: &str| path == "timeouts.request" || (path.starts_with("retries.") && !is_budget(path));
    let of_clients = |path: &str| !of_routes(path) && !path.starts_with(SERVER_SIDE);
    let mut values: Values = declared.clone().into_iter().filter(|(path, _)| of_clients(path)).collect();
    values.entry("timeouts.connect".to_owned()).or_insert_with(|| CONNECT.to_owned());
    if values.keys().any(|path| path.starts_with("ejection.")) {
        values.entry("ejection.minHealthyPercent".to_owned()).or_insert_with(|| "0".to_owned());
        values.entry("ejection.localityFailover".to_owned()).or_insert_with(|| "Inherit".to_owned());
    }
    values
}

/// Limits of a server's.
const SERVER_SIDE: &str = "limits.perServer.";

/// What the cluster in front of a server's application must hold, where the policy states the server's side:
/// its limits, and times of connections and the budget as clients have them.
#[must_use]
pub fn server(declared: &Values) -> Values {
    let too = |path: &str| {
        path.starts_with(SERVER_SIDE)
            || is_budget(path)
            || (path.starts_with("timeouts.") && path != "timeouts.request")
    };
    let mut values: Values = declared.clone().into_iter().filter(|(path, _)| too(path)).collect();
    values.remove(&format!("{SERVER_SIDE}mode"));
    values.entry("timeouts.connect".to_owned()).or_insert_with(|| CONNECT.to_owned());
    values
}

/// What every chain of filters that carries a port's bytes as they are must hold.
#[must_use]
pub fn bytes(declared: &Values) -> Values {
    let times = ["timeouts.idle", "timeouts.lifetime"];
    declared.clone().into_iter().filter(|(path, _)| times.contains(&path.as_str())).collect()
}

/// What must become of a call with this method: how long it may take, and what is tried again.
#[must_use]
pub fn route(declared: &Values, method: &str) -> Values {
    let retries = |path: &str| path.starts_with("retries.") && !is_budget(path);
    let mut values: Values =
        declared.clone().into_iter().filter(|(path, _)| path == "timeouts.request" || retries(path)).collect();
    let methods = values.remove("retries.methods");
    if !values.keys().any(|path| retries(path)) {
        values.extend(RETRIES.map(|(path, value)| (path.to_owned(), value.to_owned())));
    } else if methods.is_some_and(|methods| !methods.split(", ").any(|one| one == method)) {
        values.retain(|path, _| !retries(path));
        values.insert("retries.attempts".to_owned(), "0".to_owned());
    }
    values
}

fn is_budget(path: &str) -> bool {
    path.starts_with("retries.budget")
}

/// A value in the one spelling of both sides: times by their length, lists without their order.
#[must_use]
pub fn spelled(path: &str, value: &str) -> String {
    const TIMES: [&str; 8] =
        ["connect", "request", "idle", "lifetime", "interval", "baseTime", "perTryTimeout", "backoff"];
    let field = path.rsplit('.').next().unwrap_or_default();
    if TIMES.contains(&field) {
        time(value)
    } else if value.contains(", ") {
        let mut words: Vec<&str> = value.split(", ").collect();
        words.sort_unstable();
        words.join(", ")
    } else {
        value.to_owned()
    }
}

/// `1h30m`, as the API writes it, and `5400s` and `0.001s`, as Envoy does, by their length. What is none of
/// these stays as it is.
fn time(text: &str) -> String {
    let Some(nanos) = nanos(text) else { return text.to_owned() };
    if nanos % 1_000_000_000 == 0 {
        format!("{}s", nanos / 1_000_000_000)
    } else if nanos % 1_000_000 == 0 {
        format!("{}ms", nanos / 1_000_000)
    } else {
        format!("{nanos}ns")
    }
}

fn nanos(text: &str) -> Option<u128> {
    let mut sum = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (digits, after) = rest.split_at(number);
        let end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let tenths = u32::try_from(fraction.len()).ok()?;
        let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        sum += whole.parse::<u128>().ok()? * unit + fraction * unit / 10_u128.checked_pow(tenths)?;
        rest = next;
    }
    Some(sum)
}

/// A field that is not enforced as declared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Its path, from `spec`; what the API has no word for begins with `envoy.`.
    pub path: String,
    /// What should be; `None` for what nobody declared.
    pub declared: Option<String>,
    /// What is.
    pub enforced: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: declared {}, enforced {}", self.path, text(&self.declared), text(&self.enforced))
    }
}

/// Every field in which the two differ, both ways: a limit that nobody declared is one.
#[must_use]
pub fn differences(declared: &Values, enforced: &Values) -> Vec<Difference> {
    let paths = declared.keys().chain(enforced.keys().filter(|path| !declared.contains_key(*path)));
    let differing = paths.filter(|path| declared.get(*path) != enforced.get(*path));
    let difference = |path: &String| Difference {
        path: path.clone(),
        declared: declared.get(path).cloned(),
        enforced: enforced.get(path).cloned(),
    };
    differing.map(difference).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    fn effective() -> Value {
        json!([
            {"path": "limits.perClient.connections", "value": "100", "origin": "Spec"},
            {"path": "timeouts.request", "value": "1m30s", "origin": "Spec"},
            {"path": "retries.attempts", "value": "3", "origin": "Spec"},
            {"path": "retries.retryOn", "value": "Reset, ConnectFailure", "origin": "Spec"},
            {"path": "retries.methods", "value": "GET, HEAD", "origin": "Spec"},
            {"path": "ports[81].limits.perClient.connections", "value": "7", "origin": "Spec"},
        ])
    }

    #[test]
    fn a_port_with_an_entry_has_what_stands_there_for_it_and_nothing_else() {
        assert_eq!(declared(&effective(), 81), values(&[("limits.perClient.connections", "7")]));
        assert_eq!(declared(&effective(), 80), declared_for_all(&effective()));
        assert_eq!(declared(&effective(), 80).len(), 5);
    }

    #[test]
    fn a_cluster_has_istio_defaults_beside_what_is_declared_and_nothing_of_routes() {
        let expected = values(&[("limits.perClient.connections", "100"), ("timeouts.connect", "10s")]);
        assert_eq!(cluster(&declared(&effective(), 80)), expected);
        let ejecting = cluster(&values(&[("ejection.consecutive5xx", "5"), ("retries.budget.percent", "20")]));
        assert_eq!(ejecting["ejection.minHealthyPercent"], "0");
        assert_eq!(ejecting["ejection.localityFailover"], "Inherit");
        assert_eq!(ejecting["retries.budget.percent"], "20");
    }

    #[test]
    fn what_a_server_takes_is_not_asked_of_a_client_nor_the_other_way_round() {
        let declared = values(&[
            ("limits.perClient.connections", "100"),
            ("limits.perServer.mode", "Limited"),
            ("limits.perServer.activeRequests", "9"),
            ("timeouts.idle", "5s"),
            ("timeouts.request", "7s"),
            ("ejection.consecutive5xx", "5"),
        ]);
        let client = cluster(&declared);
        assert!(client.contains_key("limits.perClient.connections"));
        assert!(client.keys().all(|path| !path.starts_with("limits.perServer")), "{client:?}");
        let expected = [("limits.perServer.activeRequests", "9"), ("timeouts.connect", "10s"), ("timeouts.idle", "5s")];
        assert_eq!(server(&declared), values(&expected));
    }

    #[test]
    fn only_the_declared_methods_are_tried_again() {
        let declared = declared(&effective(), 80);
        let get =
            [("retries.attempts", "3"), ("retries.retryOn", "ConnectFailure, Reset"), ("timeouts.request", "90s")];
        assert_eq!(route(&declared, "GET"), values(&get));
        assert_eq!(route(&declared, "POST"), values(&[("retries.attempts", "0"), ("timeouts.request", "90s")]));
    }

    #[test]
    fn retries_that_nobody_declares_are_istio_own() {
        let route = route(&values(&[("retries.budget.percent", "20"), ("timeouts.connect", "1s")]), "POST");
        assert_eq!(route, values(&RETRIES));
    }

    #[test]
    fn bytes_have_the_times_of_connections_alone() {
        let declared = values(&[("timeouts.idle", "5s"), ("timeouts.connect", "1s"), ("timeouts.lifetime", "9s")]);
        assert_eq!(bytes(&declared), values(&[("timeouts.idle", "5s"), ("timeouts.lifetime", "9s")]));
    }

    #[test]
    fn a_time_has_one_spelling() {
        for (text, spelling) in [
            ("1h30m", "5400s"),
            ("5400s", "5400s"),
            ("1000ms", "1s"),
            ("0.001s", "1ms"),
            ("1.500s", "1500ms"),
            ("1ms", "1ms"),
            ("0s", "0s"),
            ("0.000000001s", "1ns"),
            ("99999h99999h99999h99999h", "1439985600s"),
            ("soon", "soon"),
        ] {
            assert_eq!(spelled("timeouts.request", text), spelling, "{text}");
        }
    }

    #[test]
    fn what_is_missing_and_what_nobody_declared_differ_alike() {
        let found =
            differences(&values(&[("a", "1"), ("b", "2"), ("c", "3")]), &values(&[("a", "1"), ("b", "9"), ("d", "4")]));
        let sentences: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected =
            ["b: declared 2, enforced 9", "c: declared 3, enforced nothing", "d: declared nothing, enforced 4"];
        assert_eq!(sentences, expected);
    }
}
