//! Views as bytes: a cluster has thousands of them, and looks at a few at a time.
//!
//! In: whatever can be written as JSON. Out: it again, the same. As a tree of maps and texts, most of a view is room that
//! is kept free and the bookkeeping of small pieces of memory. Objects of a kind resemble each other, so each is packed
//! as how it differs from a typical one.

use std::fmt;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::{Serialize, de::DeserializeOwned};

/// What typical views look like, one behind the other. Nothing that is packed outlives the process, so it can be changed
/// at will; what resembles none of it is packed all the same, only less.
const TYPICAL: &str = include_str!("pack/typical.json");

/// A view, packed; the same view is the same bytes.
#[derive(PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Packed {
    /// Of a view. One that is no JSON cannot be opened again; no view of ours is.
    pub fn of(view: &impl Serialize) -> Self {
        let text = serde_json::to_vec(view).unwrap_or_default();
        Self(compress_prepend_size_with_dict(&text, TYPICAL.as_bytes()).into_boxed_slice())
    }

    /// The view; `None` if it was of another type.
    pub fn open<V: DeserializeOwned>(&self) -> Option<V> {
        let text = decompress_size_prepended_with_dict(&self.0, TYPICAL.as_bytes()).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use kube::{api::DynamicObject, core::DeserializeGuard};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cli::yaml,
        controller::world::{self, Policy, Slice},
        istio::{Existing, Kind},
        observed::ServiceView,
    };

    fn golden() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/translate")
    }

    fn documents(file: &str) -> Vec<Value> {
        let text = fs::read_to_string(golden().join(file)).unwrap();
        yaml::documents(&text).into_iter().map(Result::unwrap).collect()
    }

    /// A view as JSON, and how many bytes it takes packed. Fails if it is not the same when it is opened.
    fn packed<V: Serialize + DeserializeOwned>(view: &V) -> (String, usize) {
        let packed = Packed::of(view);
        let (before, after) =
            (serde_json::to_string(view).unwrap(), serde_json::to_string(&packed.open::<V>()).unwrap());
        assert_eq!(before, after);
        (before, packed.0.len())
    }

    /// What is kept of the objects of a golden file, as an API server would have them.
    fn views(name: &str) -> Vec<(String, usize)> {
        let generated = documents(&format!("{name}.out.yaml"));
        let mut views = Vec::new();
        for mut object in documents(&format!("{name}.in.yaml")).into_iter().chain(generated.clone()) {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            if let Some(kind) = Kind::ALL.into_iter().find(|one| one.as_str() == kind) {
                let metadata = object["metadata"].as_object_mut().unwrap();
                metadata.insert("uid".to_owned(), json!("5ce3a1c8-7d0f-4b7e-9c36-2f1d6a0b9e47"));
                metadata.insert("creationTimestamp".to_owned(), json!("2026-11-30T06:00:00Z"));
                let object: DynamicObject = serde_json::from_value(object).unwrap();
                views.push(packed::<Existing>(&world::existing(kind, object).view));
                continue;
            }
            match kind.as_str() {
                "Resilience" if object["spec"].is_object() => {
                    let told = generated.iter().find(|one| {
                        one["kind"] == "Resilience" && one["metadata"]["name"] == object["metadata"]["name"]
                    });
                    object["status"] = told.map(|told| told["status"].clone()).unwrap_or_default();
                    let object: DeserializeGuard<_> = serde_json::from_value(object).unwrap();
                    views.push(packed::<Policy>(&world::policy(object).view));
                }
                "Service" => {
                    views.push(packed::<ServiceView>(&world::service(serde_json::from_value(object).unwrap()).view));
                }
                "EndpointSlice" => {
                    views.push(packed::<Slice>(&world::slice(serde_json::from_value(object).unwrap()).view));
                }
                _ => {}
            }
        }
        views
    }

    #[test]
    fn what_is_typical_is_what_golden_files_are_kept_as() {
        let samples = ["everything", "limits-with-ejection", "retries-defaults"].into_iter().flat_map(views);
        let typical: String = samples.map(|(view, _)| view + "\n").collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/controller/pack/typical.json");
            fs::write(file, &typical).unwrap();
        } else {
            assert!(typical == TYPICAL, "run UPDATE_GOLDEN=1 cargo test --lib pack");
        }
    }

    #[test]
    fn whatever_is_kept_comes_back_the_same_and_takes_a_fifth_meanwhile() {
        let mut names: Vec<String> = fs::read_dir(golden())
            .unwrap()
            .map(|file| file.unwrap())
            .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".in.yaml")?.to_owned()))
            .collect();
        names.sort();
        let (mut whole, mut packed, mut count) = (0, 0, 0);
        for (view, bytes) in names.iter().flat_map(|name| views(name)) {
            (whole, packed, count) = (whole + view.len(), packed + bytes, count + 1);
        }
        assert!(count > 500, "only {count} views");
        println!("{count} views, {} bytes each, packed {}", whole / count, packed / count);
        assert!(packed * 5 <= whole, "{packed} bytes of {whole}");
    }
}
