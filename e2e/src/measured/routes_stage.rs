//! In: a lab. Out: clients and servers behind sidecars, Istio objects written by hand and in force, answers
//! and tries counted: what the claims on retries, routes and faults have in common.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::config_dump::ConfigDump;
use crate::envoy::Stats;
use crate::fortio::{Answers, load};
use crate::images;
use crate::kubectl::Kubectl;
use crate::wait::Seen;
use crate::workloads::with_images;

/// Long enough for a busy machine; nothing waits so long when it is right.
pub(super) const SOON: Duration = Duration::from_mins(1);
/// The first port of every Service here.
pub(super) const PORT: u16 = 8000;
/// The container port of `httpbin`, and of the first container of `two`.
pub(super) const CONTAINER_PORT: u16 = 8080;

/// The client in `kubectl`'s namespace, or in another.
const CLIENT: &str = "deploy/fortio";
/// Envoy's «no limit».
const UNLIMITED: u64 = 4_294_967_295;

/// Servers and a client in one namespace, a client in another.
pub(super) struct Stage {
    /// Of the servers, and of a client.
    pub kubectl: Kubectl,
    /// Of another client, where there is one.
    pub away: Option<Kubectl>,
    /// Whether `HTTPRoutes` exist.
    pub gateway_api: bool,
    fences: Cell<u32>,
}

/// What some calls gave, and what the Envoys beside client and server counted meanwhile.
#[derive(Debug)]
pub(super) struct Counted<T> {
    pub value: T,
    pub client: Stats,
    pub server: Stats,
}

