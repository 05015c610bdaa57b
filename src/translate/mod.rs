//! From a valid policy to Istio's objects.
//!
//! In: [`Valid`], in which every value is decided. Out: [`Desired`]. Infallible and deterministic:
//! whatever could be refused was refused in `validate`.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod destination_rule;
mod sidecar;
mod virtual_service;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use crate::{
    api::{GeneratedRef, Ownership},
    istio::{DestinationRule, Kind, MergedBlocks, Metadata, Sidecar, VirtualService},
    names,
    validate::Valid,
};

pub(crate) use virtual_service::retry_on as retry_word;

/// What should exist for a policy; `None` means that it should not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// What a server's own proxy takes.
    pub sidecar: Option<Sidecar>,
    /// Limits, ejection, connect timeout.
    pub destination_rule: Option<DestinationRule>,
    /// The same, in somebody else's DestinationRule; never both.
    pub merged: Option<MergedBlocks>,
    /// Request timeout, retries.
    pub virtual_service: Option<VirtualService>,
}

/// One object that should exist, as it goes over the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredObject {
    /// Which kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Whose the object is.
    pub ownership: Ownership,
    /// The whole of what we apply.
    pub json: Value,
}

impl DesiredObject {
    /// As it is named to people.
    #[must_use]
    pub fn called(&self) -> String {
        self.reference().called()
    }

    /// As it stands in the status.
    #[must_use]
    pub fn reference(&self) -> GeneratedRef {
        GeneratedRef { kind: self.kind.as_str().to_owned(), name: self.name.clone(), ownership: self.ownership }
    }
}

impl Desired {
    /// The objects in the order in which they are written ([`Kind::ALL`]).
    #[must_use]
    pub fn objects(&self) -> Vec<DesiredObject> {
        // Without `..`, so that another kind does not compile until it is written as well.
        let Self { sidecar, destination_rule, merged, virtual_service } = self;
        let sidecar = sidecar.as_ref().map(|sidecar| DesiredObject {
            kind: Kind::Sidecar,
            name: sidecar.metadata.name.clone(),
            ownership: Ownership::Created,
            json: serde_json::to_value(sidecar).unwrap_or_default(),
        });
        let rule = destination_rule.as_ref().map(|rule| DesiredObject {
            kind: Kind::DestinationRule,
            name: rule.metadata.name.clone(),
            ownership: Ownership::Created,
            json: serde_json::to_value(rule).unwrap_or_default(),
        });
        let blocks = merged.as_ref().map(|blocks| DesiredObject {
            kind: Kind::DestinationRule,
            name: blocks.metadata.name.clone(),
            ownership: Ownership::CoOwned,
            json: serde_json::to_value(blocks).unwrap_or_default(),
        });
        let service = virtual_service.as_ref().map(|service| DesiredObject {
            kind: Kind::VirtualService,
            name: service.metadata.name.clone(),
            ownership: Ownership::Created,
            json: serde_json::to_value(service).unwrap_or_default(),
        });
        sidecar.into_iter().chain(rule).chain(blocks).chain(service).collect()
    }
}

/// Translates.
#[must_use]
pub fn translate(valid: &Valid) -> Desired {
    let (destination_rule, merged) = match &valid.merge {
        None => (destination_rule::build(valid), None),
        Some(merge) => (None, destination_rule::blocks(valid, merge)),
    };
    Desired { sidecar: sidecar::build(valid), destination_rule, merged, virtual_service: virtual_service::build(valid) }
}

fn metadata(valid: &Valid) -> Metadata {
    let mut labels = BTreeMap::from([(names::LABEL_MANAGED_BY.to_owned(), names::OPERATOR.to_owned())]);
    if let Some(uid) = &valid.owner.uid {
        labels.insert(names::LABEL_OWNER_UID.to_owned(), uid.clone());
    }
    let owner = valid.owner.uid.as_ref().map(|uid| OwnerReference {
        api_version: names::API_VERSION.to_owned(),
        kind: names::KIND.to_owned(),
        name: valid.owner.name.clone(),
        uid: uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    });
    Metadata {
        name: names::generated_name(&valid.target),
        namespace: valid.owner.namespace.clone(),
        labels,
        owner_references: owner.into_iter().collect(),
    }
}
