//! The clients of the API server, with the limits that kube leaves open.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};

/// To reach the API server at all; kube's own is 30 s.
pub const CONNECT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes for so long is given up; kube's own waits for ever. Longer than
/// a watch may be silent, which the API server ends before (`watch::TIMEOUT_SECONDS`). Without this, a
/// list that is never answered would blind the watch that needs it.
const SILENCE: Duration = Duration::from_mins(2);

/// What there is to connect to: the service account in a pod, the kubeconfig elsewhere.
///
/// # Errors
/// If neither is there, or one of them is broken.
pub async fn config() -> anyhow::Result<Config> {
    Config::infer()
        .await
        .context("no way to the API server: neither a service account in a pod nor a usable kubeconfig")
}

/// A client of what there is to connect to.
///
/// # Errors
/// If there is nothing, or nothing that works.
pub async fn connect() -> anyhow::Result<Client> {
    to(config().await?)
}

/// A client for what `config` says.
///
/// # Errors
/// If it says what cannot be done.
pub fn to(config: Config) -> anyhow::Result<Client> {
    bounded(config, SILENCE)
}

fn bounded(mut config: Config, silence: Duration) -> anyhow::Result<Client> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(silence);
    // Not from when the connection went idle: the next call on it would be cut short.
    config.reset_reader_on_write = true;
    // kube retries 429, 503 and 504 inside the client, up to 15 times and for minutes, while the
    // reconcile holds its place. Ours are counted per object and wait outside.
    config.default_retry = false;
    Client::try_from(config).context("the client of the API server cannot be built from its configuration")
}
