//! What a legal spec means here and now.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::{Violation, merge::Merge, neighbours::Wants};
use crate::{
    api::{
        Duration, EffectiveValue, LocalityFailover, Method, Mode, PerClientLimits, Resilience, RetryOn, ServerMode,
        TargetRef, Timeouts, Warning,
    },
    observed::Selector,
};

/// A policy that can be translated: every value decided, nothing left to refuse.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// The policy that owns what is generated.
    pub owner: Owner,
    /// Whether it acts.
    pub mode: Mode,
    /// Its target.
    pub target: TargetRef,
    /// Fully qualified host of the target.
    pub host: String,
    /// Endpoints that client proxies are sent; `None` where they cannot be counted, and offline
    /// without EndpointSlices.
    pub endpoints: Option<u32>,
    /// What holds for every port without an entry of its own.
    pub common: Policy,
    /// Ports with an entry of their own: all that holds for each.
    pub ports: BTreeMap<u16, Policy>,
    /// What each server's own proxy takes, for all ports; `None`: Istio puts the limits of clients there.
    pub server: Option<ServerLimits>,
    /// Whether a port of the target has no entry, so that the common policy acts at all.
    pub common_acts: bool,
    /// Somebody else's DestinationRule that is to hold what would otherwise be in one of ours.
    pub merge: Option<Merge>,
    /// Namespaces that routes are exported to, as Istio writes them; empty: all.
    pub export_to: Vec<String>,
    /// HTTP ports that get a route, in the order of the target.
    pub routes: Vec<u16>,
    /// Every value with its origin.
    pub effective: Vec<EffectiveValue>,
    /// What is legal but will surprise.
    pub warnings: Vec<Warning>,
    /// What could not be decided because it was not observed. Always empty in the cluster; offline
    /// `render` refuses by these, and `validate` does not mind.
    pub unknowns: Vec<Violation>,
}

impl Valid {
    /// What holds for a port.
    #[must_use]
    pub fn of_port(&self, port: u16) -> &Policy {
        self.ports.get(&port).unwrap_or(&self.common)
    }

    /// All policies: the common one, then those of ports.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        std::iter::once(&self.common).chain(self.ports.values())
    }

    /// Likewise, to change them.
    pub(super) fn policies_mut(&mut self) -> impl Iterator<Item = &mut Policy> {
        std::iter::once(&mut self.common).chain(self.ports.values_mut())
    }

    /// How many endpoints may be ejected at a time: of several policies by port, the most. `None` where
    /// nothing ejects, or endpoints cannot be counted.
    #[must_use]
    pub fn ejectable(&self) -> Option<u32> {
        let acting = self.policies().skip(usize::from(!self.common_acts));
        acting.filter_map(|policy| policy.ejection.as_ref()?.ejectable).max()
    }

    pub(super) fn wants(&self) -> Wants {
        Wants {
            server: self.server.is_some(),
            rule: self.policies().any(Policy::wants_rule),
            routes: self.policies().any(Policy::wants_routes),
        }
    }

    /// Another object has the routes of the host.
    pub(super) fn leave_routes(&mut self) {
        self.routes.clear();
        self.unknowns.retain(|unknown| unknown.path != "spec.timeouts.request" && unknown.path != "spec.retries");
    }
}

/// Who owns generated objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the `Resilience`.
    pub name: String,
    /// Its namespace, and that of everything generated.
    pub namespace: String,
    /// Its uid; `None` offline.
    pub uid: Option<String>,
}

impl Owner {
    /// The policy as the owner of what is generated from it.
    #[must_use]
    pub fn of(resilience: &Resilience) -> Self {
        Self {
            name: resilience.name_any(),
            namespace: resilience.namespace().unwrap_or_default(),
            uid: resilience.uid(),
        }
    }
}

/// What holds for a port, every value decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Limits of each client proxy.
    pub limits: PerClientLimits,
    /// Ejection with its fill-ins.
    pub ejection: Option<ResolvedEjection>,
    /// Timeouts; `request` is the route's.
    pub timeouts: Timeouts,
    /// Retries; `None` leaves the mesh's default.
    pub retries: Option<ResolvedRetries>,
}

