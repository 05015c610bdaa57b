//! Endpoints in numbers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use serde::{Deserialize, Serialize};

/// Endpoints of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Those that are ready, and those that are not but are not on their way out either. istiod sends
    /// these as well since 1.31 (`PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS`), unless the rule sets
    /// `minHealthPercent` (claims R4.4a, R4.4b).
    pub all: u32,
    /// Those of them that are ready; [`Observed::sent`](super::Observed::sent) tells which of the two
    /// numbers counts.
    pub ready: u32,
    /// Zones that they are in; 0 where nothing says so.
    pub zones: u32,
}

impl Endpoints {
    /// So many, all ready, in no known zone.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        Self { all: number, ready: number, zones: 0 }
    }

    /// Endpoints as a ServiceEntry lists them: all count, `locality` is `region/zone/subzone`.
    #[must_use]
    pub fn listed<'a>(localities: impl ExactSizeIterator<Item = Option<&'a str>>) -> Self {
        let all = number(localities.len());
        // Zones of two regions may have one name.
        let zone = |locality: &'a str| {
            let mut parts = locality.split('/');
            Some((parts.next()?, parts.next()?))
        };
        let zones: BTreeSet<(&str, &str)> = localities.flatten().filter_map(zone).collect();
        Self { all, ready: all, zones: number(zones.len()) }
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Counts the endpoints of one Service, from all its slices.
///
/// A dual-stack pod stands in one slice per address family and is one endpoint where istiod knows of both
/// (`ISTIO_DUAL_STACK`), so the family with most addresses counts. Where it does not, proxies are sent the
/// addresses of both (claim R4.4c), and there are more than counted here: never fewer.
pub fn count_endpoints<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Endpoints {
    #[derive(Default)]
    struct Family<'a> {
        all: BTreeSet<&'a str>,
        ready: BTreeSet<&'a str>,
    }
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let mut zones = BTreeSet::new();
    for slice in slices {
        let family = families.entry(slice.address_type.as_str()).or_default();
        for endpoint in slice.endpoints.iter().filter(|endpoint| is_sent(endpoint)) {
            let addresses = endpoint.addresses.iter().map(String::as_str);
            family.all.extend(addresses.clone());
            if is_ready(endpoint) {
                family.ready.extend(addresses);
            }
            zones.extend(endpoint.zone.as_deref());
        }
    }
    let most = |set: fn(&Family<'_>) -> usize| number(families.values().map(set).max().unwrap_or(0));
    Endpoints {
        all: most(|family| family.all.len()),
        ready: most(|family| family.ready.len()),
        zones: number(zones.len()),
    }
}

/// Not said is ready (discovery/v1 `EndpointConditions`).
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|said| said.ready).unwrap_or(true)
}

/// A ready endpoint is sent even on its way out, as of a Service that publishes addresses that are not
/// ready; another one only if it is said not to be (istio
/// `pilot/pkg/serviceregistry/kube/controller/endpointslice.go`, `endpointHealthStatus`).
fn is_sent(endpoint: &Endpoint) -> bool {
    is_ready(endpoint) || endpoint.conditions.as_ref().and_then(|said| said.terminating) == Some(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_leaves_does_not_count_and_who_is_not_ready_counts_apart() {
        let slice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "zone": "a"},
                {"addresses": ["10.0.0.2"], "zone": "b", "conditions": {"ready": false, "terminating": false}},
                {"addresses": ["10.0.0.3"], "zone": "c", "conditions": {"terminating": true, "ready": false}},
            ],
        }))
        .unwrap();
        assert_eq!(count_endpoints([&slice]), Endpoints { all: 2, ready: 1, zones: 2 });
    }

    #[test]
    fn those_count_that_istiod_sends() {
        // What the lab's client was sent (R4.4a): .1, .2, .3, .6, .8 and .9; with minHealthPercent (R4.4b) not .3.
        let of = |last: u8, conditions: serde_json::Value| json!({"addresses": [format!("192.0.2.{last}")], "conditions": conditions});
        let slice = |endpoints: serde_json::Value| {
            serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints})).unwrap()
        };
        let first = slice(json!([
            {"addresses": ["192.0.2.1"]},
            of(2, json!({"ready": true})),
            of(3, json!({"ready": false, "serving": false, "terminating": false})),
            of(4, json!({"ready": false, "serving": true, "terminating": true})),
            of(5, json!({"ready": false, "serving": false, "terminating": true})),
            of(6, json!({"ready": true, "serving": true, "terminating": true})),
            of(7, json!({"ready": false})),
            {"addresses": ["192.0.2.8", "192.0.2.9"]},
        ]));
        let again = slice(json!([{"addresses": ["192.0.2.1"]}]));
        assert_eq!(count_endpoints([&first, &again]), Endpoints { all: 6, ready: 5, zones: 0 });
    }

    #[test]
    fn the_first_two_parts_of_a_locality_are_the_zone() {
        let localities = [Some("eu/a"), Some("eu/a/rack1"), Some("eu/b"), Some("us/b"), Some("eu"), None];
        assert_eq!(Endpoints::listed(localities.into_iter()), Endpoints { all: 6, ready: 6, zones: 3 });
    }
}
