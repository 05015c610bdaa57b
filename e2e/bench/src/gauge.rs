//! When so many policies have a condition: one watch, the same beside every contender.

use std::{collections::HashSet, time::Duration};

use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};
use serde_json::json;

use crate::{calls, times::now};

/// For what to wait.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Their number
    #[arg(long)]
    count: usize,
    /// `GROUP/VERSION/KIND/PLURAL`
    #[arg(long, default_value = "resilience.dev/v1alpha1/Resilience/resiliences")]
    kind: String,
    /// The condition
    #[arg(long, default_value = "Programmed")]
    condition: String,
    /// Seconds after which it is given up
    #[arg(long, default_value_t = 900)]
    within: u64,
}

/// Prints a line when the watch stands, and one when all have the condition.
///
/// # Errors
/// When they do not in time.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let parts: Vec<&str> = args.kind.split('/').collect();
    let [group, version, kind, plural] = parts[..] else { bail!("{} is no GROUP/VERSION/KIND/PLURAL", args.kind) };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &calls::resource(group, version, kind, plural));
    let (mut done, mut first) = (HashSet::new(), None);
    let wait = async {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
        while let Some(event) = events.next().await {
            match event? {
                Event::InitDone => println!("{}", json!({"watching": true})),
                Event::Apply(object) | Event::InitApply(object) if calls::holds(&object, &args.condition) => {
                    first.get_or_insert_with(now);
                    done.insert((object.namespace(), object.name_any()));
                }
                _ => {}
            }
            if done.len() >= args.count {
                break;
            }
        }
        anyhow::Ok(())
    };
    let ended = tokio::time::timeout(Duration::from_secs(args.within), wait).await;
    if done.len() < args.count {
        ended.ok().transpose()?;
        bail!("{} of {} have {} after {} s", done.len(), args.count, args.condition, args.within);
    }
    println!("{}", json!({"first": first, "last": now()}));
    Ok(())
}
