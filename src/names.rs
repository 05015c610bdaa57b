//! Every name, label, annotation and manager string that we write. The only place with them.
//!
//! None contains `istio.io`: a change of such metadata makes istiod push the whole mesh
//! (`pilot/pkg/model/config_compare.go`, `NeedsPush`).
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use crate::api::{TargetKind, TargetRef};

/// API group of our kinds.
pub const GROUP: &str = "resilience.dev";
/// Version served and stored.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of our kinds.
pub const API_VERSION: &str = "resilience.dev/v1alpha1";
/// Our kind.
pub const KIND: &str = "Resilience";

/// Field manager of every server-side apply to generated objects and status.
pub const FIELD_MANAGER: &str = "resilience-operator";
/// Field manager of `status.verification`, and reporter of its event.
pub const VERIFY_MANAGER: &str = "resilience-verify";
/// Field manager of policies that `import --adopt` creates.
pub const IMPORT_MANAGER: &str = "resilience-import";
/// Value of [`LABEL_MANAGED_BY`] on generated objects, and reporter of events.
pub const OPERATOR: &str = "resilience-operator";

/// The well-known label that says which tool keeps an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Holds the uid of the `Resilience` that a generated object belongs to: the second proof of
/// ownership beside the ownerReference, so that either can be repaired from the other.
/// A uid fits a label value (63 characters); a name of 253 does not.
pub const LABEL_OWNER_UID: &str = "resilience.dev/owner-uid";

/// Holds, on somebody else's object of which some blocks are ours, the uid of the `Resilience`. Not
/// [`LABEL_OWNER_UID`]: what carries that one is deleted with the policy, and this never is.
pub const LABEL_CO_OWNER_UID: &str = "resilience.dev/co-owner-uid";
/// Holds its name beside it, by which those are found whose policy went while nobody looked. An annotation:
/// a name may be longer than a label's value.
pub const ANNOTATION_CO_OWNER: &str = "resilience.dev/co-owner";

/// Group and version of the Istio objects that we write.
pub const ISTIO_API_VERSION: &str = "networking.istio.io/v1";
/// Group of the Istio objects that we write.
pub const ISTIO_GROUP: &str = "networking.istio.io";
/// Group and version of the Gateway API, as istiod reads it.
pub const GATEWAY_API_VERSION: &str = "gateway.networking.k8s.io/v1";
/// Its group.
pub const GATEWAY_API_GROUP: &str = "gateway.networking.k8s.io";

/// The domain that Kubernetes clusters use unless told otherwise.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
/// The namespace whose Istio objects concern every client, unless the mesh is told otherwise
/// (`meshConfig.rootNamespace`).
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";

/// Fully qualified host of a Service. Istio reads a dotted short name (`svc.ns`) as a host of its
/// own that matches nothing (istio `pilot/pkg/model/config.go`, `ResolveShortnameToFQDN`).
#[must_use]
pub fn service_host(service: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("{service}.{namespace}.svc.{cluster_domain}")
}

/// Name of the generated Sidecar, DestinationRule and VirtualService: that of the target, so that two
/// policies for one Service can never generate two rules for its host.
///
/// A `ServiceEntry` may have the name of a Service; no Service has a dot in its name.
#[must_use]
pub fn generated_name(target: &TargetRef) -> String {
    match target.kind {
        TargetKind::Service => target.name.clone(),
        TargetKind::ServiceEntry => format!("{}.serviceentry", target.name),
    }
}

/// Name of the generated route for a port.
#[must_use]
pub fn route_name(port: u16) -> String {
    format!("port-{port}")
}

/// Name of the generated route for those methods of a port that are tried again.
#[must_use]
pub fn retried_route_name(port: u16) -> String {
    format!("port-{port}-retried")
}
