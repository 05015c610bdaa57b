//! Ejection, in numbers of endpoints.

use super::{Here, Warnings};
use crate::{
    api::warnings::Code,
    validate::{arithmetic::ejectable, valid::ResolvedEjection},
};

pub(super) fn warn(here: &Here<'_>, all: &mut Warnings) {
    let Some(ejection) = &here.policy().ejection else { return };
    share(here, ejection, all);
    if ejection.consecutive_5xx > 0 && ejection.consecutive_gateway >= ejection.consecutive_5xx {
        all.add(
            here,
            Code::GatewayNeverFirst,
            format!(
                "consecutiveGateway {} never decides: 502, 503 and 504 are 5xx as well, and {} of those eject already; set it below, or leave it out",
                ejection.consecutive_gateway, ejection.consecutive_5xx
            ),
        );
    }
    let zones = here.observed.endpoints.map_or(0, |endpoints| endpoints.zones);
    if zones > 1 && ejection.locality_failover.is_none() {
        all.add(
            here,
            Code::LocalityFailover,
            format!(
                "endpoints are in {zones} zones, and ejection switches Istio's locality failover on: each client keeps to its own zone while endpoints there are well; say localityFailover Inherit if that is meant, Disabled if not"
            ),
        );
    }
    if here.service.is_some_and(|service| service.discovery.client_picks()) {
        all.add(
            here,
            Code::HeadlessEjection,
            "clients pick the endpoint by its address here, so ejections are counted and change nothing; use a Service with a cluster IP, or a ServiceEntry with resolution STATIC or DNS",
        );
    }
}

/// What `maxPercent` comes to.
fn share(here: &Here<'_>, ejection: &ResolvedEjection, all: &mut Warnings) {
    let percent = ejection.max_percent;
    let Some(endpoints) = here.valid.endpoints.filter(|endpoints| *endpoints > 0) else { return };
    let share = format!("maxPercent {percent} of {}", count(endpoints));
    let out = ejectable(endpoints, percent);
    if out == 0 {
        all.add(here, Code::EjectsNone, format!("{share} ejects none: {}", ejects_none_cure(endpoints)));
    } else if out == endpoints {
        all.add(
            here,
            Code::EjectsAll,
            format!(
                "{share} lets all be ejected: then every call gets 503 until one returns; {}",
                ejects_all_cure(endpoints)
            ),
        );
    }
}

pub(super) fn count(endpoints: u32) -> String {
    if endpoints == 1 { "1 endpoint".to_owned() } else { format!("{endpoints} endpoints") }
}

fn ejects_none_cure(endpoints: u32) -> String {
    if endpoints == 1 {
        "the only endpoint cannot be left out without an outage; add endpoints".to_owned()
    } else {
        format!("set at least {}", 100_u32.div_ceil(endpoints))
    }
}

fn ejects_all_cure(endpoints: u32) -> String {
    if endpoints == 1 {
        "add endpoints, or set less than 100".to_owned()
    } else {
        // The largest share that leaves one endpoint in: floor(n × p / 100) = n − 1.
        format!("set at most {}", (100 * endpoints - 1) / endpoints)
    }
}
