//! The sentences of `tests/judged`, each with the oracle and the API server of the lab.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::oracle;
use crate::parts;
use crate::report::Report;
use crate::run::{cargo, check, finish, tail};

/// The CRD that policies are judged by; a lab with our operator has it already.
const CRD: &str = "crds/resilience.yaml";

/// Runs the tests of `tests/judged` whose names hold this. There must be some.
fn holds(checkout: &Checkout, name: &str) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    let oracle = oracle::get(checkout, &Report::new())?;
    let program = build(checkout)?;
    serve_policies(checkout, &lab)?;
    // Inside, where the API server is; the environment of the caller goes along, and with it JUDGED_SEED.
    let mut command = lab.inside("env")?;
    command.arg(format!("JUDGED_ORACLE={}", oracle.display()));
    command.arg(format!("JUDGED_ISTIO={}", parts::istio_sources(checkout)?.display()));
    command.arg(program).args([name, "--nocapture"]);
    let finished = finish(&mut command)?;
    ensure!(finished.status.success(), "{}", tail(&finished.all(), 40));
    let ran = finished.stdout.lines().any(|line| line.starts_with("test result: ok.") && !line.contains(" 0 passed"));
    ensure!(ran, "no test of tests/judged is called {name}: {}", tail(&finished.all(), 5));
    // How many of what was judged is part of what is shown.
    let counts = |line: &&str| line.contains("JUDGED_SEED") || line.starts_with(|first: char| first.is_ascii_digit());
    for line in finished.stdout.lines().filter(counts) {
        eprintln!("            {line}");
    }
    Ok(())
}

/// Puts our kind there where the operator did not bring it.
pub(super) fn serve_policies(checkout: &Checkout, lab: &Lab) -> Result<()> {
    if !lab.has_operator() {
        let crd = checkout.root().join(CRD).display().to_string();
        lab.kubectl().run(&["apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", &crd])?;
    }
    let established = ["wait", "--for=condition=Established", "crd/resiliences.resilience.dev", "--timeout=60s"];
    lab.kubectl().run(&established).map(drop)
}

/// Builds the tests where the API server is not needed, and finds their program.
pub(super) fn build(checkout: &Checkout) -> Result<PathBuf> {
    let mut cargo = cargo(checkout.root());
    // The whole workspace, as the other stages build it: fewer features would mean building much again.
    cargo.args(["test", "--workspace", "--locked", "--quiet", "--no-run", "--test", "judged"]);
    let printed = check(cargo.arg("--message-format=json")).context("tests/judged does not build")?;
    let built = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let ours = message.pointer("/target/name").and_then(Value::as_str) == Some("judged");
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    built.context("cargo built tests/judged and names no program of it")
}

/// Any legal policy gives objects that Istio takes.
///
/// # Errors
/// With the smallest policy that does not.
pub fn legal_policies(checkout: &Checkout) -> Result<()> {
    holds(checkout, "ten_thousand_legal_policies_are_taken_by_istios_own_validators")
}

/// Our verdict on a policy without a cluster is the API server's.
///
/// # Errors
/// With the smallest policy on which they differ.
pub fn near_legal_policies(checkout: &Checkout) -> Result<()> {
    holds(checkout, "ten_thousand_nearly_legal_policies_get_the_api_servers_verdict_from_us")
}

/// Our port of Istio's rules says what Istio says.
///
/// # Errors
/// With the smallest object on which they differ.
pub fn near_legal_objects(checkout: &Checkout) -> Result<()> {
    holds(checkout, "ten_thousand_nearly_legal_istio_objects_get_istios_verdict_from_our_rules")
}

/// What we say that a client gets is what istiod would send it.
///
/// # Errors
/// With the smallest neighbourhood on which they differ.
pub fn neighbourhoods(checkout: &Checkout) -> Result<()> {
    holds(checkout, "neighbourhoods::")
}

/// What `import` makes of Istio's own objects, and of ours, gives their clients the same configuration.
///
/// # Errors
/// With the files on which it does not, or of which it says something else than before.
pub fn imports(checkout: &Checkout) -> Result<()> {
    holds(checkout, "imports::")
}

/// The oracle refuses what a cluster refused, by the same layer.
///
/// # Errors
/// With the documents on which they differ.
pub fn documents(checkout: &Checkout) -> Result<()> {
    holds(checkout, "documents::")
}

/// The oracle resolves as a cluster did.
///
/// # Errors
/// With the worlds on which they differ.
pub fn resolution(checkout: &Checkout) -> Result<()> {
    holds(checkout, "resolve::")
}
