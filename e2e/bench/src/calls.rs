//! The API server, call by call.

use anyhow::{Context as _, Result};
use http::{Method, Request, header::CONTENT_TYPE};
use kube::{
    Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;

/// Who the bare writer writes as: the operator's name, so that its objects are the same.
pub const MANAGER: &str = "resilience-operator";

/// A client of what KUBECONFIG names, that tries nothing again by itself.
///
/// # Errors
/// When there is nothing that works.
pub async fn client() -> Result<Client> {
    let mut config = Config::infer().await.context("KUBECONFIG names no way to an API server")?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Istio's and our kinds, as kube's generic types want them.
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Policies.
pub fn policies() -> ApiResource {
    resource("resilience.dev", "v1alpha1", "Resilience", "resiliences")
}

/// DestinationRules.
pub fn rules() -> ApiResource {
    resource("networking.istio.io", "v1", "DestinationRule", "destinationrules")
}

/// VirtualServices.
pub fn routes() -> ApiResource {
    resource("networking.istio.io", "v1", "VirtualService", "virtualservices")
}

/// A POST.
///
/// # Errors
/// What the API server says.
pub async fn create(client: &Client, path: &str, body: Vec<u8>) -> Result<()> {
    send(client, Method::POST, path, "application/json", body).await
}

/// A server-side apply, as the operator makes them.
///
/// # Errors
/// What the API server says.
pub async fn apply(client: &Client, path: &str, body: Vec<u8>) -> Result<()> {
    let path = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
    send(client, Method::PATCH, &path, "application/apply-patch+yaml", body).await
}

/// A merge patch, as somebody else makes it.
///
/// # Errors
/// What the API server says.
pub async fn merge(client: &Client, path: &str, change: &Value) -> Result<()> {
    let path = format!("{path}?fieldManager=somebody-else");
    send(client, Method::PATCH, &path, "application/merge-patch+json", serde_json::to_vec(change)?).await
}

/// A DELETE.
///
/// # Errors
/// What the API server says.
pub async fn delete(client: &Client, path: &str) -> Result<()> {
    send(client, Method::DELETE, path, "application/json", Vec::new()).await
}

async fn send(client: &Client, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Result<()> {
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind).body(body)?;
    client.request_text(request).await.map(drop).with_context(|| path.to_owned())
}

/// Whether a condition of an object is `True`, and speaks of the object as it is now.
pub fn holds(object: &DynamicObject, condition: &str) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| {
        one["type"] == condition
            && one["status"] == "True"
            && one.get("observedGeneration").and_then(Value::as_i64) == object.metadata.generation
    })
}
