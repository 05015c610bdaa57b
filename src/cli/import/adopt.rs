//! The writes of `import --adopt`, in the order of its plan. Each is made only on the object as it was looked at,
//! so that what somebody did meanwhile stops it, and whoever runs it again goes on from what is there.

use std::{future::Future, io::Write as _, sync::Arc};

use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    super::{
        Io,
        live::{Chosen, DEADLINE, Live},
    },
    objects, read,
};
use crate::{
    api::Resilience,
    controller::world::istio_resource,
    import::{Handover, Imported, Taking, hand_over, keeper, taking},
    istio::{Existing, Kind},
    names,
    translate::DesiredObject,
    validate::Settings,
};

/// A resource version that no object has ever had: an apply with it creates or fails (see `Calls::create` of the
/// controller).
const NEVER: &str = "1";

/// What is handed over in a namespace.
pub(super) struct Plan {
    hosts: Vec<Handover>,
    /// Policies that are there and have yet to take something: left by a hand-over that was interrupted.
    begun: Vec<(Resilience, Taking)>,
}

/// Plans it.
///
/// # Errors
/// What stands in the way, one line each.
pub(super) fn plan(live: &Live, namespace: &str, hosts: &[Imported], settings: &Settings) -> Result<Plan, Vec<String>> {
    let objects = objects(live, namespace);
    let (mut plan, mut faults) = (Plan { hosts: Vec::new(), begun: Vec::new() }, Vec::new());
    for host in hosts {
        match hand_over(host, &objects) {
            Ok(Some(host)) => plan.hosts.push(host),
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    for policy in live.world.policies.within(namespace) {
        let Some(policy) = policy.view.readable() else { continue };
        let taking = taking(policy, live.observe(policy), settings);
        if !taking.objects.is_empty() {
            plan.begun.push((policy.clone(), taking));
        }
    }
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

impl Plan {
    /// What it will do, in its order.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for host in &self.hosts {
            let name = host.policy.name_any();
            for copy in &host.copies {
                lines.push(format!(
                    "create {} {}, which Istio ignores while the older one stands",
                    copy.kind, copy.name
                ));
            }
            lines.extend(host.delete.iter().map(|object| format!("delete {} {}", object.kind, object.name)));
            lines.push(format!("create Resilience {name}"));
            let taken = host.take.iter().map(|object| (object.kind, object.name.clone()));
            let copied = host.copies.iter().map(|copy| (copy.kind, copy.name.clone()));
            lines.extend(taken.chain(copied).map(|(kind, of)| format!("make {kind} {of} that policy's own")));
            lines.extend(host.share.iter().map(|object| {
                format!("leave {} {}: the operator writes the policy's blocks into it", object.kind, object.name)
            }));
        }
        for (policy, taking) in &self.begun {
            let name = policy.name_any();
            lines.extend(
                taking
                    .objects
                    .iter()
                    .map(|(object, _)| format!("make {} {} the own of Resilience {name}", object.kind, object.name)),
            );
        }
        lines
    }

    /// Does it.
    ///
    /// # Errors
    /// At the first write that is not made; what stands then is the old policy in full or the new one.
    pub(super) async fn run(&self, chosen: &Chosen, io: &mut Io) -> anyhow::Result<()> {
        let hands = Hands { client: &chosen.reader.client, namespace: &chosen.namespace };
        for host in &self.hosts {
            // Before anything is written: whether the end can be reached, and nobody else keeps what would go.
            hands.create_policy(&host.policy, true).await?;
            for object in host.delete.iter().chain(&host.take) {
                hands.look(object).await?;
            }
        }
        for host in &self.hosts {
            for copy in &host.copies {
                hands.create(copy).await?;
                done(io, &format!("created {} {}", copy.kind, copy.name))?;
            }
            for object in &host.delete {
                hands.delete(object).await?;
                done(io, &format!("deleted {} {}", object.kind, object.name))?;
            }
            hands.create_policy(&host.policy, false).await?;
            done(io, &format!("created Resilience {}", host.policy.name_any()))?;
        }
        let live = read(chosen).await.map_err(|faults| anyhow::anyhow!("{}", faults.join("; ")))?;
        let begun = self.begun.iter().map(|(policy, _)| policy.name_any());
        for name in self.hosts.iter().map(|host| host.policy.name_any()).chain(begun) {
            let Some(entry) = live.world.policies.get(&chosen.namespace, &name) else { continue };
            let Some(policy) = entry.view.readable() else { continue };
            let taking = taking(policy, live.observe(policy), &chosen.settings);
            for (object, there) in &taking.objects {
                hands.take(object, there).await?;
                done(io, &format!("{} {} is that of Resilience {name}", object.kind, object.name))?;
            }
            if let Some(other) = taking.differing.first() {
                anyhow::bail!(
                    "{other} says something else by now and was left: Resilience {name} says what it waits for"
                );
            }
        }
        Ok(())
    }
}

fn done(io: &mut Io, line: &str) -> anyhow::Result<()> {
    writeln!(io.out, "{line}")?;
    Ok(io.out.flush()?)
}

struct Hands<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Hands<'_> {
    fn istio(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), self.namespace, &istio_resource(kind.as_str(), kind.plural()))
    }

    async fn within<T>(&self, what: String, call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
        match timeout(DEADLINE, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                anyhow::bail!("cannot {what}: {}; run it again to go on", status.message)
            }
            Ok(Err(error)) => anyhow::bail!("cannot {what}: {error}; run it again to go on"),
            Err(_) => anyhow::bail!("cannot {what}: no answer within {} s; run it again to go on", DEADLINE.as_secs()),
        }
    }

    /// The object as it is now: still the one that was planned for, and nobody else's to write.
    async fn look(&self, planned: &Existing) -> anyhow::Result<DynamicObject> {
        let whole = planned.whole();
        let now = self.within(format!("read {whole}"), self.istio(planned.kind).get(&planned.name)).await?;
        if now.metadata.uid != planned.uid || now.data.get("spec") != Some(&planned.spec) {
            anyhow::bail!("{whole} has changed meanwhile: run it again");
        }
        if let Some(keeper) = keeper(&now.metadata) {
            anyhow::bail!("{whole}: {keeper}");
        }
        Ok(now)
    }

    async fn create(&self, object: &DesiredObject) -> anyhow::Result<()> {
        let mut body = object.json.clone();
        if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
            metadata.insert("resourceVersion".to_owned(), NEVER.into());
        }
        self.apply(format!("create {} {}/{}", object.kind, self.namespace, object.name), object, &body).await
    }

    /// Makes an object what a policy generates: the same write as the operator's own.
    async fn take(&self, object: &DesiredObject, there: &Arc<Existing>) -> anyhow::Result<()> {
        let now = self.look(there).await?;
        let mut body = object.json.clone();
        if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
            metadata.insert("uid".to_owned(), now.metadata.uid.into());
            metadata.insert("resourceVersion".to_owned(), now.metadata.resource_version.into());
        }
        self.apply(format!("take over {}", there.whole()), object, &body).await
    }

    async fn apply(&self, what: String, object: &DesiredObject, body: &Value) -> anyhow::Result<()> {
        let how = PatchParams::apply(names::FIELD_MANAGER).force().validation_strict();
        let (api, patch) = (self.istio(object.kind), Patch::Apply(body));
        self.within(what, api.patch(&object.name, &how, &patch)).await.map(drop)
    }

    async fn delete(&self, planned: &Existing) -> anyhow::Result<()> {
        let now = self.look(planned).await?;
        let how = DeleteParams {
            preconditions: Some(Preconditions {
                uid: now.metadata.uid,
                resource_version: now.metadata.resource_version,
            }),
            ..DeleteParams::background()
        };
        let api = self.istio(planned.kind);
        self.within(format!("delete {}", planned.whole()), api.delete(&planned.name, &how)).await.map(drop)
    }

    async fn create_policy(&self, policy: &Resilience, dry_run: bool) -> anyhow::Result<()> {
        let api: Api<Resilience> = Api::namespaced(self.client.clone(), self.namespace);
        let how = PostParams { dry_run, field_manager: Some(names::IMPORT_MANAGER.to_owned()) };
        let what = format!("create Resilience {}/{}", self.namespace, policy.name_any());
        self.within(what, api.create(&how, policy)).await.map(drop)
    }
}
