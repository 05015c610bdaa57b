//! The controller: watches, whom each change concerns, and the reconcile of one policy.
//!
//! In: a client and settings. Out: Sidecars, DestinationRules, VirtualServices, status, events. Decides nothing:
//! what is legal, what should exist and what must change are pure functions of the crate.
//!
//! ```text
//! watch ──> World (caches) ──> relations ──> Keys (names) ──> kube's Controller ──> attend ──> reconcile
//!                  ^                                                                   │
//!                  └────────────────── answers to our own writes ──────────────────────┘
//! ```

mod apply;
pub(crate) mod cache;
mod calls;
mod cleanup;
mod events;
pub(crate) mod index;
pub(crate) mod installed;
mod keys;
mod lag;
mod live;
pub(crate) mod observe;
mod own;
mod pack;
mod reconcile;
mod relations;
mod retry;
mod rounds;
mod server_side;
mod tally;
mod uid;
mod watch;
pub(crate) mod world;

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt::Debug,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, channel::mpsc::UnboundedReceiver, future::BoxFuture, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject},
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        controller::{self, Action, Controller},
        reflector::ObjectRef,
    },
};
use serde::de::DeserializeOwned;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    api::Resilience,
    istio::{Existing, Kind, neighbourhood::GatewayRouteKind},
    names,
    observed::Unseen,
    proof::{self, Board, Prover},
    runtime::{admin::Health, metrics::Metrics, settings::Settings, wait_for_crds::Needed, writer::Writer},
    status::Outcome,
    validate,
};
use apply::{For, Hands};
use cache::{Cache, Delta, Entry, View};
use calls::{CallError, Calls, Verdict};
use events::Publisher;
use installed::{Installed, Served};
use keys::{Key, Keys};
use lag::Lag;
use reconcile::{Context, reconcile, report_unreadable};
use relations::Names;
use retry::{Class, Retries};
use rounds::Rounds;
use watch::{Lean, Listed, Watch, guarded};
use world::{Policy, World, istio_resource};

/// How long reconciles under way may take to end after the signal.
const DRAIN: Duration = Duration::from_secs(10);

/// What the controller holds readiness by, until everything is listed.
pub const GATE: &str = "caches";

/// The kinds that must be served before the controller can begin.
pub const NEEDED: [Needed; 5] = [
    Needed {
        group_version: names::API_VERSION,
        plural: "resiliences",
        hint: "apply crds/resilience.yaml of this version",
    },
    Needed {
        group_version: names::ISTIO_API_VERSION,
        plural: Kind::DestinationRule.plural(),
        hint: "install Istio 1.22 or later",
    },
    Needed {
        group_version: names::ISTIO_API_VERSION,
        plural: Kind::VirtualService.plural(),
        hint: "install Istio 1.22 or later",
    },
    Needed {
        group_version: names::ISTIO_API_VERSION,
        plural: Kind::Sidecar.plural(),
        hint: "install Istio 1.22 or later",
    },
    Needed { group_version: names::ISTIO_API_VERSION, plural: "serviceentries", hint: "install Istio 1.22 or later" },
];

/// What the controller is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Istio's root namespace.
    pub root_namespace: String,
    /// Namespaces to work in; empty: all.
    pub namespaces: Vec<String>,
    /// Policies under work at a time; at least 1.
    pub concurrency: u16,
    /// How often a policy at rest is looked at again.
    pub resync: Duration,
    /// How long one call may take.
    pub deadline: Duration,
    /// Host and port of istiod's monitoring; empty: its version is never asked for.
    pub istiod_address: String,
    /// How often to look whether another Istio is installed.
    pub istio_recheck: Duration,
    /// How istiod is asked what proxies have.
    pub in_effect: proof::Options,
    /// Whether what policies allow is told to who scrapes, by name.
    pub limit_metrics: bool,
}

