//! To whom routes go. A rule counts where Istio takes the service for ours; routes count wherever their host is
//! called, also where another ServiceEntry declares it (istio `pilot/pkg/networking/core/route/route.go`).

use super::Settings;
use crate::{
    api::{TargetKind, TargetRef},
    observed::{Observed, ServiceView, Unseen},
};

/// The namespaces that routes for the target are exported to, as Istio writes them; empty: all. Never more
/// than the target is exported to, and none but its own where the host may be somebody else's as well.
pub(super) fn routes_export(
    target: &TargetRef,
    service: Option<&ServiceView>,
    namespace: &str,
    observed: &Observed,
) -> Vec<String> {
    let may_be_anothers = !observed.namesakes.is_empty() || observed.unseen.contains(&Unseen::OtherNamespaces);
    if target.kind == TargetKind::ServiceEntry && may_be_anothers {
        return vec![HOME.to_owned()];
    }
    let written = service.map(|service| service.export_to.as_slice()).unwrap_or_default();
    if written.is_empty() || written.iter().any(|one| one == "*") {
        return Vec::new();
    }
    // What is no name was never heeded, and Istio refuses it of routes, like one namespace written twice.
    let named = written.iter().filter(|one| *one == HOME || Settings::is_namespace(one));
    let mut named: Vec<String> =
        named.map(|one| if one == namespace { HOME.to_owned() } else { one.clone() }).collect();
    named.sort();
    named.dedup();
    if named.is_empty() { vec![HOME.to_owned()] } else { named }
}

/// The own namespace.
const HOME: &str = ".";

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(to: &[&str], kind: TargetKind, observed: &Observed) -> Vec<String> {
        let mut service = ServiceView::of_entry(&serde_json::Value::Null, None);
        service.export_to = to.iter().map(ToString::to_string).collect();
        routes_export(&TargetRef::new(kind, "x"), Some(&service), "shop", observed)
    }

    #[test]
    fn routes_are_never_exported_further_than_their_target() {
        let alone = Observed::default();
        for (target, routes) in [
            (&[][..], &[][..]),
            (&["*"], &[]),
            (&["."], &["."]),
            (&["shop"], &["."]),
            (&[".", "shop", "web"], &[".", "web"]),
            (&["web"], &["web"]),
            (&["~"], &["."]),
            (&["No Name", "web"], &["web"]),
        ] {
            assert_eq!(exported(target, TargetKind::Service, &alone), routes, "{target:?}");
        }
    }

    #[test]
    fn routes_of_a_host_that_another_namespace_declares_stay_at_home() {
        let shared = Observed { namesakes: vec!["web/far".to_owned()], ..Observed::default() };
        let narrow = Observed { unseen: [Unseen::OtherNamespaces].into(), ..Observed::default() };
        for observed in [&shared, &narrow] {
            assert_eq!(exported(&[], TargetKind::ServiceEntry, observed), ["."]);
            assert_eq!(exported(&["web"], TargetKind::ServiceEntry, observed), ["."]);
            // That of a Service has its namespace in it.
            assert_eq!(exported(&[], TargetKind::Service, observed), [""; 0]);
        }
    }
}
