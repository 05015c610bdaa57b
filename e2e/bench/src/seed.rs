//! Objects from a file, one line each: where to, and what.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::calls;

/// Which file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Lines of `{"path": …, "object": …}`
    file: PathBuf,
    /// How many at a time; with 1 their order is their age
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
}

/// One line.
#[derive(Deserialize)]
pub struct Line {
    /// The collection that it is posted to.
    pub path: String,
    /// The object.
    pub object: Value,
}

/// Every line of a file.
///
/// # Errors
/// When it cannot be read.
pub fn lines(file: &PathBuf) -> Result<Vec<Line>> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Creates them all.
///
/// # Errors
/// The first that is refused.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let creations = lines(&args.file)?
        .into_iter()
        .map(async |line| calls::create(client, &line.path, serde_json::to_vec(&line.object)?).await);
    stream::iter(creations).buffer_unordered(args.in_flight).try_collect::<()>().await
}
