//! Two checkouts have two labs at a time: neither sees the other's objects, both serve, and the end of one
//! leaves the other serving.

use anyhow::{Result, ensure};

use super::footprint::SecondCheckout;
use crate::checkout::Checkout;
use crate::fortio::load;
use crate::lab::Lab;
use crate::run::check;
use crate::workloads::{NAMESPACE, TARGET};

/// Brings a second lab up beside the one that stands in this checkout.
///
/// # Errors
/// When they see each other, or one does not serve.
pub fn live(checkout: &Checkout) -> Result<()> {
    let first = Lab::attach_to(checkout)?;
    let second = SecondCheckout::of(checkout)?;
    check(&mut second.lab(&["up", "--without-operator"]))?;
    let other = Lab::attach_to(&second.checkout()?)?;
    serves(&first)?;
    serves(&other)?;
    let mark = ["create", "configmap", "only-in-one"];
    other.namespace("default").run(&mark)?;
    let seen = first.namespace("default").try_run(&["get", "configmap", "only-in-one"])?;
    ensure!(!seen.status.success(), "the first lab has an object that was made in the second");
    check(&mut second.lab(&["down"]))?;
    serves(&first)
}

fn serves(lab: &Lab) -> Result<()> {
    let answers = load(&lab.namespace(NAMESPACE), &format!("{TARGET}/get"), 1, 20)?;
    ensure!(answers.status(200) == 20, "the lab of {} does not serve: {answers:?}", lab.checkout().root().display());
    Ok(())
}
