//! What needs no API server: `render` from files, a decision, the binary.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contenders::Operator;
use super::fixtures;
use super::process::Usage;
use super::stand::Stand;
use super::tools::Tools;
use crate::checkout::Checkout;
use crate::release::archive::zipped;
use crate::run::check;

/// `render` of many policies.
#[derive(Debug, Clone, Serialize)]
pub struct Render {
    /// How many.
    pub policies: u32,
    /// From the start of the program until it had printed everything.
    pub seconds: f64,
}

/// Renders policies from as many files.
///
/// # Errors
/// When one is refused.
pub fn render(tools: &Tools, policies: u32) -> Result<Render> {
    let folder = tempfile::tempdir()?;
    for number in 0..policies {
        let mut text = String::new();
        for object in [fixtures::policy(number), fixtures::service(number)] {
            writeln!(text, "---")?;
            yaml(&mut text, &object, 0)?;
        }
        fs::write(folder.path().join(format!("{number}.yaml")), text)?;
    }
    let begun = Instant::now();
    let mut command = Command::new(&tools.operator);
    let ended = command.args(["render", "-f"]).arg(folder.path()).stdout(Stdio::null()).status()?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(ended.success(), "render ended with {ended}");
    Ok(Render { policies, seconds })
}

/// As people write it: maps as blocks, what is small in one line.
fn yaml(text: &mut String, value: &Value, depth: usize) -> std::fmt::Result {
    let Value::Object(fields) = value else { return Ok(()) };
    for (key, value) in fields {
        let indent = "  ".repeat(depth);
        if value.is_object() {
            writeln!(text, "{indent}{key}:")?;
            yaml(text, value, depth + 1)?;
        } else {
            writeln!(text, "{indent}{key}: {value}")?;
        }
    }
    Ok(())
}

/// What is pure about one policy.
#[derive(Debug, Clone, Serialize)]
pub struct Pure {
    /// The sample.
    pub file: String,
    /// From a spec that the CRD's rules took to the objects.
    pub render: Times,
    /// All of it: the CRD's own rules, the objects, the comparison with what is there.
    pub decision: Times,
}

/// Nanoseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Times {
    /// The median.
    pub p50_ns: u64,
    /// Ninety-nine of a hundred are below.
    pub p99_ns: u64,
}

/// Decides about the samples.
///
/// # Errors
/// When one is refused.
pub fn pure(checkout: &Checkout, tools: &Tools) -> Result<Vec<Pure>> {
    let samples = checkout.root().join("istio-samples");
    let mut found = Vec::new();
    for sample in ["http-api", "grpc-service"] {
        let text = check(Command::new(&tools.client).arg("pure").arg(both(&samples.join(sample))?.path()))?;
        let report: Value = serde_json::from_str(&text)?;
        let of = |key: &str| Times::deserialize(&report[key]).with_context(|| format!("no {key} in {text}"));
        found.push(Pure { file: sample.to_owned(), render: of("render")?, decision: of("decision")? });
    }
    Ok(found)
}

/// A policy and its Service in one file.
fn both(sample: &Path) -> Result<tempfile::NamedTempFile> {
    let read = |name: &str| fs::read_to_string(sample.join(name)).with_context(|| sample.display().to_string());
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    fs::write(file.path(), format!("{}\n---\n{}", read("resilience.yaml")?, read("service.yaml")?))?;
    Ok(file)
}

/// What is shipped.
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// The binary, as it lies on disk; the image holds nothing else.
    pub mib: f64,
    /// As a node pulls it, and a registry shows it.
    pub pulled_mib: f64,
    /// From the start of the process until all watches stood, on a cluster without policies.
    pub start_ms: f64,
    /// What it held then.
    pub usage: Usage,
}

/// Starts the operator on an empty cluster, a few times.
///
/// # Errors
/// When it does not get ready.
pub fn image(stand: &Stand, tools: &Tools) -> Result<Image> {
    let binary = fs::read(&tools.operator)?;
    let mib = |bytes: &[u8]| Ok::<_, anyhow::Error>(f64::from(u32::try_from(bytes.len())?) / 1024.0 / 1024.0);
    let (on_disk, pulled) = (mib(&binary)?, mib(&zipped(&binary)?)?);
    let mut starts = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let mut operator = Operator::start(stand, tools)?;
        starts.push((operator.ready(begun)?.as_secs_f64() * 1e3, operator.process.usage()?));
    }
    starts.sort_by(|one, two| one.0.total_cmp(&two.0));
    let (start_ms, usage) = starts[starts.len() / 2];
    Ok(Image { mib: on_disk, pulled_mib: pulled, start_ms, usage })
}
