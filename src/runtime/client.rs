//! The client of the API server, with the limits that kube leaves open.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};

/// To reach the API server at all; kube's own is 30 s.
const CONNECT: Duration = Duration::from_secs(5);

/// A client from the service account in a pod, or from the kubeconfig elsewhere.
///
/// # Errors
/// If neither is there, or one of them is broken.
pub async fn connect() -> anyhow::Result<Client> {
    let config = Config::infer()
        .await
        .context("no way to the API server: neither a service account in a pod nor a usable kubeconfig")?;
    to(config)
}

/// A client for what `config` says.
///
/// # Errors
/// If it says what cannot be done.
pub fn to(mut config: Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(CONNECT);
    // kube retries 429, 503 and 504 inside the client, up to 15 times and for minutes, while the
    // reconcile holds its place. Ours are counted per object and wait outside.
    config.default_retry = false;
    Client::try_from(config).context("the client of the API server cannot be built from its configuration")
}
