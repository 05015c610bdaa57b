//! Endpoints in numbers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Endpoints of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Those that are not on their way out.
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
        let zones: BTreeSet<&str> = localities.flatten().filter_map(|locality| locality.split('/').nth(1)).collect();
        Self { all, ready: all, zones: number(zones.len()) }
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Counts the endpoints of one Service, from all its slices.
///
/// A dual-stack endpoint stands in one slice per address family and is one endpoint, so the family
/// with most addresses counts.
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
        for endpoint in slice.endpoints.iter().filter(|endpoint| !is(endpoint, |c| c.terminating, false)) {
            let address = endpoint.addresses.iter().map(String::as_str).take(1);
            family.all.extend(address.clone());
            // Not said is ready (discovery/v1 EndpointConditions).
            if is(endpoint, |c| c.ready, true) {
                family.ready.extend(address);
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

fn is(
    endpoint: &Endpoint,
    condition: impl Fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>,
    unsaid: bool,
) -> bool {
    endpoint.conditions.as_ref().and_then(condition).unwrap_or(unsaid)
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
                {"addresses": ["10.0.0.2"], "zone": "b", "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "zone": "c", "conditions": {"terminating": true, "ready": false}},
            ],
        }))
        .unwrap();
        assert_eq!(count_endpoints([&slice]), Endpoints { all: 2, ready: 1, zones: 2 });
    }

    #[test]
    fn the_second_part_of_a_locality_is_the_zone() {
        let localities = [Some("eu/a"), Some("eu/a/rack1"), Some("eu/b"), Some("eu"), None];
        assert_eq!(Endpoints::listed(localities.into_iter()), Endpoints { all: 5, ready: 5, zones: 2 });
    }
}
