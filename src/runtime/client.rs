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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Router, http::StatusCode, routing::get};
    use kube::{api::GetParams, core::Request};

    use super::*;

    async fn ask(client: &Client, name: &str) -> kube::Result<String> {
        client.request_text(Request::new("/x").get(name, &GetParams::default()).unwrap()).await
    }

    async fn serve(app: Router) -> Config {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Config::new(url.parse().unwrap())
    }

    #[tokio::test]
    async fn the_client_itself_tries_nothing_again() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let app = Router::new().route(
            "/x/{code}",
            get(async move |axum::extract::Path(code): axum::extract::Path<u16>| {
                counted.fetch_add(1, Ordering::Relaxed);
                StatusCode::from_u16(code).unwrap()
            }),
        );
        let client = to(serve(app).await).unwrap();
        for code in ["429", "503", "504"] {
            assert!(ask(&client, code).await.is_err());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_not_waited_for_and_an_idle_connection_is_not_silence() {
        let app = Router::new()
            .route("/x/never", get(async || std::future::pending::<()>().await))
            .route("/x/soon", get(async || tokio::time::sleep(Duration::from_millis(200)).await));
        let client = bounded(serve(app).await, Duration::from_millis(300)).unwrap();
        assert!(ask(&client, "never").await.is_err());
        ask(&client, "soon").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        ask(&client, "soon").await.unwrap();
    }
}