impl From<Settings> for Options {
    fn from(settings: Settings) -> Self {
        Self {
            in_effect: proof::Options::new(
                &settings.in_effect_service_account,
                &settings.istio_root_namespace,
                settings.in_effect_grace,
            ),
            limit_metrics: settings.limit_metrics,
            cluster_domain: settings.cluster_domain,
            root_namespace: settings.istio_root_namespace,
            namespaces: settings.namespaces,
            concurrency: settings.concurrency,
            resync: settings.resync,
            deadline: calls::DEADLINE,
            istiod_address: settings.istiod_address,
            istio_recheck: installed::RECHECK,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::from(Settings::default())
    }
}

/// Everything that lives as long as the controller.
struct Shared {
    context: Context,
    keys: Arc<Keys>,
    lag: Arc<Lag>,
    retries: Retries,
    rounds: Rounds,
    metrics: Arc<Metrics>,
    installed: Installed,
}

impl Shared {
    /// And the ends of the queues from which names and events are taken.
    fn new(
        client: &Client,
        writer: &Writer,
        options: &Options,
        metrics: &Arc<Metrics>,
    ) -> (Arc<Self>, UnboundedReceiver<ObjectRef<Key>>, Publisher) {
        let (keys, requests) = Keys::new();
        let keys = Arc::new(keys);
        let waiting = keys.clone();
        let (events, publisher) = events::events(writer.clone(), metrics.clone(), move || waiting.is_busy());
        let settings = validate::Settings {
            cluster_domain: options.cluster_domain.clone(),
            root_namespace: options.root_namespace.clone(),
        };
        let world = Arc::new(World::new(&settings));
        let (told, around) = (keys.clone(), world.clone());
        let changed = move |delta: &Delta<Arc<Existing>>, by: Option<&str>| {
            let by = by.map(|name| (delta.namespace.as_str(), name));
            told.look_at_all(&around, &relations::of_istio_beside(by, delta, &around));
        };
        let (asked, within) = (keys.clone(), world.clone());
        let edited = move |delta: &Delta<Policy>| asked.look_at_all(&within, &relations::of_policy(delta, &within));
        let lag = Arc::new(Lag::default());
        let shared = Arc::new(Self {
            context: Context {
                hands: Hands {
                    calls: Calls::new(writer.clone(), metrics.clone(), options.deadline),
                    world: world.clone(),
                    changed: Box::new(changed),
                    edited: Box::new(edited),
                },
                events,
                settings,
                board: Arc::new(Board::new(options.in_effect.is_set_up())),
            },
            keys: keys.clone(),
            lag: lag.clone(),
            retries: Retries::new(options.resync),
            rounds: Rounds::new(options.resync),
            metrics: metrics.clone(),
            installed: Installed::new(client.clone(), options.deadline, options.istio_recheck, &options.istiod_address),
        });
        if options.limit_metrics {
            let world = world.clone();
            metrics.limits_with(move || tally::limits(&world));
        }
        metrics.tally_with(move || tally::tally(&world, &keys, &lag));
        (shared, requests, publisher)
    }

    /// Begins to work. Before, no name was noted: a replica that stands by for months would collect
    /// them all. So looks at every policy now, and at those that are gone though an Istio object says that it is
    /// theirs.
    fn take_over(&self) {
        self.keys.open();
        self.rounds.hurry();
        let world = &self.context.hands.world;
        let objects = Kind::ALL.into_iter().flat_map(|kind| world.istio(kind).all());
        let claimed = objects.flat_map(|entry| relations::claimed(&entry.view).collect::<Vec<_>>());
        let gone: Names = claimed.filter(|(namespace, name)| world.policies.uid(namespace, name).is_none()).collect();
        self.keys.look_at_all(world, &gone);
    }

    /// Asks what proxies have, for ever, beside all else: an answer can be large, and to read it must not
    /// hold up a reconcile. A panic there is no other's.
    async fn prove(self: &Arc<Self>, client: Client, writer: Writer, options: proof::Options) {
        loop {
            let shared = self.clone();
            let prover = Prover::new(
                client.clone(),
                writer.clone(),
                shared.context.board.clone(),
                shared.metrics.clone(),
                options.clone(),
            );
            let asking = tokio::spawn(async move {
                prover.follow(|(namespace, name)| shared.look_at(namespace, name)).await;
            });
            if AbortOnDropHandle::new(asking).await.is_err() {
                tracing::error!("asking istiod panicked: a bug, please report it with this log; trying again");
                self.metrics.panicked();
                tokio::time::sleep(retry::LONGEST).await;
            }
        }
    }

