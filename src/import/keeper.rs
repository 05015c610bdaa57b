//! Who keeps an object from outside the cluster, by the marks that such tools leave on it: whoever does writes it
//! again when it is gone, so that it is handed over there and not here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The tool that keeps an object, and what to do there; `None`: nobody is known to.
///
/// By Argo CD's tracking annotation and label (argo-cd `common/common.go`; the label is also others', so it
/// counts only without a value of Helm beside it), Flux's labels (fluxcd `kustomize-controller` and
/// `helm-controller`, owner labels), Helm's annotation (helm `pkg/action/validate.go`), and owners.
#[must_use]
pub fn keeper(meta: &ObjectMeta) -> Option<String> {
    let mark = |key: &str| {
        let annotation = meta.annotations.as_ref().and_then(|all| all.get(key));
        annotation.or_else(|| meta.labels.as_ref().and_then(|all| all.get(key)))
    };
    let marks = [
        ("argocd.argoproj.io/tracking-id", "Argo CD"),
        ("argocd.argoproj.io/instance", "Argo CD"),
        ("kustomize.toolkit.fluxcd.io/name", "Flux's Kustomization"),
        ("helm.toolkit.fluxcd.io/name", "Flux's HelmRelease"),
        ("meta.helm.sh/release-name", "Helm's release"),
    ];
    for (key, tool) in marks {
        if let Some(value) = mark(key) {
            return Some(format!(
                "{tool} {value} keeps it: put the printed Resilience in its place there, and sync once"
            ));
        }
    }
    let owner = meta.owner_references.iter().flatten().next()?;
    Some(format!("{} {} owns it and would write it again: change it there", owner.kind, owner.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_keeps_an_object_is_known_by_his_marks_and_a_persons_has_none() {
        let of = |meta: serde_json::Value| keeper(&serde_json::from_value(meta).unwrap()).unwrap_or_default();
        assert!(
            of(json!({"annotations": {"argocd.argoproj.io/tracking-id": "shop:x"}})).starts_with("Argo CD shop:x ")
        );
        assert!(
            of(json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}))
                .starts_with("Flux's Kustomization apps ")
        );
        assert!(of(json!({"annotations": {"meta.helm.sh/release-name": "shop"}})).starts_with("Helm's release shop "));
        let owner = json!({"ownerReferences": [{"apiVersion": "a/v1", "kind": "App", "name": "shop", "uid": "1"}]});
        assert!(of(owner).starts_with("App shop owns it"));
        assert_eq!(
            of(
                json!({"labels": {"team": "shop"}, "annotations": {"kubectl.kubernetes.io/last-applied-configuration": ""}})
            ),
            ""
        );
    }
}
