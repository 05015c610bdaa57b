//! Istio's own validity rules for the fields that we write, as pure checks of the JSON that goes over
//! the wire.
//!
//! Istio's CRDs and webhook apply them too, but the webhook may be absent, and what slips past it Envoy
//! refuses for every proxy at once (istio `pkg/config/validation`; semantics as of 1.31). Each fault says
//! whose rule is broken: Istio's, where the oracle of the lab (`tests/judged`) agrees in both directions,
//! or one of ours on top ([`Stricter`]).

mod check;
mod destination_rule;
mod sidecar;
mod virtual_service;
mod words;

use serde_json::Value;

use super::Kind;

pub use destination_rule::destination_rule_faults;
pub use sidecar::sidecar_faults;
pub use virtual_service::virtual_service_faults;

/// Faults of a spec of this kind.
#[must_use]
pub fn spec_faults(kind: Kind, spec: &Value) -> Vec<Fault> {
    match kind {
        Kind::Sidecar => sidecar_faults(spec),
        Kind::DestinationRule => destination_rule_faults(spec),
        Kind::VirtualService => virtual_service_faults(spec),
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub path: String,
    /// What.
    pub what: String,
    /// Whose rule.
    pub source: Source,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// Whose rule a fault breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The CRD's schema or istiod's webhook refuses the object.
    Istio,
    /// Istio takes it, and we never write it.
    Ours(Stricter),
    /// No rule for the field is ported, so nothing is known of Istio's verdict: whoever writes the field
    /// brings its rule along.
    Unported,
}

/// What Istio takes and we refuse all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stricter {
    /// An object without a field is taken and does nothing (measured M82).
    DoesNothing,
    /// 0 is read as unset, which is no limit or a default of Envoy's (semantics 3.1, 4.1).
    ZeroIsUnset,
    /// Left out, a default acts that a reader does not see (semantics 4.1, istio#59504, measured M22).
    DefaultUnseen,
    /// A host that is no whole name of one host means different things to different namespaces, or many
    /// hosts (semantics 1.2, 1.3).
    NotOneHost,
    /// Locality failover is only ever switched off by us (semantics 4.5).
    FailoverOn,
    /// A whole number is as much as our API can say.
    NotWhole,
    /// Istio drops the budget for each port that has settings of its own (measured M31).
    BudgetWithPorts,
    /// No port has the number, or an earlier entry counts alone (measured M55, M82).
    PortUnused,
    /// A route of ours matches one port, by exact methods or none, and sends to that port (measured M43,
    /// M44).
    RouteShape,
    /// A route that an earlier one hides, or calls that no route takes (measured M45).
    RouteReach,
    /// A retry word that alone retries nothing, a code that is no answer or not written as one (measured
    /// M20).
    RetryWord,
    /// A Sidecar for every workload of a namespace, which takes the place of the mesh's own there (measured
    /// M69 to M71).
    SelectsAll,
    /// Istio never sees a `null`, and a server-side apply refuses it.
    WrittenNull,
}

