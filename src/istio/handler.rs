//! Tools for gradual releases that keep Istio objects, and how such an object is told from a person's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The annotation by which Argo Rollouts marks what it changes, with the name of the Rollout
/// (argo-rollouts `rollout/trafficrouting/istio/istio.go`, `UpdateHash`).
const MANAGED_BY_ROLLOUTS: &str = "argo-rollouts.argoproj.io/managed-by-rollouts";

/// The tool that keeps an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    /// Writes the whole spec of its objects anew whenever it differs from what its Canary says (flagger
    /// `pkg/router/istio.go`, `reconcileDestinationRule` and `reconcileVirtualService`).
    Flagger {
        /// The Canary, if the object names it as its owner.
        canary: Option<String>,
    },
    /// Changes weights of a person's VirtualService and labels of subsets of his DestinationRule, and leaves
    /// the rest (argo-rollouts `rollout/trafficrouting/istio/istio.go`).
    ArgoRollouts {
        /// The Rollout, if the object is marked with it.
        rollout: Option<String>,
    },
}

impl Handler {
    /// By owner and annotation or, since Flagger sets an owner only if it is told to and Argo Rollouts marks no
    /// VirtualService, by the name under which the tool writes: that of its program.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let owners = meta.owner_references.iter().flatten();
        let mut canaries =
            owners.filter(|owner| owner.kind == "Canary" && owner.api_version.starts_with("flagger.app/"));
        let canary = canaries.next().map(|owner| owner.name.clone());
        let rollout = meta.annotations.as_ref().and_then(|all| all.get(MANAGED_BY_ROLLOUTS)).cloned();
        let written_by =
            |name: &str| meta.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(name));
        if canary.is_some() || written_by("flagger") {
            Some(Self::Flagger { canary })
        } else if rollout.is_some() || written_by("rollouts-controller") {
            Some(Self::ArgoRollouts { rollout })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tool_is_known_by_owner_by_mark_and_by_the_name_under_which_it_writes() {
        let of = |meta: serde_json::Value| Handler::of(&serde_json::from_value(meta).unwrap());
        let owner = |kind: &str, version: &str| json!({"ownerReferences": [{"apiVersion": version, "kind": kind, "name": "shop", "uid": "1"}]});
        let shop = Some("shop".to_owned());
        assert_eq!(of(owner("Canary", "flagger.app/v1beta1")), Some(Handler::Flagger { canary: shop.clone() }));
        assert_eq!(of(owner("Canary", "birds.example/v1")), None);
        assert_eq!(of(json!({"managedFields": [{"manager": "flagger"}]})), Some(Handler::Flagger { canary: None }));
        let marked = json!({"annotations": {MANAGED_BY_ROLLOUTS: "shop"}});
        assert_eq!(of(marked), Some(Handler::ArgoRollouts { rollout: shop }));
        let written = json!({"managedFields": [{"manager": "rollouts-controller"}]});
        assert_eq!(of(written), Some(Handler::ArgoRollouts { rollout: None }));
        assert_eq!(of(json!({"managedFields": [{"manager": "kubectl"}]})), None);
    }
}
