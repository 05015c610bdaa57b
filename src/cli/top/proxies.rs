//! The proxies of clients: found by their pods, read through the API server, as `istioctl proxy-config` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::ListParams,
    core::{ObjectList, PartialObjectMeta},
};
use tokio::time::timeout;
use url::form_urlencoded::Serializer;

use super::super::live::{DEADLINE, Reader};
use crate::top::{Proxy, Reading, Sample, Wanted};

/// Envoy's admin interface in Istio's sidecars and gateways.
const ADMIN: u16 = 15000;
/// What the injector puts on pods that it gave a proxy, and what it notes there.
const INJECTED_LABEL: &str = "service.istio.io/canonical-name";
const INJECTED: &str = "sidecar.istio.io/status";
/// Proxies that are read at a time.
pub(in crate::cli) const AT_A_TIME: usize = 16;
/// How long the list of pods is good for.
const PODS_FOR: Duration = Duration::from_secs(10);
/// An answer is some kilobytes for each endpoint of the mesh.
const LARGEST: usize = 128 << 20;

/// Which proxies there are, and the ways to them, which stay open.
pub(in crate::cli) struct Proxies {
    reader: Reader,
    namespace: String,
    from: BTreeSet<String>,
    most: usize,
    found: Option<(Instant, Found)>,
    links: BTreeMap<Proxy, Link>,
}

/// Clients, and what is to be said of the others.
#[derive(Clone)]
pub(in crate::cli) struct Found {
    pub proxies: Vec<Proxy>,
    pub notes: Vec<String>,
}

/// An open way to a proxy.
pub(in crate::cli) type Link = SendRequest<Empty<Bytes>>;

impl Proxies {
    /// Those of pods in the namespaces `from`; none: in all, those in `namespace` first. At most `most`.
    pub(in crate::cli) fn new(reader: Reader, namespace: &str, from: Vec<String>, most: usize) -> Self {
        let from = from.into_iter().collect();
        Self { reader, namespace: namespace.to_owned(), from, most, found: None, links: BTreeMap::new() }
    }

    /// Reads all of them once; `start` is where the clock of readings begins. The notes say which are not read.
    ///
    /// # Errors
    /// Why it is not known which there are; one line each.
    pub(super) async fn read(
        &mut self,
        wanted: &Wanted,
        start: Instant,
    ) -> Result<(Vec<Reading>, Vec<String>), Vec<String>> {
        let found = match &self.found {
            Some((when, found)) if when.elapsed() < PODS_FOR => found.clone(),
            _ => {
                let found = self.find().await?;
                self.found = Some((Instant::now(), found.clone()));
                found
            }
        };
        self.links.retain(|proxy, _| found.proxies.contains(proxy));
        let work: Vec<_> = found.proxies.into_iter().map(|proxy| (self.links.remove(&proxy), proxy)).collect();
        let reader = &self.reader;
        let read = work.into_iter().map(async |(link, proxy)| {
            let (link, sample) = read_one(reader, &proxy, link, wanted).await;
            (link, Reading { proxy, taken: start.elapsed(), sample })
        });
        let read: Vec<_> = stream::iter(read).buffer_unordered(AT_A_TIME).collect().await;
        let mut readings = Vec::with_capacity(read.len());
        for (link, reading) in read {
            if let Some(link) = link {
                self.links.insert(reading.proxy.clone(), link);
            }
            readings.push(reading);
        }
        if readings.iter().any(|reading| reading.sample.is_err()) {
            // It may be gone.
            self.found = None;
        }
        readings.sort_by(|one, other| one.proxy.cmp(&other.proxy));
        Ok((readings, found.notes))
    }