    /// Looks at one policy.
    fn look_at(&self, namespace: &str, name: &str) {
        self.keys.look_at(namespace, name, self.context.hands.world.policies.uid(namespace, name).as_deref());
    }

    /// Looks at once at what waits for another try.
    fn try_now(&self, scope: Option<&str>) {
        for (namespace, name) in self.retries.waiting(scope) {
            self.look_at(&namespace, &name);
        }
    }
}

/// Runs until `stop`, and then until the reconciles under way have ended, for ten seconds at most.
/// Watches from the beginning; works, and so writes, from when the term of `writer` has begun.
///
/// # Errors
/// If a watch ended, which it never should: from then on, decisions would rest on old news.
pub async fn run(
    client: Client,
    writer: Writer,
    options: Options,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    health.block(GATE, "not everything has been listed yet");
    let (shared, requests, publisher) = Shared::new(&client, &writer, &options, &metrics);
    // What has not been published at the end is not: the status has it.
    let _publishing = AbortOnDropHandle::new(tokio::spawn(publisher.run()));
    let listed = Arc::new(Listed::default());
    let wiring = Wiring { client: client.clone(), shared: shared.clone(), listed: listed.clone() };
    let watches = wiring.watches(&options.namespaces);
    let number = u32::try_from(watches.len()).unwrap_or(u32::MAX);
    let mut watches: JoinSet<()> = watches.into_iter().collect();
    // No decision from a world that is half listed: foreign objects would be missing in it, and our
    // own would seem not to be there yet.
    let begin = async {
        listed.all(number).await;
        tracing::info!("everything is listed");
        health.open(GATE);
        writer.term().stand();
        writer.term().begun().await;
        tracing::info!("beginning");
        shared.take_over();
        let rounds = shared.rounds.go(&shared.keys, &shared.context.hands.world.policies);
        tokio::join!(rounds, shared.prove(client, writer.clone(), options.in_effect.clone()));
    };
    let mut controller = Controller::for_stream(stream::empty(), shared.keys.store())
        .with_config(controller::Config::default().concurrency(options.concurrency.max(1)))
        .reconcile_on(requests)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(attend, |_, never: &Infallible, _| match *never {}, shared.clone())
        .for_each(|_| std::future::ready(()))
        .boxed();
    tokio::select! {
        biased;
        () = begin => {}
        () = &mut controller => {}
        _ = watches.join_next() => anyhow::bail!("a watch ended; starting anew is the way back to a whole view"),
        () = stop.cancelled() => {}
    }
    // What was never begun need not end; kube's controller would wait for its begin.
    if !shared.keys.is_open() || timeout(DRAIN, controller).await.is_ok() {
        writer.term().resign();
    } else {
        // Not resigned: what is under way may still be carried out, so the lease has to run out.
        tracing::warn!("reconciles were still under way after {} s; the next start finishes them", DRAIN.as_secs());
    }
    Ok(())
}

/// What all watches are made of.
#[derive(Clone)]
struct Wiring {
    client: Client,
    shared: Arc<Shared>,
    listed: Arc<Listed>,
}

impl Wiring {
    /// All watches: one a kind and namespace, and that of the installed Istio.
    fn watches(&self, namespaces: &[String]) -> Vec<BoxFuture<'static, ()>> {
        let mut watches: Vec<_> = if namespaces.is_empty() {
            self.watches_of(None)
        } else {
            namespaces.iter().flat_map(|namespace| self.watches_of(Some(namespace))).collect()
        };
        let root = &self.shared.context.settings.root_namespace;
        // What is true as long as the process lives, and told before any policy is looked at.
        self.shared.context.hands.world.bar(Unseen::OtherNamespaces, !namespaces.is_empty());
        if !namespaces.is_empty() && !namespaces.contains(root) {
            // Its rules concern the clients of every namespace.
            let rules = Kind::ALL.into_iter();
            watches.extend(rules.map(|kind| self.watch_kind(kind, Some(root), Some(Unseen::RootNamespace(kind)))));
        }
        watches.push(self.watch_istio());
        watches
    }

