//! What `top` tells: the breaker of each client, from what its own proxy counts.
//!
//! In: what the admin interfaces of proxies say, round after round, and when it was said. Out: a [`Top`], whose
//! fields are those of `-o json|yaml`: `docs/output.md` names them all. Two readings make a row: counters alone say
//! nothing of now. What a proxy does not tell is null, and never 0.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod envoy;
mod returns;
mod row;
mod watch;

pub use envoy::{Cluster, EjectionTimes, Endpoint, Sample, Target, Wanted, inbound};
pub use row::{Cause, CauseLine, Ejected, History, Proxy, Refused, Row, State, Top, Unread, Used};
pub use watch::{Reading, Watch};
