//! Ejection, in numbers of endpoints.

use super::{Here, Warnings};
use crate::{api::warnings::Code, observed::Discovery, validate::valid::ResolvedEjection};

pub(super) fn warn(here: &Here<'_>, all: &mut Warnings) {
    let Some(ejection) = &here.policy().ejection else { return };
    if here.client_picks() {
        // Whatever else could be said of ejection is not so here.
        all.add(
            here,
            Code::HeadlessEjection,
            "clients pick the endpoint by its address here, so ejections are counted and change nothing; use a Service with a cluster IP, or a ServiceEntry with resolution STATIC or DNS",
        );
        return;
    }
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
    let near = here.service.is_some_and(|service| service.prefers_near);
    if let Some(percent) = ejection.min_healthy_percent.filter(|percent| near && *percent > 0) {
        all.add(
            here,
            Code::MinHealthyIgnored,
            format!(
                "minHealthyPercent {percent} does nothing: the Service's trafficDistribution makes Istio send endpoints that are not ready, and switch the threshold off; leave one of the two out"
            ),
        );
    }
    let zones = here.observed.endpoints.map_or(0, |endpoints| endpoints.zones);
    // A Service that prefers near endpoints has the failover by its own word.
    if zones > 1 && ejection.locality_failover.is_none() && !near {
        all.add(
            here,
            Code::LocalityFailover,
            format!(
                "endpoints are in {zones} zones, and ejection switches Istio's locality failover on: each client keeps to its own zone while endpoints there are well; say localityFailover Inherit if that is meant, Disabled if not"
            ),
        );
    }
}

/// What `maxPercent` comes to.
fn share(here: &Here<'_>, ejection: &ResolvedEjection, all: &mut Warnings) {
    let Some(endpoints) = ejection.endpoints.filter(|endpoints| *endpoints > 0) else { return };
    let share = format!("maxPercent {} of {}", ejection.max_percent, count(endpoints));
    if ejection.ejectable == Some(0) {
        all.add(here, Code::EjectsNone, format!("{share} ejects none: {}", ejects_none_cure(here, endpoints)));
    } else if ejection.ejectable == Some(endpoints) {
        all.add(
            here,
            Code::EjectsAll,
            format!(
                "{share} lets all be ejected: then every call gets 503 until one returns; {}",
                ejects_all_cure(here, endpoints)
            ),
        );
    }
}

pub(super) fn count(endpoints: u32) -> String {
    if endpoints == 1 { "1 endpoint".to_owned() } else { format!("{endpoints} endpoints") }
}

fn ejects_none_cure(here: &Here<'_>, endpoints: u32) -> String {
    if endpoints == 1 {
        format!("the only endpoint cannot be left out without an outage; {}", more(here))
    } else {
        format!("set at least {}", 100_u32.div_ceil(endpoints))
    }
}

fn ejects_all_cure(here: &Here<'_>, endpoints: u32) -> String {
    if endpoints == 1 {
        format!("{}, or set less than 100", more(here))
    } else {
        // The largest share that leaves one endpoint in: floor(n × p / 100) = n − 1.
        format!("set at most {}", (100 * endpoints - 1) / endpoints)
    }
}

/// Where more endpoints come from.
fn more(here: &Here<'_>) -> &'static str {
    if here.service.is_some_and(|service| service.discovery == Discovery::DnsRoundRobin) {
        "use resolution DNS, by which each address of the name is an endpoint"
    } else {
        "add endpoints"
    }
}
