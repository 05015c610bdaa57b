//! Logs: JSON for machines, lines for people, always on standard error; how much is said can be changed while
//! the operator runs ([`super::log_level`]).

use std::io;

use anyhow::{Context as _, ensure};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{log_level::LogLevel, settings::LogFormat};

/// Starts logging, and gives the hold on how much. `level` is a level or a filter of `tracing_subscriber`
/// (`info,kube=debug`).
///
/// # Errors
/// If `level` is not a filter, or logging was started before.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<LogLevel> {
    let logs = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(io::stderr);
    let (started, hold) = match format {
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_filter_reloading();
            let handle = logs.reload_handle();
            (logs.try_init(), LogLevel::new(level, move |filter| Ok(handle.reload(filter)?)))
        }
        LogFormat::Human => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            (logs.try_init(), LogLevel::new(level, move |filter| Ok(handle.reload(filter)?)))
        }
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(hold)
}

/// Reads a level or a filter.
///
/// # Errors
/// If it is none, and for a word alone that is no level: `tracing_subscriber` takes it for the name of a module,
/// and a slip (`dbug`) would silence all others.
pub fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let words = text.split(',').filter(|word| !word.contains(['=', '[']));
    for word in words {
        ensure!(
            !word.is_empty() && word.parse::<LevelFilter>().is_ok(),
            "log level {text:?}: {word:?} is no level; there are off, error, warn, info, debug and trace, and MODULE=LEVEL behind a comma"
        );
    }
    EnvFilter::try_new(text).with_context(|| format!("log level {text:?} is not one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_taken_and_slips_are_not() {
        for text in ["info", "DEBUG", "off", "info,kube=debug", "warn,resilience_operator::controller=trace"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["dbug", "info,kube", "", "info, kube=debug", "info,kube=loud", "kube=debug,infoo"] {
            assert!(filter(text).is_err(), "{text:?} was taken");
        }
    }
}
