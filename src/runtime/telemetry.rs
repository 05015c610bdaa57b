//! Logs: JSON for machines, lines for people, always on standard error.

use std::io;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::settings::LogFormat;

/// Starts logging. `level` is a level or a filter of `tracing_subscriber` (`info,kube=debug`).
///
/// # Errors
/// If `level` is not a filter, or logging was started before.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).with_context(|| format!("log level {level:?} is not one"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Human => logs.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}
