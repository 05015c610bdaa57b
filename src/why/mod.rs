//! What `why` tells: why calls of a Service fail, the likely cause first.
//!
//! In: what the proxies of clients and servers said at two moments, what the API server holds beside it, and what
//! could not be read ([`Seen`]). Out: a [`Why`], whose fields are those of `-o json|yaml`: `docs/output.md` names them
//! all. A cause has evidence, or it is not told. Causes are ranked by what kind of evidence that is, and by how many
//! calls it speaks of: no probabilities are made up. What a proxy does not count is said to be unseen, and is no 0.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod calls;
mod causes;
mod changes;
mod configured;
mod counted;
mod judge;
mod requests;
mod seen;
mod told;

pub use changes::{Change, changes_of};
pub use configured::{ClusterConfig, Configured, Encryption, Route, route_tables};
pub use judge::judge;
pub use requests::{Reporter, Requests, requests};
pub use seen::{Peers, PolicySeen, ProxySeen, Seen, Snapshot, TargetSeen, callers, strictest};
pub use told::{Cause, Class, Evidence, Kind, Look, Why};

#[cfg(test)]
mod tests;
