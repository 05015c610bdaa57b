//! Routes of the Gateway API for a Service, as istiod makes them VirtualServices
//! (istio `pilot/pkg/config/kube/gateway/route_collections.go`).

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Callee;

/// Kinds of routes that take a Service's HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GatewayRouteKind {
    /// HTTP.
    HttpRoute,
    /// gRPC.
    GrpcRoute,
}

impl GatewayRouteKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::HttpRoute, Self::GrpcRoute];

    /// The kind as it stands in an object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }

    /// The resource name in the API's paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
        }
    }
}

impl fmt::Display for GatewayRouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An `HTTPRoute` or a `GRPCRoute`, as far as it decides whose routes a client has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRoute {
    /// Which kind.
    pub kind: GatewayRouteKind,
    /// Name.
    pub name: String,
    /// Namespace: that of the service for a producer's, a client's for a consumer's route.
    pub namespace: String,
    /// Age decides against VirtualServices.
    pub created: Option<Timestamp>,
    /// What it is attached to, as far as that is a Service or a ServiceEntry.
    pub parents: Vec<RouteParent>,
    /// Whether it has rules at all; one without makes no routes.
    pub has_rules: bool,
}

impl fmt::Display for GatewayRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteParent {
    /// A ServiceEntry, not a Service.
    pub is_entry: bool,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The only port that is meant; `None`: all.
    pub port: Option<u16>,
}

impl GatewayRoute {
    /// From metadata and spec as they were read.
    #[must_use]
    pub fn new(kind: GatewayRouteKind, meta: &ObjectMeta, spec: &Value) -> Self {
        let namespace = meta.namespace.clone().unwrap_or_default();
        let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
        let parents = list("parentRefs").filter_map(|parent| {
            let text = |key: &str| parent.get(key).and_then(Value::as_str);
            let is_entry = match (text("group"), text("kind")) {
                (Some(""), Some("Service")) => false,
                (Some("networking.istio.io"), Some("ServiceEntry")) => true,
                _ => return None,
            };
            Some(RouteParent {
                is_entry,
                namespace: text("namespace").map_or_else(|| namespace.clone(), str::to_owned),
                name: text("name")?.to_owned(),
                port: parent.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()),
            })
        });
        Self {
            kind,
            name: meta.name.clone().unwrap_or_default(),
            parents: parents.collect(),
            has_rules: list("rules").next().is_some(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            namespace,
        }
    }

    /// Whether one of its parents is what is called.
    #[must_use]
    pub fn is_for(&self, callee: &Callee) -> bool {
        self.parents.iter().any(|parent| parent.is(callee))
    }
}

impl RouteParent {
    pub(super) fn is(&self, callee: &Callee) -> bool {
        self.is_entry == callee.is_entry && self.namespace == callee.namespace && self.name == callee.name
    }
}
