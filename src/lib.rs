//! Resilience: circuit breaking for a Service, declared once, generated for Istio.
