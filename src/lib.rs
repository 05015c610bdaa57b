//! Resilience: circuit breaking for a Service, declared once, generated for Istio.
pub mod cli;
pub mod load;
