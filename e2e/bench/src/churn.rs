//! Others change their own objects all the time.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::json;

use crate::{calls, times::now};

/// How much.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Writes a second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// For so long
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Changes the labelled rules and routes of others in turn, each time to another value.
///
/// # Errors
/// When there are none, or a change is refused.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let rules = foreign(client, &calls::rules()).await?;
    let routes = foreign(client, &calls::routes()).await?;
    ensure!(!rules.is_empty() && !routes.is_empty(), "there is nothing of others to change");
    let mut tick = tokio::time::interval(Duration::from_secs(1) / args.rate);
    let begun = now();
    for number in 0..args.rate * args.seconds {
        tick.tick().await;
        let at = usize::try_from(number / 2)?;
        // Never the same twice: an object that is set to what it has is no change, and no event.
        let value = format!("{}ms", 1 + number);
        let (path, change) = if number % 2 == 0 {
            let change = json!({"spec": {"trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": value}}}}});
            (&rules[at % rules.len()], change)
        } else {
            (&routes[at % routes.len()], json!({"metadata": {"annotations": {"bench.example/turn": value}}}))
        };
        calls::merge(client, path, &change).await?;
    }
    println!("{}", json!({"writes": args.rate * args.seconds, "seconds": now() - begun}));
    Ok(())
}

async fn foreign(client: &Client, kind: &ApiResource) -> Result<Vec<String>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let all = api.list(&ListParams::default().labels("bench.example/of=others").limit(500)).await?;
    let path = |object: DynamicObject| {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{}/{name}", kind.plural)
    };
    Ok(all.into_iter().map(path).collect())
}