    fn watch_istio(&self) -> BoxFuture<'static, ()> {
        let (shared, listed) = (self.shared.clone(), self.listed.clone());
        async move {
            let (world, metrics) = (&shared.context.hands.world, &shared.metrics);
            shared.installed.follow(world, metrics, || listed.one(), || shared.rounds.hurry()).await;
        }
        .boxed()
    }

    fn watches_of(&self, scope: Option<&str>) -> Vec<BoxFuture<'static, ()>> {
        let within = scope.unwrap_or_default();
        let policies = Api::<DeserializeGuard<Resilience>>::all(self.client.clone()).constrain(within);
        let services = Api::<DeserializeGuard<Service>>::all(self.client.clone()).constrain(within);
        let slices = Api::<DeserializeGuard<EndpointSlice>>::all(self.client.clone()).constrain(within);
        let (service, slice) = (guarded(world::service), guarded(world::slice));
        let shared = self.shared.clone();
        let of_policy = move |delta: &Delta<Policy>, world: &World| {
            // What it leaves behind may be known by its uid alone.
            if let (Some(gone), None) = (&delta.before, &delta.after) {
                shared.keys.look_at(&delta.namespace, &delta.name, Some(&gone.uid));
            }
            relations::of_policy(delta, world)
        };
        let mut watches = vec![
            self.watch(names::KIND, policies, scope, |world| &world.policies, world::policy, of_policy),
            self.watch("Service", services, scope, |world| &world.services, service, relations::of_service),
            self.watch("EndpointSlice", slices, scope, |world| &world.slices, slice, relations::of_slice),
        ];
        let entries = self.istio("ServiceEntry", "serviceentries", scope);
        watches.push(self.watch(
            "ServiceEntry",
            entries,
            scope,
            |world| &world.entries,
            world::entry,
            relations::of_entry,
        ));
        if scope.is_none() {
            let all = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
            watches.push(self.watch(
                "Namespace",
                all,
                scope,
                |world| &world.namespaces,
                world::namespace,
                relations::of_namespace,
            ));
        }
        watches.extend(Kind::ALL.into_iter().map(|kind| self.watch_kind(kind, scope, None)));
        watches.extend(GatewayRouteKind::ALL.into_iter().map(|kind| self.watch_gateway_routes(kind, scope)));
        watches
    }

    /// Watches the Istio objects of one kind; `unseen`: what is missed where they may not be read.
    fn watch_kind(&self, kind: Kind, scope: Option<&str>, unseen: Option<Unseen>) -> BoxFuture<'static, ()> {
        let watched = Watched { unseen, ..Watched::of(kind.as_str(), scope) };
        let api = self.istio(kind.as_str(), kind.plural(), scope);
        let lean = move |object| world::existing(kind, object);
        self.follow(watched, api, move |world| world.istio(kind), lean, relations::of_istio)
    }

    /// Watches routes of the Gateway API as long as it is installed.
    fn watch_gateway_routes(&self, kind: GatewayRouteKind, scope: Option<&str>) -> BoxFuture<'static, ()> {
        let (wiring, scope) = (self.clone(), scope.map(str::to_owned));
        async move {
            let mut served = wiring.shared.installed.gateway_routes();
            let is_served = |served: &Served| served.as_ref().is_some_and(|kinds| kinds.contains(&kind));
            // Its sender lives as long as what is shared, so no wait here fails.
            let found = served.wait_for(Option::is_some).await.is_ok_and(|served| is_served(&served));
            if !found {
                wiring.listed.one();
            }
            let mut counted = found;
            loop {
                drop(served.wait_for(is_served).await);
                let watched = Watched {
                    unseen: Some(Unseen::GatewayRoutes(kind)),
                    counted: std::mem::take(&mut counted),
                    ..Watched::of(kind.as_str(), scope.as_deref())
                };
                let api = wiring.api(&world::gateway_resource(kind), scope.as_deref());
                let lean = move |object| world::gateway_route(kind, object);
                let concerned = relations::of_gateway_route;
                let following = wiring.follow(watched, api, move |world| world.gateway_routes(kind), lean, concerned);
                tokio::select! {
                    () = following => {}
                    _ = served.wait_for(|served| !is_served(served)) => {}
                }
                // They went with their kind, and no event need have told.
                let shared = &wiring.shared;
                let world = &shared.context.hands.world;
                for delta in world.gateway_routes(kind).retain(scope.as_deref(), &HashSet::new()) {
                    shared.keys.look_at_all(world, &relations::of_gateway_route(&delta, world));
                }
            }
        }
        .boxed()
    }

    fn istio(&self, kind: &str, plural: &str, scope: Option<&str>) -> Api<DynamicObject> {
        self.api(&istio_resource(kind, plural), scope)
    }

    fn api(&self, resource: &ApiResource, scope: Option<&str>) -> Api<DynamicObject> {
        match scope {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    fn watch<K, L: Into<Lean<V>>, V: View + Send + Sync + 'static>(
        &self,
        kind: &'static str,
        api: Api<K>,
        scope: Option<&str>,
        cache: impl Fn(&World) -> &Cache<V> + Send + Sync + 'static,
        lean: impl Fn(K) -> L + Send + Sync + 'static,
        concerned: impl Fn(&Delta<V>, &World) -> Names + Send + Sync + 'static,
    ) -> BoxFuture<'static, ()>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.follow(Watched::of(kind, scope), api, cache, lean, concerned)
    }

    fn follow<K, L: Into<Lean<V>>, V: View + Send + Sync + 'static>(
        &self,
        watched: Watched,
        api: Api<K>,
        cache: impl Fn(&World) -> &Cache<V> + Send + Sync + 'static,
        lean: impl Fn(K) -> L + Send + Sync + 'static,
        concerned: impl Fn(&Delta<V>, &World) -> Names + Send + Sync + 'static,
    ) -> BoxFuture<'static, ()>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (shared, listed) = (self.shared.clone(), self.listed.clone());
        let Watched { kind, scope, unseen, counted } = watched;
        async move {
            let world = &shared.context.hands.world;
            let tell = |delta: &Delta<V>| {
                // Who begins looks at everything, and who stands by at nothing.
                if shared.keys.is_open() {
                    shared.keys.look_at_all(world, &concerned(delta, world));
                }
            };
            let within = scope.clone();
            let recovered = || shared.try_now(within.as_deref());
            let relist = || shared.retries.relist();
            let barred = unseen.map(|unseen| {
                let shared = &shared;
                move |barred: bool| {
                    if world.bar(unseen, barred) {
                        shared.rounds.hurry();
                    }
                }
            });
            let watch = Watch {
                kind,
                scope,
                listed: counted.then_some(&*listed),
                metrics: &shared.metrics,
                relist: &relist,
                recovered: &recovered,
                barred: barred.as_ref().map(|barred| barred as &(dyn Fn(bool) + Send + Sync)),
            };
            watch.follow(api, cache(world), |object| lean(object).into(), tell).await;
        }
        .boxed()
    }
}

