//! Istio's objects as far as we write and read them.
//!
//! In: nothing of ours. Out: the fields that we write, typed; whatever exists, leniently; Istio's
//! own rules for ports and hosts as pure functions, each with its source. Never mentions the
//! `Resilience` kind.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod claims;
mod existing;
mod fields;
mod handler;
mod hosts;
mod knows;
pub mod neighbourhood;
mod ports;
mod proxy;
mod rules;
mod written;

pub use claims::{Claim, SHARED_BLOCKS};
pub use existing::{Existing, Kind, Stake};
pub use fields::{Field, written_fields};
pub use handler::Handler;
pub use hosts::resolve_host;
pub use knows::{Fate, Knows, Version};
pub use ports::{Protocol, entry_protocol, port_protocol};
pub use proxy::{NO_LIMIT, Outbound, literal};
pub use rules::{
    Fault, Source, Stricter, destination_rule_faults, sidecar_faults, spec_faults, virtual_service_faults,
};
pub use written::{
    ConnectionPool, Destination, DestinationRule, DestinationRuleSpec, ExactMatch, HttpPool, HttpRetry, HttpRoute,
    LoadBalancer, LocalityLbSetting, MergedBlocks, MergedMetadata, MergedSpec, Metadata, OutlierDetection, PortPolicy,
    PortSelector, RetryBudget, RouteDestination, RouteMatch, Sidecar, SidecarSpec, TcpPool, TrafficPolicy,
    VirtualService, VirtualServiceSpec, WorkloadSelector,
};
