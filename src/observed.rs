//! What was read of the world, as plain data. The only thing that a test has to invent.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::istio::{Existing, Protocol, port_protocol};

/// Everything that the decision about one `Resilience` rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The target.
    pub target: Target,
    /// Endpoints that client proxies are sent; `None` where it cannot be known (files without them).
    pub endpoints: Option<u32>,
    /// Other `Resilience` objects of the namespace with the same target.
    pub rivals: Vec<Rival>,
    /// DestinationRules and VirtualServices of the namespace that are ours, have a name that we
    /// would use, or are for the target's host.
    pub existing: Vec<Existing>,
}

/// What is known of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Read from files that do not hold it: neither there nor missing.
    #[default]
    Unknown,
    /// Looked for in the cluster and not there.
    Missing,
    /// There.
    Found(ServiceView),
}

/// What matters of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// How clients find its endpoints.
    pub discovery: Discovery,
    /// Its ports, in order.
    pub ports: Vec<PortView>,
}

/// How clients find the endpoints of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// A cluster IP: proxies balance over the endpoints.
    ClusterIp,
    /// Headless: the client picks the endpoint by its address, so ejection has no effect.
    Headless,
    /// An alias of another host: Istio gives it no cluster of its own.
    ExternalName,
}

/// A Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Port of the Service, not of the pods.
    pub number: u16,
    /// What istiod takes it for.
    pub protocol: Protocol,
}

/// Another `Resilience` for the same target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// Older wins.
    pub created: Option<Timestamp>,
}

impl From<&Service> for ServiceView {
    fn from(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let discovery = match spec {
            Some(spec) if spec.type_.as_deref() == Some("ExternalName") => Discovery::ExternalName,
            Some(spec) if spec.cluster_ip.as_deref() == Some("None") => Discovery::Headless,
            _ => Discovery::ClusterIp,
        };
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            let protocol =
                port_protocol(number, port.name.as_deref(), port.protocol.as_deref(), port.app_protocol.as_deref());
            Some(PortView { number, protocol })
        });
        Self { discovery, ports: ports.collect() }
    }
}

/// How many endpoints client proxies are sent, from all slices of one Service.
///
/// Ready or not: istiod sends unready ones too since 1.31 (`PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS`).
/// Terminating ones are not sent. A dual-stack endpoint stands in one slice per address family and
/// is one endpoint, so the family with most addresses counts.
pub fn count_endpoints<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> u32 {
    let mut families: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for slice in slices {
        let addresses = families.entry(slice.address_type.as_str()).or_default();
        for endpoint in &slice.endpoints {
            let terminating = endpoint.conditions.as_ref().and_then(|c| c.terminating).unwrap_or(false);
            if !terminating {
                addresses.extend(endpoint.addresses.iter().map(String::as_str).take(1));
            }
        }
    }
    let most = families.values().map(BTreeSet::len).max().unwrap_or(0);
    u32::try_from(most).unwrap_or(u32::MAX)
}
