//! What the checks of both kinds share: where a fault goes, and the types that the CRDs know.

use serde_json::{Map, Value};

use super::{Fault, Source, Stricter, words};

/// Collects faults.
#[derive(Default)]
pub(super) struct Check {
    pub(super) faults: Vec<Fault>,
}

impl Check {
    fn add(&mut self, source: Source, holds: bool, path: &str, what: &str) {
        if !holds {
            self.faults.push(Fault { path: path.to_owned(), what: what.to_owned(), source });
        }
    }

    /// A rule of Istio's: the CRD's schema or the webhook.
    pub(super) fn istio(&mut self, holds: bool, path: &str, what: &str) {
        self.add(Source::Istio, holds, path, what);
    }

    /// A rule of ours on top.
    pub(super) fn ours(&mut self, why: Stricter, holds: bool, path: &str, what: &str) {
        self.add(Source::Ours(why), holds, path, what);
    }

    /// An object, and no field but `known`; as Istio sees it: an API server drops `null` from a field that
    /// it knows. A server-side apply, by which we write, refuses it.
    pub(super) fn object(&mut self, path: &str, value: &Value, known: &[&str]) -> Option<Map<String, Value>> {
        let object = value.as_object();
        self.istio(object.is_some(), path, "must be an object");
        let mut seen = Map::new();
        for (key, inner) in object? {
            let ported = known.contains(&key.as_str());
            self.add(Source::Unported, ported, path, &format!("no rule for {key} is ported"));
            self.ours(Stricter::WrittenNull, !inner.is_null(), path, &format!("{key} must not be null"));
            if !(ported && inner.is_null()) {
                seen.insert(key.clone(), inner.clone());
            }
        }
        Some(seen)
    }

    /// An object that Istio takes empty, and that then does nothing.
    pub(super) fn filled(&mut self, path: &str, value: &Value, known: &[&str]) -> Option<Map<String, Value>> {
        let object = self.object(path, value, known)?;
        self.ours(Stricter::DoesNothing, !object.is_empty(), path, "must have at least one field");
        Some(object)
    }

    /// A list; one that is not there has no entries.
    pub(super) fn list<'a>(&mut self, path: &str, value: Option<&'a Value>) -> &'a [Value] {
        let list = value.and_then(Value::as_array);
        self.istio(value.is_none() || list.is_some(), path, "must be a list");
        list.map(Vec::as_slice).unwrap_or_default()
    }

    /// A text; one that is not there is empty.
    pub(super) fn text<'a>(&mut self, path: &str, value: Option<&'a Value>) -> &'a str {
        let text = value.and_then(Value::as_str);
        self.istio(value.is_none() || text.is_some(), path, "must be a text");
        text.unwrap_or_default()
    }

    /// A host of ours (istio `agent.ValidateWildcardDomain`).
    pub(super) fn host(&mut self, path: &str, host: &str) {
        let word = words::host(host);
        self.istio(word != words::Word::Refused, path, &format!("{host:?} is no host"));
        self.ours(
            Stricter::NotOneHost,
            word != words::Word::Odd,
            path,
            &format!("{host:?} is no whole name of one host"),
        );
    }

    /// A whole number of these, as the CRDs' `format: int32` or bounds of uint32 have it. Not there or of
    /// another type: none.
    pub(super) fn integer(
        &mut self,
        path: &str,
        value: Option<&Value>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = value?;
        // An API server writes -0.0 as -0, which Go's decoder takes for no unsigned number.
        let signed_zero = *range.start() >= 0 && value.as_f64().is_some_and(|n| n == 0.0 && n.is_sign_negative());
        let number = whole(value).filter(|number| range.contains(number) && !signed_zero);
        let what = format!("{value} must be a whole number from {} to {}", range.start(), range.end());
        self.istio(number.is_some(), path, &what);
        number
    }

    /// Istio refuses below 0, and reads 0 as unset: ours is never 0.
    pub(super) fn counter(&mut self, path: &str, object: &Map<String, Value>, field: &str) {
        let path = format!("{path}.{field}");
        if let Some(number) = self.integer(&path, object.get(field), INT32) {
            self.istio(number >= 0, &path, "must not be negative");
            self.ours(Stricter::ZeroIsUnset, number != 0, &path, "0 is no limit");
        }
    }

    /// At least 1ms, and a whole number of milliseconds (istio `agent.ValidateDuration`, and the CRD's CEL).
    pub(super) fn duration(&mut self, path: &str, object: &Map<String, Value>, field: &str) {
        let Some(value) = object.get(field) else { return };
        let nanos = value.as_str().and_then(words::go_nanos);
        let fine = nanos.is_some_and(|nanos| nanos >= MILLISECOND && nanos % MILLISECOND == 0);
        let what = format!("{value} must be a whole number of milliseconds, at least one");
        self.istio(fine, &format!("{path}.{field}"), &what);
    }
}

/// What `int32` holds.
pub(super) const INT32: std::ops::RangeInclusive<i64> = -2_147_483_648..=2_147_483_647;
/// What `uint32` holds.
pub(super) const UINT32: std::ops::RangeInclusive<i64> = 0..=4_294_967_295;
/// In nanoseconds.
pub(super) const MILLISECOND: i64 = 1_000_000;

/// A whole number; an API server takes `1.0` for one.
pub(super) fn whole(value: &Value) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation, reason = "within the bounds of f64's whole numbers")]
    let of_float = |float: f64| (float.fract() == 0.0 && float.abs() < 9.0e15).then_some(float as i64);
    value.as_i64().or_else(|| value.as_f64().filter(|_| value.is_f64()).and_then(of_float))
}
