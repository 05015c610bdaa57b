//! Condition types and reasons of `Resilience.status.conditions`.
//!
//! Positive polarity but for `Stalled` (kstatus). Words are GEP-713's where it has one.

/// The spec is legal and its target is ours to program.
pub const ACCEPTED: &str = "Accepted";
/// The API server holds the generated objects as we want them. Says nothing of any proxy.
pub const PROGRAMMED: &str = "Programmed";
/// The proxies that call the target have it, as istiod tells it and they acknowledged it.
pub const IN_EFFECT: &str = "InEffect";
/// `Accepted`, `Programmed`, and `InEffect` not False: what `kubectl wait --for=condition=Ready` should wait for.
pub const READY: &str = "Ready";
/// Waiting will not help; somebody has to change something (kstatus).
pub const STALLED: &str = "Stalled";

/// `verify` saw the limits of this very spec trip; see `status.verification`. Never counts for `Ready`.
pub const VERIFIED: &str = "Verified";

/// Why a condition has its status. One set for all types: a reason keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `Accepted=True`: nothing to object to.
    Accepted,
    /// `Accepted=False`: at least one fault in the spec; the message lists all with their paths.
    Invalid,
    /// `Accepted=False`: the installed Istio does not understand what the spec needs; the message lists
    /// all such fields. Heals when Istio is upgraded.
    Unsupported,
    /// `Accepted=False`: another object has this host; the message names it.
    Conflicted,
    /// `Accepted=False`: the Service does not exist (yet). Heals by itself.
    TargetNotFound,
    /// `Programmed=True`: written and read back.
    Programmed,
    /// `Programmed=False`: mode Observe, so nothing is generated.
    Observing,
    /// `Programmed`: mode Suspend, so nothing is written; True if what is there is what the spec wants.
    Suspended,
    /// `Programmed=False`: not accepted, so nothing was generated from this generation.
    NotAccepted,
    /// `Programmed=False`: the API server or Istio's webhook refused what we generated.
    Refused,
    /// `Programmed=False`: a write failed; retried with backoff.
    WriteFailed,
    /// `Programmed=False`: with `coexistence: Merge`, somebody else has a field of the blocks that would be
    /// ours; the message has field and manager. Heals when they leave it.
    FieldConflict,
    /// `Programmed=False`: a field of the co-owned object that is not ours keeps our blocks from some
    /// clients; the message names it. Heals when it goes.
    ForeignFields,
    /// `InEffect=True`: every proxy that holds the host has what was programmed.
    InEffect,
    /// `InEffect=False`: a proxy refused what istiod sent; the message has its text.
    RefusedByProxy,
    /// `InEffect=False`: proxies are given what another object says; the message names it.
    Shadowed,
    /// `InEffect=False`: proxies are given another value than the generated object has.
    Differs,
    /// `InEffect=False`: proxies have not acknowledged it in the grace period; the message names them.
    Lagging,
    /// `InEffect=Unknown`: nothing of this generation is programmed, so nobody is asked.
    NotProgrammed,
    /// `InEffect=Unknown`: no identity is set up to ask istiod by.
    NoIdentity,
    /// `InEffect=Unknown`: istiod could not be asked; the message has why.
    Unreachable,
    /// `InEffect=Unknown`: some of the istiods or proxies could not be asked about; of the others nothing is
    /// wrong.
    Partial,
    /// `InEffect=Unknown`: of some proxies istiod does not say enough.
    Unproven,
    /// `InEffect=Unknown`: no proxy holds the host.
    NoProxies,
    /// `InEffect=Unknown`: what the policy generates is not for proxies of clients.
    NotForClients,
    /// `Ready=True`.
    Ready,
    /// `Ready=False`: see `Accepted`, `Programmed` and `InEffect`.
    NotReady,
    /// `Stalled=False`: nothing wrong, or it heals by itself. `InEffect=Unknown`: proxies are about to have it.
    Progressing,
    /// `Verified=True`: every limit that was tried tripped as configured.
    Verified,
    /// `Verified=False`: at least one did not.
    NotVerified,
    /// `Verified=Unknown`: the spec is another one than the verified one.
    Stale,
    /// `Verified=Unknown`: nobody has run `verify` on the object.
    NeverVerified,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::Accepted,
        Self::Invalid,
        Self::Unsupported,
        Self::Conflicted,
        Self::TargetNotFound,
        Self::Programmed,
        Self::Observing,
        Self::Suspended,
        Self::NotAccepted,
        Self::Refused,
        Self::WriteFailed,
        Self::FieldConflict,
        Self::ForeignFields,
        Self::InEffect,
        Self::RefusedByProxy,
        Self::Shadowed,
        Self::Differs,
        Self::Lagging,
        Self::NotProgrammed,
        Self::NoIdentity,
        Self::Unreachable,
        Self::Partial,
        Self::Unproven,
        Self::NoProxies,
        Self::NotForClients,
        Self::Ready,
        Self::NotReady,
        Self::Progressing,
        Self::Verified,
        Self::NotVerified,
        Self::Stale,
        Self::NeverVerified,
    ];

    /// Those of `InEffect` that tell how asking ended.
    pub const OF_ASKING: [Self; 10] = [
        Self::InEffect,
        Self::RefusedByProxy,
        Self::Shadowed,
        Self::Differs,
        Self::Lagging,
        Self::Progressing,
        Self::Partial,
        Self::Unproven,
        Self::NoProxies,
        Self::Unreachable,
    ];

    /// The text in the condition, the event and the metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Invalid => "Invalid",
            Self::Unsupported => "Unsupported",
            Self::Conflicted => "Conflicted",
            Self::TargetNotFound => "TargetNotFound",
            Self::Programmed => "Programmed",
            Self::Observing => "Observing",
            Self::Suspended => "Suspended",
            Self::NotAccepted => "NotAccepted",
            Self::Refused => "Refused",
            Self::WriteFailed => "WriteFailed",
            Self::FieldConflict => "FieldConflict",
            Self::ForeignFields => "ForeignFields",
            Self::InEffect => IN_EFFECT,
            Self::RefusedByProxy => "RefusedByProxy",
            Self::Shadowed => "Shadowed",
            Self::Differs => "Differs",
            Self::Lagging => "Lagging",
            Self::NotProgrammed => "NotProgrammed",
            Self::NoIdentity => "NoIdentity",
            Self::Unreachable => "Unreachable",
            Self::Partial => "Partial",
            Self::Unproven => "Unproven",
            Self::NoProxies => "NoProxies",
            Self::NotForClients => "NotForClients",
            Self::Ready => "Ready",
            Self::NotReady => "NotReady",
            Self::Progressing => "Progressing",
            Self::Verified => "Verified",
            Self::NotVerified => "NotVerified",
            Self::Stale => "Stale",
            Self::NeverVerified => "NeverVerified",
        }
    }
}

// Of an enum whose last one is this; a reason that is missing in `ALL` does not compile.
const _: () = assert!(Reason::ALL.len() == Reason::NeverVerified as usize + 1);
