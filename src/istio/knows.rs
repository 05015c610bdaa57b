//! What the installed Istio understands of what we write: by its CRDs, and by the version of istiod.
//!
//! A CRD that lacks a field makes the API server refuse our apply (measured M78); an istiod that is
//! older than its CRDs ignores the field in silence. Not observed is not known, and nothing is gated
//! by what is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

use super::{Field, Kind, written_fields};
use crate::names;

/// A minor version of Istio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1.
    pub major: u16,
    /// Behaviour changes with this one; patches only mend.
    pub minor: u16,
}

impl Version {
    /// Of what istiod says of itself: `1.31.0-<commit>-Clean`, `1.30-alpha.<commit>`. `None` for a
    /// build without a number, as a developer's is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.trim().split_once('.')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        Some(Self { major: major.parse().ok()?, minor: rest[..digits].parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// From this version on endpoints that are not ready are sent to proxies, unless the rule asks for a
/// share of healthy ones (istio `pilot/pkg/features/experimental.go`,
/// `PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS`, #60690; 1.24 to 1.30 have no such thing).
const SENDS_UNREADY: Version = Version { major: 1, minor: 31 };

/// What is known of the installed Istio. The default knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knows {
    /// Of each kind whose CRD was read, the fields that we write and it does not declare.
    lacks: BTreeMap<Kind, BTreeSet<String>>,
    /// istiod's.
    version: Option<Version>,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is understood, as far as is known.
    Understood,
    /// The CRD does not declare it: an apply that has it is refused.
    Undeclared,
    /// istiod is of this version, and older than the field: it is stored, and ignored.
    Ignored(Version),
}

impl Knows {
    /// From the OpenAPI document of `networking.istio.io/v1`, as the API server serves it under
    /// `/openapi/v3`.
    #[must_use]
    pub fn from_open_api(document: &Value) -> Self {
        let mut knows = Self::default();
        let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
        for schema in schemas.into_iter().flat_map(serde_json::Map::values) {
            if let Some(kind) = Kind::ALL.into_iter().find(|kind| describes(schema, *kind)) {
                knows.read(kind, schema);
            }
        }
        knows
    }

    /// Takes a CustomResourceDefinition; `false` if it is of another kind than those that we write.
    ///
    /// # Errors
    /// If it is of one of ours and has no version that we write.
    pub fn add_crd(&mut self, crd: &Value) -> Result<bool, String> {
        let text = |pointer| crd.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = Kind::ALL.into_iter().find(|kind| text("/spec/names/kind") == kind.as_str());
        let Some(kind) = kind.filter(|_| text("/spec/group") == names::ISTIO_GROUP) else { return Ok(false) };
        let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
        let ours = versions.into_iter().flatten().find(|version| {
            let name = version.get("name").and_then(Value::as_str).unwrap_or_default();
            format!("{}/{name}", names::ISTIO_GROUP) == names::ISTIO_API_VERSION
        });
        let Some(ours) = ours else {
            return Err(format!("it has no {}: install Istio 1.22 or later", names::ISTIO_API_VERSION));
        };
        self.read(kind, ours.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null));
        Ok(true)
    }

    fn read(&mut self, kind: Kind, schema: &Value) {
        let lacks = written_fields(kind).iter().map(|field| &field.path);
        self.lacks.insert(kind, lacks.filter(|path| !declares(schema, path)).cloned().collect());
    }

    /// The same with istiod's version.
    #[must_use]
    pub fn with_version(self, version: Option<Version>) -> Self {
        Self { version, ..self }
    }

    /// istiod's version, if it was said.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Whether the CRDs of all kinds that we write were read.
    #[must_use]
    pub fn has_all_kinds(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.lacks.contains_key(kind))
    }

    /// Fields that we may write and the CRDs do not declare, `DestinationRule spec.…`.
    #[must_use]
    pub fn lacking(&self) -> Vec<String> {
        let all = self.lacks.iter().flat_map(|(kind, paths)| paths.iter().map(move |path| (kind, path)));
        all.map(|(kind, path)| format!("{kind} spec.{path}")).collect()
    }

    /// What becomes of a field that we write.
    #[must_use]
    pub fn fate(&self, kind: Kind, field: &Field) -> Fate {
        if self.lacks.get(&kind).is_some_and(|lacks| lacks.contains(&field.path)) {
            return Fate::Undeclared;
        }
        match (self.version, field.since) {
            (Some(version), Some(since)) if version < since => Fate::Ignored(version),
            _ => Fate::Understood,
        }
    }

    /// Whether proxies are sent endpoints that are not ready. Where no version is known, as the newest
    /// does.
    #[must_use]
    pub fn sends_unready(&self) -> bool {
        self.version.is_none_or(|version| version >= SENDS_UNREADY)
    }
}

