//! All integration tests, in one binary: one link of kube instead of many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly, their helpers too")]

mod fake;
mod reconcile;
mod start;
