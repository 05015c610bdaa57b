//! `log-level [FILTER]`: how much the operator beside it logs.

use std::{io::Write as _, process::ExitCode, time::Duration};

use jiff::{Timestamp, tz::TimeZone};

use super::{Io, live::block_on, output::Output};
use crate::runtime::{
    log_level::{self, Answer, Level, Question},
    settings::Settings,
};

/// Show or change how much the operator logs, while it runs.
///
/// To be run beside it: kubectl exec -n resilience-system POD -- /resilience-operator log-level debug --for 10m.
/// Each replica has a level of its own; a restart goes back to the one in the Deployment.
///
/// Exit codes: 0 done, 1 that is no level, 2 no operator answers here.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// off, error, warn, info, debug or trace, or a filter such as info,kube=debug; without: show what it is.
    filter: Option<String>,
    /// Go back to the level that it was started with after so long.
    #[arg(long = "for", requires = "filter", value_parser = humantime::parse_duration, value_name = "DURATION")]
    lasts: Option<Duration>,
    /// Where the operator's admin server listens; its port tells one operator from another.
    #[arg(long, env = "RESILIENCE_ADMIN_ADDRESS", default_value_t = Settings::default().admin_address, value_name = "ADDRESS")]
    admin_address: std::net::SocketAddr,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks, and prints the answer.
///
/// # Errors
/// If no operator answers.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    let question = Question { filter: args.filter.clone(), lasts: args.lasts };
    match block_on(log_level::ask(args.admin_address.port(), &question))? {
        Answer::Is(level) => {
            let text = args.output.text(&level, |level| said(level, Timestamp::now()))?;
            io.out.write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(why) => {
            io.error(&why);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn said(level: &Level, now: Timestamp) -> String {
    let Level { filter, until, started_with } = level;
    let until = until.map(|until| {
        let left = humantime::format_duration(Duration::from_secs(
            until.duration_since(now).as_secs().try_into().unwrap_or(0),
        ));
        format!(" until {} (for {left}), then {started_with}", until.to_zoned(TimeZone::UTC).strftime("%H:%M:%S UTC"))
    });
    format!("{filter}{}\n", until.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_said_with_its_end() {
        let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
        let level = |until| Level { filter: "debug".to_owned(), until, started_with: "info".to_owned() };
        assert_eq!(said(&level(None), now), "debug\n");
        let until = Some("2026-01-01T10:10:00Z".parse().unwrap());
        assert_eq!(said(&level(until), now), "debug until 10:10:00 UTC (for 10m), then info\n");
    }
}