/// What a watch is for.
struct Watched {
    /// For logs and metrics.
    kind: &'static str,
    /// The namespace; `None`: all.
    scope: Option<String>,
    /// What is missed where it may not be read; `None`: nothing begins without it.
    unseen: Option<Unseen>,
    /// Whether its first list is waited for.
    counted: bool,
}

impl Watched {
    fn of(kind: &'static str, scope: Option<&str>) -> Self {
        Self { kind, scope: scope.map(str::to_owned), unseen: None, counted: true }
    }
}

/// How a look at a name ended.
enum End {
    /// There is no policy of that name, and nothing of it.
    Gone,
    /// It is being deleted, and nothing of it is left.
    Leaving,
    /// It has an outcome.
    Reached(Outcome),
}

/// Looks at one name, whatever happens: a panic is that of one object and no other's.
async fn attend(key: Arc<Key>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let begun = Instant::now();
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let policy = || shared.context.hands.world.policies.get(&namespace, &name);
    let asked = shared.keys.begin(&namespace, &name);
    if let Some(since) = asked {
        shared.metrics.waited(since.elapsed());
    }
    let found = policy();
    shared.lag.begin((&namespace, &name), lag::is_unobserved(found.as_deref()), asked.unwrap_or(begun));
    let ended = AssertUnwindSafe(look(&shared, &key, &namespace, &name, found)).catch_unwind().await;
    let (label, class) = match &ended {
        Ok(Ok(End::Gone)) => ("gone", Class::Never),
        Ok(Ok(End::Leaving)) => ("leaving", Class::Never),
        Ok(Ok(End::Reached(outcome))) => (outcome.name(), retry::class(outcome)),
        Ok(Err(error)) => {
            tracing::warn!(namespace, name, %error, "trying again");
            let slow = error.verdict() == Verdict::Forbidden;
            ("error", if slow { Class::Slow } else { Class::Backoff })
        }
        Err(_) => {
            tracing::error!(
                namespace,
                name,
                "the reconcile panicked: a bug, please report it with this log; trying again"
            );
            shared.metrics.panicked();
            ("panicked", Class::Backoff)
        }
    };
    if let Ok(Ok(End::Reached(outcome))) = &ended {
        log(&namespace, &name, outcome);
        if let Outcome::Refused(_, failure) = outcome
            && failure.slow
        {
            shared.installed.look_again();
        }
    }
    shared.metrics.reconciled(label, begun.elapsed());
    if let Some(took) = shared.lag.end((&namespace, &name), policy().as_deref()) {
        shared.metrics.told(took);
    }
    if let Some(wait) = shared.retries.after(&namespace, &name, class) {
        return Ok(Action::requeue(wait));
    }
    shared.keys.rest(&namespace, &name);
    Ok(Action::await_change())
}

