//! Somebody edits or deletes what was generated: how long until a watch shows it as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::json;

use crate::{calls, times::Times};

/// How often.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Edits, and as many deletions
    #[arg(long, default_value_t = 200)]
    count: usize,
}

/// Edits rules, then deletes routes, each time waiting for the repair.
///
/// # Errors
/// When one is not undone within a minute.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let edits = every(client, &calls::rules(), args.count, async |path: &str| {
        let wrong = json!({"spec": {"trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 99}}}});
        calls::merge(client, path, &wrong).await
    })
    .await?;
    let deletions =
        every(client, &calls::routes(), args.count, async |path: &str| calls::delete(client, path).await).await?;
    println!("{}", json!({"edits": edits.report(), "deletions": deletions.report()}));
    Ok(())
}

async fn every(
    client: &Client,
    kind: &ApiResource,
    count: usize,
    spoil: impl AsyncFn(&str) -> Result<()>,
) -> Result<Times> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let there = api.list(&ListParams::default().limit(u32::try_from(count)?)).await?;
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    while !matches!(events.next().await.context("the watch ended")??, Event::InitDone) {}
    let mut times = Times::new()?;
    for object in there {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{}/{name}", kind.plural);
        spoil(&path).await?;
        let mut spoilt = None;
        let wait = async {
            loop {
                let (now, whole) = match events.next().await.context("the watch ended")?? {
                    Event::Apply(now) => {
                        let whole = now.data.get("spec") == object.data.get("spec");
                        (now, whole)
                    }
                    Event::Delete(now) => (now, false),
                    _ => continue,
                };
                if now.name_any() != name || now.namespace().as_deref() != Some(&namespace) {
                    continue;
                }
                // From the event on: what comes before is the way of the edit itself.
                match spoilt {
                    None if !whole => spoilt = Some(Instant::now()),
                    Some(since) if whole => return anyhow::Ok(since.elapsed()),
                    _ => {}
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), wait).await;
        times.add(waited.with_context(|| format!("{path} is not restored after a minute"))??);
    }
    Ok(times)
}
