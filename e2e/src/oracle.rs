//! In: the pinned Istio (`e2e/oracle`). Out: a program that says what Istio says, and a way to ask it.
//!
//! Questions and answers are described in `e2e/oracle/main.go`.

mod lines;

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::parts;
use crate::report::Report;

pub use lines::Oracle;

/// The program, built when the cache does not have it: no lab needs it, only those who ask.
///
/// # Errors
/// What Go says.
pub fn get(checkout: &Checkout, report: &Report) -> Result<PathBuf> {
    Ok(parts::oracle(checkout, &Cache::open()?, report)?.join("bin/oracle"))
}
