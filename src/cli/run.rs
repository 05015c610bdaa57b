//! `run`: the operator.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;

use crate::{
    controller,
    runtime::{
        admin::{self, Health},
        client,
        metrics::Metrics,
        settings::{Flags, Settings},
        shutdown, telemetry, wait_for_crds,
    },
};

/// Run the operator until SIGTERM.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

/// Runs it.
///
/// # Errors
/// If it cannot start, or if it can no longer see what happens.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(args.flags)?;
    telemetry::init(settings.log_format, &settings.log_level)?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads to run on")?;
    let ended = threads.block_on(serve(settings));
    // Whatever is left has had its ten seconds.
    threads.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?settings, "starting");
    let stop = shutdown::on_signal()?;
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::default()));
    health.block(controller::GATE, "not begun yet");
    let listener = admin::bind(settings.admin_address).await?;
    let end = stop.child_token();
    let admin = tokio::spawn(admin::serve(listener, health.clone(), metrics.clone(), end.clone()));
    let client = client::connect().await?;

    tokio::select! {
        () = wait_for_crds::wait(&client, &controller::NEEDED, &health) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let controller = controller::run(client, settings.into(), metrics, health, stop);
    let ended = tokio::select! {
        ended = controller => ended,
        ended = admin => match ended {
            Ok(ended) => ended,
            Err(panicked) => Err(panicked).context("the admin server panicked"),
        },
    };
    end.cancel();
    ended
}
