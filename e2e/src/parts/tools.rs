//! Programs in Go that a release, or who plays a page, needs: no part of a lab.

use std::path::PathBuf;

use anyhow::Result;

use super::{GoPart, go_version};
use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::report::Report;

/// All of them.
#[cfg(test)]
pub(super) const ALL: &[GoPart] = &[KUSTOMIZE, KREW, ACTIONLINT];

/// Real kustomize, for who plays a page that says to type it.
const KUSTOMIZE: GoPart =
    GoPart { name: "kustomize", packages: &["sigs.k8s.io/kustomize/kustomize/v5"], tags: "", cgo: false };

/// Finds or builds kustomize, and gives its program.
///
/// # Errors
/// What Go says.
pub fn kustomize(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    let place = KUSTOMIZE.get(&checkout.e2e().join("parts/kustomize"), cache, &go_version()?, None, report)?;
    // Go leaves the number of a module's major version out of its programs' names.
    Ok(place.join("bin/kustomize"))
}

/// krew and the validator of its index, for releases.
const KREW: GoPart = GoPart {
    name: "krew",
    packages: &["sigs.k8s.io/krew/cmd/krew", "sigs.k8s.io/krew/cmd/validate-krew-manifest"],
    tags: "",
    cgo: false,
};

/// Finds or builds krew, and gives its folder.
///
/// # Errors
/// What Go says.
pub fn krew(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    KREW.get(&checkout.e2e().join("parts/krew"), cache, &go_version()?, None, report)
}

/// The judge of GitHub's workflows.
const ACTIONLINT: GoPart =
    GoPart { name: "actionlint", packages: &["github.com/rhysd/actionlint/cmd/actionlint"], tags: "", cgo: false };

/// Finds or builds actionlint, and gives its program.
///
/// # Errors
/// What Go says.
pub fn actionlint(checkout: &Checkout, cache: &Cache, report: &Report) -> Result<PathBuf> {
    let place = ACTIONLINT.get(&checkout.e2e().join("parts/actionlint"), cache, &go_version()?, None, report)?;
    Ok(place.join("bin/actionlint"))
}