impl Stricter {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::DoesNothing,
        Self::ZeroIsUnset,
        Self::DefaultUnseen,
        Self::NotOneHost,
        Self::FailoverOn,
        Self::NotWhole,
        Self::BudgetWithPorts,
        Self::PortUnused,
        Self::RouteShape,
        Self::RouteReach,
        Self::RetryWord,
        Self::SelectsAll,
        Self::WrittenNull,
    ];
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Fault, Source, Stricter, destination_rule_faults, sidecar_faults, virtual_service_faults};

    fn rule(policy: &Value) -> Vec<Fault> {
        destination_rule_faults(&json!({"host": "x.default.svc.cluster.local", "trafficPolicy": policy}))
    }

    fn retries(retries: &Value) -> Vec<Fault> {
        virtual_service_faults(&json!({
            "hosts": ["x.default.svc.cluster.local"],
            "http": [{
                "name": "port-80", "match": [{"port": 80}], "retries": retries,
                "route": [{"destination": {"host": "x.default.svc.cluster.local", "port": {"number": 80}}}]
            }]
        }))
    }

    fn sources(faults: &[Fault]) -> Vec<Source> {
        faults.iter().map(|fault| fault.source).collect()
    }

    #[test]
    fn what_the_webhook_refuses_is_a_fault() {
        // measured M81, of the fields that we write.
        let outlier = |extra: Value| {
            let mut block = json!({
                "consecutive5xxErrors": 5, "consecutiveGatewayErrors": 0, "interval": "10s",
                "baseEjectionTime": "30s", "maxEjectionPercent": 50
            });
            block.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            rule(&json!({ "outlierDetection": block }))
        };
        assert_eq!(outlier(json!({})), vec![]);
        let ours = Source::Ours;
        for (bad, source) in [
            (json!({"maxEjectionPercent": 150}), Source::Istio),
            (json!({"maxEjectionPercent": -1}), Source::Istio),
            (json!({"maxEjectionPercent": 0}), ours(Stricter::ZeroIsUnset)),
            (json!({"interval": "1.5ms"}), Source::Istio),
            (json!({"interval": "0s"}), Source::Istio),
            (json!({"consecutiveLocalOriginFailures": 1}), Source::Istio),
            (json!({"futureKnob": 1}), Source::Unported),
        ] {
            assert_eq!(sources(&outlier(bad.clone())), [source], "{bad}");
        }
        for (bad, source) in [
            (json!({}), Source::Istio),
            (json!({"connectionPool": {}}), Source::Istio),
            (json!({"connectionPool": {"http": {}}}), ours(Stricter::DoesNothing)),
            (json!({"connectionPool": {"tcp": {"maxConnections": -5}}}), Source::Istio),
            (json!({"connectionPool": {"http": {"http1MaxPendingRequests": 0}}}), ours(Stricter::ZeroIsUnset)),
            (json!({"connectionPool": {"tcp": {"maxConnections": 1}}, "tls": {"mode": "DISABLE"}}), Source::Unported),
        ] {
            assert_eq!(sources(&rule(&bad)), [source], "{bad}");
        }
    }

    #[test]
    fn retries_that_istio_refuses_are_faults() {
        assert_eq!(retries(&json!({"attempts": 0})), vec![]);
        assert_eq!(retries(&json!({"attempts": 2, "retryOn": "connect-failure,503"})), vec![]);
        // measured M18, M20, M21.
        for (bad, source) in [
            (json!({"attempts": -1, "retryOn": "reset"}), Source::Istio),
            (json!({"attempts": 0, "retryOn": "reset"}), Source::Istio),
            (json!({"attempts": 2}), Source::Ours(Stricter::DefaultUnseen)),
            (json!({"attempts": 2, "retryOn": "5xx, reset"}), Source::Istio),
            (json!({"attempts": 2, "retryOn": "foo"}), Source::Istio),
            (json!({"attempts": 2, "retryOn": "299"}), Source::Istio),
            (json!({"attempts": 2, "retryOn": ""}), Source::Ours(Stricter::DefaultUnseen)),
            (json!({"attempts": 2, "retryOn": "retriable-status-codes"}), Source::Ours(Stricter::RetryWord)),
            (json!({"attempts": 2, "retryOn": "reset", "perTryTimeout": "0s"}), Source::Istio),
        ] {
            assert_eq!(sources(&retries(&bad)), [source], "{bad}: {:?}", retries(&bad));
        }
    }

    #[test]
    fn what_istio_refuses_of_a_sidecar_or_takes_for_all_workloads_is_a_fault() {
        let sidecar = |labels: Value, pool: Value| {
            sidecar_faults(&json!({"workloadSelector": {"labels": labels}, "inboundConnectionPool": pool}))
        };
        let pool = || json!({"http": {"http2MaxRequests": 9}});
        assert_eq!(sidecar(json!({"app": "a", "empty": ""}), pool()), vec![]);
        let long = "x".repeat(64);
        for (labels, source) in [
            (json!({"": "a"}), Source::Istio),
            (json!({"app": "*"}), Source::Istio),
            (json!({"ap*": "a"}), Source::Istio),
            (json!({"app": 1}), Source::Istio),
            (json!({ "app": long }), Source::Istio),
            (json!({}), Source::Ours(Stricter::SelectsAll)),
        ] {
            assert_eq!(sources(&sidecar(labels.clone(), pool())), [source], "{labels}");
        }
        for (pool, source) in [
            (json!({}), Source::Istio),
            (json!({"http": {"maxRetries": -1}}), Source::Istio),
            (json!({"tcp": {}}), Source::Ours(Stricter::DoesNothing)),
            (json!({"tcp": {"maxConnections": 0}}), Source::Ours(Stricter::ZeroIsUnset)),
        ] {
            assert_eq!(sources(&sidecar(json!({"app": "a"}), pool.clone())), [source], "{pool}");
        }
        let whole = json!({"workloadSelector": {"labels": {"app": "a"}}, "inboundConnectionPool": pool()});
        let with = |key: &str, value: Value| {
            let mut spec = whole.clone();
            spec[key] = value;
            sources(&sidecar_faults(&spec))
        };
        assert_eq!(with("inboundConnectionPool", json!(null)), [Source::Ours(Stricter::WrittenNull), Source::Istio]);
        assert_eq!(with("workloadSelector", json!({})), [Source::Ours(Stricter::SelectsAll)]);
        assert_eq!(with("egress", json!([{"hosts": ["./*"]}])), [Source::Unported]);
    }

    #[test]
    fn a_short_host_or_a_number_for_a_domain_is_a_fault() {
        let policy = json!({"connectionPool": {"tcp": {"maxConnections": 1}}});
        let not_one = Source::Ours(Stricter::NotOneHost);
        for (host, source) in [
            ("x", not_one),
            ("*", not_one),
            ("X.default.svc.cluster.local", not_one),
            ("", Source::Istio),
            ("x..y", Source::Istio),
            ("x.svc.1", Source::Istio),
        ] {
            let faults = destination_rule_faults(&json!({"host": host, "trafficPolicy": policy}));
            assert_eq!(sources(&faults), [source], "{host:?}");
        }
    }
}
