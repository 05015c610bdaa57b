//! Istio objects that exist, ours and other people's, read so leniently that no field of theirs
//! can stop us: a newer Istio's enum value is just text.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Claim, Handler, SHARED_BLOCKS, resolve_host};
use crate::names;

/// The kinds that we generate, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// What a server's own proxy takes.
    Sidecar,
    /// Limits, ejection, connect timeout.
    DestinationRule,
    /// Request timeout, retries.
    VirtualService,
}

impl Kind {
    /// All, in write order; deletion goes the other way. The Sidecar stands first and goes last: a
    /// DestinationRule without it limits the servers' own proxies as well, if only for a moment (measured
    /// M9, M10).
    pub const ALL: [Self; 3] = [Self::Sidecar, Self::DestinationRule, Self::VirtualService];

    /// The kind as it stands in an object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "Sidecar",
            Self::DestinationRule => "DestinationRule",
            Self::VirtualService => "VirtualService",
        }
    }

    /// The resource name in the API's paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecars",
            Self::DestinationRule => "destinationrules",
            Self::VirtualService => "virtualservices",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One Sidecar, DestinationRule or VirtualService as it exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Existing {
    /// Which kind.
    pub kind: Kind,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Identity; `None` when read from a file.
    pub uid: Option<String>,
    /// Age decides which of two rules counts.
    pub created: Option<Timestamp>,
    /// Being deleted.
    pub deleting: bool,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// All owners.
    pub owners: Vec<OwnerReference>,
    /// Name of the `Resilience` whose blocks stand in it beside what its owner wrote, by our annotation.
    pub co_owner: Option<String>,
    /// What field managers other than ours own in the blocks that can be shared.
    pub claims: Vec<Claim>,
    /// The tool that keeps it, if it is one that we know.
    pub handler: Option<Handler>,
    /// The whole spec.
    pub spec: Value,
}

impl Existing {
    /// From metadata and spec as they were read.
    #[must_use]
    pub fn new(kind: Kind, meta: &ObjectMeta, spec: Value) -> Self {
        Self {
            kind,
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            deleting: meta.deletion_timestamp.is_some(),
            labels: meta.labels.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            co_owner: meta.annotations.as_ref().and_then(|all| all.get(names::ANNOTATION_CO_OWNER)).cloned(),
            claims: Claim::of(meta.managed_fields.as_deref().unwrap_or_default()),
            handler: Handler::of(meta),
            spec,
        }
    }