/// Whether a schema of the OpenAPI document is that of a kind in the version that we write.
fn describes(schema: &Value, kind: Kind) -> bool {
    let of = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
    of.into_iter().flatten().any(|of| {
        let text = |key| of.get(key).and_then(Value::as_str).unwrap_or_default();
        text("kind") == kind.as_str() && format!("{}/{}", text("group"), text("version")) == names::ISTIO_API_VERSION
    })
}

/// Whether an object's schema lets a field of its spec stand.
fn declares(schema: &Value, path: &str) -> bool {
    let mut node = schema;
    for part in std::iter::once("spec").chain(path.split('.')) {
        let (key, of_list) = part.strip_suffix("[]").map_or((part, false), |key| (key, true));
        let Some(inner) = node.get("properties").and_then(|properties| properties.get(key)) else {
            // Whatever stands there is kept, and all below it.
            return node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        };
        node = if of_list { inner.get("items").unwrap_or(&Value::Null) } else { inner };
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    /// A schema that declares each of `paths`, all of them lists, objects or leaves by their names.
    fn schema<'a>(paths: impl IntoIterator<Item = &'a str>) -> Value {
        let mut root = json!({"type": "object"});
        for path in paths {
            let mut node = &mut root;
            for part in std::iter::once("spec").chain(path.split('.')) {
                let key = part.trim_end_matches("[]");
                let properties = node.as_object_mut().unwrap().entry("properties").or_insert_with(|| json!({}));
                node = properties.as_object_mut().unwrap().entry(key).or_insert_with(|| json!({"type": "object"}));
                if part.ends_with("[]") {
                    node["type"] = json!("array");
                    node = node.as_object_mut().unwrap().entry("items").or_insert_with(|| json!({"type": "object"}));
                }
            }
        }
        root
    }

    fn all_but(kind: Kind, missing: &str) -> Value {
        let fields = written_fields(kind);
        schema(fields.iter().map(|field| field.path.as_str()).filter(|path| !path.starts_with(missing)))
    }

    fn open_api(rule: &Value) -> Value {
        let of = |version: &str| {
            let mut schema = rule.clone();
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": "networking.istio.io", "version": version, "kind": "DestinationRule"}]);
            schema
        };
        // An older version of the kind declares nothing, and is not the one that we write.
        let older = json!({"x-kubernetes-group-version-kind":
            [{"group": "networking.istio.io", "version": "v1alpha3", "kind": "DestinationRule"}]});
        json!({"components": {"schemas": {
            "a.v1alpha3.DestinationRule": older, "a.v1.DestinationRule": of("v1"), "a.v1.Gateway": {"type": "object"},
        }}})
    }

    fn crd(kind: &str, version: &str, schema: &Value) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {
                "group": "networking.istio.io", "names": {"kind": kind},
                "versions": [
                    {"name": "v1alpha3", "schema": {"openAPIV3Schema": {}}},
                    {"name": version, "schema": {"openAPIV3Schema": schema}},
                ],
            },
        })
    }

    #[test]
    fn a_document_and_a_crd_say_the_same() {
        let schema = all_but(Kind::DestinationRule, "trafficPolicy.retryBudget");
        let by_document = Knows::from_open_api(&open_api(&schema));
        let mut by_crd = Knows::default();
        assert_eq!(by_crd.add_crd(&crd("DestinationRule", "v1", &schema)), Ok(true));
        assert_eq!(by_document, by_crd);
        assert_eq!(
            by_crd.lacking(),
            [
                "DestinationRule spec.trafficPolicy.retryBudget",
                "DestinationRule spec.trafficPolicy.retryBudget.minRetryConcurrency",
                "DestinationRule spec.trafficPolicy.retryBudget.percent",
            ]
        );
    }

    #[test]
    fn every_single_field_is_looked_for() {
        for kind in Kind::ALL {
            for field in written_fields(kind) {
                let mut knows = Knows::default();
                knows.add_crd(&crd(kind.as_str(), "v1", &all_but(kind, &field.path))).unwrap();
                assert_eq!(knows.fate(kind, field), Fate::Undeclared, "{}", field.path);
                let others = written_fields(kind).iter().filter(|other| !other.path.starts_with(&field.path));
                for other in others {
                    assert_eq!(knows.fate(kind, other), Fate::Understood, "{} without {}", other.path, field.path);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_without_being_declared_counts_as_declared() {
        let mut schema = all_but(Kind::DestinationRule, "trafficPolicy.");
        schema["properties"]["spec"]["properties"]["trafficPolicy"]["x-kubernetes-preserve-unknown-fields"] =
            json!(true);
        let knows = Knows::from_open_api(&open_api(&schema));
        assert_eq!(knows.lacking(), Vec::<String>::new());
    }

    #[test]
    fn a_kind_that_was_not_read_is_not_known() {
        let mut knows = Knows::default();
        assert_eq!(knows.add_crd(&crd("DestinationRule", "v1", &schema(["host"]))), Ok(true));
        assert_eq!(knows.add_crd(&crd("Gateway", "v1", &Value::Null)), Ok(false));
        assert!(!knows.has_all_kinds());
        for field in written_fields(Kind::VirtualService) {
            assert_eq!(knows.fate(Kind::VirtualService, field), Fate::Understood);
        }
        assert_eq!(Knows::from_open_api(&Value::Null), Knows::default());
        assert_eq!(Knows::from_open_api(&json!({"components": {"schemas": Map::new()}})), Knows::default());
    }

    #[test]
    fn a_crd_without_the_version_that_we_write_is_refused() {
        let fault = Knows::default().add_crd(&crd("VirtualService", "v1beta1", &Value::Null)).unwrap_err();
        assert!(fault.contains("networking.istio.io/v1"), "{fault}");
    }

    #[test]
    fn a_version_is_read_from_every_form_that_istiod_has() {
        let version = |minor| Some(Version { major: 1, minor });
        for (text, expected) in [
            ("1.31-eed52ebb66ad-unknown-Modified", version(31)),
            ("1.30.2-0123456789abcdef-Clean\n", version(30)),
            ("1.28.3", version(28)),
            ("1.29-alpha.88e1", version(29)),
            ("unknown-unknown-unknown", None),
            ("", None),
            ("1.", None),
            ("master.1", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_istiod_that_is_older_than_a_field_ignores_it() {
        let of = |minor| Knows::default().with_version(Some(Version { major: 1, minor }));
        let fields = written_fields(Kind::DestinationRule);
        let budget = fields.iter().find(|field| field.path == "trafficPolicy.retryBudget.percent").unwrap();
        assert_eq!(of(26).fate(Kind::DestinationRule, budget), Fate::Ignored(Version { major: 1, minor: 26 }));
        assert_eq!(of(27).fate(Kind::DestinationRule, budget), Fate::Understood);
        assert_eq!(Knows::default().fate(Kind::DestinationRule, budget), Fate::Understood);
    }

    #[test]
    fn endpoints_that_are_not_ready_are_sent_since_1_31() {
        let of = |minor| Knows::default().with_version(Some(Version { major: 1, minor }));
        assert_eq!([of(30).sends_unready(), of(31).sends_unready()], [false, true]);
        assert!(Knows::default().sends_unready());
    }
}
