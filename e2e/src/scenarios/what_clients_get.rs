//! Random neighbourhoods, those of `tests/judged`, on a real cluster: what `explain --client` says that a
//! client gets is what the client's Envoy was told.
//!
//! Of exclusions in Sidecars (`~`) only the oracle judges: they could hide the fences.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::judged;
use super::stage::SOON;
use crate::checkout::Checkout;
use crate::config_dump::ConfigDump;
use crate::images;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::run::{check, finish};
use crate::wait::{Seen, until_true};

/// How many neighbourhoods are applied.
const COUNT: usize = 30;
/// Namespaces of the Services and of the clients; those of `tests/judged/worlds.rs`.
const NAMESPACES: [&str; 3] = ["server", "client", "other"];
/// Istio's root namespace.
const ROOT: &str = "istio-system";
/// Where the Service of the fences is, of which no neighbourhood speaks.
const FENCES: &str = "fences";
/// Its port, of which none speaks either.
const FENCE_PORT: u16 = 9000;
/// HTTP by its name, and sniffed.
const PORTS: [u16; 2] = [80, 81];
/// Namespace, name, and labels beside `app`.
type Client = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
/// Those who ask.
const CLIENTS: [Client; 4] = [
    ("client", "fortio", &[("version", "v1")]),
    ("client", "plain", &[]),
    ("server", "httpbin", &[]),
    ("other", "fortio", &[]),
];
/// Services that are asked about.
const SERVICES: [(&str, &str); 3] = [("httpbin", "server"), ("mysql", "server"), ("httpbin", "client")];
/// Of every object that is written for a neighbourhood.
const LABEL: &str = "lab/neighbourhood";

/// On thirty neighbourhoods.
///
/// # Errors
/// With the neighbourhood, the client, what `explain` says and what the Envoy has.
pub fn explain_and_envoys_agree(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    judged::serve_policies(checkout, &lab)?;
    let judged = judged::build(checkout)?;
    // Cargo builds the program beside the tests of its package.
    let program = judged.ancestors().nth(2).context("the tests are in no folder")?.join("resilience-operator");
    let worlds = draw(checkout, &judged)?;
    let mesh = lab.kubectl().json(&["get", "configmap", "istio", "-n", ROOT])?;
    let mesh = mesh.pointer("/data/mesh").and_then(Value::as_str).context("the mesh has no configuration")?.to_owned();
    let play = Play { kubectl: lab.kubectl().clone(), program: &program, mesh };
    let result = play.set().and_then(|()| play.all(&worlds));
    play.strike().and(result)
}

/// The first worlds of a seed that no exclusion is in.
fn draw(checkout: &Checkout, judged: &Path) -> Result<Vec<Vec<Value>>> {
    let file = checkout.state().join("neighbourhoods.jsonl");
    let mut command = Command::new(judged);
    command.env("JUDGED_WORLDS", &file).args(["--nocapture", "--ignored", "worlds::writes_neighbourhoods"]);
    let printed = check(&mut command)?;
    for line in printed.lines().filter(|line| line.contains("JUDGED_SEED")) {
        eprintln!("            {line}");
    }
    let text = fs::read_to_string(&file).with_context(|| format!("{} was not written", file.display()))?;
    fs::remove_file(&file)?;
    let fits = text.lines().filter(|line| !line.contains("\"~"));
    let worlds: Vec<Vec<Value>> = fits.take(COUNT).map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(worlds.len() == COUNT, "only {} neighbourhoods were drawn", worlds.len());
    Ok(worlds)
}

struct Play<'a> {
    kubectl: Kubectl,
    program: &'a Path,
    /// The mesh's configuration as it was.
    mesh: String,
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    written: usize,
    refused: usize,
    answers: usize,
    unseen: usize,
    ruled: usize,
    routed: usize,
    unobserved: usize,
}