    /// Namespace and name, as `namespace/name`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Kind and place: how it is named to people.
    #[must_use]
    pub fn whole(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    /// Whether the object selects particular client workloads, so that it leaves others alone.
    #[must_use]
    pub fn has_workload_selector(&self) -> bool {
        self.spec.get("workloadSelector").is_some_and(|selector| !selector.is_null())
    }

    /// The labels by which it selects workloads; `None`: it is for the whole namespace. A selector without
    /// labels selects all, and goes before one that is not there (istio `pilot/pkg/model/push_context.go`,
    /// `initSidecarScopes`).
    #[must_use]
    pub fn workload_labels(&self) -> Option<BTreeMap<String, String>> {
        let selector = self.spec.get("workloadSelector").filter(|selector| !selector.is_null())?;
        let labels = selector.get("labels").and_then(Value::as_object).into_iter().flatten();
        Some(labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
    }

    /// The namespaces it is exported to, sorted; empty means the mesh's default.
    #[must_use]
    pub fn export_to(&self) -> Vec<String> {
        let mut namespaces = strings(self.spec.get("exportTo"));
        namespaces.sort();
        namespaces
    }

    /// Whether it binds sidecars: no gateways at all, or `mesh` among them.
    #[must_use]
    pub fn binds_mesh(&self) -> bool {
        let gateways = strings(self.spec.get("gateways"));
        gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
    }

    /// Its hosts, fully qualified as istiod reads them.
    #[must_use]
    pub fn hosts(&self, cluster_domain: &str) -> Vec<String> {
        let written = match self.kind {
            // It is for workloads, not for hosts.
            Kind::Sidecar => Vec::new(),
            Kind::DestinationRule => {
                self.spec.get("host").and_then(Value::as_str).map(str::to_owned).into_iter().collect()
            }
            Kind::VirtualService => strings(self.spec.get("hosts")),
        };
        written.iter().map(|host| resolve_host(host, &self.namespace, cluster_domain)).collect()
    }

    /// Whether it is for this host. Of a DestinationRule istiod takes the host letter by letter, of a
    /// VirtualService in lower case (istio `pilot/pkg/networking/core/route/route.go`; claim R1.1c).
    #[must_use]
    pub fn is_for(&self, host: &str, cluster_domain: &str) -> bool {
        self.hosts(cluster_domain).iter().any(|one| match self.kind {
            Kind::Sidecar => false,
            Kind::DestinationRule => one == host,
            Kind::VirtualService => one.eq_ignore_ascii_case(host),
        })
    }

    /// Whether it has a traffic policy of its own; one without is there for its subsets.
    #[must_use]
    pub fn has_traffic_policy(&self) -> bool {
        self.spec.get("trafficPolicy").is_some_and(|policy| !policy.is_null())
    }
}

impl Existing {
    /// The uid of the policy whose blocks stand in it, if one's do.
    #[must_use]
    pub fn co_owner_uid(&self) -> Option<&str> {
        self.labels.get(names::LABEL_CO_OWNER_UID).map(String::as_str)
    }

    /// Who else owns a field of its traffic policy, or one below it; `field` from `spec.trafficPolicy`.
    #[must_use]
    pub fn claimants(&self, field: &str) -> Vec<&str> {
        let claims = self.claims.iter().filter(|claim| claim.has(field));
        claims.map(|claim| claim.manager.as_str()).collect()
    }

    /// Whether it would have a traffic policy without what is ours in it.
    #[must_use]
    pub fn has_policy_of_others(&self) -> bool {
        let ours = |block: &str| {
            self.co_owner_uid().is_some() && SHARED_BLOCKS.contains(&block) && self.claimants(block).is_empty()
        };
        match self.spec.get("trafficPolicy") {
            Some(Value::Object(policy)) => {
                // One that is empty is one for Istio.
                policy.is_empty() || policy.iter().any(|(block, value)| !value.is_null() && !ours(block))
            }
            policy => policy.is_some_and(|policy| !policy.is_null()),
        }
    }

    /// Gateways that it binds, `mesh` left out.
    #[must_use]
    pub fn gateways(&self) -> Vec<String> {
        let mut gateways = strings(self.spec.get("gateways"));
        gateways.retain(|gateway| gateway != "mesh");
        gateways
    }

    /// Whether it was generated for a policy, whichever.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.labels.get(names::LABEL_MANAGED_BY).is_some_and(|value| value == names::OPERATOR)
    }

    /// Whether it can matter for a policy: it is the policy's own by owner or by label, has blocks of it or
    /// a name that the policy would use, or speaks of its host.
    #[must_use]
    pub fn concerns(&self, policy: &Stake<'_>, cluster_domain: &str) -> bool {
        let own = |uid: &str| {
            self.owners.iter().any(|owner| owner.uid == uid)
                || self.labels.get(names::LABEL_OWNER_UID).is_some_and(|label| label == uid)
                || self.co_owner_uid() == Some(uid)
        };
        policy.uid.is_some_and(own)
            || policy.name == Some(&self.name)
            || policy.host.is_some_and(|host| {
                self.is_for(host, cluster_domain) || self.destinations(cluster_domain).iter().any(|one| one == host)
            })
    }

    /// Hosts that its HTTP routes send calls to, fully qualified.
    #[must_use]
    pub fn destinations(&self, cluster_domain: &str) -> Vec<String> {
        fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
            value.get(key).and_then(Value::as_array).into_iter().flatten()
        }
        let targets = list(&self.spec, "http").flat_map(|route| list(route, "route"));
        let hosts = targets.filter_map(|target| target.pointer("/destination/host")?.as_str());
        hosts.map(|host| resolve_host(host, &self.namespace, cluster_domain)).collect()
    }
}

/// What a policy has at stake.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stake<'a> {
    /// Its uid.
    pub uid: Option<&'a str>,
    /// Name of what it generates.
    pub name: Option<&'a str>,
    /// Its target's host.
    pub host: Option<&'a str>,
}

pub(super) fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Existing, Kind, ObjectMeta};

    #[test]
    fn capitals_count_in_a_rules_host_and_not_in_that_of_routes() {
        let meta = ObjectMeta { namespace: Some("prod".to_owned()), ..ObjectMeta::default() };
        let rule = |host: &str| Existing::new(Kind::DestinationRule, &meta, json!({"host": host}));
        let routes = |host: &str| Existing::new(Kind::VirtualService, &meta, json!({"hosts": [host]}));
        let is_for = |object: Existing, host: &str| object.is_for(host, "cluster.local");
        assert!(
            !is_for(rule("Shop"), "shop.prod.svc.cluster.local")
                && is_for(rule("Shop.example.org"), "Shop.example.org")
        );
        assert!(is_for(routes("Shop"), "shop.prod.svc.cluster.local"));
        assert!(is_for(routes("shop.example.org"), "Shop.example.org"));
    }
}
