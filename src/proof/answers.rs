//! istiod's answers as plain data, read so leniently that no field of a newer Istio stops us.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::observed::proxies::{Cluster, Proxy, Routes, Told};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// A proxy that is connected to an istiod, and what it said to its last configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// `POD.NAMESPACE`.
    pub name: String,
    /// Its connection, `POD.NAMESPACE-NUMBER`: what it is asked for by. istiod takes the first connection that has
    /// the text anywhere, and the name of one proxy may be a part of another's.
    pub connection: String,
    /// Whether it is a gateway.
    pub is_gateway: bool,
    /// Of its clusters.
    pub clusters: Told,
    /// Of its routes.
    pub routes: Told,
}

/// One entry of `/debug/syncz` (istio `pilot/pkg/xds/debug.go`, `SyncStatus`).
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    proxy: String,
    #[serde(default)]
    proxy_type: String,
    #[serde(default)]
    resources: Value,
}

/// `/debug/connections` (`AdsClients`).
#[derive(Deserialize)]
struct Connections {
    #[serde(default)]
    clients: Vec<Connection>,
}

#[derive(Deserialize)]
struct Connection {
    #[serde(default, rename = "connectionId")]
    id: String,
}

/// The sidecars and gateways of `/debug/syncz`, of which `/debug/connections`, asked after it, still knows.
/// Others, as the proxies of nodes, hold no such clusters.
pub fn connected(syncz: &[u8], connections: &[u8]) -> serde_json::Result<Vec<Connected>> {
    let entries: Vec<Entry> = serde_json::from_slice(syncz)?;
    let connections: Connections = serde_json::from_slice(connections)?;
    let named = connections.clients.into_iter().filter_map(|one| {
        let (name, number) = one.id.rsplit_once('-')?;
        Some(((name.to_owned(), number.parse::<u64>().ok()?), one.id))
    });
    // Of several of one proxy the last is the living one.
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for ((name, _), id) in named.collect::<BTreeMap<_, _>>() {
        ids.insert(name, id);
    }
    let known = entries
        .into_iter()
        .filter(|entry| !entry.proxy.is_empty() && ["sidecar", "router"].contains(&entry.proxy_type.as_str()));
    let proxies = known.filter_map(|entry| {
        let connection = ids.remove(&entry.proxy)?;
        let told = |kind: &str| {
            let word = |word: &str| {
                let value = entry.resources.get(kind).and_then(|resource| resource.get(word));
                value.and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            Told { sent: word("sent"), acknowledged: word("acked"), refusal: word("lastError") }
        };
        Some(Connected {
            connection,
            is_gateway: entry.proxy_type == "router",
            clusters: told(CLUSTERS),
            routes: told(ROUTES),
            name: entry.proxy,
        })
    });
    Ok(proxies.collect())
}

/// Of `/debug/config_dump?types=cds,rds` what concerns the hosts that are wanted. One configuration after the
/// other is looked at and forgotten: all of them together are as large as the mesh.
pub fn generated(body: &[u8], proxy: &Connected, wanted: &BTreeSet<&str>) -> serde_json::Result<Proxy> {
    let mut found = Proxy { name: proxy.name.clone(), is_gateway: proxy.is_gateway, ..Proxy::default() };
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader.deserialize_map(Dump(|config: &Value| {
        let kind = config.get("@type").and_then(Value::as_str);
        if kind == Some(CLUSTERS) {
            found.clusters.extend(Cluster::read(config).filter(|cluster| wanted.contains(cluster.host.as_str())));
        } else if kind == Some(ROUTES) {
            found.routes.extend(Routes::read(config, |host| wanted.contains(host)));
        }
    }))?;
    Ok(found)
}

/// Hands over each of `configs`.
struct Dump<F>(F);

impl<'de, F: FnMut(&Value)> Visitor<'de> for Dump<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dump of configurations")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "configs" {
                map.next_value_seed(Each(&mut self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Each<'a, F>(&'a mut F);

impl<'de, F: FnMut(&Value)> serde::de::DeserializeSeed<'de> for Each<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&Value)> Visitor<'de> for Each<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of configurations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(config) = list.next_element::<Value>()? {
            (self.0)(&config);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_and_gateways_are_told_with_what_they_acknowledged() {
        let body = json!([
            {"proxy": "a.ns", "proxy_type": "sidecar", "of": "tomorrow",
             "resources": {CLUSTERS: {"sent": "2", "acked": "1", "lastError": "bad"}, ROUTES: {"sent": "1", "acked": "1"}}},
            {"proxy": "gw.ns", "proxy_type": "router"},
            {"proxy": "left.ns", "proxy_type": "sidecar"},
            {"proxy": "node.ns", "proxy_type": "ztunnel"},
            {},
        ]);
        let connections = br#"{"clients": [{"connectionId": "a.ns-12"}, {"connectionId": "a.ns-9"},
            {"connectionId": "gw.ns-3"}, {"connectionId": "other"}]}"#;
        let read = connected(body.to_string().as_bytes(), connections).unwrap();
        let names: Vec<_> = read.iter().map(|one| (one.connection.as_str(), one.is_gateway)).collect();
        assert_eq!(names, [("a.ns-12", false), ("gw.ns-3", true)]);
        assert_eq!(read[0].clusters.refusal, "bad");
        assert!(read[0].routes.is_acknowledged() && !read[1].clusters.is_acknowledged());
    }

    #[test]
    fn of_a_dump_only_what_is_wanted_is_kept() {
        let cluster = |host: &str| json!({"@type": CLUSTERS, "name": format!("outbound|80||{host}")});
        let body = json!({"configs": [cluster("web.ns"), cluster("other.ns"), {"@type": "of tomorrow"}], "more": 1});
        let syncz = br#"[{"proxy": "a.ns", "proxy_type": "sidecar"}]"#;
        let proxy = &connected(syncz, br#"{"clients": [{"connectionId": "a.ns-1"}]}"#).unwrap()[0];
        let read = generated(body.to_string().as_bytes(), proxy, &BTreeSet::from(["web.ns"])).unwrap();
        assert_eq!(read.clusters.iter().map(|one| one.host.as_str()).collect::<Vec<_>>(), ["web.ns"]);
        assert!(generated(b"{", proxy, &BTreeSet::new()).is_err());
    }
}
