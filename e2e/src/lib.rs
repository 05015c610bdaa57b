//! The lab: one real Kubernetes node with real Istio, built from package registries and run in
//! namespaces of its own; and what scenarios need to judge traffic on it.
//!
//! ```text
//! checkout ─> doctor ─> cache(parts) ─> images ─> sandbox(init) ─> cluster ─> istio ─> workloads ─> operator
//!                                                     │
//!                            scenarios <── Lab: kubectl, exec, Envoy statistics, namespaces
//! ```
//!
//! The lab starts, stops and pins versions; it judges nothing but that it stands. Scenarios judge.

pub mod audit;
pub mod bench;
pub mod browser;
pub mod cache;
pub mod chaos;
pub mod checkout;
pub mod cli;
pub mod cluster;
pub mod config_dump;
pub mod current;
pub mod daemons;
pub mod demo;
pub mod doctor;
pub mod envoy;
// How pages are read is written once, beside the tests of the other commands that they tell.
#[cfg_attr(not(test), allow(dead_code, reason = "tests read more of a page than its blocks"))]
#[path = "../../tests/docs/fences.rs"]
mod fences;
pub mod first_hour;
pub mod fortio;
pub mod guards;
pub mod helm;
pub mod image;
pub mod images;
pub mod istio;
pub mod istio_apis;
pub mod kubectl;
pub mod lab;
pub mod measured;
pub mod namespace;
pub mod operator;
pub mod oracle;
pub mod parts;
pub mod pki;
pub mod prometheus;
pub mod release;
pub mod replicas;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod scenarios;
pub mod suite;
pub mod supply;
pub mod svg;
pub mod wait;
pub mod workloads;

pub use crate::lab::{Lab, Options};
