//! What proxies say of a host, each read by the way that `top` goes.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use serde_json::Value;
use tokio::time::timeout;

use super::super::{
    live::{DEADLINE, Reader},
    top::proxies::{AT_A_TIME, Link, get, open},
};
use crate::{
    top::{Proxy, Sample, Wanted, inbound},
    why::{Configured, Snapshot, requests, route_tables},
};

/// A proxy, and what it said or why it said nothing.
#[derive(Clone)]
pub(super) struct Looked {
    pub proxy: Proxy,
    pub said: Result<Snapshot, String>,
}

/// One reading of all.
pub(super) struct Round {
    pub clients: Vec<Looked>,
    pub servers: Vec<Looked>,
}

/// Reads proxies, and keeps the ways to them open.
pub(super) struct Reads {
    reader: Reader,
    host: String,
    wanted: Wanted,
    tables: String,
    links: BTreeMap<Proxy, Link>,
}

impl Reads {
    pub fn new(reader: Reader, host: String, ports: Vec<u16>) -> Self {
        let (wanted, tables) = (Wanted::Host(host.clone()), route_tables(&host, ports));
        Self { reader, host, wanted, tables, links: BTreeMap::new() }
    }

    /// Reads each once, also who is client and server.
    pub async fn read(&mut self, clients: &[Proxy], servers: &[Proxy]) -> Round {
        let mut all: Vec<Proxy> = clients.iter().chain(servers).cloned().collect();
        all.sort();
        all.dedup();
        let work: Vec<_> = all.into_iter().map(|proxy| (self.links.remove(&proxy), proxy)).collect();
        let this = &*self;
        let read = work.into_iter().map(async |(link, proxy)| {
            let (link, said) = this.one(&proxy, link).await;
            (link, Looked { proxy, said })
        });
        let read: Vec<_> = stream::iter(read).buffer_unordered(AT_A_TIME).collect().await;
        let mut by_proxy = BTreeMap::new();
        for (link, looked) in read {
            if let Some(link) = link {
                self.links.insert(looked.proxy.clone(), link);
            }
            by_proxy.insert(looked.proxy.clone(), looked);
        }
        let of = |some: &[Proxy]| some.iter().filter_map(|proxy| by_proxy.get(proxy).cloned()).collect();
        Round { clients: of(clients), servers: of(servers) }
    }

    /// By the way that is open or by a new one; gives back the way.
    async fn one(&self, proxy: &Proxy, link: Option<Link>) -> (Option<Link>, Result<Snapshot, String>) {
        if let Some(mut link) = link
            && let Ok(Ok(said)) = timeout(DEADLINE, self.snapshot(&mut link)).await
        {
            return (Some(link), Ok(said));
        }
        let mut link = match timeout(DEADLINE, open(&self.reader, proxy)).await {
            Ok(Ok(link)) => link,
            Ok(Err(why)) => return (None, Err(why)),
            Err(_) => return (None, Err(self.reader.silent())),
        };
        match timeout(DEADLINE, self.snapshot(&mut link)).await {
            Ok(Ok(said)) => (Some(link), Ok(said)),
            Ok(Err(error)) => (None, Err(format!("its admin interface does not answer ({error:#})"))),
            Err(_) => (None, Err(format!("its admin interface did not answer within {} s", DEADLINE.as_secs()))),
        }
    }

    async fn snapshot(&self, link: &mut Link) -> anyhow::Result<Snapshot> {
        let clusters = get(link, "/clusters", &[]).await?;
        let stats = get(link, "/stats", &[("filter", &self.wanted.stats_filter_of_both_sides())]).await?;
        let metric = get(link, "/stats/prometheus", &[("filter", "istio_requests_total")]).await?;
        let dump = async |link: &mut Link, resource: &str, names: &str| -> anyhow::Result<Value> {
            let dump = get(link, "/config_dump", &[("resource", resource), ("name_regex", names)]).await?;
            Ok(serde_json::from_str(&dump)?)
        };
        let of_clusters = dump(link, "dynamic_active_clusters", &self.wanted.name_regex()).await?;
        let of_routes = dump(link, "dynamic_route_configs", &self.tables).await?;
        Ok(Snapshot {
            outbound: Sample::read(&clusters, &stats, &self.wanted).clusters,
            inbound: inbound(&clusters, &stats),
            requests: requests(&metric, &self.host),
            configured: Configured::read(&of_clusters, &of_routes, &clusters, &self.host),
        })
    }
}