impl Policy {
    /// Whether anything of it belongs in a DestinationRule.
    #[must_use]
    pub fn wants_rule(&self) -> bool {
        let Timeouts { connect, request: _, idle, lifetime } = &self.timeouts;
        self.limits != PerClientLimits::default()
            || self.ejection.is_some()
            || connect.is_some()
            || idle.is_some()
            || lifetime.is_some()
            || self.retries.as_ref().is_some_and(|retries| retries.budget.is_some())
    }

    /// The blocks of a DestinationRule's traffic policy that it fills.
    pub(super) fn blocks(&self) -> Vec<&'static str> {
        let Timeouts { connect, request: _, idle, lifetime } = &self.timeouts;
        let times = connect.is_some() || idle.is_some() || lifetime.is_some();
        let pool = times || self.limits != PerClientLimits::default();
        let budget = self.retries.as_ref().is_some_and(|retries| retries.budget.is_some());
        let all = [(pool, "connectionPool"), (self.ejection.is_some(), "outlierDetection"), (budget, "retryBudget")];
        all.into_iter().filter_map(|(filled, block)| filled.then_some(block)).collect()
    }

    /// Whether a DestinationRule says the same for both.
    pub(super) fn same_rule(&self, other: &Self) -> bool {
        let rule = |policy: &Self| {
            let Timeouts { connect, request: _, idle, lifetime } = policy.timeouts.clone();
            (policy.limits.clone(), policy.ejection.clone(), connect, idle, lifetime)
        };
        rule(self) == rule(other)
    }

    /// Whether anything of it belongs in a VirtualService.
    #[must_use]
    pub const fn wants_routes(&self) -> bool {
        self.timeouts.request.is_some() || self.retries.is_some()
    }
}

/// What each server's own proxy takes from all its clients together, every value decided. A limit that is
/// `None` does not limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Whether it limits at all.
    pub mode: ServerMode,
    /// Labels of the pods; empty only where the Service is not known.
    pub selector: Selector,
    /// Connections to the application.
    pub connections: Option<i32>,
    /// Requests that wait for one.
    pub pending_requests: Option<i32>,
    /// Requests under way.
    pub active_requests: Option<i32>,
    /// Requests that one connection carries.
    pub requests_per_connection: Option<i32>,
}

/// Ejection with every value decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEjection {
    /// 0 = off.
    pub consecutive_5xx: u32,
    /// 0 = off.
    pub consecutive_gateway: u32,
    /// Splits local-origin failures from answers when set.
    pub consecutive_local_origin: Option<u32>,
    /// Time between two sweeps.
    pub interval: Duration,
    /// Length of the first ejection.
    pub base_time: Duration,
    /// 1..=100.
    pub max_percent: u32,
    /// Endpoints that proxies are sent for these ports: with a share of healthy ones asked for, the ready ones.
    pub endpoints: Option<u32>,
    /// How many of them may be out at a time: none where the client picks.
    pub ejectable: Option<u32>,
    /// Whether an unset `max_percent` follows the number of endpoints, or could not.
    pub counted: bool,
    /// 0..=100; `None` is 0, which is never.
    pub min_healthy_percent: Option<u32>,
    /// `None` leaves the mesh's setting, as `Inherit` does.
    pub locality_failover: Option<LocalityFailover>,
}

impl ResolvedEjection {
    /// Whether answers with 503 eject: with `consecutiveLocalOrigin` alone, none does.
    #[must_use]
    pub const fn counts_refusals(&self) -> bool {
        self.consecutive_5xx > 0 || self.consecutive_gateway > 0
    }
}

/// Retries with every value decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRetries {
    /// 0 = off; then everything else is empty.
    pub attempts: i32,
    /// The whole list.
    pub retry_on: Vec<RetryOn>,
    /// Besides.
    pub status_codes: Vec<u16>,
    /// Empty: all.
    pub methods: Vec<Method>,
    /// Of one try.
    pub per_try_timeout: Option<Duration>,
    /// Before the first retry.
    pub backoff: Option<Duration>,
    /// Of the host, not of a route.
    pub budget: Option<Budget>,
}

/// Retries under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of the calls under way.
    pub percent: u32,
    /// Allowed in any case.
    pub min_concurrency: u32,
}