impl Stage {
    /// Starts the servers and their client in this namespace, and a second client in `away`.
    pub(super) fn set(checkout: &Checkout, kubectl: &Kubectl, away: Option<&Kubectl>) -> Result<Self> {
        let demo = with_images(&manifest(checkout, "demo.yaml")?);
        let more = with_images(&manifest(checkout, "measured-routes.yaml")?);
        kubectl.apply(&documents(&demo, &["name: httpbin,", "name: fortio,"], kubectl.current_namespace()))?;
        kubectl.apply(&more)?;
        if let Some(away) = away {
            away.apply(&documents(&demo, &["name: fortio,"], away.current_namespace()))?;
        }
        for workload in ["httpbin", "fortio", "two", "plain"] {
            kubectl.rolled_out(&format!("deployment/{workload}"), Duration::from_mins(2))?;
        }
        let stage = Self { kubectl: kubectl.clone(), away: away.cloned(), gateway_api: false, fences: Cell::default() };
        for client in stage.clients() {
            client.rolled_out("deployment/fortio", Duration::from_mins(2))?;
            // Available pods are not yet known to every proxy.
            for (service, port) in [("httpbin", PORT), ("two", PORT), ("two", 8001)] {
                client.until(&format!("{service}:{port} answers"), SOON, |client| {
                    let answers = load(client, &stage.url(service, port, "/get"), 1, 1)?;
                    Ok(if answers.status(200) == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
                })?;
            }
        }
        Ok(stage)
    }

    fn clients(&self) -> impl Iterator<Item = &Kubectl> {
        std::iter::once(&self.kubectl).chain(&self.away)
    }

    /// The second client's namespace.
    pub(super) fn away(&self) -> Result<&Kubectl> {
        self.away.as_ref().context("this stage has one client only")
    }

    /// The FQDN of a Service of the servers' namespace.
    pub(super) fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.kubectl.current_namespace())
    }

    /// An address that both clients know.
    pub(super) fn url(&self, service: &str, port: u16, path: &str) -> String {
        format!("http://{service}.{}:{port}{path}", self.kubectl.current_namespace())
    }

    /// A VirtualService for a Service of the servers' namespace, wherever it is written.
    pub(super) fn virtual_service(&self, name: &str, service: &str, http: &Value) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name}, "spec": {"hosts": [self.host(service)], "http": http},
        })
    }

    /// A DestinationRule for a Service of the servers' namespace.
    pub(super) fn destination_rule(&self, service: &str, spec: &Value) -> Value {
        let mut spec = spec.clone();
        spec["host"] = json!(self.host(service));
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": service}, "spec": spec,
        })
    }

    /// A VirtualService with a route for each case, chosen by `?case=NAME` and named so.
    pub(super) fn cases(&self, service: &str, cases: &[(&str, Value)]) -> Value {
        let routes: Vec<Value> = cases
            .iter()
            .map(|(name, settings)| {
                let mut route = settings.clone();
                route["name"] = json!(name);
                route["match"] = json!([{"queryParams": {"case": {"exact": name}}}]);
                route["route"] = self.to(service);
                route
            })
            .collect();
        self.virtual_service(service, service, &json!(routes))
    }

    /// The `route` of a VirtualService to the first port of a Service.
    pub(super) fn to(&self, service: &str) -> Value {
        json!([{"destination": {"host": self.host(service), "port": {"number": PORT}}}])
    }

    /// Writes objects into the servers' namespace, and waits until every client has them.
    pub(super) fn write(&self, objects: &[Value]) -> Result<()> {
        self.kubectl.apply(&list(objects))?;
        self.settle()
    }

    /// What the API server, with Istio's webhook, says on an object that it must refuse.
    pub(super) fn refusal(&self, object: &Value) -> Result<String> {
        let answer = self.kubectl.try_apply(&object.to_string())?;
        ensure!(!answer.status.success(), "the API server took what it should refuse: {}", object["spec"]);
        Ok(answer.all())
    }

    /// Waits until every client's Envoy has what was written so far: istiod takes the objects of each kind in
    /// the order in which they were written, so one that is written last and seen proves those before it.
    pub(super) fn settle(&self) -> Result<()> {
        self.settle_within(SOON)
    }

    /// As [`Stage::settle`], with more patience.
    pub(super) fn settle_within(&self, limit: Duration) -> Result<()> {
        let fence = self.fences.get() + 1;
        self.fences.set(fence);
        let redirected = format!("fence-{fence}.invalid");
        let mut objects = vec![
            self.virtual_service("fence", "fence", &json!([{"redirect": {"authority": redirected}}])),
            self.destination_rule("fence", &pool(&json!({"tcp": {"maxConnections": fence}}))),
        ];
        if self.gateway_api {
            let rule = json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": redirected}}]});
            objects.push(http_route("gateway-fence", "gateway-fence", self.kubectl.current_namespace(), &rule));
        }
        self.kubectl.apply(&list(&objects))?;
        let cluster = format!("outbound|{PORT}||{}", self.host("fence"));
        for client in self.clients() {
            client.until(
                &format!("the client of {} has what was written", client.current_namespace()),
                limit,
                |_| {
                    let dump = ConfigDump::of(client, CLIENT)?;
                    let there = |service: &str| {
                        let host = dump.virtual_host(PORT, &self.host(service));
                        host.and_then(|host| host.pointer("/routes/0/redirect/host_redirect")).cloned()
                    };
                    let routes = [Some(there("fence")), self.gateway_api.then(|| there("gateway-fence"))];
                    let limit = threshold(dump.cluster(&cluster), "max_connections");
                    let warming: Vec<&str> = dump.warming().collect();
                    let done = routes.iter().flatten().all(|route| route.as_ref() == Some(&json!(redirected)));
                    let seen = format!("routes of the fences {routes:?}, their limit {limit:?}, warming {warming:?}");
                    Ok(if done && limit == Some(fence.into()) && warming.is_empty() {
                        Seen::Done(())
                    } else {
                        Seen::NotYet(seen)
                    })
                },
            )?;
        }
        Ok(())
    }

    /// Takes back every Istio object, and waits until no client has one.
    pub(super) fn sweep(&self) -> Result<()> {
        let kinds = if self.gateway_api { format!("{KINDS},httproutes") } else { KINDS.to_owned() };
        let mut gone = String::new();
        for client in self.clients() {
            gone += &client.run(&["delete", &kinds, "--all", "--wait"])?;
        }
        if gone.contains("sidecar.networking.istio.io") {
            self.until_server_admits(UNLIMITED)?;
        }
        self.settle()
    }

    /// Limits what `httpbin`'s own sidecar lets in at once, and waits until it does.
    pub(super) fn limit_server(&self, requests: u64) -> Result<()> {
        self.kubectl.apply(
            &json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
                "metadata": {"name": "httpbin"},
                "spec": {
                    "workloadSelector": {"labels": {"app": "httpbin"}},
                    "inboundConnectionPool": {"http": {"http2MaxRequests": requests}},
                },
            })
            .to_string(),
        )?;
        self.until_server_admits(requests)
    }

    fn until_server_admits(&self, requests: u64) -> Result<()> {
        self.kubectl.until(&format!("the server's Envoy admits {requests} requests at once"), SOON, |kubectl| {
            let dump = ConfigDump::of(kubectl, "deploy/httpbin")?;
            let limit = threshold(dump.cluster(&format!("inbound|{CONTAINER_PORT}||")), "max_requests");
            Ok(if limit == Some(requests) { Seen::Done(()) } else { Seen::NotYet(format!("{limit:?}")) })
        })
    }

    /// What the client beside the servers was told.
    pub(super) fn client(&self) -> Result<ConfigDump> {
        ConfigDump::of(&self.kubectl, CLIENT)
    }

    /// The client's routes to a Service that have these names.
    pub(super) fn routes<const N: usize>(&self, service: &str, names: [&str; N]) -> Result<[Value; N]> {
        let dump = self.client()?;
        let host = dump.virtual_host(PORT, &self.host(service)).context("the client has no routes to the Service")?;
        let routes: Vec<Value> = names
            .iter()
            .map(|name| {
                let found = host["routes"].as_array().into_iter().flatten().find(|route| route["name"] == **name);
                found.cloned().with_context(|| format!("the client has no route {name}, but {}", host["routes"]))
            })
            .collect::<Result<_>>()?;
        routes.try_into().map_err(|_| anyhow!("as many routes as names"))
    }

    /// Calls a path of `httpbin`, one call after the other, and counts.
    pub(super) fn call(&self, path: &str, calls: u32) -> Result<Counted<Answers>> {
        self.call_at_once(path, 1, calls)
    }

    /// As [`Stage::call`], by several callers.
    pub(super) fn call_at_once(&self, path: &str, callers: u32, calls: u32) -> Result<Counted<Answers>> {
        let url = self.url("httpbin", PORT, path);
        self.counted("deploy/httpbin", || load(&self.kubectl, &url, callers, calls))
    }

    /// Calls with a method, one call after the other, and counts.
    pub(super) fn call_by(&self, method: &str, server: &str, url: &str, calls: u32) -> Result<Counted<Answers>> {
        let calls = calls.to_string();
        // fortio's own client would wait for the body of an answer to HEAD.
        let options = ["-stdclient", "-X", method, "-c", "1", "-qps", "0", "-n", &calls];
        let rest = ["-timeout", "30s", "-allow-initial-errors", "-quiet", "-json", "-", url];
        let command = [&["fortio", "load"], options.as_slice(), rest.as_slice()].concat();
        self.counted(server, || {
            let text = self.kubectl.exec(CLIENT, "fortio", &command)?;
            serde_json::from_str(&text).with_context(|| format!("fortio printed no JSON but: {text}"))
        })
    }

    /// What the Envoys of the client and of this server counted while `work` called.
    pub(super) fn counted<T>(&self, server: &str, work: impl FnOnce() -> Result<T>) -> Result<Counted<T>> {
        let look = || Ok::<_, anyhow::Error>((Stats::of(&self.kubectl, CLIENT)?, Stats::of(&self.kubectl, server)?));
        let (client, behind) = look()?;
        // Without the annotation on their pods every counter would read as a peaceful zero.
        ensure!(client.knows(&self.host("httpbin")), "the client's Envoy counts nothing for httpbin");
        let value = work()?;
        let (client_after, behind_after) = look()?;
        Ok(Counted { value, client: client_after.since(&client), server: behind_after.since(&behind) })
    }
}

