//! How long a decision takes when nothing is asked: validate, translate, compare. And of it the part that does not
//! evaluate the CRD's own rules anew: from a spec that they took to the objects.

use std::{hint::black_box, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use resilience_operator::{
    cli::{
        input,
        world::{Beyond, World},
    },
    decide::decide,
    names,
    translate::translate,
    validate::{Settings, validate_legal},
};
use serde_json::{Value, json};

/// Of what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files with one policy and its Service each
    files: Vec<PathBuf>,
    /// Decisions about each
    #[arg(long, default_value_t = 20_000)]
    count: u32,
}

/// Decides again and again, and prints nanoseconds.
///
/// # Errors
/// When a file has no policy.
pub fn run(args: &Args) -> Result<()> {
    for file in &args.files {
        let settings = Settings {
            cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.to_owned(),
            root_namespace: names::DEFAULT_ROOT_NAMESPACE.to_owned(),
        };
        let world = World::new(input::read(std::slice::from_ref(file), &mut std::io::empty()), "default", &settings);
        let policy = world.policies.first().with_context(|| format!("{}: no policy", file.display()))?;
        let policy = policy.object.as_ref().map_err(|faults| anyhow::anyhow!("{}: {faults:?}", file.display()))?;
        let observed = world.observe(policy, Beyond::Nothing);
        let decision = time(args.count, || decide(black_box(policy), black_box(&observed), &settings))?;
        let render = time(args.count, || {
            let valid = validate_legal(black_box(policy), black_box(&observed), &settings);
            valid.map(|valid| translate(&valid).objects())
        })?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        println!("{}", json!({"file": name, "decision": decision, "render": render}));
    }
    Ok(())
}

/// Nanoseconds of each of `count`.
fn time<T>(count: u32, work: impl Fn() -> T) -> Result<Value> {
    let mut nanos = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3)?;
    for _ in 0..count {
        let begun = Instant::now();
        let done = black_box(work());
        nanos.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        drop(done);
    }
    let at = |quantile| nanos.value_at_quantile(quantile);
    Ok(json!({"p50_ns": at(0.5), "p90_ns": at(0.9), "p99_ns": at(0.99)}))
}
