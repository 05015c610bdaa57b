//! Which of several VirtualServices and HTTPRoutes a client gets, and what shapes of one do.

use anyhow::Result;

use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::namespace::with_namespace;

/// What the claims need to stand on.
struct Stage;

const CLAIMS: &[Claim<Stage>] = &[];

/// The family.
pub(super) const FAMILY: Family = Family { name: "routes", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-routes", |_kubectl| {
        judge.all(&Stage, CLAIMS, |_| Ok(()));
        Ok(())
    })
}
