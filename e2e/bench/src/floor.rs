//! The bare writer: three applies for each policy, and nothing else. No watch, no cache, no comparison, no event:
//! nobody who writes the same objects through the same API server can be faster.

use std::{collections::HashMap, fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{calls, times::Times};

/// What is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The operator's own objects for one policy, with `@namespace@`, `@name@` and `@uid@` in them
    #[arg(long)]
    template: PathBuf,
    /// Policies at a time
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
}

/// What the operator writes for one policy.
#[derive(Clone, Deserialize)]
pub struct Template {
    rule: String,
    routes: String,
    status: String,
}

impl Template {
    /// From a file.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(file: &PathBuf) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Writes the three for one policy, in the operator's order. Gives how long each call took.
    ///
    /// # Errors
    /// The first that is refused.
    pub async fn write(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
        uid: &str,
        times: &mut Vec<std::time::Duration>,
    ) -> Result<()> {
        let fill = |text: &str| text.replace("@namespace@", namespace).replace("@name@", name).replace("@uid@", uid);
        let istio = format!("/apis/networking.istio.io/v1/namespaces/{namespace}");
        let policy = format!("/apis/resilience.dev/v1alpha1/namespaces/{namespace}/resiliences/{name}/status");
        for (path, text) in [
            (format!("{istio}/destinationrules/{name}"), &self.rule),
            (format!("{istio}/virtualservices/{name}"), &self.routes),
            (policy, &self.status),
        ] {
            let begun = Instant::now();
            calls::apply(client, &path, fill(text).into_bytes()).await?;
            times.push(begun.elapsed());
        }
        Ok(())
    }
}

/// Writes for every policy that is there, tells how long calls took, and waits to be ended.
///
/// # Errors
/// The first call that is refused.
pub async fn run(client: &Client, args: &Args) -> Result<()> {
    let template = Template::read(&args.template)?;
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &calls::policies());
    let policies = api.list(&ListParams::default()).await?;
    let places: HashMap<_, _> = policies
        .into_iter()
        .map(|policy| ((policy.namespace().unwrap_or_default(), policy.name_any()), policy.uid().unwrap_or_default()))
        .collect();
    let writes = places.into_iter().map(|((namespace, name), uid)| {
        let template = &template;
        async move {
            let mut times = Vec::new();
            template.write(client, &namespace, &name, &uid, &mut times).await?;
            Ok::<_, anyhow::Error>(times)
        }
    });
    let taken: Vec<_> = stream::iter(writes).buffer_unordered(args.in_flight).try_collect().await?;
    let mut times = Times::new()?;
    taken.into_iter().flatten().for_each(|time| times.add(time));
    let report: Value = json!({"calls": times.report()});
    println!("{report}");
    // Its memory and CPU are read from outside while it is there.
    std::future::pending().await
}