impl<T> Counted<T> {
    /// Requests that passed the server's Envoy to the server.
    pub(super) fn tries(&self) -> u64 {
        self.server.inbound(CONTAINER_PORT, "upstream_rq_total")
    }

    /// What the client's Envoy counted for a Service.
    pub(super) fn by_client(&self, stage: &Stage, service: &str, counter: &str) -> u64 {
        self.client.outbound(&stage.host(service), PORT, counter)
    }

    /// Retries that the client's Envoy made for `httpbin`.
    pub(super) fn retries(&self, stage: &Stage) -> u64 {
        self.by_client(stage, "httpbin", "upstream_rq_retry")
    }
}

impl Counted<Answers> {
    /// That all were answered with one status, and how many requests arrived at the server's sidecar.
    pub(super) fn expect(&self, status: i32, tries: u64) -> Result<()> {
        let (answered, total) = (self.value.status(status), self.value.total());
        ensure!(answered == total && total > 0, "not all answers are {status}: {:?}", self.value);
        ensure!(self.tries() == tries, "{total} calls made {} tries at the server, not {tries}", self.tries());
        Ok(())
    }
}

/// What claims write.
const KINDS: &str = "virtualservices,destinationrules,sidecars.networking.istio.io";

/// An HTTPRoute with one rule for a Service of the namespace `of`.
pub(super) fn http_route(name: &str, service: &str, of: &str, rule: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": service, "namespace": of, "port": PORT}],
            "rules": [rule],
        },
    })
}

