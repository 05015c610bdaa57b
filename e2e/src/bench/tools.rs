//! The programs that are measured and those that measure, each built as it is released.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::contenders::Contender;
use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::parts::{self, Parts};
use crate::report::Report;
use crate::run::{cargo, check};

/// Where each of them is.
#[derive(Debug)]
pub struct Tools {
    /// etcd, the API server, kubectl, Istio's CRDs.
    pub parts: Parts,
    /// Our operator, as released.
    pub operator: PathBuf,
    /// The bare writer, the textbook controller, the clients (`e2e/bench`).
    pub client: PathBuf,
    /// The operator in Go (`e2e/peers/controller-runtime`), if it takes part.
    pub go_peer: Option<PathBuf>,
    /// kro, if it takes part.
    pub kro: Option<Kro>,
}

/// What there is of kro.
#[derive(Debug)]
pub struct Kro {
    /// Its controller.
    pub controller: PathBuf,
    /// Its own CRDs.
    pub crds: PathBuf,
}

impl Tools {
    /// Finds or builds them; of the peers those that take part.
    ///
    /// # Errors
    /// What the first one that does not build says.
    pub fn get(checkout: &Checkout, contenders: &[Contender], report: &Report) -> Result<Self> {
        let cache = Cache::open()?;
        let parts = Parts::get(checkout, &cache, true, report)?;
        let release = report.step("build the operator and its bench, as released", || {
            let mut cargo = cargo(checkout.root());
            cargo.args(["build", "--locked", "--release"]);
            cargo.args(["--package=resilience-operator", "--bin=resilience-operator"]);
            cargo.args(["--package=resilience-bench", "--bin=resilience-bench"]);
            cargo.arg("--target-dir").arg(checkout.root().join("target"));
            check(&mut cargo).context("the operator or its bench does not build")?;
            Ok(checkout.root().join("target/release"))
        })?;
        let mut tools = Self {
            parts,
            operator: release.join("resilience-operator"),
            client: release.join("resilience-bench"),
            go_peer: None,
            kro: None,
        };
        if contenders.contains(&Contender::Go) {
            tools.go_peer = Some(parts::go_peer(checkout, &cache, report)?.join("bin/controller-runtime"));
        }
        if contenders.iter().any(|one| one.is_kro()) {
            let controller = parts::kro(checkout, &cache, report)?.join("bin/controller");
            tools.kro = Some(Kro { controller, crds: parts::kro_crds(checkout)? });
        }
        Ok(tools)
    }
}
