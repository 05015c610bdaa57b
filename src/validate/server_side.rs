//! Whether the server's side can be stated without changing anything else: a Sidecar is for pods, a pod
//! takes one, and it takes the place of the namespace's and the mesh's as a whole (measured M69 to M72).

use super::{Refusal, Settings, Valid, Violation, is_ours};
use crate::{
    api::ResilienceSpec,
    istio::{Existing, Kind},
    observed::{Evidence, Observed, ServiceView, Sharer, Unseen},
};

/// Where the server's side stands in a policy.
const FIELD: &str = "limits.perServer";

/// A Service whose pods no labels name.
pub(super) fn faults(spec: &ResilienceSpec, service: Option<&ServiceView>) -> Vec<Violation> {
    let asked = spec.limits.as_ref().is_some_and(|limits| limits.per_server.is_some());
    let unselected = service.is_some_and(|service| service.selector.is_empty());
    let target = spec.target_refs.first().map(ToString::to_string).unwrap_or_default();
    let fault = || {
        Violation::new(
            format!("spec.{FIELD}"),
            format!("{target} has no selector, so no labels say which pods its servers are: leave this out"),
        )
    };
    (asked && unselected).then(fault).into_iter().collect()
}

/// Looks at what else selects the pods.
///
/// # Errors
/// Superseded by another Sidecar, whose place ours would take, or keep: what the pods may call would be as
/// nobody wrote it. Conflicted where another Service has the pods, whose clients our limits would limit, and
/// where not all is known.
pub(super) fn look(valid: &Valid, observed: &Observed, settings: &Settings) -> Result<(), Refusal> {
    if valid.server.is_none() {
        return Ok(());
    }
    let (side, namespace) = (&observed.server_side, &valid.owner.namespace);
    let foreign = side.sidecars.iter().filter(|sidecar| !is_ours(sidecar, &valid.owner));
    let others: Vec<String> = foreign.map(|sidecar| beside(sidecar, valid)).collect();
    if !others.is_empty() {
        return Err(Refusal::Superseded(format!(
            "{}, and a pod takes one Sidecar as a whole: {FIELD} would replace what that says of egress, ingress and outboundTrafficPolicy; put inboundConnectionPool into it yourself, delete it, or leave {FIELD} out",
            others.join("; ")
        )));
    }
    if observed.unseen.contains(&Unseen::RootNamespace(Kind::Sidecar)) {
        return Err(Refusal::Conflicted(format!(
            "the Sidecars of Istio's root namespace {} may not be read, and one for the whole mesh would be replaced by {FIELD}: let the operator list and watch sidecars there, or leave this out",
            settings.root_namespace
        )));
    }
    let shared: Vec<String> = side.sharers.iter().map(|sharer| sharing(sharer, valid)).collect();
    if shared.is_empty() {
        return Ok(());
    }
    Err(Refusal::Conflicted(format!(
        "{}, and the proxy of a pod has one set of limits for all Services of it: give each Service of namespace {namespace} pods of its own, or leave {FIELD} out",
        shared.join("; ")
    )))
}

/// Whose pods a Sidecar selects.
fn beside(sidecar: &Existing, valid: &Valid) -> String {
    let whole = sidecar.whole();
    let selector = valid.server.as_ref().map(|server| &server.selector);
    match sidecar.workload_labels() {
        None if sidecar.namespace != valid.owner.namespace => format!("{whole} is for every pod of the mesh"),
        None => format!("{whole} is for every pod of its namespace"),
        Some(labels) if labels.is_empty() => format!("{whole} selects every pod of its namespace"),
        // All that it asks for, the Service asks of its pods too.
        Some(labels) if selector.is_some_and(|own| labels.iter().all(|(key, value)| own.get(key) == Some(value))) => {
            format!("{whole} selects the pods of {}", valid.target)
        }
        Some(_) => format!("{whole} may select pods of {}: no label of the two contradicts", valid.target),
    }
}

fn sharing(sharer: &Sharer, valid: &Valid) -> String {
    let Sharer { name, evidence, policy } = sharer;
    let policy = policy.as_ref().map(|policy| format!(" (whose Resilience {policy} states {FIELD} as well)"));
    let policy = policy.unwrap_or_default();
    match evidence {
        Evidence::Address(address) => {
            format!("Service {name}{policy} has pods of {} too: endpoint {address} is of both", valid.target)
        }
        Evidence::NoEndpoints(which) => format!(
            "Service {name}{policy} may have pods of {} too: no label of the two selectors contradicts, and no endpoints of Service {which} are known that would tell",
            valid.target
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        api::Resilience,
        istio::{Kind, Protocol},
        observed::{Discovery, Observed, PortView, ServiceView, Target, Unseen},
        validate::{Refusal, Settings, validate},
    };

    #[test]
    fn what_is_not_known_of_the_root_namespace_is_not_taken_for_nothing() {
        let policy: Resilience = serde_json::from_value(json!({
            "apiVersion": "resilience.dev/v1alpha1", "kind": "Resilience", "metadata": {"name": "a", "namespace": "ns"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "a"}], "limits": {"perServer": {"mode": "Unlimited"}}},
        }))
        .unwrap();
        let service = ServiceView {
            hosts: Vec::new(),
            discovery: Discovery::ClusterIp,
            ports: vec![PortView { number: 80, protocol: Protocol::Http }],
            selector: [("app".to_owned(), "a".to_owned())].into(),
            export_to: Vec::new(),
            listed: None,
            waypoint: None,
            prefers_near: false,
        };
        let observed = |unseen: &[Unseen]| Observed {
            target: Target::Found(service.clone()),
            unseen: unseen.iter().copied().collect(),
            ..Observed::default()
        };
        let settings = Settings { root_namespace: "istio-root".to_owned(), ..Settings::default() };
        assert!(validate(&policy, &observed(&[]), &settings).is_ok());
        let refused = validate(&policy, &observed(&[Unseen::RootNamespace(Kind::Sidecar)]), &settings);
        assert_eq!(
            refused,
            Err(Refusal::Conflicted(
                "the Sidecars of Istio's root namespace istio-root may not be read, and one for the whole mesh would be replaced by limits.perServer: let the operator list and watch sidecars there, or leave this out".to_owned()
            ))
        );
    }
}
