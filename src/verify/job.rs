//! The Job that calls from within the mesh: made, followed by its log, and taken away.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerState, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams, PostParams, Preconditions},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api::Resilience,
    names,
    verification::{Evidence, Plan},
};

/// The container of ours.
const CONTAINER: &str = "verify";
/// The container that injection adds.
const SIDECAR: &str = "istio-proxy";
/// Holds the plan.
pub const PLAN_VARIABLE: &str = "RESILIENCE_VERIFY_PLAN";
/// How long a pod may take to run: an image has to be pulled.
const START: Duration = Duration::from_mins(2);
/// What a run may take beyond what it sends: looks at its proxy, and its start.
const GRACE: Duration = Duration::from_mins(1);
/// A Job whose maker was killed is gone so long after its end.
const KEPT_S: u32 = 120;
/// Between two looks at a pod.
const PAUSE: Duration = Duration::from_millis(300);
/// One call of the API server may take so long.
const DEADLINE: Duration = Duration::from_secs(15);

/// One line of the caller's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// How far it is.
    Progress(String),
    /// What it saw: its last line.
    Evidence(Box<Evidence>),
}

/// The Job for a plan. Ends by itself, whatever becomes of who made it.
///
/// # Errors
/// If the plan is no JSON, which no plan of ours is.
pub fn job(policy: &Resilience, plan: &Plan, from: &str, image: &str, suffix: &str) -> anyhow::Result<Job> {
    let seconds = (Duration::from_millis(plan.asked.caps.duration_ms) + START + GRACE).as_secs();
    let mut stem: String = policy.name_any().chars().take(30).map(|c| if c == '.' { '-' } else { c }).collect();
    stem.truncate(stem.trim_end_matches('-').len());
    let labels = json!({
        "app.kubernetes.io/name": names::VERIFY_MANAGER,
        names::LABEL_MANAGED_BY: names::VERIFY_MANAGER,
    });
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": format!("{}-{stem}-{suffix}", names::VERIFY_MANAGER), "namespace": from, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {
                "metadata": {
                    "labels": labels,
                    // Istio's own words, on a pod of ours: nothing is pushed for them. Whether there is a sidecar at
                    // all is the namespace's to say: a caller that has one where others have none proves nothing.
                    "annotations": {
                        // Without it a proxy does not count overflows and ejections (measured M8).
                        "sidecar.istio.io/statsInclusionPrefixes": "cluster.outbound",
                        // One thread: callers share one pool, so that a limit of one is one.
                        "proxy.istio.io/config": "{\"concurrency\": 1, \"holdApplicationUntilProxyStarts\": true, \"terminationDrainDuration\": \"1s\"}",
                    },
                },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 5,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": CONTAINER,
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["verify-worker"],
                        "env": [{"name": PLAN_VARIABLE, "value": serde_json::to_string(plan)?}],
                        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    });
    // An owner is always of the same namespace.
    if policy.namespace().as_deref() == Some(from)
        && let Some(uid) = policy.uid()
        && let Some(Value::Object(metadata)) = job.get_mut("metadata")
    {
        let owner =
            json!({"apiVersion": names::API_VERSION, "kind": names::KIND, "name": policy.name_any(), "uid": uid});
        metadata.insert("ownerReferences".to_owned(), json!([owner]));
    }
    serde_json::from_value(job).context("the Job is none")
}

/// A Job that was made. It is the maker's to [`Running::delete`] it, whatever comes of it.
pub struct Running {
    client: Client,
    namespace: String,
    name: String,
    uid: Option<String>,
    limit: Duration,
}

