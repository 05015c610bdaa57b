//! What came of an import, as data.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::{Resilience, TargetRef},
    istio::{Existing, Kind},
    names,
    translate::DesiredObject,
};

/// What came of the objects of one host.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// Fully qualified, as the objects mean it.
    pub host: String,
    /// What has that host in the namespace; null: nothing.
    pub target: Option<TargetRef>,
    /// The policy, as it can be applied; null: nothing can be imported.
    pub resilience: Option<Value>,
    /// The objects that speak of the host.
    pub from: Vec<Source>,
    /// What holds before and after, by Istio's own words: the proof. Empty without a policy.
    pub same: Vec<Line>,
    /// Defaults of Istio and Envoy that stand in no object and are said in the policy.
    pub explicit: Vec<Line>,
    /// What has no counterpart.
    pub left: Vec<Left>,
    /// The policy of our types.
    #[serde(skip)]
    pub policy: Option<Resilience>,
    /// What is generated from it, for nobody yet.
    #[serde(skip)]
    pub objects: Vec<DesiredObject>,
}

/// An object that speaks of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub fate: SourceFate,
}

/// What becomes of an object once the policy is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum SourceFate {
    /// What is generated takes its place: it can go, and must before the policy acts.
    Replaced,
    /// It stays, and the blocks of the policy stand in it (`coexistence: Merge`).
    Shared,
    /// It stays as it is.
    Stays,
}

/// One thing that holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// The port of the target; null: every other.
    pub port: Option<u16>,
    /// Path within the port's traffic policy or routes.
    pub path: String,
    /// The value, as text.
    pub value: String,
}

/// Something that has no counterpart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// Kind, namespace and name of the object.
    pub object: String,
    /// Path of the field in it.
    pub path: String,
    /// What it says there, as text; empty: nothing.
    pub value: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, and what to do.
    pub message: String,
}

/// What becomes of something without a counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Fate {
    /// It stays where it is and keeps its effect.
    Stays,
    /// It cannot be imported, since a policy would change what holds; it stays too.
    CannotBeImported,
    /// Istio does not heed it now either: nothing is lost without it.
    Ignored,
}

impl Fate {
    /// The words for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Stays => "stays",
            Self::CannotBeImported => "cannot be imported",
            Self::Ignored => "ignored by Istio",
        }
    }
}

impl Imported {
    pub(super) fn of_host(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            target: None,
            resilience: None,
            from: Vec::new(),
            same: Vec::new(),
            explicit: Vec::new(),
            left: Vec::new(),
            policy: None,
            objects: Vec::new(),
        }
    }

    /// Whether something keeps standing where it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.resilience.is_some() && self.left.iter().all(|left| left.fate == Fate::Ignored)
    }

    pub(super) fn source(&mut self, object: &Existing, fate: SourceFate) {
        self.from.retain(|source| source.kind != object.kind.as_str() || source.name != object.name);
        self.from.push(Source { kind: object.kind.as_str().to_owned(), name: object.name.clone(), fate });
    }

    pub(super) fn stays(&mut self, object: &Existing, left: Left) {
        self.source(object, SourceFate::Stays);
        self.left.push(left);
    }

    pub(super) fn found(&mut self, policy: Resilience, objects: Vec<DesiredObject>) {
        let mut object = serde_json::json!({
            "apiVersion": names::API_VERSION, "kind": names::KIND,
            "metadata": {"name": policy.metadata.name, "namespace": policy.metadata.namespace},
            "spec": policy.spec,
        });
        // Defaults say nothing in a file.
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            spec.retain(|key, value| {
                let default = match key.as_str() {
                    "mode" => "Enforce",
                    "coexistence" => "Refuse",
                    _ => return true,
                };
                value != default
            });
        }
        self.resilience = Some(object);
        self.policy = Some(policy);
        self.objects = objects;
    }

    /// Names of the objects of a kind whose place what is generated takes.
    pub fn replaced(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let of = move |source: &&Source| source.kind == kind.as_str() && source.fate == SourceFate::Replaced;
        self.from.iter().filter(of).map(|source| source.name.as_str())
    }
}
