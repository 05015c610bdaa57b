//! Faults that only the target shows.

use super::{Settings, Violation};
use crate::{
    api::{TargetKind, TargetRef},
    istio::Protocol,
    observed::{Discovery, ServiceView},
};

pub(super) fn faults(target: &TargetRef, service: &ServiceView, settings: &Settings) -> Vec<Violation> {
    let fault = match target.kind {
        TargetKind::Service => (service.discovery == Discovery::ExternalName).then(|| {
            format!(
                "{target} is an ExternalName, an alias that Istio applies no policy to: target the Service behind it"
            )
        }),
        TargetKind::ServiceEntry => entry_fault(target, service, &settings.cluster_domain),
    };
    let fault = fault.or_else(|| nothing_carried(target, service));
    fault.map(|message| Violation::new("spec.targetRefs[0].name", message)).into_iter().collect()
}

/// istiod makes no cluster for UDP (istio `pilot/pkg/networking/core/cluster.go`), so a rule would rule nothing.
fn nothing_carried(target: &TargetRef, service: &ServiceView) -> Option<String> {
    let carried = service.ports.iter().any(|port| port.protocol != Protocol::Udp);
    (!carried).then(|| {
        let what = if service.ports.is_empty() { "no port" } else { "no port but UDP" };
        format!("{target} has {what}, and the mesh carries TCP only: there is nothing that a policy could act on")
    })
}

/// One host, and not one of the cluster: a rule for another namespace's Service would be this namespace's
/// word against its owner's.
fn entry_fault(target: &TargetRef, entry: &ServiceView, cluster_domain: &str) -> Option<String> {
    let [host] = &entry.hosts[..] else {
        return Some(format!(
            "{target} has {} hosts and a rule is for one: give each host a ServiceEntry of its own",
            entry.hosts.len()
        ));
    };
    let service = format!(".svc.{cluster_domain}");
    let plain = host.to_ascii_lowercase();
    if host.starts_with('*') {
        Some(format!("{target} has the wildcard host {host}: a policy is for one host"))
    } else if !host.contains('.') {
        Some(format!(
            "{target} has the host {host} without a dot, which a rule cannot name: Istio would read it as the Service {host}; give it a full name"
        ))
    } else if plain.ends_with(&service) {
        Some(format!("{target} has the host {host}, which is a Service's: target the Service, in its namespace"))
    } else {
        None
    }
}
