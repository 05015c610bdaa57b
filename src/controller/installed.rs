//! Which Istio is installed: its CRDs as the API server serves them, and the version that istiod tells; and
//! whether there is a Gateway API beside it.
//!
//! Asked again and again, since no event tells of an upgrade: the index of the API server's OpenAPI is
//! small and names each document with a hash, so that a document is read only when it is another.
//! Whatever cannot be read stays as it was known, and what was never read gates nothing.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{Client, api::GetParams, core::Request};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::world::World;
use crate::{
    istio::{Knows, Version, neighbourhood::GatewayRouteKind},
    names,
    runtime::metrics::Metrics,
};

/// How often to look. An upgrade of Istio takes minutes.
pub const RECHECK: Duration = Duration::from_secs(30);

/// Between two looks in any case: many policies may ask for one at a time.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// istiod's time to answer: the first look holds up the begin.
const ISTIOD_DEADLINE: Duration = Duration::from_secs(3);

/// istiod's monitoring, asked through the API server.
const ISTIOD_BY_PROXY: &str = "/api/v1/namespaces/istio-system/services/http:istiod:15014/proxy";

/// Longest answer of istiod that is looked at.
const ANSWER_LIMIT: usize = 256;

/// Looks for another Istio.
pub struct Installed {
    client: Client,
    deadline: Duration,
    recheck: Duration,
    istiod: Option<Istiod>,
    again: Notify,
    gateway_api: watch::Sender<Served>,
    /// Path and hash of the document that was read last.
    document: Mutex<String>,
}

/// Kinds of routes of the Gateway API that are served; `None`: not looked yet.
pub type Served = Option<BTreeSet<GatewayRouteKind>>;

struct Istiod {
    http: reqwest::Client,
    url: String,
    /// What it said last; see [`Istiod::settled`].
    last: Mutex<Option<Version>>,
}

impl Installed {
    /// Nothing is looked at before [`Installed::follow`].
    pub fn new(client: Client, deadline: Duration, recheck: Duration, istiod_address: &str) -> Self {
        let istiod = (!istiod_address.is_empty()).then(|| Istiod {
            // In the cluster and next door: no proxy of anybody's environment.
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(deadline.min(ISTIOD_DEADLINE))
                .build()
                .unwrap_or_default(),
            url: format!("http://{istiod_address}/version"),
            last: Mutex::default(),
        });
        let gateway_api = watch::Sender::new(None);
        Self { client, deadline, recheck, istiod, again: Notify::new(), gateway_api, document: Mutex::default() }
    }

    /// Follows which routes of the Gateway API there can be.
    pub fn gateway_routes(&self) -> watch::Receiver<Served> {
        self.gateway_api.subscribe()
    }

    /// The API server refused a field: what is known may be old.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    /// Keeps `world` up to date, for ever. `first` is called after the first look, however it ended,
    /// and `news` whenever a later one saw another Istio.
    pub async fn follow(&self, world: &World, metrics: &Metrics, first: impl FnOnce(), news: impl Fn()) {
        let (mut first, mut said) = (Some(first), String::new());
        loop {
            let mut faults = Vec::new();
            let knows = self.look(world.istio_knows(), &mut faults).await;
            if world.learn(knows.clone()) {
                let version = knows.version().map_or_else(|| "unknown".to_owned(), |version| version.to_string());
                tracing::info!(istiod = version, missing = ?knows.lacking(), "what the installed Istio understands");
                metrics.missing(knows.lacking().len());
                news();
            }
            let faults = faults.join("; ");
            // Once per change: it can last for days.
            if faults != said && !faults.is_empty() {
                tracing::warn!(%faults, "not all is known of the installed Istio; what is not known gates nothing");
            }
            said = faults;
            if let Some(first) = first.take() {
                first();
            }
            tokio::select! {
                () = tokio::time::sleep(self.recheck) => {}
                () = self.again.notified() => tokio::time::sleep(LEAST_PAUSE.min(self.recheck)).await,
            }
        }
    }

    async fn look(&self, known: Knows, faults: &mut Vec<String>) -> Knows {
        let before = known.version();
        let index = self.get("/openapi", "v3").await;
        let crds = match &index {
            Ok(index) => self.crds(index, known.has_all_kinds()).await,
            Err(fault) => Err(fault.clone()),
        };
        let crds = crds.unwrap_or_else(|fault| {
            faults.push(format!("Istio's CRDs: {fault}"));
            None
        });
        if let Some(fault) = self.look_for_gateway_api(index.as_ref().ok()).await {
            faults.push(format!("the Gateway API's routes: {fault}"));
        }
        let version = match &self.istiod {
            None => None,
            Some(istiod) => istiod.settled(before).await.map_or_else(
                |fault| {
                    faults.push(format!("istiod's version: {fault}"));
                    before
                },
                Some,
            ),
        };
        crds.unwrap_or(known).with_version(version)
    }

