//! What `verify` proves, and how: from a valid policy to a plan of calls, and from what came back to what is
//! said of each limit.
//!
//! ```text
//! Valid ──> plan ──> Plan ──(the caller in the cluster: `verify`)──> Evidence ──> judge ──> Report ──> status.verification ──> Verified
//! ```
//!
//! A limit tripped, did not trip, or was not tried: the third is neither good nor bad, and no sentence says
//! more than what was seen.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod condition;
pub mod counters;
mod evidence;
mod finding;
mod hash;
mod judge;
mod plan;
mod planner;
mod report;
#[cfg(test)]
mod tests;

pub use condition::verified;
pub use evidence::{Answers, Evidence, Guard, Proxy, Reading, Stopped};
pub use finding::{Cause, Finding};
pub use hash::spec_hash;
pub use judge::{judge, withheld};
pub use plan::{Act, Asked, Caps, HeldBy, Line, Plan, Sign, Step};
pub use planner::plan;
pub use report::{Conclusion, LimitReport, Report};
