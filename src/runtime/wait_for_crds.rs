//! Waits for kinds that somebody else installs.
//!
//! A restart does not make a missing CRD appear, so its absence is «not ready», never an exit. Asks
//! discovery, which every service account may read, and so needs no right on CRDs.

use std::time::Duration;

use kube::Client;
use tokio::time::{sleep, timeout};

use super::admin::Health;

/// A kind that must be served.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// As in `apiVersion`.
    pub group_version: &'static str,
    /// Resource name.
    pub plural: &'static str,
    /// What to do when it is missing.
    pub hint: &'static str,
}

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(10);

/// Returns when all of `needed` are served. Until then readiness names what is missing.
pub async fn wait(client: &Client, needed: &[Needed], health: &Health) {
    const GATE: &str = "kinds";
    let mut pause = FIRST_WAIT;
    let mut said = String::new();
    loop {
        let mut missing = Vec::new();
        for kind in needed {
            if let Err(why) = served(client, kind).await {
                missing.push(format!("{}.{}: {why}; {}", kind.plural, kind.group_version, kind.hint));
            }
        }
        if missing.is_empty() {
            health.open(GATE);
            return;
        }
        let missing = missing.join("; ");
        health.block(GATE, &missing);
        // Once per change: a wait can last for days.
        if missing != said {
            tracing::warn!(%missing, "waiting for kinds that are not served");
            said = missing;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_WAIT);
    }
}

async fn served(client: &Client, kind: &Needed) -> Result<(), String> {
    match timeout(DEADLINE, client.list_api_group_resources(kind.group_version)).await {
        Ok(Ok(list)) if list.resources.iter().any(|resource| resource.name == kind.plural) => Ok(()),
        Ok(Ok(_)) => Err("not served".to_owned()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err("not served".to_owned()),
        Ok(Err(kube::Error::Api(status))) => Err(format!("the API server says: {}", status.message)),
        Ok(Err(error)) => Err(format!("the API server could not be asked: {error}")),
        Err(_) => Err(format!("the API server did not answer within {} s", DEADLINE.as_secs())),
    }
}
