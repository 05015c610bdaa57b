//! The process around the controller: settings, signals, logs, metrics, the admin server.
//!
//! Knows Kubernetes only as far as clients, the lease and the wait for kinds go, and no policy at all.

pub mod admin;
pub mod client;
pub mod lease;
pub mod log_level;
pub mod metrics;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod wait_for_crds;
pub mod writer;