/// `found`: the policy of that name.
async fn look(
    shared: &Shared,
    key: &Key,
    namespace: &str,
    name: &str,
    found: Option<Arc<Entry<Policy>>>,
) -> Result<End, CallError> {
    let hands = &shared.context.hands;
    let alive = found.as_ref().map(|policy| policy.uid.as_str());
    let of = For { namespace, policy: name };
    live::read_what_is_unsure(hands, of, found.as_deref()).await?;
    let left = cleanup::sweep(hands, of, alive, key.metadata.uid.as_deref()).await?;
    report(namespace, name, &left);
    let Some(found) = found else {
        shared.context.board.forget(namespace, name);
        return Ok(End::Gone);
    };
    if found.view.meta().deletion_timestamp.is_some() {
        shared.context.board.forget(namespace, name);
        let released = cleanup::release(hands, of, &found.uid).await?;
        report(namespace, name, &released);
        return Ok(End::Leaving);
    }
    match &found.view {
        Policy::Readable(resilience) => Ok(End::Reached(reconcile(&shared.context, resilience).await?)),
        Policy::Unreadable(_, error) => {
            let outcome = report_unreadable(&shared.context, namespace, name, error).await?;
            Ok(outcome.map_or(End::Gone, End::Reached))
        }
    }
}

fn report(namespace: &str, name: &str, writes: &[String]) {
    for write in writes {
        tracing::info!(namespace, name, "{write}");
    }
}

fn log(namespace: &str, name: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Programmed(_, applied) => report(namespace, name, &applied.writes),
        Outcome::ForeignFields(_, applied, message) => {
            report(namespace, name, &applied.writes);
            tracing::warn!(namespace, name, outcome = outcome.name(), message);
        }
        Outcome::Rejected(_)
        | Outcome::Unsupported(_)
        | Outcome::Conflicted(_)
        | Outcome::Superseded(_)
        | Outcome::Waiting(_)
        | Outcome::Observing(..)
        | Outcome::Suspended(..) => {
            tracing::info!(namespace, name, outcome = outcome.name(), message = outcome.message());
        }
        Outcome::Refused(..) | Outcome::Failed(..) | Outcome::FieldConflict(..) => {
            tracing::warn!(namespace, name, outcome = outcome.name(), message = outcome.message());
        }
    }
}