    /// What the CRDs declare; `None` if they are still those that were read last.
    async fn crds(&self, index: &Value, read_before: bool) -> Result<Option<Knows>, String> {
        let (group, version) = names::ISTIO_API_VERSION.split_once('/').unwrap_or_default();
        let entry = index.get("paths").and_then(|paths| paths.get(format!("apis/{group}/{version}")));
        let place = entry.and_then(|entry| entry.get("serverRelativeURL")).and_then(Value::as_str);
        let place = place.ok_or_else(|| format!("the API server has no document of {}", names::ISTIO_API_VERSION))?;
        if read_before && *self.document.lock().unwrap_or_else(PoisonError::into_inner) == place {
            return Ok(None);
        }
        let knows = Knows::from_open_api(&self.get(&format!("/openapi/v3/apis/{group}"), version).await?);
        if !knows.has_all_kinds() {
            return Err(format!("the document of {} does not describe the kinds", names::ISTIO_API_VERSION));
        }
        place.clone_into(&mut self.document.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Some(knows))
    }

    /// Which routes of the Gateway API are served, by an index that is there; gives what is not known of it.
    async fn look_for_gateway_api(&self, index: Option<&Value>) -> Option<String> {
        let before = self.gateway_api.borrow().clone();
        let path = format!("apis/{}", names::GATEWAY_API_VERSION);
        let (served, fault) = match index.map(|index| index.pointer("/paths").and_then(|paths| paths.get(&path))) {
            None => (before.unwrap_or_default(), None),
            Some(None) => (BTreeSet::new(), None),
            Some(Some(_)) => match self.get(&format!("/apis/{}", names::GATEWAY_API_GROUP), "v1").await {
                Ok(resources) => (gateway_routes_of(&resources), None),
                Err(fault) => (before.unwrap_or_default(), Some(fault)),
            },
        };
        self.gateway_api.send_if_modified(|known| {
            let news = known.as_ref() != Some(&served);
            *known = Some(served);
            news
        });
        fault
    }

    async fn get(&self, folder: &str, name: &str) -> Result<Value, String> {
        let request = Request::new(folder).get(name, &GetParams::default()).map_err(|error| error.to_string())?;
        match timeout(self.deadline, self.client.request::<Value>(request)).await {
            Ok(Ok(document)) => Ok(document),
            Ok(Err(kube::Error::Api(status))) => Err(format!("the API server says: {}", status.message)),
            Ok(Err(error)) => Err(format!("the API server could not be asked: {error}")),
            Err(_) => Err(format!("the API server did not answer within {} s", self.deadline.as_secs())),
        }
    }
}

/// The kinds that a list of the API's resources has.
fn gateway_routes_of(resources: &Value) -> BTreeSet<GatewayRouteKind> {
    let resources = resources.get("resources").and_then(Value::as_array).into_iter().flatten();
    let kinds: Vec<_> = resources.filter_map(|resource| resource.get("kind")?.as_str()).collect();
    GatewayRouteKind::ALL.into_iter().filter(|kind| kinds.contains(&kind.as_str())).collect()
}

/// One look from outside of the cluster, from where istiod is reached through the API server alone; who
/// may not ask it there knows no version. Gives what is not known, one line each.
pub async fn look_once(client: Client, deadline: Duration, world: &World) -> Vec<String> {
    let installed = Installed::new(client, deadline, RECHECK, "");
    let mut faults = Vec::new();
    let knows = installed.look(Knows::default(), &mut faults).await;
    let version = installed.version_by_proxy().await;
    world.learn(knows.with_version(version));
    let unknown = |fault| format!("{fault}: nothing here is held against what the installed Istio understands");
    faults.into_iter().map(unknown).collect()
}

impl Installed {
    async fn version_by_proxy(&self) -> Option<Version> {
        let request = Request::new(ISTIOD_BY_PROXY).get("version", &GetParams::default()).ok()?;
        let answer = timeout(self.deadline.min(ISTIOD_DEADLINE), self.client.request_text(request)).await.ok()?.ok()?;
        Version::parse(&answer)
    }
}

impl Istiod {
    /// Its version, or the one from `before` while another is not sure: during an upgrade two istiods
    /// answer in turn, and each turn could rewrite rules, so another counts when it was told twice in a
    /// row.
    async fn settled(&self, before: Option<Version>) -> Result<Version, String> {
        let told = self.ask().await?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(told);
        Ok(before.filter(|_| last != Some(told)).unwrap_or(told))
    }

    async fn ask(&self) -> Result<Version, String> {
        let unreached = |error: reqwest::Error| format!("{} does not answer: {}", self.url, error.without_url());
        let answer = self.http.get(&self.url).send().await.map_err(unreached)?;
        let mut answer = answer.error_for_status().map_err(unreached)?;
        let text = answer.chunk().await.map_err(unreached)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..text.len().min(ANSWER_LIMIT)]).into_owned();
        Version::parse(&text).ok_or_else(|| format!("{} answers {text:?}, which is no version", self.url))
    }
}
