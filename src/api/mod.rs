//! The `Resilience` kind: types, schema, CEL rules, conditions and reasons.
//!
//! In: nothing. Out: the vocabulary that everything else speaks. No Istio, no clock.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod conditions;
mod duration;
mod metadata;
pub mod schema;
pub mod v1alpha1;
pub mod warnings;

pub use duration::Duration;
pub use v1alpha1::*;
