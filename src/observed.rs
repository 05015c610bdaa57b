//! What was read of the world, as plain data. The only thing that a test has to invent.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod endpoints;
pub mod proxies;
mod server_side;
mod target;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::TargetRef,
    istio::{
        Existing, Kind, Knows,
        neighbourhood::{GatewayRouteKind, Neighbourhood},
    },
};

pub use endpoints::{Endpoints, count_endpoints};
pub use server_side::{Evidence, Selecting, Selector, ServerSide, Sharer, may_select_the_same};
pub use target::{Discovery, PortView, ServiceView, host_of};

/// Everything that the decision about one `Resilience` rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The target.
    pub target: Target,
    /// Endpoints of the target; `None` where they were not read (files without them) or cannot be
    /// counted (each proxy resolves a name by itself).
    pub endpoints: Option<Endpoints>,
    /// Other `Resilience` objects of the namespace with the same target, or with another of the same host.
    pub rivals: Vec<Rival>,
    /// ServiceEntries of other namespaces that declare the host of a target that is one too, as
    /// `namespace/name`, sorted.
    pub namesakes: Vec<String>,
    /// Sidecars, DestinationRules and VirtualServices of the namespace that are ours, have a name that we
    /// would use, or speak of the target's host.
    pub existing: Vec<Existing>,
    /// All that can touch the host, of all namespaces that are read.
    pub neighbourhood: Neighbourhood,
    /// What bears on a Sidecar for the target's pods; looked at only for a policy that asks for one.
    pub server_side: ServerSide,
    /// How the namespace takes part in the mesh; `None` where that was not read.
    pub membership: Option<Membership>,
    /// What the installed Istio understands.
    pub istio: Knows,
    /// What may matter and may not be read.
    pub unseen: BTreeSet<Unseen>,
}

/// What may matter for a policy and may not be read: nothing is guessed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unseen {
    /// Objects of that kind in Istio's root namespace.
    RootNamespace(Kind),
    /// Routes of the Gateway API of that kind.
    GatewayRoutes(GatewayRouteKind),
    /// All of namespaces that the operator does not work in, and the labels of those that it does.
    OtherNamespaces,
}

impl Observed {
    /// How many endpoints proxies are sent, if a rule asks for so large a share of healthy ones: then istiod
    /// leaves out those that are not ready, port by port (istio
    /// `pilot/pkg/xds/endpoints/endpoint_builder.go`, `supportsUnhealthyEndpoints`), and an istiod before
    /// 1.31 does in any case. `None` as [`Observed::endpoints`].
    #[must_use]
    pub fn sent(&self, min_healthy_percent: u32) -> Option<u32> {
        let near = matches!(&self.target, Target::Found(service) if service.prefers_near);
        let unready = near || (self.istio.sends_unready() && min_healthy_percent == 0);
        self.endpoints.map(|endpoints| if unready { endpoints.all } else { endpoints.ready })
    }
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

/// Another `Resilience` for the same host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// Its target; another than ours if two of them have one host, as ServiceEntries may.
    pub target: TargetRef,
    /// Older wins.
    pub created: Option<Timestamp>,
}

/// How a namespace takes part in the mesh, by its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// `istio-injection=enabled` or a revision: new pods get a sidecar.
    Injected,
    /// `istio.io/dataplane-mode=ambient`: pods have no sidecar, and only a waypoint enforces rules.
    Ambient {
        /// The whole namespace uses a waypoint (`istio.io/use-waypoint`).
        waypoint: bool,
    },
    /// Neither: pods have a sidecar only if they ask for one themselves.
    Outside,
}

impl Membership {
    /// By the labels of the namespace (istio `pkg/kube/inject/inject.go`, `injectRequired`, and
    /// `pilot/pkg/serviceregistry/kube/controller/ambient`, `use-waypoint`).
    #[must_use]
    pub fn of<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Self {
        if label("istio.io/dataplane-mode") == Some("ambient") {
            return Self::Ambient { waypoint: uses_waypoint(label(WAYPOINT)) };
        }
        match label("istio-injection") {
            Some("enabled") => Self::Injected,
            Some("disabled") => Self::Outside,
            _ if label("istio.io/rev").is_some_and(|revision| !revision.is_empty()) => Self::Injected,
            _ => Self::Outside,
        }
    }
}

/// The label that names a waypoint, on a Service, a ServiceEntry or a namespace.
pub const WAYPOINT: &str = "istio.io/use-waypoint";

/// `none` opts out (istio.io/api `label.IoIstioUseWaypoint`).
pub(crate) fn uses_waypoint(label: Option<&str>) -> bool {
    label.is_some_and(|waypoint| !waypoint.is_empty() && waypoint != "none")
}
