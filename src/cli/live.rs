//! The cluster, read once: by list calls, into the caches that the operator's watches fill, so that one
//! `observe` serves both.

use std::{
    collections::BTreeSet, error::Error as _, fmt::Debug, io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration,
};

use anyhow::{Context as _, anyhow};
use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{DeserializeGuard, PartialObjectMeta},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::{dns_label, dns_name};
use crate::{
    api::Resilience,
    controller::{
        NEEDED,
        cache::{Cache, Entry, View},
        installed,
        observe::observe,
        world::{self, World, istio_resource},
    },
    istio::{Kind, neighbourhood::ClientSidecar},
    names,
    observed::Observed,
    runtime::client,
    validate::Settings,
};

/// How long one call may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
/// Objects in one answer, as kubectl asks for them.
const CHUNK: u32 = 500;
/// Who waits longer than this is told for what.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which cluster, and where in it: kubectl's own options.
#[derive(Clone, Debug, clap::Args)]
pub struct Connection {
    /// Namespace where nothing else names one [default: that of the context].
    #[arg(short, long, value_parser = dns_label)]
    namespace: Option<String>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, then ~/.kube/config, then the pod's service account].
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    kubeconfig: Option<PathBuf>,
    /// The cluster's domain; a wrong one makes every rule silently dead.
    #[arg(long, default_value = names::DEFAULT_CLUSTER_DOMAIN, value_parser = dns_name)]
    cluster_domain: String,
    /// Istio's root namespace (meshConfig.rootNamespace), whose rules concern every client.
    #[arg(long, default_value = names::DEFAULT_ROOT_NAMESPACE, value_parser = dns_label)]
    istio_root_namespace: String,
}

/// The cluster that was chosen.
pub struct Chosen {
    /// Reads it.
    pub reader: Reader,
    /// Where what names no namespace belongs.
    pub namespace: String,
    /// What decisions depend on.
    pub settings: Settings,
}

impl Connection {
    /// Where what names no namespace belongs, and what decisions depend on, without any cluster.
    pub(super) fn offline(&self) -> (String, Settings) {
        let settings =
            Settings { cluster_domain: self.cluster_domain.clone(), root_namespace: self.istio_root_namespace.clone() };
        (self.namespace.clone().unwrap_or_else(|| "default".to_owned()), settings)
    }

    /// Finds the way there; does not go it yet.
    ///
    /// # Errors
    /// If there is none.
    pub async fn choose(&self) -> anyhow::Result<Chosen> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                // Their words hold those of their causes.
                let broken = |error| anyhow!("--kubeconfig {}: {error}", path.display());
                let file = Kubeconfig::read_from(path).map_err(broken)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(broken)?
            }
            (None, Some(context)) => {
                let config = Config::from_kubeconfig(&options).await;
                config.map_err(|error| anyhow!("--context {context}: {error}"))?
            }
            (None, None) => Config::infer()
                .await
                .map_err(|error| anyhow!("no way to a cluster ({error}): set KUBECONFIG, or say --kubeconfig FILE"))?,
        };
        let address = config.cluster_url.to_string();
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let (_, settings) = self.offline();
        Ok(Chosen { reader: Reader::new(client::to(config)?, &address), namespace, settings })
    }
}

/// Runs what talks to a cluster.
///
/// # Errors
/// If there are no threads, or what `work` says.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().context("nothing to run on")?;
    threads.block_on(work)
}

/// Reads namespaces of one cluster.
#[derive(Clone)]
pub struct Reader {
    pub(super) client: Client,
    pub(super) address: String,
}

/// Namespaces as they were when they were read.
pub struct Live {
    pub(super) world: World,
    /// What could not be read without harm, and what is not there; one line each.
    pub notes: Vec<String>,
    /// What may not be read of other namespaces, one line each.
    pub unread: Vec<String>,
}

impl Live {
    /// What the operator would observe of a policy. The one place where it is put together from a cluster
    /// that was read once.
    #[must_use]
    pub fn observe(&self, policy: &Resilience) -> Observed {
        observe(policy, &self.world)
    }

    /// Sidecars of all namespaces that were read, which say what their workloads see.
    pub(super) fn sidecars(&self) -> Arc<Vec<ClientSidecar>> {
        let sidecars = self.world.istio(Kind::Sidecar).all();
        Arc::new(sidecars.map(|entry| ClientSidecar::of(&entry.view)).collect())
    }
}

impl Reader {
    /// Reads through `client`; `address` is for messages.
    #[must_use]
    pub fn new(client: Client, address: &str) -> Self {
        Self { client, address: address.trim_end_matches('/').to_owned() }
    }

    /// Reads all that decisions in these namespaces rest on. What can touch their hosts is read in all
    /// namespaces or, where that is not allowed, in these, the root namespace and that of `client`.
    ///
    /// # Errors
    /// Every kind that could not be read, and what to do; one line each.
    pub async fn read(
        &self,
        namespaces: &BTreeSet<String>,
        client: Option<&str>,
        settings: &Settings,
    ) -> Result<Live, Vec<String>> {
        let world = World::new(settings);
        let mut work = Vec::new();
        for namespace in namespaces {
            work.extend(self.lists(namespace, &world));
        }
        let labels = join_all(namespaces.iter().map(|namespace| self.labels(namespace, &world)));
        let installed = installed::look_once(self.client.clone(), DEADLINE, &world);
        let near = client.into_iter().chain([settings.root_namespace.as_str()]).map(str::to_owned).collect();
        let around = self.around(namespaces, &near, &world);
        let all = futures::future::join4(join_all(work), around, labels, installed);
        let (lists, around, labels, unknown) = patiently(&format!("reading {}", self.address), all).await;
        let mut faults: Vec<String> = Vec::new();
        let (unread, others) = around.map_or_else(|faults| (Vec::new(), faults), |unread| (unread, Vec::new()));
        for fault in lists.into_iter().filter_map(Result::err).chain(others) {
            // An API server that is not there is not there for each kind.
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Live { world, notes: labels.into_iter().flatten().chain(unknown).collect(), unread })
    }

