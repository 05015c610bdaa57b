//! The `Resilience` kind: types, schema, CEL rules, conditions and reasons.
//!
//! In: nothing. Out: the vocabulary that everything else speaks. No Istio, no clock.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod blocks;
pub mod conditions;
mod duration;
mod fields;
mod metadata;
pub mod schema;
mod status;
pub mod v1alpha1;
mod verification;
pub mod warnings;

pub use blocks::*;
pub use duration::Duration;
pub use fields::RETRIABLE_STATUS_CODES;
pub use status::*;
pub use v1alpha1::*;
pub use verification::*;
