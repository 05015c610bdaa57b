//! Every call that a reconcile makes, each with a deadline, and what its failure means.
//!
//! Decides nothing: takes an object as it should be and gives back how the API server holds it.

use std::{fmt, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
    core::{DeserializeGuard, PartialObjectMeta},
};
use serde_json::{Value, json};

use super::world::istio_resource;
use crate::{
    api::Resilience,
    istio::Kind,
    names,
    runtime::{
        metrics::Metrics,
        writer::{Held, Writer},
    },
    translate::DesiredObject,
};

/// kube's client waits for an answer for ever.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The metric label of what is written to the object of a policy itself.
const STATUS: &str = "ResilienceStatus";

/// The cause that the API server gives for each field of an apply that somebody else has (apimachinery
/// `pkg/apis/meta/v1/types.go`, `CauseTypeFieldManagerConflict`).
const FIELD_MANAGER_CONFLICT: &str = "FieldManagerConflict";

/// A resource version that no object has ever had; see [`Calls::create`].
const NEVER: &str = "1";

/// So often is a status put on a policy whose labels and the like change all the while. Then with backoff.
const STATUS_TRIES: u32 = 4;

/// The API server, as reconciles use it.
#[derive(Clone)]
pub struct Calls {
    writer: Writer,
    metrics: Arc<Metrics>,
    deadline: Duration,
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {object} failed: {cause}")]
pub struct CallError {
    verb: &'static str,
    object: String,
    #[source]
    cause: Cause,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It was not made.
    #[error("{0}")]
    Held(#[source] Held),
    /// No answer in time. The call may have had its effect.
    #[error("no answer from the API server within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The API server's answer, in its words.
    #[error("{}", .0.message)]
    Answer(Box<kube::core::Status>),
    /// No answer that could be understood.
    #[error("{0}")]
    Transport(#[source] kube::Error),
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The object itself was refused: the same bytes will be refused again.
    Refused,
    /// It has a field that the CRD does not declare, because another Istio is installed than was thought.
    Undeclared,
    /// Somebody else has a field with another value, and we force nothing.
    Contested,
    /// It is not the object any more that the decision was about.
    Changed,
    /// It, its namespace or its kind is not there.
    Gone,
    /// We may not. Somebody has to give us the right.
    Forbidden,
    /// The API server could not, or was not reached. Heals by itself.
    Unavailable,
}

impl CallError {
    /// What the failure means.
    pub fn verdict(&self) -> Verdict {
        match &self.cause {
            Cause::Answer(status) => verdict(status),
            Cause::Held(_) | Cause::Timeout(_) | Cause::Transport(_) => Verdict::Unavailable,
        }
    }

    /// Whether it is unknown what is there now: the write may have had its effect, or found something else
    /// than was known.
    pub fn leaves_doubt(&self) -> bool {
        match (&self.cause, self.verdict()) {
            (Cause::Timeout(_) | Cause::Transport(_), _) | (_, Verdict::Changed | Verdict::Gone) => true,
            (Cause::Answer(status), Verdict::Unavailable) => status.code >= 500,
            _ => false,
        }
    }

    /// Fields of an apply that somebody else has, each with who.
    pub fn contested(&self) -> Vec<String> {
        let Cause::Answer(status) = &self.cause else { return Vec::new() };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let conflicts = causes.filter(|cause| cause.reason == FIELD_MANAGER_CONFLICT);
        conflicts.map(|cause| format!("{}: {}", cause.field.trim_start_matches('.'), cause.message)).collect()
    }
}

fn verdict(status: &kube::core::Status) -> Verdict {
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    if status.code == 409 && causes().any(|cause| cause.reason == FIELD_MANAGER_CONFLICT) {
        return Verdict::Contested;
    }
    let about_identity = causes().any(|cause| {
        // Not the spec is wrong but the object another one than was meant.
        cause.field == "metadata.uid"
    });
    match status.code {
        400 | 413 | 422 if !about_identity => Verdict::Refused,
        409 | 422 => Verdict::Changed,
        404 => Verdict::Gone,
        // A webhook or an admission policy chooses its code, and 403 is a favourite; RBAC does not
        // speak of denial. A namespace on its way out is 403 as well, and ends with the policy.
        403 if status.message.contains("denied") => Verdict::Refused,
        403 => Verdict::Forbidden,
        // An older Istio's CRD does not know a field (measured M78).
        500 if status.message.contains("field not declared in schema") => Verdict::Undeclared,
        _ => Verdict::Unavailable,
    }
}

/// Whether an apply takes fields from whoever has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    /// From an object that is ours.
    Always,
    /// In one of somebody else.
    Never,
}

/// How an object is called in errors and logs.
fn called(kind: impl fmt::Display, namespace: &str, name: &str) -> String {
    format!("{kind} {namespace}/{name}")
}

impl Calls {
    /// Calls through `writer`, none of them longer than its term.
    pub fn new(writer: Writer, metrics: Arc<Metrics>, deadline: Duration) -> Self {
        Self { writer, metrics, deadline }
    }

