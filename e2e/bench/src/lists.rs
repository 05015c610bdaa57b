//! Three raw lists, in the pages in which kube's watcher asks for them: what a start cannot do without.

use std::time::Instant;

use anyhow::Result;
use http::Request;
use kube::Client;
use serde::Deserialize;
use serde_json::json;

/// Of a page only what leads to the next one.
#[derive(Deserialize)]
struct Page {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default, rename = "continue")]
    next: String,
}

/// Reads them one after the other, and prints how long it took.
///
/// # Errors
/// What the API server says.
pub async fn run(client: &Client) -> Result<()> {
    let begun = Instant::now();
    let mut bytes = 0;
    for path in [
        "/apis/resilience.dev/v1alpha1/resiliences",
        "/apis/networking.istio.io/v1/destinationrules",
        "/apis/networking.istio.io/v1/virtualservices",
    ] {
        let mut next = String::new();
        loop {
            let request = Request::get(format!("{path}?limit=500&continue={next}")).body(Vec::new())?;
            let text = client.request_text(request).await?;
            bytes += text.len();
            next = serde_json::from_str::<Page>(&text)?.metadata.next;
            if next.is_empty() {
                break;
            }
        }
    }
    println!("{}", json!({"seconds": begun.elapsed().as_secs_f64(), "bytes": bytes}));
    Ok(())
}
