//! Faults that only the target shows.

use super::{Settings, Violation};
use crate::{
    api::{TargetKind, TargetRef},
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
    fault.map(|message| Violation::new("spec.targetRefs[0].name", message)).into_iter().collect()
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
    if host.starts_with('*') {
        Some(format!("{target} has the wildcard host {host}: a policy is for one host"))
    } else if host.ends_with(&service) || !host.contains('.') {
        Some(format!("{target} has the host {host}, which is a Service's: target the Service, in its namespace"))
    } else {
        None
    }
}