impl Play<'_> {
    /// Namespaces, Services without endpoints, and clients behind sidecars.
    fn set(&self) -> Result<()> {
        let mut objects = Vec::new();
        for namespace in NAMESPACES.into_iter().chain([FENCES]) {
            objects.push(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": {"istio-injection": "enabled"}},
            }));
        }
        let ports = json!([{"name": "http", "port": 80}, {"name": "web", "port": 81}, {"name": "tcp", "port": 82}]);
        for (name, namespace) in SERVICES {
            objects.push(service(name, namespace, &ports));
        }
        objects.push(service("fence", FENCES, &json!([{"name": "http", "port": FENCE_PORT}])));
        objects.extend(CLIENTS.iter().map(|(namespace, name, labels)| client(namespace, name, labels)));
        self.kubectl.apply(&list(&objects))?;
        CLIENTS.iter().try_for_each(|(namespace, name, _)| {
            self.kubectl.namespace(namespace).rolled_out(&format!("deployment/{name}"), Duration::from_mins(3))
        })
    }

    fn all(&self, worlds: &[Vec<Value>]) -> Result<()> {
        let mut tally = Tally::default();
        for (number, world) in worlds.iter().enumerate() {
            let fence = u32::try_from(number + 1)?;
            self.write(world, fence, &mut tally)
                .and_then(|()| self.judge(&mut tally))
                .with_context(|| format!("neighbourhood {number}: {}", json!(world)))?;
            self.sweep()?;
        }
        eprintln!("            {COUNT} neighbourhoods: {tally:?}");
        ensure!(tally.answers == COUNT * CLIENTS.len() * SERVICES.len(), "not every client was asked");
        ensure!(tally.ruled > COUNT && tally.routed > COUNT, "too few rules and routes to prove anything: {tally:?}");
        Ok(())
    }

    /// The older first, each age in a second of its own; what Istio's webhook refuses is left out.
    fn write(&self, world: &[Value], fence: u32, tally: &mut Tally) -> Result<()> {
        let age =
            |object: &Value| object.pointer("/metadata/creationTimestamp").and_then(Value::as_str).map(str::to_owned);
        let ages: BTreeSet<Option<String>> = world.iter().map(age).collect();
        for one in ages {
            for object in world.iter().filter(|object| age(object) == one) {
                let mut object = object.clone();
                object["metadata"]["creationTimestamp"].take();
                object["metadata"]["labels"] = json!({LABEL: "yes"});
                if object["kind"] == "Sidecar" {
                    see_fences(&mut object);
                }
                let answer = self.kubectl.try_apply(&object.to_string())?;
                *(if answer.status.success() { &mut tally.written } else { &mut tally.refused }) += 1;
            }
            let second = now()?;
            until_true("another second begins", SOON, || Ok(now()? > second))?;
        }
        // Written last, and exact, private and of the client's own namespace: nothing comes before them.
        let host = format!("fence.{FENCES}.svc.cluster.local");
        let redirect = json!([{"redirect": {"authority": format!("fence-{fence}.invalid")}}]);
        let fences = NAMESPACES.iter().flat_map(|namespace| {
            [
                istio("VirtualService", namespace, &json!({"hosts": [host], "exportTo": ["."], "http": redirect})),
                istio(
                    "DestinationRule",
                    namespace,
                    &json!({
                        "host": host, "exportTo": ["."],
                        "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": fence}}},
                    }),
                ),
            ]
        });
        self.kubectl.apply(&list(&fences.collect::<Vec<_>>()))?;
        // istiod does not tell a proxy of a rule that is not exported to it, although one hides a wildcard that
        // is (`SidecarScope.DependsOnConfig`): until all is sent anew, the Envoy keeps the hidden one.
        let timeout = format!("{}s", 10 + fence);
        self.mesh(&format!("{}\nconnectTimeout: {timeout}\n", self.mesh.trim_end()))?;
        CLIENTS.iter().try_for_each(|(namespace, name, _)| {
            let what = format!("{namespace}/{name} has what was written");
            self.kubectl.namespace(namespace).until(&what, SOON, |kubectl| {
                let dump = ConfigDump::of(kubectl, &format!("deploy/{name}"))?;
                let cluster = dump.cluster(&format!("outbound|{FENCE_PORT}||{host}"));
                let limit = cluster.and_then(|one| one.pointer("/circuit_breakers/thresholds/0/max_connections"));
                let routes = dump.virtual_host(FENCE_PORT, &host);
                let to = routes.and_then(|one| one.pointer("/routes/0/redirect/host_redirect"));
                let anew = cluster.and_then(|one| one.get("connect_timeout"));
                let done = limit == Some(&json!(fence))
                    && to == Some(&json!(format!("fence-{fence}.invalid")))
                    && anew == Some(&json!(timeout));
                Ok(if done { Seen::Done(()) } else { Seen::NotYet(format!("{limit:?}, {to:?}, {anew:?}")) })
            })
        })
    }

    fn judge(&self, tally: &mut Tally) -> Result<()> {
        for (namespace, name, _) in CLIENTS {
            let dump = ConfigDump::of(&self.kubectl.namespace(namespace), &format!("deploy/{name}"))?;
            for (service, of) in SERVICES {
                let page = self.explain(service, of, &format!("{namespace}/{name}"))?;
                let (said, held) = (said(&page), held(&dump, service, of, &page));
                ensure!(
                    said == held,
                    "{namespace}/{name} calling {service}.{of}:\nexplain: {said}\nEnvoy:   {held}\n{page}"
                );
                count(&page, tally);
            }
        }
        Ok(())
    }

    fn explain(&self, service: &str, namespace: &str, client: &str) -> Result<Value> {
        let mut command = self.kubectl.inside(self.program.to_str().context("the path is no text")?)?;
        command.args(["explain", &format!("svc/{service}"), "-n", namespace, "--client", client, "-o", "json"]);
        let finished = finish(&mut command)?;
        ensure!(finished.status.success(), "explain fails: {}", finished.all());
        serde_json::from_str(&finished.stdout).with_context(|| format!("explain printed no JSON: {}", finished.all()))
    }

    fn sweep(&self) -> Result<()> {
        let kinds = "virtualservices,destinationrules,sidecars.networking.istio.io";
        self.kubectl.run(&["delete", kinds, "--all-namespaces", "--selector", LABEL, "--wait"]).map(drop)
    }

    /// A change of it makes istiod send everything to everybody.
    fn mesh(&self, text: &str) -> Result<()> {
        let patch = json!({"data": {"mesh": text}}).to_string();
        self.kubectl.run(&["patch", "configmap", "istio", "-n", ROOT, "--type=merge", "-p", &patch]).map(drop)
    }

    fn strike(&self) -> Result<()> {
        self.sweep()?;
        self.mesh(&self.mesh)?;
        let all = NAMESPACES.into_iter().chain([FENCES]);
        let names: Vec<&str> = all.collect();
        let command = [&["delete", "namespace", "--ignore-not-found", "--wait=false"], names.as_slice()].concat();
        self.kubectl.run(&command).map(drop)
    }
}

