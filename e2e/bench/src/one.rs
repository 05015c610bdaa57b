//! One policy after the other: how long from the creation being sent until a watch shows it programmed.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};

use crate::{calls, floor::Template, seed, times::Times};

/// Which policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Lines of `{"path": …, "object": …}`
    file: PathBuf,
    /// Write for them what the operator would, as the bare writer does; without it, somebody else does
    #[arg(long)]
    template: Option<PathBuf>,
}

/// Before each creation.
const REST: Duration = Duration::from_millis(100);

/// Creates and waits.
///
/// # Errors
/// When a policy is refused, or not programmed within a minute.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let template = args.template.as_ref().map(Template::read).transpose()?;
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &calls::policies());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    while !matches!(events.next().await.context("the watch ended")??, Event::InitDone) {}
    let mut times = Times::new()?;
    for line in seed::lines(&args.file)? {
        let name = line.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let body = serde_json::to_vec(&line.object)?;
        // What follows from the one before, as its events, is over: it is one policy that is timed, not a storm.
        tokio::time::sleep(REST).await;
        let begun = Instant::now();
        calls::create(client, &line.path, body).await?;
        let wait = async {
            loop {
                let Event::Apply(object) = events.next().await.context("the watch ended")?? else { continue };
                if object.name_any() != name {
                    continue;
                }
                if calls::holds(&object, "Programmed") {
                    return anyhow::Ok(());
                }
                if let Some(template) = &template {
                    let (namespace, uid) = (object.namespace().unwrap_or_default(), object.uid().unwrap_or_default());
                    template.write(client, &namespace, &name, &uid, &mut Vec::new()).await?;
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), wait).await;
        waited.with_context(|| format!("{name} is not programmed after a minute"))??;
        times.add(begun.elapsed());
    }
    println!("{}", times.report());
    Ok(())
}