/// The spec of a DestinationRule with these limits.
pub(super) fn pool(limits: &Value) -> Value {
    json!({"trafficPolicy": {"connectionPool": limits}})
}

/// A threshold of a cluster for ordinary calls; none when there is no such cluster. Istio states every one but
/// the budget, unlimited ones too.
pub(super) fn threshold(cluster: Option<&Value>, name: &str) -> Option<u64> {
    cluster?.pointer("/circuit_breakers/thresholds/0")?.get(name)?.as_u64()
}

/// One document for all, so that they are written by one call.
pub(super) fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Those documents of the demo that hold one of the names, moved to a namespace. Their proxies also count
/// what their listeners do: faults, and updates of routes that they refuse. The server may be slow for minutes.
fn documents(demo: &str, names: &[&str], namespace: &str) -> String {
    let here = format!("namespace: {namespace}");
    let server = format!("image: {}", images::HTTPBIN);
    let moved = demo
        .replace("namespace: resilience-demo", &here)
        .replace("cluster.outbound,cluster.inbound", "cluster.outbound,cluster.inbound,http.outbound")
        .replace(&server, &format!("{server}\n        env: [{{name: MAX_DURATION, value: 5m}}]"));
    let wanted = moved.split("\n---\n").filter(|document| names.iter().any(|name| document.contains(name)));
    wanted.collect::<Vec<_>>().join("\n---\n")
}

/// That the claims of a family carry each of these numbers once, and no other.
#[cfg(test)]
pub(super) fn each_is_claimed_once(family: &super::Family, numbers: std::ops::RangeInclusive<u32>) {
    let numbers: Vec<String> = numbers.map(|number| format!("M{number}")).collect();
    super::bench::each_once((family.claims)(), &numbers.iter().map(String::as_str).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{documents, with_images};

    #[test]
    fn the_wanted_part_of_the_demo_moves_and_counts_what_listeners_do() {
        let demo = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo.yaml")).unwrap();
        let demo = with_images(&demo);
        let client = documents(&demo, &["name: fortio,"], "elsewhere");
        let kinds =
            |text: &str| text.lines().filter(|line| line.starts_with("kind: ")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(kinds(&client), ["kind: ServiceAccount", "kind: Deployment"]);
        assert!(client.contains("namespace: elsewhere") && !client.contains("resilience-demo"), "{client}");
        assert!(client.contains("cluster.inbound,http.outbound"), "{client}");
        let both = documents(&demo, &["name: httpbin,", "name: fortio,"], "elsewhere");
        assert_eq!(kinds(&both).len(), 5, "{both}");
        assert!(both.contains("MAX_DURATION") && !client.contains("MAX_DURATION"), "{both}");
    }
}
