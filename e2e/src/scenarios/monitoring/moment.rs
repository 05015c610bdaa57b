//! What goes on at a moment, as far as anything that is watched depends on it.
#![allow(clippy::cast_lossless, reason = "`From` is no `const fn`")]

use crate::scenarios::incident::{ACTIVE_REQUESTS, FEW};

/// A moment, and what is to be told in it.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For whoever reads a failure, or a picture.
    pub name: &'static str,
    /// `resilience:state` of the client.
    pub state: f64,
    /// The cause of what the client's proxy refuses.
    pub refused: Option<&'static str>,
    /// Whether that is all that is asked for.
    pub refuses_all: bool,
    /// Endpoints that the client has ejected, where the policy lets it eject any: elsewhere proxies do not tell.
    pub ejected: Option<f64>,
    /// Endpoints that there are.
    pub endpoints: f64,
    /// `limits.perClient.activeRequests`, where it is declared.
    pub allowed: Option<f64>,
    /// Of which so much is taken at most.
    pub most: f64,
    /// Whether endpoints are called whatever their health.
    pub panic: bool,
    /// Whether servers' own proxies refuse.
    pub servers_refuse: bool,
    /// Proxies that tell nothing of their breakers.
    pub uncounted: f64,
    /// What is wrong with policies: condition and reason.
    pub wrong: &'static [(&'static str, &'static str)],
    /// The alerts that fire, each with what tells it from others of its name.
    pub alerts: &'static [&'static str],
}

/// Calls pass.
pub const CALM: Moment = Moment {
    name: "calm",
    state: 0.0,
    refused: None,
    refuses_all: false,
    ejected: Some(0.0),
    endpoints: 2.0,
    allowed: Some(ACTIVE_REQUESTS as f64),
    most: FEW as f64,
    panic: false,
    servers_refuse: false,
    uncounted: 0.0,
    wrong: &[],
    alerts: &[],
};

/// Calls pass; a second policy has the same Service, a proxy refuses what was programmed, and another one tells
/// nothing.
pub const TROUBLE: Moment = Moment {
    name: "calm, with trouble of policies",
    uncounted: 1.0,
    wrong: &[("Accepted", "Conflicted"), ("InEffect", "RefusedByProxy")],
    alerts: &["ResilienceConflict Conflicted", "ResilienceNotInEffect RefusedByProxy", "ResilienceProxyNotCounted"],
    ..CALM
};

/// More calls than the limit takes.
pub const OVERLOAD: Moment = Moment {
    name: "overload",
    state: 1.0,
    refused: Some("activeRequests"),
    most: ACTIVE_REQUESTS as f64,
    alerts: &["ResilienceLimiting activeRequests"],
    ..CALM
};

/// One of three fails.
pub const FAILING_ENDPOINT: Moment = Moment {
    name: "a failing endpoint",
    state: 2.0,
    ejected: Some(1.0),
    endpoints: 3.0,
    alerts: &["ResilienceEjecting"],
    ..CALM
};

/// It has gone.
pub const RECOVERY: Moment = Moment { name: "recovery", ..CALM };

/// Servers refuse by limits of their own; to the client, whose limit is gone, that is an answer as any other.
pub const SERVERS_LIMIT: Moment = Moment {
    name: "the servers' own limit",
    ejected: None,
    allowed: None,
    // Those of the overload and the few.
    most: 10.0,
    servers_refuse: true,
    alerts: &["ResilienceServerLimiting activeRequests"],
    ..CALM
};

/// The only endpoint fails, is ejected and is called all the same.
pub const PANIC: Moment = Moment {
    name: "panic",
    state: 2.0,
    ejected: Some(1.0),
    endpoints: 1.0,
    allowed: None,
    panic: true,
    alerts: &["ResilienceEjecting", "ResiliencePanic"],
    ..CALM
};

/// There is no endpoint at all.
pub const NOBODY: Moment = Moment {
    name: "nobody is left",
    refused: Some("noHealthyEndpoint"),
    refuses_all: true,
    endpoints: 0.0,
    allowed: None,
    alerts: &["ResilienceNoHealthyEndpoint"],
    ..CALM
};