    /// Which there are.
    ///
    /// # Errors
    /// Why that is not known; one line each.
    pub(in crate::cli) async fn find(&self) -> Result<Found, Vec<String>> {
        let mut notes = Vec::new();
        let mut pods = Vec::new();
        let mut faults = Vec::new();
        let mut namespaces = self.from.clone();
        if namespaces.is_empty() {
            if let Ok(all) = self.pods(None).await.map_err(|fault| vec![fault])? {
                pods = all;
            } else {
                namespaces.insert(self.namespace.clone());
                notes.push(format!(
                    "clients of other namespaces than {} are not looked at: you may not list pods in all namespaces, and --from names others",
                    self.namespace
                ));
            }
        }
        for namespace in &namespaces {
            match self.pods(Some(namespace)).await {
                Ok(Ok(some)) => pods.extend(some),
                Ok(Err(said)) => faults.push(Reader::forbidden(&said, "pods", namespace)),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        pods.sort_by_key(|proxy| (proxy.namespace != self.namespace, proxy.clone()));
        if pods.len() > self.most {
            notes.push(format!(
                "of {} proxies {} are read: --from says whose, --max-proxies how many",
                pods.len(),
                self.most
            ));
            pods.truncate(self.most);
        }
        Ok(Found { proxies: pods, notes })
    }

    /// The proxies of a namespace, or of all; what the API server says if that is forbidden.
    ///
    /// # Errors
    /// What else went wrong.
    async fn pods(&self, namespace: Option<&str>) -> Result<Result<Vec<Proxy>, String>, String> {
        let client = self.reader.client.clone();
        let api: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let which = ListParams::default().labels(INJECTED_LABEL).fields("status.phase=Running");
        let listed = timeout(DEADLINE, api.list_metadata(&which)).await.map_err(|_| self.reader.silent())?;
        let pods: ObjectList<PartialObjectMeta<Pod>> = match listed {
            Ok(pods) => pods,
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(Err(status.message.clone())),
            Err(error) => return Err(self.reader.explain(&error, "pods", namespace.unwrap_or(&self.namespace))),
        };
        Ok(Ok(pods.items.iter().filter_map(|pod| proxy_of(&pod.metadata)).collect()))
    }
}

/// The proxy that the injector gave a pod, unless it is on its way out.
pub(in crate::cli) fn proxy_of(pod: &ObjectMeta) -> Option<Proxy> {
    let is_injected = pod.annotations.as_ref().is_some_and(|all| all.contains_key(INJECTED));
    (is_injected && pod.deletion_timestamp.is_none()).then(|| Proxy {
        namespace: pod.namespace.clone().unwrap_or_default(),
        pod: pod.name.clone().unwrap_or_default(),
        workload: pod.labels.as_ref().and_then(|labels| labels.get(INJECTED_LABEL)).cloned(),
    })
}

/// Reads a proxy, by the way that is open or by a new one, and gives back the way.
async fn read_one(
    reader: &Reader,
    proxy: &Proxy,
    link: Option<Link>,
    wanted: &Wanted,
) -> (Option<Link>, Result<Sample, String>) {
    if let Some(mut link) = link {
        // A way that was open may have been closed since; a new one tells what is wrong.
        if let Ok(Ok(sample)) = timeout(DEADLINE, sample(&mut link, wanted)).await {
            return (Some(link), Ok(sample));
        }
    }
    let mut link = match timeout(DEADLINE, open(reader, proxy)).await {
        Ok(Ok(link)) => link,
        Ok(Err(why)) => return (None, Err(why)),
        Err(_) => return (None, Err(reader.silent())),
    };
    match timeout(DEADLINE, sample(&mut link, wanted)).await {
        Ok(Ok(sample)) => (Some(link), Ok(sample)),
        Ok(Err(error)) => (None, Err(format!("its admin interface does not answer ({error:#})"))),
        Err(_) => (None, Err(format!("its admin interface did not answer within {} s", DEADLINE.as_secs()))),
    }
}

/// Opens a way to the admin interface of a proxy.
///
/// # Errors
/// Why there is none, and what to do.
pub(in crate::cli) async fn open(reader: &Reader, proxy: &Proxy) -> Result<Link, String> {
    let Proxy { namespace, pod, .. } = proxy;
    let api: Api<Pod> = Api::namespaced(reader.client.clone(), namespace);
    let mut forwarder = api.portforward(pod, &[ADMIN]).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "{}: ask for the rights to get and create pods/portforward in namespace {namespace}; `kubectl auth can-i create pods/portforward -n {namespace}` tells when you have them",
            status.message
        ),
        kube::Error::Api(status) => status.message.clone(),
        other => format!("the API server forwards no port to it ({other})"),
    })?;
    let stream = forwarder.take_stream(ADMIN).ok_or("the API server forwards no port to it")?;
    let (link, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("its admin interface does not answer ({error})"))?;
    tokio::spawn(async move {
        // How it ended, whoever asks next is told.
        let _ended = connection.await;
        forwarder.abort();
    });
    Ok(link)
}

async fn sample(link: &mut Link, wanted: &Wanted) -> anyhow::Result<Sample> {
    let clusters = get(link, "/clusters", &[]).await?;
    let stats = get(link, "/stats", &[("filter", &wanted.stats_filter())]).await?;
    let mut sample = Sample::read(&clusters, &stats, wanted);
    if sample.ejects() {
        let query = [("resource", "dynamic_active_clusters"), ("name_regex", &wanted.name_regex())];
        let dump = get(link, "/config_dump", &query).await?;
        sample.add_ejection_times(&serde_json::from_str(&dump)?);
    }
    Ok(sample)
}

/// What the admin interface answers.
///
/// # Errors
/// If it does not.
pub(in crate::cli) async fn get(link: &mut Link, path: &str, query: &[(&str, &str)]) -> anyhow::Result<String> {
    let query = Serializer::new(String::new()).extend_pairs(query).finish();
    let request = Request::get(format!("{path}?{query}")).header(header::HOST, "localhost").body(Empty::new())?;
    link.ready().await?;
    let answer = link.send_request(request).await?;
    anyhow::ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| anyhow::anyhow!(error))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
