//! Stable codes of warnings. A code is never reused; each has a page in `docs/warnings/`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A warning's stable code. Messages may be reworded, codes keep their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Code {
    /// `limits.perClient` without a word on the server's side: Istio puts the same numbers on each
    /// server's own proxy, where all clients share them (measured M9).
    #[serde(rename = "RES010")]
    PerClientLimitsServer,
    /// RES010 with ejection on: the server's refusals count as failures, and clients eject healthy
    /// endpoints (measured M10, M12).
    #[serde(rename = "RES011")]
    PerClientLimitsEject,
    /// `connections` without `pendingRequests`: surplus requests queue without bound (measured M6).
    #[serde(rename = "RES012")]
    ConnectionsQueue,
    /// A limit that the protocol of a port makes meaningless: of connections on HTTP/2, of requests on
    /// TCP.
    #[serde(rename = "RES013")]
    LimitsWithoutEffect,
    /// `ejection.maxPercent` of the present endpoints is less than one (measured M5).
    #[serde(rename = "RES014")]
    EjectsNone,
    /// `ejection.maxPercent` lets all present endpoints be ejected: 503 until one returns (M5, M63).
    #[serde(rename = "RES015")]
    EjectsAll,
    /// One call that fails everywhere is tried so often that it ejects endpoints by itself.
    #[serde(rename = "RES016")]
    PoisonCallEjects,
    /// `consecutiveGateway` at or above `consecutive5xx`: it never decides.
    #[serde(rename = "RES017")]
    GatewayNeverFirst,
    /// Ejection switches locality failover on, and the endpoints are in several zones.
    #[serde(rename = "RES018")]
    LocalityFailover,
    /// `minHealthyPercent` on a Service that prefers near endpoints: Istio switches it off.
    #[serde(rename = "RES019")]
    MinHealthyIgnored,
    /// `perTryTimeout` with a retry list that never retries a timed-out try (measured M25).
    #[serde(rename = "RES020")]
    PerTryTimeoutNotRetried,
    /// Retries of answers that a server's own overflow gives: more load at the worst time (M27).
    #[serde(rename = "RES021")]
    RetriesAmplifyOverflow,
    /// Tries together may take longer than `timeouts.request`: the last ones never run their time.
    #[serde(rename = "RES022")]
    TriesOutlastRequest,
    /// Calls that may have acted already are repeated, whatever their method.
    #[serde(rename = "RES023")]
    RepeatsUnsafeCalls,
    /// A request timeout on a gRPC port: it ends streams that are well.
    #[serde(rename = "RES024")]
    TimeoutCutsStreams,
    /// Another VirtualService has the host: timeouts and retries are not generated.
    #[serde(rename = "RES030")]
    RoutesOwnedByAnother,
    /// A younger DestinationRule for the host exists: Istio ignores its traffic policy, not ours.
    #[serde(rename = "RES031")]
    YoungerRuleIgnored,
    /// Calls come in through a gateway, where limits act and timeouts and retries do not.
    #[serde(rename = "RES032")]
    GatewayRoutesApart,
    /// Some clients have other routes for the host: private ones, ones exported to them by name, or Gateway API
    /// routes of their own namespace (measured M35, M36, M39).
    #[serde(rename = "RES033")]
    RoutesOfSomeClients,
    /// A younger VirtualService of another namespace has the host: Istio ignores it beside ours (M34).
    #[serde(rename = "RES034")]
    YoungerRoutesIgnored,
    /// A VirtualService for a wildcard covers the host: ours hides it.
    #[serde(rename = "RES035")]
    WildcardRoutesHidden,
    /// A ServiceEntry of another namespace has the host too: routes of ours are for our namespace's clients.
    #[serde(rename = "RES036")]
    RoutesStayHome,
    /// Ejection on a headless Service: counted, without effect (measured M60).
    #[serde(rename = "RES040")]
    HeadlessEjection,
    /// A port with the application's own TLS: proxies see connections and no requests.
    #[serde(rename = "RES041")]
    SealedPort,
    /// Pods of the namespace get no sidecar, and calls without one are not limited.
    #[serde(rename = "RES050")]
    CallersWithoutSidecar,
    /// An ambient namespace and no waypoint: nothing enforces the policy.
    #[serde(rename = "RES051")]
    AmbientWithoutWaypoint,
    /// The installed Istio has no such field; left out, since its value is what holds without it.
    #[serde(rename = "RES060")]
    FieldNotKnown,
    /// The DestinationRule that holds our blocks has subsets: each counts for itself.
    #[serde(rename = "RES061")]
    SubsetsCountApart,
    /// Another VirtualService sends the host's calls to other hosts: a rule for this one is never asked.
    #[serde(rename = "RES062")]
    RoutedToOthers,
    /// Some clients have another DestinationRule for the host: of their own namespace, or for their labels.
    #[serde(rename = "RES070")]
    RuleOfSomeClients,
    /// Some clients have no DestinationRule at all: one of their namespace, for other pods, ends the search.
    #[serde(rename = "RES071")]
    NoRuleForSomeClients,
    /// A DestinationRule for a wildcard, or of the root namespace, is hidden by ours.
    #[serde(rename = "RES072")]
    HidesRule,
    /// Objects that may matter may not be read.
    #[serde(rename = "RES073")]
    NotRead,
    /// `limits.perServer` where pods have no proxy of their own that could enforce it.
    #[serde(rename = "RES080")]
    PerServerWithoutProxies,
    /// Times of connections of a single port, beside `limits.perServer`: servers' own proxies have one set
    /// of times for all ports (istio `pilot/pkg/model/sidecar.go`, `InboundConnectionPoolForPort`).
    #[serde(rename = "RES081")]
    PortTimesNotAtServers,
    /// A limit of `limits.perServer` below that of a single client.
    #[serde(rename = "RES082")]
    PerServerBelowPerClient,
    /// `limits.perServer` refuses and ejection is on: the refusals count as failures, as with RES011.
    #[serde(rename = "RES083")]
    PerServerLimitsEject,
}