impl Running {
    /// Makes it.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn create(client: Client, job: &Job) -> anyhow::Result<Self> {
        let namespace = job.namespace().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(client.clone(), &namespace);
        let made = timeout(DEADLINE, api.create(&PostParams::default(), job))
            .await
            .map_err(|_| anyhow!("no answer from the API server"));
        let made = made?.with_context(|| {
            format!("no Job can be made in namespace {namespace}: `kubectl auth can-i create jobs -n {namespace}` tells whether you may (the ClusterRole resilience-verify has all that it takes)")
        })?;
        let seconds = job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).unwrap_or_default();
        Ok(Self {
            client,
            namespace,
            name: made.name_any(),
            uid: made.uid(),
            limit: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        })
    }

    /// Its name and namespace, for people.
    #[must_use]
    pub fn called(&self) -> String {
        format!("Job {}/{}", self.namespace, self.name)
    }

    /// Follows it to its end.
    ///
    /// # Errors
    /// If it does not run, or ends without saying what it saw.
    pub async fn follow(&self, mut tell: impl FnMut(&str)) -> anyhow::Result<Evidence> {
        let end = Instant::now() + self.limit;
        let Some(pod) = self.started().await? else { return Ok(Evidence::default()) };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut heard = 0;
        while Instant::now() < end {
            if let Some(evidence) = self.listen(&api, &pod, &mut heard, &mut tell).await? {
                return Ok(evidence);
            }
            let now = timeout(DEADLINE, api.get_opt(&pod)).await??;
            match now.as_ref().and_then(state) {
                Some(ContainerState { terminated: Some(terminated), .. }) => {
                    // What it said last may have come since.
                    if let Some(evidence) = self.listen(&api, &pod, &mut heard, &mut tell).await? {
                        return Ok(evidence);
                    }
                    bail!(
                        "{} ended with {} and did not say what it saw: is its image of the same version as this program (--image)?",
                        self.called(),
                        terminated.exit_code
                    );
                }
                None if now.is_none() => bail!("{} lost its pod {pod}: somebody deleted it", self.called()),
                _ => {}
            }
            sleep(PAUSE).await;
        }
        bail!("{} did not end in its time", self.called())
    }

    /// Reads the log until it breaks off; gives what was seen once that is told.
    async fn listen(
        &self,
        api: &Api<Pod>,
        pod: &str,
        heard: &mut usize,
        tell: &mut impl FnMut(&str),
    ) -> anyhow::Result<Option<Evidence>> {
        let how = LogParams { container: Some(CONTAINER.to_owned()), follow: true, ..LogParams::default() };
        let stream = match api.log_stream(pod, &how).await {
            Ok(stream) => stream,
            Err(kube::Error::Api(status)) if status.code == 403 => bail!(
                "the log of pod {}/{pod} may not be read, the API server says: {}",
                self.namespace,
                status.message
            ),
            // Not begun yet, or broken: looked at again.
            Err(_) => return Ok(None),
        };
        let mut lines = stream.lines();
        let mut number = 0;
        while let Ok(Some(line)) = lines.try_next().await {
            number += 1;
            match serde_json::from_str(&line) {
                Ok(Told::Evidence(evidence)) => return Ok(Some(*evidence)),
                Ok(Told::Progress(words)) if number > *heard => tell(&words),
                Ok(Told::Progress(_)) | Err(_) => {}
            }
            *heard = number.max(*heard);
        }
        Ok(None)
    }

    /// The pod, once it runs; `None`: it has no proxy, so there is nothing to wait for.
    async fn started(&self) -> anyhow::Result<Option<String>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_it = ListParams::default().labels(&format!("job-name={}", self.name));
        let end = Instant::now() + START;
        let mut last = "it has no pod: a quota, or a policy of admission may be in the way".to_owned();
        while Instant::now() < end {
            let pods = timeout(DEADLINE, api.list(&of_it)).await?;
            let pods = pods.with_context(|| format!("pods of namespace {} cannot be read", self.namespace))?;
            if let Some(pod) = pods.items.first() {
                if !has_proxy(pod) {
                    return Ok(None);
                }
                match state(pod) {
                    Some(ContainerState { running: Some(_), .. } | ContainerState { terminated: Some(_), .. }) => {
                        return Ok(Some(pod.name_any()));
                    }
                    Some(ContainerState { waiting: Some(waiting), .. }) => {
                        let reason = waiting.reason.clone().unwrap_or_default();
                        last = format!("its container waits: {reason} {}", waiting.message.clone().unwrap_or_default());
                        if ["ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"]
                            .contains(&reason.as_str())
                        {
                            break;
                        }
                    }
                    _ => "its pod does not run yet: is there room for it on a node?".clone_into(&mut last),
                }
            }
            sleep(PAUSE).await;
        }
        bail!("{} does not run: {}", self.called(), last.trim_end())
    }

    /// Takes it away with its pod.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete(&self) -> anyhow::Result<()> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &self.namespace);
        let how = DeleteParams {
            preconditions: Some(Preconditions { uid: self.uid.clone(), resource_version: None }),
            ..DeleteParams::background()
        };
        match timeout(DEADLINE, api.delete(&self.name, &how)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => Ok(()),
            Ok(Err(error)) => Err(error).with_context(|| self.left()),
            Err(_) => bail!("no answer from the API server: {}", self.left()),
        }
    }

    fn left(&self) -> String {
        format!("{} could not be deleted: it ends by itself, and goes {KEPT_S} s later", self.called())
    }
}

fn has_proxy(pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    // A native sidecar is an init container that stays.
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.into_iter().any(|container| container.name == SIDECAR)
}

fn state(pod: &Pod) -> Option<ContainerState> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)?.state.clone()
}
