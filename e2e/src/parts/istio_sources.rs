//! In: the pinned Istio. Out: the folder of its sources, as Go keeps them, with the samples that Istio ships and the
//! objects that it is tested with. They are read where they lie: none of them is ours to keep.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::go;
use crate::checkout::Checkout;
use crate::run::check;

const MODULE: &str = "istio.io/istio";

/// The folder.
///
/// # Errors
/// When the module cannot be fetched, or has no samples.
pub fn istio_sources(checkout: &Checkout) -> Result<PathBuf> {
    let module = checkout.e2e().join("parts/istio");
    check(go(&module).args(["mod", "download", MODULE]))?;
    let folder = check(go(&module).args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", MODULE]))?;
    let folder = PathBuf::from(folder.trim());
    ensure!(folder.join("samples").is_dir(), "{} has no samples", folder.display());
    Ok(folder)
}
