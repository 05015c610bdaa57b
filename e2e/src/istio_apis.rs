//! In: pinned versions of the module `istio.io/api`. Out: the CRDs of each Istio that we support, and of
//! one that is too old for some of what we write, in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cache::{Cache, Key};
use crate::report::Report;
use crate::run::check;

/// The CRDs of one minor version of Istio.
#[derive(Debug)]
pub struct Api {
    /// As in `1.31`.
    pub istio: &'static str,
    /// Version of the module: the newest patch that the module proxy has.
    module: &'static str,
    /// What `go.sum` would have for it.
    sum: &'static str,
    /// Whether we support it: then it has every field that we write.
    pub supported: bool,
    /// Whether it has `http2KeepAlive`, which we do not write: what tells the newest from all others.
    pub keep_alive: bool,
}

/// From the oldest to the newest.
pub const APIS: &[Api] = &[
    Api {
        istio: "1.24",
        module: "v1.24.2",
        sum: "h1:jYjcN6Iq0RPtQj/3KMFsybxmfqmjGN/dxhL7FGJEdIM=",
        supported: false,
        keep_alive: false,
    },
    Api {
        istio: "1.28",
        module: "v1.28.2-0.20251205082437-fde1452f70bc",
        sum: "h1:nwdcIg0kzCQiNMwVh2b84bsuYC1UHD7Xge/pQ9HWwDw=",
        supported: true,
        keep_alive: false,
    },
    Api {
        istio: "1.29",
        module: "v1.29.4",
        sum: "h1:6cVx5lLSjMwLehIjzlAhLeNgBiWaZnOht7iUen4MhLY=",
        supported: true,
        keep_alive: false,
    },
    Api {
        istio: "1.30",
        module: "v1.30.8",
        sum: "h1:/weRNO9YbJsKqFibiGCjXG1i+UwNhJb3vts6ChGR554=",
        supported: true,
        keep_alive: false,
    },
    Api {
        istio: "1.31",
        module: "v1.31.4",
        sum: "h1:AcnncYrlDj1PJkym7h88Gggkef4MAra8QpGaXRMsr+E=",
        supported: true,
        keep_alive: true,
    },
];

/// Where Istio's CRDs are in the module.
const FILE: &str = "kubernetes/customresourcedefinitions.gen.yaml";

/// What `go mod download -json` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
    sum: String,
}

/// The folder with `<minor version>.yaml` for each of [`APIS`].
///
/// # Errors
/// When one cannot be had, or is not what was pinned.
pub fn get(cache: &Cache, report: &Report) -> Result<PathBuf> {
    let key = APIS.iter().fold(Key::new("istio-apis"), |key, api| key.with(api.istio).with(api.module).with(api.sum));
    if cache.path("parts", "istio-apis", &key).is_dir() {
        return cache.get("parts", "istio-apis", &key, |_| Ok(()));
    }
    report.step("fetch the CRDs of each Istio", || {
        cache.get("parts", "istio-apis", &key, |folder| APIS.iter().try_for_each(|api| fetch(api, folder)))
    })
}

fn fetch(api: &Api, folder: &Path) -> Result<()> {
    let mut go = Command::new("go");
    // In a folder without a go.mod: several versions of a module are in none.
    go.current_dir(folder).env("GOFLAGS", "").env("GOWORK", "off");
    let text = check(go.args(["mod", "download", "-json", &format!("istio.io/api@{}", api.module)]))
        .with_context(|| format!("the API of Istio {} cannot be fetched", api.istio))?;
    let downloaded: Downloaded = serde_json::from_str(&text).context("go printed no JSON")?;
    ensure!(
        downloaded.sum == api.sum,
        "istio.io/api {} is {} and not {}, as it was pinned",
        api.module,
        downloaded.sum,
        api.sum
    );
    let from = downloaded.dir.join(FILE);
    let text = fs::read(&from).with_context(|| format!("{} cannot be read", from.display()))?;
    fs::write(folder.join(format!("{}.yaml", api.istio)), text)?;
    Ok(())
}
