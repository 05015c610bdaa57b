//! `verify`, the part that acts: the Job in the cluster, the caller in it, and its own proxy.
//!
//! ```text
//! cli ──> job (create, follow, delete) ══ log ══ caller ──> load ──> the caller's proxy ──> target
//!                                                  └──> proxy (/config_dump, /stats) ──> Evidence
//! ```
//!
//! Decides nothing: what to send stands in the plan, what it means is judged by [`crate::verification`].

pub mod caller;
pub mod job;
pub mod proxy;
