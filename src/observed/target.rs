//! What matters of a target: a Service or a ServiceEntry.

use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Endpoints, Selector, WAYPOINT, uses_waypoint};
use crate::{
    api::{TargetKind, TargetRef},
    istio::{Protocol, entry_protocol, port_protocol},
    names,
};

/// What matters of a Service or a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Hosts that a ServiceEntry declares, letter by letter as istiod takes them (claim R1.1d); a Service
    /// has one that follows from its name.
    pub hosts: Vec<String>,
    /// How clients find its endpoints.
    pub discovery: Discovery,
    /// Its ports, in order.
    pub ports: Vec<PortView>,
    /// Labels of the pods behind a Service; empty where no labels select them, as behind a ServiceEntry.
    pub selector: Selector,
    /// Namespaces that it is exported to, as written; empty: where the mesh's default says.
    pub export_to: Vec<String>,
    /// Endpoints that it lists itself: those of a static ServiceEntry.
    pub listed: Option<Endpoints>,
    /// Whether it uses a waypoint ([`WAYPOINT`]); `None`: as its namespace does.
    pub waypoint: Option<bool>,
    /// Whether it prefers near endpoints (`spec.trafficDistribution`): then istiod sends also those that
    /// are not ready, whatever its version, and keeps no share of healthy ones
    /// (istio `pilot/pkg/model/service.go`, `ForcesSupportUnhealthyEndpoints`).
    pub prefers_near: bool,
}

/// Fully qualified host of a target in `namespace`: that of a Service follows from its name, that of a
/// ServiceEntry stands in it. `None` for an entry that is not there, or declares none.
#[must_use]
pub fn host_of(
    target: &TargetRef,
    namespace: &str,
    entry: Option<&ServiceView>,
    cluster_domain: &str,
) -> Option<String> {
    match target.kind {
        TargetKind::Service => Some(names::service_host(&target.name, namespace, cluster_domain)),
        TargetKind::ServiceEntry => entry?.hosts.first().cloned(),
    }
}

/// How clients find the endpoints of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discovery {
    /// A cluster IP: proxies are sent the endpoints and balance over them.
    ClusterIp,
    /// Headless: the client picks the endpoint by its address, so ejection has no effect.
    Headless,
    /// An alias of another host: Istio gives it no cluster of its own.
    ExternalName,
    /// `resolution: STATIC` with endpoints in the ServiceEntry itself.
    Static,
    /// `resolution: STATIC` with a `workloadSelector`: endpoints are pods and `WorkloadEntries`.
    Selected,
    /// `resolution: DNS`: each proxy resolves the names and balances over all addresses.
    Dns,
    /// `resolution: DNS_ROUND_ROBIN`: one logical endpoint behind a name.
    DnsRoundRobin,
    /// `resolution: NONE`: the client picks the endpoint by its address.
    Passthrough,
}

impl Discovery {
    /// Whether the client itself picks the endpoint: then ejections are counted and change nothing
    /// (measured M60).
    #[must_use]
    pub const fn client_picks(self) -> bool {
        matches!(self, Self::Headless | Self::Passthrough)
    }

    /// Whether the number of endpoints can be known at all.
    #[must_use]
    pub const fn is_countable(self) -> bool {
        !matches!(self, Self::Selected | Self::Dns | Self::Passthrough)
    }
}

/// A port of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    /// Port of the Service, not of the pods.
    pub number: u16,
    /// What istiod takes it for.
    pub protocol: Protocol,
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
        let labels = service.metadata.labels.as_ref();
        let waypoint = labels.and_then(|labels| labels.get(WAYPOINT));
        Self {
            hosts: Vec::new(),
            discovery,
            ports: ports.collect(),
            // That of an ExternalName is ignored (Kubernetes `ServiceSpec.selector`).
            selector: match discovery {
                Discovery::ExternalName => Selector::new(),
                _ => spec.and_then(|spec| spec.selector.clone()).unwrap_or_default(),
            },
            export_to: export_to(service),
            listed: None,
            waypoint: waypoint.map(|name| uses_waypoint(Some(name))),
            prefers_near: prefers_near(service),
        }
    }
}

/// As istiod reads it: the field, then the annotation from before the field (istio
/// `pilot/pkg/model/service.go`, `GetTrafficDistribution`).
fn prefers_near(service: &Service) -> bool {
    const NEAR: [&str; 3] = ["preferclose", "prefersamezone", "prefersamenode"];
    let field = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.clone());
    let annotations = service.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|all| all.get("networking.istio.io/traffic-distribution").cloned());
    field.into_iter().chain(annotation).any(|value| NEAR.contains(&value.to_ascii_lowercase().as_str()))
}

/// By annotation (istio `pilot/pkg/serviceregistry/kube/conversion.go`, `ConvertService`).
fn export_to(service: &Service) -> Vec<String> {
    let annotations = service.metadata.annotations.as_ref();
    let list = annotations.and_then(|all| all.get("networking.istio.io/exportTo")).map(String::as_str);
    let namespaces = list.unwrap_or_default().split(',').map(str::trim);
    namespaces.filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

impl ServiceView {
    /// From the spec of a ServiceEntry, as leniently as other people's objects are read
    /// (istio `pilot/pkg/serviceregistry/serviceentry/conversion.go`).
    #[must_use]
    pub fn of_entry(spec: &Value, waypoint: Option<&str>) -> Self {
        let list = |key: &str| spec.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let texts = |key: &str| list(key).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let ports = list("ports").iter().filter_map(|port| {
            let number = port.get("number").and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok())?;
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or_default();
            Some(PortView { number, protocol: entry_protocol(protocol) })
        });
        let endpoints = list("endpoints");
        let selects = spec.get("workloadSelector").is_some_and(|selector| !selector.is_null());
        let discovery = match spec.get("resolution").and_then(Value::as_str).unwrap_or("NONE") {
            "STATIC" if selects => Discovery::Selected,
            "STATIC" => Discovery::Static,
            "DNS" => Discovery::Dns,
            "DNS_ROUND_ROBIN" => Discovery::DnsRoundRobin,
            _ => Discovery::Passthrough,
        };
        let localities = endpoints.iter().map(|endpoint| endpoint.get("locality").and_then(Value::as_str));
        let listed = match discovery {
            Discovery::Static => Some(Endpoints::listed(localities)),
            Discovery::DnsRoundRobin => Some(Endpoints::of(1)),
            _ => None,
        };
        Self {
            hosts: texts("hosts"),
            discovery,
            ports: ports.collect(),
            selector: Selector::new(),
            export_to: texts("exportTo"),
            listed,
            waypoint: waypoint.map(|name| uses_waypoint(Some(name))),
            // All that it lists is ready.
            prefers_near: false,
        }
    }

    /// Numbers of the ports whose calls proxies can see, so that routes apply.
    #[must_use]
    pub fn http_ports(&self) -> Vec<u16> {
        self.ports.iter().filter(|port| port.protocol.is_http()).map(|port| port.number).collect()
    }
}
