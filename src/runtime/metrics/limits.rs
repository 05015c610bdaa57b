//! What policies allow, by the names of policies and hosts. A page of its own, `/metrics/policies`: it grows with
//! the number of policies, at the will of whoever may create them, and tells their names. Served where it was opted in to.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

/// The metric's name.
pub const NAME: &str = "resilience_limit";
/// What it is.
pub const HELP: &str = "What each client's proxy may take at a time, as the API server holds it for a policy that is Programmed; whether a proxy has it is not said here";

/// A limit of a policy at one port of its target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limit {
    /// Namespace of the policy.
    pub namespace: String,
    /// Its name.
    pub policy: String,
    /// Host of its target, fully qualified.
    pub host: String,
    /// Port of its target.
    pub port: u16,
    /// The field of `limits.perClient`.
    pub limit: &'static str,
    /// How many.
    pub value: i64,
}

/// `policy_namespace`, since a scraper puts the pod's own into `namespace`; the rest as Istio names it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    policy_namespace: String,
    policy: String,
    destination_service: String,
    destination_port: u16,
    limit: &'static str,
}

/// In the text format of `OpenMetrics`.
///
/// # Errors
/// If a metric cannot be written, which a `String` does not do.
pub(super) fn encode(limits: Vec<Limit>) -> Result<String, fmt::Error> {
    let (mut registry, family) = (Registry::default(), Family::<Labels, Gauge>::default());
    registry.register(NAME, HELP, family.clone());
    for limit in limits {
        let labels = Labels {
            policy_namespace: limit.namespace,
            policy: limit.policy,
            destination_service: limit.host,
            destination_port: limit.port,
            limit: limit.limit,
        };
        family.get_or_create(&labels).set(limit.value);
    }
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(written)
}