    fn lists<'a>(&'a self, namespace: &'a str, world: &'a World) -> Vec<BoxFuture<'a, Result<(), String>>> {
        let here = |kind: &str, plural: &str| {
            Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &istio_resource(kind, plural))
        };
        let policies = Api::<DeserializeGuard<Resilience>>::namespaced(self.client.clone(), namespace);
        let services = Api::<Service>::namespaced(self.client.clone(), namespace);
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), namespace);
        let entries = here("ServiceEntry", "serviceentries");
        vec![
            self.list("resiliences", namespace, policies, &world.policies, world::policy).boxed(),
            self.list("services", namespace, services, &world.services, world::service).boxed(),
            self.list("endpointslices", namespace, slices, &world.slices, world::slice).boxed(),
            self.list("serviceentries", namespace, entries, &world.entries, world::entry).boxed(),
        ]
    }

    async fn list<K, V>(
        &self,
        plural: &str,
        namespace: &str,
        api: Api<K>,
        cache: &Cache<V>,
        lean: impl Fn(K) -> Entry<V>,
    ) -> Result<(), String>
    where
        K: Clone + DeserializeOwned + Debug,
        V: View,
    {
        let found = self.all(api).await.ok_or_else(|| self.silent())?;
        for object in found.map_err(|error| self.explain(&error, plural, namespace))? {
            let _delta = cache.put(lean(object));
        }
        Ok(())
    }

    /// In chunks; `None`: no answer in time.
    pub(super) async fn all<K>(&self, api: Api<K>) -> Option<Result<Vec<K>, kube::Error>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let (mut chunk, mut found) = (ListParams::default().limit(CHUNK), Vec::new());
        loop {
            let answer = match timeout(DEADLINE, api.list(&chunk)).await.ok()? {
                Ok(answer) => answer,
                Err(error) => return Some(Err(error)),
            };
            found.extend(answer.items);
            match answer.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => chunk = chunk.continue_token(&token),
                None => return Some(Ok(found)),
            }
        }
    }

    /// The labels of a namespace. Who may not read them is told less, and that is all.
    async fn labels(&self, namespace: &str, world: &World) -> Option<String> {
        let api = Api::<Namespace>::all(self.client.clone());
        let call = timeout(DEADLINE, api.get_metadata_opt(namespace)).await.ok()?;
        let found: Option<PartialObjectMeta<Namespace>> = match call {
            Ok(found) => found,
            Err(kube::Error::Api(status)) => {
                return Some(format!("the labels of namespace {namespace} cannot be read: {}", status.message));
            }
            // Told by the lists.
            Err(_) => return None,
        };
        let Some(found) = found else { return Some(format!("namespace {namespace} does not exist")) };
        let _delta = world.namespaces.put(world::namespace(found));
        None
    }

    pub(super) fn silent(&self) -> String {
        format!("the API server at {} did not answer within {} s", self.address, DEADLINE.as_secs())
    }

    /// What may not be read, in the API server's words, and what to do about it.
    pub(super) fn forbidden(said: &str, plural: &str, namespace: &str) -> String {
        let resource = full(plural);
        format!(
            "{said}: ask for the right to list {resource} in namespace {namespace}; `kubectl auth can-i list {resource} -n {namespace}` tells when you have it"
        )
    }

    /// What happened, and what to do about it.
    pub(super) fn explain(&self, error: &kube::Error, plural: &str, namespace: &str) -> String {
        let resource = full(plural);
        match error {
            kube::Error::Api(status) => match status.code {
                401 => format!(
                    "the API server at {} does not accept the credentials ({}): log in again, or choose another --context",
                    self.address, status.message
                ),
                403 => Self::forbidden(&status.message, plural, namespace),
                404 => {
                    let hint = NEEDED.iter().find(|needed| needed.plural == plural).map(|needed| needed.hint);
                    format!("{resource} is not served: {}", hint.unwrap_or("is this a Kubernetes API server?"))
                }
                code => format!("{resource} cannot be listed, the API server says {code}: {}", status.message),
            },
            kube::Error::Auth(error) => format!("there is no logging in to {}: {error}", self.address),
            kube::Error::HyperError(_) | kube::Error::Service(_) => format!(
                "the API server at {} cannot be reached ({}): is it up, and is this the right --context?",
                self.address,
                root_of(error)
            ),
            other => format!("{resource} cannot be listed: {other}"),
        }
    }
}

/// A kind with its group.
fn full(plural: &str) -> String {
    let group = group(plural);
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn group(plural: &str) -> &'static str {
    match plural {
        "services" | "pods" => "",
        "endpointslices" => "discovery.k8s.io",
        "resiliences" => names::GROUP,
        "httproutes" | "grpcroutes" => names::GATEWAY_API_GROUP,
        "deployments" | "statefulsets" | "daemonsets" => "apps",
        "peerauthentications" => "security.istio.io",
        _ => names::ISTIO_GROUP,
    }
}

/// The last of the causes: the operating system's own words.
fn root_of(error: &kube::Error) -> String {
    let mut cause = error.source();
    let mut words = error.to_string();
    while let Some(error) = cause {
        words = error.to_string();
        cause = error.source();
    }
    words
}

/// Waits for `work`; after a second, and on a terminal, standard error says for what.
pub(super) async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = sleep(PATIENCE), if std::io::stderr().is_terminal() => {}
    }
    eprint!("{what} …");
    let done = work.await;
    eprint!("\r\x1b[K");
    done
}