/// What `explain` says of each port, as far as an Envoy tells it: the first of the rules that are merged, the
/// limit of the one whose traffic policy counts, and whose the routes are.
fn said(page: &Value) -> Value {
    let rule = page.pointer("/destinationRules/0").cloned().unwrap_or_default();
    let ports = page.pointer("/client/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let told = ports.iter().map(|port| {
        let routes = if port["observed"] == true { port["virtualService"].clone() } else { json!("not observed") };
        json!({"port": port["port"], "rule": rule, "routes": routes})
    });
    told.collect()
}

/// The same as the Envoy has it.
fn held(dump: &ConfigDump, service: &str, namespace: &str, page: &Value) -> Value {
    let host = format!("{service}.{namespace}.svc.cluster.local");
    let unobserved = |port: u16| {
        let ports = page.pointer("/client/ports").and_then(Value::as_array);
        ports.into_iter().flatten().any(|one| one["port"] == port && one["observed"] == false)
    };
    let told = PORTS.iter().filter_map(|port| {
        let cluster = dump.cluster(&format!("outbound|{port}||{host}"))?;
        let domain = if *port == 81 { "*" } else { host.as_str() };
        let routes = if unobserved(*port) {
            json!("not observed")
        } else {
            virtual_host(dump, *port, &host, domain).map_or(Value::Null, |one| owner(&one["routes"][0]))
        };
        Some(json!({"port": port, "rule": owner(cluster), "routes": routes}))
    });
    told.collect()
}

/// A sniffed port has a table for each host.
fn virtual_host<'a>(dump: &'a ConfigDump, port: u16, host: &str, domain: &str) -> Option<&'a Value> {
    if domain == "*" {
        let table = dump.routes().iter().find(|table| table["name"] == format!("{host}:{port}"))?;
        return table.pointer("/virtual_hosts/0");
    }
    dump.virtual_host(port, domain)
}

/// Namespace and name of the object that Istio wrote into the metadata; null: none.
fn owner(of: &Value) -> Value {
    let config = of.pointer("/metadata/filter_metadata/istio/config").and_then(Value::as_str).unwrap_or_default();
    let mut parts = config.rsplit('/');
    let (name, _kind, namespace) = (parts.next(), parts.next(), parts.next());
    match (namespace, name) {
        (Some(namespace), Some(name)) => json!(format!("{namespace}/{name}")),
        _ => Value::Null,
    }
}

fn count(page: &Value, tally: &mut Tally) {
    tally.answers += 1;
    tally.unseen += usize::from(page.pointer("/client/seesHost") == Some(&json!(false)));
    tally.ruled += usize::from(page.pointer("/destinationRules/0").is_some());
    tally.routed += usize::from(page.pointer("/virtualServices/0").is_some());
    let ports = page.pointer("/client/ports").and_then(Value::as_array);
    tally.unobserved += ports.into_iter().flatten().filter(|port| port["observed"] == false).count();
}

/// The catch-all listener of a Sidecar that imports little imports the fences as well.
fn see_fences(sidecar: &mut Value) {
    for listener in sidecar.pointer_mut("/spec/egress").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(hosts) = listener.get_mut("hosts").and_then(Value::as_array_mut) {
            let fence = format!("fence.{FENCES}.svc.cluster.local");
            hosts.extend([json!(format!("{FENCES}/{fence}")), json!(format!("./{fence}"))]);
        }
    }
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

fn istio(kind: &str, namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": {"name": "fence", "namespace": namespace}, "spec": spec,
    })
}

fn service(name: &str, namespace: &str, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": ports, "selector": {"app": "nobody"}},
    })
}

/// A pod that does nothing, behind a sidecar that is told everything.
fn client(namespace: &str, name: &str, more: &[(&str, &str)]) -> Value {
    let mut labels = json!({"app": name});
    for (key, value) in more {
        labels[*key] = json!(value);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "pause", "image": images::PAUSE}], "terminationGracePeriodSeconds": 0},
            },
        },
    })
}
