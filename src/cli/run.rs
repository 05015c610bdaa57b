//! `run`: the operator.

use std::{process::ExitCode, sync::Arc, thread};

use anyhow::Context as _;
use kube::Config;
use tokio_util::sync::CancellationToken;

use crate::{
    controller,
    runtime::{
        admin::{self, Health},
        client,
        lease::{Election, term::Term},
        log_level::{self, LogLevel},
        metrics::Metrics,
        settings::{Flags, Settings},
        shutdown, telemetry, wait_for_crds,
        writer::Writer,
    },
};

/// Run the operator until SIGTERM.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

/// What a policy costs is a few milliseconds here, and some twenty of the API server, which is the wall: more threads
/// would only hold memory.
const MOST_THREADS: usize = 4;

/// Runs it.
///
/// # Errors
/// If it cannot start, if it can no longer see what happens, or if it led and does not any more.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(args.flags)?;
    let log_level = telemetry::init(settings.log_format, &settings.log_level)?;
    let number = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(number).enable_all().build();
    let threads = threads.context("no threads to run on")?;
    let ended = threads.block_on(serve(settings, log_level));
    // Whatever is left has had its ten seconds, or must not go on.
    threads.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn serve(settings: Settings, log_level: LogLevel) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?settings, "starting");
    let stop = shutdown::on_signal()?;
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::default()));
    health.block(controller::GATE, "not begun yet");
    let listener = admin::bind(settings.admin_address).await?;
    // Not of `stop`: it serves until the last write has ended, and its own end would be everybody's.
    let end = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listener, health.clone(), metrics.clone(), end.clone()));
    match log_level::bind(settings.admin_address.port()) {
        Ok(listener) => drop(tokio::spawn(async move { log_level::serve(listener, &log_level).await })),
        // What it is there for goes on without.
        Err(error) => tracing::warn!(%error, "the log level cannot be changed while this runs"),
    }
    let config = client::config().await?;
    let ended = tokio::select! {
        ended = operate(config, settings, metrics, health, stop) => ended,
        ended = admin => match ended {
            Ok(ended) => ended,
            Err(panicked) => Err(panicked).context("the admin server panicked"),
        },
    };
    end.cancel();
    ended
}

/// The operator without what is around it: waits for its kinds, watches, is elected, works, and gives
/// the lease back after `stop`.
///
/// # Errors
/// If it cannot reach the API server at all, if a watch ended, or if it led and does not any more.
pub async fn operate(
    config: Config,
    settings: Settings,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client = client::to(config.clone())?;
    tokio::select! {
        () = wait_for_crds::wait(&client, &controller::NEEDED, &health) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let (timing, lease, elect) = (settings.timing, settings.lease_name.clone(), settings.leader_elect);
    let term = if elect { Term::to_be_elected() } else { Term::always() };
    let writer = Writer::new(&config, term.clone(), timing.finish())?;
    let controller = controller::run(client, writer, settings.into(), metrics.clone(), health.clone(), stop);
    if !elect {
        tracing::info!("no election: this must be the only replica");
        return controller.await;
    }
    // A client and a task of its own: whatever the controller does, renewals go on.
    let election = Election::new(client::to(config)?, &lease, timing, term.clone(), health, metrics);
    let mut election = tokio::spawn(election.run());
    tokio::select! {
        ended = controller => ended?,
        lost = &mut election => return lost.context("the election panicked")?.context("not the leader any more"),
    }
    // Otherwise writes may still be under way, and the lease runs out by itself.
    if term.has_resigned() {
        election.await.context("the election panicked")?.context("not the leader any more")?;
    }
    Ok(())
}