impl Code {
    /// All codes, in order.
    pub const ALL: [Self; 37] = [
        Self::PerClientLimitsServer,
        Self::PerClientLimitsEject,
        Self::ConnectionsQueue,
        Self::LimitsWithoutEffect,
        Self::EjectsNone,
        Self::EjectsAll,
        Self::PoisonCallEjects,
        Self::GatewayNeverFirst,
        Self::LocalityFailover,
        Self::MinHealthyIgnored,
        Self::PerTryTimeoutNotRetried,
        Self::RetriesAmplifyOverflow,
        Self::TriesOutlastRequest,
        Self::RepeatsUnsafeCalls,
        Self::TimeoutCutsStreams,
        Self::RoutesOwnedByAnother,
        Self::YoungerRuleIgnored,
        Self::GatewayRoutesApart,
        Self::RoutesOfSomeClients,
        Self::YoungerRoutesIgnored,
        Self::WildcardRoutesHidden,
        Self::RoutesStayHome,
        Self::HeadlessEjection,
        Self::SealedPort,
        Self::CallersWithoutSidecar,
        Self::AmbientWithoutWaypoint,
        Self::FieldNotKnown,
        Self::SubsetsCountApart,
        Self::RoutedToOthers,
        Self::RuleOfSomeClients,
        Self::NoRuleForSomeClients,
        Self::HidesRule,
        Self::NotRead,
        Self::PerServerWithoutProxies,
        Self::PortTimesNotAtServers,
        Self::PerServerBelowPerClient,
        Self::PerServerLimitsEject,
    ];

    /// The code as it stands in status, on the command line and in the name of its page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerClientLimitsServer => "RES010",
            Self::PerClientLimitsEject => "RES011",
            Self::ConnectionsQueue => "RES012",
            Self::LimitsWithoutEffect => "RES013",
            Self::EjectsNone => "RES014",
            Self::EjectsAll => "RES015",
            Self::PoisonCallEjects => "RES016",
            Self::GatewayNeverFirst => "RES017",
            Self::LocalityFailover => "RES018",
            Self::MinHealthyIgnored => "RES019",
            Self::PerTryTimeoutNotRetried => "RES020",
            Self::RetriesAmplifyOverflow => "RES021",
            Self::TriesOutlastRequest => "RES022",
            Self::RepeatsUnsafeCalls => "RES023",
            Self::TimeoutCutsStreams => "RES024",
            Self::RoutesOwnedByAnother => "RES030",
            Self::YoungerRuleIgnored => "RES031",
            Self::GatewayRoutesApart => "RES032",
            Self::RoutesOfSomeClients => "RES033",
            Self::YoungerRoutesIgnored => "RES034",
            Self::WildcardRoutesHidden => "RES035",
            Self::RoutesStayHome => "RES036",
            Self::HeadlessEjection => "RES040",
            Self::SealedPort => "RES041",
            Self::CallersWithoutSidecar => "RES050",
            Self::AmbientWithoutWaypoint => "RES051",
            Self::FieldNotKnown => "RES060",
            Self::SubsetsCountApart => "RES061",
            Self::RoutedToOthers => "RES062",
            Self::RuleOfSomeClients => "RES070",
            Self::NoRuleForSomeClients => "RES071",
            Self::HidesRule => "RES072",
            Self::NotRead => "RES073",
            Self::PerServerWithoutProxies => "RES080",
            Self::PortTimesNotAtServers => "RES081",
            Self::PerServerBelowPerClient => "RES082",
            Self::PerServerLimitsEject => "RES083",
        }
    }
}

impl Code {
    /// The page that tells what, why and the fix, from the root of the repository.
    #[must_use]
    pub fn page(self) -> String {
        format!("docs/warnings/{self}.md")
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