    async fn within<T>(
        &self,
        verb: &'static str,
        object: String,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        let cause = match self.writer.allow(self.deadline) {
            Err(held) => Cause::Held(held),
            Ok(allowed) => match allowed.make(call).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(kube::Error::Api(status))) => Cause::Answer(status),
                Ok(Err(error)) => Cause::Transport(error),
                Err(_) => Cause::Timeout(allowed.left),
            },
        };
        Err(CallError { verb, object, cause })
    }

    fn istio(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.writer.client().clone(), namespace, &istio_resource(kind.as_str(), kind.plural()))
    }

    fn policies(&self, namespace: &str) -> Api<Resilience> {
        Api::namespaced(self.writer.client().clone(), namespace)
    }

    /// Creates an object, and does nothing else: if one of that name is there, fails as changed.
    ///
    /// An apply without precondition would merge into whatever took the name since we looked, and put
    /// our owner on it, so that it would die with our policy. A POST would not, but the API server
    /// books its fields on us as «Update» besides the «Apply» of all later writes, and what two
    /// entries own, an apply that leaves it out does not remove. So: an apply with a resource version
    /// that no object can have. Where there is an object, it is a conflict; where there is none, the
    /// API server has nothing to compare it with and creates (tried on Kubernetes 1.36: 201, then 409).
    pub async fn create(&self, namespace: &str, object: &DesiredObject) -> Result<DynamicObject, CallError> {
        self.apply("create", namespace, object, "resourceVersion", NEVER, Force::Always).await
    }

    /// Changes the object with that uid to what is desired, and no successor of it.
    pub async fn update(&self, namespace: &str, object: &DesiredObject, uid: &str) -> Result<DynamicObject, CallError> {
        self.apply("update", namespace, object, "uid", uid, Force::Always).await
    }

    /// Puts our blocks into the object with that uid, which is somebody else's, and takes out those that are
    /// not among them any more. Fails as contested where somebody else has another value.
    pub async fn merge(&self, namespace: &str, object: &DesiredObject, uid: &str) -> Result<DynamicObject, CallError> {
        self.apply("merge", namespace, object, "uid", uid, Force::Never).await
    }

    /// Takes all that is ours out of an object of somebody else, as it was seen at `version`: an apply that
    /// names nothing. Since then, another policy may have put its blocks there under our name.
    pub async fn give_back(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
        version: Option<u128>,
    ) -> Result<DynamicObject, CallError> {
        let mut body = json!({
            "apiVersion": names::ISTIO_API_VERSION,
            "kind": kind.as_str(),
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
        });
        if let (Some(version), Some(Value::Object(metadata))) = (version, body.get_mut("metadata")) {
            metadata.insert("resourceVersion".to_owned(), version.to_string().into());
        }
        let how = PatchParams::apply(names::FIELD_MANAGER).validation_strict();
        let api = self.istio(kind, namespace);
        let patch = Patch::Apply(&body);
        let answer = self.within("give back", called(kind, namespace, name), api.patch(name, &how, &patch)).await?;
        self.metrics.wrote(kind.as_str(), "give-back");
        Ok(answer)
    }

    async fn apply(
        &self,
        verb: &'static str,
        namespace: &str,
        object: &DesiredObject,
        key: &str,
        value: &str,
        force: Force,
    ) -> Result<DynamicObject, CallError> {
        let mut body = object.json.clone();
        if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
            metadata.insert(key.to_owned(), value.into());
        }
        let how = PatchParams::apply(names::FIELD_MANAGER).validation_strict();
        let how = match force {
            Force::Always => how.force(),
            Force::Never => how,
        };
        let api = self.istio(object.kind, namespace);
        let patch = Patch::Apply(&body);
        let call = api.patch(&object.name, &how, &patch);
        let answer = self.within(verb, called(object.kind, namespace, &object.name), call).await?;
        self.metrics.wrote(object.kind.as_str(), verb);
        Ok(answer)
    }

    /// Takes away fields of the object with that name, from the version that was read.
    pub async fn strip(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: Option<&str>,
        mut patch: Value,
    ) -> Result<DynamicObject, CallError> {
        if let (Value::Object(patch), Some(version)) = (&mut patch, version) {
            let metadata = patch.entry("metadata").or_insert_with(|| json!({}));
            if let Value::Object(metadata) = metadata {
                metadata.insert("resourceVersion".to_owned(), version.into());
            }
        }
        let how = PatchParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PatchParams::default().validation_strict()
        };
        let api = self.istio(kind, namespace);
        let patch = Patch::Merge(&patch);
        let answer = self.within("strip", called(kind, namespace, name), api.patch(name, &how, &patch)).await?;
        self.metrics.wrote(kind.as_str(), "strip");
        Ok(answer)
    }

    /// Deletes the object with that uid. Gone, or another by now, is what was asked for. Gives the object if
    /// something still holds it.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<DynamicObject>, CallError> {
        let how = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::background()
        };
        let api = self.istio(kind, namespace);
        match self.within("delete", called(kind, namespace, name), api.delete(name, &how)).await {
            Ok(answer) => {
                self.metrics.wrote(kind.as_str(), "delete");
                Ok(answer.left())
            }
            Err(error) if matches!(error.verdict(), Verdict::Gone | Verdict::Changed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The object of that name as it is now, and not as a cache has it. By a list of one, whose right the
    /// watches have already.
    pub async fn read(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<DynamicObject>, CallError> {
        let api = self.istio(kind, namespace);
        let this = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.within("read", called(kind, namespace, name), api.list(&this)).await?;
        self.metrics.read_live(kind.as_str());
        Ok(found.items.into_iter().find(|object| object.metadata.name.as_deref() == Some(name)))
    }

    /// Puts a status on the policy that was read with `of`. Ours are all fields of it that are not named in
    /// `status`, so they go. Gives the object as it is then; `None` if it is gone, or is not what it was, of which
    /// the event is on its way.
    pub async fn status(
        &self,
        of: &ObjectMeta,
        status: &Value,
    ) -> Result<Option<DeserializeGuard<Resilience>>, CallError> {
        let how = PatchParams::apply(names::FIELD_MANAGER).force().validation_strict();
        let patch = |version: &str| {
            Patch::Apply(json!({
                "apiVersion": names::API_VERSION,
                "kind": names::KIND,
                "metadata": {"name": of.name, "namespace": of.namespace, "resourceVersion": version},
                "status": status,
            }))
        };
        self.write_status(of, &how, patch).await
    }

    /// Merges into the status of an object that we cannot read, and which an apply could not either.
    pub async fn raw_status(&self, of: &ObjectMeta, status: &Value) -> Result<(), CallError> {
        let how = PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = |version: &str| Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        self.write_status(of, &how, patch).await.map(drop)
    }

    /// Writes to the very version that was read: of a status the API server takes whatever uid it is told (M83), and
    /// a policy that was made anew under its name would get the status of the one before. A version that differs in
    /// labels and the like alone, of which nobody is told, is as good.
    async fn write_status(
        &self,
        of: &ObjectMeta,
        how: &PatchParams,
        patch: impl Fn(&str) -> Patch<Value>,
    ) -> Result<Option<DeserializeGuard<Resilience>>, CallError> {
        let (namespace, name) = (of.namespace.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default());
        let api: Api<DeserializeGuard<Resilience>> = Api::namespaced(self.writer.client().clone(), namespace);
        let mut version = of.resource_version.clone().unwrap_or_default();
        let mut tries = 1;
        loop {
            let called = called("the status of Resilience", namespace, name);
            match self.within("write", called, api.patch_status(name, how, &patch(&version))).await {
                Ok(answer) => {
                    self.metrics.wrote(STATUS, "apply");
                    return Ok(Some(answer));
                }
                Err(error) if error.verdict() == Verdict::Gone => return Ok(None),
                Err(error) if error.verdict() == Verdict::Changed && tries < STATUS_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
            let now = self.meta_of_policy(namespace, name).await?;
            match now.filter(|now| now.uid == of.uid && now.generation == of.generation) {
                None => return Ok(None),
                Some(now) => version = now.resource_version.unwrap_or_default(),
            }
        }
    }

    /// The policy of that name as it is now, and not as a cache has it: its uid, if it is there.
    pub async fn uid_of_policy(&self, namespace: &str, name: &str) -> Result<Option<String>, CallError> {
        Ok(self.meta_of_policy(namespace, name).await?.and_then(|meta| meta.uid))
    }

    async fn meta_of_policy(&self, namespace: &str, name: &str) -> Result<Option<ObjectMeta>, CallError> {
        let api = self.policies(namespace);
        let call = api.get_metadata_opt(name);
        let found: Option<PartialObjectMeta<Resilience>> =
            self.within("read", called("Resilience", namespace, name), call).await?;
        Ok(found.map(|policy| policy.metadata))
    }

    /// The policy of that name as JSON, for one that is not of our types.
    pub async fn raw_policy(&self, namespace: &str, name: &str) -> Result<Option<DynamicObject>, CallError> {
        let resource = kube::api::ApiResource::erase::<Resilience>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.writer.client().clone(), namespace, &resource);
        self.within("read", called("Resilience", namespace, name), api.get_opt(name)).await
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use tokio::time::Instant;

    use super::*;
    use crate::runtime::lease::term::Term;

    fn answer(code: u16, message: &str) -> Status {
        Status { code, message: message.to_owned(), ..Status::default() }
    }

    #[test]
    fn every_answer_that_was_seen_has_its_meaning() {
        let rows = [
            (422, "is invalid: spec.trafficPolicy: Invalid value", Verdict::Refused),
            (
                400,
                r#"admission webhook "validation.istio.io" denied the request: configuration is invalid"#,
                Verdict::Refused,
            ),
            (403, r#"admission webhook "policy.example" denied the request: not on Fridays"#, Verdict::Refused),
            (403, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", Verdict::Refused),
            (500, "failed to create typed patch object: .spec.x: field not declared in schema", Verdict::Undeclared),
            (403, r#"destinationrules is forbidden: User "x" cannot patch resource"#, Verdict::Forbidden),
            (401, "Unauthorized", Verdict::Unavailable),
            (404, r#"namespaces "x" not found"#, Verdict::Gone),
            (409, "the object has been modified", Verdict::Changed),
            (500, "failed calling webhook: connection refused", Verdict::Unavailable),
            (503, "", Verdict::Unavailable),
            (429, "too many requests", Verdict::Unavailable),
        ];
        for (code, message, expected) in rows {
            assert_eq!(verdict(&answer(code, message)), expected, "{code} {message}");
        }
    }

    #[test]
    fn a_field_that_somebody_else_has_is_told_from_an_object_that_changed() {
        let cause = json!({
            "reason": "FieldManagerConflict",
            "message": "conflict with \"kubectl\" using networking.istio.io/v1",
            "field": ".spec.trafficPolicy.connectionPool.tcp.maxConnections",
        });
        let details = serde_json::from_value(json!({"causes": [cause]})).unwrap();
        let status = Status { details, ..answer(409, "Apply failed with 1 conflict") };
        assert_eq!(verdict(&status), Verdict::Contested);
        let error = CallError { verb: "merge", object: String::new(), cause: Cause::Answer(Box::new(status)) };
        let told = "spec.trafficPolicy.connectionPool.tcp.maxConnections: conflict with \"kubectl\" using networking.istio.io/v1";
        assert_eq!(error.contested(), [told]);
    }

    #[test]
    fn another_uid_is_another_object_and_no_refusal() {
        let details = serde_json::from_value(json!({"causes": [{"field": "metadata.uid"}]})).unwrap();
        let status = Status { details, ..answer(422, "metadata.uid: field is immutable") };
        assert_eq!(verdict(&status), Verdict::Changed);
    }

    fn calls(term: &Term) -> Calls {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let writer = Writer::through(kube::Client::new(silent, "ns"), term.clone());
        Calls::new(writer, Arc::default(), DEADLINE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_takes_no_longer_than_the_term() {
        let (term, begun) = (Term::to_be_elected(), Instant::now());
        term.renew(begun + Duration::from_secs(1), begun + Duration::from_secs(4));
        let of = ObjectMeta { name: Some("a".to_owned()), namespace: Some("ns".to_owned()), ..ObjectMeta::default() };
        let error = calls(&term).status(&of, &json!({})).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Timeout(_)), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 4);
        assert_eq!(error.verdict(), Verdict::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_begins_outside_of_the_term() {
        let (term, begun) = (Term::to_be_elected(), Instant::now());
        for _ in ["before", "after"] {
            let error = calls(&term).delete(Kind::DestinationRule, "ns", "a", "uid").await.unwrap_err();
            assert!(matches!(error.cause, Cause::Held(Held::Term)), "{error}");
            term.renew(begun, begun + Duration::from_secs(4));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
