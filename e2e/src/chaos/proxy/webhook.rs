//! A validating webhook of the lab's own: it lets pass, refuses, or says nothing.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// What it says of everything.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Yes.
    #[default]
    Allow,
    /// No.
    Refuse,
    /// Nothing, until the API server is tired of it.
    Hang,
}

/// The webhook's present verdict, and how often it was asked for it.
#[derive(Debug, Default)]
pub struct Webhook {
    verdict: Mutex<Verdict>,
    asked: AtomicU64,
}

impl Webhook {
    /// From now on.
    pub fn set(&self, verdict: Verdict) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
        self.asked.store(0, Ordering::Relaxed);
    }

    /// How often it was asked since.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn verdict(&self) -> Verdict {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one connection of the API server.
pub async fn connection(stream: tokio_rustls::server::TlsStream<TcpStream>, webhook: &Webhook) {
    let service = hyper::service::service_fn(|request| answer(webhook, request));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(webhook: &Webhook, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let review: Value = serde_json::from_slice(&body)?;
    webhook.asked.fetch_add(1, Ordering::Relaxed);
    let allowed = match webhook.verdict() {
        Verdict::Allow => true,
        Verdict::Refuse => false,
        Verdict::Hang => std::future::pending().await,
    };
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], "allowed": allowed, "status": {"message": "a chaos run refuses it"}},
    });
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
